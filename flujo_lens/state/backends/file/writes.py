"""Changing a folder of JSON files. All of it blocks, and waits for the folder's lock.

The lock is held where it is looked at what a name belongs to and the name is then given or taken away: for
microseconds, for what is slow (writing and syncing a draft) comes before it and the sync of the folder after
it. It is needed for every save, not only where names may collide: what a name belongs to can change between
the look and the rename (another run whose name has a hash may take it, a sweep of stale tasks may write its
own copy of the state), and an uncontended lock costs two system calls.

Histories have a lock of their own, that of their sub-folder, which is held while a line is synced.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from flujo_lens.errors import BusyError, NotAStoreError, OperationFailedError, StoreNotFoundError
from flujo_lens.serialization import safe_dumps
from flujo_lens.state.backends.file.folder import Folder, opened
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.format.claims import remove_claim
from flujo_lens.state.backends.file.format.document import HISTORY
from flujo_lens.state.backends.file.format.histories import SYSTEM, read_system
from flujo_lens.state.backends.file.format.progress_lines import batch_of, before_of, saved_line
from flujo_lens.state.backends.file.format.tombstone_writer import bury, bury_histories, remove_at_once
from flujo_lens.state.backends.file.format.tombstones import are_there
from flujo_lens.state.backends.file.fs.atomic_write import drafted, settle, sweep
from flujo_lens.state.backends.file.fs.locks import folder_lock
from flujo_lens.state.backends.file.fs.os_errors import check_writable, translated
from flujo_lens.state.backends.file.index.state_table import Stamp

__all__ = ["Changes"]

Stop = threading.Event

_SWEEP_EVERY = 3600.0
"""Seconds between two looks for leftovers."""

_REMEMBERED = 1024
"""Runs whose file this process knows to be its own."""


class Changes:
    """Writes to a folder. Safe to use from several threads.

    Args:
        folder: The folder.
        timeout: Seconds to wait for a lock.

    Raises (from any method):
        BusyError: another process held the lock all the time; nothing was changed.
        ReadOnlyStoreError: the folder may not be written.
        OperationFailedError: it cannot be written (no space); the message says whether anything was changed.
        Stopped: the caller was cancelled while waiting for the lock; nothing was changed.
    """

    def __init__(self, folder: Folder, timeout: float) -> None:
        self.folder, self._path, self._timeout = folder, folder.path, timeout
        self._own: OrderedDict[str, tuple[str, Stamp]] = OrderedDict()
        self._swept: dict[bool, float] = {}

    # --- states

    def save(self, run_id: str, data: bytes, stop: Stop) -> None:
        """Put `data` in place of the file of a run; makes the folder if it is missing.

        A process that dies on the way leaves the file before or the new one, and perhaps a draft, which the next
        write of any process removes.
        """
        with self._writing() as folder:
            with drafted(folder, data, next(documents.names_of(run_id))) as draft, self.lock(folder, stop):
                name = self._name_for(folder, run_id)
                self._remember(run_id, name, draft.place(name))
            self.settle(folder)
            self._sweep(folder, histories=False)

    def _name_for(self, folder: int, run_id: str) -> str:
        """The name of the run's file; for a new one the first that no other run, and nothing else, has taken.

        A file that this process wrote and nobody has touched since is not read again.
        """
        if run_id in self._own:
            name, stamp = self._own[run_id]
            now = documents.lstat(folder, name)
            if now is not None and _stamp(now) == stamp:
                return name
        free: str | None = None
        for name in documents.names_of(run_id):
            found = documents.read_document(folder, name)
            if found is not None and found.state is not None and found.run_id == run_id:
                return name
            is_torn = found is not None and found.state is None
            if free is None and (is_torn or documents.lstat(folder, name) is None):
                free = name
        if free is None:
            raise OperationFailedError(f"every file name for the run is taken in {self._path}", run_id=run_id)
        return free

    def _remember(self, run_id: str, name: str, placed: os.stat_result) -> None:
        self._own[run_id] = name, _stamp(placed)
        self._own.move_to_end(run_id)
        if len(self._own) > _REMEMBERED:
            self._own.popitem(last=False)

    def delete_state(self, run_id: str, stop: Stop) -> None:
        """Remove every file that holds the run's state. A run without one, and a missing folder, are no error.

        A process that dies on the way leaves some of them; of several the one that counts is removed last.
        """
        with suppress(StoreNotFoundError), self.changing() as folder:
            check_writable(folder)
            known = self._known_files(folder, run_id, stop)
            with self.lock(folder, stop):
                removed = self.remove_state(folder, run_id, known)
            if removed:
                self.settle(folder)

    def _known_files(self, folder: int, run_id: str, stop: Stop) -> list[str]:
        """Files of other names than the run's own, as the last look at the folder knows them: deleting many runs
        does not look at all files for each."""
        try:
            return self.folder.last_snapshot(folder, stop).files_of(run_id)
        except NotAStoreError:
            return []

    def remove_state(self, folder: int, run_id: str, known: Sequence[str]) -> int:
        """Remove the run's files, by their own names and by those `known`; return how many there were."""
        mine = _files_of(folder, run_id, known)
        for name in reversed(mine):
            os.unlink(name, dir_fd=folder)
        self._own.pop(run_id, None)
        return len(mine)

    # --- histories

    def append(self, run_id: str, line: bytes, stop: Stop) -> None:
        """Add a line to the history of a run, whole or not at all; makes the folders if they are missing."""
        with self._writing() as folder, self._histories(folder) as histories:
            with self.lock(histories, stop):
                bury_histories(histories)
                history.append(folder, histories, run_id, line)
            self._sweep(histories, histories=True)

    def save_both(self, folder: int, histories: int, run_id: str, state: bytes | None, lines: Sequence[bytes]) -> None:
        """Add lines to the history of a run, and save its state, where there are such; both locks must be held.

        All of it counts from the moment on in which the state is in its place: a process that dies before that leaves
        lines that nobody reads, as does an error.
        """
        if state is None:
            if lines:
                history.append(folder, histories, run_id, batch_of(run_id, lines, None))
            return
        with drafted(folder, state, next(documents.names_of(run_id))) as draft:
            name = self._name_for(folder, run_id)
            before = before_of(folder, name)
            if lines:
                is_told = before is not None and not before.is_by(state)
                batch = batch_of(run_id, lines, before if is_told else None)
                history.append(folder, histories, run_id, batch)
            else:
                history.cut_unfinished(folder, histories, run_id)
            self._remember(run_id, name, draft.place(name))
            self.settle(folder)
        if lines and before is not None and before.content is None:
            with suppress(OSError, OperationFailedError):
                history.append(folder, histories, run_id, saved_line(run_id), sync=False)

    def set_system(self, key: str, row: Any, stop: Stop) -> None:
        """Set the row of a global key; the others stay."""
        with self._writing() as folder, self._histories(folder) as histories:
            with self.lock(histories, stop):
                data = safe_dumps({**read_system(histories), key: row}, sort_keys=True)
                with drafted(histories, data, SYSTEM) as draft:
                    draft.place(SYSTEM)
                self.settle(histories)
            self._sweep(histories, histories=True)

    def delete_run(self, run_id: str, stop: Stop) -> None:
        """Remove the state of a run and its history, in one moment; a run that is not there is no error."""
        with suppress(StoreNotFoundError):
            with self.changing() as folder:
                known = self._known_files(folder, run_id, stop)
            with self.both(stop) as (folder, histories):
                check_writable(folder)
                self.remove_runs(folder, histories, {run_id: known})

    def remove_runs(self, folder: int, histories: int | None, known: Mapping[str, Sequence[str]]) -> None:
        """Remove some runs with all that hangs on them, in one moment; both locks must be held.

        Args:
            folder, histories: The folder and its sub-folder.
            known: By run, its files of other names than its own.
        """
        found = [name for run_id, names in known.items() for name in _files_of(folder, run_id, names)]
        of_runs = [] if histories is None else [n for run_id in known for n in history.names_found(histories, run_id)]
        if found or of_runs:
            remove_at_once(folder, histories, found, of_runs)
        if histories is not None:
            for run_id in known:
                remove_claim(histories, run_id)
        self.forget(known)

    # --- the folder

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """A descriptor of the folder, which is made if it is missing."""
        if not os.path.isdir(self._path):
            with translated(self._path):
                _make_folder(self._path)
        with self.changing() as folder:
            yield folder

    @contextmanager
    def changing(self) -> Iterator[int]:
        """A descriptor of the folder, if there is one; see `opened` for the errors."""
        with opened(self._path) as folder, translated(self._path):
            yield folder

    @contextmanager
    def _histories(self, folder: int) -> Iterator[int]:
        """A descriptor of the sub-folder of histories, which is made if it is missing."""
        if documents.lstat(folder, HISTORY) is None:
            with suppress(FileExistsError):
                os.mkdir(HISTORY, dir_fd=folder)
            self.settle(folder)
        with documents.history_folder(folder) as histories:
            if histories is None:
                raise OperationFailedError(f"{HISTORY} in {self._path} is no folder; nothing was changed")
            yield histories

    @contextmanager
    def both(self, stop: Stop) -> Iterator[tuple[int, int | None]]:
        """Descriptors of the folder and of its sub-folder (None if there is none), locked; nothing in them is as
        good as gone."""
        with (
            self.changing() as folder,
            documents.history_folder(folder) as histories,
            self._locked(folder, histories, stop),
        ):
            yield folder, histories

    @contextmanager
    def restoring(self, stop: Stop, *, histories: bool) -> Iterator[tuple[int, int | None]]:
        """As `both`; the folder is made if it is missing, and the sub-folder if there will be `histories`."""
        with self._writing() as folder:
            below = self._histories(folder) if histories else documents.history_folder(folder)
            with below as found, self._locked(folder, found, stop):
                yield folder, found

    @contextmanager
    def _locked(self, folder: int, histories: int | None, stop: Stop) -> Iterator[None]:
        with self.lock(folder, stop), self.lock(histories, stop) if histories is not None else nullcontext():
            if histories is not None:
                bury(folder, histories)
            yield

    def finish(self, stop: Stop) -> None:
        """Remove what is as good as gone, and the leftovers of crashes."""
        with self.both(stop) as (folder, histories):
            for place in (folder, histories):
                if place is not None:
                    sweep(place)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Files of these runs are not known any more."""
        for run_id in run_ids:
            self._own.pop(run_id, None)

    def lock(self, folder: int, stop: Stop) -> AbstractContextManager[None]:
        return folder_lock(folder, self._path, self._timeout, stop)

    def settle(self, folder: int) -> None:
        """Make what was changed survive the death of the machine.

        Raises:
            OperationFailedError: the disk does not take it.
        """
        try:
            settle(folder)
        except OSError as error:
            raise OperationFailedError(
                f"{self._path} was changed, but the disk does not confirm it: {error.strerror}",
                hint="look at the disk, then do the same again",
                path=str(self._path),
            ) from error

    def _sweep(self, folder: int, *, histories: bool) -> None:
        """Remove the leftovers of crashes, at the first write and then once an hour: it looks at every name."""
        now = monotonic()
        if now - self._swept.get(histories, -math.inf) > _SWEEP_EVERY:
            self._swept[histories] = now
            sweep(folder)
            if not histories and are_there(folder):
                with suppress(BusyError):
                    self.finish(threading.Event())


# --- parts


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _files_of(folder: int, run_id: str, known: Sequence[str]) -> list[str]:
    """The files that hold a run's state, of those `known` and of its own names."""
    names = dict.fromkeys((*known, *documents.names_of(run_id)))
    return [name for name in names if _holds(folder, name, run_id)]


def _holds(folder: int, name: str, run_id: str) -> bool:
    found = documents.read_document(folder, name)
    return found is not None and found.run_id == run_id


def _make_folder(path: Path) -> None:
    """Make a folder and what is missing above it, so that they survive the death of the machine."""
    if not path.parent.is_dir():
        _make_folder(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path)
    above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        settle(above)
    finally:
        os.close(above)
