"""Finding runs: by id, prefix or ``@`` word, and page by page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from flujo_lens.errors import AmbiguousRunError, RunNotFoundError, UsageError
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.views import RunDetail, RunFilter, StepRecord

LEAST_PREFIX = 4
MOST_CANDIDATES = 10
NEWEST = {"@latest": frozenset[str](), "@failed": frozenset({"failed"}), "@paused": frozenset({"paused"})}
"""Words for the newest run, and the statuses that it may have; any if empty."""


async def resolve_run(backend: StateBackend, text: str, unescaped: str | None = None) -> str:
    """Resolve a run argument: a whole id, a unique prefix, or ``@latest`` and the like.

    A whole id has precedence over a prefix.

    Args:
        unescaped: The argument with the escapes of tables decoded; tried if `text` is not an id.

    Raises:
        RunNotFoundError: no run matches.
        AmbiguousRunError: several runs match; the hint lists them.
        UsageError: an unknown ``@`` word.
    """
    for spelling in dict.fromkeys((text, unescaped or text)):
        if await run_exists(backend, spelling):
            return spelling
    if text.startswith("@"):
        return await _newest(backend, text)
    if not overrides(type(backend), "find_run_ids"):
        raise _not_found(text, [])
    found: list[str] = []
    if len(text) >= LEAST_PREFIX:
        for prefix in (text, f"run_{text}"):
            found += await backend.find_run_ids(prefix, MOST_CANDIDATES + 1)
    if len(found) == 1:
        return found[0]
    if found:
        raise ambiguous(text, sorted(set(found)))
    raise _not_found(text, await _similar(backend, text))


async def run_exists(backend: StateBackend, run_id: str) -> bool:
    """Whether any table has exactly this id."""
    if overrides(type(backend), "find_run_ids"):
        return run_id in await backend.find_run_ids(run_id, 1)
    return await backend.load_state(run_id) is not None


async def with_tasks(backend: StateBackend, run_ids: Sequence[str]) -> list[str]:
    """The ids of runs, with those of their background tasks, and of their tasks; tasks come before their run.

    So a deletion that is interrupted leaves the run that names what is left.
    """
    found, above = dict.fromkeys(run_ids), list(run_ids)
    while above:
        of = RunFilter(parent=above.pop(0))
        tasks = [task.run_id async for task in backend.iter_runs(of, ordered=False, details=False)]
        above += [run_id for run_id in tasks if run_id not in found]
        found |= dict.fromkeys(tasks)
    return list(found)[::-1]


async def _newest(backend: StateBackend, word: str) -> str:
    if word not in NEWEST:
        raise UsageError(f'unknown word "{word}"', hint=f"use one of {', '.join(NEWEST)}")
    page = await backend.query_runs(RunFilter(statuses=NEWEST[word]), limit=1)
    if not page.items:
        kind = f"{word[1:]} run" if NEWEST[word] else "run"
        raise RunNotFoundError(f"{word}: no {kind} in this store", run_id=word)
    return page.items[0].run_id


def ambiguous(text: str, found: list[str]) -> AmbiguousRunError:
    """The error for a prefix of several run ids."""
    shown = found[:MOST_CANDIDATES]
    more = ["and more"] if len(found) > MOST_CANDIDATES else []
    return AmbiguousRunError(
        f'"{text}" is a prefix of several run ids',
        hint="\n".join(["type more characters:", *map(_indented, shown), *more]),
        run_id=text,
        candidates=shown,
    )


def _not_found(text: str, similar: list[str]) -> RunNotFoundError:
    short = f" (a prefix has {LEAST_PREFIX} or more characters)" if len(text) < LEAST_PREFIX else ""
    hint = "\n".join(["similar ids:", *map(_indented, similar)]) if similar else None
    return RunNotFoundError(
        f'no run "{text}" in this store{short}',
        hint=hint or f"to search by part of the id: lens list --search {shlex.quote(_one_line(text))}",
        run_id=text,
    )


def _indented(run_id: str) -> str:
    """An id as a line of a hint."""
    return f"  {_one_line(run_id)}"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


async def _similar(backend: StateBackend, text: str) -> list[str]:
    """Ids with the longest common prefix with `text`."""
    found: list[str] = []
    low, high = LEAST_PREFIX - 2, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if some := await backend.find_run_ids(text[:middle], 5):
            low, found = middle, some
        else:
            high = middle - 1
    return found


async def read_run(backend: StateBackend, text: str, unescaped: str | None = None) -> RunDetail:
    """Read the run that `text` names (see `resolve_run`)."""
    run_id = await resolve_run(backend, text, unescaped)
    detail = await backend.read_run(run_id)
    if detail is None:
        raise _not_found(text, [])
    return detail


def steps_with_current(detail: RunDetail) -> list[StepRecord]:
    """The executed steps of a run and the one that it is at, which has no record yet."""
    steps, run = list(detail.steps), detail.run
    last = steps[-1].step_name if steps else None
    if run.status in ("paused", "running", "cancelled") and run.step_name and run.step_name != last:
        index = (steps[-1].step_index if steps else -1) or 0
        status = "stale" if run.stale else run.status
        steps.append(StepRecord(index + 1 if steps else 0, run.step_name, status))
    return steps
