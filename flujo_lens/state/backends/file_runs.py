"""Selecting runs of a folder of JSON files: by the entries of all, then by the files of those left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from heapq import nlargest, nsmallest
from typing import Any

from flujo_lens.state import interpret
from flujo_lens.state.backends import file_documents as documents
from flujo_lens.state.backends import file_index as index
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.file_documents import Document
from flujo_lens.state.backends.file_index import MICROSECOND, Entry, Moment, Scan, Stopped
from flujo_lens.state.matching import matches
from flujo_lens.state.timestamps import EPOCH, parse_instant
from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["OLDEST", "Pick", "Snapshot", "in_order", "instant", "summary_of"]

Pick = tuple[int, str, str]
"""Start in microseconds since 1970 (`OLDEST` without a readable one), run id, file name; sorted like this."""


def _micros(when: datetime) -> int:
    return (when - EPOCH) // MICROSECOND


def instant(micros: int | None) -> datetime | None:
    """The instant of a number of microseconds since 1970; None for None and for `OLDEST`."""
    return None if micros is None or micros == OLDEST else EPOCH + timedelta(microseconds=micros)


OLDEST = _micros(datetime.min.replace(tzinfo=UTC))
_Test = Callable[[Entry], bool]


def summary_of(document: Document, zone: tzinfo) -> RunSummary:
    """The run in a file as operators read it."""
    if document.state is None:
        return interpret.unreadable(document.run_id, document.problem or "", document.changed_at)
    return interpret.summarise(interpret.raw_from_documents(document.run_id, document.state), zone)


class Snapshot:
    """The runs of a folder at one moment, each once.

    Of several files with one run id the one that was saved last counts, but a readable one before any other.

    `names` are their files by run id, `rivals` all files of the runs that several files hold, `strange` is
    how many files are no runs.

    Args:
        found: What the folder holds.
        zone: The zone of naive times.
    """

    def __init__(self, found: Scan, zone: tzinfo) -> None:
        self.entries, self.zone = found.entries, zone
        self.names: dict[str, str] = {}
        self.rivals: dict[str, list[str]] = {}
        self.strange = found.foreign
        self._tasks: list[str] = []
        for name, entry in self.entries.items():
            if len(entry) <= index.RUN_ID:
                self.strange += 1
                continue
            first = self.names.setdefault(entry[index.RUN_ID], name)
            if first is not name:
                self.rivals.setdefault(entry[index.RUN_ID], [first]).append(name)
            if entry[index.PARENT] is not None:
                self._tasks.append(name)
        for run_id, names in self.rivals.items():
            names.sort(key=self._last_saved, reverse=True)
            self.names[run_id] = names[0]

    def _last_saved(self, name: str) -> tuple[bool, int, int, str]:
        entry = self.entries[name]
        updated = self._updated(entry)
        return entry[index.READABLE], OLDEST if updated is None else updated, entry[index.MTIME], name

    def _read(self, moment: Moment) -> int | None:
        if isinstance(moment, str):
            when = parse_instant(moment, self.zone)
            return None if when is None else _micros(when)
        return moment

    def _start(self, moment: Moment) -> int:
        start = self._read(moment)
        return OLDEST if start is None else start

    def _created(self, entry: Entry) -> int | None:
        return self._read(entry[index.CREATED])

    def _updated(self, entry: Entry) -> int | None:
        times = (self._read(entry[index.CREATED]), self._read(entry[index.UPDATED]))
        return max((when for when in times if when is not None), default=None)

    # --- by the entries

    def select(self, wanted: RunFilter, after: Position | None, reverse: bool) -> list[Pick]:
        """The runs behind `after` that `wanted` admits, texts and metadata apart; in no order."""
        entries, tests = self.entries, self._tests(wanted)
        names: Iterable[tuple[str, str]] = self.names.items()
        if tests:
            names = [pair for pair in names if all(test(entries[pair[1]]) for test in tests)]
        picks = [
            (start if type(start := entries[name][index.CREATED]) is int else self._start(start), run_id, name)
            for run_id, name in names
        ]
        return _behind(picks, after, reverse)

    def _tests(self, wanted: RunFilter) -> list[_Test]:
        equal = {index.PIPELINE: wanted.pipeline, index.VERSION: wanted.version, index.PARENT: wanted.parent}
        tests = [_equals(at, value) for at, value in equal.items() if value is not None]
        if wanted.statuses:
            tests.append(lambda entry: entry[index.STATUS] in wanted.statuses)
        if wanted.top_level:
            tests.append(_equals(index.BACKGROUND, False))
        if wanted.tasks_only:
            tests.append(_equals(index.BACKGROUND, True))
        if wanted.since or wanted.until:
            tests.append(_within(self._created, wanted.since, wanted.until))
        if wanted.active_since or wanted.active_until:
            tests.append(_within(self._updated, wanted.active_since, wanted.active_until))
        return tests

    def light(self, picks: Iterable[Pick]) -> Iterator[RunSummary]:
        """The runs without what only their files tell."""
        for _, run_id, name in picks:
            entry = self.entries[name]
            if not entry[index.READABLE]:
                yield interpret.unreadable(run_id, documents.problem_of(name), instant(self._created(entry)))
                continue
            yield RunSummary(
                run_id=run_id,
                pipeline_name=entry[index.PIPELINE],
                pipeline_version=entry[index.VERSION],
                status=entry[index.STATUS],
                created_at=instant(self._created(entry)),
                updated_at=instant(self._updated(entry)),
                parent_run_id=entry[index.PARENT],
                is_background_task=entry[index.BACKGROUND],
            )

    # --- by the files

    def detailed(
        self, folder: int, picks: Iterable[Pick], wanted: RunFilter, stop: threading.Event
    ) -> Iterator[tuple[Pick, RunSummary]]:
        """The runs with all that their files tell now, those that `wanted` admits.

        One whose file is gone meanwhile, or has become another run's, is left out.
        """
        for pick in picks:
            if stop.is_set():
                raise Stopped
            document = documents.read_document(folder, pick[2])
            if document is None or document.run_id != pick[1]:
                continue
            run = self.completed(summary_of(document, self.zone))
            if matches(wanted, run):
                yield pick, run

    def completed(self, run: RunSummary) -> RunSummary:
        """The run with what other files tell: its background tasks, and that several files hold it."""
        if run.run_id in self.tasks:
            run = run._replace(tasks=self.tasks[run.run_id])
        if run.run_id in self.rivals:
            names = ", ".join(documents.stem_of(name) + documents.ENDING for name in self.rivals[run.run_id])
            problem = f"several files hold this run, the one saved last first: {names}"
            run = run._replace(problems=(*run.problems, problem))
        return run

    @cached_property
    def tasks(self) -> dict[str, dict[str, int]]:
        """Background tasks by status, by parent."""
        counts: dict[str, dict[str, int]] = {}
        for name in self._tasks:
            entry = self.entries[name]
            if self.names[entry[index.RUN_ID]] == name:
                by_status = counts.setdefault(entry[index.PARENT], {})
                by_status[entry[index.STATUS]] = by_status.get(entry[index.STATUS], 0) + 1
        return counts

    # --- about the whole

    def files_of(self, run_id: str) -> list[str]:
        """The names of the files that hold a run."""
        return self.rivals.get(run_id) or [name for name in (self.names.get(run_id),) if name is not None]

    def last_save(self) -> datetime | None:
        """The newest update of all readable runs."""
        runs = (self.entries[name] for name in self.names.values())
        times = (self._updated(entry) for entry in runs if entry[index.READABLE])
        return instant(max((when for when in times if when is not None), default=None))

    def unreadable(self) -> list[str]:
        """The names of the files that do not parse."""
        return sorted(name for name, entry in self.entries.items() if entry[index.RUN_ID :] and not entry[-1])


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


def _equals(at: int, value: Any) -> _Test:
    return lambda entry: bool(entry[at] == value)


def _within(time_of: Callable[[Entry], int | None], since: datetime | None, until: datetime | None) -> _Test:
    low = None if since is None else _micros(since)
    high = None if until is None else _micros(until)

    def test(entry: Entry) -> bool:
        when = time_of(entry)
        return when is not None and (low is None or when >= low) and (high is None or when < high)

    return test
