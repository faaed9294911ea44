"""Bringing back runs into a folder of JSON files, under its locks.

The files of some runs are written next to their places, synced, listed as gone, put in their places, and are there in
the moment in which the list goes (see `flujo_lens.state.backends.file.format.tombstones`): a process that dies on any
line has brought back all of these runs or none of them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from flujo_lens.errors import OperationFailedError
from flujo_lens.fs.atomic_write import settle, sync_all
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history, key_files
from flujo_lens.state.backends.file.format.run_records import RestoredFile, RestoredRun, drafts_of, runs_of
from flujo_lens.state.backends.file.format.tombstone_writer import bury, dig, uncover
from flujo_lens.state.backends.file.format.tombstones import Grave, Graves, mark_of
from flujo_lens.state.deletion import Record, Restored

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.transaction import FileTransaction
    from flujo_lens.state.backends.file.writes import Places

_BATCH = 50
"""Runs that come back in one moment: each of their files is open until then."""


async def restore(
    tx: FileTransaction,
    places: Places,
    records: Iterable[Record],
    restore_run: Callable[[Iterator[Record]], Awaitable[bool]],
) -> Restored:
    """Bring back the runs of these records; `restore_run` does it with those that were cancelled or stripped alone."""
    done: dict[str, bool] = {}
    ready: dict[str, RestoredRun] = {}
    with ExitStack() as drafts:
        for run_id, first, run in runs_of(records):
            if done.get(run_id):  # copied twice, by a deletion that was interrupted and by the next
                continue
            if len(ready) >= _BATCH:
                _put_back(places, list(ready.values()))
                drafts.close()
                ready = {}
            if "cancelled" in first or "strip" in first:
                done[run_id] = await restore_run(run)
            else:
                done[run_id] = not _is_there(tx, places, run_id, state_only=bool(first.get("state_only")))
                if done[run_id]:
                    ready[run_id] = drafts_of(_Descriptors(places), run_id, run, drafts)
        _put_back(places, list(ready.values()))
    return Restored(tuple(i for i, new in done.items() if new), tuple(i for i, new in done.items() if not new))


class _Descriptors(dict[str, int]):
    """The folder and its sub-folder, which is made when it is asked for."""

    def __init__(self, places: Places) -> None:
        super().__init__(states=places.folder)
        self._places = places

    def __missing__(self, place: str) -> int:
        return self._places.need_histories()


def _is_there(tx: FileTransaction, places: Places, run_id: str, *, state_only: bool) -> bool:
    """Whether the run is there: of a state whose history stayed, whether it has a state."""
    if tx.files_of(run_id) or state_only:
        return bool(tx.files_of(run_id))
    return places.histories is not None and bool(history.names_found(places.histories, run_id))


def _put_back(places: Places, runs: Sequence[RestoredRun]) -> None:
    """Put the files of these runs in their places, all or none."""
    taken: set[tuple[str, str]] = set()
    placed = [(file, _name(places, run, file, taken)) for run in runs for file in run.files]
    sync_all([file.draft for file, _ in placed])
    if places.histories is None:
        _place(places, placed)
    elif placed:
        _place_at_once(places, places.histories, placed)
    for run in runs:
        if run.stripped is not None:
            key_files.write(places.need_histories(), "strip", run.run_id, run.stripped)
        if run.history_size is not None and places.histories is not None:
            _take_back_the_mark(places.histories, run.run_id, run.history_size)


def _name(places: Places, run: RestoredRun, file: RestoredFile, taken: set[tuple[str, str]]) -> str:
    """The name that the file had, or another of the run's, if that belongs to another run by now."""
    ending = documents.ENDING if file.place == "states" else history.ENDING
    for name in (file.name, *documents.names_of(run.run_id, ending)):
        if (file.place, name) not in taken and documents.lstat(_Descriptors(places)[file.place], name) is None:
            taken.add((file.place, name))
            return name
    raise OperationFailedError(f"every file name for run {run.run_id} is taken; none of it was restored")


def _place(places: Places, placed: Iterable[tuple[RestoredFile, str]]) -> None:
    for file, name in placed:
        file.draft.place(name)
    settle(places.folder)


def _place_at_once(places: Places, histories: int, placed: Sequence[tuple[RestoredFile, str]]) -> None:
    graves: dict[str, dict[str, Grave]] = {"states": {}, "histories": {}}
    for file, name in placed:
        graves[file.place][name] = mark_of(file.draft.stat())
    dig(histories, Graves(**graves))
    try:
        _place(places, placed)
        settle(histories)
    except BaseException:
        with suppress(OSError):
            bury(places.folder, histories)
        raise
    uncover(histories)


def _take_back_the_mark(histories: int, run_id: str, size: int) -> None:
    """Cut off the line that said that the run was cancelled, if nothing else was added to the history since."""
    for name in history.names_found(histories, run_id):
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=histories)
        try:
            length = os.fstat(file).st_size - size
            if 0 < length <= history.LONGEST_MARK and size >= 0 and history.is_mark(os.pread(file, length, size)):
                os.ftruncate(file, size)
                os.fsync(file)
        finally:
            os.close(file)
