"""Rings of keys: where they come from, what is refused, and how keys are changed."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest

from flujo_lens.errors import ConfigError, SealedStateError
from flujo_lens.serialization.envelope import Envelope, open_sealed
from flujo_lens.serialization.keys import KeyRing, new_key

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
TEXT = b64encode(OLD).decode()


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LENS_KEY", raising=False)
    monkeypatch.delenv("LENS_KEY_FILE", raising=False)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"a:{TEXT}", ("a",)),
        (f"# a comment\n\n new : {b64encode(NEW).decode()} \nold:{OLD.hex()}\n", ("new", "old")),
        (f"a:{TEXT},b:{NEW.hex()}", ("a", "b")),
        (f"2026:11:{TEXT}", ("2026:11",)),
        (new_key(), None),
    ],
    ids=range(5),
)
def test_rings_are_read(text: str, names: tuple[str, ...] | None) -> None:
    found = KeyRing.parse(text).names
    assert found == names or (names is None and len(found[0]) == 8)


@pytest.mark.parametrize("text", ["", "#", "a:", "a:b", TEXT[:-4], "ü:" + TEXT, "x" * 101 + ":" + TEXT, OLD.hex()[:-2]])
def test_what_is_no_ring_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KeyRing.parse(text, "LENS_KEY")
    assert TEXT[:8] not in str(caught.value)


def test_a_ring_shows_no_keys() -> None:
    assert repr(KeyRing({"a": OLD})) == "KeyRing(a)"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a:{TEXT}")
    path.chmod(0o600)
    assert KeyRing.from_file(path).names == ("a",)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="other users can read it") as caught:
        KeyRing.from_file(path)
    assert "chmod 600" in str(caught.value.hint)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            KeyRing.from_file(path)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    binary.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot read the keys"):
        KeyRing.from_file(binary)


def test_the_variable_counts_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"file:{TEXT}")
    path.chmod(0o600)
    assert KeyRing.from_environment({}) is None
    for environment, name in (
        ({"LENS_KEY_FILE": str(path)}, "file"),
        ({"LENS_KEY": f"variable:{TEXT}", "LENS_KEY_FILE": str(path)}, "variable"),
        ({"LENS_KEY": "", "LENS_KEY_FILE": str(path)}, "file"),
    ):
        ring = KeyRing.from_environment(environment)
        assert ring is not None
        assert ring.names == (name,)


def test_a_new_key_writes_and_the_old_one_still_reads() -> None:
    before, after = KeyRing({"old": OLD}), KeyRing({"new": NEW, "old": OLD})
    sealed = Envelope(keys=before).seal(b"1", "r", "f")
    assert open_sealed(sealed, "r", "f", after) == b"1"
    again = Envelope(keys=after).seal(b"1", "r", "f")
    assert b"new" in again
    with pytest.raises(SealedStateError, match="the key new, which is not available"):
        open_sealed(again, "r", "f", before)


def test_the_environment_opens_what_the_given_ring_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = Envelope(keys=KeyRing({"old": OLD})).seal(b"1", "r", "f")
    with pytest.raises(SealedStateError):
        open_sealed(sealed, "r", "f", KeyRing({"new": NEW}))
    monkeypatch.setitem(os.environ, "LENS_KEY", f"old:{TEXT}")
    assert open_sealed(sealed, "r", "f", KeyRing({"new": NEW})) == b"1"
    assert open_sealed(sealed, "r", "f") == b"1"
