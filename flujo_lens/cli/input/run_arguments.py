"""The run arguments of writing commands: from the command line, or from stdin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import can_ask
from flujo_lens.cli.streams import read_text
from flujo_lens.errors import BusyError, RunNotFoundError, UsageError
from flujo_lens.operations.runs import NEWEST, resolve_run, run_exists
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunSummary

MOST_SHOWN = 20
"""Maximum number of runs listed one by one."""


def typed(app: App, runs: Sequence[str], asks: bool, command: str) -> list[str]:
    """The run arguments as given; ``-`` stands for the lines of stdin.

    Raises:
        UsageError: ids come from stdin, so the question could not be answered.
    """
    if "-" not in runs:
        return list(runs)
    if asks:
        raise UsageError(
            f"stdin has the ids: not a terminal, to ask whether to {command} the runs; nothing was read or changed",
            hint=f"... | lens {command} - --yes, or --dry-run first",
        )
    read = [line for line in read_text(app.world.stdin).split("\n") if line]
    return [run for one in runs for run in (read if one == "-" else [one])]


async def meant(backend: StateBackend, text: str, takes_prefixes: bool) -> str:
    """The id that an argument names: exact, with the escapes of tables decoded, or by its prefix.

    Args:
        takes_prefixes: Whether a prefix of an id, or ``@failed``, is accepted.

    Raises:
        RunNotFoundError: there is no such run, or the prefix is ambiguous.
    """
    if takes_prefixes:
        return await resolve_run(backend, text, unescape(text))
    for spelling in dict.fromkeys((text, unescape(text))):
        if await run_exists(backend, spelling):
            return spelling
    if text in NEWEST:
        raise RunNotFoundError(
            f"{text} is accepted only on a terminal, without --yes; nothing was changed",
            hint="\n".join(f"lens list --status {status} -n 1 -o id" for status in NEWEST[text])
            or "lens list -n 1 -o id",
            run_id=text,
        )
    raise RunNotFoundError(
        f'no run "{text}" in this store; nothing was changed',
        hint="lens list --search TEXT finds runs by part of the id; prefixes are accepted only on a terminal "
        "without --yes",
        run_id=text,
    )


async def meant_all(app: App, backend: StateBackend, words: Sequence[str], yes: bool) -> list[str]:
    """The ids that the arguments name, each once; prefixes are accepted only if the command asks."""
    takes_prefixes = can_ask(app) and not yes
    return list(dict.fromkeys([await meant(backend, text, takes_prefixes) for text in words]))


def named(run_ids: Sequence[str]) -> list[str]:
    """Run ids for the command in the audit log; if there are many, only their number (the entry has the ids)."""
    return list(run_ids) if len(run_ids) <= MOST_SHOWN else [f"({len(run_ids)} runs)"]


def described(run: RunSummary) -> str:
    """A run as a line of a question or report."""
    return escape_controls(f"{run.run_id} ({run.status}, {run.pipeline_name} {run.pipeline_version})")


def listed(lines: Sequence[str], count: int | None = None, *, suffix: str = "") -> list[str]:
    """Lines below a heading: the first few, and the number of the others.

    Args:
        count: Total number, if `lines` has only the first ones.
        suffix: Text after the number of the others.
    """
    shown, whole = lines[:MOST_SHOWN], len(lines) if count is None else count
    more = whole - len(shown)
    return [*(f"  {line}" for line in shown), *([f"  and {more:,} more{suffix}"] if more > 0 else [])]


def listed_runs(runs: Sequence[RunSummary], count: int | None = None) -> list[str]:
    """Runs below a heading, as `listed`."""
    return listed([described(run) for run in runs], count)


def check_free(held: Mapping[str, str], force: bool, *, undone: str, forced: str) -> None:
    """Check that no live process holds one of the runs.

    Args:
        held: The holder by run id.
        undone: What did not happen, for the message.
        forced: What --force does, for the hint.

    Raises:
        BusyError: a live process holds one.
    """
    if force or not held:
        return
    run_id, holder = next(iter(held.items()))
    more = f", and {len(held) - 1} more are held" if len(held) > 1 else ""
    raise BusyError(
        f"{escape_controls(run_id)} is held by a live process, {holder}{more}; nothing was {undone}",
        hint=f"stop that process first, or use --force{forced}",
        run_id=run_id,
        holder=holder,
    )
