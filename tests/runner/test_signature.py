"""A step gets its context by annotation, whatever the parameter is called and wherever it stands."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, Optional, TypeVar

import pytest
from pydantic import BaseModel

from flujo_lens import Flujo, Pipeline, PipelineContext, Step, step

if TYPE_CHECKING:
    from decimal import Decimal


class Cart(PipelineContext):
    total: int = 0


class Special(Cart):
    pass


T = TypeVar("T")
C = TypeVar("C", bound=Cart)


class Typed(PipelineContext, Generic[T]):
    extra: T | None = None


class Bare(BaseModel):
    run_id: str = ""


class Mixin(BaseModel):
    run_id: str = ""


class Mixed(Mixin):
    pass


def by_name(x: int, context: Any) -> Any:
    return x, context


def by_annotation(x: int, cart: Cart) -> Any:
    return x, cart


def first(cart: Cart, x: int) -> Any:
    return x, cart


def first_with_more(cart: Cart, x: int, y: int = 3) -> Any:
    return x, cart


def behind_a_default(x: int, y: int = 3, cart: Cart | None = None) -> Any:
    assert y == 3
    return x, cart


def optional(x: int, cart: Optional[Cart] = None) -> Any:  # noqa: UP045
    return x, cart


def annotated(x: int, cart: Annotated[Cart, "shared"]) -> Any:
    return x, cart


def of_the_base(x: int, shared: PipelineContext) -> Any:
    return x, shared


def keyword_only(x: int, *, cart: Cart) -> Any:
    return x, cart


def keyword_only_with_args(*args: int, cart: Cart) -> Any:
    return args[0], cart


def positional_only(x: int, cart: Cart, /) -> Any:
    return x, cart


def positional_only_first(cart: Cart, x: int, /) -> Any:
    return x, cart


def generic(x: int, cart: C) -> Any:
    return x, cart


def another_cannot_be_resolved(x: Decimal, cart: Cart) -> Any:
    return x, cart


def its_own_cannot_be_resolved(x: int, cart: "shop.Cart | None" = None) -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
    return x, cart


def named_comes_first(x: int, other: Cart | None = None, context: Cart | None = None) -> Any:
    assert other is None
    return x, context


async def asynchronous(x: int, cart: Cart) -> Any:
    return x, cart


class Called:
    def __call__(self, x: int, cart: Cart) -> Any:
        return x, cart

    async def method(self, cart: Cart, x: int) -> Any:
        return x, cart


@functools.wraps(by_annotation)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return by_annotation(*args, **kwargs)


def with_y(y: int, x: int, cart: Cart) -> Any:
    assert y == 3
    return x, cart


FUNCTIONS: list[Any] = [
    *[by_name, by_annotation, first, first_with_more, behind_a_default, optional, annotated, of_the_base],
    *[keyword_only, keyword_only_with_args, positional_only, positional_only_first, generic],
    *[another_cannot_be_resolved, its_own_cannot_be_resolved, named_comes_first, asynchronous],
    *[Called(), Called().method, wrapped, functools.partial(with_y, 3), functools.partial(by_annotation)],
]


def ran(function: Callable[..., Any], model: type[Any] = Special) -> tuple[Any, str | None]:
    """What a step gave, and why it failed."""
    runner = Flujo(Pipeline((Step("s", function=function),)), pipeline_name="p", context_model=model)
    result = asyncio.run(runner.run_async(7, run_id="r"))
    return result.output, result.error


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def test_input_and_context_go_where_they_belong(function: Any) -> None:
    assert Step("s", function=function).takes_context(Special)
    output, error = ran(function)
    assert error is None
    value, context = output
    assert (value, type(context), context.run_id) == (7, Special, "r")


def test_what_a_step_leaves_there_is_kept() -> None:
    @step
    def add(x: int, cart: Cart) -> int:
        cart.total += x
        return x

    runner = Flujo(add >> Step("again", function=add.function), pipeline_name="p", context_model=Cart)
    assert asyncio.run(runner.run_async(7)).final_pipeline_context.total == 14


def test_a_step_may_take_the_context_alone() -> None:
    def alone(cart: Cart) -> str:
        return cart.run_id

    def alone_by_keyword(*, context: Cart) -> str:
        return context.run_id

    assert (ran(alone), ran(alone_by_keyword)) == (("r", None), ("r", None))


def test_a_class_that_only_the_function_around_knows() -> None:
    class Local(PipelineContext):
        pass

    def body(x: int, shared: Local) -> str:
        return shared.run_id

    assert ran(body, Local) == ("r", None)


def test_a_context_that_is_no_pipeline_context() -> None:
    def bare(x: int, shared: Bare) -> str:
        return shared.run_id

    def mixed(x: int, shared: Mixin) -> str:
        return shared.run_id

    def model(x: int, other: BaseModel | None = None) -> Any:
        return other

    assert (ran(bare, Bare), ran(mixed, Mixed), ran(model, Bare)) == (("r", None), ("r", None), (None, None))


def test_a_generic_context() -> None:
    def body(x: int, shared: Typed[int]) -> str:
        return shared.run_id

    assert ran(body, Typed[int]) == ("r", None)


@pytest.mark.parametrize(
    "function",
    [lambda x: x, lambda x, y=3: x, len, functools.partial(int, base=10)],
    ids=["one", "two", "len", "partial"],
)
def test_a_step_without_a_context(function: Any) -> None:
    assert not Step("s", function=function).wants_context


def test_another_context_than_the_runs() -> None:
    told = "cart must be a Cart, but the context of the run is a PipelineContext: use Flujo(..., context_model=Cart)"
    assert ran(by_annotation, PipelineContext)[1] == f"TypeError: {told}"


def test_the_input_is_the_first_that_is_no_context() -> None:
    types = [
        Step("s", function=each).input_type for each in (first, by_annotation, Called(), another_cannot_be_resolved)
    ]
    assert types == [int, int, int, None]
