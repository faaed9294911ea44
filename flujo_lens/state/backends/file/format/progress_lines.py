"""What one save of progress adds to a history: a line of lines, which counts once its state is in its place.

History and state are two files, and the line is written first::

    {"run_id": ..., "kind": "progress", "at": ..., "name": ..., "before": [<bytes>, <SHA-256>], "lines": [...]}

`name` is the file of the state, and `before` what that held when the line was written (null if it was not there). As
long as it holds the same, the new state has not come: the process that wrote the line is about to save it, or died.
Such a line is unfinished: readers pass over it, and the next who writes to the history, claims the run or saves its
progress cuts it off. A state that is anything else, no matter which program saved it, leaves the history alone. A
line without `name` belongs to no state, and counts at once.

Only the last line of a history is ever looked at for that. So the first save of a run is followed by a line of the kind
``saved``: else a run whose state is deleted later would look like one whose state never came.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from flujo_lens.fs.atomic_write import read_file
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.core.rows import now_text
from flujo_lens.state.backends.file.format.document import names_of
from flujo_lens.state.backends.file.format.history_lines import beginning_of

_READING = os.O_RDONLY | os.O_NONBLOCK
_KIND, _LINES = b'"kind":"progress"', b',"lines":['


class Before(NamedTuple):
    """The file of a state before a save: its name, its size in bytes and its SHA-256, or None if it is not there."""

    name: str
    content: tuple[int, str] | None

    def is_by(self, data: bytes) -> bool:
        """Whether the file held these bytes already: then nothing tells the new state from the one before."""
        return self.content == _content(data)


def before_of(folder: int, name: str) -> Before | None:
    """What is in a file now; None if it may not be read."""
    try:
        file = os.open(name, _READING, dir_fd=folder)
    except FileNotFoundError:
        return Before(name, None)
    except OSError:
        return None
    try:
        return Before(name, _content(read_file(file)))
    except OSError:
        return None
    finally:
        os.close(file)


def _content(data: bytes) -> tuple[int, str]:
    from hashlib import sha256

    return len(data), sha256(data).hexdigest()


# --- lines


def batch_of(run_id: str, lines: Sequence[bytes], before: Before | None) -> bytes:
    """The line of these lines, with its end.

    Args:
        run_id: Whose they are.
        lines: Lines of a history, with their ends.
        before: What is in the place of the state that comes with them; None if none does, or that is unknown.
    """
    expected = {} if before is None else {"name": before.name, "before": before.content}
    head = safe_dumps({"kind": "progress", "at": now_text(), **expected})
    return beginning_of(run_id) + head[1:-1] + _LINES + b",".join(line.rstrip(b"\n") for line in lines) + b"]}\n"


def saved_line(run_id: str) -> bytes:
    """The line that says that the first state of a run is in its place."""
    return beginning_of(run_id) + safe_dumps({"kind": "saved", "at": now_text()})[1:] + b"\n"


def unfinished_run(folder: int, line: bytes) -> str | None:
    """The run of the last line of a history, if the state that comes with it has not come; else None.

    Args:
        folder: The folder of the states.
        line: The line, with or without its end.
    """
    head, found, _ = line.partition(_LINES)
    if not found or _KIND not in head:
        return None
    try:
        parsed = safe_loads(head + b"}")
        run_id, name, before = str(parsed["run_id"]), parsed.get("name"), parsed.get("before")
        return run_id if name in names_of(run_id) and _is_there(folder, name, before) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is not one of ours, or unknown
        return None


def _is_there(folder: int, name: str, before: list[object] | None) -> bool:
    try:
        size = os.stat(name, dir_fd=folder).st_size
    except FileNotFoundError:
        return before is None
    if before is None or size != before[0]:
        return False
    now = before_of(folder, name)
    return now is not None and now.content == tuple(before)
