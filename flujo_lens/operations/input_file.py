"""The error for a file to read that does not exist: wrong usage, whichever command names it."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from flujo_lens.errors import UsageError, nearest

_MOST_LOOKED_AT = 1000


def no_such_file(path: Path) -> UsageError:
    """The error for the path of a file that does not exist; it names a file of a similar name beside it."""
    near = nearest(path.name, _names_in(path.parent))
    asked = f". Did you mean {near}?" if near else ""
    return UsageError(
        f"no such file: {path}{asked}",
        path=str(path),
        value=path.name if near else None,
        near=near,
    )


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as listing:
            return [entry.name for entry in islice(listing, _MOST_LOOKED_AT) if entry.is_file()]
    except OSError:
        return []
