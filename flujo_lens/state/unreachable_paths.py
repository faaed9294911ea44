"""Why nothing can be opened at a path: nothing is there, or a folder on the way may not be entered."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from flujo_lens.errors import LensError, StoreNotFoundError, UnreachableStoreError

__all__ = ["databases_in", "unreached"]

_KNOWN = "nothing was created; `lens stores` lists the known stores, `lens demo` makes one to play with"
_MAGIC = b"SQLite format 3\x00"
_MOST_LOOKED_AT = 1000


def unreached(path: Path | str, error: OSError | None = None) -> LensError:
    """The error for a path at which no store can be opened.

    Args:
        path: The path of the store.
        error: What the system said; None to ask it.
    """
    where = str(path)
    if error is None:
        try:
            os.stat(path)
        except OSError as found:
            error = found
    if error is None or error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = _meant_by_others(where) or _KNOWN
        return StoreNotFoundError(f"there is no store at {where}{_why_not(where)}", hint=hint, path=where)
    shut = _shut_folder(where) if error.errno == errno.EACCES else None
    if shut is not None:
        return UnreachableStoreError(
            f"cannot look for {where}: {error.strerror}: the folder {shut} may not be entered",
            hint="read as a user who may enter the folder",
            path=where,
        )
    return UnreachableStoreError(
        f"cannot read {where}: {error.strerror or error}", hint="read as a user who may read it", path=where
    )


def _meant_by_others(path: str) -> str | None:
    """What to type where flujo 0.4 takes ``sqlite:///tmp/x.db`` for /tmp/x.db, and here it is a relative path."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the current folder is gone
        return None
    rooted = os.path.join(os.sep, relative)
    if relative.startswith(os.pardir) or not os.path.isfile(rooted):
        return None
    return (
        f"but {rooted} is there, which flujo 0.4 means by sqlite:///{relative}; "
        f"here an absolute path has four slashes: sqlite:///{rooted}"
    )


def _why_not(path: str) -> str:
    """What stands in the way, where it is not that simply nothing is there."""
    if os.path.islink(path):
        return f": it is a link to {os.readlink(path)}, where nothing is"
    file = next((folder for folder in _folders(path) if os.path.isfile(folder)), None)
    return f": {file} is a file, not a folder" if file else ""


def _shut_folder(path: str) -> str | None:
    """The first folder on the way to a path that may not be entered."""
    return next((folder for folder in _folders(path) if os.path.isdir(folder) and not os.access(folder, os.X_OK)), None)


def _folders(path: str) -> list[str]:
    """The folders above a path, the uppermost first."""
    return [str(folder) for folder in reversed(Path(os.path.abspath(path)).parents)]


def databases_in(folder: Path | str) -> list[str]:
    """The names of the SQLite files in a folder, ``flujo_ops.db`` first."""
    found = []
    try:
        with os.scandir(folder) as listing:
            for entry, _ in zip(listing, range(_MOST_LOOKED_AT), strict=False):
                if _is_database(entry):
                    found.append(entry.name)
    except OSError:
        return []
    return sorted(found, key=lambda name: (name != "flujo_ops.db", name))


def _is_database(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
