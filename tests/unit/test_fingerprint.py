"""Errors that are one error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from flujo_lens.state.fingerprint import LONGEST, glob_matches, normalise_error, plain_error

often = settings(max_examples=examples(400))


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("timeout after 30 s", "timeout after # s"),
        ("timeout after 30.5s, attempt 3/5", "timeout after #s, attempt #"),
        ("HTTP 503", "HTTP #"),
        ("at 2026-11-21T00:11:08.689190+00:00", "at #"),
        ("object at 0x7f3a91c2ffee", "object at #"),
        ("run_3d910948d833493585c530b50f639448 is gone", "# is gone"),
        ("no row 0b1c7a52-3f3e-4f0e-9d7e-6a1f0d3b9c11", "no row #"),
        ("commit 8f3a91c2ffee", "commit #"),
        ("req_011CSHoEeqs5C35K2UUqR7Fy failed", "# failed"),
        ("GET https://api.example/v1/x?y=1 refused", "GET https://# refused"),
        ("postgresql://u:p@db:5432/x is down", "postgresql://# is down"),
        ("connect to 10.0.0.7:5432", "connect to #"),
        ("key 'customer' is missing", "key '#' is missing"),
        ('no "such" thing', 'no "#" thing'),
        ("no `such` thing", "no `#` thing"),
        ("no “such” thing", "no “#” thing"),
        ("it isn't there, and can't be", "it isn't there, and can't be"),
        ("Agent execution failed with ValueError: declined (code=51)", "ValueError: declined (code=#)"),
        ("\n\n  first line \nsecond", "first line"),
        ("a\tb   c", "a b c"),
        ("utf8 sha256 is fine", "utf8 sha# is fine"),
        ("", "(no error text)"),
        ("  \n ", "(no error text)"),
        ("漢字 3", "漢字 #"),
    ],
)
def test_what_changes_from_run_to_run_is_folded(text: str, folded: str) -> None:
    assert normalise_error(text) == folded


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("payment 4711 declined for 'Ana'", "payment 4712 declined for 'Bob'"),
        ("<Client object at 0x7f00aa> closed", "<Client object at 0x7f00bb> closed"),
        ("lost 10.0.0.1:80 at 12:30:01", "lost 10.0.0.2:8080 at 09:00:59"),
    ],
)
def test_one_error(one: str, other: str) -> None:
    assert normalise_error(one) == normalise_error(other)


@pytest.mark.parametrize(
    ("one", "other"), [("ValueError: x", "TypeError: x"), ("no host", "no route"), ("HTTP refused", "HTTPS refused")]
)
def test_two_errors(one: str, other: str) -> None:
    assert normalise_error(one) != normalise_error(other)


errors = (
    st.text() | st.text("abAB019_-.:/'\"`‘’“” #x@\n", max_size=60) | st.text("ab1 '\"/:", min_size=150, max_size=900)
)


@often
@given(errors)
def test_the_normal_form_is_short_one_line_and_its_own_normal_form(text: str) -> None:
    folded = normalise_error(text)
    assert 0 < len(folded) <= LONGEST
    assert folded == " ".join(folded.split())
    assert normalise_error(folded) == folded
    assert normalise_error(plain_error(text)) == folded


@often
@given(errors)
def test_an_error_matches_itself_however_it_is_written(text: str) -> None:
    escaped = text.replace("*", "?")
    assert glob_matches(escaped, text)
    assert glob_matches("*", text)
    assert glob_matches(normalise_error(text).replace("*", "?"), text)


def test_long_texts_take_no_long_time() -> None:
    for text in ("a_" * 50_000 + "1", "'" * 100_000, "1." * 50_000, "0x" * 50_000, "a-" * 50_000, "f" * 100_000):
        assert len(normalise_error(text)) <= LONGEST
        glob_matches("*x*", text)


@pytest.mark.parametrize(
    ("pattern", "error", "matches"),
    [
        ("value*", "ValueError: 5", True),
        ("*: 5", "ValueError: 5", True),
        ("*: #", "ValueError: 5", True),
        ("ValueError: ?", "ValueError: 5", True),
        ("Value", "ValueError: 5", False),
        ("[v]alue*", "ValueError", False),
        ("[x] *", "[x] y", True),
        ("a.c", "abc", False),
        ("*second*", "first\nsecond", True),
        ("ValueError*", "Agent execution failed with ValueError: x", True),
    ],
)
def test_globs(pattern: str, error: str, matches: bool) -> None:
    assert glob_matches(pattern, error) is matches
