"""States on their way into a store and back."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from flujo_lens.errors import CorruptStoreError, InvalidStateError, SealedStateError
from flujo_lens.serialization.codec import SEALED_FIELDS, StateCodec
from flujo_lens.serialization.envelope import TAG, Envelope, armour, is_sealed
from flujo_lens.serialization.keys import KeyRing

RING = KeyRing({"k": bytes(32)})
SEALING = [Envelope("zlib", 1), Envelope("zstd", 1), Envelope(keys=RING), Envelope("zstd", 1, RING)]
STATE = {
    "run_id": "r",
    "pipeline_context": {"text": "é\u2028😀" * 100, "large": 2**60, "none": None},
    "last_step_output": ["x"] * 100,
    "step_history": [],
    "metadata": {"tag": "clear"},
}


@pytest.mark.parametrize("envelope", [None, *SEALING], ids=range(5))
@pytest.mark.parametrize("value", [{"a": [1, None, "é" * 200]}, [], "text", 0, False, "lens1:k2xlbnMBAAA=", 0.5])
def test_a_column_comes_back(envelope: Envelope | None, value: Any) -> None:
    codec = StateCodec(envelope=envelope)
    stored = codec.column("r", "pipeline_context", value)
    assert codec.value("r", "pipeline_context", stored) == value
    assert isinstance(codec.column("r", "metadata", value), str), "what runs are found by stays legible"


def test_none_is_no_column() -> None:
    codec = StateCodec(envelope=SEALING[-1])
    assert codec.column("r", "last_step_output", None) is None
    assert codec.value("r", "last_step_output", None) is None


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        ("not json", "not json"),
        (b"\xff", b"\xff"),
        ("", ""),
        ("[NaN]", None),
        ("12345678901234567890123", 12345678901234567890123),
        ('{"id": 92233720368547758080, "at": "2026-01-02T03:04:05.123456"}', None),
        (7, 7),
        (1.5, 1.5),
        (memoryview(b"1"), memoryview(b"1")),
    ],
    ids=range(9),
)
def test_columns_of_other_writers(stored: Any, value: Any) -> None:
    found = StateCodec().value("r", "f", stored)
    if value is None:
        assert repr(found) == repr(json.loads(stored))
    else:
        assert (found, type(found)) == (value, type(value))


def test_plain_columns_are_read_by_a_codec_that_seals() -> None:
    plain = StateCodec().column("r", "f", {"a": 1})
    for envelope in SEALING:
        assert StateCodec(envelope=envelope).value("r", "f", plain) == {"a": 1}


def test_a_document_is_ascii_with_sorted_keys() -> None:
    data = StateCodec().document("r", STATE)
    assert data.isascii()
    assert json.loads(data) == STATE
    assert list(json.loads(data)) == sorted(STATE)


@pytest.mark.parametrize("envelope", SEALING, ids=range(4))
def test_large_fields_of_a_document_are_sealed(envelope: Envelope) -> None:
    codec = StateCodec(envelope=envelope)
    document = json.loads(codec.document("r", STATE))
    assert is_sealed(document["pipeline_context"])
    assert document["metadata"] == STATE["metadata"]
    assert codec.opened("r", document) == STATE


def test_a_plain_document_is_returned_itself() -> None:
    document = dict(STATE)
    assert StateCodec(envelope=SEALING[0]).opened("r", document) is document


@pytest.mark.parametrize("text", ["lens1:", "lens1:hello", "lens1:AAAA", armour(TAG), armour(TAG + b"\x00\x00{}")])
@pytest.mark.parametrize("envelope", [None, Envelope("zlib"), Envelope(keys=RING)], ids=range(3))
def test_a_text_that_looks_sealed_is_a_text(text: str, envelope: Envelope | None) -> None:
    """An output may be any text; it must not make its run unreadable, nor come back as something else."""
    codec = StateCodec(envelope=envelope)
    document = json.loads(codec.document("r", {"run_id": "r", "last_step_output": text, "metadata": text}))
    assert codec.opened("r", document) == {"run_id": "r", "last_step_output": text, "metadata": text}


def test_without_the_key_nothing_is_guessed() -> None:
    document = json.loads(StateCodec(envelope=Envelope(keys=RING)).document("r", STATE))
    for codec in (StateCodec(), StateCodec(envelope=Envelope(keys=KeyRing({"k": b"1" * 32})))):
        with pytest.raises(SealedStateError):
            codec.opened("r", document)
    assert all(is_sealed(document[name]) for name in ("pipeline_context", "last_step_output"))
    with pytest.raises(SealedStateError, match="moved from another run"):
        StateCodec(envelope=Envelope(keys=RING)).opened("another", document)


def test_a_damaged_field_is_a_damaged_store() -> None:
    broken = TAG + b"\x00\x00{no json"
    with pytest.raises(CorruptStoreError, match="it has no JSON"):
        StateCodec().value("r", "f", broken)
    with pytest.raises(CorruptStoreError):
        StateCodec().opened("r", {SEALED_FIELDS[0]: armour(broken)})


class Small(BaseModel):
    run_id: str
    count: int = 0

    @field_validator("count")
    @classmethod
    def _not_seven(cls, value: int) -> int:
        if value == 7:
            raise KeyError("seven")
        return value


def test_states_are_checked_against_a_model() -> None:
    codec = StateCodec(validate=Small)
    codec.check({"run_id": "r", "count": 1, "more": object})
    for count, words in (("many", "count: "), (7, "KeyError")):
        with pytest.raises(InvalidStateError, match=words) as caught:
            codec.check({"run_id": "r", "count": count})
        assert caught.value.hint == "nothing was changed"


def test_the_house_model_is_the_default_one() -> None:
    now = datetime(2026, 1, 2)
    state = {**STATE, "pipeline_id": "p", "status": "running", "created_at": now, "updated_at": now}
    for given in (None, False):
        StateCodec(validate=given).check({"anything": 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidStateError):
        StateCodec(validate=True).check({"run_id": 1, **{name: object for name in state if name != "run_id"}})
