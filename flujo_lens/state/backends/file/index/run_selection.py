"""Selecting runs of a folder of JSON files: by what is known of all, then by the files of those left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from heapq import nlargest, nsmallest
from typing import Any, cast

from flujo_lens.state import interpret
from flujo_lens.state.backends.core.port import NO_START
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.index.state_table import MICROSECOND, Moment, Scan
from flujo_lens.state.timestamps import EPOCH, parse_instant
from flujo_lens.state.views import RunFilter, RunSummary

Pick = tuple[int, str, int]
"""Start in microseconds since 1970 (`NO_START` without a readable one), run id, row; sorted like this."""


def _micros(when: datetime) -> int:
    return (when - EPOCH) // MICROSECOND


def instant(micros: int | None) -> datetime | None:
    """The instant of a number of microseconds since 1970; None for None and for `NO_START`."""
    return None if micros is None or micros == NO_START else EPOCH + timedelta(microseconds=micros)


_Test = Callable[[int], bool]


class Snapshot:
    """The runs of a folder at one moment, each once.

    Of several files with one run id the one that was saved last counts, but a readable one before any other.

    `row_of` has their rows in `table` by run id, `rivals` the rows of the runs that several files hold,
    `strange` is how many files are no runs. A run that has left history alone has a row without a file's name.

    Args:
        found: What the folder holds.
        zone: The zone of naive times.
    """

    def __init__(self, found: Scan, zone: tzinfo) -> None:
        self.table = self.states = found.table
        self.zone = zone
        ids = self.table.run_id
        row_of = dict(zip(ids, range(len(ids)), strict=True))
        row_of.pop(None, None)
        self.row_of = cast("dict[str, int]", row_of)
        none = ids.count(None)
        self.strange = found.foreign + none
        self.rivals: dict[str, list[int]] = self._rivals() if len(row_of) + none < len(ids) else {}
        for run_id, rows in self.rivals.items():
            self.row_of[run_id] = rows[0]
        self.histories = found.histories.table if found.histories else None
        if self.histories is not None:
            from flujo_lens.state.backends.file.index.joined_table import joined

            self.table = joined(self.table, self.row_of, self.histories, self._micros_of)

    def _rivals(self) -> dict[str, list[int]]:
        """The rows of the runs that several files hold, the one that counts first."""
        rows: dict[str, list[int]] = {}
        for at, run_id in enumerate(self.table.run_id):
            if run_id is not None and self.row_of[run_id] != at:
                rows.setdefault(run_id, [self.row_of[run_id]]).append(at)
        return {run_id: sorted(found, key=self._last_saved, reverse=True) for run_id, found in rows.items()}

    def _last_saved(self, at: int) -> tuple[bool, int, int, str]:
        updated, table = self._updated(at), self.table
        saved = NO_START if updated is None else updated
        return bool(table.readable[at]), saved, table.modified[at], table.name[at]

    def _micros_of(self, moment: Moment) -> int | None:
        if isinstance(moment, str):
            when = parse_instant(moment, self.zone)
            return None if when is None else _micros(when)
        return moment

    def _created(self, at: int) -> int | None:
        return self._micros_of(self.table.created[at])

    def started(self, at: int) -> datetime | None:
        """The start of the run in a row of the table."""
        return instant(self._created(at))

    def _updated(self, at: int) -> int | None:
        times = (self._micros_of(self.table.created[at]), self._micros_of(self.table.updated[at]))
        return max((when for when in times if when is not None), default=None)

    # --- by the table

    def select(self, wanted: RunFilter, after: tuple[int, str] | None = None, reverse: bool = False) -> list[Pick]:
        """The runs behind `after` that `wanted` admits, texts and metadata apart; in no order."""
        tests, created = self._tests(wanted), self.table.created
        rows: Iterable[tuple[str, int]] = self.row_of.items()
        if tests:
            rows = [pair for pair in rows if all(test(pair[1]) for test in tests)]
        picks = [
            (start if type(start := created[at]) is int else self._start(start), run_id, at) for run_id, at in rows
        ]
        return _behind(picks, after, reverse)

    def _start(self, moment: Moment) -> int:
        start = self._micros_of(moment)
        return NO_START if start is None else start

    def _tests(self, wanted: RunFilter) -> list[_Test]:
        table, statuses = self.table, wanted.statuses
        equal = (
            (table.pipeline, wanted.pipeline),
            (table.version, wanted.version),
            (table.parent, wanted.parent),
            (table.background, False if wanted.top_level else None),
            (table.background, True if wanted.tasks_only else None),
        )
        tests = [_equals(column, value) for column, value in equal if value is not None]
        if statuses:
            tests.append(lambda at: table.status[at] in statuses)
        if wanted.since or wanted.until:
            tests.append(_within(self._created, wanted.since, wanted.until))
        if wanted.active_since or wanted.active_until:
            tests.append(_within(self._updated, wanted.active_since, wanted.active_until))
        return tests

    def light(self, picks: Iterable[Pick]) -> Iterator[RunSummary]:
        """The runs without what only their files tell."""
        table = self.table
        for _, run_id, at in picks:
            if not table.readable[at]:
                problem = documents.problem_of(table.name[at])
                yield interpret.unreadable(run_id, problem, instant(self._created(at)))
                continue
            yield RunSummary(
                run_id=run_id,
                pipeline_name=table.pipeline[at] or "",
                pipeline_version=table.version[at] or "",
                status=table.status[at] or "",
                created_at=instant(self._created(at)),
                updated_at=instant(self._updated(at)),
                parent_run_id=table.parent[at],
                is_background_task=bool(table.background[at]),
            )

    def problems(self, run_id: str) -> tuple[str, ...]:
        """What is odd about a run apart from what its own file says: that several files hold it."""
        if run_id not in self.rivals:
            return ()
        names = ", ".join(map(documents.printable, self.files_of(run_id)))
        return (f"several files hold this run, the one saved last first: {names}",)

    def tasks_of(self, parent: str) -> list[str]:
        """The ids of the background tasks of a run."""
        return self._tasks.get(parent, [])

    @cached_property
    def _tasks(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        parents = self.table.parent
        for run_id, at in self.row_of.items():
            if (parent := parents[at]) is not None:
                found.setdefault(parent, []).append(run_id)
        return found

    @cached_property
    def tasks(self) -> dict[str, dict[str, int]]:
        """Background tasks by status, by parent."""
        counts: dict[str, dict[str, int]] = {}
        table = self.table
        for at, parent in enumerate(table.parent):
            if parent is not None and self.row_of[table.run_id[at] or ""] == at:
                by_status = counts.setdefault(parent, {})
                status = table.status[at] or ""
                by_status[status] = by_status.get(status, 0) + 1
        return counts

    # --- about the whole

    def histories_with(self, what: str) -> list[str]:
        """The ids of what has a history in which there may be such rows: ``step``, ``span`` or ``evaluation``."""
        table = self.histories
        if table is None:
            return []
        columns = {"step": table.has_run, "span": table.spans, "evaluation": table.evaluations}
        return [run_id for run_id, has in zip(table.run_id, columns[what], strict=True) if run_id is not None and has]

    @cached_property
    def by_name(self) -> dict[str, int]:
        """Rows by the names of files."""
        return {name: at for at, name in enumerate(self.table.name) if name}

    def is_known(self, run_id: str, name: str, found: os.stat_result) -> bool:
        """Whether a file of which the system says this is a state of the run, as it was when the folder was read."""
        at, table = self.by_name.get(name), self.table
        if at is None or table.run_id[at] != run_id or not table.readable[at]:
            return False
        return documents.stamp_of(found) == (table.modified[at], table.changed[at], table.size[at], table.inode[at])

    def rows_of(self, run_id: str) -> list[int]:
        """The rows of a run in the table of states, the one that counts first."""
        rows = self.rivals.get(run_id) or [self.row_of[run_id]] if run_id in self.row_of else []
        return [row for row in rows if row < len(self.states.name)]

    def files_of(self, run_id: str) -> list[str]:
        """The names of the files that hold a run, the one that counts first."""
        return [self.states.name[row] for row in self.rows_of(run_id)]

    @cached_property
    def history_of(self) -> dict[str, int]:
        """Rows in the table of histories by run id."""
        table = self.histories
        return {} if table is None else {run_id: at for at, run_id in enumerate(table.run_id) if run_id is not None}

    def last_save(self) -> datetime | None:
        """The newest update of all readable runs."""
        times = (self._updated(at) for at in self.row_of.values() if self.table.readable[at])
        return instant(max((when for when in times if when is not None), default=None))

    def unreadable(self) -> int:
        """How many files do not parse."""
        return self.table.readable.count(False)


def in_order(picks: list[Pick], reverse: bool, first: int) -> Iterator[Pick]:
    """The picks, sorted; all are sorted only if more than the `first` ones are asked for."""
    few = (nsmallest if reverse else nlargest)(first, picks)
    yield from few
    if len(few) < len(picks):
        yield from sorted(picks, reverse=not reverse)[len(few) :]


def _behind(picks: list[Pick], border: tuple[int, str] | None, reverse: bool) -> list[Pick]:
    if border is None:
        return picks
    return [pick for pick in picks if (pick[:2] > border if reverse else pick[:2] < border)]


def _equals(column: Sequence[Any], value: Any) -> _Test:
    return lambda at: bool(column[at] == value)


def _within(time_of: Callable[[int], int | None], since: datetime | None, until: datetime | None) -> _Test:
    low = None if since is None else _micros(since)
    high = None if until is None else _micros(until)

    def test(at: int) -> bool:
        when = time_of(at)
        return when is not None and (low is None or when >= low) and (high is None or when < high)

    return test
