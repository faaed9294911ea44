"""What of a folder's findings can be mended without losing anything: leftovers of interrupted saves are moved away.

An interrupted save of the library may have left a complete state that was never acknowledged. So leftovers are moved
out of the folder, into the bin next to it, and not deleted.
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

_OLD = 3600.0
"""Seconds after which a leftover is no longer written to."""


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
    """Move the leftovers in the folder at `path` that are older than an hour into the bin next to it.

    Each is moved by one rename: a process that dies on the way leaves the rest where they were.
    """
    real = Path(os.path.realpath(path))
    bin_folder = real.with_name(f"{real.name}.lens-bin") / "leftovers"
    folder = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = old_leftovers(folder)
        if not names:
            return None
        os.makedirs(bin_folder, 0o700, exist_ok=True)
        moved = sum(_is_moved(folder, name, bin_folder) for name in names)
        settle(folder)
    except OSError as error:
        return Repaired("leftovers", left=f"they cannot be moved to {bin_folder}: {error.strerror}")
    finally:
        os.close(folder)
    done = f"moved {moved:,} to {bin_folder}" if moved else None
    left = (
        f"{len(names) - moved:,} cannot be moved to {bin_folder}, or are being written" if moved < len(names) else None
    )
    return Repaired("leftovers", done, left)


def _is_moved(folder: int, name: str, bin_folder: Path) -> bool:
    """Whether a leftover could be moved: not one that a living writer holds, nor to another disk."""
    with suppress(OSError):
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            if try_lock(file) != "busy":
                os.rename(name, _free_name(bin_folder, name), src_dir_fd=folder)
                return True
        finally:
            os.close(file)
    return False


def _free_name(bin_folder: Path, name: str) -> Path:
    names = (bin_folder / (f"{name}.{number}" if number else name) for number in count())
    return next(path for path in names if not os.path.lexists(path))
