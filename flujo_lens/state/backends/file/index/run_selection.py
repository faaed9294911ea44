"""Selecting runs of a folder of JSON files: by what is known of all, then by the files of those left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from heapq import nlargest, nsmallest
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from flujo_lens.state import interpret
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.codec import Codec
from flujo_lens.state.backends.file.format.document import Document
from flujo_lens.state.backends.file.format.tombstones import Graves, read_graves
from flujo_lens.state.backends.file.index.state_table import MICROSECOND, Moment, Scan, Stopped
from flujo_lens.state.filtering import matches
from flujo_lens.state.timestamps import EPOCH, parse_instant
from flujo_lens.state.views import RunFilter, RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.format.history import History

__all__ = ["OLDEST", "Pick", "Reader", "Snapshot", "Source", "in_order", "instant"]

Pick = tuple[int, str, int]
"""Start in microseconds since 1970 (`OLDEST` without a readable one), run id, row; sorted like this."""


def _micros(when: datetime) -> int:
    return (when - EPOCH) // MICROSECOND


def instant(micros: int | None) -> datetime | None:
    """The instant of a number of microseconds since 1970; None for None and for `OLDEST`."""
    return None if micros is None or micros == OLDEST else EPOCH + timedelta(microseconds=micros)


OLDEST = _micros(datetime.min.replace(tzinfo=UTC))
_Test = Callable[[int], bool]


class Source(NamedTuple):
    """What the files of a run hold. One of the two is there."""

    run_id: str
    document: Document | None
    history: History | None

    def raw(self) -> interpret.RawRun:
        """The run for the rules that all drivers share."""
        state = _told(self.document) if self.document else None
        if self.history is None:
            return interpret.raw_from_documents(self.run_id, state)
        from flujo_lens.state.backends.file.format.history import raw_of

        return raw_of(self.run_id, state, self.history)

    def summary(self, zone: tzinfo) -> RunSummary:
        """The run as operators read it; unreadable if its state does not parse."""
        document = self.document
        if document is not None and document.state is None:
            return interpret.unreadable(self.run_id, document.problem or "", document.changed_at)
        run = interpret.summarise(self.raw(), zone)
        if document is None or document.problem is None:
            return run
        return run._replace(problems=(*run.problems, document.problem))


def _told(document: Document) -> dict[str, Any] | None:
    """What a state tells, without the marks for what is closed."""
    if document.state is None or not document.closed:
        return document.state
    return {key: value for key, value in document.state.items() if key not in document.closed}


class Reader:
    """Reads the files of runs in an open folder.

    Args:
        folder: A descriptor of the folder.
        histories: One of its sub-folder of histories; None if there is none.
        codec: Unseals what is in them.
    """

    def __init__(self, folder: int, histories: int | None, codec: Codec) -> None:
        self.folder, self.histories, self._codec = folder, histories, codec

    @cached_property
    def graves(self) -> Graves:
        """The files that are as good as gone."""
        return read_graves(self.folder, self.histories)

    def document(self, name: str) -> Document | None:
        """The state in a file, unsealed; with a problem and marks for its large fields if there is no key for them."""
        found = documents.read_document(self.folder, name, exact=True)
        if found is None or found.state is None:
            return found
        state, errors = self._codec.shown(found.run_id, found.state)
        problem = next((error.message for error in errors.values()), None)
        return found._replace(state=state, problem=problem, closed=tuple(errors))

    def history(self, run_id: str) -> History | None:
        """The history of a run; None if it has none, or it may not be read."""
        if self.histories is None:
            return None
        from flujo_lens.state.backends.file.format import history as file_history

        with suppress(OSError):
            for name in file_history.names_found(self.histories, run_id):
                if name not in self.graves.histories:
                    return file_history.read(self.folder, self.histories, name, self._codec.real)
        return None

    def source(self, run_id: str, name: str) -> Source | None:
        """What there is of a run now, its state in the file `name` ("" for none); None if it is gone."""
        document = self.document(name) if name else None
        if document is not None and document.run_id != run_id:
            document = None
        history = self.history(run_id)
        is_run = document is not None or (history is not None and history.run is not None)
        return Source(run_id, document, history) if is_run else None


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
        self.table, self.zone = found.table, zone
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
        saved = OLDEST if updated is None else updated
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

    def select(self, wanted: RunFilter, after: Position | None, reverse: bool) -> list[Pick]:
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
        return OLDEST if start is None else start

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

    # --- by the files

    def detailed(
        self, reader: Reader, picks: Iterable[Pick], wanted: RunFilter, stop: threading.Event
    ) -> Iterator[tuple[Pick, RunSummary]]:
        """The runs with all that their files tell now, those that `wanted` admits.

        One whose files are gone meanwhile, or have become another run's, is left out.
        """
        for pick in picks:
            if stop.is_set():
                raise Stopped
            source = reader.source(pick[1], self.table.name[pick[2]])
            if source is None:
                continue
            run = self.completed(source.summary(self.zone))
            if matches(wanted, run):
                yield pick, run

    def completed(self, run: RunSummary) -> RunSummary:
        """The run with what other files tell: its background tasks, and that several files hold it."""
        if run.run_id in self.tasks:
            run = run._replace(tasks=self.tasks[run.run_id])
        if run.run_id in self.rivals:
            names = ", ".join(map(documents.printable, self.files_of(run.run_id)))
            problem = f"several files hold this run, the one saved last first: {names}"
            run = run._replace(problems=(*run.problems, problem))
        return run

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
        """The ids of what has such a history: ``spans`` or ``evaluations``."""
        table = self.histories
        columns = zip(table.run_id, getattr(table, what), strict=True) if table else ()
        return [run_id for run_id, has in columns if run_id is not None and has]

    def files_of(self, run_id: str) -> list[str]:
        """The names of the files that hold a run, the one that counts first."""
        rows = self.rivals.get(run_id) or [self.row_of[run_id]] if run_id in self.row_of else []
        return [self.table.name[at] for at in rows if self.table.name[at]]

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


def _behind(picks: list[Pick], after: Position | None, reverse: bool) -> list[Pick]:
    if after is None:
        return picks
    border = (OLDEST if after[0] is None else _micros(after[0]), after[1])
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
