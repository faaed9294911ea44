"""Runs in the order of their start: page by page, or by what few of them have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.port import NO_START, ListedRun, RunRow, micros
from flujo_lens.state.backends.postgres import list_columns, queries
from flujo_lens.state.backends.postgres.mapping import document_of
from flujo_lens.state.backends.postgres.queries import Stored, storable
from flujo_lens.state.backends.postgres.tables import COLUMNS, Shape
from flujo_lens.state.filtering import are_plain, statuses_stored
from flujo_lens.state.views import RunFilter

_PAGE, _FIRST = 200, 64
FEW = 20_000
"""Runs of a status up to which they are looked up by it, and not found by walking through all."""

_ANEW_AFTER = 16
_STATE_WIDTH = len(COLUMNS["workflow_state"])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Border = tuple[int, str]


class _Form(NamedTuple):
    """What is read of runs: the SQL, and the run of a row. Rows begin with start, id and whether there are tasks.

    Where the run of a row is None, the run is read once more in the form `then`.
    """

    sql: Callable[..., str]
    run_of: Callable[[Sequence[Any]], Any]
    then: _Form | None = None


def _row_of(row: Sequence[Any]) -> RunRow:
    """The run of a row of `queries.runs`."""
    _, run_id, _, has_state, state, has_run, run, *rest = row
    if has_state:
        state = document_of("workflow_state", rest[:_STATE_WIDTH]) if state is None else state.encode()
    if has_run:
        run = document_of("runs", rest[_STATE_WIDTH:]) if run is None else run.encode()
    return RunRow(run_id, state if has_state else None, run if has_run else None)


_DOCUMENTS = _Form(queries.runs, _row_of)
_LISTED = _Form(list_columns.listed, list_columns.run_of, _Form(queries.runs, lambda row: ListedRun(_row_of(row))))


class PostgresWalk:
    """The part of `PostgresTransaction` that reads runs."""

    _db: Any
    _shape: Shape
    _is_fixed: bool
    _childless: set[str]
    _many: dict[Stored, int]

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return the runs by id."""
        return {row.run_id: row for row in await self._of_ids(_DOCUMENTS, storable(run_ids))}

    async def scan(
        self, hint: RunFilter, after: _Border | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        """Yield runs by keyset pages; those without a readable start at the end of time that they belong to."""
        async for page in self._pages(_DOCUMENTS, hint, after, reverse, limit):
            for row in page:
                yield row

    def listed(
        self, hint: RunFilter, after: _Border | None, reverse: bool, limit: int | None
    ) -> AsyncGenerator[list[ListedRun], None]:
        """Yield what a list shows of runs; what columns do not tell is read as a document."""
        return self._pages(_LISTED, hint, after, reverse, limit)

    async def _pages(
        self, form: _Form, hint: RunFilter, after: _Border | None, reverse: bool, limit: int | None
    ) -> AsyncGenerator[list[Any], None]:
        """Of the hint, statuses that few runs have are looked up, and a time of the start bounds the pages."""
        size = max(1, min(_PAGE if limit is None else limit, _PAGE))
        if hint.parent is not None or hint.statuses:
            by_key = self._by_parent if hint.parent is not None else self._by_status
            async with aclosing(by_key(form, hint, after, reverse, size)) as found:
                if (first := await anext(found, None)) is not None:
                    yield first
                    async for page in found:
                        yield page
                    return
        has_times = hint.since is not None or hint.until is not None
        if not has_times and reverse and (after is None or after[0] == NO_START):
            yield await self._unreadable(form, after, reverse)
        if reverse or after is None or after[0] != NO_START:
            border = None if after is None or after[0] == NO_START else after
            async with aclosing(self._by_start(form, hint, border, reverse, size)) as pages:
                async for page in pages:
                    yield page
        if not has_times and not reverse:
            yield await self._unreadable(form, after, reverse)

    async def _by_start(
        self, form: _Form, hint: RunFilter, border: _Border | None, reverse: bool, size: int
    ) -> AsyncGenerator[list[Any], None]:
        wanted, is_first = statuses_stored(hint), self._is_fixed
        bounds: dict[str, Any] = {"since": hint.since, "until": hint.until}
        while True:
            if border is not None:
                bounds |= {"start": _EPOCH + timedelta(microseconds=border[0]), "id": border[1]}
            keys, values = queries.keys_page(self._shape, reverse, size, bounds, wanted and wanted[0])
            sql = form.sql(self._shape, keys, queries.order(reverse), parents=is_first, has_runs=True)
            found = await self._db.fetch(sql, *values)
            yield await self._made(form, found)
            if len(found) < size:
                return
            border, is_first, size = (micros(found[-1][0]), found[-1][1]), False, _PAGE

    async def _by_parent(
        self, form: _Form, hint: RunFilter, after: _Border | None, reverse: bool, size: int
    ) -> AsyncGenerator[list[Any], None]:
        """The background tasks of a run; nothing, not even a page, if that is not for an index to tell."""
        if hint.parent is None or not (are_plain([hint.parent]) and self._shape.has_parents):
            return
        if hint.parent in self._childless:
            yield []
            return
        keys = await self._db.fetch(queries.keys_of_tasks(self._shape), hint.parent, FEW + 1)
        if len(keys) <= FEW:
            yield []
            async for page in self._of_keys(form, keys, after, reverse):
                yield page

    async def _by_status(
        self, form: _Form, hint: RunFilter, after: _Border | None, reverse: bool, size: int
    ) -> AsyncGenerator[list[Any], None]:
        """The runs of statuses that few have; nothing if many have them, which is known for a while."""
        wanted = statuses_stored(hint)
        if wanted is None or self._is_known_of_many(wanted):
            return
        count, found = await self._first_of(form, wanted, after, reverse, size)
        if count > FEW:
            self._many[wanted] = _ANEW_AFTER
            return
        yield await self._made(form, found)
        if len(found) == size:
            keys = await self._db.fetch(queries.keys_by_status(self._shape, wanted, FEW + 1))
            async for page in self._of_keys(form, keys, (micros(found[-1][0]), found[-1][1]), reverse):
                yield page

    def _is_known_of_many(self, wanted: Stored) -> bool:
        self._many[wanted] = left = max(0, self._many.get(wanted, 0) - 1)
        return left > 0

    async def _first_of(
        self, form: _Form, wanted: Stored, after: _Border | None, reverse: bool, size: int
    ) -> tuple[int, Sequence[Any]]:
        """How many runs have statuses, counted up to `FEW` + 1, and a first page of them if they are not more."""
        values: tuple[Any, ...] = ()
        if after is not None:
            values = (None if after[0] == NO_START else _EPOCH + timedelta(microseconds=after[0]), after[1])
        page = queries.page_by_status(reverse, after is not None, FEW + 1, size)
        rows = form.sql(self._shape, page, parents=self._is_fixed)
        sql = queries.first_by_status(self._shape, wanted, FEW + 1, rows, reverse)
        found = await self._db.fetch(sql, *values)
        return found[0][0], [row[1:] for row in found if row[2] is not None]

    async def _of_keys(
        self, form: _Form, found: Sequence[Any], after: _Border | None, reverse: bool
    ) -> AsyncGenerator[list[Any], None]:
        keys = sorted(((micros(start), run_id) for run_id, start in found), reverse=not reverse)
        if after is not None:
            keys = [key for key in keys if (key > after if reverse else key < after)]
        for at in range(0, len(keys), _PAGE):
            yield await self._of_ids(form, [run_id for _, run_id in keys[at : at + _PAGE]])

    async def _of_ids(self, form: _Form, ids: Sequence[str]) -> list[Any]:
        """The runs of these ids, in their order."""
        wanted, given = (queries.ONE, ids[0]) if len(ids) == 1 else (queries.IDS, ids)
        sql = form.sql(self._shape, wanted, parents=self._is_fixed and len(ids) <= _PAGE)
        rows = {row[1]: row for row in await self._db.fetch(sql, given)}
        return await self._made(form, [rows[run_id] for run_id in dict.fromkeys(ids) if run_id in rows])

    async def _made(self, form: _Form, rows: Sequence[Any]) -> list[Any]:
        """The runs of rows; that they have no background tasks is noted."""
        self._childless.update([row[1] for row in rows if row[2] is False])
        made = [form.run_of(row) for row in rows]
        if None not in made:
            return made
        others = [row[1] for row, run in zip(rows, made, strict=True) if run is None]
        found = {run.run.run_id: run for run in await self._of_ids(form.then or _LISTED, others)}
        made = [run or found.get(row[1]) for row, run in zip(rows, made, strict=True)]
        return [run for run in made if run is not None]

    async def _unreadable(self, form: _Form, after: _Border | None, reverse: bool) -> list[Any]:
        ids = [row[0] for row in await self._db.fetch(queries.keys_unreadable(self._shape))]
        if after is not None and after[0] == NO_START:
            ids = [run_id for run_id in ids if (run_id > after[1] if reverse else run_id < after[1])]
        return await self._of_ids(form, ids if reverse else ids[::-1]) if ids else []
