"""The head file of an audit log: its length and the hash of its last line.

A chain of hashes cannot detect that lines were removed from its end; the head file can. `x.db.lens-audit.ndjson` has
`x.db.lens-audit.ndjson.head` next to it: one JSON object, replaced atomically after each entry while the log is
locked. A writer that dies in between leaves the previous head, which is still valid: the log is then longer than it
says, never shorter.
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

SUFFIX = ".head"
_LONGEST = 4096


class Head(NamedTuple):
    """The recorded end of a log.

    Attributes:
        length: Its length in bytes.
        digest: SHA-256 of the last line, without its newline, in hex.
        file: The inode of the file, which differs after the log was moved away.
    """

    length: int
    digest: str
    file: int

    @classmethod
    def of(cls, file: int) -> Self:
        """The head of an open log."""
        size = os.fstat(file).st_size
        return cls(size, sha256(last_line(file, size)[0]).hexdigest(), os.fstat(file).st_ino)

    def is_kept_by(self, file: int) -> bool:
        """Whether an open log still has its recorded end."""
        if os.fstat(file).st_size < self.length:
            return False
        line, ended = last_line(file, self.length)
        return ended and sha256(line).hexdigest() == self.digest

    def is_moved(self, file: int) -> bool:
        """Whether an empty open log is a new file, since the earlier one was moved away, for example by rotation."""
        status = os.fstat(file)
        return not status.st_size and status.st_ino != self.file


def head_path(log: Path) -> Path:
    """The path of the head file of a log."""
    return log.with_name(f"{log.name}{SUFFIX}")


def read_head(log: Path) -> Head | None:
    """Read the head of a log; None if there is none, or it is unreadable."""
    try:
        file = open_own(head_path(log), os.O_RDONLY | os.O_NONBLOCK)  # without O_NONBLOCK, opening a FIFO would block
        try:
            head = json.loads(os.read(file, _LONGEST))
        finally:
            os.close(file)
        return Head(int(head["length"]), str(head["head"]), int(head["file"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_head(log: Path, head: Head) -> None:
    """Write the head of a log. If that fails, the previous one stays, which is still valid."""
    place = head_path(log)
    draft = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
    document = {"length": head.length, "head": head.digest, "file": head.file}
    with suppress(OSError):
        replace_file(place, json.dumps(document).encode() + b"\n", draft)
