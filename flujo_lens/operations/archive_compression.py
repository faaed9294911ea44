"""How the lines of an archive lie in a file: as they are, in gzip, or in zstandard.

Every part that is written at once (the header, a batch, the manifest) is a gzip member or a zstandard frame of its
own, so that all parts that are on the disk can be read, whatever became of the process that wrote them. A file is
read by what is in it, many parts or one; its name only says how to write it.
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

from flujo_lens.errors import ArchiveError, MissingExtraError, UsageError

__all__ = [
    "LIMITS",
    "Damaged",
    "Form",
    "Limits",
    "Lines",
    "foreign",
    "form_of",
    "is_json",
    "may_be_archive",
    "pack",
    "size",
    "zstandard",
]

Form = Literal["plain", "gzip", "zstd"]

_SUFFIXES: dict[str, Form] = {".ndjson": "plain", ".ndjson.gz": "gzip", ".ndjson.zst": "zstd"}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""How a zstandard frame begins that holds no data: pzstd and seekable files begin with one."""

_MARK = b"\xef\xbb\xbf"
_LONGEST_START = 512
_UNPACK = "unpack it on the way: {} FILE | lens import -"
_FOREIGN = (
    (b"SQLite format 3\x00", "it is an SQLite database", "a store is named by --store: lens list --store FILE"),
    (b"PK\x03\x04", "it is a zip file", _UNPACK.format("unzip -p")),
    (b"\xfd7zXZ\x00", "it is packed by xz", _UNPACK.format("xz -dc")),
    (b"\x1f\x9d", "it is packed by compress", _UNPACK.format("uncompress -c")),
    (b"BZh", "it is packed by bzip2", _UNPACK.format("bzip2 -dc")),
    (b"\x04\x22\x4d\x18", "it is packed by lz4", _UNPACK.format("lz4 -dc")),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z file", _UNPACK.format("7z x -so")),
    (b"<", "it is HTML or XML, as a page that asks for a password is", None),
    (b"PAR1", "it is a Parquet file", None),
    (b"age-encryption.org/", "it is encrypted by age", _UNPACK.format("age -d -i KEY")),
    (b"-----BEGIN PGP MESSAGE", "it is encrypted by PGP", _UNPACK.format("gpg -d")),
    (b"\xff\xfe", "it is UTF-16 text", _UNPACK.format("iconv -f UTF-16 -t UTF-8")),
    (b"\xfe\xff", "it is UTF-16 text", _UNPACK.format("iconv -f UTF-16 -t UTF-8")),
)
"""How other files begin, what they are, and how to get at an archive in them."""
_LEVEL = 1
"""Of gzip: half of the time goes where the store's lock is held, and higher levels take four times as long."""

_LARGEST_WINDOW = 1 << 27
"""Of zstandard, in bytes: what ``zstd --ultra -22`` and ``--long`` need, and ``zstd -d`` takes without an option."""

_RATIO, _LEAST_UNPACKED = 200, 1 << 30
Damaged = zlib.error
"""What reading compressed data raises where it is damaged, in either form."""


class Limits(NamedTuple):
    """How much may come out of a file, so that a small one cannot fill a memory or a disk.

    Attributes:
        record: Bytes of one line.
        batch: Bytes of the lines that are held at once: a batch, or a run in several.
        unpacked: Bytes of all lines of a compressed file; None for 200 times its size, and at least 1 GiB.
    """

    record: int = 512 << 20
    batch: int = 2 << 30
    unpacked: int | None = None

    def of(self, size: int) -> int:
        """How many bytes may be unpacked from a file of this size."""
        return max(size * _RATIO, _LEAST_UNPACKED) if self.unpacked is None else self.unpacked

    @classmethod
    def asked(cls, record: int | None, unpacked: int | None) -> Limits:
        """The limits with those that were asked for."""
        usual = cls()
        if record is None:
            return usual._replace(unpacked=unpacked)
        return cls(record, max(usual.batch, 4 * record), unpacked)


LIMITS = Limits()


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


class Lines:
    """The lines of a file of archives, whatever its form, each with one newline at its end; a context manager.

    Blank lines are passed over, a byte order mark and carriage returns left out. No more is held than the longest
    line takes.

    Args:
        path: The file, or what messages call it.
        limits: How much may come out of it.
        source: A descriptor of the file, if it has no name; read from its beginning.

    Raises:
        ArchiveError: it cannot be opened, or is no plain file.
        MissingExtraError: it is zstandard, which is not installed.
    """

    number: int
    """How many lines were read, blank ones included."""
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
        """What the unpacked content begins with, up to some hundred bytes; raises as iterating does."""
        return self._stream.peek(_LONGEST_START)

    @property
    def is_cut(self) -> bool:
        """Whether the first part of the file has no end, where nothing could be unpacked from it."""
        start = os.pread(self._file, 1 << 16, 0)
        if self.form == "plain":
            return bool(start) and any(magic.startswith(start) for magic in (_GZIP, _ZSTD))
        return _has_no_end(start) if self.form == "gzip" else _frame_has_no_end(start)

    def __iter__(self) -> Iterator[bytes]:
        """The lines. The last one lacks its newline where it does not parse: the file was cut off in it.

        Raises:
            Damaged, OSError: it cannot be unpacked, or read, any further.
            ArchiveError: it is larger than the limits allow.
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
    """Whether what begins so may be an archive: it is packed, or begins as JSON, perhaps after blank lines."""
    if foreign(start) is not None:
        return False
    return _form_in(start) != "plain" or start.removeprefix(_MARK).lstrip()[:1] in (b"", b"{")


def is_json(line: bytes) -> bool:
    """Whether a line parses."""
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


# --- what a file is


def _open(path: Path) -> int:
    try:
        # Without O_NONBLOCK, a FIFO of that name would be waited for.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArchiveError.unreadable(path, error.strerror or str(error)) from error


def _kind_of(path: Path, mode: int) -> tuple[str, str]:
    """What is there in place of a file, and what to do."""
    name = shlex.quote(str(path))
    if stat.S_ISDIR(mode):
        newest = f'lens import "$(ls -t {name}/*.ndjson* | head -n 1)"'
        return "it is a folder", f"name one archive in it, the newest for instance: {newest}"
    if stat.S_ISFIFO(mode):
        by = "COMMAND | lens import -" if str(path).startswith(("/dev/", "/proc/")) else f"lens import - < {name}"
        return "it is a pipe (FIFO)", f"nothing was read; lens import - reads one from stdin: {by}"
    return "it is no plain file", "nothing was read; what a device holds comes by stdin: lens import - < FILE"


def _form_in(start: bytes) -> Form:
    if start.startswith(_GZIP):
        return "gzip"
    return "zstd" if start.startswith(_ZSTD) or _SKIPPED.match(start) else "plain"


def foreign(start: bytes) -> tuple[str, str | None] | None:
    """What a file is by its first bytes, and how to get at an archive; None if it may be one.

    Args:
        start: Its first 300 bytes, or more.
    """
    for magic, what, hint in _FOREIGN:
        if start.startswith(magic):
            return what, hint
    if start[257:262] == b"ustar":
        return "it is a tar file", "unpack it first: tar -xf FILE, then lens import what was in it"
    return None


# --- what is packed


class _Raw(io.RawIOBase):
    """A file from its beginning, whatever else reads the same descriptor."""

    def __init__(self, file: int) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end."""
        data = os.pread(self._file, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _as_it_is(raw: io.RawIOBase) -> io.RawIOBase:
    return raw


def _has_no_end(start: bytes) -> bool:
    """Whether the first gzip member is no longer than `start`, and cut off."""
    member = zlib.decompressobj(wbits=31)
    try:
        member.decompress(start)
    except zlib.error:
        return False
    return not member.eof


def _frame_has_no_end(start: bytes) -> bool:
    """Whether the first zstandard frame is no longer than `start`, and cut off."""
    frame = zstandard().ZstdDecompressor().decompressobj()
    try:
        frame.decompress(start)
    except zstandard().ZstdError:
        return False
    return not frame.eof


class _Members(io.RawIOBase):
    """What is in the members of a gzip file, as far as they go: the last one may be cut short."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream, self._input = stream, b""
        self._member: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there is something; 0 at the end."""
        data, is_end = b"", False
        while not data and not is_end:
            packed = self._input or self._stream.read(1 << 16) or b""
            is_end = not packed
            if self._member is None:
                packed = packed.lstrip(b"\0\r\n\t ")  # a power cut leaves zeros, an editor or echo a line's end
                self._member = zlib.decompressobj(wbits=31)
            data = self._member.decompress(packed, len(buffer))
            self._input = self._member.unused_data or self._member.unconsumed_tail
            if self._member.eof:
                self._member = None
        buffer[: len(data)] = data
        return len(data)


class _Frames(io.RawIOBase):
    """What is in the frames of a zstandard file, as far as they go: the last one may be cut short."""

    def __init__(self, stream: io.RawIOBase) -> None:
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
