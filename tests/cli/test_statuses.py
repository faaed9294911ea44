"""Statuses that lens does not know: whatever a store holds can be asked for, wherever a status is taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest
from support import OLD, Lens

ODD = (" paused ", "suspended", "Suspended", "on hold", "a,b", " padded ", "we\tird\\", "COMPLETED", "été", "", None, 5)
"""What an application, or a newer library, may have written."""


def _fill(lens: Lens, kind: str) -> None:
    """A run of every odd status beside those of the store."""
    if kind == "files":
        for index, status in enumerate(ODD):
            document = {"run_id": f"odd-{index}", "status": status, "pipeline_context": {}, "pipeline_name": "p"}
            times = {"created_at": "2026-11-21T00:11:08+00:00", "updated_at": "2026-11-21T00:11:08+00:00"}
            lens.write(f"states/odd-{index}.json", json.dumps(document | times))
        return
    if kind == "old":
        lens.edit("PRAGMA ignore_check_constraints = ON", *_rows("runs", "start_time"))
    else:
        lens.edit(*_rows("runs", "created_at"))
        lens.edit("UPDATE workflow_state SET status = 'suspended' WHERE run_id = 'paused-001'")


def _rows(table: str, started: str) -> Iterable[tuple[str, tuple[object, ...]]]:
    """Rows without a state; a column that may not be NULL takes an empty text in its place."""
    sql = (
        f"INSERT INTO {table} (run_id, pipeline_name, pipeline_version, status, {started}) "
        "VALUES (?, 'p', '1', ?, '2026-11-21T00:11:08+00:00')"
    )
    more = {"created_at": ("pipeline_id, updated_at", "'p', '2026-11-21T00:11:08+00:00'")}.get(started)
    if more is not None:
        sql = sql.replace(") VALUES (", f", {more[0]}) VALUES (").removesuffix(")") + f", {more[1]})"
    return [(sql, (f"odd-{index}", "" if status is None else status)) for index, status in enumerate(ODD)]


@pytest.fixture(params=["new", "old", "files"])
def odd(request: pytest.FixtureRequest) -> Lens:
    """``lens`` beside a store of each kind that holds odd statuses."""
    lens: Lens = request.getfixturevalue({"new": "lens", "old": "old_lens", "files": "file_lens"}[request.param])
    _fill(lens, request.param)
    return lens


def test_each_status_that_is_shown_finds_its_runs(odd: Lens) -> None:
    rows = odd("list --all -o json").json
    assert len({row["status"] for row in rows}) > len(ODD)
    for status, number in Counter(row["status"] for row in rows).items():
        found = odd("list", "--all", "--status", status, "-o", "id")
        assert found.code == 0, (status, found.err)
        assert found.lines == [row["run_id"] for row in rows if row["status"] == status]
        assert odd("stats", "--status", status, "-o", "json").json["by_status"] == {status: number}


def test_a_status_is_taken_as_a_pipe_prints_it(odd: Lens) -> None:
    for row in odd("list --all --columns run_id,status").tsv:
        assert row["run_id"] in odd("list", "--all", "--status", row["status"], "-o", "id").lines, row


def test_several_and_in_any_case_where_that_is_clear(odd: Lens) -> None:
    def found(status: str) -> set[str]:
        rows = odd("list", "--all", "--status", status, "-o", "json").json
        return {row["status"] for row in rows}

    assert found("suspended, failed") == {"suspended", "failed"}
    assert found("SUSPENDED") == {"suspended", "Suspended"}
    assert found("Suspended") == {"Suspended"}
    assert found("On Hold,ÉTÉ") == {"on hold", "été"}
    assert found("FAILED") == {"failed"}
    assert found("completed") == {"completed"}
    assert found("COMPLETED") == {"COMPLETED"}


@pytest.mark.parametrize(
    "command", ["list", "stats", "tasks list", "prune --older-than 1h --dry-run", "check --save there.json"]
)
def test_every_command_takes_them(lens: Lens, command: str) -> None:
    _fill(lens, "new")
    assert lens(f"{command} --status failed,'on hold'").code == 0
    wrong = lens(f"{command} --status suspnded")
    assert wrong.code == 2
    assert 'unknown status "suspnded". Did you mean suspended? Statuses: running, paused, ' in wrong.err
    assert "on hold" in wrong.err
    assert ("lens list --status running" in lens(f"{command} --status stale").err) is True
    assert "lens list --status running" not in wrong.err


def test_a_wrong_one_is_one_that_nobody_knows(odd: Lens) -> None:
    for status, meant in (("cancled", "cancelled"), ("suspnded", "suspended")):
        error = odd("list", "--status", f"failed,{status}", "-o", "json")
        assert (error.code, error.out) == (2, "")
        assert f'unknown status "{status}". Did you mean {meant}?' in error.error["message"].replace(
            "Suspended", "suspended"
        )


def test_of_very_many_an_error_names_some(lens: Lens) -> None:
    lens.edit("UPDATE runs SET status = 'odd-' || rowid", "DELETE FROM workflow_state")
    told = lens("list --status x").err
    assert told.count("odd-") == 20
    assert " more" in told


def test_a_store_without_states_or_runs(bare_lens: Lens) -> None:
    for table, other in (("runs", "workflow_state"), ("workflow_state", "runs")):
        bare_lens.store(OLD, to=f"{table}.db")
        held = f"UPDATE {table} SET status = 'held'"
        bare_lens.edit("PRAGMA ignore_check_constraints = ON", f"DROP TABLE {other}", held, store=f"{table}.db")
        found = bare_lens(f"list --status held --count -s {table}.db")
        assert int(found.out) > 10, found.err
        assert found.out == bare_lens(f"list --count -s {table}.db").out


def test_spans_of_a_status_that_the_trace_has(lens: Lens) -> None:
    lens.edit("UPDATE spans SET status = 'skipped' WHERE run_id = 'deep-001' AND name = 'load'")
    assert lens("spans deep-001 --status skipped --columns name").lines == ["name", "load"]
    wrong = lens("spans deep-001 --status skiped")
    assert (wrong.code, "Did you mean skipped?" in wrong.err) == (2, True)


def test_a_saved_check_knows_its_own_statuses(lens: Lens) -> None:
    assert lens("check --save there.json").code == 0
    wrong = lens("check --from there.json --app x:y --status pausd", env={"LENS_STORE": "nowhere"})
    assert 'unknown status "pausd". Did you mean paused?' in wrong.err
