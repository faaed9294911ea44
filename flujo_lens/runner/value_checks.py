"""Validation of stored outputs and answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.errors import PydanticUserError

from flujo_lens.errors import InvalidAnswerError
from flujo_lens.runner.answer_forms import answer_adapter, wanted
from flujo_lens.runner.application_code import as_exception, describe
from flujo_lens.serialization.annotated_data import Failure, adapter_of, names_registered, with_registered
from flujo_lens.serialization.building import build
from flujo_lens.serialization.fields import classes_in, validate_by_name
from flujo_lens.serialization.registry import current_registry

T = TypeVar("T")


class UnreadableValueError(ValueError):
    """A saved value cannot be deserialized to its type.

    Attributes:
        field: The path of the field, such as ``items.0.price``; "" for the whole value.
        reason: The reason as a sentence without a full stop.
        kind: The class that could not be created, if known.
        raised: Whether its deserializer failed.
    """

    def __init__(self, field: str, reason: str, kind: str | None = None, *, raised: bool = False) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason, self.kind, self.raised = field, reason, kind, raised


def made_again(data: Any, hint: Any, validate: Callable[[Any], T]) -> T:
    """Deserialize a value: registered classes by their deserializers, the rest by pydantic.

    Args:
        data: The saved data.
        hint: Its annotation.
        validate: Creates the value from data with values of registered classes; raises `ValidationError`.

    Raises:
        UnreadableValueError: it cannot be deserialized.
    """
    failures: list[Failure] = []
    prepared = with_registered(data, hint, failures)
    try:
        return validate(prepared)
    except ValidationError as error:
        if failures:
            raise _unreadable(error, failures) from error
        first = error
    for other in (partial(_plain_fields, data, prepared, first), partial(build, data, hint, None, True)):
        try:
            return validate(other())
        except ValueError:  # includes pydantic's
            continue
    raise _unreadable(first, failures) from first


def _plain_fields(data: Any, prepared: Any, error: ValidationError) -> Any:
    """The prepared data, with the original data of fields that pydantic refused, for their own validators."""
    if not isinstance(prepared, dict) or not isinstance(data, dict):
        return data
    refused = {each["loc"][0] for each in error.errors() if each["loc"]}
    return {name: data.get(name, item) if name in refused else item for name, item in prepared.items()}


def _unreadable(error: ValidationError, failures: list[Failure]) -> UnreadableValueError:
    first = error.errors(include_url=False)[0]
    field, said = ".".join(map(str, first["loc"])), first["msg"]
    if failures:
        failed = next((each for each in failures if each.path == first["loc"][: len(each.path)]), failures[0])
        return UnreadableValueError(field, f"{said}; {failed.reason}", failed.kind.__name__, raised=True)
    if first["type"] != "is_instance_of":
        return UnreadableValueError(field, said)
    kind = str(first["ctx"]["class"])
    return UnreadableValueError(field, f"{said}; {_missing(kind)}", kind)


def _missing(kind: str) -> str:
    return f"no deserializer is registered for {kind}; use register_custom_deserializer({kind}, ...)"


def typed(value: Any, *hints: Any) -> Any:
    """Deserialize a stored value.

    Args:
        value: Plain data.
        hints: Annotations; the first one other than None and `Any` is used.

    Returns:
        `value` unchanged, if there is no annotation or it does not apply.

    Raises:
        UnreadableValueError: it was written by a serializer of the application, and cannot be deserialized.
    """
    hint = next((hint for hint in hints if hint is not None and hint is not Any), Any)
    if hint is Any or hint is type(value):
        return value
    try:
        return _typed(value, hint)
    except UnreadableValueError:
        raise
    except BaseException as error:
        as_exception(error)
        raise UnreadableValueError("", f"its type raised {describe(error)}") from error


def _typed(value: Any, hint: Any) -> Any:
    try:
        adapter = adapter_of(hint)
    except (PydanticUserError, TypeError, NameError):
        return _built(value, hint)
    if names_registered(hint):
        return made_again(value, hint, lambda data: validate_by_name(adapter, data))
    try:
        return validate_by_name(adapter, value)
    except ValidationError as error:
        if value is not None and error.errors()[0]["type"] == "is_instance_of" and _unmade(hint):
            raise _unreadable(error, []) from error
        return value


def _built(value: Any, hint: Any) -> Any:
    """`typed` for types without a pydantic schema, such as a dataclass with a registered class."""
    failures: list[Failure] = []
    with_registered(value, hint, failures)
    try:
        return build(value, hint, None, True)
    except ValueError as error:
        if failures:
            first = failures[0]
            raise UnreadableValueError(
                ".".join(map(str, first.path)), first.reason, first.kind.__name__, raised=True
            ) from error
        for kind in _unmade(hint) if value is not None else ():
            raise UnreadableValueError("", f"{error}; {_missing(kind.__name__)}", kind.__name__) from error
        return value


def _unmade(hint: Any) -> list[type]:
    """The classes of an annotation with a serializer, but without a deserializer."""
    registry = current_registry()
    found = [kind for kind in classes_in(hint) if registry.serializer_of(kind) is not None]
    return [kind for kind in found if registry.deserializer_of(kind) is None]


def restored(value: Any, *hints: Any) -> Any:
    """`typed` for display: values that cannot be deserialized stay plain data."""
    try:
        return typed(value, *hints)
    except UnreadableValueError:
        return value


def checked_answer(answer: Any, schema: Any, step: str) -> Any:
    """Validate an answer by the schema of the human step; a text may be JSON.

    Raises:
        InvalidAnswerError: it does not fit.
    """
    if schema is None:
        return answer
    try:
        return _checked(answer, schema, step)
    except InvalidAnswerError:
        raise
    except BaseException as error:
        as_exception(error)
        raised = describe(error)
        raise InvalidAnswerError(f'the answer cannot be checked: the schema of "{step}" raised {raised}') from error


def _checked(answer: Any, schema: Any, step: str) -> Any:
    adapter = answer_adapter(schema)
    try:
        return adapter.validate_python(answer)
    except ValidationError as error:
        if not isinstance(answer, str):
            raise _refused(error, step, schema) from error
        as_text = error
    try:
        return adapter.validate_json(answer)
    except ValidationError as error:
        cause = as_text if error.errors()[0]["type"] == "json_invalid" else error
        raise _refused(cause, step, schema) from error


def _refused(error: ValidationError, step: str, schema: Any) -> InvalidAnswerError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return InvalidAnswerError(
        f'the answer does not match the schema of "{step}": {_sentence(where, first["msg"])}',
        hint="\n".join(wanted(schema)),
        step=step,
        field=where or None,
    )


def _sentence(where: str, message: str) -> str:
    """A message of pydantic on a field or the whole answer, as a sentence."""
    if not where and message.startswith("Input should be a valid dictionary"):
        return "it should be an object"
    if message.startswith("Input should"):
        return f"{where or 'it'} should{message.removeprefix('Input should')}"
    return f"{where}: {message}" if where else message
