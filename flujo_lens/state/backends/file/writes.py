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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic

from flujo_lens.errors import BusyError, OperationFailedError
from flujo_lens.fs.atomic_write import drafted, settle, sweep
from flujo_lens.state.backends.core.folder_lock import folder_lock
from flujo_lens.state.backends.file.folder import opened
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.format.document import HISTORY
from flujo_lens.state.backends.file.format.progress_lines import batch_of, before_of, saved_line
from flujo_lens.state.backends.file.format.tombstone_writer import bury, bury_histories, remove_at_once
from flujo_lens.state.backends.file.format.tombstones import are_there
from flujo_lens.state.backends.file.index.state_table import Stamp
from flujo_lens.state.backends.file.os_errors import translated

Stop = threading.Event

_SWEEP_EVERY = 3600.0
"""Seconds between two looks for leftovers."""

_REMEMBERED = 1024
"""Runs whose file this process knows to be its own."""


class Places:
    """A folder and its sub-folder of histories, both locked.

    Args:
        folder: A descriptor of the folder.
        histories: One of its sub-folder; None if there is none.
        make: Makes and locks the sub-folder.
    """

    def __init__(self, folder: int, histories: int | None, make: Callable[[], int]) -> None:
        self.folder, self.histories, self._make = folder, histories, make

    def need_histories(self) -> int:
        """The sub-folder, which is made if it is missing."""
        if self.histories is None:
            self.histories = self._make()
        return self.histories


class Changes:
    """Writes to a folder. Safe to use from several threads.

    Args:
        path: The folder.
        timeout: Seconds to wait for a lock.

    Raises (from any method):
        BusyError: another process held the lock all the time; nothing was changed.
        ReadOnlyStoreError: the folder is not writable.
        OperationFailedError: it cannot be written (no space); the message says whether anything was changed.
        Stopped: the caller was cancelled while waiting for the lock; nothing was changed.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._own: OrderedDict[str, tuple[str, Stamp]] = OrderedDict()
        self._swept: dict[bool, float] = {}

    # --- by themselves

    def save(self, run_id: str, data: bytes, stop: Stop) -> None:
        """Put `data` in place of the file of a run; makes the folder if it is missing.

        A process that dies on the way leaves the file before or the new one, and perhaps a draft, which the next
        write of any process removes.
        """
        with self._writing() as folder:
            with drafted(folder, data, next(documents.names_of(run_id))) as draft, self._lock(folder, stop):
                name, before = self._name_for(folder, run_id)
                self._remember(run_id, name, draft.place(name, before))
            self._settle(folder)
            self._sweep(folder, histories=False)

    def append(self, run_id: str, line: bytes, stop: Stop) -> None:
        """Add a line to the history of a run, whole or not at all; makes the folders if they are missing."""
        with self._writing() as folder, self._histories(folder) as histories:
            with self._lock(histories, stop):
                bury_histories(histories)
                history.append(folder, histories, run_id, line)
            self._sweep(histories, histories=True)

    # --- under both locks

    @contextmanager
    def locked(self, stop: Stop, *, creates: bool) -> Iterator[Places]:
        """The folder (which is made if it is missing, with `creates`) and its sub-folder; nothing in them is as good
        as gone."""
        with self._writing() if creates else self._changing() as folder, ExitStack() as stack:
            stack.enter_context(self._lock(folder, stop))
            found = stack.enter_context(documents.history_folder(folder))
            if found is not None:
                stack.enter_context(self._lock(found, stop))
                bury(folder, found)

            def make() -> int:
                made = stack.enter_context(self._histories(folder))
                stack.enter_context(self._lock(made, stop))
                return made

            yield Places(folder, found, make)

    def add_line(self, places: Places, run_id: str, line: bytes) -> None:
        """Add a line to the history of a run."""
        history.append(places.folder, places.need_histories(), run_id, line)

    def put_history(self, places: Places, run_id: str, lines: bytes) -> None:
        """Put other lines in place of the history of a run, whole or not at all."""
        histories = places.need_histories()
        names = history.names_found(histories, run_id)
        if not names:
            history.append(places.folder, histories, run_id, lines)
            return
        with drafted(histories, lines, names[0]) as draft:
            draft.place(names[0])
        self._settle(histories)

    def put_state(self, places: Places, run_id: str, data: bytes, name: str | None) -> None:
        """Put a state in place of the one before (in the file `name`), without progress that is unfinished."""
        folder = places.folder
        with drafted(folder, data, name or next(documents.names_of(run_id))) as draft:
            if places.histories is not None:
                history.cut_unfinished(folder, places.histories, run_id)
            draft.place(name or self._name_for(folder, run_id)[0])
        self._own.pop(run_id, None)
        self._settle(folder)

    def save_both(self, places: Places, run_id: str, state: bytes | None, lines: Sequence[bytes]) -> None:
        """Add lines to the history of a run, and save its state, where there are such.

        All of it counts from the moment on in which the state is in its place: a process that dies before that leaves
        lines that are never read, as does an error.
        """
        folder, histories = places.folder, places.need_histories()
        if state is None:
            if lines:
                history.append(folder, histories, run_id, batch_of(run_id, lines, None))
            return
        with drafted(folder, state, next(documents.names_of(run_id))) as draft:
            name, _ = self._name_for(folder, run_id)
            before = before_of(folder, name)
            if lines:
                is_known = before is not None and not before.is_by(state)
                batch = batch_of(run_id, lines, before if is_known else None)
                history.append(folder, histories, run_id, batch)
            else:
                history.cut_unfinished(folder, histories, run_id)
            self._remember(run_id, name, draft.place(name))
            self._settle(folder)
        if lines and before is not None and before.content is None:
            with suppress(OSError, OperationFailedError):
                history.append(folder, histories, run_id, saved_line(run_id), sync=False)

    def remove(self, places: Places, states: Sequence[str], histories: Sequence[str]) -> None:
        """Remove these files, in one moment."""
        if states or histories:
            remove_at_once(places.folder, places.histories, states, histories)
            self._own.clear()

    def finish(self, stop: Stop) -> None:
        """Remove what is as good as gone, and the leftovers of crashes."""
        with self.locked(stop, creates=False) as places:
            for place in (places.folder, places.histories):
                if place is not None:
                    sweep(place)

    # --- names

    def _name_for(self, folder: int, run_id: str) -> tuple[str, os.stat_result | None]:
        """The name of the run's file; for a new one the first that no other run, and nothing else, has taken. And what
        the system says of that file, if it was asked.

        A file that this process wrote, and that has not changed since, is not read again.
        """
        if run_id in self._own:
            name, stamp = self._own[run_id]
            now = documents.lstat(folder, name)
            if now is not None and documents.stamp_of(now) == stamp:
                return name, now
        free: str | None = None
        for name in documents.names_of(run_id):
            found = documents.read_document(folder, name)
            if found is not None and found.state is not None and found.run_id == run_id:
                return name, None
            is_torn = found is not None and found.state is None
            if free is None and (is_torn or documents.lstat(folder, name) is None):
                free = name
        if free is None:
            raise OperationFailedError(f"every file name for the run is taken in {self._path}", run_id=run_id)
        return free, None

    def _remember(self, run_id: str, name: str, placed: os.stat_result) -> None:
        self._own[run_id] = name, documents.stamp_of(placed)
        self._own.move_to_end(run_id)
        if len(self._own) > _REMEMBERED:
            self._own.popitem(last=False)

    # --- the folder

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """A descriptor of the folder, which is made if it is missing."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            with translated(self._path):
                _make_folder(self._path)
            with self._changing() as folder:
                yield folder
            return
        with translated(self._path):
            try:
                yield file
            finally:
                os.close(file)

    @contextmanager
    def _changing(self) -> Iterator[int]:
        """A descriptor of the folder, if there is one; see `opened` for the errors."""
        with opened(self._path) as folder, translated(self._path):
            yield folder

    @contextmanager
    def _histories(self, folder: int) -> Iterator[int]:
        """A descriptor of the sub-folder of histories, which is made if it is missing."""
        if documents.lstat(folder, HISTORY) is None:
            with suppress(FileExistsError):
                os.mkdir(HISTORY, dir_fd=folder)
            self._settle(folder)
        with documents.history_folder(folder) as histories:
            if histories is None:
                raise OperationFailedError(f"{HISTORY} in {self._path} is not a folder; nothing was changed")
            yield histories

    def _lock(self, folder: int, stop: Stop) -> AbstractContextManager[None]:
        return folder_lock(folder, self._path, self._timeout, stop)

    def _settle(self, folder: int) -> None:
        """Make what was changed survive the death of the machine.

        Raises:
            OperationFailedError: the write fails.
        """
        try:
            settle(folder)
        except OSError as error:
            raise OperationFailedError(
                f"{self._path} was changed, but could not be synced to disk: {error.strerror}",
                hint="check the disk, then run the same again",
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
