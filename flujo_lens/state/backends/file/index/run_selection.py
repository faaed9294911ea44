"""Selecting runs of a folder of JSON files, page by page, by what its index tells of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flujo_lens.state import interpret
from flujo_lens.state.backends.core.port import NO_START
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.index.catalogue import Look, micros_of
from flujo_lens.state.backends.file.index.history_table import HistoryRow
from flujo_lens.state.backends.file.index.joined_table import RunEntry, in_force
from flujo_lens.state.backends.file.index.state_table import StateRow
from flujo_lens.state.timestamps import EPOCH
from flujo_lens.state.views import RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.index.cache import Place

_AT_ONCE = 500
_LAST_ROW = 2**63 - 1
"""Runs that one query names."""

_BORN = "born <= $seen"
"""What leaves out runs that have come since."""

SEVERAL_FILES, HISTORY_ALONE, UNDATED = "files > 1", "files = 0", "updated IS NULL AND readable"
"""Odd runs, as conditions of `Snapshot.number`."""

_COLUMNS = ", ".join(RunEntry._fields)
_RUN_ID = StateRow._fields.index("run_id")
_FLAGS = {"step": "has_run", "span": "spans", "evaluation": "evaluations"}
_WITHOUT_RUN = "NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = histories.run_id)"


def instant(micros: int | None) -> datetime | None:
    """The instant of a number of microseconds since 1970; None for None and for `NO_START`."""
    return None if micros is None or micros == NO_START else EPOCH + timedelta(microseconds=micros)


class Snapshot:
    """The runs of a folder at one moment, each once.

    Of several files with one run id the one that was saved last counts, but a readable one before any other. Runs that
    have come since are not there; of those that have changed it tells what a later look has told.

    Args:
        look: What the folder holds.
        again: Looks anew, by another index, when that one fails.
    """

    def __init__(self, look: Look, again: Callable[[Look, Exception], Look]) -> None:
        self._look, self._again = look, again
        self._states: dict[str, list[StateRow]] = {}

    # --- by what lists ask for

    def pages(
        self,
        wanted: RunFilter,
        after: tuple[int, str] | None = None,
        reverse: bool = False,
        *,
        ordered: bool = True,
        first: int = _AT_ONCE,
    ) -> Iterator[list[RunEntry]]:
        """The runs behind `after` that `wanted` admits, texts and metadata apart.

        Args:
            wanted: The filter.
            after: A position, as of `flujo_lens.state.backends.core.port.Transaction.scan`.
            reverse: The oldest first.
            ordered: Whether they come by their start; else by their ids.
            first: The number of runs of the first page, up to `_AT_ONCE`, of which the others have as many.
        """
        conditions, values = conditions_of(wanted)
        key = ("started", "run_id") if ordered or after is not None else ("run_id",)
        return self.entries(conditions, values, key, after, reverse=reverse or len(key) == 1, first=first)

    def entries(
        self,
        conditions: str,
        values: Sequence[Any] = (),
        key: Sequence[str] = ("run_id",),
        after: Sequence[Any] | None = None,
        *,
        reverse: bool = True,
        first: int = _AT_ONCE,
    ) -> Iterator[list[RunEntry]]:
        """The runs for which a condition holds, in pages, in the order of a key."""
        than, direction = (">", "ASC") if reverse else ("<", "DESC")
        border = f"({', '.join(key)}) {than} ({', '.join('CAST(? AS TEXT)' if k == 'run_id' else '?' for k in key)})"
        order = ", ".join(f"{name} {direction}" for name in key)
        size = min(first, _AT_ONCE)
        while True:
            query = f"SELECT {_COLUMNS} FROM runs WHERE {_BORN} AND {border if after else 1} AND {conditions}"
            rows = self._rows(f"{query} ORDER BY {order} LIMIT {size}", (*(after or ()), *values))
            page = [RunEntry._make(row) for row in rows]
            if page:
                yield page
            if len(page) < size:
                return
            after, size = [getattr(page[-1], name) for name in key], _AT_ONCE

    def count(self, wanted: RunFilter) -> int:
        """The number of runs that `wanted` admits, texts and metadata apart."""
        conditions, values = conditions_of(wanted)
        return self._count(f"SELECT count(*) FROM runs WHERE {_BORN} AND {conditions}", values)

    def ids(self, prefix: str, limit: int) -> list[str]:
        """The first ids with a prefix."""
        query = f"SELECT run_id FROM runs WHERE run_id >= CAST(? AS TEXT) AND {_BORN} ORDER BY run_id"
        query += f" LIMIT {min(limit, _LAST_ROW)}"
        return [row[0] for row in self._rows(query, (prefix,)) if row[0].startswith(prefix)]

    def light(self, entries: Iterable[RunEntry]) -> Iterator[RunSummary]:
        """The runs without what only their files tell."""
        for run in entries:
            if not run.readable:
                problem = documents.problem_of(next(iter(self.files_of(run.run_id)), run.run_id))
                yield interpret.unreadable(run.run_id, problem, instant(run.started))
                continue
            yield RunSummary(
                run_id=run.run_id,
                pipeline_name=run.pipeline,
                pipeline_version=run.version,
                status=run.status,
                created_at=instant(run.started),
                updated_at=instant(run.updated),
                parent_run_id=run.parent,
                is_background_task=bool(run.background),
            )

    def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        """The ids of the background tasks of some runs."""
        return [row[0] for row in self._of_some(f"SELECT run_id FROM runs WHERE {_BORN} AND parent IN", run_ids)]

    def tasks(self, run_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """The numbers of background tasks by status, by parent."""
        counts: dict[str, dict[str, int]] = {}
        for parent, status in self._of_some(f"SELECT parent, status FROM runs WHERE {_BORN} AND parent IN", run_ids):
            by_status = counts.setdefault(parent, {})
            by_status[status] = by_status.get(status, 0) + 1
        return counts

    # --- about single runs

    def admitted(self, wanted: RunFilter, run_ids: Sequence[str]) -> set[str]:
        """Those of these runs that `wanted` admits, texts and metadata apart."""
        conditions, values = conditions_of(wanted)
        some = ", ".join(["CAST(? AS TEXT)"] * len(run_ids))
        query = f"SELECT run_id FROM runs WHERE {conditions} AND run_id IN ({some})"
        return {row[0] for row in self._rows(query, (*values, *run_ids))}

    def known(self, run_ids: Sequence[str]) -> dict[str, RunEntry]:
        """Those of these runs that are there."""
        rows = self._of_some(f"SELECT {_COLUMNS} FROM runs WHERE {_BORN} AND run_id IN", run_ids)
        return {run.run_id: run for run in map(RunEntry._make, rows)}

    def hold(self, run_ids: Sequence[str]) -> None:
        """Look up the files of some runs, about which questions will follow."""
        self._states = self._rows_of(run_ids)

    def rows_of(self, run_id: str) -> list[StateRow]:
        """The files that hold a run, the one that counts first."""
        found = self._states.get(run_id)
        return self._rows_of([run_id])[run_id] if found is None else found

    def _rows_of(self, run_ids: Sequence[str]) -> dict[str, list[StateRow]]:
        found: dict[str, list[StateRow]] = {run_id: [] for run_id in run_ids}
        for row in self._of_some(f"SELECT {', '.join(StateRow._fields)} FROM states WHERE run_id IN", run_ids):
            found[row[_RUN_ID]].append(StateRow._make(row))
        return {run_id: in_force(rows, self._look.index.micros) for run_id, rows in found.items()}

    def files_of(self, run_id: str) -> list[str]:
        """The names of the files that hold a run, the one that counts first."""
        return [row.name for row in self.rows_of(run_id)]

    def is_known(self, run_id: str, name: str, found: os.stat_result) -> bool:
        """Whether a file of which the system says this is a state of the run, as it was when the folder was read."""
        stamp = documents.stamp_of(found)
        return any(row.name == name and row.readable and row[1:5] == stamp for row in self.rows_of(run_id))

    def problems(self, run_id: str) -> tuple[str, ...]:
        """What is odd about a run apart from what its own file says: that several files hold it."""
        rows = self.rows_of(run_id)
        if len(rows) < 2:
            return ()
        names = ", ".join(documents.printable(row.name) for row in rows)
        return (f"several files hold this run, the one saved last first: {names}",)

    def history_of(self, run_id: str) -> HistoryRow | None:
        """The history of a run."""
        rows = self._of_some(f"SELECT {', '.join(HistoryRow._fields)} FROM histories WHERE run_id IN", [run_id])
        return HistoryRow._make(rows[-1]) if rows else None

    def histories_with(self, what: str, run_ids: Sequence[str] | None = None) -> Iterator[str]:
        """The ids of what has a history in which there may be such rows: ``step``, ``span`` or ``evaluation``."""
        query = f"SELECT run_id FROM histories WHERE {_FLAGS[what]} AND run_id"
        if run_ids is not None:
            yield from (row[0] for row in self._of_some(f"{query} IN", run_ids))
            return
        last = ""
        while rows := self._rows(f"{query} > CAST(? AS TEXT) ORDER BY run_id LIMIT {_AT_ONCE}", (last,)):
            yield from (row[0] for row in rows)
            last = rows[-1][0]

    def strays(self) -> list[str]:
        """The ids of histories with evaluations that are no runs."""
        return [row[0] for row in self._rows(f"SELECT run_id FROM histories WHERE evaluations AND {_WITHOUT_RUN}")]

    def sizes(self, place: Place, run_ids: Sequence[str]) -> list[int]:
        """The sizes of the files of some runs."""
        return [row[0] for row in self._of_some(f"SELECT size FROM {place} WHERE run_id IN", run_ids)]

    # --- about the whole

    @property
    def zone(self) -> tzinfo:
        """The zone of naive times."""
        return self._look.zone

    @property
    def look(self) -> Look:
        """What else the folder holds."""
        return self._look

    def has_runs(self) -> bool:
        """Whether there is one."""
        return bool(self._rows(f"SELECT 1 FROM runs WHERE {_BORN} LIMIT 1"))

    @cached_property
    def strange(self) -> int:
        """How many files are no runs."""
        return self._look.foreign + self._count("SELECT count(*) FROM states WHERE run_id IS NULL")

    def size(self) -> int:
        """The bytes of the files of states."""
        return self._count("SELECT sum(size) FROM states WHERE run_id IS NOT NULL")

    def last_save(self) -> datetime | None:
        """The newest update of all readable runs."""
        return instant(self._rows("SELECT max(updated) FROM runs WHERE readable")[0][0])

    def number(self, condition: str) -> int:
        """How many runs there are with this."""
        return self._count(f"SELECT count(*) FROM runs WHERE {condition}")

    def unreadable(self) -> tuple[int, str]:
        """How many files do not parse, and one of them."""
        count, name = self._rows("SELECT count(*), min(name) FROM states WHERE NOT readable")[0]
        return count, name or ""

    def history_names(self) -> Iterator[str]:
        """The names of all histories."""
        return (row[0] for page in self._look.index.stamps("histories") for row in page)

    # --- queries

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        import sqlite3

        try:
            return self._asked(query, values)
        except sqlite3.Error as error:
            self._look = self._again(self._look, error)
        return self._asked(query, values)

    def _asked(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._look.index.rows(query.replace(_BORN, f"born <= {self._look.seen}"), values)

    def _count(self, query: str, values: Sequence[Any] = ()) -> int:
        return int(self._rows(query, values)[0][0] or 0)

    def _of_some(self, query: str, run_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of a query that ends with ``IN``."""
        found = []
        for at in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[at : at + _AT_ONCE]
            found += self._rows(f"{query} ({', '.join(['CAST(? AS TEXT)'] * len(some))})", some)
        return found


def conditions_of(wanted: RunFilter) -> tuple[str, list[Any]]:
    """A filter as a condition on ``runs``, and the values in it; without texts and metadata."""
    tests: list[tuple[str, list[Any]]]
    equal = {"pipeline": wanted.pipeline, "version": wanted.version, "parent": wanted.parent}
    tests = [(f"{name} = CAST(? AS TEXT)", [value]) for name, value in equal.items() if value is not None]
    if wanted.statuses:
        tests.append((f"status IN ({', '.join(['CAST(? AS TEXT)'] * len(wanted.statuses))})", sorted(wanted.statuses)))
    tests += [("NOT background", [])] if wanted.top_level else []
    tests += [("background", [])] if wanted.tasks_only else []
    if wanted.since or wanted.until:
        tests.append((f"started <> {NO_START}", []))
    bounds = (
        ("started", ">=", wanted.since),
        ("started", "<", wanted.until),
        ("updated", ">=", wanted.active_since),
        ("updated", "<", wanted.active_until),
    )
    tests += [(f"{name} {than} ?", [micros_of(when)]) for name, than, when in bounds if when is not None]
    return " AND ".join(test for test, _ in tests) or "1", [value for _, values in tests for value in values]
