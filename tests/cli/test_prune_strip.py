"""``lens prune --strip``: which runs lose which parts, what is said of them, and how they come back."""

from __future__ import annotations

import json
import shutil

import pytest
from cleaning import answered, entries, ids, rows
from support import NEW, OLD, Lens, tree
from test_prune_command import path_of

ALL = "prune --older-than 1h --strip spans,outputs,state --max-share 100%"


def listed(lens: Lens) -> list[dict[str, object]]:
    found: list[dict[str, object]] = lens("list --all --json").json
    return found


@pytest.mark.parametrize("name", [NEW, OLD, "flujo-0.4.32", "mixture"])
def test_what_is_listed_stays_and_an_undo_brings_back_every_byte(bare_lens: Lens, name: str) -> None:
    bare_lens.store(name)
    before, stored = listed(bare_lens), rows(path_of(bare_lens))
    planned = bare_lens(f"{ALL} --include-paused --dry-run --json").json
    done = bare_lens(f"{ALL} --include-paused --yes --json")
    assert (done.code, done.json["stripped"]) == (0, planned["matched"])
    assert (done.json["deleted"], done.json["rows"]) == (0, planned["rows"])
    after = listed(bare_lens)
    assert after == before
    now = rows(path_of(bare_lens))
    assert {table: len(now[table]) for table in ("workflow_state", "runs", "steps") if table in now} == {
        table: len(stored[table]) for table in ("workflow_state", "runs", "steps") if table in stored
    }
    assert len(now.get("spans", ())) < len(stored.get("spans", ())) / 5 or "spans" not in stored
    assert bare_lens("undo", done.json["audit_id"], "--yes").code == 0
    assert listed(bare_lens) == before
    assert rows(path_of(bare_lens)) == (_renamed(stored, rows(path_of(bare_lens))) if name == NEW else stored)


def _renamed(before: dict[str, list[object]], after: dict[str, list[object]]) -> dict[str, list[object]]:
    """A run whose name only its spans told has it in its row from then on."""
    changed = [(old, new) for old, new in zip(before["runs"], after["runs"], strict=True) if old != new]
    assert all(b"otel-001" in new for _, new in changed), changed  # type: ignore[operator]
    return before | {"runs": after["runs"]}


def test_the_dry_run_says_which_and_what_and_changes_nothing(lens: Lens) -> None:
    before = tree(lens.cwd)
    dry = lens(f"{ALL} --dry-run")
    assert dry.code == 0
    assert all(word in dry.out for word in ("keep their rows", "spans", "outputs", "states"))
    chosen = set(lens(f"{ALL} --dry-run -o id").lines)
    assert tree(lens.cwd) == before
    assert set(lens(f"{ALL} --yes -o id").lines) == chosen
    assert lens(f"{ALL} --yes --json").json["matched"] == 0
    assert len(entries(lens)) == 1


def test_each_part_by_itself(lens: Lens) -> None:
    states = {run: lens("show", run, "--state", "--json").json["state"] for run in ("fail-001", "cost-001")}
    assert lens("prune --older-than 1h --strip spans --max-share 100% --yes").code == 0
    assert {run: lens("show", run, "--state", "--json").json["state"] for run in states} == states
    assert lens("trace cost-001 --json").json == []
    (said,) = lens("trace cost-001").err.splitlines()
    assert said.startswith("prune --strip dropped its spans at ")
    assert said.endswith("; what can be put back: lens undo")
    costs = [step["cost_usd"] for step in lens("show cost-001 --json").json["steps"]]
    assert lens("prune --older-than 1h --strip outputs --max-share 100% --yes").code == 0
    steps = lens("show cost-001 --json").json["steps"]
    assert ([step["cost_usd"] for step in steps], [step["output"] for step in steps]) == (costs, [None] * len(steps))
    assert lens("show cost-001 --json").json["stripped"]["parts"] == ["spans", "outputs"]


def test_a_stripped_run_is_not_resumed(lens: Lens) -> None:
    assert lens("prune --older-than 1h --strip spans --max-share 100% --yes").code == 0
    assert "LENS-F3" not in lens("resume fail-001 --app nothing:here").err
    assert lens(f"{ALL} --yes").code == 0
    for line in ("resume fail-001 --app nothing:here", "fork fail-001 --from-step load"):
        refused = lens(line)
        assert (refused.code, "LENS-F3" in refused.err, "lens undo" in refused.err) == (1, True, True), refused.err
    again = lens("retry --since 10000d --app nothing:here --dry-run --json")
    assert (again.code, again.json["matched"], again.json["skipped"]) == (
        0,
        again.json["skipped"],
        again.json["matched"],
    )
    assert again.json["matched"] > 0


def test_unattended_paused_runs_keep_all_of_theirs(lens: Lens) -> None:
    paused = ids(lens, "list --status paused -o id")
    assert paused
    assert not paused & set(lens(f"{ALL} --yes -o id").lines)
    assert set(lens(f"{ALL} --status paused --yes -o id").lines) == paused


def test_a_person_is_asked(lens: Lens) -> None:
    before = rows(path_of(lens))
    line = "prune --older-than 1h --strip state"
    shown = answered(lens, line, "n\n")
    assert (shown.code, "Strip them?" in shown.out) == (1, True)
    assert rows(path_of(lens)) == before
    shown = answered(lens, line, "y\n")
    assert (shown.code, "Stripped" in shown.out) == (0, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prune --older-than 1h --strip traces --yes", 'unknown part "traces"'),
        ("prune --older-than 1h --strip '' --yes", "unknown part"),
        ("prune --older-than 1h --strip spans --orphans --yes", "contradict"),
        ("prune --strip spans --yes", "needs an age"),
    ],
)
def test_what_makes_no_sense_changes_nothing(lens: Lens, line: str, said: str) -> None:
    before = tree(lens.cwd)
    refused = lens(line)
    assert (refused.code, said in refused.err) == (2, True), refused.err
    assert tree(lens.cwd) == before


def test_a_run_that_was_saved_since_is_left_alone_by_an_undo(lens: Lens) -> None:
    done = lens(f"{ALL} --yes --json").json
    lens.edit("UPDATE workflow_state SET updated_at = '2026-11-30T00:00:00+00:00' WHERE run_id = 'fail-001'")
    assert "stripped" not in lens("show fail-001 --json").json
    back = lens("undo", done["audit_id"], "--yes", "--json")
    assert (back.code, back.json["existing"]) == (6, ["fail-001"])


def test_an_archive_of_a_strip_holds_whole_runs(lens: Lens) -> None:
    shown = lens("show fail-001 --state --json").json
    assert lens(f"{ALL} --archive old.ndjson.gz --no-bin --yes").code == 0
    assert lens("import old.ndjson.gz --yes").code == 0
    assert lens("show fail-001 --state --json").json == shown
    assert lens("delete fail-001 --yes --no-bin").code == 0
    assert lens("import old.ndjson.gz --yes").code == 6
    assert lens("show fail-001 --state --json").json["state"] == shown["state"]


def test_a_folder_of_files_is_stripped_and_comes_back(bare_lens: Lens) -> None:
    from support import DATA

    shutil.copytree(DATA / NEW / "file-state", bare_lens.cwd / "states")
    before = json.dumps(bare_lens("list --all --json --store states").json)
    details = bare_lens("show fail-001 --state --json --store states").json
    done = bare_lens(f"{ALL} --include-paused --yes --json --store states")
    assert (done.code, done.json["stripped"] > 0) == (0, True), done.err
    assert json.dumps(bare_lens("list --all --json --store states").json) == before
    assert bare_lens("undo", done.json["audit_id"], "--yes", "--store", "states").code == 0
    assert bare_lens("show fail-001 --state --json --store states").json == details


def test_the_choice_is_that_of_prune(lens: Lens) -> None:
    for choice in ("--older-than 1h", "--older-than 1h --pipeline payments", "--keep-last 2", "--days-old 90"):
        planned = lens(f"prune {choice} --dry-run -o id --max-share 100%").lines
        assert lens(f"prune {choice} --strip spans --dry-run -o id --max-share 100%").lines == planned
