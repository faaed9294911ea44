"""Copies of deleted runs: the bin and an archive, written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from flujo_lens.operations.archive import ArchiveWriter
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.state.deletion import Record


class Keeping(NamedTuple):
    """Where copies of deleted runs are kept.

    Attributes:
        bin: The bin; None for none.
        archive: A file that does not exist yet; None for none.
        store: The name of the store for the headers, without passwords.
    """

    bin: Bin | None = None
    archive: Path | None = None
    store: str = ""


class Copies:
    """The bin and archive of a deletion as one `BackupCallback`; true if there is either."""

    def __init__(self, keeping: Keeping, header: Header) -> None:
        self._keeping, self._header = keeping, header
        self._bin: ArchiveWriter | None = None
        self._archive: ArchiveWriter | None = None

    def __enter__(self) -> Self:
        try:
            if self._keeping.archive is not None:
                self._archive = ArchiveWriter(self._keeping.archive, self._header)
            if self._keeping.bin is not None:
                self._bin = self._keeping.bin.open(self._header.audit_id, self._header)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __bool__(self) -> bool:
        return bool(self._writers)

    @property
    def _writers(self) -> list[ArchiveWriter]:
        return [writer for writer in (self._archive, self._bin) if writer is not None]

    @property
    def archive_path(self) -> Path | None:
        """The path of the archive, if it has runs."""
        return self._archive.path if self._archive is not None and self._archive.batches else None

    @property
    def has_bin(self) -> bool:
        """Whether the bin has runs."""
        return self._bin is not None and bool(self._bin.batches)

    def keep(self, records: Sequence[Record]) -> None:
        """Write a batch into both."""
        for writer in self._writers:
            writer.keep(records)

    def finish(self, *, complete: bool, by_status: Mapping[str, int], rows: Mapping[str, int]) -> None:
        """Write the manifests (see `ArchiveWriter.finish`), except of an empty archive."""
        for writer in self._writers:
            if writer.batches:
                writer.finish(complete=complete, by_status=by_status, rows=rows)

    def discard(self) -> None:
        """Remove both, since nothing in them was deleted. Never raises."""
        for writer in self._writers:
            writer.discard()

    def _close(self) -> None:
        for writer in self._writers:
            writer.abandon()
