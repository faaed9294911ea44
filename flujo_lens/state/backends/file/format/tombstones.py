"""Files of a folder that are as good as gone: what makes the files of several runs go, or come, in one moment.

A run can be a state, a copy of it, and a history: no rename takes three files away at once. So a process that
deletes runs first lists their files in ``.lens-history/graves.json``. From the moment at which that file has its name,
every reader here passes over the files that it lists; then they are removed, and then the list. Runs that are restored
come by the reverse: they are listed, put into the folder, and are there when the list is gone.

So a process that dies on any line leaves every run of the list there whole, or gone whole, and perhaps the list: the
next deletion, the next restoring, or the first write of another process removes the files and then it. A file counts
as listed as long as its inode, size and modification time are those in the list: one that is saved anew under the
name is there. The list is written and removed under the locks of the folder and of its sub-folder, by
`flujo_lens.state.backends.file.format.tombstone_writer`.

The library knows no list: it sees the files of states until they are removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from flujo_lens.state.backends.file.format.document import HISTORY, lstat

GRAVES = "graves.json"

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

Grave = tuple[int, int, int]
"""The inode, size and modification time of a file that is listed."""


class Graves(NamedTuple):
    """The files that are listed and unchanged, by name: states in the folder, histories in its sub-folder."""

    states: Mapping[str, Grave]
    histories: Mapping[str, Grave]

    def __bool__(self) -> bool:
        return bool(self.states or self.histories)


_NO_GRAVES = Graves({}, {})


def mark_of(found: os.stat_result) -> Grave:
    """What a file is known by in the list."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def are_there(folder: int) -> bool:
    """Whether the folder has a list."""
    try:
        os.stat(f"{HISTORY}/{GRAVES}", dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def read_graves(folder: int, histories: int | None) -> Graves:
    """What is listed and unchanged; as a rule nothing. If it changes during the read: the list at the end."""
    if histories is None:
        return _NO_GRAVES
    found = read_listed(histories)
    return Graves(unchanged(folder, found.states), unchanged(histories, found.histories)) if found else _NO_GRAVES


def read_listed(histories: int) -> Graves:
    """What is listed, whatever has become of it."""
    try:
        file = os.open(GRAVES, _READING, dir_fd=histories)
    except OSError:
        return _NO_GRAVES
    try:
        with os.fdopen(file, "rb") as stream:
            content = json.load(stream)
        return Graves(*({name: tuple(mark) for name, mark in content[where].items()} for where in Graves._fields))
    except (ValueError, KeyError, TypeError, AttributeError):  # it is none of ours, which come whole
        return _NO_GRAVES


def unchanged(folder: int, listed: Mapping[str, Grave]) -> dict[str, Grave]:
    """Those of the listed files that are there as they were listed."""
    there = ((name, mark, lstat(folder, name)) for name, mark in listed.items())
    return {name: mark for name, mark, found in there if found is not None and mark_of(found) == mark}
