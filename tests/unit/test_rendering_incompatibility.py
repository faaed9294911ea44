"""The screen of a run that does not fit: it fits the terminal, its commands stay whole, nothing in it is obeyed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len
from support import Lens

from flujo_lens.cli import app
from flujo_lens.errors import IncompatibleError
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.incompatibility import _step_rows, incompatibility
from flujo_lens.rendering.tables import make_console
from flujo_lens.runner.incompatibility import StateIncompatibilityError, not_registered
from flujo_lens.runner.verdicts import Place, assess

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
NAMES = ("validate", "enrich", "charge_card", "notify")
PLACE = Place("paused", 2, "charge_card", NAMES[:2], "1.3.0")


def manifest(version: str, *names: str, **context: str) -> dict[str, Any]:
    steps = [{"name": name, "kind": "step", "output": "str"} for name in names]
    fields = {name: {"type": kind, "required": True} for name, kind in context.items()}
    return {"format": 1, "pipeline": "billing", "version": version, "steps": steps, "context": fields, "types": {}}


def error_of(saved: Any, current: Any, place: Place = PLACE, run_id: str = "paused-001", **facts: Any) -> Any:
    verdict = assess(saved, current, place)
    return StateIncompatibilityError(run_id, verdict, saved=saved, current=current, place=place, **facts)


RENAMED = error_of(
    manifest("1.3.0", *NAMES),
    manifest("1.4.0", "validate", "enrich", "charge_payment", "notify"),
    saved_at=NOW - timedelta(days=2),
    others=14,
    database="flujo_ops.db",
)


def drawn(error: Any, width: int, *, unicode: bool = True, colour: bool = False) -> str:
    return drawn_dict(error.to_dict(), width, unicode=unicode, colour=colour)


def drawn_dict(error: Mapping[str, Any], width: int, *, unicode: bool = True, colour: bool = False) -> str:
    text = io.StringIO()
    console = make_console(text, width=width, colour=colour, unicode=unicode)
    console.print(incompatibility(error, Human(NOW, UTC), width, unicode=unicode), crop=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def test_the_screen_at_100_columns() -> None:
    assert (
        drawn(RENAMED, 100)
        == """\
error LENS-C4: StateIncompatibilityError: Cannot resume workflow due to a mismatch between the saved
state and the current pipeline code.
run paused-001 waits at a step that this code does not have. Nothing was changed: it is still
paused. 14 other runs have this problem.

              SAVED (2d ago)     THIS CODE
  version     1.3.0              1.4.0
  step 0      validate           validate
  step 1      enrich             enrich
  step 2    → charge_card        charge_payment   same kind and output: renamed?
  step 3      notify             notify

  WHAT TO DO, safest first
  1  the step was renamed      @step(name="charge_payment", aliases=["charge_card"])
                               lens resume paused-001
  2  keep both versions        registry.register(old_pipeline, name="billing", version="1.3.0")
                               lens resume paused-001 --pipeline-version 1.3.0
  3  go back a step            lens fork paused-001 --from-step enrich
                               (enrich runs again, in a new run; this run does not change)
  4  start afresh              use a new, unique run_id: every step runs; this run does not change
  5  give it up, keep history  lens cancel paused-001 --reason "..."
                               (the run cannot be resumed; its history stays)
  6  remove this state         lens delete paused-001
                               (deletes state and history; lens undo can restore them)
  7  clean up old states       lens prune --days-old 90 --dry-run
                               (lists runs not updated for 90 days, except paused and live ones;
                               without --dry-run, deletes them)
  8  the database file         last resort, after a copy: all runs of flujo_ops.db are lost
more: lens explain LENS-C4"""
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_fits_the_terminal(width: int) -> None:
    lines = drawn(RENAMED, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert {remedy.command for remedy in RENAMED.remediations if remedy.command} <= set(commands_in(lines))


def commands_in(lines: list[str]) -> list[str]:
    """What stands on a line from ``lens`` on, without what is said behind it."""
    return [line[line.index("lens ") :].partition("   (")[0] for line in lines if "lens " in line]


@pytest.mark.parametrize("width", [20, 80])
def test_a_command_is_never_folded(width: int) -> None:
    run_id = "run_" + "0123456789abcdef" * 8
    error = error_of(manifest("1", *NAMES), manifest("2", *NAMES[:2]), run_id=run_id)
    lines = [line.strip() for line in drawn(error, width).splitlines()]
    assert f"lens resume {run_id} --pipeline-version 1" in lines
    assert f"lens delete {run_id}" in lines


def test_ascii_alone() -> None:
    shown = drawn(RENAMED, 100, unicode=False)
    assert shown.isascii()
    assert "-> charge_card" in shown


def test_colour_says_nothing_by_itself() -> None:
    coloured = drawn(RENAMED, 100, colour=True)
    assert "\x1b[" in coloured
    plain = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines())
    assert plain == drawn(RENAMED, 100)


def test_text_of_a_store_is_not_obeyed() -> None:
    evil = "a\x1b[2J\u202e[bold]\n"
    names = (evil, "b")
    error = error_of(manifest(evil, *names), manifest("2", "b"), Place("paused", 1), run_id=evil)
    shown = drawn(error, 100)
    assert not set("\x1b\u202e") & set(shown)
    assert "[bold]" in shown
    assert "a\\x1b[2J\\u202e[bold]\\n" in shown


def test_a_long_pipeline_is_shortened() -> None:
    names = [f"s{number}" for number in range(60)]
    edited = [*names[:30], "other", *names[31:]]
    shown = drawn(error_of(manifest("1", *names), manifest("2", *edited), Place("paused", 30)), 100)
    steps = re.findall(r"^  (step \d+|\.\.\.)", shown, re.MULTILINE)
    assert steps == ["...", "step 29", "step 30", "step 31", "..."]
    assert "29 steps, the same" in shown
    assert "28 steps, the same" in shown


def test_fields_of_the_context() -> None:
    saved, current = manifest("1", *NAMES, total="int", note="str"), manifest("2", *NAMES, total="str", country="str")
    shown = drawn(error_of(saved, current), 160)
    assert re.search(r"^  field country +- +→ str +has no default$", shown, re.MULTILINE)
    assert re.search(r"^  field note +str +→ - +is gone$", shown, re.MULTILINE)
    assert re.search(r"^  field total +int +→ str +has another type$", shown, re.MULTILINE)


def test_what_has_no_place_in_the_table_is_said_in_a_sentence() -> None:
    shown = drawn(not_registered("r1", PLACE, "billing", ("1.4.0",)), 160)
    assert '  this code has no version 1.3.0 of "billing", only 1.4.0\n' in shown
    assert "registered: 1.4.0" in shown
    unknown = drawn(error_of(None, manifest("1.4.0", *NAMES), pipeline="billing"), 160)
    assert "  the run has version 1.3.0, this code has 1.4.0, and there is no manifest to compare\n" in unknown
    assert re.search(r"^  step 3 +\? +notify$", unknown, re.MULTILINE)


def test_one_other_run() -> None:
    assert "1 other run has this problem" in drawn_dict({**RENAMED.to_dict(), "others": 1}, 160)


# --- through the program


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's root raises what a resume would."""

    class Root:
        def main(self, **_: Any) -> int:
            raise RENAMED

    monkeypatch.setattr(app, "root", Root)


@pytest.mark.usefixtures("refusing")
def test_the_program_shows_it_and_exits_with_4(bare_lens: Lens) -> None:
    shown = bare_lens("resume", "paused-001", width=100)
    assert (shown.code, shown.out) == (4, "")
    assert shown.err.startswith(
        "error LENS-C4: StateIncompatibilityError: Cannot resume workflow due to a mismatch between the "
    )
    assert shown.err.endswith("\nmore: lens explain LENS-C4\n")


@pytest.mark.usefixtures("refusing")
def test_the_program_prints_it_as_json(bare_lens: Lens) -> None:
    shown = bare_lens("resume", "paused-001", "-o", "json")
    assert (shown.code, shown.out) == (4, "")
    assert json.loads(shown.err) == {"error": RENAMED.to_dict()}
    assert [asdict(remedy) for remedy in RENAMED.remediations] == json.loads(shown.err)["error"]["remediations"]


def test_the_bare_family_is_an_error_as_any_other(bare_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    class Root:
        def main(self, **_: Any) -> int:
            raise IncompatibleError("it does not fit")

    monkeypatch.setattr(app, "root", Root)
    shown = bare_lens("resume x")
    assert (shown.code, shown.err) == (4, "error LENS-C0: it does not fit\n")


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        (("validate", "charge_card", "notify"), [("step 1", "enrich", "")]),
        (("validate", "new", "enrich", "charge_card", "notify"), [("", "", "new")]),
    ],
)
def test_one_step_more_or_less_is_one_gap(steps: tuple[str, ...], shown: list[tuple[str, str, str]]) -> None:
    error = error_of(manifest("1.3.0", *NAMES), manifest("1.4.0", *steps)).to_dict()
    rows = [row for row in _step_rows(error, "->") if row.saved != row.current]
    assert [(row.what, row.saved, row.current) for row in rows] == shown


def test_a_step_stands_beside_its_alias() -> None:
    current = manifest("1.4.0", "check", *NAMES[1:3])
    current["steps"][0]["aliases"] = ["validate"]
    error = error_of(manifest("1.3.0", *NAMES), {**current, "steps": current["steps"][:2]}).to_dict()
    rows = [(row.saved, row.current) for row in _step_rows(error, "->")]
    assert rows[:2] == [("validate", "check"), ("enrich", "enrich")]
