"""Whether what was saved as one type can be read as another: both in the words of `shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from flujo_lens.runner.type_descriptions import ANY, JSONObject, split

__all__ = ["Fit", "Fitting", "Node", "parse"]


class Fit(IntEnum):
    """How a current type takes the values of a saved one; of several parts the worst counts."""

    SAME = 0
    RENAMED = 1
    """The same shape under another name."""

    UNTOLD = 2
    """One of the two was never annotated: nothing can be said."""

    WIDER = 3
    """Whatever was saved still fits; the type takes more than it did."""

    OTHER = 4


class Node(NamedTuple):
    """A type that was read: ``list[int]`` is ``Node("list", (Node("int"),))``; a union's name is ``|``."""

    name: str
    arguments: tuple[Node, ...] = ()


class Fitting:
    """Compares types of a saved manifest with types of the current one.

    Args:
        saved: The saved manifest's table of classes.
        current: The current one's.
    """

    def __init__(self, saved: Mapping[str, JSONObject], current: Mapping[str, JSONObject]) -> None:
        self._saved, self._current = saved, current
        self._known: dict[tuple[str, str], Fit] = {}

    def fit(self, saved: str | None, current: str | None) -> Fit:
        """How `current` takes the values of `saved`; None is a type that was never annotated."""
        if saved == current and not self._saved and not self._current:
            return Fit.SAME
        return self._nodes(parse(saved or ANY), parse(current or ANY))

    def told(self, saved: str | None, current: str | None) -> str:
        """Where two types of one name differ: in which field, and how; "" where they are not called alike."""
        return self._told(parse(saved or ANY), parse(current or ANY), set()) if saved == current else ""

    def _told(self, saved: Node, current: Node, seen: set[str]) -> str:
        if saved.name in self._saved and current.name in self._current and saved.name not in seen:
            seen.add(saved.name)  # a class may have fields of its own type
            return self._told_of_fields(saved.name, current.name, seen)
        pairs = zip(saved.arguments, current.arguments, strict=False)
        return next(filter(None, (self._told(one, other, seen) for one, other in pairs)), "")

    def _told_of_fields(self, saved: str, current: str, seen: set[str]) -> str:
        old, new = self._saved[saved].get("fields", {}), self._current[current].get("fields", {})
        for name in [*old, *(name for name in new if name not in old)]:
            one, other = old.get(name), new.get(name)
            if one is None:
                return f"{_plain(current)} has a field {name} ({other['type']}) that it had not"
            if other is None:
                return f"{_plain(saved)} had a field {name} ({one['type']}) that it has not"
            if one["type"] != other["type"]:
                return f"its field {name} is {other['type']} now, was {one['type']}"
        nested = (self._told(parse(old[name]["type"]), parse(new[name]["type"]), seen) for name in old)
        return next(filter(None, nested), "")

    def _nodes(self, saved: Node, current: Node) -> Fit:
        if ANY in (saved.name, current.name):
            return Fit.SAME if saved.name == current.name else Fit.UNTOLD
        if "|" in (saved.name, current.name):
            return self._members(_members(saved), _members(current))
        if "Literal" == saved.name == current.name:
            return _subset(set(saved.arguments), set(current.arguments))
        if saved.name in self._saved and current.name in self._current:
            return self._classes(saved.name, current.name)
        if saved.name != current.name or len(saved.arguments) != len(current.arguments):
            return Fit.OTHER
        pairs = zip(saved.arguments, current.arguments, strict=True)
        return max((self._nodes(one, other) for one, other in pairs), default=Fit.SAME)

    def _members(self, saved: tuple[Node, ...], current: tuple[Node, ...]) -> Fit:
        best = max(self._best(one, current) for one in saved)
        return max(best, Fit.WIDER) if len(current) > len(saved) else best

    def _best(self, saved: Node, current: tuple[Node, ...]) -> Fit:
        """How the member that takes it best takes it: its namesake, if that fits."""
        ordered = sorted(current, key=lambda member: member != saved)
        return min(self._nodes(saved, member) for member in ordered)

    def _classes(self, saved: str, current: str) -> Fit:
        pair = (saved, current)
        if pair not in self._known:
            self._known[pair] = Fit.SAME  # while it is compared: a class may have fields of its own type
            found = self._shapes(self._saved[saved], self._current[current])
            named_alike = _plain(saved) == _plain(current)
            self._known[pair] = found if named_alike else max(found, Fit.RENAMED)
        return self._known[pair]

    def _shapes(self, saved: JSONObject, current: JSONObject) -> Fit:
        if saved.get("kind") != current.get("kind"):
            return Fit.OTHER
        if saved.get("kind") == "enum":
            return _subset(set(_items(saved["members"])), set(_items(current["members"])))
        return self._fields(saved["fields"], current["fields"])

    def _fields(self, saved: Mapping[str, JSONObject], current: Mapping[str, JSONObject]) -> Fit:
        if saved.keys() - current.keys() or any(current[name]["required"] for name in current.keys() - saved.keys()):
            return Fit.OTHER
        fits = [self.fit(saved[name]["type"], current[name]["type"]) for name in saved]
        return max([*fits, Fit.WIDER if len(current) > len(saved) else Fit.SAME])


def _subset(saved: set[object], current: set[object]) -> Fit:
    if saved == current:
        return Fit.SAME
    return Fit.WIDER if saved < current else Fit.OTHER


def _items(members: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, repr(value)) for name, value in members.items()]


def _members(node: Node) -> tuple[Node, ...]:
    return node.arguments if node.name == "|" else (node,)


def _plain(name: str) -> str:
    """The name without the number of a class that shares it."""
    return name.partition("~")[0]


def parse(text: str) -> Node:
    """The tree of a type in words. Anything reads as something: an unknown notation is a name."""
    members = tuple(_one(part) for part in split(text, "|"))
    return members[0] if len(members) == 1 else Node("|", members)


def _one(text: str) -> Node:
    name, bracket, rest = text.partition("[")
    if not bracket or not text.endswith("]") or text.startswith('"'):
        return Node(text)
    return Node(name, tuple(parse(part) for part in split(rest[:-1], ",")))
