"""How long `safe_dumps` and `safe_serialize` take, against the barest use of orjson.

python tests/benchmarks/bench_serialization.py [--rounds N] [--calls N]

A round writes the same value on each side in turn; the medians of the rounds' ratios are what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel

from flujo_lens.serialization import register_custom_serializer, safe_dumps, safe_loads, safe_serialize
from flujo_lens.serialization.codec import StateCodec

Call = Callable[[], Any]


class Line(BaseModel):
    """One of many."""

    sku: str
    quantity: int
    price: float
    note: str | None = None


class Order(BaseModel):
    """What holds them."""

    number: int
    at: datetime
    lines: list[Line]
    tags: dict[str, str]


class Context(BaseModel):
    """A context of about 10 kB."""

    step: str
    orders: list[Order]


class Money:
    """A type of the application, which a text is registered for."""

    def __init__(self, amount: int) -> None:
        self.amount = amount


class Point:
    """Another one, which an object is registered for."""

    def __init__(self, x: int, y: float) -> None:
        self.x, self.y = x, y


SERIALIZERS: dict[type, Call] = {
    Money: lambda money: f"{money.amount} EUR",
    Point: lambda point: {"x": point.x, "y": point.y},
}


def registered(nothing: Any, every: int) -> dict[str, Any]:
    """Plain data with values of registered types in every so many of its items; `nothing` where nulls may be."""
    items = [{"sku": f"sku-{n}", "n": n, "note": nothing, "text": "x" * 24} for n in range(300)]
    for n, item in enumerate(items[::every]):
        item |= {"price": Money(n), "place": Point(n, 1.5)}
    return {"current_step": "price", "items": items}


def as_registered(value: Any) -> Any:
    """The hook that does the same."""
    return SERIALIZERS[type(value)](value)


def models() -> Context:
    """Nested models."""
    lines = [Line(sku=f"sku-{n}", quantity=n, price=n * 1.25) for n in range(12)]
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    orders = [Order(number=n, at=at, lines=lines, tags={"customer": "4711", "region": "north"}) for n in range(12)]
    return Context(step="price", orders=orders)


def plain(nothing: Any) -> dict[str, Any]:
    """Plain data; `nothing` stands where nulls may be."""
    items = [{"sku": f"sku-{n}", "n": n, "price": n * 1.25, "note": nothing} for n in range(120)]
    return {"current_step": "price", "items": items, "text": "x" * 500}


def as_dict(value: Any) -> Any:
    """The barest hook: what a model holds."""
    return vars(value)


def as_dump(value: Any) -> Any:
    """The usual hook: a model's own dump."""
    return value.model_dump()


def cases() -> list[tuple[str, Call, Call, float]]:
    """What, ours, the bare one, the limit of the ratio."""
    context, full, nulls = models(), plain(""), plain(None)
    text = orjson.dumps(full).decode()
    for kind, serializer in SERIALIZERS.items():
        register_custom_serializer(kind, serializer)
    many, few, mixed = registered("", 1), registered("", 100), registered(None, 1)
    value = StateCodec().value
    return [
        ("safe_dumps, models: model_dump", lambda: safe_dumps(context), lambda: orjson.dumps(context, as_dump), 1.6),
        ("safe_dumps, models: vars", lambda: safe_dumps(context), lambda: orjson.dumps(context, as_dict), 1.6),
        ("safe_dumps, plain", lambda: safe_dumps(full), lambda: orjson.dumps(full), 2.0),
        ("safe_dumps, plain with nulls", lambda: safe_dumps(nulls), lambda: orjson.dumps(nulls), 6.0),
        ("safe_dumps, registered, many", lambda: safe_dumps(many), lambda: orjson.dumps(many, as_registered), 2.5),
        ("safe_dumps, registered, few", lambda: safe_dumps(few), lambda: orjson.dumps(few, as_registered), 2.5),
        ("safe_dumps, registered, nulls", lambda: safe_dumps(mixed), lambda: orjson.dumps(mixed, as_registered), 3.0),
        ("safe_serialize, models", lambda: safe_serialize(context), lambda: orjson.dumps(context, as_dict), 8.0),
        ("safe_serialize, plain", lambda: safe_serialize(full), lambda: orjson.dumps(full), 18.0),
        ("safe_loads, plain", lambda: safe_loads(text), lambda: orjson.loads(text), 1.5),
        ("StateCodec.value", lambda: value("r", "pipeline_context", text), lambda: orjson.loads(text), 1.5),
    ]


def seconds(call: Call, calls: int) -> float:
    """How long one call takes, over so many."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def compare(one: Call, other: Call, rounds: int, calls: int) -> tuple[float, float, float]:
    """The median ratio, and the median microseconds of each, after one pair that is not counted."""
    times = [(seconds(one, calls), seconds(other, calls)) for _ in range(rounds + 1)][1:]
    ours, bare = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
    return statistics.median(mine / theirs for mine, theirs in times), ours, bare


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure serialization.")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=200)
    given = parser.parse_args()
    print(f"{'what':32} {'ratio':>7} {'limit':>7} {'ours':>9} {'bare':>9}")
    for what, one, other, limit in cases():
        ratio, ours, bare = compare(one, other, given.rounds, given.calls)
        print(
            f"{what:32} {ratio:7.2f} {limit:7.2f} {ours:6.0f} us {bare:6.0f} us{'' if ratio <= limit else '  TOO SLOW'}"
        )


if __name__ == "__main__":
    main()
