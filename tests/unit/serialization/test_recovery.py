"""One bad value never loses the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from flujo_lens.serialization import LossyValue, safe_dumps, safe_loads, safe_serialize, scoped_registry


class Torn(Mapping[str, int]):
    """Says that it has a key that it cannot give."""

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Broken(Sequence[int]):
    """Cannot be gone through."""

    def __getitem__(self, at: Any) -> Any:
        raise RuntimeError("broken \ud800")

    def __len__(self) -> int:
        return 1


class Mute(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@dataclass
class Half:
    x: int
    y: Any


def half() -> Half:
    made = Half(1, 2)
    del made.y
    return made


def released() -> memoryview:
    view = memoryview(b"ab")
    view.release()
    return view


def cyclic() -> list[Any]:
    made: list[Any] = [1]
    made.append({"again": made})
    return made


BAD: list[tuple[Any, Any]] = [
    (Torn(), "<unserializable: Torn>"),
    (Broken(), "<unserializable: Broken>"),
    (Mute(), {"type": "Mute", "message": ""}),
    (OSError(2, "gone"), {"type": "FileNotFoundError", "message": "[Errno 2] gone"}),
    (released(), "<unserializable: memoryview>"),
    (cyclic(), [1, {"again": "<circular-ref>"}]),
    (b"a\xff", "a\ufffd"),
    ("a\udc80", "a\ufffd"),
    (math, "<unserializable: module>"),
    (iter([1]), "<unserializable: list_iterator>"),
    (..., "<unserializable: ellipsis>"),
    (math.sqrt, "sqrt"),
]


@pytest.mark.parametrize(("bad", "mark"), BAD, ids=[type(bad).__name__ for bad, _ in BAD])
def test_the_rest_is_kept_and_the_loss_reported(bad: Any, mark: Any) -> None:
    value = {"before": {1, 2}, "in": {"deep": [None, bad]}, "after": b"kept"}
    wanted = {"before": [1, 2], "in": {"deep": [None, mark]}, "after": "kept"}
    losses: list[LossyValue] = []
    assert safe_serialize(value, on_lossy=losses.append) == wanted
    assert safe_loads(safe_dumps(value, on_lossy=losses.append)) == wanted
    assert len(losses) == 2
    assert losses[0].path.startswith("$.in.deep[1]")
    with pytest.raises(TypeError, match=r"\$\.in\.deep\[1\]"):
        safe_serialize(value, strict=True)


def test_parts_that_are_not_there_are_left_out() -> None:
    assert safe_serialize([half(), None]) == [{"x": 1}, None]


def test_all_bad_values_at_once() -> None:
    losses: list[LossyValue] = []
    plain = safe_serialize({str(at): bad for at, (bad, _) in enumerate(BAD)}, on_lossy=losses.append)
    assert plain == {str(at): mark for at, (_, mark) in enumerate(BAD)}
    assert len(losses) == len(BAD)


def test_a_default_that_fails() -> None:
    def picky(value: Any) -> Any:
        raise LookupError("not today")

    losses: list[LossyValue] = []
    found = safe_serialize([math, 1], picky, on_lossy=losses.append)
    assert found == ["<unserializable: module>", 1]
    assert "LookupError: not today" in losses[0].reason


def test_a_value_that_a_serializer_grows() -> None:
    """What was there when the container was reached is written."""
    value: dict[str, Any] = {"a": math, "b": math}

    def grow(_: Any) -> int:
        value[str(len(value))] = 1
        return 0

    with scoped_registry(empty=True) as registry:
        registry.register_serializer(type(math), grow)
        assert safe_serialize(value) == {"a": 0, "b": 0}
    assert len(value) == 4


def test_an_interrupt_is_no_bad_value() -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        safe_serialize([math], interrupted)
