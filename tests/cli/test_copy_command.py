"""``lens copy``, ``lens export``, ``lens import`` and ``lens init``: runs between stores of any kind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import stat
import subprocess
import time
from typing import Any

import pytest
from cleaning import COUNTED, many, rows
from servers import PostgresServer, RedisServer
from stores import digests, digests_there
from support import OLD, Lens, Result, tree

SOAK = bool(os.environ.get("LENS_SOAK"))
ROUNDS, RUNS = (50, 400) if SOAK else (1, 150)


def listed(lens: Lens, store: str) -> Any:
    """What a list says of the runs of a store."""
    found = lens(f"list --all -o json -s {store}").json
    return sorted((run["run_id"], *(json.dumps(value, sort_keys=True) for value in run.values())) for run in found)


# --- copy


def test_a_copy_has_all_runs_and_a_second_one_changes_nothing(lens: Lens) -> None:
    before = rows(lens.cwd / "flujo_ops.db")
    done = lens("copy flujo_ops.db new.db --verify -o json --reason TICKET-1")
    assert (done.code, list(done.json)[:7]) == (0, COUNTED)
    assert (done.json["matched"], done.json["done"], done.json["verified"]) == (30, 30, 30)
    assert (done.json["left"], done.json["failed"], done.json["lost"], done.json["created"]) == (0, 0, {}, True)
    assert listed(lens, "new.db") == listed(lens, "flujo_ops.db")
    for command in ("show orders-v1-001 -o json --state", "trace deep-001 -o json", "evals -o json"):
        assert lens(f"{command} -s new.db").json == lens(f"{command} -s flujo_ops.db").json
    again = lens("copy flujo_ops.db new.db --yes")
    assert again.code == 0
    assert again.out == "nothing new: new.db has 30 runs already\n"
    assert "not copied: 1 key of system state" in again.err
    assert rows(lens.cwd / "flujo_ops.db") == before
    (started, ended, *_) = lens("audit list -o json -s new.db --limit 9").json
    assert {started["reason"], ended["reason"]} >= {"TICKET-1"}
    verified = lens("copy flujo_ops.db new.db --yes --verify")
    assert verified.out == f"{again.out}verified: 30 of 30 digests are equal\n"
    assert lens("copy flujo_ops.db new.db --yes --verify -o json").json["verified"] == 30


def test_filters_are_those_of_list(lens: Lens) -> None:
    wanted = set(lens("list --all --status failed,paused --top-level -o id").lines)
    done = lens("copy flujo_ops.db new.db --status failed,paused --top-level -o json")
    assert done.json["done"] == len(wanted) > 2
    assert set(lens("list --all -o id -s new.db").lines) == wanted


@pytest.mark.parametrize("target", ["some.db", "states/", "postgres", "redis"])
def test_a_store_that_holds_other_runs_gets_the_rest(lens: Lens, places: dict[str, str], target: str) -> None:
    place = places.get(target, target)
    first = lens("copy", "flujo_ops.db", place, "--status", "failed,paused", "--yes", "-o", "json").json["done"]
    rest = lens("copy", "flujo_ops.db", place, "--yes", "--verify", "-o", "json").json
    assert 0 < first < 30
    assert (rest["done"], rest["unchanged"], rest["verified"], rest["conflicts"]) == (30 - first, first, 30, 0)


def test_a_run_that_differs_is_a_conflict(lens: Lens) -> None:
    assert lens("copy flujo_ops.db new.db").code == 0
    changed = "UPDATE workflow_state SET metadata = '{\"who\": \"me\"}' WHERE run_id = 'fail-001'"
    lens.edit(changed, "DELETE FROM runs WHERE run_id = 'orders-v1-001'", store="new.db")
    before = rows(lens.cwd / "new.db")
    refused = lens("copy flujo_ops.db new.db --yes -o json")
    assert (refused.code, "and differs" in refused.error["message"]) == (1, True)
    dry = lens("copy flujo_ops.db new.db --dry-run -o json").json
    assert (dry["conflicts"], dry["unchanged"], dry["left"], dry["done"]) == (2, 28, 0, 0)
    skipped = lens("copy flujo_ops.db new.db --yes --on-conflict skip -o json")
    assert (skipped.code, skipped.json["conflicts"], skipped.json["skipped"]) == (0, 2, 30)
    assert rows(lens.cwd / "new.db") == before
    replaced = lens("copy flujo_ops.db new.db --yes --on-conflict replace --verify -o json")
    assert (replaced.json["replaced"], replaced.json["done"], replaced.json["unchanged"]) == (2, 2, 28)
    assert digests(lens.cwd / "new.db") == digests(lens.cwd / "flujo_ops.db")


def test_it_asks_before_it_writes_into_a_store_that_has_runs(lens: Lens) -> None:
    lens.store(OLD, to="old.db")
    before = tree(lens.cwd)
    unasked = lens("copy old.db flujo_ops.db --on-conflict skip")
    assert unasked.code == 2
    assert 'to ask "copy 24 runs to flujo_ops.db, which has 30 runs?"; nothing was changed' in unasked.err
    assert "to answer yes: --yes" in unasked.err
    no = lens("copy old.db flujo_ops.db --on-conflict skip", tty=True, typed="n\n")
    assert (no.code, "which has 30 runs?" in no.err) == (1, True)
    assert tree(lens.cwd) == before
    yes = lens("copy old.db flujo_ops.db --on-conflict skip", tty=True, typed="y\n")
    assert (yes.code, "skipped: " in yes.out) == (0, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("copy flujo_ops.db ./flujo_ops.db", "the same store"),
        ("copy flujo_ops.db nowhere", "nowhere"),
        ("copy flujo_ops.db ./nowhere", "which kind of store"),
        ("copy flujo_ops.db x/nowhere", "no such folder"),
        ("copy flujo_ops.db new.db --without stat", "state"),
        ("copy flujo_ops.db new.db --on-conflict overwrite", "fail, skip"),
        ("copy flujo_ops.db new.db -s flujo_ops.db", "--store does not apply"),
        ("export new.txt", "not a file name of an archive"),
        ("export - -o json", "contradict"),
        ("init new.db -s new.db", "--store does not apply"),
    ],
)
def test_what_is_refused(lens: Lens, line: str, words: str) -> None:
    before = tree(lens.cwd)
    refused = lens(line)
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert tree(lens.cwd) == before


def test_a_read_only_target_and_a_missing_source(lens: Lens) -> None:
    lens.write("lens.toml", '[stores.safe]\nuri = "sqlite:///safe.db"\nreadonly = true\n')
    assert lens("copy flujo_ops.db safe").code == 5
    assert lens("copy gone.db new.db").code == 5
    assert not (lens.cwd / "new.db").exists()


def test_secrets_and_parts_stay_behind(lens: Lens) -> None:
    secret = json.dumps({"run_id": "fail-001", "api_key": "hunter2-hunter2", "note": "postgres://u:s3cr3tpw@db/x"})
    lens.edit(
        ("UPDATE workflow_state SET pipeline_context = ? WHERE run_id = 'fail-001'", [secret]),
        ("UPDATE steps SET output = ? WHERE run_id = 'fail-001'", ['{"password": "hunter2-hunter2"}']),
        ("UPDATE spans SET attributes = ? WHERE run_id = 'fail-001'", ['{"token": "hunter2-hunter2", "n": 1}']),
    )
    assert lens("copy flujo_ops.db masked/ --redact --verify").code == 0
    found = b"".join(path.read_bytes() for path in (lens.cwd / "masked").rglob("*") if path.is_file())
    assert b"hunter2" not in found
    assert b"s3cr3tpw" not in found
    assert [run[:4] for run in listed(lens, "masked/")] == [run[:4] for run in listed(lens, "flujo_ops.db")]
    assert lens("export small.ndjson --without state,spans --without outputs").code == 0
    text = (lens.cwd / "small.ndjson").read_text()
    records = [json.loads(line)["record"] for line in text.splitlines() if line.startswith('{"record"')]
    assert all(set(record["stripped"]["parts"]) == {"spans", "outputs", "state"} for record in records)
    assert not any(record["state"].get("last_step_output") for record in records if record["state"])
    assert not any("output" in step for record in records for step in record.get("steps", ()))
    assert not any(span["end_time"] for record in records for span in record.get("spans", ()))
    assert lens("import small.ndjson -s small.db").code == 0
    statuses = {run["run_id"]: run["status"] for run in lens("list --all -o json").json}
    assert {run["run_id"]: run["status"] for run in lens("list --all -o json -s small.db").json} == statuses
    assert lens("show paused-001 -s small.db").code == 0
    resumed = lens("resume paused-001 --input yes -s small.db --app x:y -o json")
    assert resumed.error["code"] == "LENS-F3"
    assert "copied without outputs and state at" in resumed.error["message"]
    assert digests(lens.cwd / "small.db").keys() == digests(lens.cwd / "flujo_ops.db").keys()


@pytest.mark.parametrize("target", ["new.db", "states/"])
def test_parts_left_out_and_parts_stripped_are_told_apart(lens: Lens, target: str) -> None:
    assert lens(f"copy flujo_ops.db {target} --without spans").code == 0
    shown, traced = lens(f"show cost-001 -s {target}"), lens(f"trace cost-001 -s {target}")
    assert "copied without spans at " in shown.out
    assert [line.partition(" at ")[0] for line in traced.err.splitlines()] == ["copied without spans"]
    exported = lens(f"trace cost-001 -s {target} --export svg x.svg")
    assert (exported.code, "copied without spans at " in exported.err) == (1, True)
    said = shown.out + shown.err + traced.err + exported.err
    assert not any(word in said for word in ("prune", "undo", "killed"))
    assert lens(f"prune --strip outputs --older-than 1h --max-share 100% --yes -s {target}").code == 0
    both = lens(f"show cost-001 -s {target}").out
    assert re.search(r"copied without spans at \S+ \S+; prune --strip dropped its outputs at .*: lens undo", both), both


def test_what_was_stripped_before_is_noted_in_the_copy(lens: Lens) -> None:
    assert lens("prune --strip state,spans --older-than 1h --include-paused --max-share 100% --yes").code == 0
    first, source = digests(lens.cwd / "flujo_ops.db"), "flujo_ops.db"
    for target in ("states/", "one.db", "two.db"):
        assert lens(f"copy {source} {target} --verify").code == 0
        source = target
    assert digests(lens.cwd / "two.db") == first
    assert lens("resume fail-001 -s two.db --app x:y -o json").error["code"] == "LENS-F3"


def test_what_a_target_cannot_hold_is_named(lens: Lens) -> None:
    lens.files(to="states")
    path = next((lens.cwd / "states").glob("orders-v1-001.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    done = lens("copy states/ new.db --verify")
    assert (done.code, "not kept: 1 colour of states" in done.err) == (0, True)
    assert lens("copy states/ new.db --yes -o json").json["lost"] == {"colour of states": 1}


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_copied(lens: Lens) -> None:
    lens.files(to="states")
    (lens.cwd / "states" / "broken.json").write_text('{"run_id": "broken", ')
    done = lens("copy states/ new.db -o json")
    assert (done.code, list(done.json["errors"]), done.json["failed"]) == (6, ["broken"], 1)
    assert done.json["done"] == done.json["matched"] - 1


# --- around all drivers


@pytest.fixture
def places(lens: Lens, pg16: PostgresServer, valkey: RedisServer) -> dict[str, str]:
    pg16.execute("DROP SCHEMA IF EXISTS copies CASCADE", "CREATE SCHEMA copies", "SELECT 1")
    valkey.call("FLUSHALL")
    lens.env["XDG_STATE_HOME"] = str(lens.folder / "state")
    return {
        "postgres": f"{pg16.uri}&schema=copies",
        "redis": f"{valkey.uri}?prefix=copies:",
        "files": "states/",
        "sqlite": "last.db",
    }


def test_from_sqlite_through_all_drivers_and_back(lens: Lens, places: dict[str, str]) -> None:
    many(lens, 200)
    source, first = "flujo_ops.db", digests(lens.cwd / "flujo_ops.db")
    assert len(first) > 200
    for name, place in places.items():
        done = lens("copy", source, place, "--verify", "-o", "json")
        assert (done.code, done.json["done"], done.json["lost"]) == (0, len(first), {}), (name, done.err)
        source = place
    assert digests(lens.cwd / "last.db") == first
    assert listed(lens, "last.db") == listed(lens, "flujo_ops.db")


def test_an_archive_of_any_driver_goes_into_any_store(lens: Lens, places: dict[str, str]) -> None:
    """Also those of prune, which have the form of their store."""
    first = digests(lens.cwd / "flujo_ops.db")
    assert lens("copy", "flujo_ops.db", places["files"]).code == 0
    for source, target in (("flujo_ops.db", places["redis"]), (places["files"], "one.db"), (places["redis"], "two.db")):
        pruned = lens("prune", "-s", source, "--older-than", "1h", "--include-paused", "--max-share", "100%", "--yes",
                      "--force", "--archive", "a.ndjson.gz", "--no-bin", "-o", "json")  # fmt: skip
        assert (pruned.code, pruned.json["done"]) == (0, len(first)), pruned.err
        done = lens("import", "a.ndjson.gz", "-s", target, "--verify", "-o", "json")
        assert (done.code, done.json["done"], done.json["complete"]) == (0, len(first), True), done.err
        (lens.cwd / "a.ndjson.gz").unlink()
    assert digests(lens.cwd / "one.db") == first
    assert digests(lens.cwd / "two.db") == first


def test_an_archive_of_an_older_schema_goes_into_a_newer_store(lens: Lens) -> None:
    first = digests(lens.store(OLD, to="old.db"))
    taken = lens("prune -s old.db --older-than 1h --include-paused --max-share 100% --yes --archive a.ndjson --no-bin")
    assert taken.code == 0
    done = lens("import a.ndjson -s new.db -o json")
    assert (done.code, done.json["done"], done.json["failed"]) == (0, len(first), 0)
    assert lens("migrate -s new.db --dry-run -o json").json["matched"] == 0
    assert digests(lens.cwd / "new.db").keys() == first.keys()


# --- files


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz", "a.ndjson.zst"])
def test_an_export_comes_back(lens: Lens, name: str) -> None:
    done = lens(f"export {name} -o json")
    path = lens.cwd / name
    assert (done.code, done.json["done"], done.json["bytes"]) == (0, 30, path.stat().st_size)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    refused = lens(f"export {name}")
    assert (refused.code, "already exists" in refused.err, path.read_bytes()) == (2, True, before)
    assert lens(f"export {name} --overwrite --status failed").code == 0
    assert len(path.read_bytes()) < len(before)
    path.write_bytes(before)
    assert lens(f"import {name} -s new.db").code == 0
    assert digests(lens.cwd / "new.db") == digests(lens.cwd / "flujo_ops.db")
    again = lens(f"import {name} -s new.db --yes -o json").json
    assert (again["done"], again["unchanged"]) == (0, 30)
    assert not [path for path in lens.cwd.iterdir() if path.name.endswith(".part")]


def test_an_export_in_a_pipe(lens: Lens) -> None:
    done = lens("export - --status failed")
    assert (done.code, "exported" in done.err) == (0, True)
    back = lens("import - -s new.db --yes", stdin=done.stdout)
    assert back.code == 0
    assert set(lens("list --all -o id -s new.db").lines) == set(lens("list --all -o id --status failed").lines)
    refused = lens("export -", tty=True)
    assert (refused.code, "terminal" in refused.err) == (2, True)


def test_an_export_that_was_changed_is_refused(lens: Lens) -> None:
    assert lens("export a.ndjson").code == 0
    text = (lens.cwd / "a.ndjson").read_text()
    lens.write("a.ndjson", text.replace("fail-001", "fail-007"))
    refused = lens("import a.ndjson -s new.db -o json")
    assert (refused.code, refused.error["code"]) == (5, "LENS-T2")
    assert not (lens.cwd / "new.db").exists()


def test_odd_values_come_back_as_they_were(lens: Lens) -> None:
    deep = f"{'[' * 300}1{']' * 300}"
    odd = f'{{"big": 123456789012345678901234567890, "half": "\\ud800", "deep": {deep}, "f": 1e16}}'
    lens.edit(("UPDATE workflow_state SET pipeline_context = ? WHERE run_id = 'meta-001'", [odd]))
    first = digests(lens.cwd / "flujo_ops.db")
    for line in ("copy flujo_ops.db states/ --verify", "copy states/ one.db --verify", "export a.ndjson -s one.db",
                 "import a.ndjson -s two.db --verify"):  # fmt: skip
        done = lens(line)
        assert done.code == 0, done.err
    assert digests(lens.cwd / "two.db") == first


# --- init


def test_an_empty_store_and_one_that_is_there(bare_lens: Lens) -> None:
    lens = bare_lens
    assert lens("init new.db --dry-run").code == 0
    assert not (lens.cwd / "new.db").exists()
    for target in ("new.db", "states/", "sqlite:///other.db"):
        made = lens(f"init {target}")
        assert (made.code, made.out) == (0, f"created {target}\n")
        assert lens(f"list -o json -s {target.removeprefix('sqlite:///')}").json == []
        again = lens(f"init {target} -o json")
        assert (again.code, again.json["done"], again.json["skipped"]) == (0, 0, 1)
    lens.write("words.db", "no database")
    assert lens("init words.db").code == 5


# --- interruptions


def killed(lens: Lens, line: list[str], after: float) -> Result | None:
    """Start a command, and kill it after some seconds; None if it was done before."""
    with lens.start(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return None
        stdout, stderr = process.communicate()
    return Result(process.returncode, stdout, stderr)


@pytest.mark.parametrize("target", ["last.db", "states/", "postgres", "redis"])
def test_a_copy_that_is_killed_goes_on(lens: Lens, places: dict[str, str], target: str) -> None:
    many(lens, RUNS)
    first, place = digests(lens.cwd / "flujo_ops.db"), places.get(target, target)
    line = ["copy", "flujo_ops.db", place, "--yes"]
    began = time.monotonic()
    assert lens.process(*line).code == 0
    whole = time.monotonic() - began
    for number in range(ROUNDS):
        place = {"last.db": f"{number}.db", "states/": f"{number}/"}.get(target, places.get(target, ""))
        if target == "postgres":
            PostgresServer.once(
                place.partition("&schema")[0],
                "DROP SCHEMA IF EXISTS copies CASCADE",
                "CREATE SCHEMA copies",
                "SELECT 1",
            )
        elif target == "redis":
            assert lens.process("delete", "-s", place, "--yes", "--no-bin", "--force", *first).code == 0
        line = ["copy", "flujo_ops.db", place, "--yes"]
        ended = killed(lens, line, random.uniform(0.3, 1) * whole)
        if ended is None:
            there = digests_there(place if "://" in place else lens.cwd / place)
            assert there.items() <= first.items()
            done = lens.process(*line, "--verify", "-o", "json")
            assert (done.code, done.json["done"] + done.json["unchanged"]) == (0, len(first)), done.err
            assert done.json["unchanged"] == len(there)


def test_an_import_that_is_killed_goes_on(lens: Lens) -> None:
    many(lens, RUNS)
    first = digests(lens.cwd / "flujo_ops.db")
    assert lens("export a.ndjson.gz").code == 0
    began = time.monotonic()
    assert lens.process("import", "a.ndjson.gz", "-s", "whole/", "--yes").code == 0
    whole = time.monotonic() - began
    for number, share in enumerate((0.4, 0.8) if SOAK else (0.6,)):
        line = ["import", "a.ndjson.gz", "-s", f"{number}/", "--yes"]
        if killed(lens, line, share * whole) is None:
            there = digests_there(lens.cwd / f"{number}")
            assert there.items() <= first.items()
            assert lens.process(*line).code == 0
        assert digests(lens.cwd / f"{number}") == first


def test_an_export_that_is_interrupted_leaves_no_file(lens: Lens) -> None:
    many(lens, 2_000)
    with lens.start("export", "a.ndjson.gz", stderr=subprocess.PIPE) as process:
        while not list(lens.cwd.glob(".a.ndjson*")) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), told  # the last: before the first run was read
    assert (lens.cwd / "a.ndjson.gz").exists() == (process.returncode == 0)
    assert not list(lens.cwd.glob(".a.ndjson*"))


# --- Parquet


def test_tables_for_analysis(lens: Lens) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = lens("export x.parquet --status failed,completed -o json")
    listed = lens("list --all --status failed,completed -o json --reverse").json
    assert (done.code, done.json["done"], len(done.json["files"])) == (0, len(listed), 3)
    runs, steps, spans = (parquet.read_table(lens.cwd / f"x.{name}.parquet") for name in ("runs", "steps", "spans"))
    for name in ("run_id", "status", "pipeline_name", "duration_ms", "error_message", "step_name", "cost_usd"):
        assert runs.column(name).to_pylist() == [run[name] for run in listed], name
    starts = [run["created_at"] for run in listed]
    assert [time.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for time in runs.column("created_at").to_pylist()] == starts
    shown = [step for run in listed for step in lens("show", run["run_id"], "-o", "json").json["steps"]]
    assert [json.loads(text or "null") for text in steps.column("output").to_pylist()] == [s["output"] for s in shown]
    assert steps.column("step_name").to_pylist() == [step["step_name"] for step in shown]
    flat = [span for run in listed for span in lens("trace", run["run_id"], "--spans", "-o", "json").json]
    assert spans.column("span_id").to_pylist() == [span["span_id"] for span in flat]
    assert [json.loads(text) for text in spans.column("attributes").to_pylist()] == [s["attributes"] for s in flat]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in lens.cwd.glob("x.*.parquet"))
    refused = lens("export x.parquet")
    assert (refused.code, "already exists" in refused.err) == (2, True)
    assert lens("export y.parquet --without spans,outputs").code == 0
    assert not (lens.cwd / "y.spans.parquet").exists()
    assert set(parquet.read_table(lens.cwd / "y.steps.parquet").column("output").to_pylist()) == {None}
    assert lens("export z.parquet --without state").code == 2


@pytest.mark.parametrize(
    ("source", "umask", "mode"), [(0o644, 0o022, 0o644), (0o660, 0o027, 0o640), (0o600, 0o022, 0o600)]
)
def test_a_copy_is_readable_by_no_more_users_than_its_source(lens: Lens, source: int, umask: int, mode: int) -> None:
    os.chmod(lens.cwd / "flujo_ops.db", source)
    before = os.umask(umask)
    try:
        assert lens("copy flujo_ops.db new.db").code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(lens.cwd / "new.db").st_mode) == mode


def test_a_new_store_is_its_owners_alone(lens: Lens) -> None:
    """Whatever makes it, and whatever the umask; a folder, too."""
    lens.store()
    before = os.umask(0o022)
    try:
        lines = (
            "copy flujo_ops.db folder/",
            "copy folder/ back.db",
            "export runs.ndjson",
            "import runs.ndjson -s into.db",
        )
        for line in (*lines, "import runs.ndjson -s into/", "init empty.db", "init empty/", "demo demo.db"):
            assert lens(line).code == 0, line
        modes = {
            name: stat.S_IMODE(os.stat(lens.cwd / name).st_mode)
            for name in ("folder", "back.db", "into.db", "into", "empty.db", "empty", "demo.db")
        }
    finally:
        os.umask(before)
    assert modes == {name: 0o600 if "." in name else 0o700 for name in modes}
