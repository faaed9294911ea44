"""From JSON back to types: each annotation that people write."""

from __future__ import annotations

import enum
import re
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import pytest

from flujo_lens.serialization import safe_deserialize, safe_dumps, safe_loads, safe_serialize

T = TypeVar("T")
Limited = TypeVar("Limited", int, date)
Day = NewType("Day", date)


class Colour(enum.Enum):
    RED = "red"
    PAIR = ("a", 1)


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    at: date = date(2026, 1, 2)


class Options(TypedDict):
    at: datetime
    more: NotRequired[Decimal]


@dataclass
class Pair(Generic[T]):
    first: T
    rest: list[T] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    x: int
    twice: int = field(init=False, default=0)


@attrs.define
class Attrs:
    _hidden: date
    number: int = attrs.field(default=0, alias="count")


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (datetime(2026, 1, 2, tzinfo=UTC), datetime),
    (date(2026, 1, 2), date),
    (time(1, 2, 3, 4), time),
    (timedelta(days=-3, seconds=2, microseconds=7), timedelta),
    (Decimal("1.50"), Decimal),
    (UUID(int=5), UUID),
    (Path("a/b"), Path),
    (Fraction(1, 3), Fraction),
    (1 - 2j, complex),
    (b"text", bytes),
    (bytearray(b"ab"), bytearray),
    (memoryview(b"ab"), memoryview),
    (float("inf"), float),
    (2**100, int),
    (10**10_000, int),
    (-(10**10_000), int),
    (ip_address("10.0.0.1"), IPv4Address),
    (re.compile("a+"), re.Pattern),
    ((1, "a"), tuple),
    ((1, date(2026, 1, 2)), tuple[int, date]),
    ((date(2026, 1, 2),) * 3, tuple[date, ...]),
    ({1, 2}, set[int]),
    (frozenset({date(2026, 1, 2)}), frozenset[date]),
    (deque([b"a"]), deque[bytes]),
    ([date(2026, 1, 2)], Sequence[date]),
    ({"a": date(2026, 1, 2)}, Mapping[str, date]),
    (defaultdict(list, a=[b"x"]), defaultdict[str, list[bytes]]),
    (OrderedDict(a=b"x"), OrderedDict[str, bytes]),
    (Counter("aab"), Counter[str]),
    ({1: "a", -2: "b"}, dict[int, str]),
    ({None: 1, True: 2}, dict[bool | None, int]),
    ({(1, "x"): 1}, dict[tuple[int, str], int]),
    ({frozenset({1}): 1}, dict[frozenset[int], int]),
    ({Level.HIGH: 1}, dict[Level, int]),
    ({Colour.RED: 1, Colour.PAIR: 2}, dict[Colour, int]),
    ({1.5: date(2026, 1, 2)}, dict[float, date]),
    ([1], typing.List),  # noqa: UP006
    ({"a": 1}, typing.Dict),  # noqa: UP006
    ((1,), typing.Tuple),  # noqa: UP006
    (Colour.PAIR, Colour),
    (Level.HIGH, Level),
    (Colour.RED, Literal[Colour.RED, "blue"]),
    (Point(1), Point),
    ({"at": datetime(2026, 1, 2), "more": Decimal(1)}, Options),
    (Pair(date(2026, 1, 2), [date(2026, 1, 3)]), Pair[date]),
    (Made(1), Made),
    (Attrs(date(2026, 1, 2), 5), Attrs),
    (date(2026, 1, 2), Day),
    (date(2026, 1, 2), Limited),
    (date(2026, 1, 2), Annotated[date, "a note"]),
    (None, date | None),
    (date(2026, 1, 2), typing.Optional[date]),  # noqa: UP045
]


@pytest.mark.parametrize(("value", "target"), ROUND_TRIPS, ids=[str(at) for at in range(len(ROUND_TRIPS))])
def test_values_come_back(value: Any, target: Any) -> None:
    found = safe_loads(safe_dumps(value, strict=True), target, strict=True)
    assert found == value
    assert safe_deserialize(safe_serialize([value]), list[target], strict=True) == [value]


@pytest.mark.parametrize(
    ("data", "target", "words"),
    [
        ({"a": [{"x": "much"}]}, dict[str, list[Made]], r"\$\.a\[0\]\.x is str, not int"),
        ([1, 2], tuple[int, int, int], r"3 items are required, but there are 2"),
        ({"first": "x"}, Pair[date], r"\$\.first is str, not date"),
        ("green", Colour, r"\$ is str, not Colour"),
        (True, Literal[1], r"\$ is bool, not"),
        ("x" * 9, UUID, r"\$ is str, not UUID"),
        ("1" * 10_000, int, r"\$ is str, not int"),
        ([], type(open), r"no deserializer is known"),
    ],
    ids=range(8),
)
def test_what_does_not_fit(data: Any, target: Any, words: str) -> None:
    if not isinstance(data, dict):
        assert safe_deserialize(data, target) == data
    with pytest.raises(ValueError, match=words):
        safe_deserialize(data, target, strict=True)


def test_one_bad_part_leaves_the_others() -> None:
    assert safe_deserialize({"first": "soon", "rest": ["2026-01-02"]}, Pair[date]) == Pair("soon", [date(2026, 1, 2)])
    found = safe_deserialize({"a": "2026-01-02", "b": "soon"}, dict[str, date])
    assert found == {"a": date(2026, 1, 2), "b": "soon"}


def test_keys_that_are_no_text_already() -> None:
    assert safe_deserialize({1: "2026-01-02"}, dict[int, date]) == {1: date(2026, 1, 2)}


def test_without_a_type_the_default_is_asked_for_what_is_no_json() -> None:
    """As the library has it: never for text, numbers, booleans, None, lists and dicts."""
    data = ["text", 1, 1.5, None, True, {"a": [{2}, datetime(2026, 1, 1)]}, (1,)]
    found = safe_deserialize(data, default_deserializer=lambda value: type(value).__name__)
    assert found == ["text", 1, 1.5, None, True, {"a": ["set", "datetime"]}, "tuple"]
    assert data[-1] == (1,), "the data itself is left alone"


def test_with_a_type_the_default_is_asked_for_classes_nobody_knows() -> None:
    class Money:
        def __init__(self, amount: int) -> None:
            self.amount = amount

    assert safe_deserialize([5], list[Money], Money)[0].amount == 5


def test_nothing_is_imported_by_a_name_in_the_data() -> None:
    data = {"__class__": "os.system", "__reduce__": ["os.system", ["true"]], "py/object": "subprocess.Popen"}
    assert safe_deserialize(data) == data


def test_a_constructor_that_wants_more_is_a_misfit() -> None:
    @dataclass
    class Needs:
        x: int
        seed: InitVar[int]

    assert safe_deserialize({"x": 1}, Needs) == {"x": 1}
    with pytest.raises(ValueError, match="seed"):
        safe_deserialize({"x": 1}, Needs, strict=True)


def test_unions_of_classes_do_not_double_at_each_level() -> None:
    """Each object is built once for a class; otherwise this would take 2**60 steps."""
    calls = 0

    @dataclass
    class Left:
        next: Any
        left: int

        def __post_init__(self) -> None:
            nonlocal calls
            calls += 1

    @dataclass
    class Right(Left):
        right: int = 0

    Left.__annotations__["next"] = Right.__annotations__["next"] = Left | Right | None
    data: Any = None
    for _ in range(60):
        data = {"next": data, "left": "no number"}
    assert safe_deserialize(data, Left | Right) == data
    assert calls == 0
