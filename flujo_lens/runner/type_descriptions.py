"""Texts for types, which can be compared across processes, Python versions and years.

A type is a text such as ``list[Invoice] | None``. Classes with fields and enumerations have their short names; their
fields are in a separate table, so that a renamed or moved class is recognized. There are no module names, since the
same file can be ``__main__`` or ``app``.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flujo_lens.serialization.fields import is_typed_dict

JSONObject = dict[str, Any]
ANY = "Any"
"""The text of an unspecific annotation."""

_NONE = "None"
_DEEPEST = 50
_SAFE_VALUES = (str, int, bool, float, type(None))


class Shapes:
    """Makes texts for types, and collects the shapes of their classes.

    Attributes:
        table: Short name of a class -> its shape. A record is ``{"kind": "model" | "dataclass" | "typed dict" |
            "named tuple" | "attrs", "fields": {name: {"type": text, "required": bool}}}``, an enumeration
            ``{"kind": "enum", "members": {name: value}}``.
    """

    def __init__(self) -> None:
        self.table: dict[str, JSONObject] = {}
        self._names: dict[Any, str] = {}

    def name(self, hint: Any, _depth: int = 0) -> str:
        """The text of an annotation; equal for equivalent annotations."""
        if hint is None or hint is type(None):
            return _NONE
        if hint is ...:
            return "..."
        if hint is Any or hint is object or _depth > _DEEPEST:
            return ANY
        meant = _seen_through(hint)
        if meant is not hint:
            return self.name(meant, _depth + 1)
        if isinstance(hint, str | ForwardRef):
            return _word(hint if isinstance(hint, str) else hint.__forward_arg__)
        return self._of_origin(hint, get_origin(hint), _depth + 1)

    def fields(self, target: type) -> dict[str, JSONObject]:
        """The fields of a record: name -> ``{"type", "required"}``, sorted by name.

        Empty for a class without fields.
        """
        found = _record(target)
        return {} if found is None else self._described(found[1])

    def _of_origin(self, hint: Any, origin: Any, depth: int) -> str:
        if origin in (Union, types.UnionType):
            return _union(self.name(member, depth) for member in get_args(hint))
        if origin is Literal:
            return f"Literal[{', '.join(sorted(map(_value, get_args(hint))))}]"
        if origin is None or _is_record(origin):
            return self._of_class(hint, origin, depth)
        if origin is Callable or not get_args(hint):
            return _short(origin)
        return f"{_short(origin)}[{', '.join(self.name(argument, depth) for argument in get_args(hint))}]"

    def _of_class(self, hint: Any, origin: Any, depth: int) -> str:
        if hint in self._names:
            return self._names[hint]
        target = origin or hint
        if not isinstance(target, type):
            return ANY if isinstance(target, TypeVar) else _word(str(target))
        shape = self._enumeration(target) if issubclass(target, enum.Enum) else None
        found = _record(target) if shape is None else None
        if shape is None and found is None:
            return _short(target)
        return self._kept(hint, target, shape, found)

    def _kept(self, hint: Any, target: type, shape: JSONObject | None, found: tuple[str, Any] | None) -> str:
        """Add a class to the table: its name first, since it can be recursive."""
        name = self._free(_short(target))
        self._names[hint] = name
        self.table[name] = {}
        if shape is None and found is not None:
            shape = {"kind": found[0], "fields": self._described(_bound(found[1], hint))}
        self.table[name] = shape or {}
        return name

    def _free(self, name: str) -> str:
        """`name`, or if another class has it, ``name~2``, ``name~3``, ... in order of appearance."""
        wanted, number = name, 2
        while wanted in self.table:
            wanted, number = f"{name}~{number}", number + 1
        return wanted

    def _described(self, fields: Mapping[str, tuple[Any, bool]]) -> dict[str, JSONObject]:
        return {name: {"type": self.name(fields[name][0]), "required": fields[name][1]} for name in sorted(fields)}

    @staticmethod
    def _enumeration(target: type[enum.Enum]) -> JSONObject:
        members = {name: member.value for name, member in target.__members__.items()}
        plain = {name: v if isinstance(v, _SAFE_VALUES) else type(v).__name__ for name, v in members.items()}
        return {"kind": "enum", "members": plain}


# --- spellings


def _seen_through(hint: Any) -> Any:
    """The annotation inside a wrapper such as ``Annotated``."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[0]
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if isinstance(hint, TypeVar):
        return hint.__bound__ or Any
    if type(hint).__name__ == "TypeAliasType":
        return hint.__value__
    if get_origin(hint) in (typing.Final, typing.Required, typing.NotRequired, typing.ClassVar):
        return get_args(hint)[0]
    return hint


def _union(names: typing.Iterable[str]) -> str:
    """The members of a union, unique and sorted, None last: ``Optional[X]`` and ``None | X`` are equal."""
    members = {member for name in names for member in split(name, "|")}
    if ANY in members:
        return ANY
    return " | ".join(sorted(members, key=lambda member: (member == _NONE, member)))


def split(text: str, at: str) -> list[str]:
    """Split the text of a type at separators outside brackets and quotes."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for char in text:
        quoted ^= char == '"' and not escaped
        escaped = char == "\\" and not escaped
        depth += 0 if quoted else (char == "[") - (char == "]")
        if char == at and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _value(value: Any) -> str:
    """A value of a ``Literal``, with the quotes of JSON."""
    if isinstance(value, enum.Enum):
        return f"{_short(type(value))}.{value.name}"
    return json.dumps(value) if isinstance(value, _SAFE_VALUES) else json.dumps(repr(value))


def _short(target: Any) -> str:
    """The name of a class without module, enclosing function and type arguments."""
    name = str(getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or target)
    return _word(name.rpartition("<locals>.")[2].partition("[")[0])


def _word(text: str) -> str:
    """A text without brackets, bars and quotes, which are part of the notation."""
    return re.sub(r"[^\w.]+", "_", text.removeprefix("typing.")).strip("_") or ANY


# --- classes with fields


def _is_record(target: Any) -> bool:
    return isinstance(target, type) and _record(target) is not None


def _record(target: Any) -> tuple[str, dict[str, tuple[Any, bool]]] | None:
    """The kind of a record class and its fields: name -> (type, required). None for any other class."""
    if not isinstance(target, type):
        return None
    if hasattr(target, "model_fields") and hasattr(target, "model_validate"):
        return "model", {name: (f.annotation, f.is_required()) for name, f in target.model_fields.items()}
    if dataclasses.is_dataclass(target):
        missing = dataclasses.MISSING
        made = {f.name: f.default is missing and f.default_factory is missing for f in dataclasses.fields(target)}
        return "dataclass", _typed(target, made)
    if is_typed_dict(target):
        needed: frozenset[str] = getattr(target, "__required_keys__", frozenset())
        return "typed dict", _typed(target, {name: name in needed for name in target.__annotations__})
    if issubclass(target, tuple) and hasattr(target, "_fields"):
        defaults = getattr(target, "_field_defaults", {})
        return "named tuple", _typed(target, {name: name not in defaults for name in target._fields})
    if hasattr(target, "__attrs_attrs__"):
        return "attrs", _typed(target, {a.name: repr(a.default) == "NOTHING" for a in target.__attrs_attrs__})
    return None


def _typed(target: type, required: Mapping[str, bool]) -> dict[str, tuple[Any, bool]]:
    hints = _hints(target)
    return {name: (hints.get(name, Any), needed) for name, needed in required.items()}


def _hints(target: Any) -> dict[str, Any]:
    """The resolved annotations; unresolved if a name exists only for type checkers."""
    try:
        return get_type_hints(target)
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
        return dict(getattr(target, "__annotations__", {}))


def _bound(fields: dict[str, tuple[Any, bool]], hint: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of a generic class with its type parameters replaced, as for ``Box[int]``."""
    parameters = getattr(get_origin(hint), "__parameters__", ())
    given = dict(zip(parameters, get_args(hint), strict=False))
    return {name: (_replaced(kind, given), needed) for name, (kind, needed) in fields.items()}


def _replaced(hint: Any, given: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    inner = getattr(hint, "__parameters__", ())
    if not given or not inner or not get_args(hint):
        return hint
    return hint[tuple(given.get(parameter, parameter) for parameter in inner)]
