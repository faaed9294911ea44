"""Which parameter of a step's function takes the input, and which the context of the run.

The context goes to the parameter that is annotated with a type of contexts, whatever its name and place; without
such an annotation to the one that is called ``context``. The input goes to the first of the others.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

__all__ = ["Signature", "annotations_of"]

_CONTEXT = "context"
_BASE = ("flujo_lens.runner.context", "PipelineContext")
_MODEL = ("pydantic.main", "BaseModel")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _inner(function: Any) -> Any:
    """The function that has the annotations: behind partials, of an object that can be called its method."""
    while isinstance(function, functools.partial):
        function = function.func
    is_function = inspect.isroutine(function) or inspect.isclass(function)
    return function if is_function else type(function).__call__


def annotations_of(function: Any) -> dict[str, Any]:
    """The annotations of a function by the names of its parameters; one that cannot be resolved is a text."""
    target = _inner(function)
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
        return {name: _resolved(target, hint) for name, hint in _written(target).items()}


def _written(target: Any) -> dict[str, Any]:
    found = getattr(inspect.unwrap(target), "__annotations__", {})
    return dict(found) if isinstance(found, Mapping) else {}


def _resolved(target: Any, hint: Any) -> Any:
    """One annotation, resolved where its names can be found: in the module, or in the functions around."""
    if not isinstance(hint, str):
        return hint
    code = inspect.unwrap(target)
    names = {**getattr(code, "__globals__", {}), **_nonlocals(code)}
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={"hint": hint}), names)["hint"]
    except Exception:  # noqa: BLE001 - as above
        return hint


def _nonlocals(function: Any) -> dict[str, Any]:
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}


class Signature(NamedTuple):
    """The parameters of a step's function.

    Attributes:
        function: The function.
        parameters: Its parameters in their order, with their kinds; those of ``*`` and ``**`` are not among them.
        annotations: As of `annotations_of`.
        has_more: Whether it takes any number of arguments, as ``*args``.
    """

    function: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]
    annotations: Mapping[str, Any]
    has_more: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """The signature of a function; none can be had of some that are built in: then it takes its input alone."""
        try:
            found = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            found = ()
        known = tuple(each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        return cls(function, known, annotations_of(function), any(each.kind is each.VAR_POSITIONAL for each in found))

    def context(self, model: type[Any] | None = None) -> str | None:
        """The name of the parameter that takes the context; None if there is none.

        Args:
            model: The type of the run's context, where it is known.
        """
        names = [each.name for each in self.parameters]
        annotated = [name for name in names if _is_context(self.annotations.get(name), model)]
        if _CONTEXT in annotated or (not annotated and _CONTEXT in names):
            return _CONTEXT
        return annotated[0] if annotated else None

    def input(self, model: type[Any] | None = None) -> str | None:
        """The name of the parameter that takes the input; None if there is none."""
        context = self.context(model)
        return next((each.name for each in self.parameters if each.name != context and each.kind in _POSITIONAL), None)

    def arguments(self, value: Any, context: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function is called with.

        Raises:
            TypeError: it wants a context of another type.
        """
        name = self.context(type(context))
        if name is None:
            return (value,), {}
        self._check(name, context)
        names = [each.name for each in self.parameters if each.kind in _POSITIONAL]
        first = self.input(type(context))
        at = names.index(name) if name in names else -1
        if first is None and not self.has_more:
            return ((context,), {}) if at == 0 else ((), {name: context})
        if at == 0 and first is not None:
            return ((context, value), {}) if names[1] == first else ((), {name: context, first: value})
        if at == 1 and self.parameters[1].kind is inspect.Parameter.POSITIONAL_ONLY:
            return (value, context), {}
        return (value,), {name: context}

    def _check(self, name: str, context: Any) -> None:
        wanted = _classes(self.annotations.get(name))
        if name == _CONTEXT or not wanted or any(isinstance(context, each) for each in wanted):
            return
        kind, has = wanted[0].__name__, type(context).__name__
        raise TypeError(
            f"{name} is to be a {kind}, and the context of the run is a {has}: Flujo(..., context_model={kind})"
        )


def _classes(hint: Any) -> list[type]:
    """The classes that an annotation admits: of a union each, of a generic class the class."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _classes(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [each for arm in get_args(hint) for each in _classes(arm)]
    if isinstance(hint, TypeVar):
        return _classes(hint.__bound__)
    found = origin or hint
    return [found] if isinstance(found, type) and found is not type(None) else []


def _is_context(hint: Any, model: type[Any] | None) -> bool:
    """Whether an annotation is a type of contexts: `PipelineContext`, one that derives from it, or `model`'s own."""
    if isinstance(hint, str):
        return _word(hint) in [_BASE[1], *(each.__name__ for each in _models(model))]
    return any(_is_context_class(each, model) for each in _classes(hint))


def _is_context_class(kind: type, model: type[Any] | None) -> bool:
    return any(_named(base) == _BASE for base in kind.__mro__) or kind in _models(model)


def _models(model: type[Any] | None) -> list[type]:
    """A type of contexts and those that it derives from, but for pydantic's own."""
    bases = () if model is None else model.__mro__
    return [base for base in bases if hasattr(base, "model_fields") and _named(base) != _MODEL]


def _named(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _word(hint: str) -> str:
    """The class that a text names: ``shop.Cart | None`` names ``Cart``."""
    return hint.strip("'\"").partition("|")[0].strip().removeprefix("Optional[").rstrip("]").rpartition(".")[2].strip()
