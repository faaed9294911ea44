"""``lens doctor``: what it prints, and its exit code."""

from __future__ import annotations

import json
import re

import pytest
from support import Lens, tree

from flujo_lens.cli.app import COMMANDS

FIELDS = ["check", "ok", "count", "detail", "fix"]


@pytest.fixture
def well(lens: Lens) -> Lens:
    """``lens`` beside a store in which no run is silent and none is an orphan."""
    lens.edit(
        "UPDATE workflow_state SET status = 'completed' WHERE status = 'running'",
        "UPDATE runs SET status = 'completed' WHERE status = 'running'",
        "DELETE FROM spans WHERE run_id NOT IN (SELECT run_id FROM runs UNION SELECT run_id FROM workflow_state)",
    )
    return lens


def test_a_store_that_is_well(well: Lens) -> None:
    before = tree(well.cwd)
    found = well("doctor -o json")
    assert (found.code, "no problems found" in found.err) == (0, True)
    assert {tuple(row) for row in found.json} == {tuple(FIELDS)}
    assert all(row["ok"] for row in found.json)
    assert well("doctor --full").code == 0
    assert tree(well.cwd) == before


def test_what_is_wrong_comes_first_and_is_told_by_the_exit_code(well: Lens) -> None:
    well.edit("UPDATE workflow_state SET pipeline_context = '{' WHERE run_id = 'plain-001'")
    found = well("doctor -o ndjson")
    assert found.code == 1
    first, second = (json.loads(line) for line in found.lines[:2])
    assert (first["check"], first["ok"], first["count"], second["ok"]) == ("unreadable values", False, 1, True)
    assert "1 check found problems" in found.err
    assert "plain-001" in well("list --status unreadable -o id").lines or well("show plain-001").code == 0


def test_for_a_person(old_lens: Lens) -> None:
    shown = old_lens("doctor", tty=True, width=160)
    assert "lens migrate" in shown.out


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_it_uses_the_whole_terminal(old_lens: Lens, width: int) -> None:
    """What a check found and what mends it have what is left of the line beside the name of the check."""
    old_lens.edit("UPDATE workflow_state SET updated_at = 'x', created_at = 'y'")
    lines = [line.rstrip() for line in old_lens("doctor", tty=True, width=width).lines]
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 12
    assert lines[0].startswith("WRONG  ")
    words = [line for line in lines if line.startswith(" ") and not line.lstrip().startswith("lens ")]
    begin = {len(line) - len(line.lstrip()) for line in words}
    assert len(begin) == 1
    assert width - begin.pop() >= width - 36


def test_a_folder(file_lens: Lens) -> None:
    (file_lens.cwd / "states" / "bad.json").write_text("{")
    found = file_lens("doctor --columns check,ok,count -o csv")
    assert found.code == 1
    assert {"check": "unreadable files", "ok": "false", "count": "1"} in found.csv


@pytest.mark.parametrize("store", ["flujo_ops.db", "states"])
def test_the_commands_that_it_names_are_there(old_lens: Lens, store: str) -> None:
    (old_lens.files() / "bad.json").write_text("{")
    old_lens.edit("UPDATE workflow_state SET pipeline_context = '{', created_at = 'x', updated_at = 'y'")
    words = old_lens(f"doctor -o json -s {store}").out
    named = set(re.findall(r"\blens ([a-z]+)", words)) - {"status"}
    assert named
    assert named <= set(COMMANDS)


def test_there_is_no_store(bare_lens: Lens) -> None:
    assert bare_lens("doctor -s nowhere.db").code == 5
    assert tree(bare_lens.cwd) == {}
