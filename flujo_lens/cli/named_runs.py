"""The runs that a writing command is told by name: from the command line, or from stdin."""

from __future__ import annotations

from collections.abc import Sequence

from flujo_lens.cli.confirm import can_ask
from flujo_lens.cli.context import App
from flujo_lens.errors import RunNotFoundError, UsageError
from flujo_lens.operations.runs import resolve_run, run_exists
from flujo_lens.rendering.text import unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunSummary

__all__ = ["described", "meant", "meant_all", "named", "typed"]

_MOST_NAMED = 20


def typed(app: App, runs: Sequence[str], asks: bool, command: str) -> list[str]:
    """The runs as they were typed; ``-`` stands for the lines of stdin.

    Raises:
        UsageError: ids come from stdin, where the answer would have to come from too.
    """
    if "-" not in runs:
        return list(runs)
    if asks:
        raise UsageError(
            "ids from stdin leave nowhere to answer a question; nothing was read or changed",
            hint=f"... | lens {command} - --yes, or --dry-run first",
        )
    lines = [line.rstrip("\r\n") for line in app.world.stdin]
    read = [line for line in lines if line]
    return [run for one in runs for run in (read if one == "-" else [one])]


async def meant(backend: StateBackend, text: str, takes_prefixes: bool) -> str:
    """The id of the run that was typed: as it stands, or with the escapes of tables read back; else by its beginning.

    Args:
        backend: The store.
        text: As it was typed.
        takes_prefixes: Whether the beginning of an id, or ``@failed``, will do.

    Raises:
        RunNotFoundError: there is none, or there are several.
    """
    if takes_prefixes:
        return await resolve_run(backend, text, unescape(text))
    for spelling in dict.fromkeys((text, unescape(text))):
        if await run_exists(backend, spelling):
            return spelling
    raise RunNotFoundError(
        f'no run "{text}" in this store; nothing was changed',
        hint="lens list --search TEXT finds runs by a part of the id; on a terminal its beginning will do, "
        "elsewhere and with --yes whole ids alone",
        run_id=text,
    )


async def meant_all(app: App, backend: StateBackend, words: Sequence[str], yes: bool) -> list[str]:
    """The ids of the runs that were typed, each once; the beginning of an id only where a person is asked."""
    takes_prefixes = can_ask(app) and not yes
    return list(dict.fromkeys([await meant(backend, text, takes_prefixes) for text in words]))


def named(run_ids: Sequence[str]) -> list[str]:
    """Run ids as the audit log keeps them in a command: those of very many are with the entry alone."""
    return list(run_ids) if len(run_ids) <= _MOST_NAMED else [f"({len(run_ids)} runs)"]


def described(run: RunSummary) -> str:
    """A run in a line of a question or a report."""
    from flujo_lens.rendering.text import escape_controls

    return escape_controls(f"{run.run_id} ({run.status}, {run.pipeline_name} {run.pipeline_version})")
