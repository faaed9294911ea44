"""Compression of archives: plain, gzip or zstandard.

Every part that is written at once (the header, a batch, the manifest) is a separate gzip member or zstandard frame,
so that all parts on disk are readable even if the writer died. Reading detects the compression by content; the file
name only decides how to write.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shlex
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast

import orjson

from flujo_lens.errors import ArchiveError, UsageError
from flujo_lens.operations.input_file import no_such_file
from flujo_lens.serialization.envelope import zstandard

Form = Literal["plain", "gzip", "zstd"]

_SUFFIXES: dict[str, Form] = {".ndjson": "plain", ".ndjson.gz": "gzip", ".ndjson.zst": "zstd"}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""The start of a zstandard frame without data: files of pzstd and seekable files begin with one."""

_MARK = b"\xef\xbb\xbf"
_LONGEST_START = 512
_UNPACK = "unpack it first: {} FILE | lens import -"
_FOREIGN = (
    (b"SQLite format 3\x00", "it is an SQLite database", "to open it as a store: lens list --store FILE"),
    (b"PK\x03\x04", "it is a zip file", _UNPACK.format("unzip -p")),
    (b"\xfd7zXZ\x00", "it is compressed by xz", _UNPACK.format("xz -dc")),
    (b"\x1f\x9d", "it is compressed by compress", _UNPACK.format("uncompress -c")),
    (b"BZh", "it is compressed by bzip2", _UNPACK.format("bzip2 -dc")),
    (b"\x04\x22\x4d\x18", "it is compressed by lz4", _UNPACK.format("lz4 -dc")),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z file", _UNPACK.format("7z x -so")),
    (b"<", "it is HTML or XML, such as a login page", None),
    (b"PAR1", "it is a Parquet file", None),
    (b"age-encryption.org/", "it is encrypted by age", _UNPACK.format("age -d -i KEY")),
    (b"-----BEGIN PGP MESSAGE", "it is encrypted by PGP", _UNPACK.format("gpg -d")),
    (b"\xff\xfe", "it is UTF-16 text", _UNPACK.format("iconv -f UTF-16 -t UTF-8")),
    (b"\xfe\xff", "it is UTF-16 text", _UNPACK.format("iconv -f UTF-16 -t UTF-8")),
)
"""First bytes of other file types: prefix, description, and how to get an archive out of them."""
_LEVEL = 1
"""Compression level of gzip. Half of the time is spent holding the store's lock; higher levels take 4 times as long."""

_LARGEST_WINDOW = 1 << 27
"""Maximum window of zstandard in bytes: needed by ``zstd --ultra -22`` and ``--long``; the default of ``zstd -d``."""

_RATIO, _LEAST_UNPACKED = 200, 1 << 30
Damaged = zlib.error
"""Exceptions for damaged compressed data."""


class Limits(NamedTuple):
    """Limits on uncompressed sizes, so that a small file cannot fill the memory or the disk.

    Attributes:
        record: Maximum bytes of a line.
        batch: Maximum bytes of the lines held in memory: a batch, or a run in several.
        unpacked: Maximum uncompressed bytes of a file; None for 200 times its size, and at least 1 GiB.
    """

    record: int = 512 << 20
    batch: int = 2 << 30
    unpacked: int | None = None

    def of(self, size: int) -> int:
        """Maximum uncompressed bytes of a file of this size."""
        return max(size * _RATIO, _LEAST_UNPACKED) if self.unpacked is None else self.unpacked

    @classmethod
    def asked(cls, record: int | None, unpacked: int | None) -> Limits:
        """The default limits, replaced by the given ones."""
        usual = cls()
        if record is None:
            return usual._replace(unpacked=unpacked)
        return cls(record, max(usual.batch, 4 * record), unpacked)


LIMITS = Limits()


def form_of(path: Path, hint: str | None = None) -> Form:
    """The compression of a file name.

    Args:
        hint: What to type in place of an unknown suffix; by default, as for ``--archive``.

    Raises:
        UsageError: the suffix is unknown.
        MissingExtraError: zstandard is not installed.
    """
    for suffix, form in _SUFFIXES.items():
        if path.name.endswith(suffix) and path.name != suffix:
            if form == "zstd":
                zstandard()
            return form
    raise UsageError(
        f'"{path.name}" is not a file name of an archive; nothing was changed',
        hint=hint or f"archives end in {', '.join(_SUFFIXES)}; for a dated name in a folder: --archive {path}/",
    )


def pack(form: Form, data: bytes) -> bytes:
    """`data` compressed as one part of a file."""
    if form == "gzip":
        return gzip.compress(data, _LEVEL, mtime=0)
    if form == "zstd":
        return cast("bytes", zstandard().ZstdCompressor(write_checksum=True).compress(data))
    return data


class Lines:
    """The lines of an archive file in any compression, each ending in one newline; a context manager.

    Skips blank lines, a byte order mark and carriage returns. Holds one line in memory.

    Args:
        path: The file, or its name for messages.
        source: A descriptor of the file, if it has no path; read from its beginning.

    Raises:
        ArchiveError: it cannot be opened, or is not a regular file.
        MissingExtraError: zstandard is not installed.
    """

    number: int
    """Number of lines read, including blank ones."""
    form: Form

    def __init__(self, path: Path, limits: Limits = LIMITS, source: int | None = None) -> None:
        self.path = path
        self.number = 0
        self._limits, self._unpacked = limits, 0
        self._file = _open(path) if source is None else os.dup(source)
        try:
            found = os.fstat(self._file)
            if not stat.S_ISREG(found.st_mode):
                raise ArchiveError.unreadable(path, *_kind_of(path, found.st_mode))
            self.size = found.st_size
            start = os.pread(self._file, _LONGEST_START, 0)
            if why := foreign(start):
                raise ArchiveError.no_archive(path, *why)
            self.form = _form_in(start)
            raw = _Raw(self._file)
            opener: dict[Form, Callable[[io.RawIOBase], io.RawIOBase]] = {"gzip": _Members, "zstd": _Frames}
            self._stream = io.BufferedReader(opener.get(self.form, _as_it_is)(raw), 1 << 16)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._file)

    def peek(self) -> bytes:
        """The first few hundred uncompressed bytes; raises like iteration."""
        return self._stream.peek(_LONGEST_START)

    @property
    def is_cut(self) -> bool:
        """Whether the first part of the file is truncated, so that nothing can be read from it."""
        start = os.pread(self._file, 1 << 16, 0)
        if self.form == "plain":
            return bool(start) and any(magic.startswith(start) for magic in (_GZIP, _ZSTD))
        return _has_no_end(start) if self.form == "gzip" else _frame_has_no_end(start)

    def __iter__(self) -> Iterator[bytes]:
        """The lines. The last one has no newline if the file is truncated in it and it does not parse.

        Raises:
            Damaged, OSError: it cannot be decompressed or read any further.
            ArchiveError: it exceeds the limits.
        """
        while line := self._stream.readline(self._limits.record + 1):
            self.number += 1
            self._check(line)
            content = line.removeprefix(_MARK).strip(b" \t\r\n")
            if content:
                yield content + (b"\n" if line.endswith(b"\n") or is_json(content) else b"")

    def _check(self, line: bytes) -> None:
        if len(line) > self._limits.record:
            raise ArchiveError.too_large(
                self.path, f"line {self.number} is longer than {size(self._limits.record)}", "--max-record"
            )
        self._unpacked += len(line)
        most = self._limits.of(self.size)
        if self.form != "plain" and self._unpacked > most:
            raise ArchiveError.too_large(
                self.path, f"its {size(self.size)} unpack to more than {size(most)}", "--max-unpacked"
            )


def may_be_archive(start: bytes) -> bool:
    """Whether data with this start may be an archive: it is compressed, or JSON after optional blank lines."""
    if foreign(start) is not None:
        return False
    return _form_in(start) != "plain" or start.removeprefix(_MARK).lstrip()[:1] in (b"", b"{")


def is_json(line: bytes) -> bool:
    """Whether a line is valid JSON."""
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def size(number: int) -> str:
    """A number of bytes, in the largest unit that fits."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << shift:
            return f"{number / (1 << shift):,.4g} {unit}"
    return f"{number} bytes"


# --- the type of a file


def _open(path: Path) -> int:
    try:
        # without O_NONBLOCK, opening a FIFO would block
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise no_such_file(path) from error
    except OSError as error:
        raise ArchiveError.unreadable(path, error.strerror or str(error)) from error


def _kind_of(path: Path, mode: int) -> tuple[str, str]:
    """The type of a path that is not a regular file, and a hint."""
    name = shlex.quote(str(path))
    if stat.S_ISDIR(mode):
        newest = f'lens import "$(ls -t {name}/*.ndjson* | head -n 1)"'
        return "it is a folder", f"give one archive in it, for example the newest: {newest}"
    if stat.S_ISFIFO(mode):
        by = "COMMAND | lens import -" if str(path).startswith(("/dev/", "/proc/")) else f"lens import - < {name}"
        return "it is a pipe (FIFO)", f"nothing was read; to read it from stdin: {by}"
    return "it is not a regular file", "nothing was read; to read a device: lens import - < FILE"


def _form_in(start: bytes) -> Form:
    if start.startswith(_GZIP):
        return "gzip"
    return "zstd" if start.startswith(_ZSTD) or _SKIPPED.match(start) else "plain"


def foreign(start: bytes) -> tuple[str, str | None] | None:
    """The type of a file by its first bytes, and a hint; None if it may be an archive.

    Args:
        start: Its first 300 bytes, or more.
    """
    for magic, what, hint in _FOREIGN:
        if start.startswith(magic):
            return what, hint
    if start[257:262] == b"ustar":
        return "it is a tar file", "unpack it first: tar -xf FILE, then import the archive in it"
    return None


# --- decompression


class _Raw(io.RawIOBase):
    """A file read from its beginning, independent of the descriptor's position."""

    def __init__(self, file: int) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; 0 at the end."""
        data = os.pread(self._file, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _as_it_is(raw: io.RawIOBase) -> io.RawIOBase:
    return raw


def _has_no_end(start: bytes) -> bool:
    """Whether the first gzip member is truncated and not longer than `start`."""
    member = zlib.decompressobj(wbits=31)
    try:
        member.decompress(start)
    except zlib.error:
        return False
    return not member.eof


def _frame_has_no_end(start: bytes) -> bool:
    """Whether the first zstandard frame is truncated and not longer than `start`."""
    frame = zstandard().ZstdDecompressor().decompressobj()
    try:
        frame.decompress(start)
    except zstandard().ZstdError:
        return False
    return not frame.eof


class _Members(io.RawIOBase):
    """The content of all members of a gzip file; the last one may be truncated."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream, self._input = stream, b""
        self._member: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; 0 at the end."""
        data, is_end = b"", False
        while not data and not is_end:
            packed = self._input or self._stream.read(1 << 16) or b""
            is_end = not packed
            if self._member is None:
                packed = packed.lstrip(b"\0\r\n\t ")  # zeros after a power cut, or a newline from an editor
                self._member = zlib.decompressobj(wbits=31)
            data = self._member.decompress(packed, len(buffer))
            self._input = self._member.unused_data or self._member.unconsumed_tail
            if self._member.eof:
                self._member = None
        buffer[: len(data)] = data
        return len(data)


class _Frames(io.RawIOBase):
    """The content of all frames of a zstandard file; the last one may be truncated."""

    def __init__(self, stream: io.RawIOBase) -> None:
        module = zstandard()
        self._error = module.ZstdError
        reader = module.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._source = reader.stream_reader(stream, read_across_frames=True, closefd=False)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; 0 at the end."""
        try:
            return int(self._source.readinto(buffer))
        except self._error as error:
            raise zlib.error(str(error)) from error
