"""Files that a user asked for by name: whole or not there, readable by their owner alone unless asked otherwise."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from flujo_lens.fs.atomic_write import whole_file, write_all

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EMLINK)
"""How file systems refuse to give a file a second name."""


def write_output(path: Path, data: bytes, *, overwrite: bool = False, mode: int = 0o600) -> None:
    """Write a file, so that its name leads to all of the content at any moment.

    A device or a pipe is written to as it is.

    Args:
        overwrite: Whether to replace a file that is there; otherwise it stays.
        mode: The permissions of the file, less the umask.

    Raises:
        FileExistsError: there is a file, and `overwrite` is False.
        OSError: it cannot be written; nothing is left of it.
    """
    if path.exists() and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        _write_through(path, data)
        return
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    with whole_file(path, draft, mode=mode, place=os.replace if overwrite else _name) as file:
        write_all(file, data)


def _write_through(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_all(file, data)
    finally:
        os.close(file)


def _name(draft: Path, path: Path) -> None:
    """Give the draft its name, unless another file has it by now."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, _NEW, 0o600))
        os.replace(draft, path)
    else:
        os.unlink(draft)
