"""Bringing back runs into a folder of JSON files. All of it blocks, and waits for the folder's locks.

The files of some runs are written beside their places, synced, listed as gone, put in their places, and are there in
the moment in which the list goes (see `flujo_lens.state.backends.file.format.tombstones`): a process that dies on any
line has brought back all of these runs or none of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256

from flujo_lens.errors import NotAStoreError, OperationFailedError
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.format.run_records import KeptFile, KeptRun, kept_runs
from flujo_lens.state.backends.file.format.tombstone_writer import bury, dig, uncover
from flujo_lens.state.backends.file.format.tombstones import Grave, Graves, mark_of
from flujo_lens.state.backends.file.fs.atomic_write import TempFile, drafted, read_file, sync_all
from flujo_lens.state.backends.file.writes import Changes
from flujo_lens.state.deletion import Record, Restored

__all__ = ["restore"]

_BATCH = 50
"""Runs that come back in one moment: each of their files is open meanwhile."""


def restore(changes: Changes, records: Iterable[Record], stop: threading.Event) -> Restored:
    """Bring back the runs of these records; see `flujo_lens.state.backends.base.StateBackend.restore`."""
    runs = list({run.run_id: run for run in kept_runs(records)}.values())
    done: list[str] = []
    existing: list[str] = []
    known: dict[str, bool] | None = None
    make = any(file.place == "histories" for run in runs for file in run.files)
    for at in range(0, len(runs), _BATCH):
        with changes.restoring(stop, histories=make) as (folder, histories):
            known = _known(changes, folder, stop) if known is None else known
            found = _Restoring(changes, folder, histories, known)
            absent = [run for run in runs[at : at + _BATCH] if run.cancelled is None and not found.has(run)]
            found.put_back(absent)
            absent += [run for run in runs[at : at + _BATCH] if run.cancelled is not None and found.uncancel(run)]
        done += (run.run_id for run in absent)
        existing += (run.run_id for run in runs[at : at + _BATCH] if run not in absent)
    return Restored(tuple(done), tuple(existing))


def _known(changes: Changes, folder: int, stop: threading.Event) -> dict[str, bool]:
    """The runs that are there, each with whether it has a state."""
    try:
        snapshot = changes.folder.snapshot(folder, stop)
    except NotAStoreError:
        return {}
    return {run_id: bool(snapshot.table.name[at]) for run_id, at in snapshot.row_of.items()}


class _Restoring:
    """An open folder with its sub-folder, while both locks are held.

    Args:
        changes: Writes to the folder.
        folder, histories: Their descriptors.
        known: The runs that are there, each with whether it has a state.
    """

    def __init__(self, changes: Changes, folder: int, histories: int | None, known: dict[str, bool]) -> None:
        self._changes, self._folder, self._histories, self._known = changes, folder, histories, known

    def has(self, run: KeptRun) -> bool:
        """Whether the run is there: of a state whose history stayed, whether it has a state."""
        has_state = self._known.get(run.run_id, False) or self._has_own_file(run.run_id)
        if run.mark is not None or has_state:
            return has_state
        return run.run_id in self._known or bool(self._names_of_history(run.run_id))

    def _has_own_file(self, run_id: str) -> bool:
        """Whether one of the names that the run's id stands for is its state's: it may have come since the look."""
        found = (documents.read_document(self._folder, name) for name in documents.names_of(run_id))
        return any(document is not None and document.run_id == run_id for document in found)

    def _names_of_history(self, run_id: str) -> list[str]:
        return [] if self._histories is None else history.names_found(self._histories, run_id)

    def put_back(self, runs: Sequence[KeptRun]) -> None:
        """Put the files of these runs in their places, all or none."""
        with ExitStack() as drafts:
            taken: set[tuple[str, str]] = set()
            placed = [
                (file, self._name(run, file, taken), self._draft(file, drafts)) for run in runs for file in run.files
            ]
            sync_all([draft for _, _, draft in placed])
            if self._histories is None:
                self._place(placed)
            elif placed:
                self._place_at_once(self._histories, placed)
        for run in runs:
            self._take_back_the_mark(run)

    def _draft(self, file: KeptFile, drafts: ExitStack) -> TempFile:
        draft = drafts.enter_context(drafted(self._where(file), file.content, file.name, file.modified, sync=False))
        draft.set_mode(file.mode)
        return draft

    def _where(self, file: KeptFile) -> int:
        return self._histories if file.place == "histories" and self._histories is not None else self._folder

    def _name(self, run: KeptRun, file: KeptFile, taken: set[tuple[str, str]]) -> str:
        """The name that the file had, or another of the run's, if that belongs to somebody else by now."""
        ending = documents.ENDING if file.place == "states" else history.ENDING
        for name in (file.name, *documents.names_of(run.run_id, ending)):
            if (file.place, name) not in taken and documents.lstat(self._where(file), name) is None:
                taken.add((file.place, name))
                return name
        raise OperationFailedError(f"every file name for run {run.run_id} is taken; nothing of it came back")

    # --- placing

    def _place(self, placed: Iterable[tuple[KeptFile, str, TempFile]]) -> None:
        for _, name, draft in placed:
            draft.place(name)
        self._changes.settle(self._folder)

    def _place_at_once(self, histories: int, placed: Sequence[tuple[KeptFile, str, TempFile]]) -> None:
        graves: dict[str, dict[str, Grave]] = {"states": {}, "histories": {}}
        for file, name, draft in placed:
            graves[file.place][name] = mark_of(draft.stat())
        dig(histories, Graves(**graves))
        try:
            self._place(placed)
            self._changes.settle(histories)
        except BaseException:
            with suppress(OSError):
                bury(self._folder, histories)
            raise
        uncover(histories)

    def uncancel(self, run: KeptRun) -> bool:
        """Make a run what it was before it was cancelled; False, and nothing done, if it has changed since."""
        if not (self._is_as_cancelled(run) and self._has_mark(run)):
            return False
        for file in run.files:
            with drafted(self._folder, file.content, file.name, file.modified) as draft:
                draft.place(file.name)
            self._changes.settle(self._folder)
        self._take_back_the_mark(run)
        return True

    def _is_as_cancelled(self, run: KeptRun) -> bool:
        if not run.files:
            return not self._known.get(run.run_id, False) and not self._has_own_file(run.run_id)
        try:
            file = os.open(run.files[0].name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=self._folder)
        except OSError:
            return False
        try:
            return sha256(read_file(file)).hexdigest() == run.cancelled
        finally:
            os.close(file)

    def _has_mark(self, run: KeptRun) -> bool:
        """Whether the line that its history got is the last of it."""
        if not run.mark or self._histories is None:
            return not run.mark
        length = len(run.mark)
        for name in self._names_of_history(run.run_id):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._histories)
            try:
                if os.pread(file, length, max(0, os.fstat(file).st_size - length)) == run.mark:
                    return True
            finally:
                os.close(file)
        return False

    def _take_back_the_mark(self, run: KeptRun) -> None:
        """Cut off the line that said that the run was cancelled, if it still is the last."""
        for name in self._names_of_history(run.run_id) if run.mark and self._histories is not None else ():
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=self._histories)
            try:
                end = os.fstat(file).st_size - len(run.mark or b"")
                if end >= 0 and os.pread(file, len(run.mark or b""), end) == run.mark:
                    os.ftruncate(file, end)
                    os.fsync(file)
            finally:
                os.close(file)
