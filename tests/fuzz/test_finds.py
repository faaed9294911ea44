"""What the fuzzer of this folder found, each as a store, a folder or a file of settings that shows it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import HERE, Lens

from flujo_lens import Flujo, SQLiteBackend

SOAK = "LENS_SOAK" in os.environ
PRUNE = "prune --older-than 1h --yes --max-share 100% -o json"
NO_TIMES: dict[str, Any] = {
    "list": [1],
    "empty-list": [],
    "object": {"a": 1},
    "nested": [[{}]],
    "number": 12,
    "true": True,
    "text": "soon",
    "huge": 1e300,
}


# --- times of any type


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
@pytest.mark.parametrize("kind", NO_TIMES)
def test_a_time_of_any_type_keeps_its_run_alone(file_lens: Lens, field: str, kind: str) -> None:
    path = file_lens.cwd / "states/orders-v1-001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: NO_TIMES[kind]}))
    before = set(file_lens("list --all -o id").lines)
    done = file_lens(PRUNE)
    assert (done.code, done.json["kept"]["unknown_age"]) == (0, 1), done.err
    left = set(file_lens("list --all -o id").lines)
    assert "orders-v1-001" in left
    assert len(before - left) == done.json["done"] > 10


@pytest.mark.parametrize("zone", ["UTC", "America/Lima"])
def test_so_it_does_whatever_the_zone_of_naive_times(file_lens: Lens, zone: str) -> None:
    path = file_lens.cwd / "states/orders-v1-001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"updated_at": ["2020"], "created_at": "2020-01-01"}))
    file_lens.write("lens.toml", f'timezone = "{zone}"')
    done = file_lens(PRUNE)
    assert (done.code, done.json["kept"]["unknown_age"]) == (0, 1)
    assert path.exists()


# --- control characters in settings


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('[stores.prod]\nreadonly = true\nuri = "sqlite:///a{}b.db"', "stores.prod.uri", 3),
        ('[stores.prod]\nuri = "file:///a{}b"', "stores.prod.uri", 2),
        ('[stores.prod]\nuri = "a{}b.db"', "stores.prod.uri", 2),
        ('[stores.prod]\nuri = "postgresql://h{}/d"', "stores.prod.uri", 2),
        ('[stores.prod]\nuri = "redis://h{}/0"', "stores.prod.uri", 2),
        ('default = "./a{}b.db"', "default", 1),
        ('[prune]\narchive_dir = "a{}b"', "prune.archive_dir", 2),
        ('[audit]\npath = "a{}b"', "audit.path", 2),
        ('[resume]\napp = "a{}b:c"', "resume.app", 2),
    ],
)
def test_a_control_character_is_wrong_configuration(lens: Lens, text: str, key: str, line: int) -> None:
    for char in ("\\u0000", "\\n", "\\u001b", "\\u0085"):
        lens.write("lens.toml", text.replace("{}", char))
        for words in ("list -o json", "prune --older-than 1d --yes -o json", "config -o json"):
            done = lens(words)
            assert (done.code, done.error["code"]) == (2, "LENS-U2"), (words, done.err)
            assert done.error["message"].startswith(f"{HERE / 'lens.toml'} (line {line}): {key} must not contain")


def test_one_that_a_variable_brings_is_too(lens: Lens) -> None:
    lens.write("lens.toml", '[stores.prod]\nuri = "sqlite:///${WHERE}"\n[stores.other]\nuri = "flujo_ops.db"')
    done = lens("list --store prod -o json", env={"WHERE": "a\x01b"})
    assert (done.code, done.error["code"]) == (2, "LENS-U2")
    assert "(line 2): stores.prod.uri must not contain the control character" in done.error["message"]
    assert lens("list --store other", env={"WHERE": "a\x01b"}).code == 0


# --- ids that are no text


@pytest.mark.parametrize("table", ["steps", "spans", "evaluations"])
@pytest.mark.parametrize("collation", ["", " COLLATE NOCASE", " COLLATE RTRIM"])
def test_orphans_are_paged_by_the_order_of_the_engine(lens: Lens, table: str, collation: str) -> None:
    """The last of them is no UTF-8, and their order is not that of their bytes."""
    ids = ["'a'", "'B'", "'c'", "'c '", "CAST(x'FFFE' AS TEXT)", "x'FF'", "CAST(x'FFFFFF' AS TEXT)"]
    columns = {
        "steps": "step_name, step_index, status, created_at",
        "spans": "span_id, name, start_time, status, created_at",
        "evaluations": "step_name, score, feedback, created_at",
    }[table]
    lens.edit(
        f"DROP INDEX IF EXISTS idx_{table}_run_id",
        f"CREATE TABLE made AS SELECT * FROM {table}",
        f"DROP TABLE {table}",
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, run_id TEXT{collation} NOT NULL, {columns})",
        f"INSERT INTO {table} (run_id, {columns}) SELECT run_id, {columns} FROM made",
        *(f"INSERT INTO {table} (run_id, created_at) VALUES ({run_id}, '2020-01-01')" for run_id in ids),
        f"CREATE INDEX idx_{table}_run_id ON {table} (run_id)",
    )
    found = lens("doctor --full -o json")
    assert found.code == 1, found.err
    (told,) = [check for check in found.json if check["check"] == f"orphans in {table}"]
    assert told["count"] == len(ids)
    done = lens("prune --orphans --yes -o json")
    assert done.code == 0, done.err
    (told,) = [c for c in lens("doctor --full -o json").json if c["check"] == f"orphans in {table}"]
    assert told["count"] == 2, "what is no UTF-8 cannot be named, and stays"


# --- tables that can only be read


def _as_view(table: str) -> list[str]:
    return [
        "PRAGMA legacy_alter_table = on",
        f"ALTER TABLE {table} RENAME TO hidden",
        f"CREATE VIEW {table.upper()} AS SELECT * FROM hidden",
    ]


def _without_numbers(table: str) -> list[str]:
    key = "key" if table == "system_state" else "run_id"
    names = {
        "workflow_state": "pipeline_id, pipeline_name, pipeline_version, current_step_index, pipeline_context, "
        "step_history, status, created_at, updated_at, metadata, is_background_task, parent_run_id",
        "runs": "pipeline_name, pipeline_version, status, created_at, updated_at",
        "steps": "step_name, step_index, status, output, created_at",
        "spans": "span_id, parent_span_id, name, start_time, end_time, status, attributes, created_at",
        "evaluations": "step_name, score, feedback, metadata, created_at",
        "system_state": "value, updated_at",
    }[table]
    return [
        "PRAGMA legacy_alter_table = on",
        f"ALTER TABLE {table} RENAME TO hidden",
        f"CREATE TABLE {table} ({key} TEXT PRIMARY KEY, {names}) WITHOUT ROWID",
        f"INSERT OR IGNORE INTO {table} SELECT {key}, {names} FROM hidden",
    ]


READING = (
    "list --all", "list --status failed,paused --all", "list --active-since 300d", "status",
    "stats", "failed --hours 9000", "show orders-v1-001 -v --state", "evals",
    "check --save x", "doctor --full",
)  # fmt: skip
CHANGING = (
    "delete orders-v1-001 --yes",
    PRUNE,
    f"{PRUNE} --dry-run",
    "cancel paused-001 --yes",
    "optimize",
    "migrate --yes",
)


@pytest.mark.parametrize("make", [_as_view, _without_numbers])
@pytest.mark.parametrize("table", ["workflow_state", "runs", "steps", "spans", "evaluations", "system_state"])
def test_what_has_no_row_numbers_is_read_and_not_changed(lens: Lens, table: str, make: Any) -> None:
    before = lens("list --all").out
    lens.edit(*make(table))
    assert lens("list --all -o id").lines == [line.split("\t")[0] for line in before.splitlines()[1:]]
    half = len(table) % 2  # the other half with the other tables
    for words in READING if SOAK else READING[half::2]:
        done = lens(*words.split())
        assert done.code in (0, 1), (words, done.err)
    for words in CHANGING:
        done = lens(*words.split())
        assert done.code == 5, (words, done.code, done.out, done.err)
        assert f"{table} is " in done.err
    assert lens("list --all -o id").lines == [line.split("\t")[0] for line in before.splitlines()[1:]]


# --- columns of any name


def rows(path: Path) -> dict[str, list[Any]]:
    """What the tables of the library hold."""
    with closing(sqlite3.connect(path)) as db:
        tables = ("workflow_state", "runs", "steps", "spans")
        return {t: db.execute(f"SELECT rowid, * FROM {t} ORDER BY rowid").fetchall() for t in tables}


@pytest.mark.parametrize("make", ["lens", "old_lens"])
@pytest.mark.parametrize("table", ["workflow_state", "runs", "steps", "spans"])
def test_columns_of_any_name_go_and_come_back(
    request: pytest.FixtureRequest, bare_lens: Lens, make: str, table: str
) -> None:
    """With a quote in the name, in other letters: as SQLite takes them."""
    request.getfixturevalue(make)
    bare_lens.edit(
        f'ALTER TABLE {table} ADD COLUMN "a b""c" TEXT',
        f'UPDATE {table} SET "a b""c" = \'kept\'',
        "PRAGMA legacy_alter_table = on",
        f"ALTER TABLE {table} RENAME TO passing",
        f"ALTER TABLE passing RENAME TO {table.upper()}",
        f"ALTER TABLE {table} RENAME COLUMN run_id TO Run_ID",
        f"ALTER TABLE {table} RENAME COLUMN status TO STATUS",
    )
    before, shown = rows(bare_lens.cwd / "flujo_ops.db"), bare_lens("show orders-v1-001 -v --state").out
    gone = bare_lens("delete orders-v1-001 --yes -o json")
    assert gone.code == 0, gone.err
    assert rows(bare_lens.cwd / "flujo_ops.db") != before
    back = bare_lens("undo", gone.json["audit_id"], "--yes")
    assert back.code == 0, back.err
    assert rows(bare_lens.cwd / "flujo_ops.db") == before
    assert bare_lens("show orders-v1-001 -v --state").out == shown
    migrated = bare_lens("migrate --yes")
    assert migrated.code == 0, migrated.err
    with closing(sqlite3.connect(bare_lens.cwd / "flujo_ops.db")) as db:
        assert db.execute(f'SELECT DISTINCT "a b""c" FROM {table}').fetchall() == [("kept",)]


# --- rows without an id

COUNTED = ("failing", "silent", "waiting", "runs")


@pytest.mark.parametrize("table", ["workflow_state", "runs"])
@pytest.mark.parametrize("status", ["failed", "paused", "running"])
def test_rows_without_an_id_are_no_runs(lens: Lens, table: str, status: str) -> None:
    lines = ("list --all -o json", "failed --hours 9000 -o json", "check --save known.json -o json", "status -o json")
    before = [(done.code, done.json) for done in map(lens, lines)]
    lens.edit(
        *[
            f"INSERT INTO {table} (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at"
            f"{', current_step_index' if table == 'workflow_state' else ''}) VALUES (NULL, 'x', 'x', '1', '{status}', "
            f"'2026-11-20', '2026-11-20'{', 1' if table == 'workflow_state' else ''})"
        ]
        * 3
    )
    after = [(done.code, done.json) for done in map(lens, lines)]
    for line, one, two in zip(lines, before, after, strict=True):
        if line.startswith("status"):
            assert [one[1][key] for key in COUNTED] == [two[1][key] for key in COUNTED]
            continue
        assert one == two, line


def test_an_audit_entry_that_closes_no_text(lens: Lens) -> None:
    """The id of what it closes may be of any JSON type; the other entries are listed."""
    assert lens("delete fail-001 --yes").code == 0
    log = lens.cwd / "flujo_ops.db.lens-audit.ndjson"
    *_, end = log.read_text().splitlines()
    for odd in ({"a": 1}, [1], 7):
        with log.open("a") as file:
            file.write(json.dumps(json.loads(end) | {"closes": odd}) + "\n")
    done = lens("audit list --all-stores -o json")
    assert done.code == 0, done.err
    assert "finished" in {row["state"] for row in done.json}


# --- files of traces


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*at, key))


def _with(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("form", ["otlp", "chrome", "json", "other chrome", "debug export"])
def test_a_damaged_file_of_a_trace_is_no_fault_of_lens(lens: Lens, form: str) -> None:
    """Any value of any type in any place: what can be read is shown, or the file is refused."""
    if form == "json":
        lens.write("t.json", lens("trace fail-001 -o json").out)
    elif form == "other chrome":
        events = [{"ph": "X", "ts": 1, "dur": 5, "pid": 1, "tid": 1, "name": "a", "args": {"b": 1}}] * 2
        lens.write("t.json", json.dumps({"traceEvents": events}))
    elif form == "debug export":
        child = {"name": "b", "span_id": "2", "start_time": 1.5, "end_time": 2, "attributes": {"c": [1]}}
        tree = {"name": "a", "span_id": "1", "start_time": 1, "end_time": 2, "status": "completed", "children": [child]}
        lens.write("t.json", json.dumps({"run_id": "r", "trace_tree": tree}))
    else:
        lens(f"trace fail-001 --export {form} t.json")
    whole = json.loads((lens.cwd / "t.json").read_text())
    values = (None, True, "", "9" * 30, 10**19, -1e300, [], [5], {}, {"a": {}}, [[]])
    shown = ("-o json", "", "--spans -o csv", "--export otlp -", "--export svg -", "--export chrome -")
    for number, path in enumerate(_paths(whole)):
        value = values[number % len(values)]
        lens.write("m.json", json.dumps(_with(whole, path, value)))
        done = lens(f"trace --file m.json {shown[number % len(shown)]}")
        assert done.code in (0, 1, 2), (path, value, done.err)
        assert "LENS-X1" not in done.err


@pytest.mark.parametrize("form", ["html", "chrome", "otlp", "svg", "mermaid"])
def test_times_that_no_viewer_can_place(lens: Lens, form: str) -> None:
    root = {"name": "a", "span_id": "1", "status": "completed", "start_offset_ms": 0.0, "duration_ms": 5.0}
    for odd in (
        [{**root, "duration_ms": 1e300}],
        [{**root, "start_offset_ms": -1e300}],
        [{**root, "started_at": "9999-12-31T23:59:59Z", "start_offset_ms": 1e9}],
        [{**root, "started_at": "0001-01-01T00:00:00Z", "start_offset_ms": -1e9}],
        [
            {**root, "started_at": "1900-01-01T00:00:00Z"},
            {**root, "span_id": "2", "started_at": "2900-01-01T00:00:00Z"},
        ],
    ):
        lens.write("t.json", json.dumps(odd))
        done = lens(f"trace --file t.json --export {form} -")
        assert (done.code, done.err) == (0, ""), (odd, done.err)


# --- manifests

OWN = """
import enum
from flujo_lens import Flujo, PipelineContext, Step, step

class Colour(enum.Enum):
    RED = 1

class Context(PipelineContext):
    colour: Colour = Colour.RED

@step
async def load(x: str) -> dict: return {}

@step(aliases=["old"])
async def fail(x: dict) -> str: raise ValueError("down")

ask = Step.human_in_the_loop("ask", message_for_user="OK?")
named = {"pipeline_name": "p", "pipeline_version": "1", "context_model": Context}
pipeline = load >> ask >> fail

@step
async def more(x: str) -> str: return x

flujo, longer = Flujo(pipeline, **named), Flujo(load >> ask >> fail >> more, **named)
"""


def test_a_damaged_manifest_is_no_fault_of_lens(bare_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any value of any type in any place: the runs are compared by the names of their steps."""
    bare_lens.write("own_of_damage.py", OWN)
    monkeypatch.syspath_prepend(str(bare_lens.cwd))
    own = importlib.import_module("own_of_damage")

    async def begin() -> None:
        async with SQLiteBackend("own.db") as store:
            await Flujo(own.pipeline, state_backend=store, **own.named).run_async("x", run_id="run-1")

    asyncio.run(begin())
    with closing(sqlite3.connect("own.db")) as store:
        (body,) = store.execute("SELECT body FROM lens_manifests").fetchone()
    whole = json.loads(body)
    values = (None, True, 1.5, "", [], [5], {}, {"a": {}}, [[]])
    lines = (
        "check --app own_of_damage:flujo", "check --app own_of_damage:longer -o json", "show run-1", "diff run-1 run-1",
        "resume run-1 --dry-run --app own_of_damage:longer", "fork run-1 --from-step load --dry-run",
        "check --save own.json --force",
    )  # fmt: skip
    for number, path in enumerate(_paths(whole)):
        damaged = json.dumps(_with(whole, path, values[number % len(values)]))
        bare_lens.edit(("UPDATE lens_manifests SET body = ?", (damaged,)), store="own.db")
        for line in lines if SOAK else lines[number % 4 :: 4]:
            done = bare_lens(f"{line} -s own.db")
            assert done.code != 70, (path, damaged, line, done.err)
