"""Which run is meant: whole ids, prefixes, @ words, and ids as they were printed."""

from __future__ import annotations

import pytest
from support import Lens

HEX = "3d910948d833493585c530b50f639448"


def _meant(lens: Lens, *words: str) -> str:
    result = lens("show", *words, "-o", "json")
    assert result.code == 0, result.err
    return str(result.json["run"]["run_id"])


@pytest.mark.parametrize("text", ["fail-001", "fail-00", "fail"])
def test_whole_or_prefix(lens: Lens, text: str) -> None:
    assert _meant(lens, text) == "fail-001"


@pytest.mark.parametrize("text", [f"run_{HEX}", f"run_{HEX[:4]}", HEX, HEX[:4], "run_"])
def test_without_run_(lens: Lens, text: str) -> None:
    assert _meant(lens, text) == f"run_{HEX}"


@pytest.mark.parametrize("text", ["fai", "f", "3d9", "run"])
def test_a_prefix_has_four_characters(lens: Lens, text: str) -> None:
    result = lens("show", text)
    assert result.code == 3
    assert "4 or more" in result.err


def test_a_whole_id_wins_over_a_prefix(lens: Lens) -> None:
    assert _meant(lens, "bgparent-001") == "bgparent-001"
    lens.rename("single-001", "or")
    lens.rename("cost-001", "orders-v1")
    assert _meant(lens, "or") == "or"
    assert _meant(lens, "orders-v1") == "orders-v1"


def test_a_whole_id_wins_over_an_id_after_run_(lens: Lens) -> None:
    lens.rename("single-001", HEX)
    assert _meant(lens, HEX) == HEX
    result = lens("show", HEX[:8])
    assert result.code == 3
    assert f"  {HEX}" in result.err
    assert f"  run_{HEX}" in result.err


def test_ambiguous(lens: Lens) -> None:
    result = lens("show orders-v1 -o json")
    assert (result.code, result.out) == (3, "")
    assert result.error["candidates"] == ["orders-v1-001", "orders-v1-002", "orders-v1-003"]
    told = lens("show orders-v1", tty=True).err
    assert "  orders-v1-001\n  " in told


def test_candidates_are_whole_and_safe_to_print(lens: Lens) -> None:
    lens.rename("orders-v1-001", "orders-v1-\x1b[31m" + "x" * 200)
    told = lens("show orders-v1", tty=True).err
    assert "\x1b[31m" not in told
    assert "x" * 200 in told


def test_many_candidates_are_not_all_listed(lens: Lens) -> None:
    for number, run in enumerate(lens("list --all -o id --top-level").lines[:15]):
        lens.rename(run, f"same-{number:02}")
    result = lens("show same-")
    assert result.code == 3
    assert "same-09" in result.err
    assert "same-10" not in result.err
    assert "and more" in result.err


@pytest.mark.parametrize(
    "line", ["show nothing-001", "trace nothing-001", "spans nothing-001", "evals nothing", "tasks --parent nothing"]
)
def test_not_found(lens: Lens, line: str) -> None:
    result = lens(line)
    assert (result.code, result.out) == (3, "")
    assert "nothing" in result.err
    error = lens(f"{line} -o json").error
    assert error["code"] == "LENS-R1"
    assert error["run_id"].startswith("nothing")


def test_not_found_shows_what_is_like_it(lens: Lens) -> None:
    assert "fail-001" in lens("show fail-002").err
    assert "orders-v2-001" in lens("show orders-v2-01").err


@pytest.mark.parametrize("text", ["%", "____", "fail%001", "orders-v_-001", "*", "fail-0?1", "FAIL-001", "fail-001 "])
def test_nothing_in_an_id_is_a_pattern(lens: Lens, text: str) -> None:
    assert lens("show", text).code == 3


@pytest.mark.parametrize("text", ["per%", "per%cent_under", "weird id", "üñí-"])
def test_odd_prefixes(lens: Lens, text: str) -> None:
    assert _meant(lens, text).startswith(text)


def test_at_words(lens: Lens) -> None:
    rows = lens("list --all -o json").json
    newest = {status: next(r["run_id"] for r in rows if r["status"] == status) for status in ("failed", "paused")}
    assert _meant(lens, "@latest") == rows[0]["run_id"]
    assert _meant(lens, "@failed") == newest["failed"]
    assert _meant(lens, "@paused") == newest["paused"]
    assert lens("trace @failed -o json").code == 0


def test_at_words_that_do_not_exist(lens: Lens) -> None:
    for text in ("@bogus", "@", "@LATEST"):
        result = lens("show", text)
        assert result.code == 2
        assert "@latest, @failed, @paused" in result.err


def test_at_words_without_such_a_run(lens: Lens) -> None:
    lens.edit("DELETE FROM workflow_state", "DELETE FROM runs", "DELETE FROM spans", "DELETE FROM steps")
    for text in ("@latest", "@failed", "@paused"):
        assert lens("show", text).code == 3


def test_an_id_in_several_tables_or_in_one(lens: Lens) -> None:
    """A run that only one table knows is found, by its id and by a prefix."""
    lens.edit("DELETE FROM runs WHERE run_id = 'single-001'", "DELETE FROM workflow_state WHERE run_id = 'cost-001'")
    for text in ("single-001", "sing", "cost-001", "cost", "otel-001", "bgcrashed-001_bg"):
        assert _meant(lens, text).startswith(text)


@pytest.mark.parametrize(
    ("run_id", "typed"),
    [
        ("line\nbreak", r"line\nbreak"),
        ("tab\tstop", r"tab\tstop"),
        ("esc\x1b[31m", r"esc\x1b[31m"),
        ("back\\slash", r"back\\slash"),
        ("bidi\u202e", r"bidi\u202e"),
    ],
)
def test_an_escaped_id_typed_back(lens: Lens, run_id: str, typed: str) -> None:
    lens.rename("single-001", run_id)
    assert _meant(lens, run_id) == run_id
    assert _meant(lens, typed) == run_id


def test_raw_comes_before_unescaped(lens: Lens) -> None:
    lens.rename("single-001", "a\nb")
    lens.rename("cost-001", r"a\nb")
    assert _meant(lens, r"a\nb") == r"a\nb"
    assert _meant(lens, "a\nb") == "a\nb"


def test_older_store(old_lens: Lens) -> None:
    assert _meant(old_lens, "cancel") == "cancelled-001"
    assert _meant(old_lens, "@failed") == "fail-001"


def test_a_relative_store_that_another_version_takes_for_an_absolute_one(lens: Lens) -> None:
    """flujo 0.4 reads three slashes as an absolute path."""
    there = lens.cwd / "flujo_ops.db"
    missing = lens("list", "--store", f"sqlite://{there}")
    assert (missing.code, f"sqlite:///{there}" in missing.err, "four slashes" in missing.err) == (5, True, True)
    assert lens("list", "--store", f"sqlite:///{there}", "-o", "id").code == 0
    assert "four slashes" not in lens("list", "--store", "sqlite:///nowhere.db").err
