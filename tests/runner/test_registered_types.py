"""Values of registered classes are the same after a resume: in the context, between steps, as answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
import registered_types
from programs import run_python
from pydantic import BeforeValidator, Field, create_model
from registered_types import (
    TWO,
    Aliased,
    Box,
    Camel,
    Cat,
    Dog,
    E,
    Euro,
    Frozen,
    Line,
    M,
    Money,
    Node,
    Pair,
    Priced,
    Prices,
    Row,
    Strict,
    Validated,
    W,
    Weight,
    WrittenByAlias,
    flujo,
    register,
)

from flujo_lens import FileBackend, InMemoryBackend, PipelineContext, SQLiteBackend, StateIncompatibilityError, Step
from flujo_lens.serialization import register_custom_deserializer, scoped_registry
from flujo_lens.state.backends.base import StateBackend

Make = Callable[[Path], StateBackend]
STORES: dict[str, Make] = {
    "sqlite": lambda folder: SQLiteBackend(folder / "store.db"),
    "files": lambda folder: FileBackend(folder / "runs"),
    "memory": lambda folder: InMemoryBackend(),
}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with scoped_registry(empty=True):
        register()
        yield


CASES: dict[str, tuple[Any, Any]] = {
    "itself": (Money, M),
    "or none": (Money | None, M),
    "none": (Optional[Money], None),  # noqa: UP045
    "a list": (list[Money], [M, TWO]),
    "an empty list": (list[Money], []),
    "a dict": (dict[str, Money], {"a": M}),
    "many": (tuple[Money, ...], (M, TWO)),
    "two": (tuple[Money, int], (M, 1)),
    "a set": (set[Money], {M, TWO}),
    "a frozen set": (frozenset[Money | Weight], frozenset([M, W])),
    "annotated": (Annotated[Money, "net"], M),
    "annotated inside": (Annotated[list[Annotated[Money, 1]], Field(min_length=1)] | None, [M]),
    "a sequence": (Sequence[Money], [M]),
    "a mapping": (Mapping[str, Money], {"a": M}),
    "keys": (dict[Money, int], {M: 1}),
    "keys of text": (dict[Weight, Money], {W: M}),
    "deep": (dict[str, list[dict[str, tuple[Money | None, ...]]]], {"a": [{"b": (M, None)}]}),
    "a model": (Line, Line(price=M, weights=[W])),
    "models": (dict[str, list[Line] | None], {"a": [Line(price=M)], "b": None}),
    "a frozen model": (Frozen, Frozen(price=M)),
    "a strict model": (Strict, Strict(price=M, rate=Decimal("1.5"), pair=(1, M))),
    "aliases": (Aliased, Aliased(thePrice=M, readTax=TWO)),
    "written by alias": (WrittenByAlias, WrittenByAlias(thePrice=M, readTax=TWO)),
    "made aliases": (Camel, Camel(netPrice=M)),
    "a validator": (Validated, Validated(price=M)),
    "a before validator": (Annotated[Money, BeforeValidator(lambda value: value)], M),
    "a generic model": (Box[Money], Box[Money](one=M, many=[TWO])),
    "a generic model of lists": (Box[list[Money] | None], Box[list[Money] | None](one=[M])),
    "a root model": (Prices, Prices([M])),
    "a model of itself": (Node, Node(value=M, below=[Node(below=[Node(value=TWO)])])),
    "a dataclass": (Row, Row(M, [W])),
    "dataclasses": (dict[str, Row | None], {"a": Row(M), "b": None}),
    "a typed dict": (Priced, {"price": M, "weight": W}),
    "a named tuple": (Pair, Pair(M, 2)),
    "one of two": (Money | Weight, W),
    "the other of two": (Money | Weight | None, M),
    "beside a text": (Union[str, Weight, Money, int], W),  # noqa: UP007
    "a text beside": (Union[str, Weight, Money, int], "hello"),  # noqa: UP007
    "a number beside": (Union[str, Weight, Money, int], 7),  # noqa: UP007
    "a word beside": (Literal["free"] | Money, "free"),
    "beside a dict": (dict[str, Any] | Money, M),
    "a dict beside": (dict[str, Any] | Money, {"unit": 1}),
    "told apart": (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(cost=M, weight=W)),
    "not told apart": (list[Cat | Dog], [Cat(cost=M), Dog(cost=TWO, weight=W)]),
    "derived": (Euro, E),
    "derived in place of its base": (list[Money], [E, M]),
}


def context_of(kind: Any) -> type[PipelineContext]:
    return create_model("Context", __base__=PipelineContext, field=(kind, None))


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.parametrize(("kind", "value"), CASES.values(), ids=CASES)
def test_a_value_is_the_same_after_a_resume(make: Make, tmp_path: Path, kind: Any, value: Any) -> None:
    model, found = context_of(kind), list[Any]()

    def first(given: str, context: Any) -> Any:
        context.field = value
        return value

    def second(given: Any, context: Any) -> str:
        found.append((given, context.field))
        if len(found) == 1:
            raise ConnectionError
        return "done"

    first.__annotations__["return"] = kind

    async def work() -> None:
        async with make(tmp_path) as backend:
            for status in ("failed", "completed"):
                result = await flujo(model, backend, first, second).run_async("x", run_id="r")
                assert result.status == status, result.error

    asyncio.run(work())
    assert found == [(value, value)] * 2
    assert [[type(each) for each in row] for row in found] == [[type(value)] * 2] * 2


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_the_input_of_a_run_and_an_answer(make: Make, tmp_path: Path) -> None:
    """Both are typed by what the code says of them, as is the output of a run that nothing is done with any more."""
    found: list[Any] = []

    def first(given: Money) -> Money:
        found.append(given)
        if len(found) == 1:
            raise ConnectionError
        return given

    def last(answer: Line) -> Weight:
        found.append(answer)
        return answer.weights[0]

    async def work() -> None:
        asks = Step.human_in_the_loop("ask", input_schema=Line)
        async with make(tmp_path) as backend:
            assert (
                await flujo(PipelineContext, backend, first, asks, last).run_async(M, run_id="r")
            ).status == "failed"
            assert (await flujo(PipelineContext, backend, first, asks, last).run_async(run_id="r")).status == "paused"
            runner = flujo(PipelineContext, backend, first, asks, last)
            answer = {"price": {"amount": "1.50", "unit": "EUR"}, "weights": ["5 g"]}
            result = await runner.resume_async("r", answer)
            assert result.output == W
            assert (await flujo(PipelineContext, backend, first, asks, last).run_async(run_id="r")).output == W

    asyncio.run(work())
    assert found == [M, M, Line(price=M, weights=[W])]


@pytest.mark.parametrize("answer", ['{"amount": "1.50", "unit": "EUR"}', {"amount": "1.50", "unit": "EUR"}, M])
def test_an_answer_of_a_registered_class(answer: Any) -> None:
    def last(given: Money) -> Money:
        return given

    async def work() -> None:
        asks = Step.human_in_the_loop("ask", input_schema=Money)
        async with InMemoryBackend() as backend:
            await flujo(PipelineContext, backend, asks, last).run_async("x", run_id="r")
            assert (await flujo(PipelineContext, backend, asks, last).resume_async("r", answer)).output == M

    asyncio.run(work())


# --- what is said where it cannot be done


async def refused(kind: Any, value: Any, change: Callable[[], None], output: Any = None) -> StateIncompatibilityError:
    """The error when a run is to go on after `change`."""
    model = context_of(kind)

    def first(given: str, context: Any) -> Any:
        context.field = value
        return output

    def second(given: Any) -> Any:
        raise ConnectionError

    first.__annotations__["return"] = kind if output is not None else None
    async with InMemoryBackend() as backend:
        await flujo(model, backend, first, second).run_async("x", run_id="r")
        change()
        before = await backend.load_state("r")
        with pytest.raises(StateIncompatibilityError) as caught:
            await flujo(model, backend, first, second).run_async("x", run_id="r")
        assert await backend.load_state("r") == before
    return caught.value


def without_deserializers() -> None:
    from flujo_lens.serialization.registry import current_registry

    current_registry()._deserializers = {}


def failing() -> None:
    register_custom_deserializer(Money, lambda data: Money(data["sum"], ""))


@pytest.mark.parametrize(
    ("kind", "value", "where"),
    [
        (Money, M, "field"),
        (Money | None, M, "field"),
        (list[Money], [M], "field.0"),
        (dict[str, Money], {"a": M}, "field.a"),
        (Line, Line(price=M), "field.price"),
    ],
    ids=str,
)
def test_the_message_names_the_cause(kind: Any, value: Any, where: str) -> None:
    error = asyncio.run(refused(kind, value, without_deserializers))
    missing = "no deserializer is registered for Money; use register_custom_deserializer(Money, ...)"
    assert f"{where}: Input should be an instance of Money; {missing}" in error.message
    assert (error.code, error.differences[0].kind, error.remediations[0].id) == (
        "LENS-C5",
        "deserializer-missing",
        "register",
    )
    error = asyncio.run(refused(kind, value, failing))
    told = "the deserializer for Money raised KeyError: 'sum'"
    assert f"{where}: Input should be an instance of Money; {told}" in error.message
    assert error.remediations[0].id == "mend-deserializer"
    assert "is of another type" not in error.message


class _Ended(BaseException):
    pass


@pytest.mark.parametrize("raised", [SystemExit(3), _Ended("no"), asyncio.CancelledError()])
def test_a_deserializer_that_would_end_the_program_has_failed(raised: BaseException) -> None:
    def ends(data: Any) -> Any:
        raise raised

    error = asyncio.run(refused(Money, M, lambda: register_custom_deserializer(Money, ends)))
    assert f"raised {type(raised).__name__}" in error.message


def test_one_that_makes_something_else_is_named() -> None:
    error = asyncio.run(refused(Money, M, lambda: register_custom_deserializer(Money, lambda data: 7)))
    assert "the deserializer for Money returned a int" in error.message


def test_a_derived_class_needs_a_deserializer_of_its_own() -> None:
    class Yen(Money):
        pass

    error = asyncio.run(refused(Yen, Yen("3", "JPY"), lambda: None))
    assert "for Money returned a Money; use register_custom_deserializer(Yen, ...)" in error.message


@pytest.mark.parametrize("change", [without_deserializers, failing])
def test_an_input_that_cannot_be_made_again_is_refused(change: Callable[[], None]) -> None:
    error = asyncio.run(refused(Money | None, None, change, output=M))
    assert (error.code, error.differences[0].kind) == ("LENS-C10", "input-unreadable")
    assert 'the input of step "second" cannot be deserialized: ' in error.message
    assert "register_custom_deserializer(Money, ...)" in error.message or "KeyError: 'sum'" in error.message


def test_an_annotation_that_is_not_true_is_no_reason_to_refuse() -> None:
    def first(given: str) -> int:
        return "no number"  # type: ignore[return-value]

    found: list[Any] = []

    def second(given: Any) -> None:
        found.append(given)
        if len(found) == 1:
            raise ConnectionError

    async def work() -> None:
        async with InMemoryBackend() as backend:
            for _ in range(2):
                await flujo(PipelineContext, backend, first, second).run_async("x", run_id="r")

    asyncio.run(work())
    assert found == ["no number"] * 2


# --- generated contexts


@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_generated_contexts_are_the_same_in_another_process(store: str, tmp_path: Path) -> None:
    """5,000 of them with LENS_SOAK, in two stores."""
    few = 80 if store == "sqlite" else 16  # a file is synced before a save returns
    last = 2500 if os.environ.get("LENS_SOAK") else few
    uri = f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else (tmp_path / "runs").as_uri()
    program = str(Path(registered_types.__file__))
    for status in ("failed", "completed"):
        done = run_python(program, status, uri, "0", last)
        assert (done.returncode, done.stdout) == (0, "all equal\n"), done.stderr[-2000:]
