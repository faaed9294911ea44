"""Detection of the context model of a pipeline of the library (``flujo``), if the application does not name it.

A registry of the library has only pipelines. Without the model, the library accepts an answer and fails at the next
step, or drops the fields of the model from the store; so the model is searched in the steps first.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import UsageError
from flujo_lens.runner.stored_run import Stored

if TYPE_CHECKING:
    from pydantic import BaseModel

_NOTES = frozenset(
    {
        "created_at",
        "current_step",
        "current_step_index",
        "error_message",
        "hitl_data",
        "pause_message",
        "pipeline_id",
        "pipeline_name",
        "pipeline_version",
        "scratchpad",
        "status",
        "total_steps",
        "updated_at",
    }
)
"""Notes of the runners in a saved context, which are not fields of its model."""


def context_model(pipeline: Any, stored: Stored) -> Any:
    """The model in the annotations of the steps; None if the library's default suffices.

    Raises:
        UsageError: the saved context has fields of another model, which is not named anywhere.
    """
    wanted = list(dict.fromkeys(_asked_for(pipeline)))
    most = [model for model in wanted if all(issubclass(model, other) for other in wanted)]
    if most:
        return most[0]
    fields = _fields_of_its_own(stored)
    if wanted or fields:
        names = ", ".join(model.__name__ for model in wanted) or f"a model with {', '.join(fields)}"
        raise UsageError(
            f"the context of {stored.run_id} needs {names}, but the application does not name its context model; "
            "nothing was changed",
            hint="give a Flujo with the model as --app: Flujo(registry=..., context_model=...)",
            run_id=stored.run_id,
        )
    return None


def _fields_of_its_own(stored: Stored) -> list[str]:
    """The names of saved fields that the library's default context does not have."""
    own = _base_fields()
    return sorted(name for name in stored.whole_context if name not in own | _NOTES and not name.startswith("_"))


def _base_fields() -> frozenset[str]:
    import importlib

    models = importlib.import_module("flujo.domain.models")
    return frozenset(models.PipelineContext.model_fields)


def _asked_for(pipeline: Any) -> Iterator[type[BaseModel]]:
    """The context models in the annotations of the steps and nested steps of a pipeline."""
    waiting, seen = [pipeline], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield from _annotated(getattr(found, "agent", None))
        for name in ("steps", "loop_body_pipeline", "branches", "pipeline", "default_branch_pipeline", "fallback_step"):
            inner = getattr(found, name, None)
            waiting += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else [inner]


def _annotated(agent: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    for name in ("_step_callable", "run"):
        function = getattr(agent, name, None)
        if not callable(function):
            continue
        try:
            hint = typing.get_type_hints(function).get("context")
        except (NameError, TypeError, AttributeError):
            hint = None
        for one in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
            if inspect.isclass(one) and issubclass(one, BaseModel) and not _is_base(one):
                yield one


def _is_base(model: type[BaseModel]) -> bool:
    """Whether it is a base class of all contexts, of pydantic or the library."""
    return model.__module__.partition(".")[0] in ("pydantic", "flujo")
