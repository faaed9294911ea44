"""What CI reads of a check: the worst first, and as many annotations as GitHub shows."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from flujo_lens.operations.check import CheckedGroup
from flujo_lens.rendering.ci import Checked, github, github_error, junit_error


def groups(count: int, verdict: str, code: str | None) -> list[CheckedGroup]:
    return [CheckedGroup("p", "1", f"s{at}", "paused", verdict, code, count - at, f"r{at}") for at in range(count)]


def lines(broken: int, remapped: int, lacking: str | None = None) -> list[str]:
    failing = groups(broken, "broken", "LENS-C4")
    return list(github(Checked([*failing, *groups(remapped, "remapped", None)], failing, "checked", lacking)))


def annotations(found: list[str], kind: str) -> list[str]:
    return [line for line in found if line.startswith(f"::{kind} ")]


@pytest.mark.parametrize("count", [0, 1, 9, 10])
def test_ten_are_told_whole(count: int) -> None:
    found = lines(count, count)
    assert [len(annotations(found, kind)) for kind in ("error", "warning")] == [count, count]
    assert len(found) == 2 * count + 1
    assert not any(" more" in line for line in found if "more: lens explain" not in line)


@pytest.mark.parametrize("count", [11, 37])
def test_the_tenth_says_how_many_more_there_are(count: int) -> None:
    found = lines(count, count)
    for kind in ("error", "warning"):
        told = annotations(found, kind)
        assert len(told) == 10
        assert f"%0Aand {count - 10} more, in the log of this step%0A" in told[9]
        assert all("more, in" not in line for line in told[:9])
        assert "at s9" in told[9]
    assert [line for line in found if f"at s{count - 1}" in line and not line.startswith("::")]
    assert found[-1] == "checked"


def test_errors_come_before_warnings_and_the_number_of_runs_first() -> None:
    found = lines(12, 1, "too few")
    assert [line.split(" ")[0] for line in found if line.startswith("::")] == ["::error"] * 10 + ["::warning"]
    assert found[0] == "::error title=lens check::too few"
    assert "%0Aand 3 more, in" in found[9]


def test_a_check_that_could_not_be_made() -> None:
    odd = "no store at a%0A\n::error::<b>&]]>\x1b[31m\x00"
    (line,) = github_error("LENS-S1", odd)
    assert line.startswith("::error title=lens check%3A LENS-S1::no store at a%250A")
    assert "\x1b" not in line
    suite = ElementTree.fromstring("\n".join(junit_error("LENS-S1", odd)))[0]
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("1", "1", "0")
    error = suite.find("testcase/error")
    assert error is not None
    assert error.get("type") == "LENS-S1"
    assert str(error.get("message")).startswith("no store at")
