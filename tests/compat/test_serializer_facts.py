"""Facts about the library's serializer that we share: which shape each value has in a store.

Where its versions differ, ours is the newest's (0.4.35 left base64 of bytes, and marks of Decimal and UUID).
Not shared: an unknown object as the whole value is an error there, here it is with ``strict=True`` alone; a
named type is made by `safe_deserialize` (there only if it was registered).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import flujo_lens.utils as utils
from flujo_lens.utils import (
    lookup_custom_deserializer,
    lookup_custom_serializer,
    register_custom_deserializer,
    register_custom_serializer,
    reset_custom_serializer_registry,
    safe_deserialize,
    safe_dumps,
    safe_serialize,
    scoped_registry,
)

ONE = UUID(int=1)
Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = "red"
    BOTH = ("red", ONE)


class Level(IntEnum):
    HIGH = 3


class Word(str, Enum):  # noqa: UP042 - as older code has it
    YES = "yes"


@dataclasses.dataclass
class Row:
    number: int
    tags: set[int]


class Order(BaseModel):
    number: int
    total: Decimal = Decimal("9.90")
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    due: date | None = None
    inner: dict[str, Any] = {}


class Plain:
    """Nobody knows how to write it."""


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


class Coin(Money):
    pass


def work() -> None:
    """A step's function, as people leave it in a context."""


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with scoped_registry(empty=True):
        yield


SHAPES = [
    (None, None),
    (True, True),
    (2**60, 2**60),
    (0.1, 0.1),
    ("", ""),
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (float("-inf"), "-inf"),
    (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T03:04:05.000006+02:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(1, 2), "01:02:00"),
    ("é".encode(), "é"),
    (b"\xff\x00", "\ufffd\x00"),
    (bytearray(b"ab"), "ab"),
    (memoryview(b"ab"), "ab"),
    (1 - 2j, {"real": 1.0, "imag": -2.0}),
    (Decimal("1.50"), "1.50"),
    (ONE, str(ONE)),
    (Colour.RED, "red"),
    (Colour.BOTH, ["red", str(ONE)]),
    (Level.HIGH, 3),
    (Word.YES, "yes"),
    ((1, (2,)), [1, [2]]),
    (Point(1, 2), [1, 2]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"a"}), ["a"]),
    (Row(1, {2}), {"number": 1, "tags": [2]}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (defaultdict(int, a=1), {"a": 1}),
    (Counter("aab"), {"a": 2, "b": 1}),
    ([None, {"a": [{}]}], [None, {"a": [{}]}]),
]
NAMED = [(work, "work"), (lambda: 0, "<lambda>"), (Plain, "Plain"), (len, "len"), ("".upper, "upper")]


@pytest.mark.parametrize(("value", "shape"), [*SHAPES, *NAMED], ids=[type(v).__name__ for v, _ in (*SHAPES, *NAMED)])
def test_the_shape_of_a_value(value: Any, shape: Any) -> None:
    """Alone, inside of containers, and as text the same; and plain: no subclass is left."""
    for found in (safe_serialize(value), safe_serialize({"v": [value]})["v"][0], json.loads(safe_dumps(value))):
        assert (found, type(found)) == (shape, type(shape))


def test_a_model_is_an_object_of_plain_data() -> None:
    found = safe_serialize(Order(number=1, inner={"rows": [Row(2, {3})], "at": date(2026, 1, 2), "c": Colour.RED}))
    at = found.pop("at")
    assert datetime.fromisoformat(at) == datetime(2026, 1, 2, tzinfo=UTC)
    inner = {"rows": [{"number": 2, "tags": [3]}], "at": "2026-01-02", "c": "red"}
    assert found == {"number": 1, "total": "9.90", "due": None, "inner": inner}


@pytest.mark.parametrize("value", [Plain(), object(), ValueError("boom"), (n for n in "ab")])
def test_what_nobody_knows_costs_itself_alone(value: Any) -> None:
    found = safe_serialize({"before": [1], "lost": value, "after": {"a": None}})
    lost = found.pop("lost")
    assert found == {"before": [1], "after": {"a": None}}
    assert type(value).__name__ in json.dumps(lost)


def test_an_unknown_value_is_marked_by_its_class() -> None:
    assert safe_serialize([Plain()]) == ["<unserializable: Plain>"]


def test_strict_refuses_it() -> None:
    with pytest.raises(TypeError, match="Plain"):
        safe_serialize({"deep": [Plain()]}, strict=True)


def test_keys_are_text() -> None:
    keys = {1: "a", None: "b", (1, "x"): "c", 1.5: "d", date(2026, 1, 2): "e", Colour.RED: "f", ONE: "g"}
    texts = ["1", "None", "[1, 'x']", "1.5", "2026-01-02", "red", str(ONE)]
    assert safe_serialize(keys) == dict(zip(texts, "abcdefg", strict=True))
    assert safe_serialize({True: "t", "False": "f"}) == {"True": "t", "False": "f"}


def test_of_keys_with_one_text_the_last_counts() -> None:
    assert safe_serialize({1: "number", "1": "text"}) == {"1": "text"}


def test_a_cycle_is_cut_where_it_closes() -> None:
    tree: dict[str, Any] = {"name": "root"}
    tree["children"] = [{"parent": tree}]
    for _ in range(2):
        assert safe_serialize(tree) == {"name": "root", "children": [{"parent": "<circular-ref>"}]}
    assert list(tree) == ["name", "children"]


def test_the_same_object_twice_is_no_cycle() -> None:
    row, order = [1], Order(number=1)
    assert safe_serialize({"a": row, "b": [row, row]}) == {"a": [1], "b": [[1], [1]]}
    first, second = safe_serialize([order, order])
    assert first == second
    assert first["number"] == 1


def test_a_model_that_contains_itself() -> None:
    class Node(BaseModel):
        name: str
        links: list[Any] = []

    node = Node(name="n")
    node.links.append(node)
    found = safe_serialize({"node": node})
    assert found["node"]["name"] == "n"
    assert "circular" in json.dumps(found["node"]["links"])


def test_depth_is_no_error() -> None:
    value: Any = "leaf"
    for _ in range(3_000):
        value = {"next": [value]}
    found = safe_serialize(value)
    for _ in range(50):
        found = found["next"][0]
    assert safe_dumps(value).startswith(b'{"next":[{"next":[')


# --- serializers of the application


def test_a_registered_serializer_comes_first() -> None:
    register_custom_serializer(int, lambda number: f"number {number}")
    register_custom_serializer(datetime, lambda when: when.year)
    assert safe_serialize({"n": 7, "at": datetime(2026, 1, 2)}) == {"n": "number 7", "at": 2026}


def test_it_serves_subclasses_and_its_result_is_serialized() -> None:
    register_custom_serializer(Money, lambda money: {"amount": Decimal(money.amount), "parts": {1}})
    assert safe_serialize([Coin(5)]) == [{"amount": "5", "parts": [1]}]
    register_custom_serializer(Coin, lambda coin: f"coin {coin.amount}")
    assert safe_serialize([Coin(5), Money(6)]) == ["coin 5", {"amount": "6", "parts": [1]}]


def test_the_last_registration_counts() -> None:
    for word in ("first", "second"):
        register_custom_serializer(Money, lambda _, word=word: word)
    assert safe_serialize(Money(1)) == "second"


def test_serializers_are_found_and_forgotten() -> None:
    def write(money: Money) -> int:
        return money.amount

    register_custom_serializer(Money, write)
    register_custom_deserializer(Money, Money)
    assert (lookup_custom_serializer(Coin(1)), lookup_custom_deserializer(Money)) == (write, Money)
    assert (lookup_custom_serializer("text"), lookup_custom_deserializer(str)) == (None, None)
    reset_custom_serializer_registry()
    assert (lookup_custom_serializer(Money(1)), lookup_custom_deserializer(Money)) == (None, None)


def test_the_default_is_asked_for_the_unknown_alone() -> None:
    asked: list[Any] = []

    def default(value: Any) -> Any:
        asked.append(type(value).__name__)
        return {"of": type(value).__name__}

    register_custom_serializer(Money, lambda money: money.amount)
    values = ["text", 1, {2}, Order(number=1), Money(3), Plain()]
    assert safe_serialize(values, default_serializer=default)[-2:] == [3, {"of": "Plain"}]
    assert set(asked) == {"Plain"}


def test_parameters_have_the_librarys_names() -> None:
    """People give them by name."""
    for function, names in (
        (safe_serialize, ["obj", "default_serializer"]),
        (safe_deserialize, ["serialized_data", "target_type", "default_deserializer"]),
        (register_custom_serializer, ["obj_type", "serializer_func"]),
        (register_custom_deserializer, ["obj_type", "deserializer_func"]),
    ):
        assert list(inspect.signature(function).parameters)[: len(names)] == names
        assert getattr(utils, function.__name__) is function


# --- and back


@pytest.mark.parametrize(
    "data", ["hello", "nan", "2026-01-02T03:04:05", 42, 3.5, True, None, [1, ["x"]], {"a": {"b": []}}]
)
def test_plain_data_comes_back_as_it_is(data: Any) -> None:
    """No text becomes a number or a time by itself."""
    found = safe_deserialize(data)
    assert (found, type(found)) == (data, type(data))


def test_a_registered_type_comes_back() -> None:
    register_custom_serializer(Money, lambda money: {"amount": money.amount})
    register_custom_deserializer(Money, lambda data: Money(data["amount"]))
    found = safe_deserialize(safe_serialize(Money(42)), Money)
    assert (type(found), found.amount) == (Money, 42)


def test_what_does_not_fit_comes_back_as_it_is() -> None:
    register_custom_deserializer(Money, lambda data: Money(data["amount"]))
    assert safe_deserialize({"sum": 1}, target_type=Money) == {"sum": 1}
    assert safe_deserialize({"number": "many"}, Order) == {"number": "many"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_data_is_kept(data: Any) -> None:
    assert safe_serialize(data) == data
    assert safe_deserialize(safe_serialize(data)) == data
    assert json.loads(safe_dumps(data)) == data
