"""``lens prune``: what it asks, refuses, takes, keeps and reports."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cleaning import (
    CTRL_C,
    REPORT,
    aged,
    answered,
    entries,
    findings,
    ids,
    left_in_pipe,
    many,
    mentioned,
    outcomes,
    rows,
)
from programs import python
from support import DATA, NEW, NOW, OLD, WAL, Lens, tree

from flujo_lens.operations.store_lock import StoreLock

ALL = "prune --older-than 1h --yes --include-paused --max-share 100%"
"""All that the real stores hold is older: they were made three hours before the tests' present."""

OLD_STORES = ("flujo-0.4.32", OLD, "mixture")
PAUSED = {"paused-001", "paused-loop-001", "paused-schema-001"}


def path_of(lens: Lens) -> Path:
    return lens.cwd / "flujo_ops.db"


def gone(lens: Lens, *run_ids: str) -> bool:
    """Whether no table has a row of any of these runs."""
    return not any(found & set(run_ids) for found in mentioned(path_of(lens)).values())


# --- the documents' own command lines


def test_prune_days_old_30(lens: Lens) -> None:
    many(lens, 3)
    refused = answered(lens, "prune --days-old 30", "n\n")
    assert refused.code == 1
    assert "Older than 30d (last update before " in refused.out
    assert "3 runs with 6 steps and 3 spans" in refused.out
    assert "nothing was changed" in refused.out
    assert not gone(lens, "m-1")
    done = answered(lens, "prune --days-old 30", "y\n")
    assert (done.code, gone(lens, "m-1", "m-2", "m-3")) == (0, True)


def test_prune_days_old_90_of_a_status(lens: Lens) -> None:
    aged(lens)
    completed = ids(lens, "list --all --status completed -o id")
    others = ids(lens) - completed
    done = lens("prune --days-old 90 --status completed --yes --max-share 100%")
    assert (done.code, done.err) == (0, "")
    left = ids(lens)
    assert others <= left
    family = {run_id for run_id in completed if run_id.startswith("bgparent-001")}
    assert left - others == family != set(), "one with a task that failed stays whole"


# --- asking


@pytest.mark.parametrize("line", ["prune --days-old 30", "prune --older-than 1h", "prune --keep-last 1 -o json"])
def test_without_a_terminal_it_needs_yes_and_reads_no_answer(lens: Lens, line: str) -> None:
    aged(lens)
    before = tree(lens.cwd)
    assert left_in_pipe(lens, line, b"y\n") == (2, b"y\n")
    refused = lens(line, stdin=b"y\n", tty=True)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert lens(line, env={"CI": "true"}).code == 2
    assert tree(lens.cwd) == before


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04", "yesterday\n", "y a\n", "k\n"])
def test_anything_but_yes_changes_nothing(lens: Lens, answer: str) -> None:
    aged(lens)
    before = tree(lens.cwd)
    refused = answered(lens, "prune --older-than 30d", answer)
    assert refused.code == 1
    assert refused.out.endswith("nothing was changed\n")
    assert tree(lens.cwd) == before


def test_the_question_names_paused_runs_first_and_apart(lens: Lens) -> None:
    aged(lens)
    shown = answered(lens, "prune --older-than 30d", "n\n").out
    first = next(line for line in shown.splitlines() if line.startswith("  ") and "/" not in line)
    assert first == "  paused      3   could still be resumed (lens waiting)"
    assert "y deletes the 27 that are not paused; a deletes all 30\nDelete them? [y/a/N] " in shown
    assert "lens undo can restore them within 7d" in shown


def test_y_keeps_the_paused_ones_and_a_takes_all(lens: Lens) -> None:
    aged(lens)
    copy = shutil.copyfile(path_of(lens), lens.cwd / "other.db")
    kept = answered(lens, "prune --older-than 30d", "y\n")
    assert (kept.code, ids(lens)) == (0, PAUSED)
    assert "kept 3 paused" in kept.out
    only_paused = answered(lens, "prune --older-than 30d", "n\n").out
    assert "a deletes all 3\nDelete them? [a/N] " in only_paused
    taken = answered(lens, f"prune --older-than 30d -s {copy.name}", "a\n")
    assert (taken.code, ids(lens, f"list -s {copy.name} -o id")) == (0, set())
    assert "kept" not in taken.out


@pytest.mark.parametrize("more", ["--status paused", "--include-paused", "--status paused,failed"])
def test_where_all_is_asked_for_a_is_no_answer(lens: Lens, more: str) -> None:
    aged(lens)
    shown = answered(lens, f"prune --older-than 30d {more}", "a\n")
    assert (shown.code, "Delete them? [y/N] " in shown.out) == (1, True)


def test_a_is_held_to_the_limits_that_were_given(lens: Lens) -> None:
    aged(lens)
    refused = answered(lens, "prune --older-than 30d --max-delete 27", "a\n")
    assert (refused.code, "more than --max-delete 27" in refused.out, len(ids(lens))) == (1, True, 30)
    assert answered(lens, "prune --older-than 30d --max-delete 27", "y\n").code == 0
    assert ids(lens) == PAUSED


@pytest.mark.parametrize("more", ["", "--include-paused", "--status weird --max-share 10%"])
def test_statuses_that_lens_does_not_know_stay_where_nobody_is_asked(lens: Lens, more: str) -> None:
    aged(lens)
    lens.edit(
        "UPDATE workflow_state SET status = 'weird' WHERE run_id = 'plain-001'",
        "UPDATE runs SET status = 'weird' WHERE run_id = 'plain-001'",
    )
    if "--status" in more:
        lens.edit("UPDATE workflow_state SET status = 'weird' WHERE run_id = 'meta-001'")
        pytest.skip("the status is not accepted") if lens(f"list {more[:14]}").code else None
        assert lens(f"prune --older-than 1h --yes {more}").code == 0
        assert not ids(lens) & {"plain-001", "meta-001"}
        return
    done = lens(f"prune --older-than 1h --yes --max-share 100% {more} -o json").json
    assert done["kept"]["unknown_status"] == 1
    assert ids(lens) == {"plain-001"} | (set() if more else PAUSED)
    shown = lens("prune --older-than 1h --dry-run")
    assert "kept 1 of unknown status; --status NAME deletes it" in shown.lines
    quiet = lens("prune --older-than 1h --dry-run --quiet").out
    assert "1 of unknown status" in quiet
    asked = answered(lens, "prune --older-than 30d", "a\n")
    others = "" if more else "paused or "
    assert f"a deletes {'it' if more else 'all 4'}\n" in asked.out, others
    assert ids(lens) == set()


def test_nothing_is_asked_where_there_is_nothing_to_delete(lens: Lens) -> None:
    shown = lens.terminal("prune --older-than 20000d")
    assert shown.code == 0
    assert "nothing to delete" in shown.out
    assert "[y" not in shown.out
    assert not list(lens.cwd.glob("*.lens-*"))


def test_a_narrow_terminal_cuts_no_line(lens: Lens) -> None:
    aged(lens)
    shown = answered(lens, "prune --older-than 30d --archive kept.ndjson", "n\n", width=60).out
    assert max(len(line) for line in shown.splitlines() if "/w/" not in line) <= 60
    assert shown.count(f"{lens.cwd}/") == 2, "what can be copied is whole"


# --- ages


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("3m", "3m is 3 minutes; months: 90d"),
        ("30s", "30s is 30 seconds"),
        ("30", "has no unit"),
        ("0d", 'an age, not "0d"'),
        ("-1d", 'an age, not "-1d"'),
        ("1.5d", "36h"),
        ("", "an age"),
        ("yesterday", "an age"),
        ("9999999999999d", "is out of range"),
    ],
)
def test_ages_that_could_be_meant_otherwise_are_refused(lens: Lens, age: str, words: str) -> None:
    before = tree(lens.cwd)
    refused = lens("prune", "--older-than", age, "--yes")
    assert refused.code == 2
    assert words in refused.err
    told = lens("prune", "--older-than", age, "--yes", "-o", "json").error
    assert told["code"] == "LENS-U4"
    assert told["hint"]
    lens.write("lens.toml", f'[prune]\nolder_than = "{age}"\n')
    assert lens("prune --yes").code == 2
    (lens.cwd / "lens.toml").unlink()
    assert tree(lens.cwd) == before


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "1e300", "3m"])
def test_days_that_are_none(lens: Lens, days: str) -> None:
    before = tree(lens.cwd)
    assert lens(f"prune --days-old {days} --yes").code == 2
    assert tree(lens.cwd) == before


@pytest.mark.parametrize("age", ["99999999d", "739000d", "9999999999w"])
def test_ages_longer_than_time_goes_back_take_nothing(lens: Lens, age: str) -> None:
    done = lens(f"prune --older-than {age} --dry-run")
    assert (done.code, done.err) == ((0, "") if age.endswith("d") else (2, done.err))
    assert age in done.out + done.err


@pytest.mark.parametrize("option", ["--older-than 26h", "--days-old 1.5", "--older-than 4w"])
def test_an_age_is_told_as_it_was_typed(lens: Lens, option: str) -> None:
    typed = "1.5d" if "days" in option else option.split()[1]
    assert lens(f"prune {option} --dry-run").out.startswith(f"Older than {typed} (")


def test_months_are_not_offered_to_whoever_meant_minutes(lens: Lens) -> None:
    assert "months: 1080d" in lens("prune --older-than 36m --yes").err
    assert "months" not in lens("prune --older-than 90m --yes").err


def test_a_mistyped_pipeline_is_told(lens: Lens) -> None:
    (name, *_) = (row["pipeline_name"] for row in lens("stats -o json").json["by_pipeline"])
    done = lens("prune", "--older-than", "1h", "--pipeline", f"{name}x", "--yes")
    assert (done.code, f'no run is of the pipeline "{name}x"; did you mean {name}?' in done.err) == (0, True)
    assert lens("prune", "--older-than", "900d", "--pipeline", name, "--yes").err == ""


def test_an_age_is_needed_and_one_is_enough(lens: Lens) -> None:
    before = tree(lens.cwd)
    refused = lens("prune --yes")
    assert refused.code == 2
    assert "--older-than 30d --dry-run" in refused.err
    assert lens("prune --status completed --yes").code == 2
    assert lens("prune --days-old 1 --older-than 1d --yes").code == 2
    assert tree(lens.cwd) == before


def test_the_age_of_the_settings(lens: Lens) -> None:
    lens.write("lens.toml", '[prune]\nolder_than = "2h"\n')
    assert lens("prune --dry-run -o json").json["cutoff"] == "2026-11-21T01:11:08Z"
    assert lens("prune --older-than 1h --max-share 100% --dry-run -o json").json["cutoff"] == "2026-11-21T02:11:08Z"
    assert lens("prune --days-old 0.5 --dry-run -o json").json["cutoff"] == "2026-11-20T15:11:08Z"
    assert lens("prune --keep-last 1 --max-share 100% --dry-run -o json").json["cutoff"] is None
    assert lens("prune --orphans --dry-run -o json").json["cutoff"] is None


FORMS = ("%Y-%m-%dT%H:%M:%S.%f+00:00", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+00:00")


@pytest.mark.parametrize("form", FORMS)
def test_30_days_and_an_hour_goes_and_30_days_less_an_hour_stays(lens: Lens, form: str) -> None:
    for run_id, hours in (("plain-001", 30 * 24 + 1), ("meta-001", 30 * 24 - 1)):
        when = (NOW - timedelta(hours=hours)).strftime(form)
        lens.edit(
            f"UPDATE workflow_state SET created_at = '{when}', updated_at = '{when}' WHERE run_id = '{run_id}'",
            f"UPDATE runs SET created_at = '{when}', updated_at = '{when}', end_time = '{when}' "
            f"WHERE run_id = '{run_id}'",
        )
    assert lens("prune --older-than 30d --dry-run -o id").lines == ["plain-001"]
    assert lens("prune --older-than 30d --yes").code == 0
    assert gone(lens, "plain-001")
    assert "meta-001" in ids(lens)


def test_runs_of_unknown_age_stay_and_are_told(lens: Lens) -> None:
    lens.edit(
        "UPDATE workflow_state SET updated_at = 'soon' WHERE run_id = 'plain-001'",
        "UPDATE runs SET updated_at = '2030-01-01T00:00:00Z' WHERE run_id = 'meta-001'",
    )
    done = lens(f"{ALL} -o json").json
    assert done["kept"]["unknown_age"] == 2
    assert ids(lens) == {"plain-001", "meta-001"}
    assert "kept 2 of unknown age" in lens(ALL).out
    assert lens(f"{ALL} --quiet").out == ""


# --- what goes and what stays


@pytest.mark.parametrize("name", [NEW, *OLD_STORES])
def test_whole_runs_go_and_all_else_stays_byte_for_byte(bare_lens: Lens, name: str) -> None:
    bare_lens.store(name)
    with closing(sqlite3.connect(path_of(bare_lens))) as db:
        shape = db.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    troubles = findings(bare_lens)
    before = rows(path_of(bare_lens))
    planned = ids(bare_lens, "prune --older-than 1h --max-share 100% --status completed --dry-run -o id")
    assert planned
    done = bare_lens("prune --older-than 1h --max-share 100% --status completed --yes -o json")
    assert (done.code, done.json["deleted"]) == (0, len(planned))
    assert gone(bare_lens, *planned)
    after = rows(path_of(bare_lens))
    names = {run_id.encode() for run_id in planned}
    assert after == {t: [row for row in found if not names & set(row)] for t, found in before.items()}
    assert set(findings(bare_lens)) <= set(troubles)
    with closing(sqlite3.connect(path_of(bare_lens))) as db:
        assert db.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == shape, "nothing is migrated"
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("name", [NEW, *OLD_STORES])
def test_undo_gives_every_row_back_byte_for_byte(bare_lens: Lens, name: str) -> None:
    bare_lens.store(name)
    before = rows(path_of(bare_lens))
    done = bare_lens(f"{ALL} -o json").json
    assert (done["undo"], done["deleted"]) == (True, done["matched"])
    assert done["deleted"] > 8
    assert rows(path_of(bare_lens)) != before
    assert bare_lens(f"undo {done['audit_id']} --yes").code == 0
    assert rows(path_of(bare_lens)) == before


def test_unattended_paused_runs_stay(lens: Lens) -> None:
    done = lens("prune --older-than 1h --max-share 100% --yes")
    assert done.code == 0
    assert "kept 3 paused; --include-paused deletes them, too" in done.lines
    assert ids(lens) == PAUSED
    assert lens("prune --older-than 1h --yes --quiet").out == ""
    assert lens("prune --older-than 1h --max-share 100% --yes --status paused").code == 0
    assert ids(lens) == set()


def test_filters_are_those_of_list(lens: Lens) -> None:
    lens.edit("DELETE FROM workflow_state WHERE parent_run_id IS NOT NULL")
    for filters in (
        *("--pipeline orders", "--status failed,running", "--search 'no such'", "--error 'ValueError*'"),
        *("--since 2026-11-21T00:11:12Z", "--active-until 2026-11-21T00:11:12Z", "--pipeline nothing"),
    ):
        planned = ids(lens, f"prune --older-than 1h --max-share 100% --include-paused {filters} --dry-run -o id")
        assert planned == ids(lens, f"list --all {filters} -o id"), filters
    assert lens("prune --older-than 1h --max-share 100% --status cancled --yes").code == 2


def test_a_run_and_its_tasks_go_together(lens: Lens) -> None:
    family = {run_id for run_id in ids(lens) if run_id.startswith("bgparent-001")}
    assert len(family) == 3
    task = next(run_id for run_id in family if "_bg_" in run_id)
    lens.edit(f"UPDATE workflow_state SET updated_at = '2026-11-21T03:00:00+00:00' WHERE run_id = '{task}'")
    done = lens(f"{ALL} -o json").json
    assert done["kept"]["family"] == 1
    assert ids(lens) == family


def test_the_last_of_each_pipeline_stay(lens: Lens) -> None:
    shown = lens("prune --keep-last 1 --max-share 100% --dry-run").out
    assert shown.startswith("All except the last of each pipeline in ")
    assert lens("prune --keep-last 1 --max-share 100% --include-paused --yes").code == 0
    counts = [row["total"] for row in lens("stats --top-level -o json").json["by_pipeline"]]
    assert counts
    assert max(counts) == 1
    assert lens("prune --keep-last 0 --max-share 100% --include-paused --yes").code == 0
    assert ids(lens) == set()


def test_rows_that_hang_on_no_run(lens: Lens) -> None:
    lens.edit("DELETE FROM runs WHERE run_id = 'fail-001'", "DELETE FROM workflow_state WHERE run_id = 'fail-001'")
    before, known = rows(path_of(lens)), ids(lens)
    assert lens("prune --orphans --dry-run -o json").json["orphans"] == 0, "they are younger than a day"
    lens.edit("UPDATE spans SET created_at = '2026-11-01 00:00:00' WHERE run_id = 'fail-001'")
    lens.edit("UPDATE steps SET created_at = '2026-11-01T00:00:00' WHERE run_id = 'fail-001'")
    before = rows(path_of(lens))
    dry = lens("prune --orphans --dry-run")
    assert "rows without a run: 3 spans, 2 steps" in dry.lines
    done = lens("prune --orphans --yes -o json").json
    assert (done["deleted"], done["orphans"], done["undo"]) == (0, 5, True)
    assert gone(lens, "fail-001")
    assert ids(lens) >= known - {"fail-001"}
    assert lens(f"undo {done['audit_id']} --yes").code == 0
    assert rows(path_of(lens)) == before


def orphaned(lens: Lens, run_id: str = "fail-001") -> None:
    """Leave of a run what hangs on it, three spans and two steps, and make that old."""
    lens.edit(
        f"DELETE FROM runs WHERE run_id = '{run_id}'",
        f"DELETE FROM workflow_state WHERE run_id = '{run_id}'",
        f"UPDATE spans SET created_at = '2026-11-01 00:00:00' WHERE run_id = '{run_id}'",
        f"UPDATE steps SET created_at = '2026-11-01T00:00:00' WHERE run_id = '{run_id}'",
    )


@pytest.mark.parametrize(
    ("more", "runs"),
    [
        ("", 0),
        ("--include-paused --force", 0),
        ("--older-than 1h", 26),
        ("--days-old 0.05", 26),
        ("--older-than 1h --status cancelled", 1),
        ("--keep-last 1 --older-than 1h --status cancelled", 0),
    ],
)
@pytest.mark.parametrize("has_setting", [False, True])
def test_orphans_alone_and_beside_runs(lens: Lens, more: str, runs: int, has_setting: bool) -> None:
    """By itself it takes no run; beside an age or filters it takes both, and says so."""
    orphaned(lens)
    if has_setting:
        lens.write("lens.toml", '[prune]\nolder_than = "1h"\n')
    line = f"prune --orphans --max-share 100% {more}"
    dry = lens(f"{line} --dry-run -o json").json
    told = lens(f"{line} --dry-run").out
    planned, before = ids(lens, f"{line} --dry-run -o id"), ids(lens)
    done = lens(f"{line} --yes -o json").json
    assert (dry["matched"], dry["orphans"], len(planned)) == (runs, 5, runs)
    assert (done["deleted"], done["orphans"]) == (runs, 5)
    assert before - ids(lens) == planned
    assert "rows without a run: 3 spans, 2 steps" in told
    assert ("\n" + str(runs) + " run" in told) == bool(runs)


def test_filters_beside_orphans_are_about_runs_and_need_an_age(lens: Lens) -> None:
    orphaned(lens)
    before = tree(lens.cwd)
    refused = lens("prune --orphans --status cancelled --yes")
    assert (refused.code, "--orphans without a filter deletes rows without a run" in refused.err) == (2, True)
    assert tree(lens.cwd) == before
    lens.write("lens.toml", '[prune]\nolder_than = "1h"\n')
    done = lens("prune --orphans --status cancelled --yes -o json").json
    assert (done["deleted"], done["orphans"]) == (1, 5)


def test_what_a_living_process_holds_stays_unless_forced(lens: Lens) -> None:
    with holding(lens, "plain-001"):
        done = lens(f"{ALL} -o json").json
        assert done["kept"]["held"] == 1
        assert ids(lens) == {"plain-001"}
        assert lens(f"{ALL} --force").code == 0
    assert ids(lens) == set()


def test_a_run_that_gave_a_sign_lately_stays_unless_forced(lens: Lens) -> None:
    """Applications of the library take no claim."""
    at_work(lens, "plain-001", NOW - timedelta(minutes=59))
    line = "prune --keep-last 0 --max-share 100% --include-paused"
    done = lens(f"{line} --yes")
    assert (done.code, ids(lens)) == (0, {"plain-001"})
    told = "kept 1 that may be alive: held by a process, or recently active; --force deletes it, too"
    assert told in " ".join(done.out.split())
    assert "running    1   may be alive" in lens(f"{line} --force --dry-run").out
    lens.write("lens.toml", 'silent_after = "58m"\n')
    assert "running    1   stale, but may be alive" in lens(f"{line} --dry-run").out
    assert lens(f"{line} --yes").code == 0
    assert ids(lens) == set()


def at_work(lens: Lens, run_id: str, when: datetime) -> None:
    """Have the store say that a run is running, and gave its last sign at an instant."""
    lens.edit(
        f"UPDATE workflow_state SET status = 'running', updated_at = '{when.isoformat()}' WHERE run_id = '{run_id}'",
        f"UPDATE runs SET status = 'running', end_time = NULL, updated_at = '{when.isoformat()}' "
        f"WHERE run_id = '{run_id}'",
    )


def holding(lens: Lens, run_id: str) -> subprocess.Popen[bytes]:
    """A process that holds a run for as long as the block; by the tests' present."""
    code = (
        "import asyncio, sys\n"
        "from flujo_lens.state.backends.sqlite import SQLiteBackend\n"
        "from flujo_lens.state.claims import Holder\n"
        "async def main():\n"
        "    async with SQLiteBackend('flujo_ops.db') as backend:\n"
        "        assert await backend.claim_run(sys.argv[1], Holder.current(), 1e8)\n"
        "        print('held', flush=True)\n"
        "        sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = python("-c", code, run_id, cwd=lens.cwd, env=lens.environment(), **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


# --- reports


def test_a_dry_run_is_what_the_real_run_does(lens: Lens) -> None:
    before = tree(lens.cwd)
    planned = lens("prune --older-than 1h --max-share 100% --dry-run -o id").lines
    dry = lens("prune --older-than 1h --max-share 100% --dry-run -o json").json
    assert tree(lens.cwd) == before
    done = lens("prune --older-than 1h --max-share 100% --yes -o json").json
    assert [name for name in dry if name in REPORT] == REPORT
    assert [name for name in done if name in REPORT] == REPORT
    for name in ("matched", "by_status", "kept", "cutoff", "undo", "file_bytes_before"):
        assert dry[name] == done[name], name
    assert (dry["dry_run"], dry["done"], dry["left"], dry["audit_id"]) == (True, 0, dry["matched"], None)
    assert (done["dry_run"], done["done"], done["left"]) == (False, done["matched"], 0)
    assert done["deleted"] == done["done"] == len(planned) == sum(done["by_status"].values())
    assert sorted(entries(lens)[0]["run_ids"]) == sorted(planned)
    assert entries(lens)[0]["audit_id"] == done["audit_id"]


def test_o_id_prints_what_went(lens: Lens) -> None:
    planned = lens("prune --older-than 1h --max-share 100% --dry-run -o id").lines
    done = lens("prune --older-than 1h --max-share 100% --yes -o id")
    assert (done.code, sorted(done.lines)) == (0, sorted(planned))
    assert ids(lens) == PAUSED


def test_quiet_is_one_line(lens: Lens) -> None:
    dry = lens("prune --older-than 1h --max-share 100% --quiet --dry-run")
    assert (dry.lines, dry.err) == (["would delete 27 runs, kept 3 paused"], "")
    done = lens("prune --older-than 1h --max-share 100% --quiet --yes --archive a.ndjson")
    assert (len(done.lines), done.err) == (1, "")
    assert done.out.startswith("deleted 27 runs, kept 3 paused, archive /")
    assert f"undo: lens undo {entries(lens)[0]['audit_id']}" in done.out
    again = lens("prune --older-than 1h --quiet --yes")
    assert (again.code, again.out, again.err) == (0, "", "")  # cron mails nothing
    dry = lens("prune --older-than 1h --quiet --yes --dry-run")
    assert dry.lines == ["would delete 0 runs, kept 3 paused"]
    assert lens("prune --older-than 1h --quiet --yes -o json").json["kept"]["paused"] == 3


def test_nothing_to_delete_leaves_nothing_behind(lens: Lens) -> None:
    before = tree(lens.cwd)
    done = lens("prune --older-than 30d --yes --archive a.ndjson -o json")
    assert (done.code, done.json["matched"], done.json["audit_id"], done.json["archive"]) == (0, 0, None, None)
    assert lens("prune --older-than 30d --yes").out.startswith("nothing to delete")
    assert tree(lens.cwd) == before


def test_the_entry_in_the_audit_log(lens: Lens) -> None:
    line = "prune --older-than 1h --max-share 100% --status failed --reason 'TICKET 88' --max-delete 5 --yes"
    line += " -s flujo_ops.db"
    assert lens(line, env={"LENS_ACTOR": "ana"}).code == 0
    (entry,) = entries(lens)
    assert (entry["actor"], entry["reason"], entry["run_ids"]) == ("ana", "TICKET 88", ["fail-001"])
    (outcome,) = outcomes(lens)
    assert (outcome["closes"], outcome["reason"]) == (entry["audit_id"], "TICKET 88")
    assert (outcome["counts"], outcome["run_ids"]) == ({"deleted": 1, "skipped": 0, "left": 0}, ["fail-001"])
    assert entry["command"] == [
        *("lens", "prune", "--older-than=1h", "--max-share=100%", "--max-delete=5"),
        *("--status=failed", "--yes"),
        *("--store=flujo_ops.db", "--reason=TICKET 88"),
    ]
    assert lens("prune --older-than 1h --max-share 100% --yes --audit-file log.ndjson").code == 0
    assert (lens.cwd / "log.ndjson").exists()
    assert len(entries(lens)) == 1


# --- limits


@pytest.mark.parametrize(
    ("limit", "fits"),
    [("--max-delete 26", False), ("--max-delete 27", True), ("--max-share 89%", False), ("--max-share 90%", True)],
)
def test_too_many_are_refused(lens: Lens, limit: str, fits: bool) -> None:
    before = tree(lens.cwd)
    dry = lens(f"prune --older-than 1h --max-share 100% --dry-run {limit}")
    assert (dry.code, dry.lines[-1]) == (0 if fits else 1, "nothing was changed (--dry-run)")
    assert tree(lens.cwd) == before
    done = lens(f"prune --older-than 1h --max-share 100% --yes {limit} -o json")
    if fits:
        assert (done.code, done.json["deleted"]) == (0, 27)
    else:
        assert (done.code, done.error["code"]) == (1, "LENS-F1")
        assert limit in done.error["message"]
        assert done.error["matched"] == 27
        assert tree(lens.cwd) == before


@pytest.mark.parametrize("more", ["--yes", "--dry-run", "--yes --dry-run"])
def test_more_than_half_of_all_runs_needs_a_word_where_nobody_is_asked(lens: Lens, more: str) -> None:
    """The share is of all runs, whatever the filters; half of them, and nothing at all, is not too much."""
    before = tree(lens.cwd)
    refused = lens(f"prune --older-than 1h {more} -o json")
    assert (refused.code, refused.error["code"], refused.error["matched"]) == (1, "LENS-F1", 27)
    assert "27 of 30 runs (90.0%) match, more than --max-share 50%, the default" in refused.error["message"]
    assert "--max-share 100%" in refused.error["hint"]
    assert tree(lens.cwd) == before
    assert lens(f"prune --older-than 1h --search nothing {more}").code == 0
    assert lens(f"prune --older-than 1h --max-share 90% {more}").code == 0


def test_on_a_terminal_a_dry_run_only_notes_what_the_command_would_ask_for(lens: Lens) -> None:
    noted = answered(lens, "prune --older-than 1h --dry-run", "")
    assert (noted.code, "27 of 30 runs are more than --max-share 50%" in noted.out) == (0, True)
    for limit in ("--yes", "--max-share 50%", "--max-delete 26"):
        refused = answered(lens, f"prune --older-than 1h --dry-run {limit}", "")
        assert (refused.code, "--dry-run shows them" in refused.out) == (1, False), limit


def test_half_of_all_runs_may_go(lens: Lens) -> None:
    many(lens, 30)
    assert lens("prune --older-than 30d --yes").code == 0
    assert len(ids(lens)) == 30
    assert lens("prune --older-than 30d --yes").code == 0, "an empty result is no error"
    lens.edit("DELETE FROM workflow_state", "DELETE FROM runs")
    assert lens("prune --older-than 1h --yes").code == 0, "nor is an empty store"


def test_the_default_share_is_named_in_the_help(lens: Lens) -> None:
    assert "(default with --yes: 50%)" in " ".join(lens("prune --help").out.replace("│", " ").split())


def test_a_person_may_delete_all(lens: Lens) -> None:
    aged(lens)
    assert answered(lens, "prune --older-than 30d", "y\n").code == 0
    assert ids(lens) == PAUSED


@pytest.mark.parametrize("share", ["5", "101%", "-1%", "x%", "5%x"])
def test_a_share_that_is_none(lens: Lens, share: str) -> None:
    assert lens("prune", "--older-than", "1h", "--yes", "--max-share", share).code == 2


@contextmanager
def held_for(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a store for a while."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(seconds, db.execute, ["ROLLBACK"])
        timer.start()
        yield
        timer.join()


def test_max_duration_stops_after_a_batch_and_the_same_command_goes_on(lens: Lens) -> None:
    many(lens, 400)
    line = "prune --older-than 30d --max-share 100% --yes --batch-size 1 --max-duration 1s --archive {}.ndjson -o json"
    before = rows(path_of(lens))
    with held_for(path_of(lens), 1.5):  # so that the time is over when the first batch is done
        first = lens(line.format("a")).json
    assert 0 < first["deleted"] < 400
    assert first["left"] == 400 - first["deleted"] > 0
    assert len(ids(lens)) == 30 + first["left"]
    with held_for(path_of(lens), 1.5):
        told = lens(line.format("b").replace(" -o json", ""))
    assert told.code == 0
    assert "run the same command to continue, with another archive file (--archive DIR/ names each)" in " ".join(
        told.out.split()
    )
    assert lens("prune --older-than 30d --max-share 100% --yes --archive c.ndjson").code == 0
    assert len(ids(lens)) == 30
    for name in "abc":
        assert lens(f"import {name}.ndjson --yes").code == 0
    assert rows(path_of(lens)) == before
    begun, outcome = entries(lens)[0], outcomes(lens)[0]
    assert begun["counts"] == {"planned": 400}
    assert outcome["counts"] == {"deleted": first["deleted"], "skipped": 0, "left": first["left"]}
    assert (outcome["closes"], len(outcome["run_ids"])) == (begun["audit_id"], first["deleted"])


def test_durations_that_are_none(lens: Lens) -> None:
    for text in ("0s", "10", "soon", "-1m"):
        assert lens(f"prune --older-than 1h --max-share 100% --yes --max-duration {text}").code == 2


# --- the bin and archives


def test_the_bin_keeps_for_as_long_as_the_settings_say(lens: Lens) -> None:
    lens.write("lens.toml", '[bin]\nkeep = "2d"\n')
    first = lens("prune --older-than 1h --max-share 100% --status failed --yes")
    assert "To undo within 2d: lens undo " in first.out
    (item,) = (lens.cwd / "flujo_ops.db.lens-bin").iterdir()
    old = item.with_name(f"20261118T031108000000-00000000{''.join(item.suffixes)}")
    item.rename(old)
    assert lens("prune --older-than 1h --max-share 100% --status completed --yes").code == 0
    assert not old.exists(), "what is too old goes with the next clean-up"
    assert len(list((lens.cwd / "flujo_ops.db.lens-bin").iterdir())) == 1


def test_too_many_for_the_bin(lens: Lens) -> None:
    aged(lens)
    lens.write("lens.toml", "[bin]\nmax_runs = 10\n")
    shown = answered(lens, "prune --older-than 30d", "n\n").out
    assert "30 runs are too many for the bin (max_runs = 10): they cannot be restored" in " ".join(shown.split())
    dry = lens("prune --older-than 1h --max-share 100% --dry-run -o json").json
    assert dry["undo"] is False
    done = lens("prune --older-than 1h --max-share 100% --yes -o json")
    assert (done.code, done.json["undo"], done.json["deleted"]) == (0, False, 27)
    assert "27 runs are too many for the bin (max_runs = 10): they cannot be restored" in done.err
    assert not (lens.cwd / "flujo_ops.db.lens-bin").exists(), "never a part of the runs"


def test_without_the_bin(lens: Lens) -> None:
    done = lens(f"{ALL} --no-bin --quiet")
    assert done.lines == ["deleted 30 runs, no undo"]
    assert not (lens.cwd / "flujo_ops.db.lens-bin").exists()
    assert entries(lens)[0]["command"][:5] == ["lens", "prune", "--older-than=1h", "--include-paused", "--no-bin"]


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz", "a.ndjson.zst"])
def test_an_archive_brings_all_back(lens: Lens, name: str) -> None:
    if name.endswith(".zst"):
        pytest.importorskip("zstandard")
    before = rows(path_of(lens))
    done = lens(f"{ALL} --no-bin --archive {name} -o json").json
    assert done["archive"].endswith(f"/{name}")
    assert (done["undo"], ids(lens)) == (False, set())
    assert (lens.cwd / name).stat().st_mode & 0o777 == 0o600
    kept = tree(lens.cwd)[name]
    refused = lens(f"{ALL} --archive {name}")
    assert refused.code == 2
    assert "already exists" in refused.err
    assert tree(lens.cwd)[name] == kept
    assert lens(f"import {name} --yes").code == 0
    assert rows(path_of(lens)) == before


def test_an_archive_is_never_overwritten(lens: Lens) -> None:
    lens.write("a.ndjson", "mine")
    before = tree(lens.cwd)
    for line in (f"{ALL} --archive a.ndjson", "prune --older-than 1h --max-share 100% --dry-run --archive a.ndjson"):
        assert lens(line).code == 2
    (lens.cwd / "link.ndjson").symlink_to("nowhere.ndjson")
    assert lens(f"{ALL} --archive link.ndjson").code == 2
    (lens.cwd / "link.ndjson").unlink()
    assert tree(lens.cwd) == before


@pytest.mark.parametrize("place", ["no/such/a.ndjson", "no/", "a.txt"])
def test_a_place_where_no_archive_can_be(lens: Lens, place: str) -> None:
    before = tree(lens.cwd)
    refused = lens(f"{ALL} --archive {place} -o json")
    assert (refused.code, bool(refused.error["hint"])) == (2, True)
    assert tree(lens.cwd) == before


def test_a_folder_gets_a_dated_name(lens: Lens) -> None:
    (lens.cwd / "kept").mkdir()
    for place, status in (("kept/", "failed"), ("kept", "cancelled")):
        assert lens(f"prune --older-than 1h --max-share 100% --status {status} --yes --archive {place}").code == 0
    names = sorted(path.name for path in (lens.cwd / "kept").iterdir())
    assert names == ["flujo_ops-20261121T031108Z-2.ndjson", "flujo_ops-20261121T031108Z.ndjson"]


def test_the_archive_folder_of_the_settings(lens: Lens) -> None:
    lens.write("lens.toml", '[prune]\nolder_than = "1h"\narchive_dir = "archive"\n')
    assert lens("prune --max-share 100% --dry-run").code == 0
    assert not (lens.cwd / "archive").exists()
    done = lens("prune --max-share 100% --yes -o json").json
    (archive,) = (lens.cwd / "archive").iterdir()
    assert Path(done["archive"]).name == archive.name == "flujo_ops-20261121T031108Z.ndjson"
    assert lens("prune --yes").code == 0, "nothing to delete makes no second one"
    assert list((lens.cwd / "archive").iterdir()) == [archive]


def test_of_the_archive_folder_of_the_settings_the_last_part_alone_is_made(lens: Lens) -> None:
    lens.write("lens.toml", '[prune]\nolder_than = "1h"\narchive_dir = "not-mounted/archive"\n')
    before = tree(lens.cwd)
    for more in ("--dry-run", "--yes"):
        refused = lens(f"prune {more}")
        assert (refused.code, "no such folder: " in refused.err) == (2, True)
    assert tree(lens.cwd) == before


def test_the_undo_line_names_the_store_that_was_typed(lens: Lens) -> None:
    (lens.cwd / "my store.db").write_bytes(path_of(lens).read_bytes())
    done = lens("prune", "--older-than", "1h", "--yes", "--max-share=100%", "--quiet", "-s", "my store.db")
    undo = done.lines[0].partition("undo: ")[2]
    assert "'my store.db'" in undo
    assert lens(*shlex.split(undo)[1:], "--yes").code == 0
    assert "my store.db" not in lens("prune --older-than 1h --max-share 100% --yes --quiet").out


# --- what is in the way


def test_a_store_that_the_settings_call_read_only(lens: Lens) -> None:
    lens.write("lens.toml", 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\nreadonly = true\n')
    before = tree(lens.cwd)
    refused = lens(f"{ALL} -o json")
    assert (refused.code, refused.error["code"]) == (5, "LENS-S5")
    assert tree(lens.cwd) == before


def test_where_there_is_no_store(bare_lens: Lens) -> None:
    assert bare_lens(f"{ALL} -s nowhere.db").code == 5
    assert bare_lens(f"{ALL} -s memory://").code == 2
    assert tree(bare_lens.cwd) == {}


def test_a_variable_and_a_file_that_name_different_stores(lens: Lens) -> None:
    lens.store(OLD, to="other.db")
    lens.write("lens.toml", 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\n')
    before = tree(lens.cwd)
    assert lens(ALL, env={"LENS_STORE": "other.db"}).code == 2
    assert tree(lens.cwd) == before


def test_a_second_prune_ends_at_once_and_names_the_first(lens: Lens) -> None:
    before = tree(lens.cwd)
    command = ["lens", "prune", "--older-than=30d"]
    with StoreLock(StoreLock.sidecar_path(path_of(lens)), command=command, actor="ana", now=NOW):
        refused = lens(f"{ALL} -o json")
        shown = answered(lens, ALL.replace("--yes", ""), "y\n").out
        assert "[y" not in shown, "nobody is asked in vain"
        assert lens(ALL.replace("--yes", "--dry-run")).code == 0
    assert (refused.code, refused.error["code"], refused.error["pid"]) == (7, "LENS-B1", os.getpid())
    assert refused.error["message"].startswith(f"lens prune (pid {os.getpid()} on ")
    assert "ana, since 2026-11-21T03:11:08Z" in refused.error["message"]
    assert tree(lens.cwd) == before
    lock = lens.write("flujo_ops.db.lens-lock", json.dumps({"pid": 999999999, "command": ["lens", "prune"]}))
    assert lens(ALL).code == 0, "the lock of a dead process locks nobody out"
    assert not lock.exists()


def test_the_log_of_the_store_has_to_be_writable(lens: Lens) -> None:
    before = tree(lens.cwd)
    refused = lens(f"{ALL} --audit-file no/folder.ndjson --archive a.ndjson -o json")
    assert (refused.code, "nothing was" in refused.error["message"]) == (1, True)
    (lens.cwd / "flujo_ops.db.lens-audit.ndjson").mkdir()
    assert lens(ALL).code in (1, 5)
    (lens.cwd / "flujo_ops.db.lens-audit.ndjson").rmdir()
    lens.write("flujo_ops.db.lens-bin", "no folder")
    refused = lens(f"{ALL} -o json")
    assert (refused.code, "cannot write to the bin" in refused.error["message"]) == (1, True)
    assert "--no-bin" in refused.error["hint"]
    (lens.cwd / "flujo_ops.db.lens-bin").unlink()
    assert tree(lens.cwd) == before


# --- vacuum


def test_vacuum_gives_the_room_back(lens: Lens) -> None:
    many(lens, 2000)
    shown = lens("prune --older-than 30d --max-share 100% --vacuum --dry-run").out
    assert "then the file is rewritten" in shown
    done = lens("prune --older-than 30d --max-share 100% --vacuum --yes -o json")
    report = done.json
    assert (done.code, report["deleted"], report["reusable_bytes"]) == (0, 2000, 0)
    assert report["file_bytes_after"] < report["file_bytes_before"]
    assert sorted(path.name for path in lens.cwd.iterdir()) == [
        *(
            "flujo_ops.db",
            "flujo_ops.db.lens-audit.ndjson",
            "flujo_ops.db.lens-audit.ndjson.head",
            "flujo_ops.db.lens-bin",
        )
    ]
    assert len(ids(lens)) == 30


def test_vacuum_is_left_out_while_another_has_the_store_open(lens: Lens) -> None:
    with holding(lens, "plain-001"):
        done = lens("prune --older-than 1h --max-share 100% --status failed --vacuum --yes --timeout 0.1")
        assert done.code == 7
        assert done.lines[0].startswith("Deleted fail-001" if "fail-001" in done.out else "Deleted 1 run")
        assert "the runs were deleted, but the vacuum failed" in done.err
        assert "nothing was changed" not in done.err
    assert gone(lens, "fail-001")


def test_files_cannot_be_vacuumed(file_lens: Lens) -> None:
    before = tree(file_lens.cwd)
    refused = file_lens(f"{ALL} --vacuum")
    assert refused.code == 2
    assert "omit --vacuum" in refused.err
    assert tree(file_lens.cwd) == before


# --- other stores


def test_a_store_in_use_with_a_wal(bare_lens: Lens) -> None:
    bare_lens.store(WAL)
    before = rows(path_of(bare_lens))
    with closing(sqlite3.connect(path_of(bare_lens))) as application:
        application.execute("SELECT count(*) FROM runs").fetchone()
        done = bare_lens(f"{ALL} -o json").json
        assert done["deleted"] == done["matched"] > 0
        assert application.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert bare_lens(f"undo {done['audit_id']} --yes").code == 0
    assert rows(path_of(bare_lens)) == before


def test_a_folder_of_files(file_lens: Lens) -> None:
    folder = file_lens.cwd / "states"
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    found = ids(file_lens)
    planned = ids(file_lens, "prune --older-than 1h --max-share 100% --dry-run -o id")
    done = file_lens("prune --older-than 1h --max-share 100% --yes --archive kept.ndjson -o json").json
    assert (done["deleted"], done["undo"], done["kept"]["paused"]) == (len(planned), True, 3)
    assert ids(file_lens) == found - planned
    assert file_lens(f"undo {done['audit_id']} --yes").code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
    assert file_lens("prune --older-than 1h --max-share 100% --yes --quiet").code == 0
    assert file_lens("import kept.ndjson --yes").code == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
    beside = {path.name for path in file_lens.cwd.iterdir()}
    log = "states.lens-audit.ndjson"
    assert beside == {"states", log, f"{log}.head", "states.lens-bin", "kept.ndjson"}


def test_a_naive_store_is_pruned_by_the_youngest_reading(bare_lens: Lens) -> None:
    """0.4 wrote the local time of its machine, which was five hours behind UTC: the store gives that away."""
    bare_lens.store(OLD)
    newest = max(datetime.fromisoformat(row["updated_at"]) for row in bare_lens("list --all -o json").json)
    hours = int((NOW - newest).total_seconds() // 3600)
    assert bare_lens(f"prune --older-than {hours + 2}h --include-paused --dry-run -o json").json["matched"] == 0
    assert bare_lens(f"prune --older-than {hours}h --include-paused --dry-run -o json").json["matched"] > 0


def test_the_library_reads_its_store_on(lens: Lens) -> None:
    """Counts and statistics of what is left are those of a store that never had the rest."""
    lens("prune --older-than 1h --max-share 100% --status completed --yes --no-bin")
    shutil.copyfile(DATA / NEW / "flujo_ops.db", lens.cwd / "whole.db")
    left = ids(lens)
    whole = {row["run_id"]: row for row in lens("list --all -s whole.db -o json").json}
    assert {row["run_id"]: row for row in lens("list --all -o json").json} == {i: whole[i] for i in left}


def test_the_lines_of_the_guide_are_right(lens: Lens) -> None:
    """Those for systemd, cron and Kubernetes, with the escapes of each; none but the archive's folder is missing."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "cleaning-up.md").read_text(encoding="utf-8")
    found = re.findall(
        r"(?:^|/bin/|[*] )(lens prune (?:--store|--older-than|--days-old|--keep|--orphans).*)$", text, re.M
    )
    (pod,) = re.findall(r"command: \[(lens, prune, .*)\]", text)
    lines = [line.partition("#")[0].replace("%%", "%").replace("\\%", "%") for line in found]
    lines += [pod.replace(",", "")]
    assert len(lines) >= 8
    (lens.cwd / "archive").mkdir()
    for line in lines:
        _, *told = shlex.split(line.replace("/var/lib/app/", ""))
        done = lens(*told, *([] if "--dry-run" in told else ["--dry-run"]))
        assert (done.code, done.err) == (0, ""), line


@pytest.mark.parametrize("line", ["prune --older-than 30d", "delete fail-001"])
@pytest.mark.parametrize(("typed", "code"), [(CTRL_C, 130), ("\x04", 1)])
def test_ctrl_c_and_ctrl_d_at_the_question(lens: Lens, line: str, typed: str, code: int) -> None:
    aged(lens)
    before = tree(lens.cwd)
    done = answered(lens, line, typed)
    assert done.code == code
    assert done.lines[-1] == "nothing was changed", "on a line of its own"
    assert tree(lens.cwd) == before
