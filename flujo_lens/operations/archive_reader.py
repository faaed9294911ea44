"""Reading archives of runs, batch by batch, after checking the digest of each."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from flujo_lens.errors import ArchiveError, CorruptArchiveError
from flujo_lens.operations.archive_compression import LIMITS, Damaged, Limits, Lines, foreign, is_json, size
from flujo_lens.operations.archive_format import (
    BATCH,
    MANIFEST,
    RECORD,
    VERSION,
    Chain,
    Header,
    Manifest,
    parsed_batch,
    parsed_header,
    parsed_manifest,
    parsed_record,
)
from flujo_lens.serialization.exact import exact_dumps, exact_loads
from flujo_lens.state.deletion import Record
from flujo_lens.state.views import EMPTY

_LONG = 4 << 20
"""Minimum bytes of the lines of a `LongRun`, which is not held in memory."""

_SPACED = re.compile(rb'\{\s*"\w+"\s*:\s|\{\s+"|\{"\w+"\s')
"""The start of a line rewritten by another program, such as Python's ``json``."""

_HEAD = b'{"lens_archive":'


class LongRun:
    """The records of a run that is too large to be held in memory, read from the archive on iteration.

    Can be iterated several times. A run that is truncated by the end of the archive is not part of it.

    Attributes:
        state_only: Whether only its state was deleted.

    Raises:
        CorruptArchiveError, ArchiveError: on iteration, as for `ArchiveReader.groups`.
    """

    def __init__(self, reader: ArchiveReader, begin: int, held: list[Record]) -> None:
        self.run_id: str = held[0]["run_id"]
        self.state_only = any(record.get("state_only") is True for record in held)
        self._reader, self._begin = reader, begin
        self._first, self._is_used = reader.rest_of_run(held), False

    def __iter__(self) -> Iterator[Record]:
        if not self._is_used:
            self._is_used = True
            for record in self._first:  # noqa: UP028 - who stops here ends nothing of it
                yield record
            return
        with self._reader.again() as reader:
            yield from reader.run_at(self._begin, self.run_id)

    def pass_over(self) -> None:
        """Skip the rest of the run that was not iterated."""
        self._is_used = True
        for _ in self._first:
            pass


Group = list[Record] | LongRun
"""The records of some complete runs, or of a run that is too large to be held in memory."""


class ArchiveReader:
    """Reads an archive, or several concatenated ones; a context manager. Holds one batch in memory.

    Args:
        path: The file, in any compression.
        source: A descriptor of the file, if it has no path; `path` is then its name for messages.

    Raises:
        ArchiveError: it cannot be opened, is not an archive, is truncated before its first batch, or was written by a
            newer version.
        UsageError: there is no such file.
        MissingExtraError: zstandard is not installed.
    """

    headers: list[Header]
    """The headers of the archives read so far: one, unless several were concatenated."""
    torn: bool
    """After reading all batches: whether the archive ends within a batch. Its runs were not deleted."""
    unfinished: list[str]
    """Runs read so far whose last record is missing."""

    def __init__(self, path: Path, limits: Limits = LIMITS, source: int | None = None) -> None:
        self.path = path
        self.torn, self.unfinished, self.headers = False, [], []
        self._source, self._all_batches, self._began = source, 0, 0
        self._limits, self._manifests = limits, list[Manifest]()
        self._whole, self._run, self._held = 1, list[Record](), 0
        self._rest_of_batch: list[Record] = []
        self._lines = Lines(path, limits, source)
        try:
            self._rest = iter(self._lines)
            self._begin(self._head())
        except BaseException:
            self._lines.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lines.__exit__(kind, error, tb)

    @property
    def header(self) -> Header:
        """The first line."""
        return self.headers[0]

    @property
    def manifest(self) -> Manifest | None:
        """After reading all batches: the last line; None if the writer was stopped."""
        return self._manifests[-1] if len(self._manifests) == len(self.headers) else None

    @property
    def has_all(self) -> bool:
        """After reading all batches: whether the archive is complete."""
        return self.manifest is not None and all(manifest.complete for manifest in self._manifests)

    # --- the header

    def _head(self) -> bytes:
        try:
            start = self._lines.peek()
            if why := foreign(start):
                raise ArchiveError.no_archive(self.path, *why)
            line = as_written(next(self._rest, b""))
        except (Damaged, OSError) as error:
            raise ArchiveError.no_archive(self.path, f"it cannot be decompressed ({error})") from error
        if (not line or self._lines.form == "plain") and self._lines.is_cut:
            raise ArchiveError.cut_off(self.path, "nothing can be decompressed")
        if not line.endswith(b"\n") and (_HEAD.startswith(line) or line.startswith(_HEAD)) and line:
            raise ArchiveError.cut_off(self.path, "it ends within its first line")
        if not line.startswith(_HEAD):
            raise ArchiveError.no_archive(self.path, *_what_it_is(line))
        return line

    def _begin(self, head: bytes) -> None:
        """Start an archive: the first one, or one concatenated to it."""
        try:
            version, header = parsed_header(head)
        except ValueError as error:
            if self.headers:
                raise self._corrupt("begins another archive, but does not parse") from error
            raise ArchiveError.no_archive(self.path, "its first line does not parse") from error
        if header is None:
            raise ArchiveError(
                f"{self.path} is an archive of version {version}; this lens reads up to version {VERSION}",
                hint="pip install -U flujo-lens",
                path=str(self.path),
            )
        self._drop_unfinished()
        self.headers.append(header)
        self._chain, self._has_ended = Chain(head), False
        self.runs = self.records = self.batches = 0

    # --- the batches

    def groups(self) -> Iterator[Group]:
        """The records of the complete runs, batch by batch, all records of a run in one group. Can be iterated once.

        A run of more than some megabytes is a separate group, read on iteration. It must be iterated before the next
        group; otherwise it is skipped.

        An incomplete tail left by a killed writer is not an error: see `torn`.

        Raises:
            CorruptArchiveError: a line was changed; the groups before it are valid.
            ArchiveError: it cannot be read any further, or exceeds the limits.
        """
        self._following = self._batches()
        for records in self._following:
            whole = self._whole_runs(records)
            if self._held <= _LONG or not self._run:
                yield whole
                continue
            if whole:
                yield whole
            run, self._run, self._held = LongRun(self, self._began, self._run), [], 0
            yield run
            run.pass_over()
            if rest := self._rest_of_batch:
                self._rest_of_batch = []
                yield self._whole_runs(rest)
        self._drop_unfinished()

    def rest_of_run(self, records: list[Record]) -> Iterator[Record]:
        """These records of a run, and those in later batches, up to its last one."""
        run_id = records[0]["run_id"]
        yield from records
        records.clear()
        for batch in self._following:
            held, self._held = self._held, 0
            for at, record in enumerate(batch):
                is_own = record["run_id"] == run_id
                if is_own:
                    yield record
                if not is_own or record.get("last") is True:
                    self.unfinished += [] if is_own else [run_id]
                    self._rest_of_batch, self._held = batch[at + is_own :], held
                    return
        self.unfinished.append(run_id)

    def again(self) -> ArchiveReader:
        """A new reader of the same archive."""
        return ArchiveReader(self.path, self._limits, self._source)

    def run_at(self, number: int, run_id: str) -> Iterator[Record]:
        """The records of a run that starts in the batch with this number."""
        self._following = self._batches()
        for batch in self._following:
            own = [at for at, record in enumerate(batch) if record["run_id"] == run_id]
            if self._all_batches == number and own:
                yield from self.rest_of_run(batch[own[0] :])
                return
            self._held = 0

    def _batches(self) -> Iterator[list[Record]]:
        """The records of the batches, each checked."""
        batch: list[bytes] = []
        for line in self._numbered():
            if line.startswith(_HEAD):
                self.torn = self.torn or bool(batch)
                batch = []
                self._begin(line)
            elif self._has_ended:
                raise self._corrupt("follows the manifest")
            elif line.startswith(RECORD):
                batch.append(line)
                self._hold(line)
            elif line.startswith(BATCH):
                records, batch = self._closed(batch, line), []
                self._all_batches += 1
                yield records
            elif line.startswith(MANIFEST) and not batch:
                self._end(line)
            else:
                raise self._corrupt("is not a line of an archive")
        self.torn = self.torn or bool(batch)

    def _numbered(self) -> Iterator[bytes]:
        """The complete lines. A truncated line followed by another archive is split."""
        try:
            for line in map(as_written, self._rest):
                if (at := line.find(_HEAD, 1)) > 0 and not is_json(line):
                    self.torn = True
                    line = line[at:]
                if line.endswith(b"\n"):
                    yield line
                else:
                    self.torn = True
        except Damaged as error:
            self._lines.number += 1
            raise self._corrupt(f"cannot be decompressed ({error})") from error
        except OSError as error:
            raise ArchiveError.unreadable(self.path, error.strerror or str(error)) from error

    def _hold(self, line: bytes) -> None:
        self._held += len(line)
        if self._held > self._limits.batch:
            why = f"at line {self._lines.number}, one run or batch takes more than {size(self._limits.batch)}"
            raise ArchiveError.too_large(self.path, why, "--max-record")

    def _closed(self, lines: list[bytes], end: bytes) -> list[Record]:
        """The records of a batch, at its last line."""
        digest = sha256()
        for line in lines:
            digest.update(line)
        try:
            batch = parsed_batch(end)
            if (batch.number, batch.records, batch.sha256) != (self.batches + 1, len(lines), digest.hexdigest()):
                raise self._corrupt("does not match the lines before it: one was changed, removed or added")
            records = [parsed_record(line) for line in lines]
        except ValueError as error:
            raise self._corrupt("or a record before it does not parse") from error
        if batch.runs != sum(record.get("last") is True for record in records):
            raise self._corrupt("has a wrong number of runs")
        self._chain.add(batch.sha256)
        self.batches, self.runs, self.records = self.batches + 1, self.runs + batch.runs, self.records + len(records)
        self._whole = self._lines.number
        return records

    def _end(self, line: bytes) -> None:
        try:
            manifest = parsed_manifest(line)
        except ValueError as error:
            raise self._corrupt("is not a manifest") from error
        counts = (manifest.runs, manifest.records, manifest.batches)
        if counts != (self.runs, self.records, self.batches) or manifest != self._chain.sealed(manifest):
            raise self._corrupt("does not match the batches: some were changed, removed or added")
        self._manifests.append(manifest)
        self._has_ended, self._whole = True, self._lines.number

    def _whole_runs(self, records: list[Record]) -> list[Record]:
        """The records of the runs completed in this batch; the rest is held until the next one."""
        whole: list[Record] = []
        for record in records:
            if self._run and self._run[0]["run_id"] != record["run_id"]:
                self._drop_unfinished()
            self._began = self._began if self._run else self._all_batches
            self._run.append(record)
            if record.get("last") is True:
                whole += self._run
                self._run = []
        if not self._run:
            self._held = 0
        return whole

    def _drop_unfinished(self) -> None:
        self.unfinished += [self._run[0]["run_id"]] if self._run else []
        self._run = []

    def _corrupt(self, why: str) -> CorruptArchiveError:
        rescue = self._rescue() if self.batches or len(self.headers) > 1 else None
        return CorruptArchiveError.at(self.path, self._lines.number, why, self._whole, rescue)

    def _rescue(self) -> str:
        """A command that imports the valid part."""
        name, form = shlex.quote(str(self.path)), self._lines.form
        if str(self.path) == "-":
            return f"COMMAND | head -n {self._whole} | lens import -"
        lines = f"head -n {self._whole}"
        first = f"{lines} {name}" if form == "plain" else f"{_UNPACKERS[form]} {name} | {lines}"
        return f"{first} | lens import -"


def as_written(line: bytes) -> bytes:
    """A line as lens writes it, without the spaces and escapes of other programs."""
    if not (_SPACED.match(line) and line.endswith(b"\n")):
        return line
    try:
        return exact_dumps(exact_loads(line, any_depth=False)) + b"\n"
    except (ValueError, TypeError):
        return line


_UNPACKERS = {"gzip": "gzip -dc", "zstd": "zstd -dc"}


def _what_it_is(line: bytes) -> tuple[str, str | None]:
    """The type of a file whose first line is not a header, and a hint."""
    if not line:
        return "it is empty", None
    for start, what, hint in _OTHER:
        if line.startswith(start):
            return what, hint
    if line.startswith((RECORD, BATCH, MANIFEST)):
        hint = "if it is part of a split file, join all parts: cat PARTS | lens import -; nothing was changed"
        return "its first line is missing", hint
    if line in (b"{\n", b"[\n", b"{", b"["):
        return "it is JSON over several lines", "an archive has one object a line: jq -c . FILE | lens import -"
    return ("its first line is JSON, but not a header" if is_json(line) else "it does not start with a header"), None


_OTHER = (
    (b'{"audit_id":', "it is an audit log", "lens audit list --audit-file FILE reads it"),
    (b'{"run_id":', "it is a list of runs, without their data", None),
    (b'{"resourceSpans":', "it is a trace", "lens trace --file FILE shows it"),
)
"""First bytes of other files of lens."""


def read_archive(path: Path, limits: Limits = LIMITS, source: int | None = None) -> ArchiveReader:
    """Open an archive: ``with read_archive(path) as archive: for records in archive.groups(): ...``.

    Raises:
        ArchiveError, UsageError, MissingExtraError: as for `ArchiveReader`.
    """
    return ArchiveReader(path, limits, source)


class Survey(NamedTuple):
    """The content of an archive whose digests were all checked.

    Attributes:
        header: Its first line.
        manifest: Its last line; None if the writer was stopped.
        torn: Whether it ends within a batch.
        run_ids: Its complete runs, in order, without duplicates.
        unfinished: Incomplete runs.
        states: The runs of which only the state was deleted.
        headers: The headers of all concatenated archives.
        has_all: Whether all writers finished.
        chosen: By run, and by whether only its state was deleted, the number of the group to restore: if concatenated
            archives have a run more than once, that of the newest archive.
        cancelled: The runs that were cancelled, not deleted.
        stripped: The runs of which parts were dropped: these, and when.
    """

    header: Header
    manifest: Manifest | None
    torn: bool
    run_ids: tuple[str, ...]
    unfinished: tuple[str, ...]
    states: frozenset[str]
    headers: tuple[Header, ...]
    has_all: bool
    chosen: Mapping[tuple[str, bool], int]
    cancelled: frozenset[str] = frozenset()
    stripped: Mapping[str, Mapping[str, Any]] = EMPTY

    @property
    def is_complete(self) -> bool:
        """Whether the archive is complete."""
        return self.has_all and not self.unfinished


def survey(path: Path, limits: Limits = LIMITS, source: int | None = None) -> Survey:
    """Read a whole archive, and check every digest.

    Raises:
        ArchiveError, CorruptArchiveError, UsageError, MissingExtraError: as for `ArchiveReader`.
    """
    found: dict[str, None] = {}
    newest: dict[tuple[str, bool], tuple[datetime, int]] = {}
    cancelled: set[str] = set()
    stripped: dict[str, Mapping[str, Any]] = {}
    with read_archive(path, limits, source) as archive:
        for number, group in enumerate(archive.groups()):
            made_at = archive.headers[-1].made_at
            for key, records in runs_of(group):
                last = deque(records, maxlen=1)[0]
                if last.get("last") is not True:  # the archive ends before the run does
                    continue
                cancelled.update([key[0]] if "cancelled" in last else [])
                stripped |= {key[0]: last["strip"]} if isinstance(last.get("strip"), dict) else {}
                found[key[0]] = None
                newest[key] = max(newest.get(key, (made_at, number)), (made_at, number))
        unfinished = tuple(dict.fromkeys(run_id for run_id in archive.unfinished if run_id not in found))
        states = frozenset(run_id for run_id, is_state in newest if is_state)
        chosen = {key: number for key, (_, number) in newest.items()}
        return Survey(
            archive.header, archive.manifest, archive.torn, tuple(found), unfinished, states, tuple(archive.headers),
            archive.has_all, chosen, frozenset(cancelled), stripped,
        )  # fmt: skip


def runs_of(group: Group) -> Iterator[tuple[tuple[str, bool], Iterable[Record]]]:
    """The records grouped by run id and by whether only the state was deleted."""
    if isinstance(group, LongRun):
        yield (group.run_id, group.state_only), group
        return
    for run_id, run in groupby(group, lambda record: record["run_id"]):
        records = list(run)
        yield (run_id, any(record.get("state_only") is True for record in records)), records
