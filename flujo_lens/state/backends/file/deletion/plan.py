"""Planning a deletion in a folder of JSON files, out of the table that lists are made of. Nothing is written.

Only the files of runs whose times the table does not tell are read, and those that a filter by texts needs. Counted
are files: ``states`` (a run can have several) and ``histories``. The library's files ``_granular_blobs:*`` belong to
no run that could be told: they stay.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from flujo_lens.state.backends.core.selection import Chooser, Member, families, last_sign
from flujo_lens.state.backends.file.folder import Folder
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.index.history_table import HistoryTable
from flujo_lens.state.backends.file.index.run_selection import Reader, instant
from flujo_lens.state.backends.file.index.state_table import Stamp, Table
from flujo_lens.state.deletion import DeletionPlan, DeletionRequest
from flujo_lens.state.filtering import needs_details
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import EMPTY, RunFilter

__all__ = ["Choice", "Files", "Orphan", "RunReader", "make_plan"]


class Files(NamedTuple):
    """The files of a run: their names, and what they were like.

    `state` has the one that counts first. `mark` changes with any of the files.
    """

    states: tuple[str, ...]
    histories: tuple[str, ...]
    size: int
    mark: int

    @classmethod
    def of(cls, states: Mapping[str, Stamp], histories: Mapping[str, Stamp]) -> Files:
        """Those with these names and stamps."""
        stamps = [*sorted(states.items()), *histories.items()]
        size = sum(stamp[2] for _, stamp in stamps)
        return cls(tuple(states), tuple(histories), size, hash(tuple(stamp for _, stamp in stamps)))


class Orphan(NamedTuple):
    """A history that belongs to no run, and how many evaluations are in it."""

    run_id: str
    mark: int
    rows: int


class Choice:
    """The chosen runs by family, each with the mark of its files; and histories without a run."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...]] = []
        self.marks, self.sizes = array("q"), array("q")
        self.orphans: list[Orphan] = []
        self.states = self.histories = 0

    def add(self, members: Sequence[Member]) -> None:
        """Take a family; the key of a member is its `Files`."""
        self.all.append(tuple(member.run_id for member in members))
        for member in members:
            files: Files = member.key
            self.marks.append(files.mark)
            self.states += len(files.states)
            self.histories += len(files.histories)
        self.sizes.append(sum(member.key.size for member in members))

    def marked(self) -> Iterator[tuple[dict[str, int], int]]:
        """The families, each as its runs with their marks, and its size in bytes."""
        at = 0
        for family, size in zip(self.all, self.sizes, strict=True):
            yield dict(zip(family, self.marks[at : at + len(family)], strict=True)), size
            at += len(family)


def make_plan(folder: Folder, asked: DeletionRequest, held: Mapping[str, str], stop: threading.Event) -> DeletionPlan:
    """What `asked` takes now; `held` are the runs that living processes hold, and which ones."""
    choice = Choice()
    chooser = Chooser(asked, choice)
    missing: tuple[str, ...] = ()
    with folder.reading() as reader:
        looker = RunReader(folder, reader, asked, held, stop)
        if asked.run_ids is not None:
            missing = _take_named(looker, chooser, asked.run_ids)
        elif asked.cutoff is not None or asked.keep_last is not None:
            for family in looker.families():
                chooser.offer(family)
        if asked.orphans_before is not None:
            choice.orphans = list(looker.orphans(asked.orphans_before))
    counts = {"states": choice.states, "histories": choice.histories}
    rows = sum(orphan.rows for orphan in choice.orphans)
    return replace(
        chooser.plan(choice, len(looker.snapshot.row_of)),
        missing=missing,
        held={run_id: held[run_id] for run_id in asked.run_ids or () if run_id in held},
        orphans={"evaluations": rows} if rows else EMPTY,
        rows={kind: count for kind, count in counts.items() if count},
        size_bytes=sum(choice.sizes),
        unfinished=looker.unfinished,
    )


def _take_named(looker: RunReader, chooser: Chooser, run_ids: Sequence[str]) -> tuple[str, ...]:
    asked = list(dict.fromkeys(run_ids))
    known = looker.snapshot.row_of
    for run_id in asked:
        if run_id in known:
            chooser.take([looker.member(run_id)])
    return tuple(run_id for run_id in asked if run_id not in known)


class RunReader:
    """Reads the runs of a folder as members of a choice, as they are at one moment.

    Args:
        folder: The folder.
        reader: It, open.
        asked: What is asked.
        held: The runs that living processes hold.
        stop: Ends it when it is set.
    """

    def __init__(
        self, folder: Folder, reader: Reader, asked: DeletionRequest, held: Mapping[str, str], stop: threading.Event
    ) -> None:
        self._reader, self._asked, self.held = reader, asked, held
        found, self.snapshot = folder.scan(reader.folder, stop)
        self._states = found.table
        self._histories = found.histories.table if found.histories else None
        ids = self._histories.run_id if self._histories else ()
        self._history_of = {run_id: at for at, run_id in enumerate(ids) if run_id is not None}
        self.unfinished = max(len(reader.graves.states), len(reader.graves.histories))
        self._admitted = self._select(stop)

    def _select(self, stop: threading.Event) -> frozenset[str] | None:
        """The runs that the filter admits, whatever their status; None for all."""
        wanted = self._asked.wanted._replace(statuses=frozenset())
        if wanted == RunFilter():
            return None
        picks = self.snapshot.select(wanted, None, reverse=False)
        if not needs_details(wanted):
            return frozenset(run_id for _, run_id, _ in picks)
        found = self.snapshot.detailed(self._reader, picks, wanted, stop)
        return frozenset(run.run_id for _, run in found)

    # --- families

    def families(self) -> Iterator[list[Member]]:
        """All runs, with their background tasks; those without any one by one, as most are."""
        parents = self.snapshot.table.parent
        named = {parent for parent in parents if parent is not None}
        related = []
        for run_id, at in self.snapshot.row_of.items():
            if parents[at] is None and run_id not in named:
                yield [self.member(run_id)]
            else:
                related.append(run_id)
        yield from families(map(self.member, related))

    def tasks(self) -> dict[str, list[str]]:
        """Background tasks by parent."""
        found: dict[str, list[str]] = {}
        parents = self.snapshot.table.parent
        for run_id, at in self.snapshot.row_of.items():
            parent = parents[at]
            if parent is not None:
                found.setdefault(parent, []).append(run_id)
        return found

    def member(self, run_id: str) -> Member:
        """A run that is there."""
        at, table = self.snapshot.row_of[run_id], self.snapshot.table
        return Member(
            run_id,
            self.status(run_id),
            table.pipeline[at] or "",
            self._updated(run_id),
            started=self.snapshot.started(at) if self._asked.keep_last is not None else None,
            admitted=self._admitted is None or run_id in self._admitted,
            parent=table.parent[at],
            held=run_id in self.held,
            key=self.files(run_id),
        )

    def status(self, run_id: str) -> str:
        """The effective status of a run that is there."""
        return self.snapshot.table.status[self.snapshot.row_of[run_id]] or ""

    def is_started(self, run_id: str) -> bool:
        """Whether the history of a run is that of a run, not of its evaluations alone."""
        at = self._history_of.get(run_id)
        return at is not None and self._histories is not None and self._histories.has_run[at]

    def files(self, run_id: str) -> Files:
        """The files of a run."""
        states, at = self._states, self._history_of.get(run_id)
        stamps = {states.name[row]: _stamp(states, row) for row in self._rows(run_id)}
        table = self._histories
        history = {table.name[at]: _stamp(table, at)} if table is not None and at is not None else {}
        return Files.of(stamps, history)

    def _rows(self, run_id: str) -> list[int]:
        """The rows of a run in the table of states, the one that counts first."""
        rows = self.snapshot.rivals.get(run_id) or [self.snapshot.row_of[run_id]]
        return [row for row in rows if row < len(self._states.name)]

    # --- ages

    def _updated(self, run_id: str) -> datetime | None:
        """The last update; None if one of its times, in any of its files, cannot be read."""
        known: list[int] = []
        texts: list[object] = []
        for row in self._rows(run_id):
            if not self._states.readable[row]:
                return None
            times = (self._states.created[row], self._states.updated[row])
            known += [time for time in times if isinstance(time, int)]
            texts += self._read_times(row) if None in times else [time for time in times if isinstance(time, str)]
        at = self._history_of.get(run_id)
        if at is not None and self._histories is not None:
            if not self._histories.dated[at]:
                return None
            updated = self._histories.updated[at]
            known += [] if updated is None else [updated]
        return self._newest(known, texts)

    def _newest(self, known: Sequence[int], texts: Sequence[object]) -> datetime | None:
        newest = instant(max(known)) if known else None
        if texts:
            return last_sign(texts, () if newest is None else (newest,), (self.snapshot.zone,), self._asked.now)
        return newest if newest is not None and newest <= self._asked.now else None

    def _read_times(self, row: int) -> Sequence[object]:
        """The times in a file of which the table does not tell one: there may be none, or one that is no time."""
        found = documents.read_document(self._reader.folder, self._states.name[row])
        state = found.state if found else None
        return ("unreadable",) if state is None else [state.get(name) for name in ("created_at", "updated_at")]

    # --- what hangs on no run

    def orphans(self, before: datetime) -> Iterator[Orphan]:
        """Histories whose run is not there, of which everything is older than `before`."""
        table = self._histories
        for run_id, at in self._history_of.items():
            if table is None or run_id in self.snapshot.row_of or not table.evaluations[at]:
                continue
            orphan = self.orphan(run_id, before)
            if orphan is not None:
                yield orphan._replace(mark=self._mark_of_history(at))

    def _mark_of_history(self, at: int) -> int:
        table = self._histories
        assert table is not None
        return Files.of({}, {table.name[at]: _stamp(table, at)}).mark

    def orphan(self, run_id: str, before: datetime) -> Orphan | None:
        """A history without a run, if it is old and all of it can be read."""
        history = self._reader.history(run_id)
        if history is None or history.run is not None or history.problems:
            return None
        times = [parse_instant(row.get("created_at")) for row in history.evaluations]
        is_old = bool(times) and all(time is not None and time < before for time in times)
        return Orphan(run_id, 0, len(times)) if is_old else None


def _stamp(table: Table | HistoryTable, row: int) -> Stamp:
    return table.modified[row], table.changed[row], table.size[row], table.inode[row]
