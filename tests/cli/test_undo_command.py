"""``lens undo`` and ``lens import``: what they list, ask, refuse, do and report."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from support import NOW, OLD, Lens, tree
from test_migrate_command import answered

from flujo_lens.operations.archive import ArchiveWriter, driver_kind
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.archive_reader import read_archive
from flujo_lens.operations.recycle_bin import Bin
from flujo_lens.operations.store_lock import StoreLock
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import DeletionRequest

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]
RUNS = ("fail-001", "paused-001", "plain-001")
ID = "20261120T031108000000-0a0b0c0d"


def store_of(lens: Lens) -> StateBackend:
    return FileBackend(lens.cwd / "states") if "LENS_STORE" in lens.env else SQLiteBackend(lens.cwd / "flujo_ops.db")


def take(lens: Lens, *run_ids: str, archive: str | None = None, audit_id: str = ID, end: bool = True) -> None:
    """Delete runs into the bin, or into an archive, as ``lens delete`` did a day ago."""

    async def work() -> None:
        async with store_of(lens) as backend:
            when = NOW - timedelta(days=1)
            header = Header("sqlite:///x.db", driver_kind(backend), when, audit_id, ("lens", "delete", *run_ids))
            bin = Bin(Bin.sidecar_path(backend.path), timedelta(days=7), 100)  # type: ignore[attr-defined]
            writer = ArchiveWriter(lens.cwd / archive, header) if archive else bin.open(audit_id, header)
            plan = await backend.plan_deletion(DeletionRequest(NOW, run_ids=run_ids or RUNS))
            async for _ in backend.delete_planned(plan, keep=writer.keep):
                pass
            if end:
                writer.finish(complete=True)
            writer.close()

    asyncio.run(work())


@pytest.fixture(params=["lens", "file_lens"])
def lens(request: pytest.FixtureRequest) -> Lens:
    """``lens`` beside a store of each kind."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def everything(lens: Lens) -> list[str]:
    return lens("list --all -o ndjson").lines


def entries(lens: Lens) -> list[dict[str, object]]:
    (log,) = lens.cwd.glob("*.lens-audit.ndjson")
    return [entry for entry in map(json.loads, log.read_bytes().splitlines()) if "closes" not in entry]


# --- the bin


def test_nothing_is_in_the_bin(lens: Lens) -> None:
    before = tree(lens.cwd)
    shown = lens("undo", tty=True)
    assert (shown.code, shown.out) == (0, "")
    assert "the bin is empty" in shown.err
    assert lens("undo -o json").json == []
    assert tree(lens.cwd) == before


def test_what_is_in_the_bin(lens: Lens) -> None:
    take(lens)
    take(lens, "deep-001", audit_id="20261120T031109000000-00000000")
    rows = lens("undo -o json").json
    assert [row["audit_id"] for row in rows] == ["20261120T031109000000-00000000", ID]
    assert list(rows[0]) == ["audit_id", "made_at", "command", "runs", "until", "size_bytes"]
    assert rows[0]["command"] == ["lens", "delete", "deep-001"]
    assert (rows[1]["runs"], rows[1]["made_at"]) == (3, "2026-11-20T03:11:08Z")
    assert datetime.fromisoformat(rows[1]["until"]) == NOW + timedelta(days=6)
    assert [row["runs"] for row in lens("undo").tsv] == ["1", "3"]
    assert len(lens("undo --no-header").lines) == 2
    assert lens("undo -o id").lines == [rows[0]["audit_id"], ID]
    table = lens("undo", tty=True)
    assert "in 6d" in table.out
    assert "lens undo 20261120T031109000000-00000000" in table.err


def test_without_an_id_nothing_is_brought_back(lens: Lens) -> None:
    for line in ("undo --dry-run", "undo --run fail-001"):
        assert lens(line).code == 2


def test_where_there_is_no_store(bare_lens: Lens) -> None:
    for line in ("undo -s nowhere.db", f"undo {ID} --yes -s nowhere.db"):
        assert bare_lens(line).code == 5
    assert bare_lens("import a.ndjson --yes -s nowhere.db").code == 2  # no such file
    assert tree(bare_lens.cwd) == {}


# --- undo


def test_all_comes_back(lens: Lens) -> None:
    before = everything(lens)
    take(lens)
    assert everything(lens) != before
    done = lens(f"undo {ID} --yes --reason sorry -o json")
    assert done.code == 0
    assert list(done.json) == [*REPORT, "existing", "complete"]
    assert [done.json[name] for name in REPORT[:6]] == [3, 3, 0, 0, 0, False]
    assert everything(lens) == before
    (entry,) = entries(lens)
    assert (entry["audit_id"], entry["reason"]) == (done.json["audit_id"], "sorry")
    assert entry["command"][:4] == ["lens", "undo", ID, "--yes"]  # type: ignore[index]
    assert sorted(entry["run_ids"]) == sorted(RUNS)  # type: ignore[call-overload]
    assert lens("undo -o json").json == []
    assert not list(lens.cwd.glob("*.lens-lock"))


def test_a_dry_run_changes_nothing(lens: Lens) -> None:
    take(lens)
    before = tree(lens.cwd)
    dry = lens(f"undo {ID} --dry-run -o json")
    assert [dry.json[name] for name in REPORT] == [3, 0, 0, 0, 3, True, None]
    assert sorted(lens(f"undo {ID} --dry-run -o id").lines) == sorted(RUNS)
    shown = lens(f"undo {ID} --dry-run")
    assert shown.lines == ["3 runs would be restored", "nothing was changed (--dry-run)"]
    assert tree(lens.cwd) == before


def test_one_run(lens: Lens) -> None:
    take(lens)
    done = lens(f"undo {ID} --run fail-001 --yes")
    assert (done.code, done.lines) == (0, ["1 run restored", "  fail-001"])
    assert lens("show fail-001").code == 0
    assert lens("show paused-001").code == 3
    assert entries(lens)[0]["command"][:5] == ["lens", "undo", ID, "--run=fail-001", "--yes"]  # type: ignore[index]


def test_what_exists_again_is_skipped(lens: Lens) -> None:
    take(lens)
    assert lens(f"undo {ID} --run fail-001 --yes").code == 0
    rest = lens(f"undo {ID} --yes -o json")
    assert rest.code == 6
    assert (rest.json["matched"], rest.json["done"], rest.json["skipped"]) == (3, 2, 1)
    assert rest.json["existing"] == ["fail-001"]
    again = lens(f"undo {ID} --yes")
    named = [f"  {run_id}" for run_id in sorted(RUNS)]
    assert (again.code, again.lines) == (6, ["0 runs restored", "skipped: 3 runs whose id exists", *named])
    assert lens(f"undo {ID} --yes -q").lines == ["0 runs restored; skipped: 3 runs whose id exists"]


def test_a_state_does_not_come_back_before_the_history_that_was_deleted_after_it(lens: Lens) -> None:
    if not (lens.cwd / "flujo_ops.db").exists():
        pytest.skip("a folder of the library has no history")
    before = everything(lens)
    state = lens("delete fail-001 --state-only --yes -o json").json["audit_id"]
    whole = lens("delete fail-001 --yes -o json").json["audit_id"]
    refused = lens(f"undo {state} --yes -o json")
    assert (refused.code, f"lens undo {whole}" in refused.error["hint"]) == (1, True)
    assert lens(f"undo {whole} --yes").code == 0
    assert lens(f"undo {state} --yes").code == 0
    assert everything(lens) == before


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("undo 20261120T031108000000-ffffffff --yes", 3),
        ("undo 20261120 --yes", 3),
        (f"undo {ID} --run nothing --yes", 3),
        (f"undo {ID} --run fail-001 --run nothing --yes", 3),
        (f"undo {ID} --run fail --yes", 3),
        (f"undo {ID}", 2),
    ],
)
def test_refused(lens: Lens, line: str, code: int) -> None:
    take(lens)
    before = tree(lens.cwd)
    assert lens(line, stdin=b"y\n").code == code
    assert tree(lens.cwd) == before


def test_on_a_terminal_it_asks_and_takes_prefixes(lens: Lens) -> None:
    take(lens)
    lens.write("lens.toml", '[bin]\nkeep = "9000d"\n')  # it is asked by a process, at the time that it is now
    before = tree(lens.cwd)
    refused = answered(lens, "undo 2026112", "n\n")
    assert refused.code == 1
    assert f"restore 3 runs that {ID} deleted? [y/N]" in refused.out
    assert tree(lens.cwd) == before
    done = answered(lens, "undo 2026112 --run fail", "y\n")
    assert (done.code, "1 run restored" in done.out) == (0, True)


def test_a_read_only_store(lens: Lens) -> None:
    take(lens)
    uri = lens.env.pop("LENS_STORE", "flujo_ops.db")
    lens.write("lens.toml", f'default = "prod"\n[stores.prod]\nuri = "{uri}"\nreadonly = true\n')
    before = tree(lens.cwd)
    assert lens("undo -o id").lines == [ID]
    assert lens(f"undo {ID} --yes").code == 5
    assert tree(lens.cwd) == before


def test_the_list_tells_who_is_deleting_at_the_moment(lens: Lens) -> None:
    store = store_of(lens)
    path = StoreLock.sidecar_path(store.path)  # type: ignore[attr-defined]
    with StoreLock(path, command=["lens", "prune"], actor="ana", now=NOW):
        listed = lens("undo -o json")
    assert (listed.code, listed.json) == (0, [])
    assert "lens prune" in listed.err
    assert "its deletions can be undone when it has finished" in listed.err


def test_while_another_cleans_up(lens: Lens) -> None:
    take(lens)
    path = StoreLock.sidecar_path(store_of(lens).path)  # type: ignore[attr-defined]
    before = everything(lens)
    with StoreLock(path, command=["lens", "prune"], actor="ana", now=NOW):
        refused = lens(f"undo {ID} --yes -o json")
    assert (refused.code, refused.error["code"]) == (7, "LENS-B1")
    assert refused.error["message"].startswith(f"lens prune (pid {os.getpid()}")
    assert everything(lens) == before


def test_a_log_that_cannot_be_written(lens: Lens) -> None:
    take(lens)
    before = everything(lens)
    assert lens(f"undo {ID} --yes --audit-file no/folder.ndjson").code == 1
    assert everything(lens) == before


# --- import


def test_an_archive_comes_in(lens: Lens) -> None:
    before = everything(lens)
    take(lens, archive="a.ndjson.gz")
    done = lens("import a.ndjson.gz --yes -o json")
    assert done.code == 0
    assert [done.json[name] for name in REPORT[:6]] == [3, 3, 0, 0, 0, False]
    assert everything(lens) == before
    assert entries(lens)[0]["command"][:4] == ["lens", "import", "a.ndjson.gz", "--yes"]  # type: ignore[index]
    again = lens("import a.ndjson.gz --yes")
    assert (again.code, everything(lens)) == (6, before)


def test_a_store_that_holds_runs_needs_a_yes(lens: Lens) -> None:
    take(lens, archive="a.ndjson")
    before = tree(lens.cwd)
    assert lens("import a.ndjson", stdin=b"y\n").code == 2
    assert answered(lens, "import a.ndjson", "n\n").code == 1
    assert lens("import a.ndjson --dry-run -o json").json["left"] == 3
    assert tree(lens.cwd) == before
    shown = answered(lens, "import a.ndjson", "y\n")
    assert shown.code == 0
    assert "import 3 runs of sqlite:///x.db to " in shown.out


def test_an_empty_store_needs_none(bare_lens: Lens) -> None:
    path = bare_lens.store()
    shutil.copyfile(path, bare_lens.cwd / "empty.db")
    with closing(sqlite3.connect(bare_lens.cwd / "empty.db")) as db:
        for table in ("spans", "steps", "runs", "workflow_state", "traces"):
            db.execute(f"DELETE FROM {table}") if has(db, table) else None
        db.commit()
    take(bare_lens, archive="a.ndjson")
    done = bare_lens("import a.ndjson -s empty.db")
    assert (done.code, done.lines[0]) == (0, "3 runs restored")
    assert sorted(bare_lens("list -s empty.db -o id").lines) == sorted(RUNS)


def has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None


def test_one_whose_writer_was_stopped(lens: Lens) -> None:
    take(lens, archive="a.ndjson", end=False)
    done = lens("import a.ndjson --yes")
    assert done.code == 0
    assert "is truncated: it has 3 complete runs" in done.err


def test_what_cannot_be_imported(lens: Lens) -> None:
    take(lens, archive="a.ndjson")
    text = (lens.cwd / "a.ndjson").read_text()
    lens.write("changed.ndjson", text.replace("fail-001", "fail-002"))
    lens.write("other.ndjson", text.replace('"driver":"', '"driver":"x'))
    lens.write("newer.ndjson", text.replace('"lens_archive":1', '"lens_archive":2'))
    lens.write("none.ndjson", "{}\n")
    before = tree(lens.cwd)
    for name, code, words in (
        ("changed", "LENS-T2", "line "),
        ("other", "LENS-T1", "of the driver x"),
        ("newer", "LENS-T1", "of version 2"),
        ("none", "LENS-T1", "is not an archive of runs"),
    ):
        refused = lens(f"import {name}.ndjson --yes -o json")
        assert (refused.code, refused.error["code"]) == (5, code)
        assert words in refused.error["message"]
        assert refused.error["hint"]
    assert lens("import missing.ndjson --yes").code == 2
    assert tree(lens.cwd) == before


def test_an_older_schema(bare_lens: Lens) -> None:
    """Is restored as it was, without a migration."""
    bare_lens.store(OLD)
    before = everything(bare_lens)
    take(bare_lens, *bare_lens("list --all -o id").lines[:3])
    assert bare_lens(f"undo {ID} --yes").code == 0
    assert everything(bare_lens) == before


# --- ends before the end


def many_runs(lens: Lens, count: int) -> set[str]:
    """An archive ``many.ndjson`` of so many runs, which are like one that the store had."""
    take(lens, "deep-001", archive="one.ndjson")
    with read_archive(lens.cwd / "one.ndjson") as archive:
        (record,) = next(archive.groups())
    text, names = json.dumps(record), [f"many-{number:05}" for number in range(count)]
    writer = ArchiveWriter(lens.cwd / "many.ndjson", archive.header)
    for begin in range(0, count, 20):
        writer.keep([json.loads(text.replace("deep-001", name)) for name in names[begin : begin + 20]])
    writer.finish(complete=True)
    return set(names)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_import_that_is_ended_goes_on(bare_lens: Lens, number: int, code: int) -> None:
    """A signal comes when the entry is written: each run is there whole or not yet, and the same again goes on."""
    bare_lens.store()
    names = many_runs(bare_lens, 600)
    before = set(bare_lens("list --all -o id").lines)
    log = bare_lens.cwd / "flujo_ops.db.lens-audit.ndjson"
    with bare_lens.start("import many.ndjson --yes -o json", stdout=subprocess.PIPE) as process:
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == code
    there = set(bare_lens("list --all -o id").lines) - before
    assert there < names
    if code > 0:
        report = json.loads(stdout)
        assert (report["done"], report["left"]) == (len(there), 600 - len(there))
    spans = bare_lens(f"trace {min(there)} -o json").json if there else []
    rest = bare_lens("import many.ndjson --yes -o json")
    assert (rest.json["done"], rest.json["skipped"]) == (600 - len(there), len(there))
    assert rest.code == (6 if there else 0)
    assert set(bare_lens("list --all -o id").lines) == before | names
    last = bare_lens(f"trace {max(names)} -o json").json
    assert len(last) == len(spans or last) > 0
