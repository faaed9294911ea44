"""Pages of runs in another order than that of their start."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import NamedTuple

from flujo_lens.errors import UsageError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.sorting import Sort, Top
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["SortedPage", "decode_sorted_cursor", "encode_sorted_cursor", "iter_sorted", "sort_of_cursor", "sorted_page"]

Border = tuple[float | None, str]
"""Where a page begins: value and id of the last run of the page before."""

_BATCH = 200


class SortedPage(NamedTuple):
    """A page. `next` is where the next one begins, None at the end."""

    runs: tuple[RunSummary, ...]
    next: Border | None = None


async def sorted_page(
    backend: StateBackend, wanted: RunFilter, sort: Sort, after: Border | None, limit: int
) -> SortedPage:
    """The first `limit` runs behind `after`. Reads one figure of every run, and no more than `limit` runs whole."""
    top = await _top(backend, wanted, sort, after, limit + 1)
    first = top.first()
    runs = await _summaries(backend, first[:limit], sort)
    border = first[limit - 1] if len(first) > limit else None
    return SortedPage(tuple(runs), None if border is None else (border[1], border[0]))


async def iter_sorted(
    backend: StateBackend, wanted: RunFilter, sort: Sort, after: Border | None
) -> AsyncIterator[RunSummary]:
    """All runs behind `after`. Holds the id and the figure of every run."""
    first = (await _top(backend, wanted, sort, after, None)).first()
    for at in range(0, len(first), _BATCH):
        for run in await _summaries(backend, first[at : at + _BATCH], sort):
            yield run


async def _top(backend: StateBackend, wanted: RunFilter, sort: Sort, after: Border | None, limit: int | None) -> Top:
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


# --- cursors


def encode_sorted_cursor(sort: Sort, border: Border) -> str:
    """A place in an order as text that needs no quoting in a shell."""
    import orjson

    text = orjson.dumps([str(sort), *border])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _decoded(cursor: str) -> list[object] | None:
    import orjson

    try:
        found = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except ValueError:
        return None
    return found if isinstance(found, list) and len(found) == 3 else None


def sort_of_cursor(cursor: str) -> str | None:
    """The order that a cursor belongs to; None for one of a list by start, or for no cursor."""
    found = _decoded(cursor)
    return str(found[0]) if found else None


def decode_sorted_cursor(cursor: str, sort: Sort) -> Border:
    """The place of a cursor in the order `sort`.

    Raises:
        UsageError: it is no cursor, or one of another order.
    """
    found = _decoded(cursor)
    if found is None:
        raise UsageError(
            f'"{cursor}" is not a cursor of a list sorted by {sort.field}',
            hint="use the cursor printed by the same command, or omit --cursor for the first page",
        )
    order, value, run_id = found
    if order != str(sort):
        raise UsageError(f"the cursor is of a list with --sort {order}, not {sort}", hint=f"add --sort {order}")
    if not isinstance(run_id, str) or not (value is None or isinstance(value, int | float)):
        raise UsageError(f'"{cursor}" is not a cursor', hint="omit --cursor for the first page")
    return value, run_id
