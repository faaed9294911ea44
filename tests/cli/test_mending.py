"""``lens doctor --fix`` and ``lens optimize``: what they ask, refuse, do and report."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from programs import python
from support import Lens, tree
from test_migrate_command import answered

from flujo_lens.cli.app import COMMANDS

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]
LOST = ("idx_spans_run_id", "idx_runs_status")


def entries(lens: Lens, store: str = "flujo_ops.db") -> list[dict[str, Any]]:
    """What was begun by the audit log; not the entries that tell its end."""
    return [entry for entry in every_entry(lens, store) if "closes" not in entry]


def every_entry(lens: Lens, store: str = "flujo_ops.db") -> list[dict[str, Any]]:
    log = lens.cwd / f"{store}.lens-audit.ndjson"
    return [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []


def indexes(lens: Lens) -> set[str]:
    with closing(sqlite3.connect(f"file:{lens.cwd}/flujo_ops.db?immutable=1", uri=True)) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


def is_open(lens: Lens) -> closing[sqlite3.Connection]:
    """A connection that reads the store until it is closed."""
    db = sqlite3.connect(lens.cwd / "flujo_ops.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = wal")
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM runs").fetchone()
    return closing(db)


@contextmanager
def open_elsewhere(lens: Lens, code: str) -> Iterator[int]:
    """The id of a process that ran ``code``, which ends in ``input()``, and waits there until the block is over."""
    waiting = code.replace("input()", "print(flush=True); input()")
    with python("-c", waiting, cwd=lens.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def well(lens: Lens) -> Lens:
    """``lens`` beside a store in which no problems found."""
    lens.edit(
        "UPDATE workflow_state SET status = 'completed' WHERE status = 'running'",
        "UPDATE runs SET status = 'completed' WHERE status = 'running'",
        "DELETE FROM spans WHERE run_id NOT IN (SELECT run_id FROM runs UNION SELECT run_id FROM workflow_state)",
    )
    return lens


@pytest.fixture
def slow(well: Lens) -> Lens:
    """``lens`` beside a store that lacks two indexes."""
    well.edit(*(f"DROP INDEX {name}" for name in LOST))
    return well


class TestDoctorFix:
    def test_missing_indexes_are_made(self, slow: Lens) -> None:
        assert slow("doctor").code == 1
        done = slow("doctor --fix --yes --reason slow")
        assert done.code == 0
        assert done.lines == [f"repaired: indexes: made {', '.join(LOST)}"]
        assert indexes(slow) >= set(LOST)
        entry, end = every_entry(slow)
        assert (end["closes"], end["state"]) == (entry["audit_id"], "finished")
        assert entry["command"] == ["lens", "doctor", "--fix", "--yes", "--reason=slow"]
        assert entry["counts"] == {"fixes": 1}
        assert slow("doctor").code == 0

    def test_a_dry_run_reports_what_yes_does(self, slow: Lens) -> None:
        before = tree(slow.cwd)
        dry = slow("doctor --fix --dry-run -o json")
        assert dry.code == 1
        assert list(dry.json) == [*REPORT, "fixes", "findings"]
        assert [dry.json[name] for name in REPORT] == [1, 0, 0, 0, 1, True, None]
        assert dry.json["fixes"] == [{"check": "indexes", "done": None, "left": f"make {', '.join(LOST)}"}]
        assert "would repair: indexes" in slow("doctor --fix --dry-run").out
        assert tree(slow.cwd) == before
        wet = slow("doctor --fix --yes -o json")
        assert wet.code == 0
        assert [wet.json[name] for name in REPORT[:-1]] == [1, 1, 0, 0, 0, False]
        assert wet.json["audit_id"] == entries(slow)[0]["audit_id"]
        assert all(row["ok"] for row in wet.json["findings"])

    def test_without_a_terminal_it_needs_yes(self, slow: Lens) -> None:
        before = tree(slow.cwd)
        assert slow("doctor --fix", stdin=b"y\n").code == 2
        assert tree(slow.cwd) == before

    def test_it_asks_on_a_terminal(self, slow: Lens) -> None:
        refused = answered(slow, "doctor --fix", "n\n")
        assert (refused.code, indexes(slow).isdisjoint(LOST)) == (1, True)
        assert f"indexes: make {', '.join(LOST)}" in refused.out
        assert answered(slow, "doctor --fix", "y\n").code == 0
        assert indexes(slow) >= set(LOST)

    def test_nothing_to_mend_is_not_asked_about(self, well: Lens) -> None:
        before = tree(well.cwd)
        shown = well("doctor --fix")
        assert (shown.code, shown.out) == (0, "nothing can be repaired without losing data\n")
        assert tree(well.cwd) == before

    def test_what_is_left_for_a_person_is_told(self, slow: Lens) -> None:
        slow.edit("UPDATE workflow_state SET pipeline_context = '{' WHERE run_id = 'plain-001'")
        done = slow("doctor --fix --yes")
        assert done.code == 1
        assert done.lines[0].startswith("repaired: indexes: ")
        assert done.lines[1].startswith("left: unreadable values: ")

    def test_somebody_has_the_store_open(self, slow: Lens) -> None:
        with is_open(slow):
            done = slow("doctor --fix --yes --timeout 0.1 -o json")
        assert done.code == 1
        assert (done.json["done"], done.json["failed"]) == (0, 1)
        assert "is open in another process" in done.json["fixes"][0]["left"]
        assert indexes(slow).isdisjoint(LOST)

    def test_a_large_wal_is_folded_in(self, well: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flujo_lens.state.backends.sqlite.upkeep.check.LARGE_WAL", 1)
        path = well.cwd / "flujo_ops.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_autocheckpoint = 0")
            other.execute("UPDATE runs SET total_steps = 7")
            done = well("doctor --fix --yes")
            assert (done.code, done.lines) == (0, ["repaired: WAL: all of it is in the file now"])
            assert Path(f"{path}-wal").stat().st_size == 0

    def test_what_a_reader_needs_of_the_wal_stays(self, well: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flujo_lens.state.backends.sqlite.upkeep.check.LARGE_WAL", 1)
        with is_open(well), closing(sqlite3.connect(well.cwd / "flujo_ops.db", isolation_level=None)) as other:
            other.execute("UPDATE runs SET total_steps = 7")
            done = well("doctor --fix --yes")
        assert done.code == 1
        assert done.lines[0].startswith("not repaired: WAL: another process reads from it")

    def test_the_options_of_fix_alone(self, well: Lens) -> None:
        for option in ("--yes", "--dry-run", "--reason x", "--audit-file x"):
            assert well(f"doctor {option}").code == 2

    def test_leftovers_of_saves_are_put_aside(self, file_lens: Lens) -> None:
        folder = file_lens.cwd / "states"
        for name, age in (("old-1.json.tmp", 7200), ("old-2.json.tmp", 7200), ("new.json.tmp", 60)):
            (folder / name).write_text(f'{{"run_id": "{name}"}}')
            os.utime(folder / name, (time.time() - age,) * 2)
        before = {name: stamp for name, stamp in tree(folder).items() if not name.startswith("old")}
        dry = file_lens("doctor --fix --dry-run -o json").json
        assert dry["fixes"] == [{"check": "leftovers", "done": None, "left": "put 2 leftovers into the bin"}]
        done = file_lens("doctor --fix --yes")
        assert done.lines[0].startswith("repaired: leftovers: moved 2 to ")
        aside = file_lens.cwd / "states.lens-bin" / "leftovers"
        assert sorted(path.name for path in aside.iterdir()) == ["old-1.json.tmp", "old-2.json.tmp"]
        assert json.loads((aside / "old-1.json.tmp").read_text()) == {"run_id": "old-1.json.tmp"}
        assert tree(folder) == before

    def test_what_is_named_finishes_deletions_that_were_interrupted(self, file_lens: Lens) -> None:
        folder = file_lens.cwd / "states"
        victim = folder / "single-001.json"
        mark = (victim.stat().st_ino, victim.stat().st_size, victim.stat().st_mtime_ns)
        (folder / ".lens-history").mkdir(exist_ok=True)
        listed = {"states": {victim.name: mark}, "histories": {}}
        (folder / ".lens-history" / "graves.json").write_text(json.dumps(listed))
        rows = {row["check"]: row for row in file_lens("doctor -o json").json}
        assert (rows["unfinished deletions"]["ok"], rows["unfinished deletions"]["count"]) == (False, 1)
        assert rows["unfinished deletions"]["fix"].endswith(": lens prune --orphans")
        assert file_lens("prune --orphans --yes").code == 0
        assert not victim.exists()
        rows = {row["check"]: row for row in file_lens("doctor -o json").json}
        assert (rows["unfinished deletions"]["ok"], rows["unfinished deletions"]["count"]) == (True, 0)

    def test_a_leftover_of_the_same_name_is_kept_beside(self, file_lens: Lens) -> None:
        left = file_lens.cwd / "states" / "x.json.tmp"
        for text in ("1", "2"):
            left.write_text(text)
            os.utime(left, (time.time() - 7200,) * 2)
            file_lens("doctor --fix --yes")
        aside = file_lens.cwd / "states.lens-bin" / "leftovers"
        assert sorted(path.read_text() for path in aside.iterdir()) == ["1", "2"]


class TestFindings:
    def test_every_command_that_is_named_runs(self, lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flujo_lens.state.backends.sqlite.upkeep.check.LARGE_WAL", 1)
        lens.edit(
            "DELETE FROM runs WHERE run_id = 'plain-001'",
            "DELETE FROM workflow_state WHERE run_id = 'plain-001'",
            "UPDATE workflow_state SET created_at = 'x' WHERE run_id = 'meta-001'",
            "DROP INDEX idx_runs_status",
        )
        with is_open(lens), closing(sqlite3.connect(lens.cwd / "flujo_ops.db", isolation_level=None)) as other:
            other.execute("UPDATE runs SET total_steps = 7")
            fixes = [row["fix"] for row in lens("doctor -s flujo_ops.db -o json").json if row["fix"]]
            narrow = lens.terminal("doctor", "-s", "flujo_ops.db", "--color", "never", width=80)
            piped, fixing = lens("doctor -s flujo_ops.db"), lens("doctor -s flujo_ops.db --fix --yes", width=80)
        named = {words for fix in fixes for words in re.findall(r"\blens ([a-z]+(?: (?:--?)?[a-z0-9-]+)*)", fix)}
        assert {words.split()[0] for words in named} <= set(COMMANDS) | {"prune"}
        commands = [f"lens {fix.partition(': lens ')[2]}" for fix in fixes if ": lens " in fix]
        assert "lens list --store flujo_ops.db --status running" in commands
        for command in commands:  # on a line of its own, to be pasted, at any width
            assert command in map(str.strip, narrow.lines), command
            assert command in map(str.strip, piped.lines), command
        assert "lens prune --store flujo_ops.db --orphans" in map(str.strip, fixing.lines)  # what is left

    def test_the_silent_runs_are_those_of_the_hint(self, lens: Lens) -> None:
        count = {row["check"]: row["count"] for row in lens("doctor -o json").json}["stale runs"]
        assert len(lens("list --status running --active-until 1h -o id").lines) == count > 0


class TestOptimize:
    def test_a_dry_run_tells_the_plan(self, well: Lens) -> None:
        before = tree(well.cwd)
        shown = well("optimize --vacuum --dry-run")
        assert (shown.code, shown.err) == (0, "")
        assert "create the index lens_idx_spans_figures on spans(name, status, start_time, end_time)" in shown.out
        assert re.search(r"needs .* free in /", shown.out)
        assert "VACUUM" in shown.out
        assert "VACUUM" not in well("optimize --dry-run").out
        dry = well("optimize --vacuum --dry-run -o json").json
        assert [dry[name] for name in REPORT] == [5, 0, 0, 0, 5, True, None]
        assert tree(well.cwd) == before

    def test_yes_makes_indexes_and_every_run_is_still_there(self, well: Lens) -> None:
        before = well("list --all -o json").json, well("stats -o json").json, well("failed --hours 90000 -o json").json
        done = well("optimize --yes -o json --reason slow")
        assert done.code == 0
        assert [done.json[name] for name in REPORT[:-1]] == [4, 4, 0, 0, 0, False]
        assert len(done.json["indexes"]) == len([name for name in indexes(well) if name.startswith("lens_idx_")]) == 3
        assert done.json["file_bytes_after"] == (well.cwd / "flujo_ops.db").stat().st_size
        entry, end = every_entry(well)
        assert (end["closes"], end["state"]) == (entry["audit_id"], "finished")
        assert (entry["counts"], entry["reason"]) == ({"indexes": 3, "vacuum": 0}, "slow")
        after = well("list --all -o json").json, well("stats -o json").json, well("failed --hours 90000 -o json").json
        assert after == before
        assert well("doctor --full").code == 0

    def test_doctor_counts_the_indexes_that_it_would_make(self, well: Lens) -> None:
        before = next(row for row in well("doctor -o json").json if row["check"] == "indexes")
        assert (before["ok"], before["count"], before["fix"]) == (True, 3, "to make them: lens optimize")
        assert well("optimize --yes").code == 0
        after = next(row for row in well("doctor -o json").json if row["check"] == "indexes")
        assert (after["ok"], after["count"], after["detail"]) == (True, 0, "all are there")

    def test_a_second_time_the_indexes_are_there(self, well: Lens) -> None:
        well("optimize --yes")
        assert well("optimize --yes").lines[0] == "all indexes exist"

    def test_a_vacuum_gives_back_what_is_free(self, well: Lens) -> None:
        well.edit(
            "CREATE TABLE filler (text)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
            "INSERT INTO filler SELECT hex(zeroblob(1500)) FROM n",
            "DROP TABLE filler",
        )
        assert "lens optimize --vacuum" in well("doctor").out
        dry = well("optimize --vacuum --dry-run -o json").json
        done = well("optimize --vacuum --yes -o json").json
        assert dry["reusable_bytes"] > 1_000_000
        assert done["file_bytes_before"] == dry["file_bytes_before"]
        assert done["file_bytes_after"] < done["file_bytes_before"] - 1_000_000
        assert done["reusable_bytes"] == 0

    def test_without_a_terminal_it_needs_yes(self, well: Lens) -> None:
        before = tree(well.cwd)
        assert well("optimize", stdin=b"y\n").code == 2
        assert tree(well.cwd) == before

    def test_it_asks_on_a_terminal(self, well: Lens) -> None:
        refused = answered(well, "optimize", "\n")
        assert refused.code == 1
        assert "create the index" in refused.out
        assert not any(name.startswith("lens_") for name in indexes(well))

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not say who has a file open")
    def test_without_a_wal_too_it_is_refused_while_somebody_has_the_store_open(self, well: Lens) -> None:
        well.edit("PRAGMA journal_mode = delete")
        code = "c = __import__('sqlite3').connect('flujo_ops.db'); c.execute('SELECT 1 FROM runs').fetchall(); input()"
        with open_elsewhere(well, code) as pid:
            assert f"the processes {pid} (" in well("doctor").out
            refused = well("optimize --vacuum --yes --timeout 0.1")
            assert (refused.code, refused.out) == (7, "")
            assert "is open in another process, and this needs it alone; nothing was changed" in refused.err
        assert "no other process has the store open" in well("doctor").out
        assert well("optimize --vacuum --yes --timeout 0.1").code == 0

    def test_it_is_refused_while_somebody_has_the_store_open(self, well: Lens) -> None:
        with is_open(well):
            refused = well("optimize --yes --timeout 0.1 -o json")
            assert (refused.code, refused.error["code"]) == (7, "LENS-B1")
            assert [entry["counts"] for entry in every_entry(well)] == [{"indexes": 3, "vacuum": 0}, {"done": 0}]
            assert well("optimize --yes --force").code == 0
        assert len([name for name in indexes(well) if name.startswith("lens_")]) == 3
        assert well("optimize --dry-run -o json").json["indexes"] == []

    def test_an_older_store_and_its_migration(self, old_lens: Lens) -> None:
        before = old_lens("list --all -o json").json
        assert "start_time" in old_lens("optimize --yes").out
        assert old_lens("list --all -o json").json == before
        assert old_lens("migrate --yes").code == 0
        assert old_lens("list --all -o json").json == before
        assert len(old_lens("optimize --yes -o json").json["indexes"]) > 0
        assert old_lens("optimize --dry-run -o json").json["indexes"] == []

    def test_a_newer_schema(self, lens: Lens) -> None:
        lens.edit("PRAGMA user_version = 99")
        for option in ("--yes", "--dry-run"):
            refused = lens(f"optimize {option} -o json")
            assert (refused.code, refused.error["code"]) == (5, "LENS-S6")

    def test_a_folder_has_nothing_to_optimize(self, file_lens: Lens) -> None:
        before = tree(file_lens.cwd)
        shown = file_lens("optimize --vacuum")
        assert (shown.code, shown.out) == (0, "nothing to optimize: this store has neither indexes nor free space\n")
        assert tree(file_lens.cwd) == before

    def test_there_is_no_store(self, bare_lens: Lens) -> None:
        assert bare_lens("optimize --yes -s nowhere.db").code == 5
        assert tree(bare_lens.cwd) == {}


class TestOrphans:
    @pytest.mark.parametrize(("age", "old"), [(2, True), (0, False)])
    def test_doctor_and_prune_agree_about_their_age(self, well: Lens, age: int, old: bool) -> None:
        when = f"strftime('%Y-%m-%dT%H:%M:%f+00:00', '2026-11-21 03:00:00', '-{age} days')"
        well.edit(
            *(f"DELETE FROM {table}" for table in ("runs", "workflow_state", "spans", "traces", "evaluations")),
            f"UPDATE steps SET created_at = {when}",
        )
        (found,) = (row for row in well("doctor -o json").json if row["check"] == "orphans in steps")
        shown = well("prune --orphans --dry-run").out
        assert ("0 by now" in found["fix"]) is not old
        assert "lens show" not in found["fix"]
        assert (f"kept {found['count']} rows without a run, newer than 1d" in shown) is not old
        assert (f"rows without a run: {found['count']} steps" in shown) is old


def test_a_file_of_the_wal_that_nobody_may_write_is_found(well: Lens) -> None:
    left = well.write("flujo_ops.db-shm", "\0" * 32768)
    for mode, ok in ((0o444, False), (0o644, True)):
        left.chmod(mode)
        (found,) = (row for row in well("doctor -o json").json if row["check"] == "files of the WAL")
        assert (found["ok"], found["count"], "chmod" in (found["fix"] or "")) == (ok, int(not ok), not ok)


AS_NOBODY = """
import os, sys
from flujo_lens.cli.app import main
def run(store):
    for words in (
        "prune --older-than 1h --max-share 100% --yes", "optimize --yes", "system set a {}", "delete fail-001 --yes",
        "cancel paused-001 --yes", "resume paused-001 --input yes --app none:none", "migrate --yes",
        "fork fail-001 --from-step load", "retry fail-001 --app none:none --yes", "tasks sweep", "doctor --fix --yes",
    ):
        sys.argv = ["lens", *words.split(), "--store", store]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        print(code, flush=True)
run("warm.db")  # the modules are loaded by one who may read them
print("--", flush=True)
print("--", file=sys.stderr, flush=True)
if os.geteuid() == 0:
    os.setuid(65534)
run("flujo_ops.db")
"""


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "words"),
    [
        (0o777, 0o444, "you cannot write to this file (-r--r--r-- "),
        (0o555, 0o666, "you cannot write to its folder (dr-xr-xr-x "),
    ],
)
def test_a_store_that_may_not_be_written_is_said_to_be_read_only(
    lens: Lens, folder_mode: int, file_mode: int, words: str
) -> None:
    """By every command that changes it, before anything else, and nothing is left beside it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for store in ("warm.db", "flujo_ops.db"):
            shutil.copyfile(lens.cwd / "flujo_ops.db", folder / store)
        folder.chmod(folder_mode)
        (folder / "flujo_ops.db").chmod(file_mode)
        command = [sys.executable, "-c", AS_NOBODY]
        done = subprocess.run(command, cwd=folder, env=lens.environment(), capture_output=True, text=True)
        codes, said = done.stdout.split("--\n")[1].split(), done.stderr.split("--\n", 1)[1]
        assert codes == ["5"] * 11
        assert said.count(f"the store {folder.resolve()}/flujo_ops.db is read-only: {words}") == 11
        assert said.count("\n  run lens as the user that owns it: sudo -u ") + said.count("chmod u+w ") == 11
        assert ("--audit-file" in said, "--lock-file" in said) == (False, False)
        assert {path.name for path in folder.glob("flujo_ops.db*")} == {"flujo_ops.db"}
