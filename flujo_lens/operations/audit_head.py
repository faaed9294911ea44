"""How long an audit log is, and the hash of its last line, kept in a file of its own beside it.

A chain of hashes does not show that lines were cut from its end. What is kept here does: `x.db.lens-audit.ndjson` has
`x.db.lens-audit.ndjson.head` next to it, one JSON object, written anew (all of it or nothing) while the log is held,
once an entry is on the disk. A writer that dies in between leaves the one before, which still fits: the
log then has more than it says, never less.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self

from flujo_lens.fs.atomic_write import replace_file
from flujo_lens.operations.sidecar_files import last_line, open_own

__all__ = ["Head", "head_path", "read_head", "write_head"]

SUFFIX = ".head"
_LONGEST = 4096


class Head(NamedTuple):
    """What is kept of a log.

    Attributes:
        length: Its bytes.
        digest: SHA-256 of the last line, without its newline, in hex.
        file: The number of the file (its inode): a log that was moved away leaves its place to another file.
    """

    length: int
    digest: str
    file: int

    @classmethod
    def of(cls, file: int) -> Self:
        """That of an open log."""
        size = os.fstat(file).st_size
        return cls(size, sha256(last_line(file, size)[0]).hexdigest(), os.fstat(file).st_ino)

    def is_kept_by(self, file: int) -> bool:
        """Whether an open log still has all that was kept of it."""
        if os.fstat(file).st_size < self.length:
            return False
        line, ended = last_line(file, self.length)
        return ended and sha256(line).hexdigest() == self.digest

    def is_moved(self, file: int) -> bool:
        """Whether an open log that is empty is another file: the one before was moved away, as by a rotation."""
        status = os.fstat(file)
        return not status.st_size and status.st_ino != self.file


def head_path(log: Path) -> Path:
    """The place beside a log."""
    return log.with_name(f"{log.name}{SUFFIX}")


def read_head(log: Path) -> Head | None:
    """What is kept of a log; None if nothing is, or nothing that can be read."""
    try:
        file = open_own(head_path(log), os.O_RDONLY | os.O_NONBLOCK)  # a FIFO of that name would be waited for
        try:
            told = json.loads(os.read(file, _LONGEST))
        finally:
            os.close(file)
        return Head(int(told["length"]), str(told["head"]), int(told["file"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_head(log: Path, head: Head) -> None:
    """Keep it. Where that cannot be, the one before stays: it says less, and nothing wrong."""
    place = head_path(log)
    draft = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
    told = {"length": head.length, "head": head.digest, "file": head.file}
    with suppress(OSError):
        replace_file(place, json.dumps(told).encode() + b"\n", draft)
