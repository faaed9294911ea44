"""``lens delete``: which runs it takes, what it asks, refuses and reports."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta

import pytest
from cleaning import REPORT, answered, entries, ids, left_in_pipe, mentioned, rows
from support import NEW, NOW, OLD, PACKAGE, Lens, tree
from test_prune_command import at_work, holding, path_of

ODD = ("weird id/with slash", "per%cent_under", "üñí-run")


def gone(lens: Lens, *run_ids: str) -> bool:
    return not any(found & set(run_ids) for found in mentioned(path_of(lens)).values())


# --- which runs


def test_the_documents_own_command_line(lens: Lens) -> None:
    before = tree(lens.cwd)
    refused = answered(lens, "delete fail-001", "n\n")
    assert (refused.code, refused.out.endswith("nothing was changed\n")) == (1, True)
    assert tree(lens.cwd) == before
    shown = answered(lens, "delete fail-001", "y\n")
    assert shown.code == 0
    assert shown.out.splitlines()[:3] == [
        "  fail-001 (failed, payments 1.0.0) with 2 steps and 3 spans",
        "lens undo can restore it within 7d",
        "delete fail-001? [y/N] y",
    ]
    assert gone(lens, "fail-001")


@pytest.mark.parametrize("name", [NEW, OLD, "flujo-0.4.32", "mixture"])
def test_every_row_of_the_run_goes_and_no_other(bare_lens: Lens, name: str) -> None:
    bare_lens.store(name)
    run_id = min(run_id for run_id in ids(bare_lens, "list --status completed -o id") if "bg" not in run_id)
    before = rows(path_of(bare_lens))
    done = bare_lens("delete", run_id, "--yes", "-o", "json")
    assert (done.code, done.json["deleted"]) == (0, 1)
    stay = {t: [row for row in found if run_id.encode() not in row] for t, found in before.items()}
    assert rows(path_of(bare_lens)) == stay
    assert bare_lens(f"undo {done.json['audit_id']} --yes").code == 0
    assert rows(path_of(bare_lens)) == before


@pytest.mark.parametrize("run_id", [*ODD, "otel-001", "cohort", "-dash", " blank ", "line\nbreak", "[/x]"])
def test_whatever_id_is_printed_is_taken(lens: Lens, run_id: str) -> None:
    if run_id not in ids(lens):
        lens.rename("plain-001", run_id)
    (printed,) = [row["run_id"] for row in lens("list --all").tsv if "plain" in row["pipeline_name"]] or [run_id]
    printed = printed if run_id not in (*ODD, "otel-001") else run_id
    done = lens("delete", "--yes", "-o", "id", "--", printed)
    assert done.code == 0, done.err
    assert gone(lens, run_id)
    assert lens("undo", entries(lens)[-1]["audit_id"], "--yes").code == 0
    assert not gone(lens, run_id)


def test_with_family_background_tasks_go_along(lens: Lens) -> None:
    family = {"bgparent-001"} | {i for i in ids(lens) if i.startswith("bgparent-001_bg")}
    assert len(family) > 1
    assert set(lens("delete bgparent-001 --dry-run -o id").lines) == {"bgparent-001"}
    assert set(lens("delete bgparent-001 --family --dry-run -o id").lines) == family
    done = lens("delete bgparent-001 --family --yes --json").json
    assert (done["deleted"], gone(lens, *family)) == (len(family), True)
    assert lens("undo", done["audit_id"], "--yes").code == 0
    assert family <= ids(lens)


def test_a_whole_id_wins_over_a_prefix(lens: Lens) -> None:
    lens.rename("fail-001", "plain")
    shown = answered(lens, "delete plain", "y\n")
    assert (shown.code, "plain (failed, payments 1.0.0)" in shown.out) == (0, True)
    assert "plain-001" in ids(lens)


@pytest.mark.parametrize("typed", ["fail-0", "3d910948", "@failed", "@paused", "@latest"])
def test_on_a_terminal_prefixes_and_words_are_taken_and_the_whole_id_is_shown(lens: Lens, typed: str) -> None:
    meant = lens("show", typed, "-o", "json").json["run"]["run_id"]
    shown = answered(lens, f"delete {typed}", "y\n")
    assert (shown.code, f"  {meant} (" in shown.out) == (0, True)
    assert gone(lens, meant)


@pytest.mark.parametrize("typed", ["fail-0", "@failed", "3d910948", "nothing-001"])
def test_elsewhere_only_whole_ids_are(lens: Lens, typed: str) -> None:
    before = tree(lens.cwd)
    for more in ("--yes", "--dry-run", "--yes --force"):
        refused = lens(f"delete {typed} {more} -o json")
        assert (refused.code, refused.error["code"], refused.error["run_id"]) == (3, "LENS-R1", typed)
        assert "nothing was deleted" in refused.error["message"]
    assert lens("delete - --yes", stdin=f"{typed}\n".encode()).code == 3
    assert lens.terminal(f"delete {typed} --yes").code == 3
    assert tree(lens.cwd) == before


def test_an_ambiguous_prefix_names_the_candidates(lens: Lens) -> None:
    shown = answered(lens, "delete orders-v1", "y\n")
    assert shown.code == 3
    assert "orders-v1-001" in shown.out
    assert "orders-v1-002" in shown.out


def test_of_several_one_is_missing(lens: Lens) -> None:
    before = tree(lens.cwd)
    for order in ("fail-001 nope plain-001", "nope fail-001", "fail-001 plain-001 nope nope2"):
        refused = lens(f"delete {order} --yes -o json")
        assert refused.code == 3
        assert refused.error["run_id"] == "nope"
        assert set(refused.error["missing"]) <= {"nope", "nope2"}
        assert "--ignore-missing" in refused.error["hint"]
    assert tree(lens.cwd) == before


def test_missing_ones_can_be_ignored(lens: Lens) -> None:
    done = lens("delete fail-001 nope --ignore-missing --yes -o json")
    assert (done.code, done.json["matched"], done.json["deleted"]) == (0, 1, 1)
    before = tree(lens.cwd)
    again = lens("delete fail-001 nope --ignore-missing --yes -o json")
    assert (again.code, again.json["matched"], again.json["audit_id"]) == (0, 0, None)
    assert lens("delete nope --ignore-missing --yes").lines == ["nothing to delete"]
    assert lens("delete nope --ignore-missing --dry-run").lines == [
        "nothing to delete",
        "nothing was changed (--dry-run)",
    ]
    assert tree(lens.cwd) == before


def test_ids_from_stdin(lens: Lens) -> None:
    done = lens("delete - --yes -o json", stdin=b"fail-001\nweird id/with slash\r\n\nfail-001\n")
    assert (done.code, done.json["deleted"]) == (0, 2)
    listed = "\n".join(lens("list --pipeline orders -o id").lines)
    assert lens("delete plain-001 - --yes", stdin=listed.encode()).code == 0
    assert ids(lens, "list --pipeline orders -o id") == set()
    assert gone(lens, "plain-001")
    assert lens("delete - --yes", stdin=b"").lines == ["nothing to delete"]


def test_ids_from_stdin_leave_nowhere_to_answer(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert left_in_pipe(lens, "delete -", b"fail-001\n") == (2, b"fail-001\n")
    assert left_in_pipe(lens, "delete fail-001", b"y\n") == (2, b"y\n")
    assert lens("delete - --dry-run -o id", stdin=b"fail-001\n").lines == ["fail-001"]
    assert tree(lens.cwd) == before


def test_nothing_named(lens: Lens) -> None:
    assert lens("delete --yes").code == 2
    assert lens("delete '' --yes").code == 3


# --- asking


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04", "yep\n"])
def test_anything_but_yes_changes_nothing(lens: Lens, answer: str) -> None:
    before = tree(lens.cwd)
    shown = answered(lens, "delete fail-001 paused-001", answer)
    assert (shown.code, shown.out.endswith("nothing was changed\n")) == (1, True)
    assert "delete these 2 runs? [y/N] " in shown.out
    assert "2 runs (1 paused, 1 failed) with 3 steps and 6 spans" in shown.out
    assert tree(lens.cwd) == before


def test_without_a_terminal_it_needs_yes(lens: Lens) -> None:
    before = tree(lens.cwd)
    refused = lens("delete fail-001", stdin=b"y\n", env={"CI": "true"})
    assert refused.code == 2
    assert "--yes" in refused.err
    assert lens("delete fail-001", stdin=b"y\n", tty=True).code == 2
    assert tree(lens.cwd) == before


def test_what_cannot_be_brought_back_is_said_before(lens: Lens) -> None:
    shown = answered(lens, "delete fail-001 --no-bin", "n\n")
    assert "--no-bin: it cannot be restored" in shown.out
    lens.write("lens.toml", "[bin]\nmax_runs = 1\n")
    assert "too many for the bin" in answered(lens, "delete fail-001 plain-001", "n\n").out


def test_unattended_nothing_goes_that_the_bin_cannot_take(lens: Lens) -> None:
    lens.write("lens.toml", "[bin]\nmax_runs = 1\n")
    before = tree(lens.cwd)
    for more in ("--yes", "--dry-run"):
        refused = lens(f"delete fail-001 plain-001 {more} -o json")
        assert (refused.code, refused.error["code"]) == (1, "LENS-F1")
        assert "too many for the bin (max_runs = 1), so they could not be restored" in refused.error["message"]
        assert refused.error["hint"].startswith("--no-bin ")
        assert tree(lens.cwd) == before
    assert lens("delete fail-001 plain-001 --no-bin --dry-run").code == 0
    done = lens("delete fail-001 plain-001 --no-bin --yes -o json")
    assert (done.code, done.json["deleted"], done.json["undo"], done.err) == (0, 2, False, "")


def test_a_person_may_delete_what_the_bin_cannot_take(lens: Lens) -> None:
    lens.write("lens.toml", "[bin]\nmax_runs = 1\n")
    done = answered(lens, "delete fail-001 plain-001", "y\n")
    assert (done.code, "they cannot be restored" in done.out) == (0, True)


def test_its_tasks_stay_and_that_is_said(lens: Lens) -> None:
    tasks = {run_id for run_id in ids(lens) if run_id.startswith("bgparent-001_bg")}
    dry = lens("delete bgparent-001 --dry-run").lines
    assert "its 2 background tasks stay: they are separate runs (lens tasks list)" in dry
    assert lens("delete bgparent-001 --yes").code == 0
    assert tasks <= ids(lens)
    lens.edit("UPDATE workflow_state SET metadata = '{}' WHERE parent_run_id = 'bgparent-001'")
    assert lens(f"delete {' '.join(tasks)} --yes").code == 0
    assert not any("bgparent" in run_id for run_id in ids(lens))


def test_many_are_counted_and_the_first_named(lens: Lens) -> None:
    named = " ".join(f"'{run_id}'" for run_id in sorted(ids(lens) - {"bgparent-001"}))
    lines = lens(f"delete {named} --dry-run").lines
    assert len([line for line in lines if line.startswith("  ")]) == 21
    assert "  and 9 more" in lines
    done = lens(f"delete {named} --yes")
    assert done.out.startswith("Deleted 29 runs (")
    assert entries(lens)[0]["command"][-1] == "(29 runs)"
    assert len(entries(lens)[0]["run_ids"]) == 29


# --- reports


def test_the_report(lens: Lens) -> None:
    dry = lens("delete fail-001 paused-001 --dry-run -o json").json
    done = lens("delete fail-001 paused-001 --yes --reason cleanup -o json").json
    assert [name for name in done if name in REPORT] == REPORT == [name for name in dry if name in REPORT]
    assert (dry["matched"], dry["done"], dry["left"], dry["dry_run"]) == (2, 0, 2, True)
    assert (done["matched"], done["done"], done["left"], done["dry_run"]) == (2, 2, 0, False)
    assert done["by_status"] == dry["by_status"] == {"failed": 1, "paused": 1}
    assert (done["undo"], done["cutoff"], done["archive"]) == (True, None, None)
    (entry,) = entries(lens)
    assert (entry["audit_id"], entry["reason"], entry["run_ids"]) == (
        done["audit_id"],
        "cleanup",
        ["fail-001", "paused-001"],
    )
    assert entry["command"] == ["lens", "delete", "--yes", "--reason=cleanup", "fail-001", "paused-001"]


def test_what_it_says(lens: Lens) -> None:
    done = lens("delete fail-001 --yes")
    assert done.lines == [
        "Deleted fail-001 (failed, payments 1.0.0) with 2 steps and 3 spans.",
        f"To undo within 7d: lens undo {entries(lens)[0]['audit_id']}",
    ]
    quiet = lens("delete paused-001 --yes --quiet")
    assert quiet.lines == [f"deleted 1 run, undo: lens undo {entries(lens)[1]['audit_id']}"]
    assert lens("delete plain-001 --yes -o id").lines == ["plain-001"]
    assert lens("delete deep-001 --dry-run -o id").lines == ["deep-001"]


def test_an_output_that_makes_no_sense(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert lens("delete fail-001 --yes -o csv").code == 2
    assert lens("delete fail-001 --yes -o bogus").code == 2
    assert tree(lens.cwd) == before


# --- the state alone


def test_the_state_alone(lens: Lens) -> None:
    before = rows(path_of(lens))
    shown = lens("delete paused-001 --state-only --dry-run").lines
    assert shown[1] == (
        "  the state of paused-001 (paused, approvals 1.0.0); its 1 step and 3 spans stay, marked as cancelled"
    )
    done = lens("delete paused-001 --state-only --yes")
    assert done.lines[0] == (
        "Deleted the state of paused-001 (paused, approvals 1.0.0); its 1 step and 3 spans stay, marked as cancelled."
    )
    run = lens("show paused-001 -o json").json
    assert (run["run"]["status"], len(run["steps"])) == ("cancelled", 1)
    assert "paused-001" not in mentioned(path_of(lens))["workflow_state"]
    assert "paused-001" not in ids(lens, "waiting -o id")
    assert lens(f"undo {entries(lens)[0]['audit_id']} --yes").code == 0
    assert rows(path_of(lens)) == before


def test_the_state_alone_of_a_completed_run(lens: Lens) -> None:
    done = min(ids(lens, "list --status completed --top-level -o id"))
    before = rows(path_of(lens))
    deleted = lens(f"delete {done} --state-only --yes")
    assert "marked as cancelled" in deleted.out
    assert lens(f"show {done} -o json").json["run"]["status"] == "cancelled"
    assert lens(f"undo {entries(lens)[0]['audit_id']} --yes").code == 0
    assert rows(path_of(lens)) == before
    quiet = lens(f"delete {done} --state-only --yes -q")
    assert quiet.lines[0].startswith("deleted the state of 1 run, ")


def test_figures_that_go_with_a_state_are_named(lens: Lens) -> None:
    figures = "costs, tokens and durations of steps are in the state and go with it (lens prune --strip keeps them)"
    with sqlite3.connect(path_of(lens)) as db:
        [(some,)] = db.execute("SELECT run_id FROM workflow_state WHERE step_history LIKE '[{%' LIMIT 1")
        [(none,)] = db.execute("SELECT run_id FROM workflow_state WHERE coalesce(step_history, '[]') = '[]' LIMIT 1")
    assert f"{figures}" in lens(f"delete {some} --state-only --dry-run").out
    assert figures not in lens(f"delete {none} --state-only --dry-run").out
    assert figures in lens(f"delete {some} --state-only --yes").err


def test_the_state_alone_of_files(file_lens: Lens) -> None:
    folder = file_lens.cwd / "states"
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert file_lens("delete paused-001 --state-only --yes").code == 0
    assert "paused-001" not in ids(file_lens, "waiting -o id")
    assert file_lens(f"undo {entries(file_lens)[0]['audit_id']} --yes").code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before


def test_a_state_that_is_not_there_is_not_deleted(lens: Lens) -> None:
    assert lens("delete paused-001 --state-only --yes").code == 0
    before = rows(path_of(lens))
    told = "paused-001 has no state: nothing to delete"
    assert told in lens("delete paused-001 --state-only --dry-run").out
    again = lens("delete paused-001 --state-only --yes")
    assert (again.code, "Deleted the state" in again.out, "have no state" in again.out) == (6, False, True)
    assert lens("delete paused-001 --state-only --yes -o json").json["skipped"] == 1
    assert rows(path_of(lens)) == before
    assert [item["runs"] for item in lens("undo -o json").json] == [1]


def test_what_failed_is_told_after_the_state_is_gone(lens: Lens) -> None:
    lens.edit("UPDATE workflow_state SET error_message = 'boom' WHERE run_id = 'fail-001'")
    before = rows(path_of(lens))
    assert lens("delete fail-001 --state-only --yes").code == 0
    run = lens("show fail-001 -o json").json["run"]
    assert (run["status"], run["error_message"]) == ("cancelled", "boom")
    assert lens(f"undo {entries(lens)[0]['audit_id']} --yes").code == 0
    assert rows(path_of(lens)) == before


def test_the_state_alone_of_a_run_without_a_history(file_lens: Lens) -> None:
    assert "; it is all that is stored of the run" in (file_lens("delete plain-001 --state-only --dry-run").out)


# --- what is in the way


def test_a_run_that_gave_a_sign_lately_is_said_to_be_at_work(lens: Lens) -> None:
    at_work(lens, "plain-001", NOW - timedelta(seconds=43))
    told = "it is marked running, last activity 43s ago"
    assert told in lens("delete plain-001 --dry-run").out
    done = lens("delete plain-001 --yes")
    assert (done.code, told in done.err, gone(lens, "plain-001")) == (0, True, True)
    at_work(lens, "fail-001", NOW - timedelta(hours=2))
    assert "said to be running" not in lens("delete fail-001 --dry-run").out


def test_a_held_run_is_refused_and_its_holder_named(lens: Lens) -> None:
    with holding(lens, "plain-001") as holder:
        before = rows(path_of(lens))
        for line in ("delete plain-001 --yes", "delete fail-001 plain-001 --yes", "delete plain-001 --dry-run"):
            refused = lens(f"{line} -o json")
            assert (refused.code, refused.error["code"], refused.error["run_id"]) == (7, "LENS-B1", "plain-001")
            assert f"pid {holder.pid}" in refused.error["message"]
            assert "--force" in refused.error["hint"]
        assert rows(path_of(lens)) == before
        assert lens("delete plain-001 --force --yes").code == 0
    assert gone(lens, "plain-001")


def test_a_read_only_store(lens: Lens) -> None:
    lens.write("lens.toml", 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\nreadonly = true\n')
    before = tree(lens.cwd)
    assert lens("delete fail-001 --yes").code == 5
    assert lens("delete fail-001 --dry-run").code == 0
    assert tree(lens.cwd) == before


@pytest.mark.parametrize("by", ["path", "link", "hard link", "uri", "variable", "usual"])
def test_a_read_only_store_by_any_other_name(lens: Lens, by: str) -> None:
    lens.write("lens.toml", '[stores.prod]\nuri = "flujo_ops.db"\nreadonly = true\n')
    path = lens.cwd / "flujo_ops.db"
    (lens.cwd / "link.db").symlink_to("flujo_ops.db")
    (lens.cwd / "hard.db").hardlink_to(path)
    options = {
        "path": "-s ./flujo_ops.db",
        "link": "-s link.db",
        "hard link": "-s hard.db",
        "uri": f"-s sqlite:///{path}",
    }
    before = tree(lens.cwd)
    env = {"FLUJO_STATE_URI": "flujo_ops.db"} if by == "variable" else {}
    refused = lens(f"delete fail-001 --yes {options.get(by, '')}", env=env)
    assert (refused.code, "LENS-S5" in refused.err) == (5, True)
    assert "lens.toml:3\n  --dry-run" in refused.err
    assert tree(lens.cwd) == before


def test_the_list_of_stores_tells_which_is_read_only(lens: Lens) -> None:
    lens.write("lens.toml", 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\nreadonly = true\n')
    (row,) = lens("stores -o json").json
    assert (row["readonly"], {"delete", "undo"} & {*row["capabilities"]}) == (True, set())
    assert "default readonly" in lens("stores", tty=True, width=140).out


def test_where_nothing_can_be_written_down_nothing_is_deleted(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert lens("delete fail-001 --yes --audit-file no/log.ndjson").code == 1
    lens.write("flujo_ops.db.lens-bin", "no folder")
    refused = lens("delete fail-001 --yes")
    assert (refused.code, "--no-bin" in refused.err) == (1, True)
    (lens.cwd / "flujo_ops.db.lens-bin").unlink()
    assert tree(lens.cwd) == before


def test_files(file_lens: Lens) -> None:
    folder = file_lens.cwd / "states"
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    run_id = "per%cent_under"
    done = file_lens("delete", run_id, "complex-001", "--yes", "-o", "json").json
    assert (done["deleted"], done["undo"]) == (2, True)
    assert not {run_id, "complex-001"} & ids(file_lens)
    assert file_lens(f"undo {done['audit_id']} --yes").code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before


DRIVER = """
import json, pathlib, urllib.parse
from flujo_lens.state.backends.base import StateBackend

class Backend(StateBackend):
    def __init__(self, uri):
        self._file = pathlib.Path(urllib.parse.urlsplit(uri).path)
    def _all(self):
        return json.loads(self._file.read_text())
    async def save_state(self, run_id, state):
        self._file.write_text(json.dumps({**self._all(), run_id: state}))
    async def load_state(self, run_id):
        return self._all().get(run_id)
    async def delete_state(self, run_id):
        self._file.write_text(json.dumps({k: v for k, v in self._all().items() if k != run_id}))
    async def list_runs(self, status=None, pipeline_name=None, limit=None, offset=0, metadata_filter=None):
        return [{"run_id": k, **v} for k, v in self._all().items()][offset:][:limit]
"""


def test_a_driver_of_somebody_else_that_keeps_nothing(bare_lens: Lens) -> None:
    """The defaults delete by the driver's own methods; there is no bin, and that is said."""
    old = "2020-01-01T00:00:00+00:00"
    state = {"pipeline_name": "p", "pipeline_version": "1", "created_at": old, "updated_at": old}
    states = {name: {**state, "status": status} for name, status in (("a", "failed"), ("b", "paused"), ("c", "failed"))}
    file = bare_lens.write("all.json", json.dumps(states))
    bare_lens.write("acme.py", DRIVER)
    bare_lens.write("lens.toml", '[drivers]\nacme = "acme:Backend"\n')
    store = f"-s acme://{file} --audit-file log.ndjson"
    env = {"PYTHONPATH": f"{PACKAGE.parent}:{bare_lens.cwd}"}
    refused = bare_lens.process(f"delete a --yes -s acme://{file}", env=env)
    assert (refused.code, "--audit-file FILE" in refused.err) == (2, True)
    assert json.loads(file.read_text()) == states
    for more in ("--yes", "--dry-run"):
        refused = bare_lens.process(f"delete a {more} {store}", env=env)
        assert (refused.code, "this driver has no bin, so it could not be restored" in refused.err) == (1, True)
        assert json.loads(file.read_text()) == states
    done = bare_lens.process(f"delete a --yes --no-bin {store}", env=env)
    assert (done.code, done.out, done.err) == (0, "Deleted a (failed, p 1).\n", "")
    refused = bare_lens.process(f"prune --older-than 30d --max-share 100% --yes --archive k.ndjson {store}", env=env)
    assert (refused.code, "--archive" in refused.err) == (2, True)
    report = bare_lens.process(f"prune --older-than 30d --max-share 100% --yes -o json {store}", env=env).json
    assert (report["deleted"], report["kept"]["paused"], report["undo"]) == (1, 1, False)
    assert list(json.loads(file.read_text())) == ["b"]
