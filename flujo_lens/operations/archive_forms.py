"""How the lines of an archive lie in a file: as they are, in gzip, or in zstandard.

Every part that is written at once (the header, a batch, the manifest) is a gzip member or a zstandard frame of its
own, so that all parts that are on the disk can be read, whatever became of the process that wrote them. A file is
read by what is in it; its name only says how to write it.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, cast

from flujo_lens.errors import ArchiveError, MissingExtraError, UsageError

__all__ = ["Damaged", "Form", "form_of", "opened", "pack", "zstandard"]

Form = Literal["plain", "gzip", "zstd"]

_SUFFIXES: dict[str, Form] = {".ndjson": "plain", ".ndjson.gz": "gzip", ".ndjson.zst": "zstd"}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_LEVEL = 1
"""Of gzip: half of the time goes where the store's lock is held, and higher levels take four times as long."""

_LARGEST_WINDOW = 1 << 27
Damaged = zlib.error
"""What reading compressed data raises where it is damaged, in either form."""


def form_of(path: Path) -> Form:
    """The form that the name of a file asks for.

    Raises:
        UsageError: none has such a name.
        MissingExtraError: it is zstandard, which is not installed.
    """
    for suffix, form in _SUFFIXES.items():
        if path.name.endswith(suffix) and path.name != suffix:
            if form == "zstd":
                zstandard()
            return form
    raise UsageError(
        f'"{path.name}" is no name of an archive; nothing was changed',
        hint=f"it ends in {', '.join(_SUFFIXES)}; a folder gets a dated name: --archive {path}/",
    )


def zstandard() -> Any:
    """The module of the extra ``zstd``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import zstandard as module
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("zstandard", "zstd") from error
    return module


def pack(form: Form, data: bytes) -> bytes:
    """`data` as one part of a file."""
    if form == "gzip":
        return gzip.compress(data, _LEVEL, mtime=0)
    if form == "zstd":
        return cast("bytes", zstandard().ZstdCompressor(write_checksum=True).compress(data))
    return data


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The lines of a file, whatever its form. Only as much is held as the longest line takes.

    Iterating raises `Damaged`, and OSError. Where the file was cut short, its last line lacks its end, or is missing.

    Raises:
        ArchiveError: it cannot be opened, or is no plain file.
        MissingExtraError: it is zstandard, which is not installed.
    """
    try:
        # Without O_NONBLOCK, a FIFO of that name would be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArchiveError.unreadable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ArchiveError.unreadable(path, "it is no plain file")
    with open(file, "rb") as stream:
        magic = os.pread(file, 4, 0)
        if magic.startswith(_GZIP):
            with io.BufferedReader(_Members(stream), 1 << 16) as lines:
                yield lines
        elif magic == _ZSTD:
            with io.BufferedReader(_Frames(stream), 1 << 16) as lines:
                yield lines
        else:
            yield stream


class _Members(io.RawIOBase):
    """What is in the members of a gzip file, as far as they go: the last one may be cut short."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._input = stream, b""
        self._member: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end."""
        data, is_end = b"", False
        while not data and not is_end:
            packed = self._input or self._stream.read(1 << 16)
            is_end = not packed
            if self._member is None:
                packed = packed.lstrip(b"\0")  # a power cut leaves them
                self._member = zlib.decompressobj(wbits=31)
            data = self._member.decompress(packed, len(buffer))
            self._input = self._member.unused_data or self._member.unconsumed_tail
            if self._member.eof:
                self._member = None
        buffer[: len(data)] = data
        return len(data)


class _Frames(io.RawIOBase):
    """What is in the frames of a zstandard file, as far as they go: the last one may be cut short."""

    def __init__(self, stream: IO[bytes]) -> None:
        module = zstandard()
        self._error = module.ZstdError
        reader = module.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._source = reader.stream_reader(stream, read_across_frames=True, closefd=False)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end."""
        try:
            return int(self._source.readinto(buffer))
        except self._error as error:
            raise zlib.error(str(error)) from error
