"""Portable records (see `flujo_lens.state.portable`) as the files of runs, and back.

Both directions go by the records of `flujo_lens.state.backends.file.format.run_records`: runs are written by the same
code that brings them back, whole or not at all, and archives of a deletion have a portable form, too.
"""

from __future__ import annotations

import time
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from itertools import groupby
from typing import Any

from flujo_lens.serialization.codec import StateCodec
from flujo_lens.serialization.exact import exact_dumps
from flujo_lens.state.backends.core.portable_records import portable_records as portable_documents
from flujo_lens.state.backends.core.portable_records import state_document
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.format.history import history_of_lines
from flujo_lens.state.backends.file.format.history_lines import line_of
from flujo_lens.state.deletion import Record

_PART = 1 << 20
"""Bytes of a file that are in one record."""

_SPANS = 1_000
"""Spans of one line."""

_CODEC = StateCodec()
"""Applies no layer: what is sealed stays so."""


# --- from files


def portable_records(records: Iterable[Record], zone: tzinfo) -> Iterator[Record]:
    """The portable form of the records of files, one a run.

    Raises:
        ValueError, TypeError, KeyError: they do not have the form of such records.
    """
    for run_id, parts in groupby(records, lambda record: record["run_id"]):
        files: dict[tuple[str, str], list[bytes]] = {}
        note: str | None = None
        for part in parts:
            note = part.get("stripped") or note
            files.setdefault((part["place"], str(part.get("name") or part["name_base64"])), []).append(_content(part))
        more = {} if note is None else {"stripped": note}
        yield from portable_documents([_stored(run_id, files) | more], zone)


def _content(part: Record) -> bytes:
    text = part.get("text")
    return text.encode() if isinstance(text, str) else b64decode(part["base64"], validate=True)


def _stored(run_id: str, files: Mapping[tuple[str, str], Sequence[bytes]]) -> Record:
    """What the files of a run hold, as the core's records have it. The first state counts."""
    found: Record = {"run_id": run_id, "state": None, "run": None, "manifest": None, "last": True}
    for (place, name), parts in files.items():
        data = b"".join(parts)
        if place == "states" and found["state"] is None:
            found["state"] = data.removeprefix(BOM_UTF8)
        elif place == "histories":
            past = history_of_lines(data.splitlines(keepends=True), _CODEC, name)
            if past is None:
                continue
            if past.problems:
                return {"run_id": run_id, "problem": past.problems[0], "last": True}
            found |= {
                "run": None if past.run is None else exact_dumps(past.run),
                "manifest": past.manifest,
                "steps": [(None, exact_dumps(row)) for row in past.steps],
                "spans": [(None, exact_dumps(row)) for row in past.spans.values()],
                "evaluations": [(None, exact_dumps(row)) for row in past.evaluations],
            }
    return found


# --- to files


class StoredRecords:
    """The files of portable records, as records of files; can be gone through several times."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records, self._now = records, time.time_ns()

    def __iter__(self) -> Iterator[Record]:
        for run_id, run in groupby(self._records, lambda record: record["run_id"]):
            notes: list[str] = []
            yield from _with_last(self._parts(run_id, run, notes), notes)

    def _parts(self, run_id: str, records: Iterable[Record], notes: list[str]) -> Iterator[Record]:
        """The parts of the files of a run: the state, then the history. `notes` gets what was stripped of it."""
        number, lines, size = 0, list[bytes](), 0
        for record in records:
            notes += [exact_dumps(record["stripped"]).decode()] if record.get("stripped") else []
            if record.get("state") is not None:
                yield from self._file(run_id, state_document(run_id, record["state"]))
            for line in _lines_of(run_id, record):
                lines.append(line)
                size += len(line)
                if size >= _PART:
                    yield self._part(run_id, "histories", b"".join(lines), number)
                    number, lines, size = number + 1, [], 0
        if lines:
            yield self._part(run_id, "histories", b"".join(lines), number)

    def _file(self, run_id: str, data: bytes) -> Iterator[Record]:
        for number, at in enumerate(range(0, len(data), _PART)):
            yield self._part(run_id, "states", data[at : at + _PART], number)

    def _part(self, run_id: str, place: str, data: bytes, number: int) -> Record:
        ending = documents.ENDING if place == "states" else history.ENDING
        part = {"part": number} if number else {}
        name = documents.printable(next(documents.names_of(run_id, ending)))
        head = {"run_id": run_id, "place": place, "name": name, "mode": 0o600, "modified": self._now}
        return {**head, "text": data.decode(), **part}


def _with_last(parts: Iterator[Record], notes: list[str]) -> Iterator[Record]:
    before: Record | None = None
    for part in parts:
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield {**before, **({"stripped": notes[0]} if notes else {}), "last": True}


def _lines_of(run_id: str, record: Record) -> Iterator[bytes]:
    """The lines of a history that say the same as a record."""

    def line(kind: str, data: Mapping[str, Any]) -> bytes:
        return line_of(_CODEC, run_id, kind, data, is_stored=True)

    if record.get("run") is not None:
        yield line("run_start", record["run"])
    if record.get("manifest") is not None:
        yield line("manifest", {"manifest": record["manifest"]})
    for step in record.get("steps", ()):
        yield line("step", step)
    spans = record.get("spans", ())
    for at in range(0, len(spans), _SPANS):
        yield line("spans", {"spans": spans[at : at + _SPANS]})
    for evaluation in record.get("evaluations", ()):
        yield line("evaluation", evaluation)
