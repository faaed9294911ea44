"""``lens migrate``: what it asks, refuses, does and reports."""

from __future__ import annotations

import io
import json
import os
import pty
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import Lens, Result, tree

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id", "steps", "backup"]


def answered(lens: Lens, line: str, answer: str) -> Result:
    """Run a command on a terminal, and type `answer` when it has asked."""
    ours, theirs = pty.openpty()
    with lens.start(line, stdin=theirs, stdout=theirs, stderr=theirs, env={"NO_COLOR": "1"}) as process:
        os.close(theirs)
        with open(ours, "r+b", buffering=0) as terminal:
            shown = _until(terminal, b"[y/N] ")
            terminal.write(answer.encode())
            shown += _until(terminal, None)
    return Result(process.returncode, shown.replace(b"\r\n", b"\n"), b"")


def _until(terminal: io.RawIOBase | io.FileIO, end: bytes | None) -> bytes:
    shown = b""
    try:
        while end is None or not shown.endswith(end):
            shown += terminal.read(1) or b""
    except OSError:  # Linux tells by an error that the last user of a terminal has gone
        assert end is None, shown
    return shown


def backups(lens: Lens) -> list[Path]:
    return sorted(lens.cwd.glob("*.lens-backup-*"))


def steps(lens: Lens) -> list[str]:
    return list(lens("migrate --dry-run -o json").json["steps"])


@pytest.mark.parametrize("tty", [True, False])
def test_a_dry_run_tells_the_plan_and_changes_nothing(old_lens: Lens, tty: bool) -> None:
    before = tree(old_lens.cwd)
    shown = old_lens("migrate --dry-run", tty=tty)
    assert (shown.code, shown.err) == (0, "")
    assert "runs is built anew" in shown.out
    assert "backup:" in shown.out
    assert "flujo_ops.db.lens-backup-20261121T031108Z.db" in shown.out
    assert tree(old_lens.cwd) == before


def test_a_dry_run_in_json_reports_what_yes_does(old_lens: Lens) -> None:
    dry = old_lens("migrate --dry-run -o json").json
    assert list(dry) == REPORT
    assert (dry["done"], dry["left"], dry["dry_run"], dry["audit_id"]) == (0, len(dry["steps"]), True, None)
    wet = old_lens("migrate --yes --json").json
    assert list(wet) == REPORT
    assert wet["steps"] == dry["steps"]
    assert wet["backup"] == dry["backup"]
    assert (wet["matched"], wet["done"], wet["left"], wet["dry_run"]) == (dry["matched"], dry["matched"], 0, False)
    assert Path(wet["backup"]).is_file()
    assert steps(old_lens) == []


def test_without_a_terminal_it_needs_yes_and_reads_no_answer(old_lens: Lens) -> None:
    before = tree(old_lens.cwd)
    refused = old_lens("migrate", stdin=b"y\n")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert old_lens("migrate", tty=True, stdin=b"y\n").code == 2
    assert tree(old_lens.cwd) == before


def test_yes_migrates_and_every_run_is_still_there(old_lens: Lens) -> None:
    before = old_lens("list --all -o id").lines
    done = old_lens("migrate -y --reason upgrade -s flujo_ops.db")
    assert done.code == 0
    assert "migrated" in done.lines[0]
    assert done.lines[-1].startswith("backup: ")
    assert old_lens("list --all -o id").lines == before
    entry = json.loads((old_lens.cwd / "flujo_ops.db.lens-audit.ndjson").read_bytes())
    assert entry["command"] == ["lens", "migrate", "--yes", "--store=flujo_ops.db", "--reason=upgrade"]
    assert entry["reason"] == "upgrade"


def test_no_backup(old_lens: Lens) -> None:
    assert old_lens("migrate --yes --no-backup -o json").json["backup"] is None
    assert backups(old_lens) == []


def test_the_log_can_be_elsewhere(old_lens: Lens) -> None:
    old_lens("migrate --yes --audit-file log.ndjson")
    assert (old_lens.cwd / "log.ndjson").stat().st_size
    assert not (old_lens.cwd / "flujo_ops.db.lens-audit.ndjson").exists()


@pytest.mark.parametrize("answer", ["n\n", "\n", "yesterday\n"])
def test_anything_but_yes_on_a_terminal_changes_nothing(old_lens: Lens, answer: str) -> None:
    before = tree(old_lens.cwd)
    refused = answered(old_lens, "migrate", answer)
    assert refused.code == 1
    assert "runs is built anew" in refused.out
    assert "nothing was changed" in refused.out
    assert tree(old_lens.cwd) == before


def test_a_yes_on_a_terminal_migrates(old_lens: Lens) -> None:
    done = answered(old_lens, "migrate", "y\n")
    assert done.code == 0
    assert len(backups(old_lens)) == 1
    assert steps(old_lens) == []


@pytest.mark.parametrize("line", ["migrate", "migrate --yes", "migrate --dry-run"])
def test_up_to_date(lens: Lens, line: str) -> None:
    before = tree(lens.cwd)
    shown = lens(line)
    assert (shown.code, shown.out) == (0, "nothing to migrate: the schema is current\n")
    assert lens(f"{line} -o json").json["steps"] == []
    assert tree(lens.cwd) == before


def test_a_folder_of_files_has_nothing_to_migrate(file_lens: Lens) -> None:
    assert file_lens("migrate").out == "nothing to migrate: the schema is current\n"


def test_somebody_has_the_store_open(old_lens: Lens) -> None:
    with closing(sqlite3.connect(old_lens.cwd / "flujo_ops.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM runs").fetchone()
        refused = old_lens("migrate --yes --timeout 0.1 -o json")
    assert refused.code == 7
    assert refused.error["code"] == "LENS-B1"
    assert "another process has it open" in refused.error["message"]
    assert "lens migrate" in refused.error["hint"]
    assert backups(old_lens) == []


def test_force_migrates_what_somebody_has_open(old_lens: Lens) -> None:
    """Their connection goes on, and sees the new schema; a lock that they hold is waited for, and refused at last."""
    ids = old_lens("list --all -o id").lines
    with closing(sqlite3.connect(old_lens.cwd / "flujo_ops.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        (count,) = db.execute("SELECT count(*) FROM runs").fetchone()
        assert old_lens("migrate --yes --timeout 0.1").code == 7
        db.execute("BEGIN IMMEDIATE")
        refused = old_lens("migrate --yes --force --timeout 0.1")
        assert (refused.code, "is locked by another process; nothing was changed" in refused.err) == (7, True)
        db.execute("ROLLBACK")
        dry = old_lens("migrate --dry-run --force").out
        assert "what other processes save during the backup is not in it" in dry
        done = old_lens("migrate --yes --force -o json")
        assert (done.code, done.json["done"] > 0) == (0, True), done.err
        assert db.execute("SELECT count(*), count(updated_at) FROM runs").fetchone() == (count, count)
    assert old_lens("list --all -o id").lines == ids
    assert old_lens("migrate --dry-run").out == "nothing to migrate: the schema is current\n"
    (entry,) = [row for row in old_lens("audit list -o json").json if row["state"] == "finished"]
    assert "--force" in entry["command"]


def test_a_store_that_the_settings_call_read_only(old_lens: Lens) -> None:
    old_lens.write("lens.toml", 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\nreadonly = true\n')
    before = tree(old_lens.cwd)
    refused = old_lens("migrate --yes -o json")
    assert refused.code == 5
    assert refused.error["code"] == "LENS-S5"
    assert old_lens("migrate --dry-run").code == 0
    assert tree(old_lens.cwd) == before


def test_a_newer_schema(lens: Lens) -> None:
    lens.edit("PRAGMA user_version = 99")
    for option in ("--yes", "--dry-run"):
        refused = lens(f"migrate {option} -o json")
        assert (refused.code, refused.error["code"]) == (5, "LENS-S6")


def test_a_variable_and_a_file_that_differ(old_lens: Lens) -> None:
    old_lens.write("lens.toml", '[stores.prod]\nuri = "flujo_ops.db"\n')
    refused = old_lens("migrate --yes", env={"LENS_STORE": "other.db"})
    assert refused.code == 2
    assert "--store" in refused.err
    assert old_lens("migrate --yes --store prod", env={"LENS_STORE": "other.db"}).code == 0


def test_where_there_is_no_store(bare_lens: Lens) -> None:
    assert bare_lens("migrate --yes -s nowhere.db").code == 5
    assert tree(bare_lens.cwd) == {}
