"""Classes that an application registers, models with them, and generated contexts, for several processes."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, create_model, field_validator
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from flujo_lens import Flujo, Pipeline, PipelineContext, Step
from flujo_lens.runner.dsl import StepFunction
from flujo_lens.serialization import register_custom_deserializer, register_custom_serializer
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.registry import open_backend

ANY = ConfigDict(arbitrary_types_allowed=True)


class Money:
    """Written as an object."""

    def __init__(self, amount: str, unit: str) -> None:
        self.amount, self.unit = Decimal(amount), unit

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.amount, self.unit))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.amount)!r}, {self.unit!r})"


class Euro(Money):
    """Written otherwise than what it derives from."""


class Weight:
    """Written as a text."""

    def __init__(self, grams: int) -> None:
        self.grams = grams

    def __eq__(self, other: object) -> bool:
        return type(other) is Weight and other.grams == self.grams

    def __hash__(self) -> int:
        return self.grams

    def __repr__(self) -> str:
        return f"Weight({self.grams})"


def weight_of(data: str) -> Weight:
    number, _, unit = data.partition(" ")
    if unit != "g":
        raise ValueError(f"no weight: {data}")
    return Weight(int(number))


def money_of(data: dict[str, str]) -> Money:
    return Money(data["amount"], data["unit"])


def register() -> None:
    """What an application does when it starts."""
    register_custom_serializer(Money, lambda money: {"amount": str(money.amount), "unit": money.unit})
    register_custom_deserializer(Money, money_of)
    register_custom_serializer(Euro, lambda euro: {"cents": int(euro.amount * 100)})
    register_custom_deserializer(Euro, lambda data: Euro(str(Decimal(data["cents"]) / 100), "EUR"))
    register_custom_serializer(Weight, lambda weight: f"{weight.grams} g")
    register_custom_deserializer(Weight, weight_of)


class Line(BaseModel):
    model_config = ANY
    price: Money
    weights: list[Weight] = []


class Frozen(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)
    price: Money | None = None
    _told: int = PrivateAttr(3)


class Strict(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, strict=True)
    price: Money
    rate: Decimal
    pair: tuple[int, Money]


class Aliased(BaseModel):
    model_config = ANY
    price: Money = Field(alias="thePrice")
    tax: Money | None = Field(None, validation_alias="readTax", serialization_alias="writtenTax")


class WrittenByAlias(Aliased):
    model_config = ConfigDict(arbitrary_types_allowed=True, serialize_by_alias=True)


class Camel(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, alias_generator=to_camel)
    net_price: Money


class Cat(BaseModel):
    model_config = ANY
    kind: Literal["cat"] = "cat"
    cost: Money


class Dog(BaseModel):
    model_config = ANY
    kind: Literal["dog"] = "dog"
    cost: Money
    weight: Weight


class Validated(BaseModel):
    model_config = ANY
    price: Money

    @field_validator("price", mode="before")
    @classmethod
    def _price(cls, value: Any) -> Any:
        return Money(*value.split()) if isinstance(value, str) else value


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    model_config = ANY
    one: T
    many: list[T] = []


class Prices(RootModel[Any]):
    model_config = ANY
    root: list[Money]


class Node(BaseModel):
    model_config = ANY
    value: Money | None = None
    below: list[Node] = []


@dataclasses.dataclass
class Row:
    price: Money
    weights: list[Weight] = dataclasses.field(default_factory=list)


class Priced(TypedDict):
    price: Money
    weight: NotRequired[Weight]


class Pair(NamedTuple):
    price: Money
    number: int


M, TWO, E, W = Money("1.50", "EUR"), Money("2", "USD"), Euro("3.20", "EUR"), Weight(5)


def flujo(model: type[PipelineContext], backend: StateBackend, *bodies: StepFunction | Step) -> Flujo[PipelineContext]:
    steps = (each if isinstance(each, Step) else Step(each.__name__, function=each) for each in bodies)
    return Flujo(Pipeline(tuple(steps)), pipeline_name="p", state_backend=backend, context_model=model)


def generated(dice: random.Random, depth: int) -> tuple[Any, Any]:
    """An annotation, and a value of it."""
    amount = Money(f"{dice.randrange(10**6)}.{dice.randrange(100):02}", dice.choice(["EUR", "USD", "é"]))
    leaves: list[tuple[Any, Any]] = [
        *[(Money, amount), (Weight, Weight(dice.randrange(10**9))), (Euro, Euro(f"{dice.randrange(999)}.25", "EUR"))],
        *[(int, dice.randrange(-9, 9)), (str, dice.choice(["", "a b", "é\n"])), (bool, dice.random() < 0.5)],
        *[(Decimal, Decimal(dice.randrange(99)) / 4), (Row, Row(amount, [Weight(1)])), (Pair, Pair(amount, 1))],
        *[
            (Line, Line(price=amount)),
            (Camel, Camel(netPrice=amount)),
            (WrittenByAlias, WrittenByAlias(thePrice=amount)),
        ],
        *[(Cat | Dog, Dog(cost=amount, weight=W)), (Prices, Prices([amount])), (Priced, {"price": amount})],
    ]
    if depth == 0 or dice.random() < 0.2:
        return dice.choice(leaves)
    kind, value = generated(dice, depth - 1)
    if dice.random() < 0.1:
        model = create_model("Made", __config__=ANY, inner=(kind, ...))
        return model, model(inner=value)
    if dice.random() < 0.1:
        return Box[kind], Box[kind](one=value, many=[value])
    others = [(Optional[kind], dice.choice([value, None])), (list[kind], [value] * dice.randrange(3))]  # noqa: UP045
    others += [(dict[str, kind], {"a b": value, "é": value}), (dict[Money, kind], {amount: value})]
    others += [(tuple[kind, ...], (value, value)), (tuple[kind, int], (value, 1))]
    return dice.choice([*others, (Annotated[kind, Field(description="x")], value)])


# --- a program: save or resume, a store, the first and the last number


def made(number: int) -> tuple[type[PipelineContext], dict[str, Any]]:
    """A type of a context, and its values."""
    dice = random.Random(number)
    fields = {f"f{at}": generated(dice, 3) for at in range(3)}
    kinds: dict[str, Any] = {name: (kind, None) for name, (kind, _) in fields.items()}
    return create_model("Generated", __base__=PipelineContext, **kinds), {
        name: each for name, (_, each) in fields.items()
    }


async def work_on(backend: StateBackend, numbers: Iterable[int], status: str) -> None:
    """Save contexts, with a first step that fills them and a second that fails; or let the second go on and compare."""
    for number in numbers:
        model, wanted = made(number)

        def first(given: str, context: Any, wanted: dict[str, Any] = wanted) -> Any:
            for name, value in wanted.items():
                setattr(context, name, value)

        def second(given: Any, context: Any, wanted: dict[str, Any] = wanted) -> None:
            if status == "failed":
                raise ConnectionError
            found = {name: getattr(context, name) for name in wanted}
            assert found == wanted
            assert repr(found) == repr(wanted)

        result = await flujo(model, backend, first, second).run_async("x", run_id=f"r{number}")
        assert result.status == status, (number, result.error)


async def main(status: str, uri: str, first: int, last: int) -> None:
    """Work on a store."""
    async with open_backend(uri, {}) as backend:
        await work_on(backend, range(first, last), status)


if __name__ == "__main__":
    register()
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    print("all equal")
