"""Values that JSON has no form for: what stands in their place, alike whichever way they are written."""

from __future__ import annotations

import enum
import json
import logging
import re
from collections import UserString, deque
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import attrs
import numpy
import pytest

from flujo_lens.serialization import LossyValue, PlainList, safe_dumps, safe_serialize, scoped_registry
from flujo_lens.serialization.registry import current_registry
from flujo_lens.serialization.walker import walk

NAN, INFINITE = float("nan"), float("inf")


def written(value: Any) -> Any:
    """What is written of a value; `safe_dumps`, `safe_serialize` and the careful way must agree on it."""
    found: list[LossyValue] = []
    first = json.loads(safe_dumps(value, on_lossy=found.append), parse_constant=pytest.fail)
    assert safe_serialize(value, on_lossy=found.append) == first
    assert walk(value, current_registry(), None, found.append) == first
    return first


@attrs.define
class Attrs:
    x: float
    y: Any = None


@dataclass(slots=True)
class Slotted:
    x: float
    y: Any = None


class Odd(enum.Enum):
    NAN = NAN
    PAIR = ("a", INFINITE)


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class FloatLike(float):
    """A subclass."""


class Stubborn(dict[str, int]):
    def __iter__(self) -> Any:
        raise ZeroDivisionError

    def items(self) -> Any:
        raise ZeroDivisionError


class Liar(list[int]):
    def __iter__(self) -> Any:
        return iter("xyz")


SHAPES: list[tuple[Any, Any]] = [
    (Attrs(NAN), {"x": "nan", "y": None}),
    ([{"a": Slotted(INFINITE)}, None], [{"a": {"x": "inf", "y": None}}, None]),
    ([Odd.NAN, Odd.PAIR, None], ["nan", ["a", "inf"], None]),
    ({Odd.PAIR: 1, Permission.READ | Permission.WRITE: 2}, {"['a', 'inf']": 1, "3": 2}),
    ([FloatLike(NAN), FloatLike(1.5), None], ["nan", 1.5, None]),
    (["null", None, NAN], ["null", None, "nan"]),
    ({"null": None}, {"null": None}),
    ({NAN}, ["nan"]),
    (complex(NAN, 1), {"real": "nan", "imag": 1.0}),
    (Decimal("NaN"), "NaN"),
    (Decimal("-Infinity"), "-Infinity"),
    (Stubborn(a=1), {"a": 1}),
    (Liar([1]), [1]),
    (UserString("ab"), "ab"),
    (deque([1, {2}]), [1, [2]]),
    (Fraction(1, 3), "1/3"),
    (ip_address("::1"), "::1"),
    (PurePosixPath("a/b"), "a/b"),
    (SimpleNamespace(a=NAN, b=None), {"a": "nan", "b": None}),
    (re.compile("a+"), "a+"),
    (timedelta(days=-1, microseconds=1), "-PT86399.999999S"),
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1, seconds=7))), "2026-01-01T00:00:00+01:00:07"),
    (datetime(1, 1, 1), "0001-01-01T00:00:00"),
    (time(1, tzinfo=timezone(timedelta(seconds=1))), "01:00:00+00:00:01"),
    (2**64, str(2**64)),
    (-(2**63) - 1, str(-(2**63) - 1)),
    (2**64 - 1, 2**64 - 1),
    ({2**70: 1}, {str(2**70): 1}),
    (10**10_000, hex(10**10_000)),
    (-(10**10_000), hex(-(10**10_000))),
    ({-(10**10_000): NAN}, {hex(-(10**10_000)): "nan"}),
]


@pytest.mark.parametrize(("value", "shape"), SHAPES, ids=[str(at) for at in range(len(SHAPES))])
def test_shapes(value: Any, shape: Any) -> None:
    assert written(value) == shape
    assert written({"v": [value, None]}) == {"v": [shape, None]}


ARRAYS: list[tuple[Any, Any]] = [
    (numpy.float64(NAN), "nan"),
    (numpy.int64(3), 3),
    (numpy.bool_(True), True),
    (numpy.str_("a"), "a"),
    (numpy.longdouble("1.5"), "1.5"),
    (numpy.array([NAN, 1.0]), ["nan", 1.0]),
    (numpy.array([[1], [2]]), [[1], [2]]),
    (numpy.array(5), 5),
    (numpy.array(["2026-01-02", "NaT"], "M8[D]"), ["2026-01-02", "NaT"]),
    (numpy.array([None, {1}], dtype=object), [None, [1]]),
]


@pytest.mark.parametrize(("value", "shape"), ARRAYS, ids=[str(at) for at in range(len(ARRAYS))])
def test_numpy(value: Any, shape: Any) -> None:
    assert written([value, None]) == [shape, None]


def test_shared_values_are_copies() -> None:
    row = [Decimal(1)]
    found = safe_serialize({"a": row, "b": [row, {2**70: row}]})
    found["a"].append("more")
    assert found["b"] == [["1"], {str(2**70): ["1"]}]


# --- values that fight back


class NoClass:
    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError


class Impostor:
    __class__ = str  # type: ignore[assignment]


class Unequal(type):
    def __eq__(cls, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Unhashable(metaclass=Unequal):
    pass


class Closed:
    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class Text(str):
    def isidentifier(self) -> bool:
        raise ZeroDivisionError

    def isascii(self) -> bool:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


class Number(int):
    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __format__(self, spec: str) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [NoClass, Impostor, Unhashable, Closed])
def test_hostile_objects_cost_themselves_alone(kind: type) -> None:
    mark = f"<unserializable: {kind.__name__}>"
    assert written({"a": [kind()], "b": 1}) == {"a": [mark], "b": 1}
    if kind is not Unhashable:
        assert written({kind(): 1}) == {mark: 1}


def test_hostile_subclasses_are_plain_values() -> None:
    found: list[LossyValue] = []
    value = {Text("a"): object(), "b": Text("t"), Number(3): object(), "n": Number(4)}
    plain = safe_serialize(value, on_lossy=found.append)
    assert plain == {"a": "<unserializable: object>", "b": "t", "3": "<unserializable: object>", "n": 4}
    assert {type(item) for item in plain.values()} == {str, int}
    assert [lost.path for lost in found] == ["$.a", "$[Number]"]


def test_a_sequence_that_goes_on_for_ever_is_cut() -> None:
    class Endless:
        """Each is made of another one."""

    with scoped_registry(empty=True) as registry:
        registry.register_serializer(Endless, lambda _: Endless())
        found: list[LossyValue] = []
        assert safe_serialize([Endless(), 1], on_lossy=found.append) == ["<unserializable: Endless>", 1]
    assert "does not terminate" in found[0].reason


# --- the report


def test_the_path_and_the_class_are_reported() -> None:
    found: list[LossyValue] = []
    value = {"steps": [{"a key": {1, b"\xff"}}], "at": {2**90: object()}, 7: len}
    safe_serialize(value, on_lossy=found.append)
    assert {(lost.path.partition("]")[0], lost.type_name) for lost in found} == {
        ("$.steps[0", "bytes"),
        ("$.at[int", "object"),
        ("$[7", "builtin_function_or_method"),
    }


def test_strict_names_the_path() -> None:
    value = {"context": {"clients": [1, object()]}, "more": object()}
    for function in (safe_dumps, safe_serialize):
        with pytest.raises(TypeError, match=r"\$\.context\.clients\[1\] \(object\).*and 1 more"):
            function(value, strict=True)


def test_keys_that_become_one_are_reported() -> None:
    found: list[LossyValue] = []
    assert safe_serialize({1: "a", "1": "b"}, on_lossy=found.append) == {"1": "b"}
    assert [(lost.path, "two keys" in lost.reason) for lost in found] == [("$['1']", True)]


@pytest.mark.parametrize("value", [{"\ud800": 1}, ["\udfff"], {"a": {"\ud800": object()}}, [ValueError("\ud800")]])
def test_half_surrogates_are_replaced_and_the_report_can_be_printed(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[LossyValue] = []
    safe_dumps(value, on_lossy=found.append).decode()
    assert found
    for lost in found:
        assert str(lost).encode().decode().isprintable()
    with caplog.at_level(logging.WARNING, "flujo_lens.serialization"):
        safe_dumps(value)
    assert "could not be serialized: $" in caplog.text
    caplog.text.encode()


def test_a_name_with_half_a_surrogate_is_escaped() -> None:
    def function() -> None: ...

    function.__name__ = "\ud800"
    assert written([function, NAN]) == ["\\ud800", "nan"]


def test_flags_of_a_pattern_are_reported() -> None:
    with pytest.raises(TypeError, match="flags"):
        safe_serialize([re.compile("a", re.IGNORECASE)], strict=True)


@pytest.mark.parametrize("value", [[], [{"feedback": None, "output": [None, "null"]}], [1.5, {"ä": 2**70}, "\ud800"]])
def test_a_plain_list_is_written_as_any_other(value: list[Any]) -> None:
    assert written(PlainList(value)) == written(value)
