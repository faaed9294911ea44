"""What is masked in texts and values, and what is not."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secret_corpus import KINDS, WITH_SECRETS, WITHOUT_SECRETS

from flujo_lens.redaction import MASK, Redactor, masked_text
from flujo_lens.redaction.keys import BUILT_IN_KEYS, SecretKeys

ROUNDS = 20_000 if "LENS_SOAK" in os.environ else 100


def _has_secret(text: str) -> bool:
    return "hush" in text.casefold() or "aHVza" in text or "h1c2g" in text or "odXNo" in text


def test_the_corpus_is_large_enough() -> None:
    assert len(KINDS) == 20
    assert len(WITH_SECRETS) == 200
    assert all(_has_secret(text) for _, text in WITH_SECRETS if "asic" not in text and "ASIC" not in text)
    assert len(WITHOUT_SECRETS) >= 200
    assert not any(_has_secret(text) for text in WITHOUT_SECRETS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_shown(kind: str) -> None:
    texts = [text for its_kind, text in WITH_SECRETS if its_kind == kind]
    shown = [(text, masked_text(text)) for text in texts]
    assert [pair for pair in shown if _has_secret(pair[1]) or MASK not in pair[1]] == []
    assert [text for _, text in shown if masked_text(text) != text] == []


def test_nothing_else_is_masked() -> None:
    assert [(text, masked_text(text)) for text in WITHOUT_SECRETS if masked_text(text) != text] == []


def test_what_stands_around_a_secret_stays() -> None:
    text = json.dumps({"body": json.dumps({"api_key": "x", "visible": "seen"}), "after": "too"}) + " and more"
    assert masked_text(text) == text.replace('\\"x\\"', '\\"***\\"')
    assert masked_text("GET https://h/x?api_key=a1&page=2 failed") == "GET https://h/x?api_key=***&page=2 failed"
    assert masked_text("password: a1b2, then more") == "password: ***, then more"
    assert masked_text("Authorization: Bearer a1\nAccept: x") == "Authorization: ***\nAccept: x"


JSON = st.recursive(
    st.text(max_size=8) | st.integers() | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz_\"'\\ ", max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=ROUNDS)
@given(JSON, st.sampled_from(["api_key", "db_password", "Authorization", "accessToken"]), st.data())
def test_secrets_in_generated_texts(around: Any, key: str, data: st.DataObject) -> None:
    """At any depth of JSON and Python literals in each other, whole and cut anywhere behind the key."""
    secret = "hush" + data.draw(st.text("aB1-_.\"'\\ ,;&{}[]()", max_size=8))
    value: Any = {"first": around, key: secret, "last": around}
    for form in data.draw(st.lists(st.sampled_from(["json", "repr"]), min_size=1, max_size=3)):
        text = json.dumps(value) if form == "json" else repr(value)
        value = {"text": text, "n": 1}
    assert "hush" not in masked_text(text)
    cut = data.draw(st.integers(text.index("hush"), len(text)))
    assert "hush" not in masked_text(text[:cut])


@settings(max_examples=ROUNDS)
@given(st.text(st.sampled_from("token=: \"'\\{}[](),api_key//u:p@hBearer \n&?%3D-")))
def test_masking_twice_is_masking_once(text: str) -> None:
    once = masked_text(text)
    assert masked_text(once) == once


PARTS = ("token:", 'token="', "token=[", "//a:b", "//a:b@", "sk-", "eyJ-", "password is ", "--token ", "\\", "Bearer ")


@pytest.mark.parametrize("part", PARTS)
def test_a_long_text_takes_linear_time(part: str) -> None:
    """Where each part looked at all that follows, this would take hours."""
    masked_text(part * 40_000)


# --- values


@pytest.mark.parametrize(
    "key",
    [
        "password", "DB_PASSWORD", "passwd", "client_secret", "api_key", "api-key", "API key", "apikey", "x-api-key",
        "token", "access_token", "accessToken", "AccessToken", "X-Auth-Token", "authorization", "Proxy-Authorization",
        "cookie", "Set-Cookie", "dsn", "SENTRY_DSN", "pwd", "passphrase", "privateKey", "aws_secret_access_key",
        "credentials",
    ],
)  # fmt: skip
def test_keys_of_secrets(key: str) -> None:
    assert Redactor().value({key: ["x", {"y": "z", "n": 5}]}) == {key: [MASK, {"y": MASK, "n": 5}]}


@pytest.mark.parametrize(
    "key",
    ["token_count", "tokens", "max_tokens", "tokenizer", "cookie_policy", "secretary", "author", "monkey", "keys"],
)
def test_keys_of_no_secrets(key: str) -> None:
    assert Redactor().value({key: "x"}) == {key: "x"}


def test_ids_and_names_are_whole() -> None:
    row = {"run_id": "a?token=b1", "step_name": "password: x1", "pipeline_name": "//u:p@h", "error": "token=b1"}
    assert Redactor().value(row) == {**row, "error": "token=***"}


def test_a_name_beside_its_value() -> None:
    env = [{"name": "API_KEY", "value": "x"}, {"key": "PATH", "value": "/bin"}]
    assert Redactor().value(env) == [{"name": "API_KEY", "value": MASK}, {"key": "PATH", "value": "/bin"}]


@dataclasses.dataclass
class Settings:
    url: str
    api_key: str


class Odd:
    def __str__(self) -> str:
        return "Odd(password='hush')"


def test_other_values() -> None:
    assert Redactor().value([Settings("x", "hush"), Odd()]) == [{"url": "x", "api_key": MASK}, "Odd(password='***')"]
    assert Redactor().value({"postgresql://u:p@h": {1, 2}}) == {"postgresql://u:***@h": [1, 2]}
    assert Redactor().value({"token": 5, "secret": 1.5, "password": True, "api_key": None}) == {
        "token": 5, "secret": 1.5, "password": True, "api_key": None,
    }  # fmt: skip


@pytest.mark.parametrize("glob", ["*ssn*", "s?n", "my-pin", "*", "?n"])
def test_keys_of_ones_own(glob: str) -> None:
    redactor = Redactor([glob])
    key = glob.replace("*", "ssn" if glob == "*" else "").replace("?", "s")
    assert redactor.value({key: "hush"}) == {key: MASK}
    for text in (f"{key}=hush", f"{{'{key}': 'hush'}}", json.dumps({"x": json.dumps({key.upper(): "hush"})})):
        assert "hush" not in redactor.text(text)
    assert Redactor([glob], show=True).text(f"{key}=hush") == f"{key}=hush"


def test_the_words_are_parts_of_the_globs() -> None:
    """The quick look may never pass over a key that the globs match."""
    words = SecretKeys().words
    assert words is not None
    for glob in BUILT_IN_KEYS:
        assert any(word in glob.replace("?", " ") for word in words), glob


@pytest.mark.parametrize(
    "value",
    [
        [["api_key", "hush"], ["n", 1]],
        [("x-api-key", "hush")],
        {"headers": [["Cookie", "hush"], ["Accept", "x"]]},
        {"Name": "DB_PASSWORD", "Value": "hush"},
        {"command": ["tool", "--password", "hush", "run"]},
        {"meta:cookie": "hush"},
        "OrderedDict([('n', '1'), ('password', 'hush')])",
        '{"headers": [["x", "1"], ["api_key", "hush"]]}',
        "[{'Name': 'DB_PASSWORD', 'Value': 'hush'}]",
        "cannot reach postgresql://ana@server:hush@db:5432/ops",
        "GET /file?sig=hush&se=2",
        "hf_" + "hush1" * 6,
        "rk_live_" + "hush1" * 4,
    ],
)
def test_pairs_lists_of_words_and_more_forms(value: Any) -> None:
    shown = Redactor().value(value)
    assert "hush" not in str(shown)
    assert Redactor().value(shown) == shown


def test_pairs_and_lists_that_hold_no_secret() -> None:
    for value in (
        ["password", "email"],
        [["a", "b"], ["--password"]],
        ["--password", "--force"],
        "unique together: ('password', 'email')",
        "http://ana@host:8080/x@y",
    ):
        assert Redactor().value(value) == value


@pytest.mark.parametrize(
    "token", ["a3f9c1e7b2d84f60a1c2d3e4f5a6b7c8", "AbCdEfGh1IjKl2MnOp3Qr", "f47ac10b-58cc-4372-a567-0e02b2c3d479"]
)
def test_a_token_alone_in_place_of_a_user_is_masked(token: str) -> None:
    assert (
        masked_text(f"clone https://{token}@git.example.org/x.git failed")
        == "clone https://***@git.example.org/x.git failed"
    )
    for user in ("postgres", "lens", "flujo_lens_reader_2024", "ana.maria.gonzalez1987", "ec2-user-2024-prod-a1"):
        assert masked_text(f"postgresql://{user}@db/ops") == f"postgresql://{user}@db/ops"
