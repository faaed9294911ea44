"""Creation of a store, whose files are readable by its owner alone, as archives and exports are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flujo_lens.state.backends.base import StateBackend

_FILES = ("", "-wal", "-shm")
"""The files of an SQLite store."""


async def create_store(backend: StateBackend, path: Path | None = None, like: Path | None = None) -> None:
    """Create an empty store, for its owner alone; of one that is there, nothing changes.

    Args:
        path: Where it is, if it is at a path.
        like: A file that it is a copy of. Whoever may read that one (and the umask allows) may read the new one.

    Raises:
        LensError: as for `StateBackend.create_store`.
    """
    is_new = path is not None and not os.path.exists(path)
    with owner_only() as umask:
        await backend.create_store()
    if is_new and path is not None and like is not None and os.path.isfile(path) and os.path.isfile(like):
        mode = stat.S_IMODE(os.stat(like).st_mode) & 0o666 & ~umask
        for end in _FILES:
            with suppress(OSError):
                os.chmod(f"{path}{end}", mode | 0o600)


@contextmanager
def owner_only() -> Iterator[int]:
    """New files of this process are readable by their owner alone in this block, which gets the umask as it was."""
    umask = os.umask(0o077)
    try:
        yield umask
    finally:
        os.umask(umask)
