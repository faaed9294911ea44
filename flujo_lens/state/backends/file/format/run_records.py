"""The files of a run as JSON-ready records, and back: what comes back are the same bytes under the same names.

A record is one file, or a part of a large one::

    {"run_id": ..., "place": "states" | "histories", "name": ..., "mode": ..., "modified": <ns>, "text": ...}

`text` is the content, or ``base64`` where that is no UTF-8, as ``name_base64`` is for such a name; `modified` is there
because it is the age of a file that does not parse. A part other than the first says ``"part": n``. The last record of
a run says ``"last": true``, and ``"stripped"`` what was dropped of it before; a state that goes while its history stays
says ``"state_only"``, and how long the history was.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, groupby
from typing import NamedTuple

from flujo_lens.errors import OperationFailedError, SchemaError
from flujo_lens.fs.atomic_write import TempFile, drafted
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history
from flujo_lens.state.deletion import Record

_PART = 1024 * 1024
"""Bytes of a file that are in one record."""

_READING = os.O_RDONLY | os.O_NONBLOCK
_MODES = 0o777
"""Permissions that a file can come back with: none to act in the name of its owner."""
_FAR = 1 << 62
_PLACES = {"states": documents.ENDING, "histories": history.ENDING}
_BASE64 = {"name": "name_base64", "text": "base64"}
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


# --- from files to records


def records_of(
    places: Mapping[str, int | None], run_id: str, files: Iterable[tuple[str, str]], history_size: int | None = None
) -> Iterator[Record]:
    """What is kept of a run, part by part.

    Args:
        places: The folder (``states``) and its sub-folder (``histories``).
        files: Its files, each with its place.
        history_size: How long its history is, if that stays.

    Raises:
        OperationFailedError: one of them cannot be read.
    """
    more: Record = {} if history_size is None else {"state_only": True, "history_size": history_size}
    before: Record | None = None
    for place, name in files:
        for part in _parts(places[place] or 0, place, name):
            if before is not None:
                yield before
            before = {"run_id": run_id, **part, **more}
    if before is not None:
        yield {**before, "last": True}


def _parts(folder: int, place: str, name: str) -> Iterator[Record]:
    try:
        file = os.open(name, _READING, dir_fd=folder)
        try:
            found = os.fstat(file)
            facts = {"mode": stat.S_IMODE(found.st_mode), "modified": found.st_mtime_ns}
            for number, at in enumerate(range(0, found.st_size or 1, _PART)):
                part = {"part": number} if number else facts
                content = _named("text", os.pread(file, min(_PART, found.st_size - at), at))
                yield {"place": place, **_named("name", os.fsencode(name)), **part, **content}
        finally:
            os.close(file)
    except OSError as error:
        raise OperationFailedError(
            f"{documents.printable(name)} cannot be read, so it cannot be kept: {error.strerror}; it was not deleted",
            hint="make it readable for the user who runs lens",
        ) from error


def _named(key: str, content: bytes) -> Record:
    try:
        return {key: content.decode()}
    except UnicodeDecodeError:
        return {_BASE64[key]: b64encode(content).decode()}


# --- from records to files


class RestoredFile(NamedTuple):
    """A file that is to be as it was, with its content in a draft."""

    place: str
    name: str
    modified: int
    draft: TempFile


class RestoredRun(NamedTuple):
    """A run whose files are ready to be put in their places."""

    run_id: str
    files: Sequence[RestoredFile]
    history_size: int | None
    stripped: bytes | None = None


def runs_of(records: Iterable[Record]) -> Iterator[tuple[str, Record, Iterator[Record]]]:
    """The runs of some records, one after the other: the id, the first record, and all."""
    for run_id, run in groupby(records, lambda record: record["run_id"]):
        first = next(run)
        yield run_id, first, chain([first], run)  # noqa: B031 - the rest of it


def drafts_of(places: Mapping[str, int], run_id: str, records: Iterable[Record], drafts: ExitStack) -> RestoredRun:
    """Write the files of a run next to their places, part by part.

    Raises:
        OperationFailedError: the records were not taken from a folder of JSON files, or the last of the run is missing.
        SchemaError: they do not have the form of such, or a file would have a name that is none of a run's.
    """
    files: list[RestoredFile] = []
    last = Record()
    try:
        for last in records:
            content = _content(last, "text")
            if not last.get("part"):
                files.append(_begun(places, last, drafts))
            files[-1].draft.write(content)
        for file in files:
            file.draft.set_time(file.modified)
    except _MALFORMED as error:
        raise SchemaError(
            f"the copy of run {run_id} does not have the form in which lens keeps runs; none of it was restored",
            hint="if a newer version wrote it, update flujo-lens; otherwise do not trust its source",
        ) from error
    if last.get("last") is not True:
        raise OperationFailedError(f"the copy of run {run_id} is not complete; none of it was restored")
    size = last.get("history_size", -1) if last.get("state_only") else None
    return RestoredRun(run_id, files, size, last["stripped"].encode() if "stripped" in last else None)


def _begun(places: Mapping[str, int], record: Record, drafts: ExitStack) -> RestoredFile:
    name = os.fsdecode(_content(record, "name"))
    place = record.get("place", "")
    if place not in _PLACES or not _is_name(name, _PLACES[place]):
        raise SchemaError(
            f"{documents.printable(name)} is no name for a file of run {record['run_id']}; none of it was restored",
            hint="if a newer version wrote it, update flujo-lens",
        )
    mode, modified = int(record.get("mode", 0o600)) & _MODES, int(record.get("modified", 0))
    if not -_FAR <= modified <= _FAR:
        raise OverflowError("no time of a file")
    draft = drafts.enter_context(drafted(places[place], b"", name, sync=False))
    draft.set_mode(mode)
    return RestoredFile(place, name, modified, draft)


def _is_name(name: str, ending: str) -> bool:
    return name.endswith(ending) and not {"/", "\0"} & set(name) and not documents.is_blob(name)


def _content(record: Mapping[str, object], key: str) -> bytes:
    found = record.get(key)
    if isinstance(found, str):
        return found.encode()
    encoded = record.get(_BASE64[key])
    if not isinstance(encoded, str):
        raise OperationFailedError(
            f"the copy of run {record.get('run_id')} is not from a folder of JSON files",
            hint="restore it into the kind of store that it was taken from",
        )
    return b64decode(encoded, validate=True)
