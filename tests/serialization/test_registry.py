"""Serializers of the application: precedence, mischief, threads."""

from __future__ import annotations

import enum
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pytest

from flujo_lens.serialization import (
    LossyValue,
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
def test_one_that_returns_its_value_is_cut(serializer: Any) -> None:
    register_custom_serializer(Money, serializer)
    found, losses = lost([Money(1), 2])
    assert found[1] == 2
    assert "<circular-ref>" in str(found[0])
    assert [item.reason for item in losses] == ["it contains itself"]


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
