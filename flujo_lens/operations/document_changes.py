"""The differences between two JSON-like documents, by path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Path = tuple[str | int, ...]


class Change(NamedTuple):
    """A place at which two documents differ.

    Attributes:
        path: Keys and indexes from the root.
        change: ``added`` (only in the right document), ``removed`` (only in the left one) or ``changed``.
        left, right: The values; None where there is none.
    """

    path: Path
    change: str
    left: Any = None
    right: Any = None


def changes(left: Any, right: Any, same: Callable[[Any, Any], bool] = lambda one, two: False) -> Iterator[Change]:
    """Yield the differences in the order of the left document, then what only the right one has.

    Objects are compared by key, lists by index. It does not recurse: documents can be nested deeply.

    Args:
        left, right: The documents.
        same: Whether two values that are not equal count as equal all the same.
    """
    waiting: list[Change] = [Change((), "changed", left, right)]
    while waiting:
        found = waiting.pop()
        if found.change != "changed":
            yield found
        elif isinstance(found.left, Mapping) and isinstance(found.right, Mapping):
            waiting += reversed(list(_of_objects(found)))
        elif _is_list(found.left) and _is_list(found.right):
            waiting += reversed(list(_of_lists(found)))
        elif not _equal(found.left, found.right) and not same(found.left, found.right):
            yield found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _equal(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _of_objects(found: Change) -> Iterator[Change]:
    left, right = found.left, found.right
    for key, value in left.items():
        path = (*found.path, str(key))
        yield Change(path, "changed", value, right[key]) if key in right else Change(path, "removed", value)
    for key, value in right.items():
        if key not in left:
            yield Change((*found.path, str(key)), "added", right=value)


def _of_lists(found: Change) -> Iterator[Change]:
    left, right = found.left, found.right
    for at in range(max(len(left), len(right))):
        path = (*found.path, at)
        if at >= len(right):
            yield Change(path, "removed", left[at])
        elif at >= len(left):
            yield Change(path, "added", right=right[at])
        else:
            yield Change(path, "changed", left[at], right[at])


def path_text(path: Path) -> str:
    """A path as text: ``order.lines[0].price``; keys that are no names are quoted: ``["a b"]``."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text
