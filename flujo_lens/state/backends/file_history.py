"""The history of one run: a file of lines in a sub-folder of the store, which is only ever added to.

The sub-folder is ``.lens-history``; no library takes a folder for a run, so it disturbs none. A run's file is
named as its state's would be, with the ending ``.ndjson``. Each line is one object::

    {"run_id": ..., "kind": ..., "at": ..., <what runs are found by>, "data": <all else, sealed where a layer applies>}

`kind` is ``run_start``, ``run_end``, ``step``, ``spans``, ``trace`` or ``evaluation``; `at` is when the line was
written, in UTC. A line counts from its end of line on: what a crash left behind the last one is passed over when
reading and cut off before the next line is added. What the lines say together is a `History`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flujo_lens.errors import LensError, OperationFailedError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.serialization.envelope import ARMOUR, armour, is_sealed
from flujo_lens.state import interpret
from flujo_lens.state.backends.file_documents import HISTORY, names_of, printable
from flujo_lens.state.backends.file_writing import read_file, settle, write_all
from flujo_lens.state.backends.vocabulary import now_text, run_row

__all__ = ["ENDING", "History", "append", "line_of", "names_found", "raw_of", "read", "seal", "unseal"]

ENDING = ".ndjson"

_RUN_FIELDS = ("pipeline_id", "pipeline_name", "pipeline_version", "status", "total_steps", "total_cost")
_FIGURES = ("execution_time_ms", "memory_usage_mb", "cost_usd", "token_counts", "score")
_TIMES = ("created_at", "updated_at", "start_time", "end_time")
_FOUND_BY = frozenset((*_RUN_FIELDS, *_FIGURES, *_TIMES, "step_name", "step_index"))
"""Fields that stay readable where layers apply, as the same ones of a state do."""

_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_WRITING = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_BLOCK = 64 * 1024

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
        problems: What could not be read.
    """

    run_id: str
    run: JSONObject | None = None
    steps: list[JSONObject] = field(default_factory=list)
    spans: dict[str, JSONObject] = field(default_factory=dict)
    evaluations: list[JSONObject] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, kind: object, at: str, row: JSONObject) -> None:
        """Take in one line. One of an unknown kind (of a later version) is passed over.

        A run of which nobody said that it starts did so with its first line.
        """
        if kind == "evaluation":
            self.evaluations.append({"created_at": at, **row, "run_id": self.run_id})
        elif kind == "run_start":
            self.run = run_row({**row, "run_id": self.run_id})
        elif kind in ("run_end", "step", "spans", "trace"):
            started = row.get("start_time") or row.get("created_at") if kind == "step" else None
            self.run = self.run or run_row({"run_id": self.run_id, "created_at": started or at})
            self._add_part(kind, row)

    def _add_part(self, kind: object, row: JSONObject) -> None:
        if kind == "run_end":
            self.run = {**(self.run or {}), **row}
        elif kind == "step":
            self.steps.append(row)
        else:
            new = _by_id(row)
            self.spans = new if kind == "trace" else {**self.spans, **new}


def _by_id(row: JSONObject) -> dict[str, JSONObject]:
    return {span["span_id"]: span for span in row["spans"]}


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
    failed = [step for step in history.steps if step.get("status") == "failed"]
    if failed:
        raw.failed_step = failed[-1].get("step_name")
        raw.failed_step_error = safe_dumps(failed[-1].get("error"))
    return raw


# --- lines


def line_of(codec: StateCodec, run_id: str, kind: str, data: Mapping[str, Any]) -> bytes:
    """One line, with its end.

    Raises:
        LensError: a layer cannot be applied.
    """
    head = {"kind": kind, "at": now_text()}
    found_by = {key: value for key, value in data.items() if key in _FOUND_BY and _is_plain(value)}
    rest = {key: value for key, value in data.items() if key not in found_by and key not in ("run_id", *head)}
    line = _beginning(run_id) + safe_dumps({**head, **found_by})[1:-1]
    return line + (b',"data":' + seal(codec, run_id, kind, rest) if rest else b"") + b"}\n"


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _beginning(run_id: str) -> bytes:
    """What every line of a run's file begins with."""
    return b'{"run_id":' + json.dumps(run_id).encode("ascii") + b","


def seal(codec: StateCodec, run_id: str, name: str, value: Any) -> bytes:
    """A value as JSON; sealed, and then a text, where a layer applies."""
    stored = codec.column(run_id, name, value)
    if stored is None:
        return b"null"
    return stored.encode() if isinstance(stored, str) else json.dumps(armour(stored)).encode("ascii")


def unseal(codec: StateCodec, run_id: str, name: str, stored: Any) -> Any:
    """The reverse of `seal`, after parsing.

    Raises:
        LensError: it is encrypted, and the key is missing, or it is damaged.
    """
    if not is_sealed(stored):
        return stored
    return codec.value(run_id, name, b64decode(stored.removeprefix(ARMOUR).encode(errors="replace")))


def parse(content: bytes, name: str, codec: StateCodec) -> History | None:
    """The history in a file; None if not one whole line in it is a record."""
    history: History | None = None
    bad = 0
    for line in content.split(b"\n")[:-1]:
        record = _record(line)
        if record is None or (history is not None and record["run_id"] != history.run_id):
            bad += 1
            continue
        history = history or History(record["run_id"])
        _take_in(history, record, codec)
    if history is not None and bad:
        history.problems.append(f"{bad} lines of {HISTORY}/{printable(name)} do not parse")
    return history


def _record(line: bytes) -> JSONObject | None:
    try:
        found = safe_loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("run_id"), str) else None


def _take_in(history: History, record: JSONObject, codec: StateCodec) -> None:
    kind, at, stored = record.pop("kind", None), str(record.pop("at", "")), record.pop("data", {})
    del record["run_id"]
    try:
        data = unseal(codec, history.run_id, str(kind), stored)
        history.add(kind, at, {**record, **data})
    except LensError as error:
        history.problems.append(str(error))
        if kind in ("run_start", "run_end", "step"):
            history.add(kind, at, record)
    except (TypeError, KeyError, AttributeError):
        history.problems.append(f"a {kind} of the history has another form than it should")


# --- files


def read(folder: int, name: str, codec: StateCodec) -> History | None:
    """The history in a file of the sub-folder; None if it is gone or holds none.

    Raises:
        OSError: it may not be read.
    """
    try:
        file = os.open(name, _READING, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        return parse(read_file(file), name, codec)
    finally:
        os.close(file)


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
        wanted = _beginning(run_id)
        if os.pread(file, len(wanted), 0) == wanted:
            return True
        return False if _end_of_lines(file) else None
    finally:
        os.close(file)


def append(folder: int, run_id: str, line: bytes) -> None:
    """Add a line to the history of a run, whole or not at all. To be called under the lock of the sub-folder.

    When it returns, the line survives the death of the machine. A process that dies on the way leaves the lines
    before, and perhaps a part of this one, which does not count.

    Raises:
        OperationFailedError: every name is taken by something else.
        OSError: it cannot be written; nothing has changed.
    """
    holders = {name: _holder(folder, name, run_id) for name in names_of(run_id, ENDING)}
    own = next((name for name, is_own in holders.items() if is_own), None)
    name = own or next((name for name, holder in holders.items() if holder is None), None)
    if name is None:
        raise OperationFailedError("every file name for the run's history is taken", run_id=run_id)
    is_new = own is None
    file = os.open(name, _WRITING | os.O_CREAT, 0o666, dir_fd=folder)
    try:
        _extend(file, line)
        if is_new:
            settle(folder)
    except BaseException:
        if is_new:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(file)


def _extend(file: int, line: bytes) -> None:
    end = _end_of_lines(file)
    try:
        os.ftruncate(file, end)
        os.lseek(file, end, os.SEEK_SET)
        write_all(file, line)
        os.fsync(file)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(file, end)
        raise


def _end_of_lines(file: int) -> int:
    """Where the last whole line of a file ends."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
