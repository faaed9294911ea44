"""What of a folder's findings can be mended without losing anything: leftovers of interrupted saves are put aside.

A save of the library that was interrupted may have left a whole state that nobody was told to be saved. So leftovers
are moved out of the folder, into the bin beside it, and not deleted.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from flujo_lens.fs.atomic_write import settle
from flujo_lens.fs.locks import try_lock
from flujo_lens.state.backends.file.format.document import LEFTOVER
from flujo_lens.state.maintenance import Repaired

__all__ = ["mend_leftovers", "old_leftovers"]

_OLD = 3600.0
"""Seconds after which nobody writes to a leftover any more."""


def old_leftovers(folder: int) -> list[str]:
    """The names of the leftovers in an open folder that are older than an hour."""
    with os.scandir(folder) as listing:
        return sorted(entry.name for entry in listing if entry.name.endswith(LEFTOVER) and _is_old(entry))


def _is_old(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _OLD


def mend_leftovers(path: Path) -> Repaired | None:
    """Move the leftovers in the folder at `path` that are older than an hour into the bin beside it.

    Each is moved by one rename: a process that dies on the way leaves the rest where they were.
    """
    real = Path(os.path.realpath(path))
    aside = real.with_name(f"{real.name}.lens-bin") / "leftovers"
    folder = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = old_leftovers(folder)
        if not names:
            return None
        os.makedirs(aside, 0o700, exist_ok=True)
        moved = sum(_is_moved(folder, name, aside) for name in names)
        settle(folder)
    except OSError as error:
        return Repaired("leftovers", left=f"they cannot be moved to {aside}: {error.strerror}")
    finally:
        os.close(folder)
    done = f"moved {moved:,} to {aside}" if moved else None
    left = f"{len(names) - moved:,} cannot be moved to {aside}, or are being written" if moved < len(names) else None
    return Repaired("leftovers", done, left)


def _is_moved(folder: int, name: str, aside: Path) -> bool:
    """Whether a leftover could be moved: not one that a living writer holds, nor to another disk."""
    with suppress(OSError):
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            if try_lock(file) != "busy":
                os.rename(name, _free_name(aside, name), src_dir_fd=folder)
                return True
        finally:
            os.close(file)
    return False


def _free_name(aside: Path, name: str) -> Path:
    names = (aside / (f"{name}.{number}" if number else name) for number in count())
    return next(path for path in names if not os.path.lexists(path))
