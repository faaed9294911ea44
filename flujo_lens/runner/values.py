"""Values that come from outside: stored outputs as their type again, and answers checked against a schema."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from flujo_lens.errors import InvalidAnswerError
from flujo_lens.runner.forms import wanted

__all__ = ["checked_answer", "restored"]


def restored(value: Any, *hints: Any) -> Any:
    """A stored value as the type that it had.

    Args:
        value: Plain data.
        hints: Annotations that tell the type; the first that is one counts, None is none.

    Returns:
        `value` as it is where nothing tells its type, or what does is not true.
    """
    hint = next((hint for hint in hints if hint is not None), Any)
    if hint is Any or hint is type(value):
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except (ValidationError, PydanticUserError, TypeError, NameError):
        return value


def checked_answer(answer: Any, schema: Any, step: str) -> Any:
    """A person's answer as the type that the human step asks for; a text may be JSON of it.

    Raises:
        InvalidAnswerError: it does not fit.
    """
    if schema is None:
        return answer
    adapter = TypeAdapter(schema)
    try:
        return adapter.validate_python(answer)
    except ValidationError as error:
        if not isinstance(answer, str):
            raise _refused(error, step, schema) from error
        as_text = error
    try:
        return adapter.validate_json(answer)
    except ValidationError as error:
        told = as_text if error.errors()[0]["type"] == "json_invalid" else error
        raise _refused(told, step, schema) from error


def _refused(error: ValidationError, step: str, schema: Any) -> InvalidAnswerError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return InvalidAnswerError(
        f'the answer does not fit what "{step}" asks for: {_sentence(where, first["msg"])}',
        hint="\n".join(wanted(schema)),
        step=step,
        field=where or None,
    )


def _sentence(where: str, told: str) -> str:
    """What pydantic says of a field, or of the whole answer, with its subject."""
    if not where and told.startswith("Input should be a valid dictionary"):
        return "it should be an object"
    if told.startswith("Input should"):
        return f"{where or 'it'} should{told.removeprefix('Input should')}"
    return f"{where}: {told}" if where else told
