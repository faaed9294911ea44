"""The files of a run as JSON-ready records, and back: what comes back are the same bytes under the same names.

A record is one file, or a part of a large one::

    {"run_id": ..., "place": "states" | "histories", "name": ..., "mode": ..., "modified": <ns>, "text": ...}

`text` is the content, or ``base64`` where that is no UTF-8, as ``name_base64`` is for such a name; `modified` is there
because it is the age of a file that does not parse. A part other than the first says ``"part": n``. The last record of
a run says ``"last": true``; a state that goes while its history stays says ``"state_only"``, with the line that was
added to the history.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from flujo_lens.errors import OperationFailedError, SchemaError
from flujo_lens.state.backends.file.deletion.plan import Files
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.backends.file.fs.atomic_write import read_file
from flujo_lens.state.deletion import Record

__all__ = ["KeptFile", "KeptRun", "cancelled_records", "kept_runs", "records_of"]

_PART = 4 * 1024 * 1024
"""Bytes of a file that are in one record."""

_READING = os.O_RDONLY | os.O_NONBLOCK
_MODES = 0o777
"""Permissions that a file can come back with: none to act in the name of its owner."""
_FAR = 1 << 62
_PLACES = {"states": documents.ENDING, "histories": history.ENDING}


# --- from files to records


def records_of(
    folder: int, histories: int | None, run_id: str, files: Files, mark: bytes | None = None
) -> list[Record]:
    """What is kept of a run.

    Args:
        folder, histories: The folder and its sub-folder.
        run_id: The run.
        files: Its files.
        mark: The line that its history gets, if that stays.

    Raises:
        OperationFailedError: one of them cannot be read.
    """
    names = [(folder, "states", name) for name in files.states]
    if mark is None and histories is not None:
        names += [(histories, "histories", name) for name in files.histories]
    found = [{"run_id": run_id, **part} for place in names for part in _parts(*place)]
    if mark is not None:
        found = [{**record, "state_only": True, "mark": mark.decode()} for record in found]
    return [*found[:-1], {**found[-1], "last": True}] if found else []


def cancelled_records(folder: int, run_id: str, name: str | None, after: bytes | None, mark: bytes) -> list[Record]:
    """What is kept of a run that is about to be cancelled: the file of its state, and by what it is told unchanged.

    Args:
        folder: The folder.
        run_id: The run.
        name: The file of its state; None if it has none.
        after: What that has in it afterwards.
        mark: The line that its history gets; empty if it gets none.
    """
    told = {"cancelled": sha256(after or b"").hexdigest(), "mark": mark.decode()}
    parts = list(_parts(folder, "states", name)) if name is not None else [{}]
    found: list[Record] = [{"run_id": run_id, **part, **told} for part in parts]
    return [*found[:-1], {**found[-1], "last": True}]


def _parts(folder: int, place: str, name: str) -> Iterator[Record]:
    try:
        file = os.open(name, _READING, dir_fd=folder)
        try:
            found, content = os.fstat(file), read_file(file)
        finally:
            os.close(file)
    except OSError as error:
        raise OperationFailedError(
            f"{documents.printable(name)} cannot be read, so it cannot be kept: {error.strerror}; it was not deleted",
            hint="let the user who runs lens read it",
        ) from error
    for number, at in enumerate(range(0, len(content) or 1, _PART)):
        facts = {"mode": stat.S_IMODE(found.st_mode), "modified": found.st_mtime_ns}
        part = {"part": number} if number else facts
        yield {"place": place, **_named("name", os.fsencode(name)), **part, **_named("text", content[at : at + _PART])}


def _named(key: str, content: bytes) -> Record:
    try:
        return {key: content.decode()}
    except UnicodeDecodeError:
        return {_BASE64[key]: b64encode(content).decode()}


_BASE64 = {"name": "name_base64", "text": "base64"}


# --- from records to files


class KeptFile(NamedTuple):
    """A file that is to be as it was."""

    place: str
    name: str
    mode: int
    modified: int
    content: bytes


class KeptRun(NamedTuple):
    """A run that is to come back.

    Attributes:
        run_id: The run.
        files: Its files.
        mark: The line that its history got when its state alone went, or it was cancelled.
        cancelled: The digest of its state after it was cancelled, which is there still; None if it was not that.
    """

    run_id: str
    files: tuple[KeptFile, ...]
    mark: bytes | None
    cancelled: str | None = None


def kept_runs(records: Iterable[Record]) -> Iterator[KeptRun]:
    """The runs of some records, one after the other.

    Raises:
        OperationFailedError: they were not taken from a folder of JSON files, or the last of a run is missing.
        SchemaError: a file would have a name that is none of a run's.
    """
    run: list[Record] = []
    for record in records:
        if run and record.get("run_id") != run[0].get("run_id"):
            break
        run.append(record)
        if record.get("last"):
            yield _kept_run(run)
            run = []
    if run:
        raise OperationFailedError(f"what was kept of run {run[0].get('run_id')} is not whole; nothing of it came back")


def _kept_run(records: Sequence[Record]) -> KeptRun:
    """The run of some records, which somebody else may have written.

    Raises:
        SchemaError: they do not have the form of such.
    """
    try:
        return _made_run(records)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SchemaError(
            f"what was kept of run {records[0].get('run_id')} does not have the form in which lens keeps runs; "
            "nothing of it came back",
            hint="was it written by a newer version? then update flujo-lens; else do not trust where it comes from",
        ) from error


def _made_run(records: Sequence[Record]) -> KeptRun:
    files: list[KeptFile] = []
    for record in records:
        if "cancelled" in record and "place" not in record:
            continue  # it had no state
        content = _content(record, "text")
        if record.get("part"):
            files[-1] = files[-1]._replace(content=files[-1].content + content)
        else:
            files.append(_kept_file(record, content))
    mark = records[0].get("mark")
    digest = records[0].get("cancelled")
    return KeptRun(records[0]["run_id"], tuple(files), None if mark is None else mark.encode(), digest)


def _kept_file(record: Record, content: bytes) -> KeptFile:
    name = os.fsdecode(_content(record, "name"))
    ending = _PLACES.get(record.get("place", ""))
    if ending is None or not _is_name(name, ending):
        told, run_id = documents.printable(name), record["run_id"]
        message = f"{told} is no name for a file of run {run_id}; nothing of it came back"
        raise SchemaError(message, hint="was it written by a newer version? then update flujo-lens")
    mode, modified = int(record.get("mode", 0o600)) & _MODES, int(record.get("modified", 0))
    if not -_FAR <= modified <= _FAR:
        raise OverflowError("no time of a file")
    return KeptFile(record["place"], name, mode, modified, content)


def _is_name(name: str, ending: str) -> bool:
    return name.endswith(ending) and not {"/", "\0"} & set(name) and not documents.is_blob(name)


def _content(record: Mapping[str, object], key: str) -> bytes:
    found = record.get(key)
    if isinstance(found, str):
        return found.encode()
    encoded = record.get(_BASE64[key])
    if not isinstance(encoded, str):
        raise OperationFailedError(
            f"what was kept of run {record.get('run_id')} is not of a folder of JSON files",
            hint="bring it back into a store of the kind that it was taken from",
        )
    return b64decode(encoded, validate=True)
