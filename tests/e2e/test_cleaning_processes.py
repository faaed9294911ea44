"""``lens prune`` as a real process: killed, interrupted, on full disks, as another user, beside applications."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cleaning import aged, entries, findings, ids, many, mentioned, outcomes, rows
from programs import python
from support import PACKAGE, Lens, Result, tree

from flujo_lens.operations.archive_reader import survey

ROUNDS = 100 if os.environ.get("LENS_SOAK") else 10
LIBRARY = os.environ.get("LENS_FLUJO_PYTHON", "")
NOBODY = 65534
TABLES = ("runs", "spans", "steps", "workflow_state")


def path_of(lens: Lens) -> Path:
    return lens.cwd / "flujo_ops.db"


def whole_in_store(lens: Lens, added: set[str]) -> set[str]:
    """Those of the added runs that are in the store; each has to be in every table, with all of its rows."""
    found = mentioned(path_of(lens))
    here = found["runs"] & added
    assert all(found[table] & added == here for table in TABLES)
    with closing(sqlite3.connect(path_of(lens))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = dict(db.execute("SELECT run_id, count(*) FROM steps WHERE run_id LIKE 'm-%' GROUP BY 1"))
    assert counts == dict.fromkeys(here, 2)
    return here


@contextmanager
def pruning(lens: Lens, line: str) -> Iterator[subprocess.Popen[bytes]]:
    """A prune that has deleted its first batch, as far as the archive tells."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    archive = lens.cwd / "kept.ndjson"
    with lens.start(line, **pipes) as process:
        while process.poll() is None and not (archive.exists() and b'{"batch"' in archive.read_bytes()):
            time.sleep(0.002)
        yield process


PRUNE = "prune --older-than 30d --max-share 100% --status completed --yes --batch-size 5 --archive kept.ndjson"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_after_the_batch(lens: Lens, number: signal.Signals, code: int) -> None:
    before = rows(path_of(lens))
    lens.edit("DELETE FROM system_state")
    added = many(lens, 4000)
    before = rows(path_of(lens))
    with pruning(lens, f"{PRUNE} -o json") as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (code, b"")
    done = json.loads(stdout)
    here = whole_in_store(lens, added)
    assert 0 < done["deleted"] == 4000 - len(here)
    assert done["left"] == len(here) > 0
    assert [entry["counts"] for entry in (*entries(lens), *outcomes(lens))] == [
        {"planned": 4000},
        {"deleted": done["deleted"], "skipped": 0, "left": done["left"]},
    ]
    kept = survey(lens.cwd / "kept.ndjson")
    assert set(kept.run_ids) == added - here
    assert kept.manifest is not None
    assert kept.manifest.complete is False
    assert not list(lens.cwd.glob("*.lens-lock"))
    assert lens("import kept.ndjson --yes").code == 0
    assert rows(path_of(lens)) == before


def test_two_interrupts_leave_nothing_half_deleted(lens: Lens) -> None:
    added = many(lens, 3000)
    with pruning(lens, PRUNE) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    here = whole_in_store(lens, added)
    assert set(survey(lens.cwd / "kept.ndjson").run_ids) >= added - here


def test_a_signal_before_the_first_batch_changes_nothing(lens: Lens) -> None:
    """While it waits for another that holds the store."""
    aged(lens)
    before = rows(path_of(lens))
    with closing(sqlite3.connect(path_of(lens), isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with lens.start("prune --older-than 30d --max-share 100% --yes --timeout 1", **pipes) as process:
            while not list(lens.cwd.glob("*.lens-audit.ndjson")):
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=60)
        holder.execute("ROLLBACK")
    assert (process.returncode, stderr) == (143, b"")
    assert b"stopped with 27 left; run the same command to continue" in stdout
    assert rows(path_of(lens)) == before


def test_killed_at_any_moment_each_run_is_whole_in_the_store_or_in_the_archive(lens: Lens) -> None:
    rng = random.Random(11)
    added = many(lens, 150)
    troubles = set(findings(lens))
    pristine = path_of(lens).read_bytes()
    before = rows(path_of(lens))
    for number in range(ROUNDS):
        with pruning(lens, PRUNE) as process:
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
        here = whole_in_store(lens, added)
        kept = survey(lens.cwd / "kept.ndjson")
        assert set(kept.run_ids) >= added - here, number
        assert set(findings(lens)) <= troubles
        done = lens(PRUNE.replace("kept.", "rest.") + " -o json")
        assert (done.code, done.json["deleted"]) == (0, len(here))
        assert not whole_in_store(lens, added)
        for name in ("kept", "rest"):
            if (lens.cwd / f"{name}.ndjson").exists():
                assert lens(f"import {name}.ndjson --yes --quiet").code in (0, 6)
        assert rows(path_of(lens)) == before
        for path in lens.cwd.iterdir():
            _remove(path)
        path_of(lens).write_bytes(pristine)


def _remove(path: Path) -> None:
    if path.is_dir():
        for inside in path.iterdir():
            inside.unlink()
        path.rmdir()
    else:
        path.unlink()


# --- disks and users


def limited(lens: Lens, line: str, size: int) -> Result:
    """Run a command that can make no file larger than `size`."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return lens.process(line, preexec_fn=limit)


def large(lens: Lens) -> int:
    """Make the store large, its archive a third larger (bytes are base64 there); a size between the two."""
    aged(lens)
    lens.edit("UPDATE workflow_state SET pipeline_context = zeroblob(100000)")
    return path_of(lens).stat().st_size + 200_000


@pytest.mark.parametrize("more", ["", "--no-bin"])
def test_a_disk_that_is_full_while_it_archives(lens: Lens, more: str) -> None:
    size = large(lens)
    whole, before = ids(lens), rows(path_of(lens))
    done = limited(
        lens,
        f"prune --older-than 30d --max-share 100% --include-paused --yes --batch-size 1 --archive kept.ndjson {more}",
        size,
    )
    assert done.code == 1
    assert "kept.ndjson: File too large; nothing of this batch was deleted; before that, " in done.err
    left = ids(lens)
    assert 0 < len(left) < len(whole)
    assert f"before that, {len(whole) - len(left)} runs were deleted of {len(whole)} (audit entry " in done.err
    assert set(survey(lens.cwd / "kept.ndjson").run_ids) == whole - left
    assert outcomes(lens)[0]["counts"]["deleted"] == len(whole) - len(left)
    assert lens("import kept.ndjson --yes --quiet").code == 0
    assert rows(path_of(lens)) == before


def test_a_disk_that_is_full_in_the_first_batch(lens: Lens) -> None:
    size = large(lens) * 2 // 3  # the first batch has a part of the runs
    before = rows(path_of(lens))
    for more in ("", "--no-bin"):
        done = limited(
            lens, f"prune --older-than 30d --max-share 100% --yes --include-paused --archive kept.ndjson {more}", size
        )
        assert (done.code, "nothing of this batch was deleted" in done.err) == (1, True)
        assert rows(path_of(lens)) == before
        assert sorted(path.name for path in lens.cwd.iterdir() if "bin" not in path.name) == [
            "flujo_ops.db",
            "flujo_ops.db.lens-audit.ndjson",
            "flujo_ops.db.lens-audit.ndjson.head",
        ]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_already(lens: Lens) -> None:
    aged(lens)
    (lens.cwd / "disk").mkdir()
    lens_here = f"{sys.executable} -m flujo_lens"
    script = f"""
        mount -t tmpfs -o size=$(($(du -k flujo_ops.db | cut -f1) + 450))k tmpfs disk || exit 77
        cp flujo_ops.db disk/
        {lens_here} prune --older-than 30d --max-share 100% --yes -s disk/flujo_ops.db
        code=$?
        {lens_here} list --count -s disk/flujo_ops.db
        ls disk
        exit $code
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", textwrap.dedent(script)],
        cwd=lens.cwd, env=lens.environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 1
    assert "is full: " in done.stderr
    assert "smaller batches need less space: lens prune --store disk/flujo_ops.db --no-bin --batch-size " in " ".join(
        done.stderr.split()
    )
    assert done.stdout == "30\nflujo_ops.db\n"


LARGE_WAL = """
import sqlite3, sys
db = sqlite3.connect("disk/flujo_ops.db")
db.execute("PRAGMA journal_mode = wal")
db.execute("PRAGMA wal_autocheckpoint = 0")
for number in range(300):
    db.execute("INSERT OR REPLACE INTO system_state VALUES ('app', ?, '')", (f"{number:03000}",))
    db.commit()
db.execute("PRAGMA wal_checkpoint(passive)").fetchone()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("more", ["--no-bin --lock-file ../lock", "--no-bin"])
def test_a_full_disk_with_a_store_in_use_has_room_in_its_log(lens: Lens, more: str) -> None:
    """Not a byte is free: what an application's WAL has taken of the disk is used again."""
    aged(lens)
    (lens.cwd / "disk").mkdir()
    lens.write("application.py", LARGE_WAL)
    script = f"""
        mount -t tmpfs -o size=$(($(du -k flujo_ops.db | cut -f1) + 7000))k tmpfs disk || exit 77
        cp flujo_ops.db disk/
        mkfifo ready done
        {sys.executable} application.py <done >ready &
        exec 3>done
        read line <ready
        cat /dev/zero >disk/fill 2>/dev/null
        {sys.executable} -m flujo_lens prune --older-than 30d --max-share 100% --yes -s disk/flujo_ops.db \
            --audit-file log {more}
        code=$?
        {sys.executable} -m flujo_lens list --count -s disk/flujo_ops.db
        ls disk
        exec 3>&-
        exit $code
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", textwrap.dedent(script)],
        cwd=lens.cwd, env=lens.environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert (done.returncode, done.stderr) == (0, "")
    left = "3\nfill\nflujo_ops.db\nflujo_ops.db-shm\nflujo_ops.db-wal\n"
    assert done.stdout.endswith(left), "no lock is left"
    assert (lens.cwd / "log").exists()


AS_NOBODY = """
    import os, shlex, sys
    from flujo_lens.cli.app import run
    from flujo_lens.cli.world import World

    out = os.dup(1), os.dup(2)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for line in ("prune --older-than 30d --yes --archive warm.ndjson", "prune --older-than 1s", "delete x --yes"):
        for more in ("", "-o json"):
            run(shlex.split(f"{line} {more} -s warm.db"), World())  # imports what another user could not
    for stream, before in zip((1, 2), out):
        os.dup2(before, stream)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    sys.exit(run(shlex.split(sys.argv[1]), World()))
"""


def as_nobody(lens: Lens, line: str) -> Result:
    """Run a command as another user, who can reach the current folder."""
    for parent in (lens.cwd, *lens.cwd.parents[:4]):
        parent.chmod(parent.stat().st_mode | 0o055)
    shutil.copyfile(path_of(lens), lens.cwd / "warm.db")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AS_NOBODY), line],
        cwd=lens.cwd, env=lens.environment(), capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    for path in lens.cwd.glob("warm*"):
        _remove(path)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_store_that_may_not_be_written(lens: Lens) -> None:
    aged(lens)
    before = tree(lens.cwd)
    for line in (
        "prune --older-than 30d --max-share 100% --yes",
        "delete fail-001 --yes",
        "prune --older-than 30d --max-share 100% --yes --no-bin",
    ):
        refused = as_nobody(lens, f"{line} -o json")
        assert refused.code == 5, line
        assert refused.error["hint"]
    assert as_nobody(lens, "prune --older-than 30d --max-share 100% --dry-run -o id").lines
    assert {name: stat for name, stat in tree(lens.cwd).items() if name != "."} == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("place", ["flujo_ops.db.lens-bin", "kept", "log"])
def test_a_place_that_may_not_be_written(lens: Lens, place: str) -> None:
    aged(lens)
    path_of(lens).chmod(0o666)
    lens.write(f"{place}/something", "an empty folder would be made anew")
    (lens.cwd / place).chmod(0o755)
    os.chown(lens.cwd, NOBODY, NOBODY)
    before = rows(path_of(lens))
    more = {"kept": "--archive kept/", "log": "--audit-file log/log.ndjson"}.get(place, "")
    refused = as_nobody(lens, f"prune --older-than 30d --max-share 100% --yes {more}")
    assert refused.code in (1, 5)
    assert "nothing was" in refused.err
    assert rows(path_of(lens)) == before
    assert [path.name for path in (lens.cwd / place).iterdir()] == ["something"]


# --- beside others


def test_two_at_once(lens: Lens) -> None:
    added = many(lens, 4000)
    with pruning(lens, PRUNE) as first:
        second = lens.process("prune --older-than 30d --max-share 100% --yes --quiet -o json")
        assert (second.code, second.error["pid"]) == (7, first.pid)
        assert f"lens prune (pid {first.pid} on " in second.error["message"]
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert whole_in_store(lens, added)
    assert lens.process("prune --older-than 30d --max-share 100% --status completed --yes --no-bin").code == 0
    assert not whole_in_store(lens, added)


WRITER = """
    import sqlite3, sys, time
    db = sqlite3.connect("flujo_ops.db", timeout=1, isolation_level=None)
    print("go", flush=True)
    for count in range(300):
        db.execute("INSERT INTO system_state VALUES (?, '{}', '')", (f"w{count}",))
        time.sleep(0.003)
    print("done", flush=True)
"""


def test_an_application_writes_all_the_while(lens: Lens) -> None:
    added = many(lens, 1500)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with python("-c", textwrap.dedent(WRITER), cwd=lens.cwd, **pipes) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"go\n"
        assert lens("prune --older-than 30d --max-share 100% --yes --quiet").code == 0
        out, err = writer.communicate(timeout=60)
    assert (out, err) == (b"done\n", b"")
    assert not whole_in_store(lens, added)
    assert len(lens("system list -o json").json) >= 300


APPLICATION = """
    import asyncio, sys
    from datetime import datetime
    from pathlib import Path
    from flujo.state.backends.sqlite import SQLiteBackend

    async def main():
        for number in range(20):
            backend = SQLiteBackend(Path("flujo_ops.db"))
            assert await backend.load_state("keep-001") is not None
            await backend.save_state(f"app-{number}", STATE | {"run_id": f"app-{number}"})

    now = datetime.now()
    STATE = dict(pipeline_id="p", pipeline_name="p", pipeline_version="1", current_step_index=0, pipeline_context={},
                 last_step_output=None, status="running", created_at=now, updated_at=now, total_steps=1,
                 error_message=None, execution_time_ms=None, memory_usage_mb=None, step_history=[])
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main())
    print("done", flush=True)
"""


@pytest.mark.skipif(not LIBRARY, reason="LENS_FLUJO_PYTHON names no Python that has the library")
def test_an_application_of_the_library_that_starts_meanwhile_keeps_its_file(bare_lens: Lens) -> None:
    """The library renames a database whose lock it cannot get within a second."""
    bare_lens.store("flujo-0.4.35")
    bare_lens.rename("plain-001", "keep-001")
    with closing(sqlite3.connect(path_of(bare_lens))) as db:
        db.execute("PRAGMA journal_mode = wal")
    columns = "pipeline_id, pipeline_name, pipeline_version, current_step_index, pipeline_context, status"
    old = "'2020-01-01T00:00:00.000000'"
    bare_lens.edit(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 8000) INSERT INTO workflow_state "
        f"(run_id, {columns}, created_at, updated_at) SELECT 'm-' || i, 'p', 'p', '1', 0, "
        f"hex(zeroblob(2000)), 'completed', {old}, {old} FROM n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [LIBRARY, "-c", textwrap.dedent(APPLICATION)]
    with subprocess.Popen(command, cwd=bare_lens.cwd, env={**os.environ, "TZ": "UTC"}, **pipes) as application:
        assert application.stdout is not None
        assert application.stdin is not None
        assert application.stdout.readline() == b"ready\n"
        with pruning(
            bare_lens, "prune --older-than 30d --max-share 100% --yes --batch-size 2 --archive kept.ndjson"
        ) as process:
            application.stdin.write(b"\n")
            application.stdin.flush()
            assert any(line == b"done\n" for line in application.stdout), "its log is there too"
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        application.kill()  # its connections keep it alive
        application.communicate()
    assert process.returncode == 143, "the prune has to take longer for this to show anything"
    assert not [path.name for path in bare_lens.cwd.iterdir() if "corrupt" in path.name]
    left = ids(bare_lens)
    assert {f"app-{number}" for number in range(20)} | {"keep-001"} <= left
    assert bare_lens("prune --older-than 30d --max-share 100% --yes --quiet").code == 0
    assert not any(run_id.startswith("m-") for run_id in ids(bare_lens))


def test_cleaning_up_starts_without_rich(lens: Lens) -> None:
    code = (
        "import sys\nfrom flujo_lens.cli.app import run\nfrom flujo_lens.cli.context import World\n"
        "code = run(['prune', '--older-than', '30d', '--max-share', '100%', '--yes', '--quiet'], World())\n"
        "print(code, sorted({'rich', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=lens.cwd, env={**lens.environment(), "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"
