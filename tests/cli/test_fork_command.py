"""``lens fork``: what the new run has of the old one, and how it goes on."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from pipelines import Shop
from support import Lens, tree

FIELDS = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]
MORE = ["run_id", "forked_from", "from_step", "kept", "runs_again", "cancelled"]


@pytest.fixture(params=["runs.db", "runs"])
def shop(request: pytest.FixtureRequest, bare_lens: Lens) -> Shop:
    """A run of ``billing`` that is completed and one that waits, in a store of each kind."""
    made = Shop(bare_lens, request.param)
    made.begin("billing", "done", "waits")
    assert bare_lens.process("resume done --app shop:registry --input yes").code == 0
    (made.cwd / "signs").unlink()
    return made


def test_an_earlier_step_runs_again(shop: Shop) -> None:
    made = shop.lens("fork done --from-step charge --reason 'charged twice' -o json")
    assert (made.code, list(made.json)) == (0, FIELDS + MORE)
    new = made.json["run_id"]
    assert (made.json["kept"], made.json["runs_again"]) == (["load", "approve"], ["charge"])
    assert new.startswith("done-fork-")
    resumed = shop.lens.process("resume", new, "--app", "shop:registry", "-o", "json")
    assert (resumed.json["status"], resumed.json["output"]) == ("completed", "charged yes")
    assert shop.signs() == ["charge"]
    assert shop.run("done")["status"] == "completed"
    entry = shop.entries()[-2]
    assert (entry["reason"], entry["run_ids"]) == ("charged twice", ["done", new])


def test_the_new_run_as_it_is_stored(shop: Shop) -> None:
    new = shop.lens("fork done --from-step charge -o id").lines[0]
    found = shop.lens("show", new, "--state", "-o", "json").json
    assert [step["step_name"] for step in found["steps"]] == ["load", "approve"]
    run, state = found["run"], found["state"]
    assert (run["status"], run["step_name"]) == ("failed", "charge")
    assert run["metadata"] == {"kept": "yes", "forked_from": "done"}
    assert (run["pipeline_name"], run["pipeline_version"]) == ("billing", "1.0.0")
    assert (state["current_step_index"], state["last_step_output"]) == (2, "yes")
    assert state["pipeline_context"]["run_id"] == new
    assert len(state["pipeline_context"]["hitl_history"]) == 1


def test_before_a_question_it_is_asked_again(shop: Shop) -> None:
    new = shop.lens("fork done --from-step approve -o id").lines[0]
    state = shop.lens("show", new, "--state", "-o", "json").json["state"]
    assert state["pipeline_context"]["hitl_history"] == []
    asked = shop.lens.process("resume", new, "--app", "shop:registry", "-o", "json").json
    assert (asked["status"], asked["pause_message"]) == ("paused", "Approve invoice 4711?")
    assert shop.signs() == []


def test_from_the_first_step_with_the_input_of_then(shop: Shop) -> None:
    new = shop.lens("fork waits --from-step load -o id").lines[0]
    assert shop.lens.process("resume", new, "--app", "shop:registry").code == 0
    steps = shop.lens("show", new, "-o", "json").json["steps"]
    assert [(step["step_name"], step["output"]) for step in steps] == [("load", "HELLO")]
    assert shop.signs() == ["load"]


def test_the_old_run_is_cancelled(shop: Shop) -> None:
    made = shop.lens("fork waits --from-step load --cancel-old -o json").json
    assert made["cancelled"] is True
    assert shop.run("waits")["status"] == "cancelled"
    assert shop.run(made["run_id"])["status"] == "failed"


def test_where_a_paused_run_stands(shop: Shop) -> None:
    made = shop.lens("fork waits --from-step approve")
    assert made.lines[1:3] == ["  kept: load", "  runs again: no finished step"]
    new = made.lines[3].split()[3]
    assert shop.run(new)["pause_message"] is None


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    before = tree(shop.cwd)
    shown = shop.lens("fork done --from-step approve --dry-run -o json").json
    assert (shown["dry_run"], shown["run_id"], shown["runs_again"]) == (True, None, ["approve", "charge"])
    assert shop.lens("fork done --from-step approve --dry-run").lines[-1] == "nothing was changed (--dry-run)"
    assert tree(shop.cwd) == before


def test_what_is_no_step_of_the_run(shop: Shop) -> None:
    before = tree(shop.cwd)
    refused = shop.lens("fork waits --from-step aprove")
    assert (refused.code, "approve" in refused.err) == (2, True)
    assert shop.lens("fork waits --from-step charge").code == 2, "it has not come there"
    assert shop.lens("fork nobody --from-step load").code == 3
    assert tree(shop.cwd) == before


def test_a_run_of_the_library(lens: Lens) -> None:
    new = lens("fork resumed-001 --from-step after_human -o id").lines[0]
    state = lens("show", new, "--state", "-o", "json").json["state"]
    assert [entry["name"] for entry in state["step_history"]] == ["load", "approve"]
    assert state["last_step_output"] == "yes"
    assert state["pipeline_context"]["run_id"] == new
    assert "pause_message" not in state["pipeline_context"]
    assert len(state["pipeline_context"]["hitl_history"]) == 1


def test_on_an_older_schema_it_says_what_to_do(old_lens: Lens) -> None:
    before = (old_lens.cwd / "flujo_ops.db").read_bytes()
    refused = old_lens("fork resumed-001 --from-step after_human")
    assert (refused.code, "lens migrate" in refused.err) == (5, True)
    assert (old_lens.cwd / "flujo_ops.db").read_bytes() == before


def test_a_run_without_a_state(lens: Lens) -> None:
    with closing(sqlite3.connect(lens.cwd / "flujo_ops.db")) as store:
        store.execute("DELETE FROM workflow_state WHERE run_id = 'resumed-001'")
        store.commit()
    assert lens("fork resumed-001 --from-step after_human").code == 3


def test_the_way_out_that_a_refused_resume_tells(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "one")
    code = shop.cwd / "shop.py"
    code.write_text(code.read_text().replace('human_in_the_loop("approve"', 'human_in_the_loop("consent"'))
    refused = bare_lens.process("resume one --app shop:registry --input yes -o json")
    assert refused.code == 4
    (command,) = [each["command"] for each in refused.error["remediations"] if each["id"] == "fork"]
    new = bare_lens(f"{command.removeprefix('lens ')} -o id").lines[0]
    asked = bare_lens.process("resume", new, "--app", "shop:registry", "-o", "json").json
    assert asked["status"] == "paused"
    assert bare_lens.process("resume", new, "--app", "shop:registry", "--input", "yes").out == "charged yes\n"
    assert shop.signs() == ["load", "load", "charge"]


def test_a_fork_that_nobody_has_resumed_has_not_failed(shop: Shop) -> None:
    counts = ("failing", "failed_since", "started_since")
    before = shop.lens("status -o json").json
    new = shop.lens("fork done --from-step charge -o id").lines[0]
    assert shop.lens("failed --flat -o id").lines == []
    after = shop.lens("status -o json").json
    assert [after[name] for name in counts] == [before[name] for name in counts]
    assert after["failing"] == []
    assert not re.search(r"^lens_failures_recent\{.* 1", shop.lens("stats -o prometheus").out, re.MULTILINE)
    assert "nothing to retry" in shop.lens("retry --pipeline billing --app shop:registry --yes").out
    assert f"forked from done, not started yet: lens resume {new}" in shop.lens("show", new, "-o", "table").out
    shop.lens.write("broken", "")
    assert shop.lens.process("resume", new, "--app", "shop:registry").code == 1
    assert shop.lens("failed --flat -o id").lines == [new]
    after = shop.lens("status -o json").json
    assert (after["failing"][0]["count"], after["failed_since"]) == (1, before["failed_since"] + 1)
    assert after["started_since"] == before["started_since"] + 1
    assert re.search(r"^lens_failures_recent\{.* 1", shop.lens("stats -o prometheus").out, re.MULTILINE)
