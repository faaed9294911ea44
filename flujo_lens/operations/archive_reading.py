"""Reading archives of runs, batch by batch, each one only after its digest was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from flujo_lens.errors import ArchiveError, CorruptArchiveError
from flujo_lens.operations.archive_forms import Damaged, opened
from flujo_lens.operations.archive_lines import (
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
from flujo_lens.state.deletion import Record

__all__ = ["ArchiveReader", "Survey", "read_archive", "survey"]

_HEAD = b'{"lens_archive":'


class ArchiveReader:
    """Reads one archive; a context manager. No more than a batch is held at a time.

    Args:
        path: The file, in any form.

    Raises:
        ArchiveError: it cannot be opened, is no archive, or was written by a newer version.
        MissingExtraError: it is zstandard, which is not installed.
    """

    header: Header
    manifest: Manifest | None
    """The last line, once all batches were read; None if the writer was stopped."""
    torn: bool
    """Whether the file ends in the middle of a batch, once all batches were read. Its runs were not deleted."""
    unfinished: list[str]
    """Runs whose last record did not come, of those read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, self.torn, self.unfinished = None, False, []
        self.runs = self.records = self.batches = 0
        self._number = self._whole = 1
        self._run: list[Record] = []
        with ExitStack() as stack:
            self._lines: IO[bytes] = stack.enter_context(opened(path))
            head = self._head()
            self.header, self._chain = self._parsed(head), Chain(head)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    # --- the header

    def _head(self) -> bytes:
        try:
            start = self._lines.readline(len(_HEAD))
            if start != _HEAD:
                raise self._no_archive("it is empty" if not start else "it does not begin as one")
            line = start + self._lines.readline()
        except (Damaged, OSError) as error:
            raise self._no_archive(str(error)) from error
        if not line.endswith(b"\n"):
            raise self._no_archive("it was cut short in its first line")
        return line

    def _parsed(self, head: bytes) -> Header:
        try:
            version, header = parsed_header(head)
        except ValueError as error:
            raise self._no_archive("its first line does not parse") from error
        if header is None:
            raise ArchiveError(
                f"{self.path} is an archive of version {version}, and this is known up to {VERSION}",
                hint="pip install -U flujo-lens",
                path=str(self.path),
            )
        return header

    def _no_archive(self, why: str) -> ArchiveError:
        hint = "nothing was changed; archives are made by lens prune --archive FILE"
        return ArchiveError(f"{self.path} is no archive of runs: {why}", hint=hint, path=str(self.path))

    # --- the batches

    def groups(self) -> Iterator[list[Record]]:
        """The records of the next batch's whole runs, all of a run in one group; can be gone through once.

        A tail that was torn when the writer died is no error: see `torn`.

        Raises:
            CorruptArchiveError: a line is not as it was written; what was handed out before is.
            ArchiveError: it cannot be read any more.
        """
        batch: list[bytes] = []
        for line in self._numbered():
            if not line.endswith(b"\n"):
                self.torn = True
                break
            if self.manifest is not None:
                raise self._corrupt("stands behind the manifest")
            if line.startswith(RECORD):
                batch.append(line)
            elif line.startswith(BATCH):
                yield self._whole_runs(self._closed(batch, line))
                batch = []
            elif line.startswith(MANIFEST) and not batch:
                self._end(line)
            else:
                raise self._corrupt("is no line of an archive")
        self.torn = self.torn or bool(batch)
        self._drop_unfinished()

    def _numbered(self) -> Iterator[bytes]:
        try:
            for line in self._lines:
                self._number += 1
                yield line
        except Damaged as error:
            self._number += 1
            raise self._corrupt(f"cannot be unpacked ({error})") from error
        except OSError as error:
            raise ArchiveError.unreadable(self.path, error.strerror or str(error)) from error

    def _closed(self, lines: list[bytes], end: bytes) -> list[Record]:
        """The records of a batch whose end has come."""
        digest = sha256()
        for line in lines:
            digest.update(line)
        try:
            told = parsed_batch(end)
            if (told.number, told.records, told.sha256) != (self.batches + 1, len(lines), digest.hexdigest()):
                raise self._corrupt("does not fit the lines before it: one was changed, removed or added")
            records = [parsed_record(line) for line in lines]
        except ValueError as error:
            raise self._corrupt("does not parse, or a record before it") from error
        if told.runs != sum(record.get("last") is True for record in records):
            raise self._corrupt("counts other runs than there are")
        self._chain.add(told.sha256)
        self.batches, self.runs, self.records = self.batches + 1, self.runs + told.runs, self.records + len(records)
        self._whole = self._number
        return records

    def _end(self, line: bytes) -> None:
        try:
            manifest = parsed_manifest(line)
        except ValueError as error:
            raise self._corrupt("is no manifest") from error
        counts = (manifest.runs, manifest.records, manifest.batches)
        if counts != (self.runs, self.records, self.batches) or manifest != self._chain.sealed(manifest):
            raise self._corrupt("is the manifest of other batches: some were changed, removed or added")
        self.manifest = manifest

    def _whole_runs(self, records: list[Record]) -> list[Record]:
        """The records of the runs that are whole now; what is left waits for the next batch."""
        whole: list[Record] = []
        for record in records:
            if self._run and self._run[0]["run_id"] != record["run_id"]:
                self._drop_unfinished()
            self._run.append(record)
            if record.get("last") is True:
                whole += self._run
                self._run = []
        return whole

    def _drop_unfinished(self) -> None:
        self.unfinished += [self._run[0]["run_id"]] if self._run else []
        self._run = []

    def _corrupt(self, why: str) -> CorruptArchiveError:
        return CorruptArchiveError.at(self.path, self._number, why, self._whole)


def read_archive(path: Path) -> ArchiveReader:
    """Open an archive: ``with read_archive(path) as archive: for records in archive.groups(): ...``.

    Raises:
        ArchiveError, MissingExtraError: as `ArchiveReader`.
    """
    return ArchiveReader(path)


class Survey(NamedTuple):
    """What an archive holds, all of it checked.

    Attributes:
        header: Its first line.
        manifest: Its last line; None if the writer was stopped.
        torn: Whether it ends in the middle of a batch.
        run_ids: Its whole runs, in their order, each once.
        unfinished: Runs of which only a part is there.
        states: Those of its runs of which only the state was deleted, and the history stayed.
    """

    header: Header
    manifest: Manifest | None
    torn: bool
    run_ids: tuple[str, ...]
    unfinished: tuple[str, ...]
    states: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether all is there that was to go in."""
        return self.manifest is not None and self.manifest.complete and not self.unfinished


def survey(path: Path) -> Survey:
    """Read an archive from its first line to its last, and check every digest.

    Raises:
        ArchiveError, CorruptArchiveError, MissingExtraError: as `ArchiveReader`.
    """
    found: dict[str, None] = {}
    states: set[str] = set()
    with read_archive(path) as archive:
        for records in archive.groups():
            found.update((record["run_id"], None) for record in records if record.get("last") is True)
            states.update(record["run_id"] for record in records if record.get("state_only") is True)
        unfinished = tuple(run_id for run_id in archive.unfinished if run_id not in found)
        return Survey(archive.header, archive.manifest, archive.torn, tuple(found), unfinished, frozenset(states))
