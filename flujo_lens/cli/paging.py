"""Printing pages of runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice
from typing import NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.hints import with_filters
from flujo_lens.cli.options import FilterOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.rendering.views import View
from flujo_lens.state.backends.base import Position, StateBackend
from flujo_lens.state.views import Page, RunFilter, RunSummary

MOST_PROBLEMS = 5


def print_count(app: App, out: Output, wanted: RunFilter) -> None:
    """Print the number of runs that match."""

    async def work(backend: StateBackend) -> int:
        return await backend.count_runs(wanted)

    count = app.read(work)
    out.write(f"{count}\n".encode())
    if not count:
        app.note_no_runs(_nothing(wanted), wanted)


class Asked(NamedTuple):
    """The options of a page, repeated in the command for the next page."""

    filters: FilterOptions
    limit: int | None = None
    cursor: str | None = None
    reverse: bool = False
    sort: str | None = None

    @property
    def after(self) -> Position | None:
        """The position of the cursor."""
        if self.cursor is None:
            return None
        from flujo_lens.operations.cursor import decode_cursor

        return decode_cursor(self.cursor, self.words())

    def words(self) -> list[str]:
        """What a cursor is of: the filters and the order."""
        return [*words_of(self.filters), *(["--reverse"] if self.reverse else [])]


def print_page(app: App, out: Output, view: View, wanted: RunFilter, limit: int | None, asked: Asked) -> None:
    """Print a page (all runs if `limit` is None), and on stderr the command for the next."""
    after, reverse = asked.after, asked.reverse

    async def work(backend: StateBackend) -> Page[RunSummary]:
        if limit is not None:
            page = await backend.query_runs(wanted, after=after, limit=limit, reverse=reverse)
        else:
            page = Page(tuple([run async for run in backend.iter_runs(wanted, after=after, reverse=reverse)]))
        return page._replace(items=tuple(await app.with_signs(backend, page.items)))

    page = app.read(work)
    out.show(view, page.items, _nothing(wanted), wanted)
    note_problems(app, page.items)
    if page.next is not None:
        note_next(app, page.next, len(page.items), asked)


def _nothing(wanted: RunFilter) -> str:
    return "no runs match" if wanted != RunFilter() else "no runs in this store"


def note_next(app: App, position: Position, shown: int, asked: Asked) -> None:
    """Print how to get the next page."""
    from flujo_lens.operations.cursor import encode_cursor

    which = "next" if asked.cursor is not None else "oldest" if asked.reverse else "newest"
    limit = "" if asked.limit is None else f" -n {asked.limit}"
    cursor = encode_cursor(position, asked.words())
    more = f"lens list --cursor {cursor}{limit}{' --reverse' if asked.reverse else ''}"
    more = app.suggest(with_filters(more, asked.filters))
    count = app.suggest(with_filters("lens list --count", asked.filters))
    app.note(f"showing the {which} {shown}; next page: {more}\nto count them: {count}")


def note_problems(app: App, runs: Sequence[RunSummary]) -> None:
    """Print a note on each run that could not be read."""
    from flujo_lens.rendering.text import escape_controls, one_line

    found = ((run.run_id, problem) for run in runs for problem in run.problems)
    for run_id, problem in islice(found, MOST_PROBLEMS):
        app.note(f"unreadable: {escape_controls(run_id)}: {one_line(problem)}")
    more = sum(len(run.problems) for run in runs) - MOST_PROBLEMS
    if more > 0:
        app.note(f"unreadable: {more} more")


def stream_all(app: App, out: Output, view: View, wanted: RunFilter, asked: Asked) -> None:
    """Print all runs in a machine format, each as soon as it is read."""
    after, reverse = asked.after, asked.reverse
    stream_runs(app, out, view, wanted, lambda backend: backend.iter_runs(wanted, after=after, reverse=reverse))


def stream_runs(
    app: App, out: Output, view: View, wanted: RunFilter, runs: Callable[[StateBackend], AsyncIterator[RunSummary]]
) -> None:
    """Print the runs that `runs` yields of a store in a machine format, each as soon as it is read."""
    writer = out.writer(view)

    async def work(backend: StateBackend) -> bool:
        from flujo_lens.state.stale_runs import Signs, claims_of

        found = False
        # Claims are read once, since rows are printed as they come: a later claim is of a run saved later.
        signs = Signs(await claims_of(backend), app.world.now(), app.silent_after)
        async for run in runs(backend):
            found = True
            out.write(writer.line(signs.of(run)))
            note_problems(app, [run])
        return found

    out.write(writer.head())
    if not app.read(work):
        app.note_no_runs(_nothing(wanted), wanted)
    out.write(writer.tail())
