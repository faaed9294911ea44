"""Errors for paths that cannot be opened: missing, or without permission."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

from flujo_lens.errors import LensError, StoreNotFoundError, UnreachableStoreError, nearest

_KNOWN = "nothing was created; `lens stores` lists the configured stores, `lens demo` creates a sample store"
_MAGIC = b"SQLite format 3\x00"
_MOST_LOOKED_AT = 1000


def unreached(path: Path | str, error: OSError | None = None) -> LensError:
    """The error for the path of a store that cannot be opened.

    Args:
        error: The error of the system; None to find it.
    """
    where = str(path)
    if error is None:
        try:
            os.stat(path)
        except OSError as found:
            error = found
    if error is None or error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint, near = _meant_by_others(where) or _KNOWN, near_store(where)
        asked = f". Did you mean {os.path.basename(near)}?" if near else ""
        return StoreNotFoundError(f"no store at {where}{_why_not(where)}{asked}", hint=hint, path=where, near=near)
    if error.errno == errno.ELOOP:
        message = f"cannot read {where}: {error.strerror}: it is a link that leads back to itself"
        return UnreachableStoreError(message, hint=f"ls -l {shlex.quote(where)}", path=where)
    shut = _shut_folder(where) if error.errno == errno.EACCES else None
    if shut is not None:
        return UnreachableStoreError(
            f"cannot access {where}: {error.strerror}: no permission for the folder {shut}",
            hint="run lens as a user with access to the folder",
            path=where,
        )
    return UnreachableStoreError(
        f"cannot read {where}: {error.strerror or error}", hint="run lens as a user who can read it", path=where
    )


def _meant_by_others(path: str) -> str | None:
    """A hint on ``sqlite:///tmp/x.db``, which means /tmp/x.db in flujo 0.4, but a relative path here."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the current folder was deleted
        return None
    rooted = os.path.join(os.sep, relative)
    if relative.startswith(os.pardir) or not os.path.isfile(rooted):
        return None
    return (
        f"but {rooted} exists, which flujo 0.4 calls sqlite:///{relative}; "
        f"in lens, an absolute path has four slashes: sqlite:///{rooted}"
    )


def near_store(path: str) -> str | None:
    """The path of a store next to this one whose name is nearly the same."""
    folder, name = os.path.split(path.rstrip("/"))
    near = nearest(name, [*databases_in(folder or "."), *_folders_in(folder or ".")])
    return os.path.join(folder, near) if near else None


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry, _ in zip(listing, range(_MOST_LOOKED_AT), strict=False)]
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.endswith(".lens-bin")]
    except OSError:
        return []


def _why_not(path: str) -> str:
    """The reason why a path does not exist, if there is a special one."""
    if os.path.islink(path):
        return f": it is a broken link to {os.readlink(path)}"
    file = next((folder for folder in _folders(path) if os.path.isfile(folder)), None)
    return f": {file} is a file, not a folder" if file else ""


def _shut_folder(path: str) -> str | None:
    """The first folder of a path without permission."""
    return next((folder for folder in _folders(path) if os.path.isdir(folder) and not os.access(folder, os.X_OK)), None)


def _folders(path: str) -> list[str]:
    """The parent folders of a path, from the root."""
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
