"""The archive for ``lens import``: a file, or stdin."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.errors import OperationFailedError, UsageError
from flujo_lens.operations.archive_compression import may_be_archive

STDIN = "-"
_CHUNK = 1 << 20
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class ArchiveInput(NamedTuple):
    """The source of an archive.

    Attributes:
        path: The file; ``-`` for stdin.
        source: A file descriptor with the content of stdin; None for a file.
    """

    path: Path
    source: int | None = None


@contextmanager
def archive_input(app: App, file: Path) -> Iterator[ArchiveInput]:
    """The archive named by `file`. A pipe is copied to a temporary file, since an archive is read twice.

    Raises:
        UsageError: ``-``, but stdin is a terminal.
        OperationFailedError: not enough space for the copy.
    """
    if str(file) != STDIN:
        yield ArchiveInput(app.world.cwd / file)
        return
    if app.world.stdin.isatty():
        raise UsageError(
            "cannot read an archive from stdin: it is a terminal; nothing was changed",
            hint="lens import FILE, or from a pipe: zstd -dc FILE | lens import -",
        )
    if (descriptor := _plain_file(app)) is not None:
        yield ArchiveInput(Path(STDIN), descriptor)
        return
    with _kept(app.world.stdin.buffer) as copy:
        yield ArchiveInput(Path(STDIN), copy.fileno())


def _plain_file(app: App) -> int | None:
    """The descriptor of stdin if it is a file at its beginning; else None."""
    try:
        descriptor = app.world.stdin.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return descriptor if is_file and not os.lseek(descriptor, 0, os.SEEK_CUR) else None
    except (OSError, ValueError):
        return None


def _kept(source: BinaryIO) -> IO[bytes]:
    """Copy a stream to a temporary file; if it cannot be an archive, only its beginning."""
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(TemporaryFile(prefix="lens-import-"))
            start = source.read(_CHUNK)
            copy.write(start)
            while may_be_archive(start) and (chunk := source.read(_CHUNK)):
                copy.write(chunk)
            copy.flush()
        except OSError as error:
            raise OperationFailedError(
                f"cannot copy stdin to a temporary file: {error.strerror or error}; nothing was changed",
                hint="set TMPDIR to a folder with more space, or use lens import FILE",
            ) from error
        stack.pop_all()
    return copy


def parse_size(text: str, option: str) -> int:
    """Parse a number of bytes: ``1500000``, ``512K``, ``300M``, ``20G``, ``1T`` (powers of 1024; also ``MiB``, ``MB``).

    Raises:
        UsageError: it cannot be parsed, or is zero.
    """
    found = re.fullmatch(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(found[1]) << _UNITS[found[2].upper()] if found else 0
    if not size:
        raise UsageError(f'cannot read "{text}" as a size', hint=f"{option} takes 512M, 20G, or a number of bytes")
    return size
