"""Compatibility of a saved type with a current one, both in the notation of `Shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from flujo_lens.runner.type_descriptions import ANY, JSONObject, split


class Fit(IntEnum):
    """How the values of a saved type fit a current one; the worst of several parts."""

    SAME = 0
    RENAMED = 1
    """The same shape under another name."""

    UNKNOWN = 2
    """One of the types has no annotation."""

    WIDER = 3
    """All saved values fit; the current type accepts more."""

    OTHER = 4


class Node(NamedTuple):
    """A parsed type: ``list[int]`` is ``Node("list", (Node("int"),))``; the name of a union is ``|``."""

    name: str
    arguments: tuple[Node, ...] = ()


class Fitting:
    """Compares types of a saved manifest with types of the current one.

    Args:
        saved: The classes of the saved manifest.
        current: The classes of the current manifest.
    """

    def __init__(self, saved: Mapping[str, JSONObject], current: Mapping[str, JSONObject]) -> None:
        self._saved, self._current = saved, current
        self._known: dict[tuple[str, str], Fit] = {}

    def fit(self, saved: str | None, current: str | None) -> Fit:
        """How values of `saved` fit `current`; None is a missing annotation."""
        if saved == current and not self._saved and not self._current:
            return Fit.SAME
        return self._nodes(parse(saved or ANY), parse(current or ANY))

    def difference(self, saved: str | None, current: str | None) -> str:
        """The differing field of two types with the same name; "" for different names."""
        return self._difference(parse(saved or ANY), parse(current or ANY), set()) if saved == current else ""

    def _difference(self, saved: Node, current: Node, seen: set[str]) -> str:
        if saved.name in self._saved and current.name in self._current and saved.name not in seen:
            seen.add(saved.name)  # a class can be recursive
            return self._field_difference(saved.name, current.name, seen)
        pairs = zip(saved.arguments, current.arguments, strict=False)
        return next(filter(None, (self._difference(one, other, seen) for one, other in pairs)), "")

    def _field_difference(self, saved: str, current: str, seen: set[str]) -> str:
        old, new = self._saved[saved].get("fields", {}), self._current[current].get("fields", {})
        for name in [*old, *(name for name in new if name not in old)]:
            one, other = old.get(name), new.get(name)
            if one is None:
                return f"{_plain(current)} has a new field {name} ({other['type']})"
            if other is None:
                return f"{_plain(saved)} no longer has the field {name} ({one['type']})"
            if one["type"] != other["type"]:
                return f"its field {name} is now {other['type']}, was {one['type']}"
        nested = (self._difference(parse(old[name]["type"]), parse(new[name]["type"]), seen) for name in old)
        return next(filter(None, nested), "")

    def _nodes(self, saved: Node, current: Node) -> Fit:
        if ANY in (saved.name, current.name):
            return Fit.SAME if saved.name == current.name else Fit.UNKNOWN
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
        """The best fit among the members of a union: the one with the same name, if it fits."""
        ordered = sorted(current, key=lambda member: member != saved)
        return min(self._nodes(saved, member) for member in ordered)

    def _classes(self, saved: str, current: str) -> Fit:
        pair = (saved, current)
        if pair not in self._known:
            self._known[pair] = Fit.SAME  # during the comparison, since a class can be recursive
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
    """The name of a class without the number that makes it unique."""
    return name.partition("~")[0]


def parse(text: str) -> Node:
    """Parse the text of a type. An unknown notation is a name."""
    members = tuple(_one(part) for part in split(text, "|"))
    return members[0] if len(members) == 1 else Node("|", members)


def _one(text: str) -> Node:
    name, bracket, rest = text.partition("[")
    if not bracket or not text.endswith("]") or text.startswith('"'):
        return Node(text)
    return Node(name, tuple(parse(part) for part in split(rest[:-1], ",")))
