"""Whether this user may write the store at a path, by its permissions, before it is opened to be written."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from flujo_lens.errors import ReadOnlyStoreError

_JOURNALS = ("-wal", "-journal")
"""Files of SQLite next to a database; with one of them, a folder that is not writable may suffice."""


def check_may_write(store: Path | None) -> None:
    """Check that a store at a path is writable. What does not exist is left to those who open it.

    Raises:
        ReadOnlyStoreError: the file or folder is not writable; or it is a file, and its folder is not, in which SQLite
            creates files.
    """
    found = None if store is None else _obstacle(store)
    if found is None:
        return
    what, path = found
    raise ReadOnlyStoreError(
        f"the store {store} is read-only: {what}; nothing was changed",
        hint=f"{_remedy(path)}\n--dry-run shows what would be done; lens explain LENS-S5",
        path=str(store),
    )


def _obstacle(store: Path) -> tuple[str, Path] | None:
    """What cannot be written, in words and as a path."""
    path = Path(os.path.realpath(store))
    if not os.path.exists(path):
        return None
    if path.is_dir():
        return None if os.access(path, os.W_OK | os.X_OK) else (f"you cannot write to this folder{_owned(path)}", path)
    if not os.access(path, os.W_OK):
        return f"you cannot write to this file{_owned(path)}", path
    folder = path.parent
    if os.access(folder, os.W_OK | os.X_OK) or any(os.path.exists(f"{path}{end}") for end in _JOURNALS):
        return None
    return f"you cannot write to its folder{_owned(folder)}, where SQLite creates files", folder


def _owned(path: Path) -> str:
    """Mode and owner of a file, as of ls."""
    found = path.stat()
    return f" ({stat.filemode(found.st_mode)} {_name_of(found.st_uid)})"


def _remedy(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"its disk is mounted read-only: findmnt --target {shlex.quote(str(path))}"
    owner = path.stat().st_uid
    if owner == os.getuid():
        return f"to allow it: chmod u+w {shlex.quote(str(path))}"
    return f"run lens as the user that owns it: sudo -u {shlex.quote(_name_of(owner))} lens ..."


def _name_of(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
