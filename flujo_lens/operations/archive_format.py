"""The lines of an archive of runs, and their digests. No I/O.

An archive is NDJSON: a header, batches of records that each end with a line with a digest, and a manifest at the end::

    {"lens_archive":1,"store":"sqlite:///ops.db","driver":"sqlite","made_at":"...","audit_id":"...","command":[...]}
    {"record":{"run_id":"run-1", ...}}
    {"batch":1,"runs":1,"records":1,"sha256":"..."}
    {"manifest":{"runs":1,"records":1,"batches":1,"rows":{},"by_status":{},"complete":true,"sha256":"..."}}

The digest of a batch is the SHA-256 of its records' lines, including newlines. The digest of the manifest is chained:
it starts as the SHA-256 of the header's line; each batch makes it the SHA-256 of itself and the batch's digest, both
in hex; the last link is the SHA-256 of the manifest's other members, as compact JSON. So changed, moved and removed
lines are detected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from flujo_lens.serialization.exact import exact_dumps, exact_loads
from flujo_lens.state.deletion import Record
from flujo_lens.state.timestamps import parse_instant

VERSION = 1
RECORD, BATCH, MANIFEST = b'{"record":', b'{"batch":', b'{"manifest":'
"""The first bytes of lines."""


class Header(NamedTuple):
    """The first line.

    Attributes:
        store: The store of the runs, without passwords.
        driver: The kind of driver that made the records and can read them.
        made_at: The time of creation, in UTC.
        audit_id: The entry in the store's audit log.
        cutoff: Runs last updated before this instant were deleted; None if not selected by age.
    """

    store: str
    driver: str
    made_at: datetime
    audit_id: str
    command: tuple[str, ...] = ()
    cutoff: datetime | None = None


class Batch(NamedTuple):
    """The last line of a batch: its number (from 1), the number of runs completed in it, and its digest."""

    number: int
    runs: int
    records: int
    sha256: str


class Manifest(NamedTuple):
    """The last line: the totals of the archive, and whether it is complete.

    Attributes:
        runs: Number of complete runs.
        records: Number of records.
        batches: Number of batches.
        rows: Number of deleted rows by table, as reported by the store.
        by_status: Number of runs by status.
        complete: False if the command was stopped early.
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
    """Computes the manifest's digest, batch by batch."""

    def __init__(self, header: bytes) -> None:
        self.digest = sha256(header).hexdigest()

    def add(self, digest: str) -> None:
        """Add the digest of the next batch."""
        self.digest = sha256((self.digest + digest).encode()).hexdigest()

    def sealed(self, manifest: Manifest) -> Manifest:
        """The manifest with its digest, the last link."""
        self.add(sha256(orjson.dumps(_unsigned(manifest))).hexdigest())
        return manifest._replace(sha256=self.digest)


# --- writing


def header_line(header: Header) -> bytes:
    """The line of a header."""
    cutoff = {} if header.cutoff is None else {"cutoff": _text(header.cutoff)}
    document = {**header._asdict(), "made_at": _text(header.made_at), "command": list(header.command)}
    document.pop("cutoff")
    return orjson.dumps({"lens_archive": VERSION, **document, **cutoff}) + b"\n"


def record_lines(records: Iterable[Record]) -> bytes:
    """The lines of some records.

    Raises:
        TypeError: a record is not JSON-serializable.
    """
    return b"".join(b'{"record":%b}\n' % orjson.dumps(record) for record in records)


def exact_record_lines(records: Iterable[Record]) -> bytes:
    """The lines of portable records, with all digits of their numbers."""
    return b"".join(b'{"record":%b}\n' % exact_dumps(record) for record in records)


def batch_line(batch: Batch) -> bytes:
    """The last line of a batch."""
    number, runs, records, digest = batch
    return orjson.dumps({"batch": number, "runs": runs, "records": records, "sha256": digest}) + b"\n"


def manifest_line(manifest: Manifest) -> bytes:
    """The last line."""
    return orjson.dumps({"manifest": {**_unsigned(manifest), "sha256": manifest.sha256}}) + b"\n"


def _unsigned(manifest: Manifest) -> dict[str, Any]:
    """The members of a manifest without its digest."""
    document = {**manifest._asdict(), "rows": dict(manifest.rows), "by_status": dict(manifest.by_status)}
    del document["sha256"]
    return document


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# --- reading; a ValueError means that a line is malformed


def parsed_header(line: bytes) -> tuple[int, Header | None]:
    """The version and the header; None if the version is newer."""
    document = _object(line)
    version = document.get("lens_archive")
    if type(version) is not int or version < 1:
        raise ValueError("no version")
    return version, _header(document) if version <= VERSION else None


def _header(document: Mapping[str, Any]) -> Header:
    made_at, cutoff = parse_instant(document.get("made_at")), document.get("cutoff")
    words = document.get("command")
    texts = [document.get(name) for name in ("store", "driver", "audit_id")]
    if made_at is None or not isinstance(words, list) or not all(isinstance(text, str) for text in (*texts, *words)):
        raise ValueError("no header")
    store, driver, audit_id = map(str, texts)
    return Header(store, driver, made_at, audit_id, tuple(words), parse_instant(cutoff) if cutoff else None)


def parsed_record(line: bytes) -> Record:
    """The record of a line."""
    document = exact_loads(line, any_depth=False)
    record = document.get("record") if isinstance(document, dict) else None
    if not isinstance(record, dict) or not isinstance(record.get("run_id"), str):
        raise ValueError("no record")
    return record


def parsed_batch(line: bytes) -> Batch:
    """The batch of its last line."""
    document = _object(line)
    number, runs, records = _counts(document, "batch", "runs", "records")
    return Batch(number, runs, records, _digest(document))


def parsed_manifest(line: bytes) -> Manifest:
    """The manifest of the last line."""
    document = _object(line).get("manifest")
    if not isinstance(document, dict) or type(document.get("complete")) is not bool:
        raise ValueError("no manifest")
    runs, records, batches = _counts(document, "runs", "records", "batches")
    rows, by_status = (_object_in(document, name) for name in ("rows", "by_status"))
    return Manifest(runs, records, batches, rows, by_status, document["complete"], _digest(document))


def _object(line: bytes) -> dict[str, Any]:
    document = orjson.loads(line)
    if not isinstance(document, dict):
        raise ValueError("no object")
    return document


def _object_in(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _counts(document: Mapping[str, Any], *names: str) -> list[Any]:
    found = [document.get(name) for name in names]
    if not all(type(number) is int for number in found):
        raise ValueError("no counts")
    return found


def _digest(document: Mapping[str, Any]) -> str:
    digest = document.get("sha256")
    if not isinstance(digest, str):
        raise ValueError("no digest")
    return digest
