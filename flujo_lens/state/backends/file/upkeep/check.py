"""What is wrong with a folder of JSON files: its checks, in the order in which they are listed. Nothing is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator

from flujo_lens.state.backends.core.worker_pool import Stopped
from flujo_lens.state.backends.file.folder import Folder, Reader
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format.document import LEFTOVER, printable
from flujo_lens.state.backends.file.index.run_selection import HISTORY_ALONE, SEVERAL_FILES, UNDATED, Snapshot
from flujo_lens.state.backends.file.upkeep.repair import old_leftovers
from flujo_lens.state.maintenance import Finding

_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


def check(folder: Folder, stop: threading.Event, *, full: bool = False) -> list[Finding]:
    """Look for what is wrong with a folder.

    Args:
        stop: Ends it when it is set.
        full: Read every history whole, not its end alone.
    """
    with folder.reading() as reader:
        snapshot = folder.snapshot(reader.folder, stop)
        return [
            _unreadable(snapshot),
            _leftovers(reader, snapshot),
            _rivals(snapshot),
            _times(snapshot),
            _stateless(snapshot),
            _unfinished(reader),
            *_histories(reader, snapshot, folder, stop, full),
        ]


def _unreadable(snapshot: Snapshot) -> Finding:
    count, name = snapshot.unreadable()
    if not count:
        return Finding("unreadable files", True, 0, "every file of a run parses")
    detail = f"files that do not parse, such as {printable(name)}: their runs cannot go on"
    fix = "restore them from a backup, or move them out of the folder; to list all: lens list --status unreadable"
    return Finding("unreadable files", False, count, detail, fix)


def _leftovers(reader: Reader, snapshot: Snapshot) -> Finding:
    count = len(snapshot.look.leftovers)
    if not count:
        return Finding("leftovers", True, 0, "no save was interrupted")
    old = len(old_leftovers(reader.folder))
    detail = f"files *{LEFTOVER} of saves that were interrupted; the states before them are whole"
    if not old:
        return Finding("leftovers", True, count, detail, "harmless; the next save removes those older than an hour")
    fix = "harmless; to put those older than an hour into the bin: lens doctor --fix"
    return Finding("leftovers", True, count, detail, fix, f"put {old:,} leftovers into the bin")


def _rivals(snapshot: Snapshot) -> Finding:
    count = snapshot.number(SEVERAL_FILES)
    if not count:
        return Finding("runs in several files", True, 0, "every run has one file")
    run_id = next(snapshot.entries(SEVERAL_FILES, first=1))[0].run_id
    names = ", ".join(map(printable, snapshot.files_of(run_id)))
    detail = f"runs that several files hold, such as {run_id}: {names}; the one that was saved last (the first) counts"
    return Finding("runs in several files", False, count, detail, "move the others out of the folder")


def _times(snapshot: Snapshot) -> Finding:
    count = snapshot.number(UNDATED)
    if not count:
        return Finding("unreadable times", True, 0, "every run has a time that can be read")
    detail = "runs without a time that can be read: they are of unknown age, and no clean-up takes them"
    fix = "harmless else; to list such runs first: lens list --reverse"
    return Finding("unreadable times", False, count, detail, fix)


def _stateless(snapshot: Snapshot) -> Finding:
    count = snapshot.number(HISTORY_ALONE)
    if not count:
        return Finding("histories without a state", True, 0, "every history has its state")
    return Finding("histories without a state", True, count, "runs with a history alone: their states were deleted")


def _unfinished(reader: Reader) -> Finding:
    count = max(len(reader.graves.states), len(reader.graves.histories))
    if not count:
        return Finding("unfinished deletions", True, 0, "none was interrupted")
    detail = "runs that are deleted, though their files are still there: the process that deleted them died"
    fix = "the next write of any kind finishes them; to do it now: lens prune --orphans"
    return Finding("unfinished deletions", False, count, detail, fix)


def _histories(
    reader: Reader, snapshot: Snapshot, folder: Folder, stop: threading.Event, full: bool
) -> Iterator[Finding]:
    if reader.histories is None:
        return
    count = snapshot.look.unreadable
    fix = "let the user who runs lens read them" if count else None
    detail = "histories that may not be read" if count else "every history may be read"
    yield Finding("unreadable histories", not count, count, detail, fix)
    torn = sum(_is_torn(reader.histories, name, stop) for name in snapshot.history_names())
    detail = "histories whose last write was interrupted: that line is passed over, and cut off by the next write"
    yield Finding("torn lines", True, torn, detail if torn else "every history ends with a whole line")
    if full:
        yield _bad_lines(reader.folder, reader.histories, snapshot.history_names(), folder, stop)


def _is_torn(histories: int, name: str, stop: threading.Event) -> bool:
    """Whether a history does not end with an end of line; one that is gone by now does."""
    if stop.is_set():
        raise Stopped
    try:
        file = os.open(name, _READING, dir_fd=histories)
    except OSError:
        return False
    try:
        size = os.fstat(file).st_size
        return size > 0 and os.pread(file, 1, size - 1) != b"\n"
    finally:
        os.close(file)


def _bad_lines(states: int, histories: int, names: Iterable[str], folder: Folder, stop: threading.Event) -> Finding:
    count, some = 0, ""
    for name in names:
        if stop.is_set():
            raise Stopped
        history = file_history.read(states, histories, name, folder.codec, light=True)
        if history is not None and history.problems:
            count, some = count + 1, some or f"{printable(name)}: {history.problems[0]}"
    if not count:
        return Finding("history lines", True, 0, "every line of every history can be read")
    fix = "what can be read of them is shown; restore the files from a backup"
    return Finding("history lines", False, count, f"histories that cannot be read whole, such as {some}", fix)
