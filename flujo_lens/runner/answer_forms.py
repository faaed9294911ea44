"""Forms for answers: the fields of an input schema, described for prompts and hints."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "yes or no",
    "array": "JSON list",
    "object": "JSON object",
    "null": "nothing",
}
_FORMATS = {
    "date": "date, as 2026-11-21",
    "time": "time, as 14:30",
    "date-time": "date and time",
    "uuid": "UUID",
    "email": "e-mail address",
}


class FormField(NamedTuple):
    """A field of a form.

    Attributes:
        name: The name of the field; None if the answer is a single value.
        kind: Description of its type.
        choices: The legal values, if there are few.
        default: The default as text; None if a value is required.
        about: Its description in the schema.
        adapter: Validates it (a pydantic ``TypeAdapter``).
    """

    name: str | None
    kind: str
    choices: tuple[str, ...]
    default: str | None
    about: str | None
    adapter: Any

    def value(self, text: str) -> Any:
        """Convert the typed text, which may be JSON, to the type of the field.

        Raises:
            ValueError: it does not fit; the message has the reason.
        """
        from pydantic import ValidationError

        wanted = next((one for one in self.choices if one.casefold() == text.casefold()), text)
        try:
            return self.adapter.validate_python(wanted)
        except ValidationError as error:
            first = error
        try:
            return self.adapter.validate_json(wanted)
        except ValidationError:
            raise ValueError(_error_text(first)) from first


def form_of(schema: Any) -> tuple[FormField, ...]:
    """The fields of a schema: those of a pydantic model, one for any other type, none for None."""
    from pydantic import BaseModel

    if schema is None:
        return ()
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        adapter = answer_adapter(schema)
        return (FormField(None, *_shape(adapter), None, None, adapter),)
    return tuple(_field(name, field) for name, field in schema.model_fields.items())


def answer_adapter(schema: Any) -> Any:
    """An adapter like pydantic's ``TypeAdapter`` that also creates values of registered classes."""
    from flujo_lens.serialization.annotated_data import adapter_of, names_registered

    adapter = adapter_of(schema)
    return _RegisteredAdapter(schema, adapter) if names_registered(schema) else adapter


class _RegisteredAdapter(NamedTuple):
    """A ``TypeAdapter`` that applies the deserializers of an application first."""

    schema: Any
    adapter: Any

    def validate_python(self, data: Any) -> Any:
        """Validate an answer.

        Raises:
            ValidationError: it does not fit.
        """
        from flujo_lens.serialization.annotated_data import with_registered

        return self.adapter.validate_python(with_registered(data, self.schema, []))

    def validate_json(self, data: str) -> Any:
        """Validate an answer in JSON.

        Raises:
            ValidationError: it is not JSON, or does not fit.
        """
        from pydantic import JsonValue, TypeAdapter

        json_adapter: TypeAdapter[Any] = TypeAdapter(JsonValue)
        return self.validate_python(json_adapter.validate_json(data))

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the answer."""
        made: dict[str, Any] = self.adapter.json_schema()
        return made


def wanted(schema: Any) -> list[str]:
    """The lines of a hint on the expected answer: the fields with their types. Empty for None."""
    fields = form_of(schema)
    if fields and fields[0].name is None:
        return [f"the answer is a {fields[0].kind}"]
    lines = [f"  {one.name}: {one.kind}" + (f" [{one.default}]" if one.default is not None else "") for one in fields]
    return ["the answer is an object, --input-json '{...}', with", *lines] if lines else []


def _field(name: str, field: Any) -> FormField:
    adapter = answer_adapter(field.rebuild_annotation())
    called = field.alias if isinstance(field.alias, str) else name
    default = None if field.is_required() else _text(field.get_default(call_default_factory=True))
    return FormField(called, *_shape(adapter), default, field.description, adapter)


def _text(value: Any) -> str:
    from flujo_lens.serialization import safe_serialize

    plain = safe_serialize(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _shape(adapter: Any) -> tuple[str, tuple[str, ...]]:
    """Description of the type of a value, and its legal values if there are few."""
    from pydantic.errors import PydanticUserError

    try:
        schema = adapter.json_schema()
    except PydanticUserError:
        return "value", ()
    return _words(schema, schema.get("$defs", {}))


def _words(schema: dict[str, Any], known: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    if "$ref" in schema:
        schema = known.get(schema["$ref"].rpartition("/")[2], {})
    if "anyOf" in schema:
        parts = [_words(part, known) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kind for kind, _ in parts)), tuple(one for _, few in parts for one in few)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        few = tuple(_text(value) for value in values)
        return " or ".join(filter(None, (", ".join(few[:-1]), few[-1]))), few
    return _FORMATS.get(schema.get("format", "")) or _KINDS.get(schema.get("type", ""), "value"), ()


def _error_text(error: Any) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
