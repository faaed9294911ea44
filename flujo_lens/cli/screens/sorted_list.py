"""Output of ``lens list --sort``, but for that by start."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.hints import with_filters
from flujo_lens.cli.options import words_of
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import Asked, note_problems, stream_runs
from flujo_lens.operations.cursor import decode_sorted_cursor, encode_cursor
from flujo_lens.operations.sorted_runs import SortedPage, iter_sorted, sorted_page
from flujo_lens.rendering.sorted_runs import run_view
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.sorting import Sort
from flujo_lens.state.views import RunFilter

_FIRST = {
    "started": ("newest", "oldest"),
    "updated": ("last updated", "longest without an update"),
    "duration": ("longest", "shortest"),
    "cost": ("most expensive", "cheapest"),
    "tokens": ("largest by tokens", "smallest by tokens"),
    "size": ("largest", "smallest"),
}


def print_sorted(app: App, out: Output, wanted: RunFilter, limit: int | None, asked: Asked, sort: Sort) -> None:
    """Print a page in the order `sort` (all runs if `limit` is None), and on stderr the command for the next."""
    view = run_view(sort.field)
    after = decode_sorted_cursor(asked.cursor, _words(asked, sort)) if asked.cursor is not None else None
    if limit is None and not out.is_table:
        stream_runs(app, out, view, wanted, lambda backend: iter_sorted(backend, wanted, sort, after))
        return

    async def work(backend: StateBackend) -> SortedPage:
        if limit is not None:
            page = await sorted_page(backend, wanted, sort, after, limit)
        else:
            page = SortedPage(tuple([run async for run in iter_sorted(backend, wanted, sort, after)]))
        return page._replace(runs=tuple(await app.with_signs(backend, page.runs)))

    page = app.run(work)
    out.show(view, page.runs, "no runs match" if wanted != RunFilter() else "no runs in this store", wanted)
    note_problems(app, page.runs)
    if page.next is not None:
        _note_next(app, sort, encode_cursor(page.next, _words(asked, sort)), len(page.runs), asked)


def _words(asked: Asked, sort: Sort) -> list[str]:
    """What a cursor is of: the filters and the order."""
    return [*words_of(asked.filters), f"--sort={sort}"]


def _note_next(app: App, sort: Sort, cursor: str, shown: int, asked: Asked) -> None:
    which = "next" if asked.cursor is not None else f"{_FIRST[sort.field][not sort.descending]}"
    limit = "" if asked.limit is None else f" -n {asked.limit}"
    more = app.suggest(with_filters(f"lens list --sort {sort} --cursor {cursor}{limit}", asked.filters))
    app.note(f"showing the {which} {shown}; next page: {more}")
