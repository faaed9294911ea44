"""``lens tasks sweep`` and ``lens system set``: what they change, write down and report."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support import OLD, Lens, tree

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]
PARENT = "bgcrashed-001"


def entries(lens: Lens, store: str = "flujo_ops.db") -> list[dict[str, Any]]:
    """What was begun by the audit log; not the entries that tell its end."""
    return [entry for entry in every_entry(lens, store) if "closes" not in entry]


def every_entry(lens: Lens, store: str = "flujo_ops.db") -> list[dict[str, Any]]:
    log = lens.cwd / f"{store}.lens-audit.ndjson"
    return [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []


def dead_task(lens: Lens) -> str:
    (task,) = lens("tasks --status running -o id").lines
    return task


class TestSweep:
    def test_a_dead_task_is_marked_failed(self, lens: Lens) -> None:
        task = dead_task(lens)
        done = lens("tasks sweep --silent-for 2h --reason 'host died' -o json")
        assert (done.code, list(done.json)) == (0, REPORT)
        (entry,) = entries(lens)
        assert done.json == dict(zip(REPORT, (1, 1, 0, 0, 0, False, entry["audit_id"]), strict=True))
        assert entry["command"] == ["lens", "tasks", "sweep", "--silent-for=2h", "--reason=host died"]
        assert (entry["reason"], entry["counts"], entry["run_ids"]) == ("host died", {"tasks": 1}, [task])
        run = lens("show", task, "-o", "json").json["run"]
        assert (run["status"], run["error_message"]) == ("failed", "timed out: no activity for 2 hours")

    def test_nothing_else_is_changed(self, lens: Lens) -> None:
        task = dead_task(lens)
        others = [row for row in lens("list --all -o json").json if row["run_id"] != task]
        lens("tasks sweep")
        assert [row for row in lens("list --all -o json").json if row["run_id"] != task] == others

    @pytest.mark.parametrize("tty", [True, False])
    def test_a_dry_run_names_them_and_changes_nothing(self, lens: Lens, tty: bool) -> None:
        task, before = dead_task(lens), tree(lens.cwd)
        shown = lens("tasks sweep --dry-run", tty=tty)
        assert shown.code == 0
        assert f"  {task}" in shown.lines
        assert lens("tasks sweep --dry-run -o id").lines == [task]
        assert lens("tasks sweep --dry-run --json").json == dict(zip(REPORT, (1, 0, 0, 0, 1, True, None), strict=True))
        assert tree(lens.cwd) == before

    def test_the_ids_of_what_was_done(self, lens: Lens) -> None:
        task = dead_task(lens)
        assert lens("tasks sweep -o id").lines == [task]
        assert lens("tasks sweep -o id").lines == []
        assert lens("tasks sweep").out == "no stale background tasks: none without activity for 1h\n"
        assert len(entries(lens)) == 1

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (f"--parent {PARENT}", 1),
            ("--parent bgparent-001", 0),
            ("--pipeline nothing", 0),
            ("--since 2h", 0),
            ("--silent-for 4h", 0),
            ("--stale-hours 2.5", 1),
            ("--stale-hours 4", 0),
        ],
    )
    def test_filters(self, lens: Lens, options: str, found: int) -> None:
        assert lens(f"tasks sweep --dry-run {options} -o json").json["matched"] == found

    def test_a_parent_that_is_not_there(self, lens: Lens) -> None:
        assert lens("tasks sweep --parent nobody").code == 3
        assert entries(lens) == []

    @pytest.mark.parametrize(
        "options",
        [
            "--silent-for 0h",
            "--silent-for soon",
            "--stale-hours 0",
            "--stale-hours -1",
            "--stale-hours nan",
            "--silent-for 1h --stale-hours 1",
        ],
    )
    def test_what_is_no_length_of_time(self, lens: Lens, options: str) -> None:
        before = tree(lens.cwd)
        refused = lens(f"tasks sweep {options}")
        assert refused.code == 2
        assert tree(lens.cwd) == before

    def test_the_usual_silence_is_a_setting(self, lens: Lens) -> None:
        lens.write("lens.toml", 'silent_after = "4h"\n')
        assert lens("tasks sweep --dry-run -o json").json["matched"] == 0

    def test_what_a_living_process_claims_is_not_silent(self, lens: Lens) -> None:
        task = dead_task(lens)

        async def claim() -> None:
            async with SQLiteBackend(lens.cwd / "flujo_ops.db") as backend:
                lease = (timedelta(days=3650)).total_seconds()
                await backend.claim_run(task, Holder.current(), lease)

        asyncio.run(claim())
        assert lens("tasks sweep --dry-run -o json").json["matched"] == 0
        silent = {row["check"]: row["count"] for row in lens("doctor -o json").json}["stale runs"]
        assert silent == len(lens("list --status running -o id").lines) - 1

    def test_where_the_log_cannot_be_written_nothing_is_changed(self, lens: Lens) -> None:
        before = tree(lens.cwd)
        refused = lens("tasks sweep --audit-file no/such/folder.ndjson")
        assert refused.code == 1
        assert tree(lens.cwd) == before

    def test_a_store_that_the_settings_call_read_only(self, lens: Lens) -> None:
        lens.write("lens.toml", 'default = "p"\n[stores.p]\nuri = "flujo_ops.db"\nreadonly = true\n')
        before = tree(lens.cwd)
        assert (lens("tasks sweep").code, lens("system set a '{}'").code) == (5, 5)
        assert tree(lens.cwd) == before

    def test_a_folder_of_files(self, file_lens: Lens) -> None:
        found = file_lens("tasks sweep --dry-run -o id").lines
        assert found
        assert file_lens("tasks sweep -o id").lines == found
        assert entries(file_lens, "states")[0]["run_ids"] == found
        assert {file_lens("show", task, "-o", "json").json["run"]["status"] for task in found} == {"failed"}


class TestSystemSet:
    def test_a_value_is_set_and_read_again(self, lens: Lens) -> None:
        done = lens("system", "set", "limits", '{"per_minute": 60}', "--reason", "load test", "-o", "json")
        (entry,) = entries(lens)
        assert done.json == dict(zip(REPORT, (1, 1, 0, 0, 0, False, entry["audit_id"]), strict=True))
        assert lens("system get limits").json == {"per_minute": 60}
        told = lens("system", "set", "limits", '{"per_minute": 70}')
        assert told.out == "limits is set, replacing its value\n"
        assert lens("system get limits").json == {"per_minute": 70}

    def test_no_value_is_in_the_log(self, lens: Lens) -> None:
        lens("system", "set", "plan", '{"code": "hunter2"}', "-s", "flujo_ops.db")
        lens("system", "set", "plan", '{"code": "other"}')
        log = (lens.cwd / "flujo_ops.db.lens-audit.ndjson").read_text()
        assert "hunter2" not in log
        assert "other" not in log
        assert entries(lens)[0]["command"] == ["lens", "system", "set", "--store=flujo_ops.db", "plan", "***"]

    def test_a_dry_run_changes_nothing(self, lens: Lens) -> None:
        before = tree(lens.cwd)
        shown = lens("system", "set", "new", "{}", "--dry-run")
        assert shown.out == "new would be set (a new key); nothing was changed (--dry-run)\n"
        assert lens("system", "set", "new", "{}", "--dry-run", "-o", "json").json["left"] == 1
        assert tree(lens.cwd) == before

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"a": 1,}', "at character "),
            ('{"a":\n  nope}', "in line 2, column 3, before 'nope}'"),
            ("", "at its end"),
            ("{'a': 1}", "at character 2"),
            ('{"a": NaN}', "NaN is not JSON"),
            ('{"a": 1e999}', "1e999 is too large"),
            ("3", "the value is a number, but applications expect an object"),
            ("[1]", "the value is an array"),
            ("null", "the value is null"),
            ("[" * 100_000, "nested too deep"),
        ],
    )
    def test_a_value_that_cannot_be(self, lens: Lens, text: str, words: str) -> None:
        before = tree(lens.cwd)
        refused = lens("system", "set", "k", text)
        assert refused.code == 2
        assert words in refused.err
        assert tree(lens.cwd) == before

    def test_numbers_keep_all_their_digits(self, lens: Lens) -> None:
        lens("system", "set", "k", '{"n": 123456789012345678901234567890}')
        assert json.loads(lens("system get k").out)["n"] in (
            123456789012345678901234567890,
            "123456789012345678901234567890",
        )

    def test_a_key_as_a_table_prints_it(self, lens: Lens) -> None:
        lens("system", "set", "a\tb", '{"v": 1}')
        lens("system", "set", r"a\tb", '{"v": 2}')
        assert lens("system", "get", "a\tb").json == {"v": 2}
        assert lens("system list -o id").lines.count(r"a\tb") == 1

    def test_an_empty_key(self, lens: Lens) -> None:
        assert lens("system", "set", "", "{}").code == 2

    def test_an_older_store_has_no_place_for_it(self, old_lens: Lens) -> None:
        before = tree(old_lens.cwd)
        refused = old_lens("system", "set", "k", "{}", "-o", "json")
        assert (refused.code, refused.error["code"]) == (5, "LENS-S6")
        assert "lens migrate" in refused.error["hint"]
        after = tree(old_lens.cwd)
        for name in ("flujo_ops.db.lens-audit.ndjson", "flujo_ops.db.lens-audit.ndjson.head"):
            del after[name]
        assert after == before
        first, second = every_entry(old_lens)
        assert (first["counts"], second["counts"]) == ({"keys": 1}, {"done": 0})
        assert (second["closes"], second["error"]) == (first["audit_id"], "LENS-S6")

    def test_a_folder_of_files(self, file_lens: Lens) -> None:
        assert file_lens("system", "set", "k", '{"v": "é"}').code == 0
        assert file_lens("system get k").json == {"v": "é"}
        assert Path(file_lens.cwd / "states.lens-audit.ndjson").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("cancel paused-001 fail-001 --yes", r"cancelled 2 runs, undo: lens undo \S+"),
        ("fork fail-001 --from-step load", r"fail-001-fork-\w+ continues at load; fail-001 is unchanged"),
        ("tasks sweep", r"1 background task marked failed: no activity for 1h"),
        ("optimize --yes", r"optimized .*flujo_ops.db: \S+ KiB.*"),
        ("migrate --yes --store old.db", r"migrated .*old.db, backup: .*old.db.lens-backup-\S+"),
    ],
)
def test_quiet_leaves_one_line(lens: Lens, command: str, line: str) -> None:
    """Of what was done; a dry run stays whole."""
    lens.store(OLD, to="old.db")
    dry = lens(f"{command.replace(' --yes', '')} --dry-run --quiet")
    assert (dry.code, len(dry.lines) > 1) == (0, True), dry.err
    done = lens(f"{command} --quiet")
    assert (done.code, done.err, len(done.lines)) == (0, "", 1), done.out
    assert re.fullmatch(line, done.lines[0])
