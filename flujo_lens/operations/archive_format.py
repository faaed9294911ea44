"""The lines of an archive of runs, and the digests that hold them together. Nothing is read or written here.

An archive is NDJSON: a header, then batches of records, each batch closed by a line with its digest, and at the end a
manifest::

    {"lens_archive":1,"store":"sqlite:///ops.db","driver":"sqlite","made_at":"...","audit_id":"...","command":[...]}
    {"record":{"run_id":"run-1", ...}}
    {"batch":1,"runs":1,"records":1,"sha256":"..."}
    {"manifest":{"runs":1,"records":1,"batches":1,"rows":{},"by_status":{},"complete":true,"sha256":"..."}}

The digest of a batch is the SHA-256 of its records' lines, newlines included. The manifest's is chained: it begins as
the SHA-256 of the header's line, and each batch makes it the SHA-256 of itself and the batch's digest, both in hex; the
last link is the SHA-256 of the manifest's other members, as compact JSON. So what was changed, put elsewhere, or taken
out shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from flujo_lens.state.deletion import Record
from flujo_lens.state.timestamps import parse_instant

__all__ = [
    "BATCH",
    "MANIFEST",
    "RECORD",
    "VERSION",
    "Batch",
    "Chain",
    "Header",
    "Manifest",
    "batch_line",
    "header_line",
    "manifest_line",
    "parsed_batch",
    "parsed_header",
    "parsed_manifest",
    "parsed_record",
    "record_lines",
]

VERSION = 1
RECORD, BATCH, MANIFEST = b'{"record":', b'{"batch":', b'{"manifest":'
"""How lines begin."""


class Header(NamedTuple):
    """The first line.

    Attributes:
        store: Which store the runs were in, without passwords.
        driver: Which kind of driver made the records, and can read them.
        made_at: When, in UTC.
        audit_id: The entry in the store's audit log.
        command: The words that were typed, without secrets.
        cutoff: Runs last updated before this instant went; None where age did not matter.
    """

    store: str
    driver: str
    made_at: datetime
    audit_id: str
    command: tuple[str, ...] = ()
    cutoff: datetime | None = None


class Batch(NamedTuple):
    """The line that closes a batch: its number (from 1), how many runs became whole in it, and its digest."""

    number: int
    runs: int
    records: int
    sha256: str


class Manifest(NamedTuple):
    """The last line: what is in the archive, and whether that is all that was to go in.

    Attributes:
        runs: Whole runs.
        records: Records.
        batches: Batches.
        rows: Rows that were deleted, by table, as the store tells it.
        by_status: Runs by status.
        complete: False if the work was stopped before its end.
        sha256: The chained digest.
    """

    runs: int
    records: int
    batches: int
    rows: Mapping[str, int]
    by_status: Mapping[str, int]
    complete: bool
    sha256: str = ""


class Chain:
    """Makes the manifest's digest, batch by batch."""

    def __init__(self, header: bytes) -> None:
        self.digest = sha256(header).hexdigest()

    def add(self, digest: str) -> None:
        """Take the digest of the next batch."""
        self.digest = sha256((self.digest + digest).encode()).hexdigest()

    def sealed(self, manifest: Manifest) -> Manifest:
        """The manifest with its digest; it is the last link."""
        self.add(sha256(orjson.dumps(_told(manifest))).hexdigest())
        return manifest._replace(sha256=self.digest)


# --- writing


def header_line(header: Header) -> bytes:
    """The line of a header."""
    cutoff = {} if header.cutoff is None else {"cutoff": _text(header.cutoff)}
    told = {**header._asdict(), "made_at": _text(header.made_at), "command": list(header.command)}
    told.pop("cutoff")
    return orjson.dumps({"lens_archive": VERSION, **told, **cutoff}) + b"\n"


def record_lines(records: Iterable[Record]) -> bytes:
    """The lines of records.

    Raises:
        TypeError: one of them is not JSON-ready.
    """
    return b"".join(b'{"record":%b}\n' % orjson.dumps(record) for record in records)


def batch_line(batch: Batch) -> bytes:
    """The line that closes a batch."""
    number, runs, records, digest = batch
    return orjson.dumps({"batch": number, "runs": runs, "records": records, "sha256": digest}) + b"\n"


def manifest_line(manifest: Manifest) -> bytes:
    """The last line."""
    return orjson.dumps({"manifest": {**_told(manifest), "sha256": manifest.sha256}}) + b"\n"


def _told(manifest: Manifest) -> dict[str, Any]:
    """All but the digest."""
    told = {**manifest._asdict(), "rows": dict(manifest.rows), "by_status": dict(manifest.by_status)}
    del told["sha256"]
    return told


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- reading: a ValueError says that a line is none of these


def parsed_header(line: bytes) -> tuple[int, Header | None]:
    """The version, and what the header says; None if the version is a newer one."""
    told = _object(line)
    version = told.get("lens_archive")
    if type(version) is not int or version < 1:
        raise ValueError("no version")
    return version, _header(told) if version <= VERSION else None


def _header(told: Mapping[str, Any]) -> Header:
    made_at, cutoff = parse_instant(told.get("made_at")), told.get("cutoff")
    words = told.get("command")
    texts = [told.get(name) for name in ("store", "driver", "audit_id")]
    if made_at is None or not isinstance(words, list) or not all(isinstance(text, str) for text in (*texts, *words)):
        raise ValueError("no header")
    store, driver, audit_id = map(str, texts)
    return Header(store, driver, made_at, audit_id, tuple(words), parse_instant(cutoff) if cutoff else None)


def parsed_record(line: bytes) -> Record:
    """The record of a line."""
    record = _object(line).get("record")
    if not isinstance(record, dict) or not isinstance(record.get("run_id"), str):
        raise ValueError("no record")
    return record


def parsed_batch(line: bytes) -> Batch:
    """What a line says that closes a batch."""
    told = _object(line)
    number, runs, records = _counts(told, "batch", "runs", "records")
    return Batch(number, runs, records, _digest(told))


def parsed_manifest(line: bytes) -> Manifest:
    """What the last line says."""
    told = _object(line).get("manifest")
    if not isinstance(told, dict) or type(told.get("complete")) is not bool:
        raise ValueError("no manifest")
    runs, records, batches = _counts(told, "runs", "records", "batches")
    rows, by_status = (_object_in(told, name) for name in ("rows", "by_status"))
    return Manifest(runs, records, batches, rows, by_status, told["complete"], _digest(told))


def _object(line: bytes) -> dict[str, Any]:
    told = orjson.loads(line)
    if not isinstance(told, dict):
        raise ValueError("no object")
    return told


def _object_in(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = told.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _counts(told: Mapping[str, Any], *names: str) -> list[Any]:
    found = [told.get(name) for name in names]
    if not all(type(number) is int for number in found):
        raise ValueError("no counts")
    return found


def _digest(told: Mapping[str, Any]) -> str:
    digest = told.get("sha256")
    if not isinstance(digest, str):
        raise ValueError("no digest")
    return digest
