"""The fields of classes, and construction of objects from them."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NotRequired,
    Required,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

TRANSPARENT = (Annotated, Final, ClassVar, Required, NotRequired)
"""Wrappers around an annotation that do not change its values."""

JSON_TYPES = (str, int, float, bool, type(None), dict, list)


def literal_of(name: Any) -> Any:
    """The value of a key that is a Python literal, or the key itself."""
    try:
        return literal_eval(name) if isinstance(name, str) else name
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name


def construct(target: Any, values: dict[str, Any]) -> Any:
    """Create an object by its constructor; set values that it does not accept afterwards."""
    taken = {f.name: f.init for f in getattr(target, "__dataclass_fields__", {}).values()}
    aliases = {a.name: a.alias for a in getattr(target, "__attrs_attrs__", ()) if a.init}
    init = {aliases.get(n, n): v for n, v in values.items() if taken.get(n, not aliases or n in aliases)}
    made = target(**init)
    for name, value in values.items():
        if name in taken and not taken[name]:
            object.__setattr__(made, name, value)
    return made


def fields_of(target: Any, arguments: tuple[Any, ...] = ()) -> list[tuple[str, Any]] | None:
    """Names and types of the fields of a dataclass, an attrs-like class, a named tuple or a typed dict.

    Args:
        target: The class.
        arguments: The values of its type parameters.

    Returns:
        None for another class.
    """
    if hasattr(target, "__dataclass_fields__"):
        names = list(target.__dataclass_fields__)
    elif hasattr(target, "__attrs_attrs__"):
        names = [attribute.name for attribute in target.__attrs_attrs__]
    elif issubclass(target, tuple) and hasattr(target, "_fields"):
        names = list(target._fields)
    elif is_typed_dict(target):
        names = list(target.__annotations__)
    else:
        return None
    try:
        hints = get_type_hints(target)
    except Exception:  # noqa: BLE001 - names that only the application's type checker can resolve
        hints = {}
    bound = dict(zip(getattr(target, "__parameters__", ()), arguments, strict=False))
    return [(name, _substituted(hints.get(name, Any), bound)) for name in names]


def is_typed_dict(target: Any) -> bool:
    """Whether a class is a ``TypedDict``, of `typing` or of ``typing_extensions``."""
    return is_typeddict(target) or type(target).__name__ == "_TypedDictMeta"


def _substituted(hint: Any, bound: dict[Any, Any]) -> Any:
    """An annotation with its type parameters replaced."""
    if not bound:
        return hint
    if isinstance(hint, TypeVar):
        return bound.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or not get_args(hint):
        return hint
    return hint[tuple(bound.get(parameter, Any) for parameter in parameters)]


def model_keys(target: Any) -> dict[str, tuple[str, Any]]:
    """The keys of a pydantic model in data, with the name and type of each field."""
    fields = target.model_fields
    found: dict[str, tuple[str, Any]] = {name: (name, field.annotation) for name, field in fields.items()}
    for name, field in fields.items():
        for key in (field.serialization_alias, field.alias, field.validation_alias):
            if isinstance(key, str):
                found.setdefault(key, (name, field.annotation))
    return found


def validate_model(target: Any, data: Any) -> Any:
    """`model_validate` for data with field names or aliases."""
    if has_aliases(target):
        return target.model_validate(data, by_alias=True, by_name=True)
    return target.model_validate(data)  # twice as fast


def validate_by_name(adapter: Any, data: Any) -> Any:
    """`validate_python` of a ``TypeAdapter`` for data with field names or aliases."""
    return adapter.validate_python(data, by_alias=True, by_name=True)


def is_read_as_written(target: Any) -> bool:
    """Whether validation accepts all serialized fields, which excludes serialization aliases."""
    if not target.model_config.get("serialize_by_alias"):
        return True
    return all(f.serialization_alias in (None, f.alias, f.validation_alias) for f in target.model_fields.values())


@lru_cache(512)
def has_aliases(target: Any) -> bool:
    """Whether a model or a nested model has aliases."""
    models = (kind for kind in classes_in(target) if hasattr(kind, "model_fields"))
    return any(field.validation_alias or field.alias for kind in models for field in kind.model_fields.values()) or any(
        "alias_generator" in getattr(kind, name, {})
        for kind in classes_in(target)
        for name in ("model_config", "__pydantic_config__")
    )


def classes_in(hint: Any) -> Iterator[type]:
    """Every class in an annotation: itself, its arguments, the types of fields."""
    left, seen = [hint], list[Any]()
    known = set[int]()
    while left:
        one = left.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        seen.append(one)  # keeps its id from being reused
        if isinstance(one, type):
            yield one
        left += _parts(one)


def _parts(hint: Any) -> list[Any]:
    behind = meant(hint)
    if behind is not hint:
        return [behind]
    origin = get_origin(hint)
    if origin is not None:
        return [origin, *get_args(hint)]
    if isinstance(hint, TypeVar):
        return [*hint.__constraints__, hint.__bound__]
    if isinstance(hint, type) and hasattr(hint, "model_fields"):
        return [field.annotation for field in hint.model_fields.values()]
    return [kind for _, kind in fields_of(hint) or []] if isinstance(hint, type) else []


def meant(hint: Any) -> Any:
    """The annotation inside a wrapper such as ``Annotated``."""
    if hasattr(hint, "__supertype__"):
        return hint.__supertype__
    alias = get_origin(hint) or hint
    if type(alias).__name__ != "TypeAliasType":
        return hint
    arguments = get_args(hint)
    return alias.__value__[arguments] if arguments and hasattr(alias.__value__, "__getitem__") else alias.__value__
