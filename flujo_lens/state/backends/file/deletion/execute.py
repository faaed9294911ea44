"""Carrying out a deletion in a folder of JSON files: batches of whole families, each under both locks.

A batch goes in one moment (see `flujo_lens.state.backends.file.format.tombstones`): a process that dies on any line has
deleted all of it or nothing. Only in a folder without a sub-folder of histories, where a list would have no place,
files go one by one: tasks before their run, and of several files of a run the one that counts last.

The runs of a batch are looked at again under the locks. Files that are as they were when it was planned are not read
for that; the whole folder is looked at every few seconds, for background tasks that have come since.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.core.selection import Chooser, Families, skipped_why
from flujo_lens.state.backends.file.deletion.plan import Choice, Files, Orphan, RunReader
from flujo_lens.state.backends.file.format import claims as file_claims
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.format.history_lines import line_of
from flujo_lens.state.backends.file.format.run_records import records_of
from flujo_lens.state.backends.file.format.tombstone_writer import remove_at_once
from flujo_lens.state.backends.file.index.run_selection import Reader
from flujo_lens.state.backends.file.index.state_table import Stamp
from flujo_lens.state.backends.file.writes import Changes
from flujo_lens.state.deletion import BackupCallback, Deleted, DeletionPlan, Skipped

__all__ = ["Batch", "Deletion"]

_FRESH, _SHARE = 5.0, 20.0
"""Seconds for which a look at the whole folder is good; longer by so many times what it took."""

_HEAVY = 16 * 1024 * 1024
"""Bytes of files in a batch beyond which it gets no more runs: a batch is held in memory."""

Marked = Mapping[str, int]
"""The runs of a family, each with the mark of its files when it was planned."""


class Batch(NamedTuple):
    """What goes together."""

    families: Sequence[Marked] = ()
    orphans: Sequence[Orphan] = ()


class Deletion:
    """A plan on its way.

    Args:
        changes: Writes to the folder.
        plan: What is to go.
        keep: Is handed the records of each batch before it goes.
        batch_size: Runs a batch at most.
    """

    def __init__(self, changes: Changes, plan: DeletionPlan, keep: BackupCallback | None, batch_size: int) -> None:
        choice = plan.choice
        if not isinstance(choice, Choice):
            raise NotSupportedError(
                f"this plan is not of the store {changes.folder.path}", hint="make it with plan_deletion"
            )
        self._changes, self._asked, self._keep = changes, plan.request, keep
        self._choice, self._size = choice, max(1, batch_size)
        self._looker: RunReader | None = None
        self._good_until = 0.0
        self._tasks: Mapping[str, Sequence[str]] = {}

    def begin(self, stop: threading.Event) -> None:
        """Finish what was interrupted earlier."""
        self._changes.finish(stop)

    def batches(self) -> Iterator[Batch]:
        """What goes together, in the order of the plan; what hangs on no run last."""
        families: list[Marked] = []
        runs = heavy = 0
        for family, size in self._choice.marked():
            if families and (runs + len(family) > self._size or heavy + size > _HEAVY):
                yield Batch(families)
                families, runs, heavy = [], 0, 0
            families.append(family)
            runs, heavy = runs + len(family), heavy + size
        if families:
            yield Batch(families)
        for at in range(0, len(self._choice.orphans), self._size):
            yield Batch(orphans=self._choice.orphans[at : at + self._size])

    def delete(self, batch: Batch, stop: threading.Event) -> Deleted:
        """Delete what is still as it has to be."""
        self._look_around(stop)
        with self._changes.both(stop) as (folder, histories):
            work = _Work(folder, histories)
            if batch.orphans:
                return self._delete_orphans(work, batch.orphans)
            looker = self._up_to_date(work, batch, stop)
            going, skipped = self._look_again(looker, batch)
            return self._delete(work, looker, going)._replace(skipped=tuple(skipped))

    # --- looking again

    def _look_around(self, stop: threading.Event) -> None:
        began = monotonic()
        if self._looker is None or began > self._good_until:
            with self._changes.folder.reading() as reader:
                self._take(RunReader(self._changes.folder, reader, self._asked, {}, stop))
            self._good_until = monotonic() + max(_FRESH, _SHARE * (monotonic() - began))

    def _take(self, looker: RunReader) -> RunReader:
        self._looker, self._tasks = looker, looker.tasks()
        return looker

    def _up_to_date(self, work: _Work, batch: Batch, stop: threading.Event) -> RunReader:
        """A look that has these runs as they are now, under the locks: their files, and who holds them."""
        looker = self._looker
        assert looker is not None
        known = looker.snapshot.row_of
        ids = [run_id for family in batch.families for run_id in family]
        if not all(run_id not in known or work.has(run_id, looker.files(run_id)) for run_id in ids):
            reader = Reader(work.folder, work.histories, self._changes.folder.codec)
            looker = self._take(RunReader(self._changes.folder, reader, self._asked, {}, stop))
        looker.held = work.held(ids)
        return looker

    def _look_again(self, looker: RunReader, batch: Batch) -> tuple[list[str], list[Skipped]]:
        """The runs that go, and those that stay. Runs that are gone already are neither."""
        going: list[str] = []
        skipped: list[Skipped] = []
        for family in batch.families:
            there = {run_id: mark for run_id, mark in family.items() if run_id in looker.snapshot.row_of}
            why = self._why_not(looker, there) if there else ""
            if why:
                skipped += [Skipped(run_id, why) for run_id in there]
            else:
                going += there
        return going, skipped

    def _why_not(self, looker: RunReader, family: Marked) -> str:
        is_held = not self._asked.force and any(run_id in looker.held for run_id in family)
        if self._asked.run_ids is not None:
            return "held" if is_held else ""
        if any(task not in family for run_id in family for task in self._tasks.get(run_id, ())):
            return "changed"
        if all(looker.files(run_id).mark == mark for run_id, mark in family.items()):
            return "held" if is_held else ""
        reason, _ = Chooser(self._asked, Families()).reason_to_stay([looker.member(run_id) for run_id in family])
        return skipped_why(reason)

    # --- deleting

    def _delete(self, work: _Work, looker: RunReader, going: Sequence[str]) -> Deleted:
        if not going:
            return Deleted()
        files = {run_id: looker.files(run_id) for run_id in going}
        marks = {run_id: self._mark(run_id) for run_id in going if looker.is_started(run_id)}
        only_states = {run_id: marks.get(run_id, b"") for run_id in going if self._asked.state_only}
        if self._keep is not None:
            kept = (work.records(run_id, files[run_id], only_states.get(run_id)) for run_id in going)
            self._keep([record for records in kept for record in records])
        if only_states:
            gone = work.remove_states(files, {run_id: mark for run_id, mark in only_states.items() if mark})
        else:
            gone = work.remove(files.values())
            work.remove_claims(going)
        self._changes.forget(going)
        statuses = Counter(looker.status(run_id) for run_id in going)
        return Deleted(tuple(going), dict(statuses), {kind: count for kind, count in gone.items() if count})

    def _mark(self, run_id: str) -> bytes:
        """The line that says of a history whose state goes that the run was cancelled."""
        return line_of(self._changes.folder.codec.real, run_id, "run_end", {"status": "cancelled"})

    def _delete_orphans(self, work: _Work, orphans: Sequence[Orphan]) -> Deleted:
        """Delete histories that belong to no run still."""
        looker = self._looker
        assert looker is not None
        known = looker.snapshot.row_of
        found = ((orphan, work.history_of(orphan.run_id)) for orphan in orphans if orphan.run_id not in known)
        going = [(orphan, files) for orphan, files in found if files is not None and files.mark == orphan.mark]
        if self._keep is not None and going:
            kept = (work.records(orphan.run_id, files) for orphan, files in going)
            self._keep([record for records in kept for record in records])
        work.remove(files for _, files in going)
        count = sum(orphan.rows for orphan, _ in going)
        return Deleted(rows={"evaluations": count} if count else {}, orphans=count)


class _Work:
    """An open folder with its sub-folder, while both locks are held."""

    def __init__(self, folder: int, histories: int | None) -> None:
        self.folder, self.histories = folder, histories

    # --- looking

    def has(self, run_id: str, files: Files) -> bool:
        """Whether the files of a run are these, as they were."""
        states = {name: _stamp(self.folder, name) for name in files.states}
        others = (name for name in documents.names_of(run_id) if name not in states)
        return not any(self._holds(name, run_id) for name in others) and self._is(files, states, run_id)

    def _is(self, files: Files, states: Mapping[str, Stamp | None], run_id: str) -> bool:
        there = {name: stamp for name, stamp in states.items() if stamp is not None}
        return len(there) == len(states) and Files.of(there, self._histories_of(run_id)).mark == files.mark

    def _holds(self, name: str, run_id: str) -> bool:
        found = documents.read_document(self.folder, name)
        return found is not None and found.run_id == run_id

    def _histories_of(self, run_id: str) -> dict[str, Stamp]:
        if self.histories is None:
            return {}
        stamps = {name: _stamp(self.histories, name) for name in history.names_found(self.histories, run_id)}
        return {name: stamp for name, stamp in stamps.items() if stamp is not None}

    def history_of(self, run_id: str) -> Files | None:
        """The history of what has no state; None if it has one, or there is none."""
        if any(self._holds(name, run_id) for name in documents.names_of(run_id)):
            return None
        found = self._histories_of(run_id)
        return Files.of({}, found) if found else None

    def held(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Those of the runs that living processes hold, and which ones."""
        if self.histories is None:
            return {}
        claims, now = file_claims.read_claims(self.histories, run_ids), datetime.now(UTC)
        return {run_id: str(claim.holder) for run_id, claim in claims.items() if not claim.has_ended(now)}

    # --- keeping, removing

    def remove_claims(self, run_ids: Sequence[str]) -> None:
        """Remove the claims on runs that are gone; one that is left behind by a crash ends by itself."""
        if self.histories is not None:
            for run_id in run_ids:
                file_claims.remove_claim(self.histories, run_id)

    def records(self, run_id: str, files: Files, mark: bytes | None = None) -> list[dict[str, object]]:
        """What is kept of a run."""
        return records_of(self.folder, self.histories, run_id, files, mark)

    def remove(self, files: Iterable[Files]) -> dict[str, int]:
        """Remove all files of some runs; return how many there were."""
        every = list(files)
        states = [name for one in every for name in one.states]
        histories = [name for one in every for name in one.histories]
        remove_at_once(self.folder, self.histories, states, histories)
        return {"states": len(states), "histories": len(histories)}

    def remove_states(self, files: Mapping[str, Files], marks: Mapping[str, bytes]) -> dict[str, int]:
        """Remove the states of some runs, whose histories get a line first; return how many files there were.

        A process that dies between the two leaves the state, which is what counts.
        """
        for run_id, mark in marks.items():
            if self.histories is not None:
                history.append(self.folder, self.histories, run_id, mark)
        return self.remove(one._replace(histories=()) for one in files.values())


def _stamp(folder: int, name: str) -> Stamp | None:
    try:
        found = os.stat(name, dir_fd=folder)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
