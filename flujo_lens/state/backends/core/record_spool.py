"""`RecordSpool`: records of some runs in memory, or in a temporary file if they are large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Protocol, Self, runtime_checkable

from flujo_lens.errors import OperationFailedError
from flujo_lens.serialization.exact import exact_dumps, exact_loads
from flujo_lens.state.deletion import Record

_IN_MEMORY = 16 << 20
"""Bytes of JSON from which on records are written to a file."""


class RecordSpool:
    """Records that can be gone through several times; a context manager, which removes the file.

    Args:
        records: The records, which are gone through once, now.

    Attributes:
        size: Their size as JSON in bytes.

    Raises:
        OperationFailedError: there is no space for the file.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._held: list[Record] = []
        self._file: IO[bytes] | None = None
        self.size = 0
        try:
            for record in records:
                self.add(record)
        except BaseException:
            self.close()
            raise

    def add(self, record: Record) -> None:
        """Add a record."""
        data = exact_dumps(record)
        self.size += len(data)
        if self._file is None and (self.size < _IN_MEMORY or not self._held):
            self._held.append(record)
            return
        try:
            if self._file is None:
                self._file = TemporaryFile(prefix="lens-records-")  # noqa: SIM115 - closed by close
            self._file.write(data + b"\n")
        except OSError as error:
            raise OperationFailedError(
                f"cannot write a temporary file: {error.strerror or error}",
                hint="set TMPDIR to a folder with more space",
            ) from error

    def changed(self, change: Callable[[Record], Record]) -> RecordSpool:
        """The same records, each as `change` makes it: in memory where these are."""
        if self._file is not None:
            return RecordSpool(map(change, self))
        made = RecordSpool()
        made._held, made.size = list(map(change, self._held)), self.size
        return made

    def __iter__(self) -> Iterator[Record]:
        yield from self._held
        if self._file is not None:
            self._file.flush()
            self._file.seek(0)
            for line in self._file:
                yield exact_loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()


@runtime_checkable
class SpoolsRecords(Protocol):
    """A backend that puts the portable records of some runs together by itself, on its own thread."""

    async def spool_portable(self, run_ids: Sequence[str]) -> RecordSpool:
        """Return the records of `StateBackend.read_portable`."""
        ...
