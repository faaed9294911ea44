"""The parameters of a step's function for the input and the context.

The context is passed to the parameter annotated with a context model, or without such an annotation, to the parameter
named ``context``. The input is passed to the first other parameter.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

_CONTEXT = "context"
_BASE = ("flujo_lens.runner.context", "PipelineContext")
_MODEL = ("pydantic.main", "BaseModel")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _inner(function: Any) -> Any:
    """The function with the annotations: inside partials, or the method of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    is_function = inspect.isroutine(function) or inspect.isclass(function)
    return function if is_function else type(function).__call__


def annotations_of(function: Any) -> dict[str, Any]:
    """The annotations of a function by parameter name; unresolvable ones are texts."""
    target = _inner(function)
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
        return {name: _resolved(target, hint) for name, hint in _written(target).items()}


def _written(target: Any) -> dict[str, Any]:
    found = getattr(inspect.unwrap(target), "__annotations__", {})
    return dict(found) if isinstance(found, Mapping) else {}


def _resolved(target: Any, hint: Any) -> Any:
    """An annotation, resolved in the module and the enclosing functions."""
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
        parameters: Its parameters in order, with their kinds, except ``*`` and ``**``.
        annotations: The result of `annotations_of`.
        has_more: Whether it takes ``*args``.
    """

    function: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]
    annotations: Mapping[str, Any]
    has_more: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """The signature of a function; some built-in functions have none and take only the input."""
        try:
            found = tuple(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            found = ()
        known = tuple(each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        return cls(function, known, annotations_of(function), any(each.kind is each.VAR_POSITIONAL for each in found))

    def context(self, model: type[Any] | None = None) -> str | None:
        """The name of the parameter for the context, or None.

        Args:
            model: The context model of the run, if known.
        """
        names = [each.name for each in self.parameters]
        annotated = [name for name in names if _is_context(self.annotations.get(name), model)]
        if _CONTEXT in annotated or (not annotated and _CONTEXT in names):
            return _CONTEXT
        return annotated[0] if annotated else None

    def input(self, model: type[Any] | None = None) -> str | None:
        """The name of the parameter for the input, or None."""
        context = self.context(model)
        return next((each.name for each in self.parameters if each.name != context and each.kind in _POSITIONAL), None)

    def arguments(self, value: Any, context: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call.

        Raises:
            TypeError: the function needs another context model.
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
            f"{name} must be a {kind}, but the context of the run is a {has}: use Flujo(..., context_model={kind})"
        )


def _classes(hint: Any) -> list[type]:
    """The classes of an annotation: all members of a union, the origin of a generic class."""
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
    """Whether an annotation is a context model: a subclass of `PipelineContext`, or `model`."""
    if isinstance(hint, str):
        return _word(hint) in [_BASE[1], *(each.__name__ for each in _models(model))]
    return any(_is_context_class(each, model) for each in _classes(hint))


def _is_context_class(kind: type, model: type[Any] | None) -> bool:
    return any(_named(base) == _BASE for base in kind.__mro__) or kind in _models(model)


def _models(model: type[Any] | None) -> list[type]:
    """A context model and its base classes, except those of pydantic."""
    bases = () if model is None else model.__mro__
    return [base for base in bases if hasattr(base, "model_fields") and _named(base) != _MODEL]


def _named(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _word(hint: str) -> str:
    """The class name in the text of an annotation: ``Cart`` for ``shop.Cart | None``."""
    return hint.strip("'\"").partition("|")[0].strip().removeprefix("Optional[").rstrip("]").rpartition(".")[2].strip()
