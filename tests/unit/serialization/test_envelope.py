"""Layers round the bytes: what is sealed opens again, in its own place alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import zstandard

from flujo_lens.errors import ConfigError, CorruptStoreError, MissingExtraError, SealedStateError
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.serialization.envelope import TAG, Envelope, armour, is_sealed, open_sealed, wrap
from flujo_lens.serialization.keys import FINGERPRINTS, KeyRing

RING = KeyRing({"k": bytes(32)})
LARGE = b'{"a": "' + b"x" * 5_000 + b'"}'
ALL = [
    Envelope(),
    Envelope("zlib"),
    Envelope("zstd"),
    Envelope(keys=RING),
    Envelope("zlib", keys=RING),
    Envelope("zstd", keys=RING),
]


@pytest.mark.parametrize("envelope", ALL, ids=range(len(ALL)))
@pytest.mark.parametrize("data", [b"", b"1", LARGE, LARGE * 50], ids=len)
def test_what_is_sealed_opens_again(envelope: Envelope, data: bytes) -> None:
    sealed = envelope.seal(data, "r", "f")
    assert open_sealed(sealed, "r", "f", RING) == data
    if is_sealed(sealed):
        assert open_sealed(armour(sealed), "r", "f", RING) == data


def test_small_fields_and_those_that_do_not_get_smaller_are_left() -> None:
    for how in ("zlib", "zstd"):
        assert Envelope(how, min_bytes=100).seal(b"x" * 99, "r", "f") == b"x" * 99  # type: ignore[arg-type]
        assert Envelope(how, min_bytes=1).seal(b"1", "r", "f") == b"1"  # type: ignore[arg-type]
        assert len(Envelope(how).seal(LARGE, "r", "f")) < 200  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [b"", b'{"a": 1}', b"\x00\xff", '{"a": 1}', "lens1:", "lens1:AAAA", "lens1:no base"])
def test_plain_data_passes_through(stored: bytes | str) -> None:
    assert not is_sealed(stored)
    assert open_sealed(stored, "r", "f") == (stored.encode() if isinstance(stored, str) else stored)


def test_encryption_hides_and_never_repeats() -> None:
    envelope = Envelope(keys=RING)
    first, second = (envelope.seal(b'"secret"', "r", "f") for _ in range(2))
    assert first != second
    assert b"secret" not in first


@pytest.mark.parametrize(("run_id", "field"), [("other", "f"), ("r", "other"), ("rf", ""), ("", "rf")])
def test_a_sealed_field_opens_in_its_own_place_alone(run_id: str, field: str) -> None:
    sealed = Envelope(keys=RING).seal(b"1", "r", "f")
    with pytest.raises(SealedStateError, match="moved from another run"):
        open_sealed(sealed, run_id, field, RING)


def test_each_changed_bit_is_noticed() -> None:
    sealed = Envelope("zlib", 1, RING).seal(b"x" * 40, "r", "f")
    for at in range(len(TAG), len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        with pytest.raises((SealedStateError, CorruptStoreError)):
            open_sealed(bytes(damaged), "r", "f", RING)


def test_another_key_of_that_name_is_said() -> None:
    sealed = Envelope(keys=RING).seal(b"1", "r", "f")
    with pytest.raises(SealedStateError, match="different one of that name") as caught:
        open_sealed(sealed, "r", "f", KeyRing({"k": b"1" * 32}))
    assert "nothing was changed" in str(caught.value.hint)
    assert FINGERPRINTS in str(caught.value.hint)


@pytest.mark.parametrize("version", [b"\x00", b"\x02", b"\x3f", b""])
def test_another_format_is_said_to_be(version: bytes) -> None:
    """It must not come back as if it were a plain value."""
    sealed = TAG[:-1] + version + (b"\x00\x00{}" if version else b"")
    for stored in (sealed, armour(sealed)) if version else (sealed,):
        assert is_sealed(stored)
        with pytest.raises(CorruptStoreError, match="format version") as caught:
            open_sealed(stored, "r", "f")
        assert "pip install -U flujo-lens" in str(caught.value.hint)
    with pytest.raises(CorruptStoreError):
        StateCodec().value("r", "f", sealed)


def test_what_is_typed_shows_fingerprints_and_no_keys() -> None:
    key = KeyRing({"k": b"1" * 32})
    environment = {**os.environ, "LENS_KEY": f"k:{(b'1' * 32).hex()}"}
    done = subprocess.run(
        FINGERPRINTS.replace("python", sys.executable, 1), shell=True, env=environment, capture_output=True
    )
    assert done.stdout.decode() == f"k  {key.fingerprints['k']}\n", done.stderr
    assert key.fingerprints != KeyRing({"k": b"2" * 32}).fingerprints


def huge_zstd(size: int) -> bytes:
    """A frame that says it holds so many bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


@pytest.mark.parametrize(
    "stored",
    [
        TAG,
        TAG + b"\x00",
        TAG + b"?\x00rest",
        TAG + b"\x00?rest",
        TAG + b"\x00a",
        TAG + b"\x00a\x05k",
        TAG + b"z\x00garbage",
        TAG + b"s\x00garbage",
        TAG + b"s\x00",
        TAG + b"s\x00" + huge_zstd(2**62),
        TAG + b"s\x00" + huge_zstd(2**32),
        Envelope("zlib").seal(LARGE, "r", "f")[:-3],
        Envelope("zlib").seal(LARGE, "r", "f") + b"more",
        Envelope("zstd").seal(LARGE, "r", "f")[:-3],
        Envelope("zstd").seal(LARGE, "r", "f") + b"more",
        TAG + b"s\x00" + zstandard.ZstdCompressor(write_content_size=False).compress(LARGE),
        armour(TAG) + "!",
        armour(TAG) + "é",
    ],
    ids=range(18),
)
def test_what_is_damaged_is_said_to_be(stored: Any) -> None:
    with pytest.raises(CorruptStoreError, match="f of run r cannot be decoded"):
        open_sealed(stored, "r", "f", RING)


def test_what_looks_sealed_can_be_wrapped() -> None:
    text = b'"' + armour(TAG).encode() + b'"'
    assert open_sealed(armour(wrap(text)), "r", "f") == text


def test_no_such_compression() -> None:
    with pytest.raises(ConfigError, match="use zstd or zlib"):
        Envelope("rar")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "made"),
    [("zstandard", 'Envelope("zstd")'), ("cryptography", 'Envelope(keys=KeyRing({"k": bytes(32)}))')],
)
def test_a_package_that_is_not_there_is_named(package: str, made: str) -> None:
    code = f"""
import sys
sys.modules["{package}"] = None
from flujo_lens.errors import {MissingExtraError.__name__}
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.serialization.keys import FINGERPRINTS, KeyRing
try:
    {made}
except MissingExtraError as error:
    print(error, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in done.stdout
    assert "pip install" in done.stdout
