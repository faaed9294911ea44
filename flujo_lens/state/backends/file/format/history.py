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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flujo_lens.errors import LensError, OperationFailedError
from flujo_lens.serialization import safe_dumps
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.core.rows import run_row, span_rows
from flujo_lens.state.backends.file.format.document import HISTORY, names_of, printable
from flujo_lens.state.backends.file.format.history_lines import Line, beginning_of, parse_line
from flujo_lens.state.backends.file.format.progress_lines import unfinished_run
from flujo_lens.state.backends.file.fs.atomic_write import read_file, settle, write_all

__all__ = ["ENDING", "History", "append", "cut_unfinished", "names_found", "raw_of", "read"]

ENDING = ".ndjson"

_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_WRITING = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_BLOCK = 64 * 1024

JSONObject = dict[str, Any]
Closed = dict[str, LensError]


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
        closed_run, closed_steps, closed_spans: Why what of them cannot be opened: by field, by place in `steps`, by id.
    """

    run_id: str
    run: JSONObject | None = None
    steps: list[JSONObject] = field(default_factory=list)
    spans: dict[str, JSONObject] = field(default_factory=dict)
    evaluations: list[JSONObject] = field(default_factory=list)
    manifest: str | None = None
    problems: list[str] = field(default_factory=list)
    is_unfinished: bool = False
    closed_run: Closed = field(default_factory=dict)
    closed_steps: dict[int, LensError] = field(default_factory=dict)
    closed_spans: Closed = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Take in one line. One of an unknown kind (of a later version) is passed over.

        A run of which nobody said that it starts did so with its first line.
        """
        kind, at, row = line.kind, line.at, line.row
        self.problems += (text for text in map(str, line.errors.values()) if text not in self.problems)
        if kind == "evaluation":
            self.evaluations.append({"created_at": at, **row, "run_id": self.run_id})
        elif kind == "run_start":
            self.run = run_row({**row, "run_id": self.run_id})
            self.closed_run = line.errors
        elif kind == "manifest":
            self.manifest = row.get("manifest")
        elif kind in ("run_end", "step", "spans", "trace"):
            started = row.get("start_time") or row.get("created_at") if kind == "step" else None
            self.run = self.run or run_row({"run_id": self.run_id, "created_at": started or at})
            self._add_part(kind, row, line.errors)

    def _add_part(self, kind: object, row: JSONObject, errors: Closed) -> None:
        if kind == "run_end":
            self.run = {**(self.run or {}), **row}
            self.closed_run = _without(self.closed_run, row) | errors
        elif kind == "step":
            if errors:
                self.closed_steps[len(self.steps)] = next(iter(errors.values()))
            self.steps.append(row)
        else:
            new, kept = _by_id(row), {} if kind == "trace" else self.spans
            self.closed_spans = _without(self.closed_spans if kept else {}, new) | errors
            self.spans = {**kept, **new}


def _without(closed: Closed, new: Mapping[str, Any]) -> Closed:
    return {name: error for name, error in closed.items() if name not in new}


def _by_id(row: JSONObject) -> dict[str, JSONObject]:
    return {span["span_id"]: span for span in span_rows(row["spans"])}


def raw_of(run_id: str, state: Mapping[str, Any] | None, history: History | None) -> interpret.RawRun:
    """A run from its state and its history, for the rules that all drivers share."""
    if history is None:
        return interpret.raw_from_documents(run_id, state)
    raw = interpret.raw_from_documents(run_id, state, history.run)
    raw.problems += history.problems
    roots = [span for span in history.spans.values() if span.get("parent_span_id") is None]
    raw.root_attributes = roots[0].get("attributes") if roots else None
    unended = [s for s in history.spans.values() if s.get("end_time") is None and s.get("parent_span_id") is not None]
    raw.open_span = max(unended, key=lambda s: s.get("start_time") or 0.0).get("name") if unended else None
    failed = [(at, step) for at, step in enumerate(history.steps) if step.get("status") == "failed"]
    if failed:
        at, step = failed[-1]
        raw.failed_step = step.get("step_name")
        raw.failed_step_error = None if at in history.closed_steps else safe_dumps(step.get("error"))
    return raw


# --- files


def _parse(texts: Sequence[bytes], name: str, codec: StateCodec) -> History | None:
    """The history in the lines of a file; None if not one of them is a record."""
    history: History | None = None
    bad = 0
    for text in texts:
        lines = _parsed(text, codec, history)
        bad += not lines
        for line in lines:
            history = history or History(line.run_id)
            try:
                history.add(line)
            except (TypeError, KeyError, AttributeError, ValueError):
                history.problems.append(f"a {line.kind} of the history has another form than it should")
    if history is not None and bad:
        history.problems.append(f"{bad} lines of {HISTORY}/{printable(name)} do not parse")
    return history


def _parsed(line: bytes, codec: StateCodec, history: History | None) -> list[Line]:
    """What a line says; nothing if it is no record, or another run's."""
    try:
        found = parse_line(line, codec)
    except (TypeError, KeyError, AttributeError, ValueError):
        return []
    return found if all(line.run_id == (history or found[0]).run_id for line in found) else []


def read(folder: int, histories: int, name: str, codec: StateCodec) -> History | None:
    """The history in a file of the sub-folder, without progress that is unfinished; None if it is gone or holds none.

    Raises:
        OSError: it may not be read.
    """
    try:
        file = os.open(name, _READING, dir_fd=histories)
    except FileNotFoundError:
        return None
    try:
        texts = read_file(file).split(b"\n")[:-1]
    finally:
        os.close(file)
    run_id = unfinished_run(folder, texts[-1]) if texts else None
    if run_id is None:
        return _parse(texts, name, codec)
    history = _parse(texts[:-1], name, codec) or History(run_id)
    history.is_unfinished = True
    return history


def names_found(folder: int, run_id: str) -> list[str]:
    """The names of a run's files in the sub-folder: none, or one.

    Raises:
        OSError: one may not be read.
    """
    return [name for name in names_of(run_id, ENDING) if _holder(folder, name, run_id)]


def _holder(folder: int, name: str, run_id: str) -> bool | None:
    """Whether a file holds this run's lines; None if nobody's are in it."""
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
    return end if unfinished_run(folder, os.pread(file, end - start, start)) is None else start


def _end_of_line(file: int, end: int) -> int:
    """Where the last line ends that is whole before `end`."""
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
