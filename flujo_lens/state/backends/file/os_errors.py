"""What the system says when a folder cannot be written, in errors of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flujo_lens.errors import NAME_ANOTHER, LensError, NotAStoreError, OperationFailedError, ReadOnlyStoreError


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what the system says into errors of ours."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from error


def check_writable(folder: int) -> None:
    """A deletion that finds nothing to delete would not notice that it may not delete: it is an error even so."""
    if not os.access(".", os.W_OK, dir_fd=folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _write_error(path: Path, error: OSError) -> LensError:
    where, reason = str(path), error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "nothing was changed; write as the user that owns the folder"
        return ReadOnlyStoreError(f"{path} is not writable: {reason}", hint=hint, path=where)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return NotAStoreError(f"{path} is not a folder, so not a store of JSON files", hint=NAME_ANOTHER, path=where)
    hint = "is the disk full, the file as large as it may get, or the device failing? then try again"
    return OperationFailedError(f"cannot write to {path}: {reason}; nothing was changed", hint=hint, path=where)
