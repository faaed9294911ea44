"""Whatever goes in: JSON comes out, both ways say the same, and what is not lossy comes back."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support import examples

from flujo_lens.errors import LensError
from flujo_lens.serialization import LossyValue, safe_deserialize, safe_dumps, safe_loads, safe_serialize
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.serialization.envelope import Envelope, armour, open_sealed
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.serialization.registry import current_registry
from flujo_lens.serialization.walker import walk


def at_its_offset(when: datetime) -> datetime:
    """The same time at a fixed offset: in the fold of a zone's clock Python calls no two times equal."""
    offset = when.utcoffset()
    return when if offset is None else when.replace(tzinfo=timezone(offset))


MUTATIONS = 100_000 if os.environ.get("LENS_SOAK") else 10_000


class Model(BaseModel):
    a: Any = None
    b: Any = 0.5


@dataclass
class Row:
    a: Any
    b: Any = None


class Unknown:
    """Nobody knows how to write it."""


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None)),
    st.binary(max_size=8),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.builds(Unknown),
    st.builds(ValueError, st.text()),
    st.sampled_from([len, int, Path("a/b"), 2**64, -(2**63) - 1, float("nan")]),
)
keys = st.text(st.characters(codec=None)) | st.integers() | st.none() | st.booleans() | st.dates() | st.floats()
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Model, a=inner, b=inner),
        st.builds(Row, inner, inner),
        st.frozensets(st.integers() | st.text(), max_size=4),
    ),
    max_leaves=12,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@given(anything)
@settings(max_examples=examples(400))
def test_json_comes_out_and_both_ways_agree(value: Any) -> None:
    found: list[LossyValue] = []
    data = safe_dumps(value, on_lossy=found.append)
    plain = json.loads(data, parse_constant=refuse)
    assert safe_serialize(value, on_lossy=found.append) == plain
    carefully: list[LossyValue] = []
    assert walk(value, current_registry(), None, carefully.append) == plain
    assert found == carefully * 2, "each loss is reported, by either way"
    "".join(map(str, found)).encode()


@given(anything)
@settings(max_examples=examples(150))
def test_strict_fails_where_something_is_lost(value: Any) -> None:
    found: list[LossyValue] = []
    data = safe_dumps(value, on_lossy=found.append)
    if found:
        with pytest.raises(TypeError):
            safe_dumps(value, strict=True)
    else:
        assert safe_dumps(value, strict=True) == data


typed = st.one_of(
    *(
        st.tuples(strategy, st.just(kind))
        for strategy, kind in (
            (st.integers(), int),
            (st.floats(allow_nan=False), float),
            (st.text(), str),
            (st.text().map(str.encode), bytes),
            (st.complex_numbers(allow_nan=False), complex),
            (st.decimals(allow_nan=False), Decimal),
            (st.fractions(), Fraction),
            (st.uuids(), UUID),
            (st.datetimes(timezones=st.none() | st.timezones()).map(at_its_offset), datetime),
            (st.dates(), date),
            (st.times(), time),
            (st.timedeltas(), timedelta),
            (st.frozensets(st.dates()), frozenset[date]),
            (st.dictionaries(st.integers(), st.timedeltas()), dict[int, timedelta]),
            (st.dictionaries(st.tuples(st.integers(-9, 9), st.text()), st.none()), dict[tuple[int, str], None]),
            (st.lists(st.decimals(allow_nan=False) | st.none()), list[Decimal | None]),
            (st.tuples(st.uuids(), st.floats(allow_nan=False)), tuple[UUID, float]),
        )
    )
)


@given(typed)
@settings(max_examples=examples(400))
def test_what_is_not_lossy_comes_back_equal(pair: tuple[Any, Any]) -> None:
    value, kind = pair
    assert safe_deserialize(safe_serialize(value, strict=True), kind, strict=True) == value


@given(st.recursive(st.integers() | st.floats() | st.text(), st.lists))
def test_what_json_writes_is_read(value: Any) -> None:
    """Also integers of any size, NaN and infinities, as old stores have them."""
    assert repr(safe_loads(json.dumps(value))) == repr(value)


@given(st.binary() | st.text(st.characters(codec=None)))
def test_any_bytes_are_read_or_refused(data: Any) -> None:
    try:
        safe_loads(data)
    except ValueError:
        return


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The data with a byte changed, put in or taken out, or cut off, one to three times."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found) + 1)
        how = chance.randrange(4)
        if how == 0 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            found.insert(at, chance.randrange(256))
        elif how == 2:
            del found[at : at + chance.randint(1, 4)]
        elif chance.random() < 0.2:
            del found[at:]
    return bytes(found)


def test_damaged_blobs_are_refused_or_read() -> None:
    chance = random.Random(20260102)
    ring = KeyRing({"k": bytes(32)})
    plain = safe_dumps({"rows": [{"n": 10**18, "t": "é" * 20, "x": None}] * 40})
    envelopes = [Envelope("zlib", 1), Envelope("zstd", 1), Envelope(keys=ring), Envelope("zstd", 1, ring)]
    blobs = [plain, *(each.seal(plain, "r", "f") for each in envelopes)]
    blobs += [armour(blob).encode() for blob in blobs[1:]]
    codec = StateCodec(envelope=Envelope(keys=ring))
    opened = 0
    for _ in range(MUTATIONS):
        blob = mutated(chance.choice(blobs), chance)
        try:
            safe_loads(open_sealed(blob, "r", "f", ring))
            opened += 1
        except (ValueError, LensError):
            pass
        try:
            codec.value("r", "f", blob)
            codec.opened("r", {"pipeline_context": blob.decode("latin-1")})
        except LensError:
            pass
    assert opened > 0
