"""`PipelineContext`: what the steps of a run share; and how it goes into the saved state and out of it.

Beside the fields of the model, the saved context has notes of the runner's own, under the names that the library
uses: ``status``, ``current_step``, and while a person is waited for ``pause_message`` and ``hitl_data``, the
message in ``scratchpad`` too. A field of an application that has such a name keeps its value and takes the place
of the note.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flujo_lens.errors import InvalidStateError, UsageError, command_line
from flujo_lens.runner.application_code import as_exception, describe
from flujo_lens.runner.results import ContextT
from flujo_lens.runner.value_checks import UnreadableValueError, made_again
from flujo_lens.serialization import safe_serialize
from flujo_lens.serialization.fields import model_keys, validate_model

__all__ = [
    "HumanInteraction",
    "PipelineContext",
    "check_context",
    "copied",
    "dump_context",
    "field_of",
    "load_context",
    "make_context",
    "peek_context",
    "without_notes",
]

JSONObject = dict[str, Any]

_NOTES = ("status", "current_step", "pause_message", "hitl_data")
_PAUSED = "paused"

_log = logging.getLogger("flujo_lens")


class HumanInteraction(BaseModel):
    """One question to a person and the answer; `timestamp` is in UTC."""

    message_to_human: str
    human_response: Any
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PipelineContext(BaseModel):
    """What the steps of a run share. Models of an application's own inherit from it and add their fields.

    Attributes:
        run_id: The run.
        initial_prompt: The input of the first step, as a text.
        scratchpad: For whatever a step wants to leave for a later one.
        hitl_history: What persons were asked and what they answered, in order.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    run_id: str = ""
    initial_prompt: str = ""
    scratchpad: dict[str, Any] = Field(default_factory=dict)
    hitl_history: list[HumanInteraction] = Field(default_factory=list)


def make_context(model: type[ContextT], run_id: str, initial_input: Any, data: JSONObject) -> ContextT:
    """The context of a run that begins.

    Args:
        model: Its type.
        run_id: Fills the field of that name, whatever `data` says.
        initial_input: Fills ``initial_prompt`` unless `data` does.
        data: Values of other fields.

    Raises:
        UsageError: the model does not take them.
    """
    given = {"initial_prompt": str(initial_input), **data, "run_id": run_id}
    try:
        made: ContextT = validate_model(model, given)
    except ValidationError as error:
        raise UsageError(
            f"the context {model.__name__} cannot be made: {_first(error)}",
            hint="give the missing fields with initial_context_data={...}, or give them defaults",
        ) from error
    except BaseException as error:
        as_exception(error)
        raise UsageError(f"the context {model.__name__} cannot be made: {describe(error)}") from error
    return made


def dump_context(context: BaseModel, notes: JSONObject) -> JSONObject:
    """The context as it is saved: plain JSON data, with the `notes` where the model has no field of that name."""
    saved: JSONObject = safe_serialize(context)
    message = notes.get("pause_message")
    if message is not None and isinstance(saved.get("scratchpad"), dict):
        saved["scratchpad"] = {"status": _PAUSED, "pause_message": message, **saved["scratchpad"]}
    return {**notes, **saved}


def load_context(saved: JSONObject, model: type[ContextT], run_id: str) -> ContextT:
    """The context out of what was saved, without the runner's notes.

    Fields may go by their names or by their aliases. Values of registered classes are made by their deserializers.

    Raises:
        InvalidStateError: it does not fit the model. Its details: ``field``, and where a class could not be made
            ``kind`` and ``raised``, as of `UnreadableValueError`.
    """
    data = {**without_notes(saved, model), "run_id": run_id}
    try:
        made: ContextT = made_again(data, model, lambda plain: validate_model(model, plain))
    except UnreadableValueError as error:
        hint = "give the field a default, or register a migration"
        raise InvalidStateError(
            f"the saved context of {run_id} does not fit {model.__name__}: {error}",
            hint=f"{command_line('show', run_id, '--state')}; {_register(error) or hint}",
            run_id=run_id,
            field=error.field,
            kind=error.kind,
            raised=error.raised,
        ) from error
    except BaseException as error:
        as_exception(error)
        raise InvalidStateError(
            f"the saved context of {run_id} cannot be loaded: {model.__name__} raised {describe(error)}",
            hint=f"{command_line('show', run_id, '--state')} has what was saved",
            run_id=run_id,
        ) from error
    return made


def _register(error: UnreadableValueError) -> str | None:
    """What to do about a class that could not be made."""
    if error.kind is None:
        return None
    return f"mend the deserializer of {error.kind}" if error.raised else f"register a deserializer of {error.kind}"


def copied(context: ContextT) -> ContextT:
    """A deep copy, for a try that may fail; the context itself where something in it cannot be copied."""
    try:
        return context.model_copy(deep=True)
    except Exception as error:  # noqa: BLE001 - whatever the application keeps there
        _log.debug("the context cannot be copied: %s", error)
        return context


def check_context(context: BaseModel) -> None:
    """See that a step left every field as its model wants it: what does not fit could not be loaded again.

    Raises:
        InvalidStateError: it did not.
    """
    fields = {name: getattr(context, name) for name in type(context).model_fields if hasattr(context, name)}
    values = {**fields, **(context.model_extra or {})}
    try:
        type(context).model_validate(values, by_alias=False, by_name=True)
    except ValidationError as error:
        name = type(context).__name__
        raise InvalidStateError(
            f"the step left a context that does not fit {name}: {_first(error)}",
            hint="mend what the step puts there; the run goes on at this step",
        ) from error


def peek_context(saved: JSONObject, model: type[ContextT], run_id: str) -> BaseModel:
    """`load_context` for a run that does not go on: of a context that does not fit, the fields that every one has."""
    try:
        return load_context(saved, model, run_id)
    except InvalidStateError:
        known = {name: saved[name] for name in ("initial_prompt", "scratchpad") if name in saved}
        return PipelineContext.model_construct(run_id=run_id, **known)


def without_notes(saved: JSONObject, model: type[BaseModel]) -> JSONObject:
    """What was saved of the context, without the runner's notes."""
    plain = {name: value for name, value in saved.items() if name in model.model_fields or name not in _NOTES}
    scratchpad = plain.get("scratchpad")
    if isinstance(scratchpad, dict) and saved.get("pause_message") is not None:
        noted = {"status": _PAUSED, "pause_message": saved["pause_message"]}
        plain["scratchpad"] = {
            key: value for key, value in scratchpad.items() if key not in noted or noted[key] != value
        }
    return plain


def field_of(name: str, model: type[BaseModel]) -> str | None:
    """The field of a model that a saved name stands for: its own name, or an alias; None if there is none."""
    found = model_keys(model).get(name)
    return None if found is None else found[0]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
