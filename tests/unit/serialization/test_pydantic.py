"""Models: what `model_dump` says of them, and they come back."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from flujo_lens.serialization import LossyValue, safe_deserialize, safe_dumps, safe_loads, safe_serialize

T = TypeVar("T")
NAN = float("nan")


class Item(BaseModel):
    x: float = 1.0
    y: Any = None


class Special(Item):
    z: float = NAN


class Holder(BaseModel):
    item: Item
    rest: list[Any] = [None]


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    born: date = date(2026, 1, 2)


class Owner(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    a: int = Field(0, serialization_alias="written")
    b: bytes = Field(b"", alias="bee")


class Hidden(BaseModel):
    shown: int = 1
    secret: int = Field(2, exclude=True)
    _private: int = PrivateAttr(3)


class Computed(BaseModel):
    x: float = 4.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def half(self) -> float:
        return self.x / 2


class OwnField(BaseModel):
    a: int = 1
    b: Annotated[date, PlainSerializer(lambda day: day.year)] = date(2026, 1, 2)

    @field_serializer("a")
    def write(self, value: int) -> str:
        return f"#{value}"


class Whole(BaseModel):
    a: int = 1

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"whole": {self.a}}


class Encoded(BaseModel):
    data: Base64Bytes


class Numbers(RootModel[list[float]]):
    pass


class Cached(BaseModel):
    x: int = 1

    @cached_property
    def large(self) -> list[int]:
        return [self.x]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    total: Decimal
    tags: set[str]
    z: complex


@pydantic_dataclass
class Row:
    a: int = 1

    @field_serializer("a")
    def write(self, value: int) -> str:
        return f"#{value}"


def cached() -> Cached:
    made = Cached()
    assert made.large == [1]
    return made


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (Item(x=NAN), {"x": "nan", "y": None}),
        ({"m": Item(x=-float("inf")), "n": None}, {"m": {"x": "-inf", "y": None}, "n": None}),
        (Item(y={"a": [None, NAN]}), {"x": 1.0, "y": {"a": [None, "nan"]}}),
        (Holder(item=Special()), {"item": {"x": 1.0, "y": None, "z": "nan"}, "rest": [None]}),
        ([Numbers([NAN]), None], [["nan"], None]),
        ([Computed(x=NAN), None], [{"x": "nan", "half": "nan"}, None]),
        (Open(a=1, b={2}), {"a": 1, "b": [2]}),
        (Aliased(a=5, bee=b"x"), {"written": 5, "bee": "x"}),
        (Hidden(), {"shown": 1}),
        (OwnField(), {"a": "#1", "b": 2026}),
        ([Whole(), None], [{"whole": [1]}, None]),
        (Encoded(data=b"aGVsbG8="), {"data": "aGVsbG8="}),
        (cached(), {"x": 1}),
        (Row(), {"a": "#1"}),
        (Item.model_construct(x="garbage", y={1: NAN}), {"x": "garbage", "y": {"1": "nan"}}),
        (Item.__new__(Item), {}),
        (Computed.__new__(Computed), {"half": "<unserializable: AttributeError>"}),
    ],
    ids=range(17),
)
def test_how_models_are_written(value: Any, shape: Any) -> None:
    losses: list[LossyValue] = []
    for found in (safe_serialize(value, on_lossy=losses.append), safe_loads(safe_dumps(value, on_lossy=losses.append))):
        assert found == shape
    with_nan = safe_serialize({"v": value, "nan": NAN}, on_lossy=losses.append)
    assert with_nan == {"v": shape, "nan": "nan"}, "the careful way says something else"


@pytest.mark.parametrize(
    "value",
    [
        Box[dict[str, Decimal]](content={"a": Decimal("1.50")}),
        Tree(name="a", children=[Tree(name="b", children=[Tree(name="c")])]),
        Owner(pets=[Cat(), Dog()]),
        Open.model_validate({"a": 1, "b": [2]}),
        Aliased(a=5, bee=b"x"),
        Encoded(data=b"aGVsbG8="),
        Numbers([1.5]),
        Strict(at=datetime(2026, 1, 2), total=Decimal("9.90"), tags={"a", "b"}, z=1 - 2j),
        Item(x=2**60, y="t"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_come_back(value: BaseModel) -> None:
    assert safe_loads(safe_dumps(value, strict=True), type(value), strict=True) == value


def test_a_secret_is_not_written() -> None:
    class Login(BaseModel):
        password: SecretStr

    losses: list[LossyValue] = []
    assert safe_serialize(Login(password=SecretStr("hush")), on_lossy=losses.append) == {"password": "*" * 10}
    assert (losses[0].path, "hush" in str(losses)) == ("$.password", False)


# --- one bad part never loses the rest


class BadField(BaseModel):
    a: int = 1
    b: int = 2

    @field_serializer("a")
    def write(self, value: int) -> str:
        raise ZeroDivisionError("no")


class BadWhole(BaseModel):
    a: int = 1

    @model_serializer
    def write(self) -> dict[str, Any]:
        raise ZeroDivisionError("no")


class BadComputed(BaseModel):
    a: int = 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def c(self) -> int:
        raise ZeroDivisionError("no")


@pydantic_dataclass
class BadRow:
    a: int = 1

    @field_serializer("a")
    def write(self, value: int) -> str:
        raise ZeroDivisionError("no")


@pytest.mark.parametrize(
    ("value", "shape", "path"),
    [
        (BadField(), {"a": 1, "b": 2}, "$.v.a"),
        (BadWhole(), {"a": 1}, "$.v"),
        (BadComputed(), {"a": 1, "c": "<unserializable: ZeroDivisionError>"}, "$.v.c"),
        (BadRow(), {"a": 1}, "$.v"),
    ],
)
def test_a_serializer_that_fails_leaves_the_data(value: Any, shape: Any, path: str) -> None:
    losses: list[LossyValue] = []
    assert safe_serialize({"v": value, "w": 1}, on_lossy=losses.append) == {"v": shape, "w": 1}
    assert [(lost.path, "ZeroDivisionError: no" in lost.reason) for lost in losses] == [(path, True)]
    with pytest.raises(TypeError, match=r"\$\.v"):
        safe_dumps({"v": value}, strict=True)


def test_data_that_does_not_fit_a_model_comes_back_as_it_is() -> None:
    data = {"pets": [{"kind": "bird"}]}
    assert safe_deserialize(data, Owner) == data
    with pytest.raises(ValueError, match=r"\$ is dict, not Owner"):
        safe_deserialize(data, Owner, strict=True)
