"""Writing the list of files that are as good as gone, and doing what it says.

See `flujo_lens.state.backends.file.format.tombstones` for what it is good for. All of it needs the locks of the folder
and of its sub-folder, taken in this order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from flujo_lens.errors import OperationFailedError
from flujo_lens.fs.atomic_write import drafted, settle
from flujo_lens.state.backends.file.format.document import lstat
from flujo_lens.state.backends.file.format.tombstones import (
    GRAVES,
    Grave,
    Graves,
    mark_of,
    read_graves,
    read_listed,
    unchanged,
)


def dig(histories: int, graves: Graves) -> None:
    """Write the list, in place of one that is done with; from the end of this on, what it lists is as good as gone.

    When it returns, the list survives the death of the machine.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    data = json.dumps(graves._asdict()).encode("ascii")
    with drafted(histories, data, GRAVES) as draft:
        draft.place(GRAVES)
    settle(histories)


def remove_at_once(folder: int, histories: int | None, states: Sequence[str], of_runs: Sequence[str]) -> None:
    """Remove files of states and of histories (`of_runs`) in one moment; without a sub-folder one by one, from the end.

    Raises:
        OSError: the list cannot be written; nothing has changed.
        OperationFailedError: they are gone, but a file cannot be removed yet.
    """
    if histories is None:
        _remove(folder, reversed(states))
        settle(folder)
    elif states or of_runs:
        dig(histories, Graves(_graves(folder, states), _graves(histories, of_runs)))
        try:
            bury(folder, histories)
        except OSError as error:
            raise OperationFailedError(
                f"runs are deleted, but their files cannot be removed yet: {error.strerror}",
                hint="lens no longer shows them; the next write tries again",
            ) from error


def _graves(folder: int, names: Iterable[str]) -> dict[str, Grave]:
    there = ((name, lstat(folder, name)) for name in names)
    return {name: mark_of(found) for name, found in there if found is not None}


def bury(folder: int, histories: int) -> None:
    """Remove the files that are listed, then the list; nothing if there is none.

    Raises:
        OSError: one cannot be removed, or the write fails; what is listed stays as good as gone.
    """
    found = read_graves(folder, histories)
    bury_histories(histories, found)
    _remove(folder, found.states)
    if found:
        settle(histories)
        settle(folder)
    uncover(histories)


def bury_histories(histories: int, found: Graves | None = None) -> None:
    """Remove those files of the list that are histories: before one of their names is written to.

    The lock of the sub-folder must be held.
    """
    listed = unchanged(histories, read_listed(histories).histories) if found is None else found.histories
    _remove(histories, listed)


def _remove(folder: int, names: Iterable[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def uncover(histories: int) -> None:
    """Remove the list alone: what it lists is there from now on. When it returns, that survives the machine."""
    try:
        os.unlink(GRAVES, dir_fd=histories)
    except FileNotFoundError:
        return
    settle(histories)
