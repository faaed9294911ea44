"""Serializers of the application: precedence, mischief, threads."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import math
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ForwardRef, Literal, NewType, Optional, TypeVar

import pytest

from flujo_lens.serialization import (
    LossyValue,
    lookup_custom_deserializer,
    lookup_custom_serializer,
    register_custom_deserializer,
    register_custom_serializer,
    safe_deserialize,
    safe_dumps,
    safe_loads,
    safe_serialize,
    scoped_registry,
)


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


class Coin(Money):
    pass


class Colour(enum.Enum):
    RED = 1


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with scoped_registry(empty=True):
        yield


def lost(value: Any, **options: Any) -> tuple[Any, list[LossyValue]]:
    """What is written of a value, and what is lost."""
    found: list[LossyValue] = []
    return safe_serialize(value, on_lossy=found.append, **options), found


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(str, "t"), (int, 1), (float, 1.5), (bool, True), (dict, {"a": []}), (list, [1]), (tuple, (1,))],
        *[(Colour, Colour.RED), (datetime, datetime(2026, 1, 2)), (date, date(2026, 1, 2)), (type(None), None)],
        (object, "anything"),
    ],
)
def test_a_serializer_may_stand_for_any_type(kind: type, value: Any) -> None:
    register_custom_serializer(kind, lambda _: "mine")
    assert safe_serialize([value]) in (["mine"], "mine")
    assert safe_loads(safe_dumps(value)) == "mine"


def test_one_that_fails_costs_its_own_value() -> None:
    register_custom_serializer(Money, lambda money: 1 // money.amount)
    found, losses = lost({"a": Money(0), "b": Money(1)})
    assert found == {"a": "<unserializable: Money>", "b": 1}
    assert "ZeroDivisionError" in str(losses[0])
    assert losses[0].path == "$.a"


@pytest.mark.parametrize(
    "serializer",
    [lambda money: money, lambda money: [money], lambda money: {"deep": [{"er": money}]}],
    ids=["itself", "in a list", "deeper"],
)
def test_one_that_returns_its_value_is_not_asked_again(serializer: Any) -> None:
    register_custom_serializer(Money, serializer)
    found, losses = lost([Money(1), 2])
    assert found[1] == 2
    assert "<unserializable: Money>" in str(found[0])
    assert [item.reason for item in losses] == ["its serializer returns it unchanged, and there is no built-in form"]
    assert safe_serialize([Money(1)], lambda money: money.amount) == safe_serialize([serializer(1)])


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


class Stamp(datetime):
    pass


AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
TEXT = "2026-01-02T03:04:05.000006+00:00"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        *[(AT, TEXT), (AT.date(), "2026-01-02"), (AT.time(), "03:04:05.000006"), (Decimal("1.50"), "1.50")],
        *[(1, 1), (1.5, 1.5), (True, True), (None, None), ("t", "t"), (b"t", "t"), (1j, {"real": 0.0, "imag": 1.0})],
        *[({"a": [1]}, {"a": [1]}), ([1, [2]], [1, [2]]), ((1, 2), [1, 2]), ({1}, [1]), (range(2), [0, 1])],
        *[(Colour.RED, 1), (Point(1, AT), {"x": 1, "y": TEXT})],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("of", [lambda value: type(value), lambda value: object], ids=["its class", "object"])
def test_one_that_returns_its_value_leaves_the_built_in_form(value: Any, plain: Any, of: Any) -> None:
    register_custom_serializer(of(value), lambda same: same)
    assert lost({"a": value, "all": [value, {"deep": value}]}) == ({"a": plain, "all": [plain, {"deep": plain}]}, [])
    assert safe_loads(safe_dumps([value])) == [plain]


@pytest.mark.parametrize(
    ("serializer", "wanted"),
    [
        (lambda at: at.replace(microsecond=at.microsecond), TEXT),
        (lambda at: at.replace(microsecond=0), "2026-01-02T03:04:05+00:00"),
        (lambda at: at + timedelta(hours=1), "2026-01-02T04:04:05.000006+00:00"),
        (lambda at: Stamp(at.year, at.month, at.day), "2026-01-02T00:00:00"),
        (lambda at: {"$date": at}, {"$date": TEXT}),
        (lambda at: {"$date": [at.replace(microsecond=0)]}, {"$date": ["2026-01-02T03:04:05+00:00"]}),
        (lambda at: Point(at), {"x": TEXT, "y": None}),
        (datetime.timestamp, AT.timestamp()),
    ],
    ids=["equal", "other", "shifted", "subclass", "in an object", "another in it", "in a dataclass", "number"],
)
def test_a_serializer_is_asked_once_for_a_value(serializer: Any, wanted: Any) -> None:
    register_custom_serializer(datetime, serializer)
    assert lost({"at": AT, "all": [AT]}) == ({"at": wanted, "all": [wanted]}, [])
    assert safe_serialize({AT: 1, "huge": 2**70}) == {str(wanted): 1, "huge": str(2**70)}


def test_two_serializers_that_return_each_others_values() -> None:
    register_custom_serializer(datetime, Point)
    register_custom_serializer(Point, lambda point: point.x)
    assert lost([AT, Point(AT), Point(7)]) == ([TEXT, {"x": TEXT, "y": None}, 7], [])


def test_a_serializer_serves_the_parts_of_what_it_returned() -> None:
    register_custom_serializer(Money, lambda money: {"in": money.amount})
    assert lost([Money([Money([]), Money([Money(1)])])]) == ([{"in": [{"in": []}, {"in": [{"in": 1}]}]}], [])
    register_custom_serializer(Money, lambda money: money.amount)
    assert safe_serialize(Money(Money(Money("end")))) == "end"


def test_a_circle_is_found_behind_a_serializer() -> None:
    register_custom_serializer(Point, lambda point: point)
    point = Point(1)
    point.y = [point]
    found, losses = lost({"at": point})
    assert found == {"at": {"x": 1, "y": ["<circular-ref>"]}}
    assert [(item.path, item.reason) for item in losses] == [("$.at.y[0]", "it contains itself")]


class _Ended(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), _Ended("no"), asyncio.CancelledError(), GeneratorExit()])
def test_one_that_would_end_the_program_costs_its_own_value(error: BaseException) -> None:
    def serialize(money: Money) -> Any:
        raise error

    register_custom_serializer(Money, serialize)
    found, losses = lost({"a": Money(1), "b": 2})
    assert found == {"a": "<unserializable: Money>", "b": 2}
    assert type(error).__name__ in losses[0].reason


def _random_serializers(dice: random.Random) -> None:
    """Some that wrap, convert, return what they got, fail; of types with parts and without."""
    for kind, functions in {
        Money: [lambda m: m.amount, lambda m: {"m": m.amount}, lambda m: [m.amount] * 2, lambda m: m],
        Coin: [lambda c: {"coin": c.amount}, lambda c: Money(c.amount)],
        datetime: [lambda at: at, lambda at: {"$": at}, datetime.timestamp, lambda at: at.replace(microsecond=0)],
        date: [lambda day: day, lambda day: {"day": day}],
        Decimal: [lambda number: number, float, lambda number: number + 1, lambda number: 1 // 0],
        Point: [lambda point: point, lambda point: {"x": point.x}, dataclasses.replace],
    }.items():
        if dice.random() < 0.5:
            register_custom_serializer(kind, dice.choice(functions))


def _random_value(dice: random.Random, depth: int) -> Any:
    leaves = [1, 1.5, None, True, "t\x00\x01", "é", AT, AT.date(), Decimal("1.5"), math.nan]
    if depth == 0 or dice.random() < 0.3:
        return dice.choice(leaves)
    parts = [_random_value(dice, depth - 1) for _ in range(3)]
    made = [parts, dict(zip("abc", parts, strict=True)), Money(parts[0]), Coin(parts[0]), Point(*parts[:2])]
    return dice.choice(made)


def test_both_ways_of_writing_give_the_same() -> None:
    """Documents with registered types are written by orjson where that can be done; else value by value."""
    dice, quick = random.Random(9), 0
    for _ in range(1000):
        with scoped_registry(empty=True) as registry:
            _random_serializers(dice)
            value = [_random_value(dice, 3), _random_value(dice, 3)]
            found, losses = lost([value, 2**70])
            assert safe_loads(safe_dumps([value, 1], on_lossy=lambda _: None))[0] == found[0]
            quick += bool(registry.quick_encoders) and not losses
    assert quick > 100


def test_one_that_changes_what_is_being_written() -> None:
    """orjson crashes the process if that happens while it is at work; so this one runs in a process of its own."""
    code = """
from flujo_lens.serialization import safe_dumps, register_custom_serializer
class X: pass
for container in ([X() for _ in range(50)], {str(n): X() for n in range(50)}):
    def clear(value):
        container.clear()
        return 1
    assert len(safe_dumps([container], clear)) > 50
    container = [X() for _ in range(50)]
    register_custom_serializer(X, clear)
    assert len(safe_dumps([container])) > 50
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nan_from_a_serializer_is_no_null() -> None:
    register_custom_serializer(Money, lambda _: [float("nan"), None])
    assert safe_serialize([Money(1), None]) == [["nan", None], None]
    assert safe_serialize([object(), None], lambda _: float("inf")) == ["inf", None]


def test_the_nearest_class_counts_both_ways() -> None:
    register_custom_serializer(Money, lambda money: {"amount": money.amount})
    register_custom_deserializer(Money, lambda data: Money(data["amount"]))
    register_custom_deserializer(Coin, lambda data: Coin(data["amount"] + 1))
    assert safe_serialize(Coin(1)) == {"amount": 1}
    found = safe_deserialize({"a": [{"amount": 1}]}, dict[str, list[Coin]])["a"][0]
    assert (type(found), found.amount) == (Coin, 2)


def test_what_was_remembered_is_forgotten_when_something_is_registered() -> None:
    assert lost(Money(1))[0] == "<unserializable: Money>"
    register_custom_serializer(Money, lambda money: money.amount)
    assert safe_serialize(Money(1)) == 1


def test_a_scope_ends() -> None:
    register_custom_serializer(Money, lambda _: "outer")
    with scoped_registry():
        assert safe_serialize(Money(1)) == "outer"
        register_custom_serializer(Money, lambda _: "inner")
        assert safe_serialize(Money(1)) == "inner"
    assert safe_serialize(Money(1)) == "outer"


@pytest.mark.parametrize(("kind", "function"), [("Money", str), (Money, "str"), (Money(1), str)])
def test_only_functions_for_classes(kind: Any, function: Any) -> None:
    for register in (register_custom_serializer, register_custom_deserializer):
        with pytest.raises(TypeError):
            register(kind, function)


def test_classes_that_come_and_go_are_not_all_remembered() -> None:
    with scoped_registry(empty=True) as registry:
        for number in range(5_000):
            kind = type(f"Made{number}", (Money,), {})
            lost(kind(1))
        assert len(registry.encoders) <= 4096


def test_threads_register_while_others_write() -> None:
    """A reader sees the old serializer or the new one; once all are registered, the last."""
    classes = [type(f"Kind{number}", (), {}) for number in range(50)]
    wrong: list[Any] = []
    with scoped_registry(empty=True) as registry:
        done = threading.Event()

        def write() -> None:
            from flujo_lens.serialization.walker import walk

            while not done.is_set():
                for number, kind in enumerate(classes):
                    found = walk([kind()], registry, None, lambda _: None)
                    if found not in ([number], [f"<unserializable: {kind.__name__}>"]):
                        wrong.append(found)

        writers = [threading.Thread(target=write) for _ in range(3)]
        for thread in writers:
            thread.start()
        for number, kind in enumerate(classes):
            registry.register_serializer(kind, lambda _, number=number: number)
        done.set()
        for thread in writers:
            thread.join()
        assert wrong == []
        assert safe_serialize([kind() for kind in classes]) == list(range(50))


# --- look-ups


@pytest.mark.parametrize(
    "kind",
    [
        *[None, Optional[int], Optional[Money], int | None, list[int], dict[str, Money], Annotated[Money, 1]],  # noqa: UP045
        *[Literal[1], NewType("Price", Money), TypeVar("T"), ForwardRef("Money"), Any, ..., "Money", 7, [Money], {}],
    ],
    ids=str,
)
def test_what_is_no_class_has_no_deserializer(kind: Any) -> None:
    register_custom_deserializer(object, lambda data: data)
    assert lookup_custom_deserializer(kind) is None


def test_look_ups() -> None:
    assert (lookup_custom_serializer(Money(1)), lookup_custom_deserializer(Coin)) == (None, None)
    register_custom_serializer(Money, vars)
    register_custom_deserializer(Money, Money)
    assert (lookup_custom_serializer(Coin(1)), lookup_custom_deserializer(Coin)) == (vars, Money)


# --- what can be called


class Called:
    def __call__(self) -> None: ...


def function() -> None: ...


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *[(function, "function"), (Called(), "Called"), (Called().__call__, "__call__"), (Called, "Called")],
        *[(lambda: None, "<lambda>"), (len, "len"), ([].append, "append"), (str.upper, "upper"), (int, "int")],
        *[(functools.partial(function), "function"), (functools.partial(Called()), "Called")],
        *[(functools.partial(functools.partial(len, []), 1), "len"), (functools.lru_cache(function), "function")],
        (staticmethod(function), "function"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_of_what_can_be_called_the_name_is_kept(value: Any, name: str) -> None:
    found, losses = lost({"f": [value]})
    assert (found, losses[0].path) == ({"f": [name]}, "$.f[0]")
    register_custom_serializer(type(value), lambda _: "mine")
    assert safe_serialize([value]) == ["mine"]


def test_an_object_that_can_be_called_is_asked_of_the_default_first() -> None:
    assert safe_serialize([Called()], lambda called: "from the default") == ["from the default"]

    def refuses(value: object) -> Any:
        raise TypeError

    assert lost([Called()], default_serializer=refuses)[0] == ["Called"]
