"""Depth and size: no limit of recursion, and memory in proportion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_lens.serialization import safe_deserialize, safe_dumps, safe_loads, safe_serialize
from flujo_lens.serialization.lossy import path_text

SOAK = bool(os.environ.get("LENS_SOAK"))
DEPTH = 10_000 if SOAK else 3_000


class Node(BaseModel):
    value: int = 0
    next: Any = None


def chain(kind: str, leaf: Any) -> Any:
    value = leaf
    for number in range(DEPTH):
        if kind == "list":
            value = [number, value]
        elif kind == "dict":
            value = {"value": number, "next": value}
        else:
            value = Node.model_construct(value=number, next=value)
    return value


def unwound(value: Any) -> tuple[int, Any]:
    """How deep it goes, and what is there."""
    depth = 0
    while isinstance(value, dict | list):
        value = value["next"] if isinstance(value, dict) else value[1]
        depth += 1
    return depth, value


@pytest.mark.parametrize("kind", ["list", "dict", "model"])
@pytest.mark.parametrize("leaf", ["leaf", None, float("nan"), 2**80])
def test_a_long_chain_both_ways(kind: str, leaf: Any) -> None:
    value = chain(kind, leaf)
    plain = leaf if leaf is None or isinstance(leaf, str) else str(leaf)
    assert unwound(safe_serialize(value)) == (DEPTH, plain)
    assert unwound(safe_loads(safe_dumps(value))) == (DEPTH, plain)
    assert unwound(safe_loads(safe_dumps(value, sort_keys=True))) == (DEPTH, plain)


def test_the_path_of_a_deep_value_is_shortened() -> None:
    path = path_text(range(1000))
    assert path.startswith("$[0][1]")
    assert path.endswith("[998][999]")
    assert " (960 more) " in path


def test_a_chain_too_long_for_a_type_comes_back_as_it_is() -> None:
    class Link(BaseModel):
        value: int
        next: Link | None = None

    plain = safe_serialize(chain("dict", None))
    assert safe_deserialize(plain, Link) is plain
    with pytest.raises(ValueError, match=r"too deeply for .*Link"):
        safe_deserialize(plain, Link, strict=True)


def test_a_default_is_asked_at_any_depth() -> None:
    value = chain("list", {1})
    leaf = safe_deserialize(value, default_deserializer=lambda _: "asked")
    assert unwound(leaf) == (DEPTH, "asked")
    assert unwound(value) == (DEPTH, {1})


def test_a_key_too_deep_to_be_a_text() -> None:
    key: Any = ()
    for _ in range(5_000):
        key = (key,)
    ((name, value),) = safe_serialize({key: 1}).items()
    assert value == 1
    assert name in ("<unserializable: tuple>", "[" * 5_001 + "]" * 5_001)  # as deep as this Python's `str` goes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12345678901234567890123", 12345678901234567890123),
        ("[-9223372036854775809]", [-9223372036854775809]),
        ("[18446744073709551616, 0.1234567890123456789]", [2**64, 0.1234567890123456789]),
        ('{"1234567890123456789012": "é"}', {"1234567890123456789012": "é"}),
        ("9" * 10_000, "9" * 10_000),
        ("[" * 3_000 + "9" * 30 + "]" * 3_000, None),
        ("[NaN, -Infinity]", None),
    ],
    ids=range(7),
)
def test_integers_are_read_with_all_their_digits(text: str, value: Any) -> None:
    for given in (text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        found = safe_loads(given)
        if value is not None:
            assert (found, type(found)) == (value, type(value))
    if text.startswith("[["):
        while isinstance(found, list):
            (found,) = found
        assert found == int("9" * 30)


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "nul", '{"a":}', "[1 2]", b"\xff", b'["\xff"]', "[" * 5_000, "1" * 20 + "x"]
)
def test_what_is_no_json_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what a reader of JSON raises
        safe_loads(text)


MEMORY = """
import resource, sys
from flujo_lens.serialization import safe_dumps
size = int(sys.argv[1])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
item = {"name": "x", "ok": True, "note": None, "score": 0.5}
context = {"rows": [{**item, "text": f"{n:09d}" * 100} for n in range(size // 960)], "none": None}
data = safe_dumps(context)
print(len(data), peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux alone")
def test_the_peak_is_less_than_three_times_the_size() -> None:
    """The context itself is counted as well."""
    wanted = (200 if SOAK else 20) * 10**6
    done = subprocess.run([sys.executable, "-c", MEMORY, str(wanted)], capture_output=True, text=True, check=True)
    size, grown = json.loads(f"[{done.stdout.replace(' ', ',')}]")
    assert size > 0.95 * wanted
    assert grown < 3 * size
