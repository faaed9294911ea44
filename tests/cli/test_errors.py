"""Bad input: what is said, which code it is, and that nothing is ever created by it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from programs import python
from support import Lens, Result, tree

READING = ["list", "status", "failed", "waiting", "stats", "evals"]


def _told(result: Result, code: int, *words: str) -> None:
    """An error: this code, nothing on stdout, a code and these words on stderr, and no traceback."""
    assert result.code == code, result
    assert result.out == ""
    assert result.err.startswith("error LENS-")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err


# --- which store


def test_no_store_at_all(bare_lens: Lens) -> None:
    for command in READING:
        _told(bare_lens(command), 2, "--store", "lens demo")
    assert tree(bare_lens.cwd) == {}


@pytest.mark.parametrize(
    "uri", ["nowhere.db", "sqlite:///nowhere.db", "sqlite:////no/where.db", "./no/folder", "file:///no/where"]
)
def test_a_path_that_does_not_exist(bare_lens: Lens, uri: str) -> None:
    for command in READING:
        _told(bare_lens(f"{command} -s {uri}"), 5, "where" if "where" in uri else "folder")
    assert tree(bare_lens.cwd) == {}


def test_a_folder_that_is_no_store(bare_lens: Lens) -> None:
    bare_lens.write("photos/cat.txt", "a cat")
    bare_lens.write("photos/settings.json", '{"colour": "red"}')
    before = tree(bare_lens.cwd)
    _told(bare_lens("list -s photos"), 5, "photos")
    _told(bare_lens("list -s ./photos/"), 5, "photos")
    assert tree(bare_lens.cwd) == before


def test_a_folder_as_sqlite(bare_lens: Lens) -> None:
    (bare_lens.cwd / "empty").mkdir()
    _told(bare_lens("list -s sqlite:///empty"), 5, "empty")


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"run_id,status\na,b\n" * 100, b"SQLite format 3\x00", b"\x00" * 5000, b"\xff" * 200],
    ids=["empty", "one byte", "text", "magic alone", "zeros", "bytes"],
)
def test_a_file_that_is_no_database(bare_lens: Lens, content: bytes) -> None:
    path = bare_lens.cwd / "flujo_ops.db"
    path.write_bytes(content)
    before = tree(bare_lens.cwd)
    for line in ("list", "show x001", "status", "stats"):
        _told(bare_lens(line), 5, "flujo_ops.db")
    assert tree(bare_lens.cwd) == before
    assert path.read_bytes() == content


@pytest.mark.parametrize("size", [100, 4096, 20_000, 100_000, 200_000])
def test_a_truncated_database(lens: Lens, size: int) -> None:
    path = lens.cwd / "flujo_ops.db"
    path.write_bytes(path.read_bytes()[:size])
    before = tree(lens.cwd)
    for line in ("list --all", "stats", "status", "failed", "show fail-001", "trace fail-001"):
        result = lens(line)
        assert "Traceback" not in result.err
        assert result.code in (0, 3, 5), (line, result.err)
    _told(lens("list --all -o table"), 5, "flujo_ops.db")
    assert tree(lens.cwd) == before


def test_a_database_without_our_tables(bare_lens: Lens) -> None:
    for name, statement in (("none.db", "SELECT 1"), ("other.db", "CREATE TABLE films (title)")):
        with closing(sqlite3.connect(bare_lens.cwd / name)) as connection:
            connection.execute("PRAGMA user_version = 1")
            connection.execute(statement)
        before = tree(bare_lens.cwd)
        for command in READING:
            _told(bare_lens(f"{command} -s {name}"), 5, name)
        assert tree(bare_lens.cwd) == before


def test_an_unknown_scheme(bare_lens: Lens) -> None:
    _told(bare_lens("list -s dynamo://table"), 2, "dynamo", "[drivers]")
    _told(bare_lens("list -s sqlte:///x.db"), 2, "sqlite")


def test_memory(bare_lens: Lens) -> None:
    for uri in ("memory://", "memory://x"):
        _told(bare_lens(f"list -s {uri}"), 2, "lives inside the application's process")


def test_an_unknown_store_name(lens: Lens) -> None:
    lens.write("lens.toml", '[stores.prod]\nuri = "flujo_ops.db"\n[stores.staging]\nuri = "other.db"\n')
    _told(lens("list -s stagin"), 2, "Did you mean staging?", "prod")
    _told(lens("list", env={"LENS_STORE": "prd"}), 2, "Did you mean prod?", "LENS_STORE")


def test_a_wrong_setting(lens: Lens) -> None:
    lens.write("lens.toml", 'defualt = "prod"\n')
    _told(lens("list"), 2, "lens.toml", "defualt", "Did you mean default?")
    _told(lens("config"), 2, "lens.toml")


def test_two_that_name_different_stores(lens: Lens) -> None:
    """A reading command says which one it took."""
    lens.store(to="other.db")
    lens.write("lens.toml", 'default = "flujo_ops.db"\n')
    result = lens("list --count", env={"LENS_STORE": "other.db"})
    assert (result.code, result.out) == (0, "30\n")
    assert "LENS_STORE" in result.err
    assert "lens.toml" in result.err


# --- versions


def test_a_future_schema_reads(lens: Lens) -> None:
    before = lens("list --all -o json").json
    lens.edit(
        "PRAGMA user_version = 99",
        "ALTER TABLE runs ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",
        "CREATE TABLE gadgets (id INTEGER PRIMARY KEY)",
    )
    result = lens("list --all -o json")
    assert (result.code, result.json) == (0, before)
    assert "99" in lens("status").err


def test_a_bad_row_never_breaks_a_list(lens: Lens) -> None:
    lens.edit(
        "UPDATE workflow_state SET pipeline_context = '{broken', step_history = '[1, null]', metadata = 'x' "
        "WHERE run_id = 'fail-001'",
        "UPDATE workflow_state SET status = X'00ff', created_at = 5 WHERE run_id = 'single-001'",
        "UPDATE spans SET attributes = '[' WHERE run_id = 'deep-001'",
    )
    ids = lens("list --all -o id")
    assert (ids.code, len(ids.lines)) == (0, 30)
    assert "fail-001" in lens("list --all").err
    for line in ("show fail-001", "show single-001", "trace deep-001", "stats", "failed", "status", "waiting"):
        for tty in (True, False):
            result = lens(line, tty=tty)
            assert result.code == 0, (line, result.err)


def test_values_that_no_format_holds(lens: Lens) -> None:
    """Nested deeper than the stack, infinite, not a number, larger than 64 bits."""
    entry = '{"name": "x", "attempts": Infinity, "latency_s": NaN, "cost_usd": -Infinity, "token_counts": 1e400}'
    lens.edit(
        ("UPDATE workflow_state SET pipeline_context = ? WHERE run_id = 'meta-001'", ("[" * 3000 + "]" * 3000,)),
        ("UPDATE workflow_state SET metadata = ? WHERE run_id = 'meta-001'", ('{"a":' * 900 + "1" + "}" * 900,)),
        ("UPDATE steps SET output = ? WHERE run_id = 'deep-001'", ("[" * 900 + "]" * 900,)),
        ("UPDATE spans SET attributes = ? WHERE run_id = 'deep-001'", ('{"a":' * 900 + "1" + "}" * 900,)),
        ("UPDATE workflow_state SET step_history = ? WHERE run_id = 'cost-001'", (f"[{entry}]",)),
    )
    lines = ["list --all", "list --columns run_id,metadata", "list --meta a=1", "stats", "show meta-001 --state"]
    lines += ["show deep-001 -v", "show deep-001 --final-output", "show cost-001 -v"]
    lines += ["trace deep-001", "spans deep-001"]
    for line in lines:
        for options in ("", " -o json", " -o table"):
            result = lens(line + options)
            assert result.code == 0, (line, result.err)
    assert lens("show cost-001 -o json").json["steps"][0]["cost_usd"] in (None, 0.0123)


# --- locks

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
connection.execute("BEGIN EXCLUSIVE")
connection.execute("UPDATE runs SET pipeline_name = 'held'")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def _held(path: Path, journal: str) -> Iterator[None]:
    """Another process is in the middle of a write."""
    with python("-c", HOLDER, path, journal, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.communicate()


def test_a_locked_store_waits_then_exits_7(lens: Lens) -> None:
    with _held(lens.cwd / "flujo_ops.db", "delete"):
        for line in ("list", "status", "show fail-001", "trace fail-001", "stats", "list --all -o json"):
            result = lens(f"{line} --timeout 0.05")
            assert (result.code, result.out) == (7, ""), (line, result)
        _told(lens("list --timeout 0.3"), 7, "flujo_ops.db")
        assert lens("list -o json", env={"LENS_TIMEOUT": "0.05"}).error["code"] == "LENS-B1"
    assert lens("list --timeout 0.3").code == 0


def test_a_lock_that_goes_in_time(lens: Lens) -> None:
    with _held(lens.cwd / "flujo_ops.db", "delete"):
        waiting = lens.start("list --count", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = waiting.communicate(timeout=30)
    assert (waiting.returncode, stdout, stderr) == (0, b"30\n", b"")


def test_a_writer_of_a_wal_store_disturbs_nobody(lens: Lens) -> None:
    with _held(lens.cwd / "flujo_ops.db", "wal"):
        result = lens("list --all --timeout 0.05 --pipeline orders -o id")
        assert (result.code, len(result.lines)) == (0, 11)
        assert lens("list --pipeline held -o id").lines == []


# --- words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lsit", "Did you mean list?"),
        ("waitting", "Did you mean waiting?"),
        ("xyzzy", "lens --help"),
        ("tasks lst", "list"),
        ("system gte x", "get"),
        ("list --stauts failed", "--status"),
        ("list --nonsense", "--nonsense"),
        ("list extra", "extra"),
        ("show", "RUN"),
        ("trace", "lens trace @latest"),
        ("trace fail-001 --file x.json", "either a RUN or"),
        ("list --limit many", "--limit"),
        ("list --timeout soon", "--timeout"),
        ("list --timeout -1", "--timeout"),
        ("list --color sometimes", "always"),
        ("list --time fuzzy", "relative"),
        ("list --status cancled", "Did you mean cancelled?"),
        ("list --since soon", "2026-11-20"),
        ("list -s", "-s"),
    ],
)
def test_wrong_words(lens: Lens, line: str, words: str) -> None:
    _told(lens(line), 2, words)


def test_common_options_before_or_behind_the_command(lens: Lens) -> None:
    lens.store(to="other.db")
    (lens.cwd / "flujo_ops.db").unlink()
    assert lens("-s other.db list --count").out == lens("list --count -s other.db").out == "30\n"
    assert lens("-s none.db list --count -s other.db").out == "30\n"
    assert lens("-q list -n 1 -s other.db").err == ""


# --- how errors are told


@pytest.mark.parametrize(
    ("line", "code", "exit_code"),
    [
        ("show nothing-001", "LENS-R1", 3),
        ("show orders-v", "LENS-R2", 3),
        ("list -s nowhere.db", "LENS-S1", 5),
        ("list --status x", "LENS-U3", 2),
        ("list --since x", "LENS-U4", 2),
        ("list --bogus", "LENS-U1", 2),
        ("bogus", "LENS-U1", 2),
        ("show", "LENS-U1", 2),
        ("system get nothing", "LENS-F1", 1),
    ],
)
@pytest.mark.parametrize("option", ["--json", "-o json", "-ojson", "--output json", "--output=json"])
def test_errors_as_json(lens: Lens, line: str, code: str, exit_code: int, option: str) -> None:
    result = lens(f"{line} {option}")
    assert (result.code, result.out) == (exit_code, "")
    assert list(result.error)[:3] == ["code", "message", "hint"]
    assert result.error["code"] == code


def test_passwords_in_errors_are_masked(lens: Lens) -> None:
    uri = "dynamo://lens:hunter2@db/ops"
    for option in ("", " -o json", " --debug"):
        result = lens(f"list -s {uri}{option}")
        assert result.code == 2
        assert "hunter2" not in result.err


def _broken(*_: object, **__: object) -> None:
    raise RuntimeError("the \x1b[31mroof\x1b[0m is on fire")


def test_a_fault_of_ours(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.cli.screens.stats.statistics", _broken)
    _told(lens("stats"), 70, "RuntimeError", "--debug")
    assert "\x1b" not in lens("stats").err
    assert lens("stats -o json").error["code"] == "LENS-X1"
    for line in ("stats --debug", "--debug stats"):
        shown = lens(line)
        assert shown.code == 70
        assert "Traceback" in shown.err
        assert "_broken" in shown.err


def test_debug_shows_where_an_error_comes_from(lens: Lens) -> None:
    assert "Traceback" in lens("list -s nowhere.db --debug").err


def test_reading_leaves_no_trace(lens: Lens) -> None:
    before = tree(lens.cwd)
    for line in ("list", "status", "show fail-001", "trace fail-001", "stats", "failed", "waiting", "tasks", "evals"):
        assert lens(line, tty=True).code == 0
        assert lens(f"{line} -o json").code == 0
    assert tree(lens.cwd) == before


# --- what to type next


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ls", "there is no command ls; try lens list\n"),
        ("get runs", "try lens list\n"),
        ("-s flujo_ops.db vacum", "there is no command vacum; try lens optimize --store flujo_ops.db --vacuum\n"),
        ("describe fail-001", "try lens show fail-001\n"),
        ("logs 'it''s' two", "try lens trace RUN\n"),
        ("rm fail-001 'a run'", "try lens delete fail-001 'a run'\n"),
        ("compare fail-001 @latest", "try lens diff fail-001 @latest\n"),
        ("compare fail-001", "try lens diff RUN RUN\n"),
        ("kill --force fail-001", "try lens cancel RUN...\n"),
        ("--upgrade", "unknown option --upgrade."),
        ("satus", "Did you mean status?"),
        (
            "list --stauts failed",
            "unknown option --stauts. Did you mean --status?\n  lens list --status failed\n  lens list --help",
        ),
        (
            "tasks sweep --dryrun",
            "unknown option --dryrun. Did you mean --dry-run?\n  lens tasks sweep --dry-run\n  lens tasks sweep --help",
        ),
        ("list -n some", "invalid value for --limit: 'some' is not a whole number"),
        ("--timeout soon list", "invalid value for --timeout: 'soon' is not a number"),
        ("explain b9", "Did you mean LENS-B3?"),
        ("explain C12", "Did you mean LENS-C11?"),
        ("help exitcode", "Did you mean exit-codes?"),
        ("show", "lens show @latest"),
        ("list fail-001", "lens show fail-001; part of an id: lens list --search fail-001"),
        ("waiting Paused-001", "lens show Paused-001"),
        ("failed --since", "lens failed --help"),
        ("list --limit", "lens list --help"),
        ("show 4711", "lens list --search 4711"),
        ("show 'it''s missing'", "lens list --search 'its missing'"),
    ],
)
def test_an_error_names_what_to_type(lens: Lens, line: str, told: str) -> None:
    result = lens(line)
    assert result.code in (2, 3)
    assert told in result.err


@pytest.mark.parametrize(
    "command", ["list", "list --count", "list --all -o ndjson", "stats", "failed", "failed --flat"]
)
def test_an_empty_result_says_what_may_be_wrong(lens: Lens, command: str) -> None:
    result = lens(f"{command} --pipeline paymets --error declined")
    assert result.code == 0
    assert 'no run is of the pipeline "paymets"; did you mean payments?\n' in result.err
    assert "--error matches the whole error; for a part of it: --error '*declined*'\n" in result.err
    found = lens(f"{command} --pipeline payments --error '*declined*'")
    assert (found.code, "did you mean" in found.err, "--error matches" in found.err) == (0, False, False)
    other = lens(f"{command} --pipeline payments --error 'no*such?error'")
    assert (other.code, "no run is of" in other.err, "--error matches" in other.err) == (0, False, False)


def test_other_lists_and_changes_name_the_nearest_pipeline(lens: Lens) -> None:
    for line in ("waiting", "tasks list", "retry --app x:y --yes", "prune --older-than 2h --yes"):
        result = lens(f"{line} --pipeline oders")
        assert (result.code, 'no run is of the pipeline "oders"; did you mean orders?' in result.err) == (0, True), line
    assert "the newest runs are of " in lens("list --pipeline zzz").err
    assert "did you mean" not in lens("list --pipeline oders --quiet").err


def test_an_export_or_copy_of_no_runs_names_the_nearest_pipeline(lens: Lens) -> None:
    for line in ("export none.ndjson", "export -", "copy flujo_ops.db new.db --yes"):
        result = lens(f"{line} --pipeline oders")
        assert (result.code, 'no run is of the pipeline "oders"; did you mean orders?' in result.err) == (0, True), line
    assert lens("export quiet.ndjson --pipeline oders --quiet").err == ""
    assert "no runs match\n" in lens("export other.ndjson --since 1s").err
    assert not (lens.cwd / "new.db").exists()


def test_a_file_name_that_an_export_does_not_take(lens: Lens) -> None:
    refused = lens("export x.txt")
    assert (refused.code, ".ndjson, .ndjson.gz, .ndjson.zst and .parquet" in refused.err) == (2, True)
    assert "--archive" not in refused.err
    lens.write("t.html", "<html></html>")
    assert "lens export FILE writes archives" in lens("import t.html --yes").err


def test_the_size_is_a_column_of_its_order(lens: Lens) -> None:
    refused = lens("list --columns run_id,size_bytes --sort cost")
    assert (refused.code, "lens list --sort size --columns run_id,size_bytes\n" in refused.err) == (2, True)
    assert lens("list --sort size --columns run_id,size_bytes -n 1 -o csv").lines[0] == "run_id,size_bytes"


@pytest.mark.parametrize("hours", ["0", "nan"])
def test_a_window_without_length_is_refused(lens: Lens, hours: str) -> None:
    refused = lens(f"failed --hours {hours}")
    assert (refused.code, f"--hours takes a number above 0, not {hours}" in refused.err) == (2, True)


def test_a_store_without_runs_names_no_pipelines(lens: Lens) -> None:
    lens.edit("DELETE FROM runs", "DELETE FROM workflow_state")
    assert lens("list --pipeline zzz").err == 'no runs match\nno run is of the pipeline "zzz"\n'


def test_config_tells_the_store_of_the_option(lens: Lens) -> None:
    rows = {row["key"]: (row["value"], row["source"]) for row in lens("config --store flujo_ops.db -o json").json}
    value, source = rows["store"]
    assert value.endswith("/flujo_ops.db")
    assert source == "--store"


def test_an_error_about_a_named_store_has_the_setting_that_names_it(bare_lens: Lens) -> None:
    bare_lens.write("lens.toml", 'default = "gone"\n[stores.gone]\nuri = "gone.db"\n')
    for line in ("list", "list --store gone"):
        refused = bare_lens(line)
        assert refused.code == 5
        assert 'it is the store "gone" of /proc/self/cwd/lens.toml:2\n' in refused.err
    assert "it is the store" not in bare_lens("list --store ./gone.db").err


@pytest.mark.parametrize(
    "line",
    [
        "import run.ndjson",
        "trace --file run.ndjson",
        "check --from run.ndjson",
        "resume paused-001 --app json:loads --input-file run.ndjson",
    ],
)
def test_a_missing_input_file_is_wrong_usage_for_every_command(lens: Lens, line: str) -> None:
    lens.write("runs.ndjson", "{}")
    refused = lens(line)
    said = refused.err.splitlines()[0]
    assert (refused.code, "no such file: " in said, "run.ndjson. Did you mean runs.ndjson?" in said) == (2, True, True)
    assert refused.err.splitlines()[1] == f"  lens {line.replace('run.', 'runs.')}"


def test_a_link_that_leads_back_to_itself(bare_lens: Lens) -> None:
    os.symlink("loop.db", bare_lens.cwd / "loop.db")
    refused = bare_lens("list -s loop.db")
    assert (refused.code, "a link that leads back to itself" in refused.err) == (5, True)
