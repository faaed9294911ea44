"""`PipelineContext`: data shared by the steps of a run; saving and loading it.

In addition to the fields of the model, the saved context has notes of the runner, under the names used by the library:
``status``, ``current_step``, and while the run waits for a person ``pause_message`` and ``hitl_data``, with the message
in ``scratchpad``, too. A field of an application with such a name replaces the note.
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

JSONObject = dict[str, Any]

_NOTES = ("status", "current_step", "pause_message", "hitl_data")
_PAUSED = "paused"

_log = logging.getLogger("flujo_lens")


class HumanInteraction(BaseModel):
    """A question to a person and the answer; `timestamp` is in UTC."""

    message_to_human: str
    human_response: Any
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PipelineContext(BaseModel):
    """Data shared by the steps of a run. Context models of an application inherit from it and add fields.

    A step gets it by annotation: the parameter that is annotated with `PipelineContext` or a subclass, whatever its
    name and position, or without such an annotation the one named ``context``. The input goes to the first other
    parameter:

        class Order(PipelineContext):
            total: float = 0.0


        @step
        async def add(price: float, order: Order) -> float:
            order.total += price
            return order.total


        Flujo(add, context_model=Order, state_backend=backend)

    An attempt of a step gets a deep copy; what it leaves there is saved with its output if it succeeds.

    Attributes:
        run_id: The run.
        initial_prompt: The input of the first step, as text.
        scratchpad: Free-form data of steps.
        hitl_history: Questions to persons and their answers, in order.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    run_id: str = ""
    initial_prompt: str = ""
    scratchpad: dict[str, Any] = Field(default_factory=dict)
    hitl_history: list[HumanInteraction] = Field(default_factory=list)


def make_context(model: type[ContextT], run_id: str, initial_input: Any, data: JSONObject) -> ContextT:
    """Create the context of a new run.

    Args:
        model: Its type.
        run_id: The value of the field ``run_id``, overriding `data`.
        initial_input: The value of ``initial_prompt``, unless in `data`.
        data: Values of other fields.

    Raises:
        UsageError: the values do not fit the model.
    """
    given = {"initial_prompt": str(initial_input), **data, "run_id": run_id}
    try:
        made: ContextT = validate_model(model, given)
    except ValidationError as error:
        raise UsageError(
            f"cannot create the context {model.__name__}: {_first(error)}",
            hint="pass missing fields in initial_context_data={...}, or add defaults",
        ) from error
    except BaseException as error:
        as_exception(error)
        raise UsageError(f"cannot create the context {model.__name__}: {describe(error)}") from error
    return made


def dump_context(context: BaseModel, notes: JSONObject) -> JSONObject:
    """The context as plain JSON data to save, with the `notes` that are not fields of the model."""
    saved: JSONObject = safe_serialize(context)
    message = notes.get("pause_message")
    if message is not None and isinstance(saved.get("scratchpad"), dict):
        saved["scratchpad"] = {"status": _PAUSED, "pause_message": message, **saved["scratchpad"]}
    return {**notes, **saved}


def load_context(saved: JSONObject, model: type[ContextT], run_id: str) -> ContextT:
    """Load a saved context, without the runner's notes.

    Fields may have their names or aliases. Values of registered classes are created by their deserializers.

    Raises:
        InvalidStateError: it does not fit the model. Details: ``field``, and for a failed class ``kind`` and
            ``raised``, as for `UnreadableValueError`.
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
            hint=f"{command_line('show', run_id, '--state')} shows the saved context",
            run_id=run_id,
        ) from error
    return made


def _register(error: UnreadableValueError) -> str | None:
    """A hint on a class that could not be created."""
    if error.kind is None:
        return None
    return f"fix the deserializer of {error.kind}" if error.raised else f"register a deserializer for {error.kind}"


def copied(context: ContextT) -> ContextT:
    """A deep copy for an attempt that may fail; the context itself if it cannot be copied."""
    try:
        return context.model_copy(deep=True)
    except Exception as error:  # noqa: BLE001 - whatever the application keeps there
        _log.debug("the context cannot be copied: %s", error)
        return context


def check_context(context: BaseModel) -> None:
    """Check that the context fits its model after a step, since it could not be loaded otherwise.

    Raises:
        InvalidStateError: it does not.
    """
    fields = {name: getattr(context, name) for name in type(context).model_fields if hasattr(context, name)}
    values = {**fields, **(context.model_extra or {})}
    try:
        type(context).model_validate(values, by_alias=False, by_name=True)
    except ValidationError as error:
        name = type(context).__name__
        raise InvalidStateError(
            f"the step left a context that does not fit {name}: {_first(error)}",
            hint="fix the value set by the step; the run resumes at this step",
        ) from error


def peek_context(saved: JSONObject, model: type[ContextT], run_id: str) -> BaseModel:
    """`load_context` for a run that is not resumed: if it does not fit, with only the standard fields."""
    try:
        return load_context(saved, model, run_id)
    except InvalidStateError:
        known = {name: saved[name] for name in ("initial_prompt", "scratchpad") if name in saved}
        return PipelineContext.model_construct(run_id=run_id, **known)


def without_notes(saved: JSONObject, model: type[BaseModel]) -> JSONObject:
    """The saved context without the runner's notes."""
    plain = {name: value for name, value in saved.items() if name in model.model_fields or name not in _NOTES}
    scratchpad = plain.get("scratchpad")
    if isinstance(scratchpad, dict) and saved.get("pause_message") is not None:
        noted = {"status": _PAUSED, "pause_message": saved["pause_message"]}
        plain["scratchpad"] = {
            key: value for key, value in scratchpad.items() if key not in noted or noted[key] != value
        }
    return plain


def field_of(name: str, model: type[BaseModel]) -> str | None:
    """The field of a model for a saved name, which may be an alias; or None."""
    found = model_keys(model).get(name)
    return None if found is None else found[0]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
