"""Encoders of pydantic models: like `model_dump`, but without copying nested values.

Fields are written by name (by alias with ``serialize_by_alias`` in the model's config), with extra fields and computed
fields; excluded fields and private attributes are left out. Values of fields are written by the encoders of their
types, unless the model has a serializer for the field.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from flujo_lens.serialization.lossy import PLAIN_MODEL, Lost, class_name, unserializable, words_of

_MODELS = ("model", "dataclass", "definitions", "definition-ref")


def model_encoder(kind: type) -> Callable[[Any], Any]:
    """The encoder for a class of models."""
    if getattr(kind, "__pydantic_root_model__", False):
        return lambda value: value.root
    plan = _Plan(kind)
    return PLAIN_MODEL if plan.is_plain else plan


def dataclass_encoder(kind: Any) -> Callable[[Any], Any] | None:
    """The encoder for a pydantic dataclass with its own serializers; None for others."""
    decorators = kind.__pydantic_decorators__
    if not (decorators.field_serializers or decorators.model_serializers or decorators.computed_fields):
        return None

    return _DataclassPlan(kind)


class _DataclassPlan:
    """The encoder of a dataclass with its own serializers."""

    runs_code = True

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self, value: Any) -> Any:
        try:
            return self._kind.__pydantic_serializer__.to_python(value, warnings=False)
        except Exception as error:  # noqa: BLE001 - code of the application
            raw = {name: getattr(value, name) for name in self._kind.__dataclass_fields__ if hasattr(value, name)}
            return _raw(raw, error, self._kind)


class _Plan:
    """The encoder of a model with special fields."""

    def __init__(self, kind: Any) -> None:
        fields, decorators = kind.model_fields, kind.__pydantic_decorators__
        self.fields = frozenset(fields)
        self.whole = bool(decorators.model_serializers)
        self.computed = tuple(kind.model_computed_fields)
        own = _fields_with_serializers(kind) | _computed_with_serializers(kind)
        own |= {name for name, field in fields.items() if getattr(field, "exclude_if", None) is not None}
        self.excluded = frozenset(name for name, field in fields.items() if field.exclude)
        self.own = (own & {*fields, *self.computed}) - self.excluded
        self.runs_code = bool(self.whole or self.computed or self.own)
        self.names = dict[str, str]()
        if kind.model_config.get("serialize_by_alias"):
            aliased = {**fields, **kind.model_computed_fields}
            self.names = {n: getattr(f, "serialization_alias", None) or f.alias or n for n, f in aliased.items()}
        more = kind.model_config.get("extra") == "allow" or _has_cached_properties(kind)
        self.is_plain = not (self.whole or self.computed or self.own or self.excluded or self.names or more)

    def __call__(self, value: Any) -> Any:
        if not self.whole:
            return self._by_field(value)
        try:
            return value.model_dump(warnings=False)
        except Exception as error:  # noqa: BLE001 - code of the application
            return _raw(self._by_field(value), error, type(value))

    def _by_field(self, value: Any) -> dict[str, Any]:
        wanted = self.fields - self.excluded
        data = {name: item for name, item in value.__dict__.items() if name in wanted}
        data.update(getattr(value, "__pydantic_extra__", None) or {})
        for name in self.computed:
            data[name] = _computed(value, name)
        for name in self.own:
            _write(value, name, data)
        return {self.names.get(name, name): item for name, item in data.items()} if self.names else data


def _write(value: Any, name: str, data: dict[str, Any]) -> None:
    """Write a field by the model's serializer; if that fails, leave it unchanged."""
    try:
        dumped = value.model_dump(include={name}, by_alias=False, warnings=False)
    except Exception as error:  # noqa: BLE001 - code of the application
        if name in data and not isinstance(data[name], Lost):
            data[name] = _raw(data[name], error, type(data[name]))
        return
    if name in dumped:
        data[name] = dumped[name]
    else:
        data.pop(name, None)


def _raw(data: Any, error: Exception, kind: type) -> Lost:
    return Lost(data, f"written without its serializer, which failed: {_cause(error)}", kind)


def _computed(value: Any, name: str) -> Any:
    """A computed field; if it fails, only this field is lost."""
    try:
        return getattr(value, name)
    except Exception as error:  # noqa: BLE001 - code of the application
        return Lost(unserializable(type(error)), f"the computed field failed: {_cause(error)}", type(value))


def _cause(error: Exception) -> str:
    return f"{class_name(type(error))}: {words_of(error)}"


def _has_cached_properties(kind: type) -> bool:
    """Whether ``__dict__`` can contain values that are not fields."""
    return any(isinstance(item, cached_property) for base in kind.__mro__ for item in vars(base).values())


def _fields_with_serializers(kind: Any) -> set[str]:
    """The names of fields with a serializer of the model at any depth of their type."""
    found = set[str]()
    for decorator in kind.__pydantic_decorators__.field_serializers.values():
        names = decorator.info.fields
        found |= set(kind.model_fields) if "*" in names else set(names)
    for name, field in _schema_fields(kind.__pydantic_core_schema__).items():
        if _has_serializer(field):
            found.add(name)
    return found


def _computed_with_serializers(kind: Any) -> set[str]:
    schema = _model_fields_schema(kind.__pydantic_core_schema__) or {}
    return {
        field["property_name"] for field in schema.get("computed_fields", ()) if _has_serializer(field["return_schema"])
    }


def _schema_fields(schema: Any) -> dict[str, Any]:
    found = _model_fields_schema(schema)
    return dict(found["fields"]) if found else {}


def _model_fields_schema(schema: Any) -> dict[str, Any] | None:
    """The part of a core schema with the fields."""
    definitions = dict[str, Any]()
    while isinstance(schema, dict) and schema.get("type") != "model-fields":
        if schema.get("type") == "definition-ref":
            schema = definitions.pop(schema["schema_ref"], None)
            continue
        definitions |= {found["ref"]: found for found in schema.get("definitions", ()) if "ref" in found}
        schema = schema.get("schema")
    return schema if isinstance(schema, dict) else None


def _has_serializer(schema: Any) -> bool:
    """Whether a core schema has a serializer of the application, except in nested models, which have their own plan."""
    if isinstance(schema, list | tuple):
        return any(_has_serializer(part) for part in schema)
    if not isinstance(schema, dict) or schema.get("type") in _MODELS:
        return False
    function = (schema.get("serialization") or {}).get("function")
    if function is not None and _is_own(function):
        return True
    return any(_has_serializer(part) for name, part in schema.items() if name not in ("metadata", "serialization"))


def _is_own(function: Any) -> bool:
    """Whether a serializer is of the application, or of pydantic with an inverse validator (Base64)."""
    if not str(getattr(function, "__module__", "")).startswith("pydantic."):
        return True
    return getattr(function, "__name__", "") in ("encode", "encode_str")
