"""The history of one run: a file of lines in a sub-folder of the store, which is added to and not changed.

The sub-folder is ``.lens-history``; no library takes a folder for a run, so it disturbs none. A run's file is named as
its state's would be, with the ending ``.ndjson``; its lines are those of
`flujo_lens.state.backends.file.format.history_lines`. A line counts from its end of line on: what a crash left behind
the last one is passed over when reading and cut off before the next line is added, and so is what a save of progress
left that did not come to its end (see `flujo_lens.state.backends.file.format.progress_lines`). What the lines say
together is a `History`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO

from flujo_lens.errors import OperationFailedError
from flujo_lens.fs.atomic_write import settle, write_all
from flujo_lens.serialization import safe_loads
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.core.rows import run_row, span_rows
from flujo_lens.state.backends.file.format.document import HISTORY, names_of, printable
from flujo_lens.state.backends.file.format.history_lines import Line, beginning_of, parse_line
from flujo_lens.state.backends.file.format.progress_lines import unfinished_run

ENDING = ".ndjson"

_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_WRITING = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_BLOCK = 64 * 1024
LONGEST_MARK = 16 * 1024
_MARK = {"kind": "run_end", "status": "cancelled"}
_LONG = 1 << 20
"""Bytes from which on a line is long."""

JSONObject = dict[str, Any]


# --- what a history says


@dataclass(slots=True)
class History:
    """What the lines of a run's history say together.

    Attributes:
        run: The run's metadata as they are now; None if only other things were saved.
        steps: Executions of steps, in the order in which they were saved.
        spans: By id. A trace takes the place of all spans before it, a span that of an earlier one.
        evaluations: In the order in which they were saved.
        manifest: The digest of the manifest that the run belongs to.
        problems: What could not be read.
        is_unfinished: Whether a save of progress has not come to its end; nothing of it is here.
        is_light: Whether steps and spans are left out, but for the last step that failed and the first root span.
        has_spans: Whether there are spans, left out or not.
    """

    run_id: str
    run: JSONObject | None = None
    steps: list[JSONObject] = field(default_factory=list)
    spans: dict[str, JSONObject] = field(default_factory=dict)
    evaluations: list[JSONObject] = field(default_factory=list)
    manifest: str | None = None
    problems: list[str] = field(default_factory=list)
    is_unfinished: bool = False
    is_light: bool = False
    has_spans: bool = False

    def add(self, line: Line) -> None:
        """Take in one line. One of an unknown kind (of a later version) is passed over.

        A run whose start was not announced started with its first line.
        """
        kind, at, row = line.kind, line.at, line.row
        self.problems += (text for text in map(str, line.errors.values()) if text not in self.problems)
        if kind == "evaluation":
            self.evaluations.append({"created_at": at, **row, "run_id": self.run_id})
        elif kind == "run_start":
            self.run = run_row({**row, "run_id": self.run_id})
        elif kind == "manifest":
            self.manifest = row.get("manifest")
        elif kind in ("run_end", "step", "spans", "trace"):
            started = row.get("start_time") or row.get("created_at") if kind == "step" else None
            self.run = self.run or run_row({"run_id": self.run_id, "created_at": started or at})
            self._add_part(kind, row)

    def _add_part(self, kind: object, row: JSONObject) -> None:
        if kind == "run_end":
            self.run = {**(self.run or {}), **row}
        elif kind == "step":
            if not self.is_light:
                self.steps.append(row)
            elif row.get("status") == "failed":
                self.steps = [row]
        else:
            self._add_spans(_by_id(row), replaces=kind == "trace")

    def _add_spans(self, new: dict[str, JSONObject], *, replaces: bool) -> None:
        if replaces:
            self.spans, self.has_spans = {}, False
        self.has_spans = self.has_spans or bool(new)
        if not self.is_light:
            self.spans.update(new)
        elif not self.spans:
            roots = (span for span in new.values() if span.get("parent_span_id") is None)
            self.spans = {span["span_id"]: span for span in islice(roots, 1)}


def _by_id(row: JSONObject) -> dict[str, JSONObject]:
    spans = {span["span_id"]: span for span in span_rows(row["spans"])}
    for given in row["spans"]:
        if isinstance(given.get("attributes"), str) and str(given.get("span_id")) in spans:  # it is sealed
            spans[str(given["span_id"])]["attributes"] = given["attributes"]
    return spans


# --- files


def read(
    folder: int, histories: int, name: str, codec: StateCodec, *, light: bool = False, opened: bool = True
) -> History | None:
    """The history in a file of the sub-folder, without progress that is unfinished; None if it is gone or holds none.

    No more than a line is held at a time, and of what is left out of a `light` one not even that.

    Raises:
        OSError: it may not be read.
    """
    try:
        file = os.open(name, _READING, dir_fd=histories)
    except FileNotFoundError:
        return None
    with _stream(file) as lines:
        found = _Lines(codec, light, opened)
        before = b""
        for line in _whole_lines(lines, found.may_skip):
            found.take(before)
            before = line
    run_id = unfinished_run(folder, before) if before else None
    if run_id is None:
        found.take(before)
    elif found.history is None:
        found.history = History(run_id)
    history = found.history
    if history is not None:
        history.is_unfinished = run_id is not None
        if found.bad:
            history.problems.append(f"{found.bad} lines of {HISTORY}/{printable(name)} do not parse")
    return history


def _stream(file: int) -> BinaryIO:
    """A descriptor as a stream, which takes it; a small file is read at once."""
    try:
        data = os.read(file, _BLOCK)
        if len(data) == _BLOCK:
            os.lseek(file, 0, os.SEEK_SET)
            return os.fdopen(os.dup(file), "rb", _BLOCK)
        return BytesIO(data)
    finally:
        os.close(file)


def history_of_lines(lines: Iterable[bytes], codec: StateCodec, name: str) -> History | None:
    """The history that some lines tell, sealed as it is; None if they tell none."""
    found = _Lines(codec, light=False, opened=False)
    for line in lines:
        if line.endswith(b"\n"):
            found.take(line)
    if found.history is not None and found.bad:
        found.history.problems.append(f"{found.bad} lines of {HISTORY}/{printable(name)} do not parse")
    return found.history


def _whole_lines(file: BinaryIO, may_skip: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The lines of a file that are whole. Of a long one that may be skipped there is the beginning alone."""
    while line := file.readline(_LONG):
        if line.endswith(b"\n"):
            yield line
            continue
        parts, skip = [line], may_skip(line)
        while part := file.readline(_LONG):
            if not skip:
                parts.append(part)
            if part.endswith(b"\n"):
                yield b"".join(parts)
                break


class _Lines:
    """Makes a history out of lines."""

    def __init__(self, codec: StateCodec, light: bool, opened: bool) -> None:
        self._codec, self._light, self._opened = codec, light, opened
        self.history: History | None = None
        self.bad = 0

    def may_skip(self, beginning: bytes) -> bool:
        """Whether a long line need not be read: spans of a run whose name and start are known."""
        history = self.history
        if not self._light or history is None or history.run is None:
            return False
        raw = interpret.raw_from_documents("", None, history.run)
        is_named = bool(history.spans) or interpret.named(raw)[0] != "unknown"
        rest = beginning.removeprefix(beginning_of(history.run_id))
        return is_named and rest.startswith((b'"kind":"spans",', b'"kind":"trace",')) and len(rest) < len(beginning)

    def take(self, line: bytes) -> None:
        """Take in one line, which may be the beginning of one that was skipped."""
        if not line:
            return
        if not line.endswith(b"\n") and self.history is not None:
            self.history.has_spans = True
            return
        lines = self._parsed(line)
        self.bad += not lines
        for one in lines:
            self.history = self.history or History(one.run_id, is_light=self._light)
            try:
                self.history.add(one)
            except (TypeError, KeyError, AttributeError, ValueError):
                self.history.problems.append(f"a {one.kind} of the history has another form than it should")

    def _parsed(self, line: bytes) -> list[Line]:
        """What a line says; nothing if it is no record, or another run's."""
        try:
            found = parse_line(line, self._codec, opened=self._opened)
        except (TypeError, KeyError, AttributeError, ValueError):
            return []
        run_id = self.history.run_id if self.history else (found[0].run_id if found else "")
        return found if all(one.run_id == run_id for one in found) else []


def is_mark(tail: bytes) -> bool:
    """Whether the end of a history is one line that says nothing but that the run was cancelled."""
    with suppress(ValueError):
        line = safe_loads(tail)
        is_one = tail.count(b"\n") == 1 and isinstance(line, dict)
        return is_one and _MARK.items() <= line.items() and set(line) == {*_MARK, "run_id", "at"}
    return False


def names_found(folder: int, run_id: str) -> list[str]:
    """The names of a run's files in the sub-folder: none, or one.

    Raises:
        OSError: one may not be read.
    """
    return [name for name in names_of(run_id, ENDING) if _holder(folder, name, run_id)]


def _holder(folder: int, name: str, run_id: str) -> bool | None:
    """Whether a file holds this run's lines; None if it holds no lines."""
    try:
        file = os.open(name, _READING, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link: not followed
            return False
        raise
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return False
        wanted = beginning_of(run_id)
        if os.pread(file, len(wanted), 0) == wanted:
            return True
        return False if _end_of_line(file, os.fstat(file).st_size) else None
    finally:
        os.close(file)


def append(folder: int, histories: int, run_id: str, line: bytes, *, sync: bool = True) -> None:
    """Add a line to the history of a run, whole or not at all, in place of progress that is unfinished. To be called
    under the lock of the sub-folder.

    When it returns, the line survives the death of the machine, with `sync`. A process that dies on the way leaves the
    lines before, and perhaps a part of this one, which does not count.

    Raises:
        OperationFailedError: every name is taken by something else.
        OSError: it cannot be written; nothing has changed.
    """
    holders = {name: _holder(histories, name, run_id) for name in names_of(run_id, ENDING)}
    own = next((name for name, is_own in holders.items() if is_own), None)
    name = own or next((name for name, holder in holders.items() if holder is None), None)
    if name is None:
        raise OperationFailedError("every file name for the run's history is taken", run_id=run_id)
    is_new = own is None
    file = os.open(name, _WRITING | os.O_CREAT, 0o666, dir_fd=histories)
    try:
        _extend(file, _end_of_what_counts(folder, file), line, sync)
        if is_new:
            settle(histories)
    except BaseException:
        if is_new:
            with suppress(OSError):
                os.unlink(name, dir_fd=histories)
        raise
    finally:
        os.close(file)


def cut_unfinished(folder: int, histories: int, run_id: str) -> None:
    """Cut off progress of a run that is unfinished: before its state is saved without a line. To be called under both
    locks.

    Raises:
        OSError: it cannot be cut off; nothing has changed.
    """
    for name in names_found(histories, run_id):
        file = os.open(name, _WRITING, dir_fd=histories)
        try:
            end = _end_of_what_counts(folder, file)
            if end < _end_of_line(file, os.fstat(file).st_size):
                os.ftruncate(file, end)
                os.fsync(file)
        finally:
            os.close(file)


def _extend(file: int, end: int, line: bytes, sync: bool) -> None:
    try:
        os.ftruncate(file, end)
        os.lseek(file, end, os.SEEK_SET)
        write_all(file, line)
        if sync:
            os.fsync(file)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(file, end)
        raise


def _end_of_what_counts(folder: int, file: int) -> int:
    """Where the last whole line of a file ends that is not unfinished."""
    end = _end_of_line(file, os.fstat(file).st_size)
    start = _end_of_line(file, end - 1)
    return end if unfinished_run(folder, os.pread(file, min(end - start, _BLOCK), start)) is None else start


def _end_of_line(file: int, end: int) -> int:
    """Where the last line ends that is whole before `end`."""
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
