"""The runs that a writing command is told by name: from the command line, or from stdin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import can_ask
from flujo_lens.cli.streams import read_text
from flujo_lens.errors import BusyError, RunNotFoundError, UsageError
from flujo_lens.operations.runs import resolve_run, run_exists
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunSummary

__all__ = ["MOST_SHOWN", "check_free", "described", "listed", "meant", "meant_all", "named", "typed"]

MOST_SHOWN = 20
"""How many runs are told one by one."""


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
    read = [line for line in read_text(app.world.stdin).split("\n") if line]
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
    return list(run_ids) if len(run_ids) <= MOST_SHOWN else [f"({len(run_ids)} runs)"]


def described(run: RunSummary) -> str:
    """A run in a line of a question or a report."""
    return escape_controls(f"{run.run_id} ({run.status}, {run.pipeline_name} {run.pipeline_version})")


def listed(told: Sequence[str], count: int | None = None, *, aside: str = "") -> list[str]:
    """Lines below a heading: the first few, and how many more there are.

    Args:
        told: A line each.
        count: How many there are, where `told` has the first ones alone.
        aside: What is said of the others.
    """
    shown, whole = told[:MOST_SHOWN], len(told) if count is None else count
    more = whole - len(shown)
    return [*(f"  {line}" for line in shown), *([f"  and {more:,} more{aside}"] if more > 0 else [])]


def check_free(held: Mapping[str, str], force: bool, *, undone: str, forced: str) -> None:
    """See that no living process holds one of the runs.

    Args:
        held: Who holds which run.
        force: Whether that does not matter.
        undone: What did not happen then.
        forced: What happens with --force.

    Raises:
        BusyError: one does.
    """
    if force or not held:
        return
    run_id, holder = next(iter(held.items()))
    more = f", and {len(held) - 1} more are held" if len(held) > 1 else ""
    raise BusyError(
        f"{escape_controls(run_id)} is held by a living process, {holder}{more}; nothing was {undone}",
        hint=f"end that process first, or --force{forced}",
        run_id=run_id,
        holder=holder,
    )
