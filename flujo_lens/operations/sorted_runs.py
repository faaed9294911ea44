"""Pages of runs in another order than that of their start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from flujo_lens.operations.cursor import SortedPosition
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.sorting import Sort, Top
from flujo_lens.state.views import RunFilter, RunSummary

_BATCH = 200


class SortedPage(NamedTuple):
    """A page. `next` is where the next one begins, None at the end."""

    runs: tuple[RunSummary, ...]
    next: SortedPosition | None = None


async def sorted_page(
    backend: StateBackend, wanted: RunFilter, sort: Sort, after: SortedPosition | None, limit: int
) -> SortedPage:
    """The first `limit` runs behind `after`. Reads one figure of every run, and no more than `limit` runs whole."""
    top = await _top(backend, wanted, sort, after, limit + 1)
    first = top.first()
    runs = await _summaries(backend, first[:limit], sort)
    border = first[limit - 1] if len(first) > limit else None
    return SortedPage(tuple(runs), None if border is None else (border[1], border[0]))


async def iter_sorted(
    backend: StateBackend, wanted: RunFilter, sort: Sort, after: SortedPosition | None
) -> AsyncIterator[RunSummary]:
    """All runs behind `after`. Holds the id and the figure of every run."""
    first = (await _top(backend, wanted, sort, after, None)).first()
    for at in range(0, len(first), _BATCH):
        for run in await _summaries(backend, first[at : at + _BATCH], sort):
            yield run


async def _top(
    backend: StateBackend, wanted: RunFilter, sort: Sort, after: SortedPosition | None, limit: int | None
) -> Top:
    top = Top(sort, limit, after)
    async for run_id, value in backend.iter_sort_values(wanted, sort.field):
        top.add(run_id, value)
    return top


async def _summaries(backend: StateBackend, first: list[tuple[str, float | None]], sort: Sort) -> list[RunSummary]:
    """The runs with these ids, in their order; without those that were deleted meantime."""
    found = {run.run_id: run for run in await backend.read_summaries([run_id for run_id, _ in first])}
    runs = [(found[run_id], value) for run_id, value in first if run_id in found]
    if sort.field != "size":
        return [run for run, _ in runs]
    return [run._replace(size_bytes=None if value is None else int(value)) for run, value in runs]
