"""The machine formats: their fields, that all of them say the same, and that every id leads back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import fields
import pytest
from support import OLD, Lens, Result

from flujo_lens.rendering.text import unescape

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
BACKGROUND_TASK = "bgparent-001_bg_bg_23d875c599424dd6aa5fe053e8f2c700"
SETTINGS = 'default = "prod"\n[stores.prod]\nuri = "flujo_ops.db"\n'

LISTS = [
    ("list --all", fields.RUN, "run_id"),
    ("list --status failed", fields.RUN, "run_id"),
    ("waiting", fields.WAITING, "run_id"),
    ("failed --flat", fields.RUN, "run_id"),
    ("failed", fields.FAILURE, "sample_run_id"),
    ("tasks list", fields.TASK, "run_id"),
    ("evals", fields.EVALUATION, "run_id"),
    ("system list", fields.SYSTEM, "key"),
    ("spans deep-001", fields.SPAN, "span_id"),
    ("trace deep-001 --spans", fields.SPAN, "span_id"),
    ("config", fields.CONFIG, "key"),
    ("stores", fields.STORE, "name"),
]
EMPTY = [
    "list --pipeline nothing",
    "list --all --pipeline nothing",
    "waiting --pipeline nothing",
    "failed --pipeline nothing",
    "failed --flat --pipeline nothing",
    "tasks list --pipeline nothing",
    "evals deep-001",
    "spans crashed-001",
    "trace crashed-001 --spans",
    "spans deep-001 --name nothing",
]


@pytest.fixture
def named(lens: Lens) -> Lens:
    """``lens`` where a file names the store."""
    lens.write("lens.toml", SETTINGS)
    return lens


def _read_back(cell: str, like: Any) -> Any:
    """A csv cell as the JSON value that it stands for."""
    if like is None:
        return None if cell == "" else cell
    if isinstance(like, str):
        return cell
    return json.loads(cell)


def _same(rows: list[dict[str, str]], documents: list[dict[str, Any]]) -> None:
    read = [
        {name: _read_back(cell, document[name]) for name, cell in row.items()}
        for row, document in zip(rows, documents, strict=True)
    ]
    assert read == documents


# --- rows


@pytest.mark.parametrize(("line", "names", "key"), LISTS)
def test_rows_have_the_public_fields_in_every_format(named: Lens, line: str, names: list[str], key: str) -> None:
    documents = named(f"{line} -o json").json
    assert documents
    assert [list(document) for document in documents] == [names] * len(documents)
    assert [json.loads(text) for text in named(f"{line} -o ndjson").lines] == documents
    _same(named(f"{line} -o csv").csv, documents)
    unescaped = [{n: unescape(cell) for n, cell in row.items()} for row in named(f"{line} -o tsv").tsv]
    _same(unescaped, documents)
    ids = [unescape(text) for text in named(f"{line} -o id").lines]
    assert ids == [document[key] for document in documents]


DOCUMENTS = ("status", "show", "trace", "stats", "doctor", "config", "stores", "explain")
"""Commands whose output in a pipe is the text of their screen."""


@pytest.mark.parametrize(("line", "names", "key"), [row for row in LISTS if row[0].split()[0] not in DOCUMENTS])
def test_a_list_in_a_pipe_is_tsv(named: Lens, line: str, names: list[str], key: str) -> None:
    piped = named(line)
    assert piped.out == named(f"{line} -o tsv").out
    assert piped.lines[0].split("\t") == names
    assert named(f"{line} --no-header").out == piped.out.partition("\n")[2]
    assert named(f"{line} -o csv --no-header").out == named(f"{line} -o csv").out.partition("\n")[2]


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_document_in_a_pipe_is_the_text_of_its_screen(named: Lens, command: str) -> None:
    """That of a wide terminal, without colour, escapes and blanks at the end; with --columns, it is a list."""
    line = f"{command} fail-001" if command in ("show", "trace") else command
    piped, shown = named(line).out, named(line, tty=True, width=10_000, colour=True).out
    assert "\x1b" not in piped
    assert "\t" not in piped
    assert [text for text in piped.split("\n") if text != text.rstrip()] == []
    if command != "trace":  # its bars are as wide as the terminal
        without = re.sub(r"\x1b\[[\d;]*m", "", shown)
        assert piped.split() == without.split()
    first = next(iter(named(f"{line} -o tsv").tsv[0]))
    assert named(f"{line} --columns {first}").lines == named(f"{line} -o tsv --columns {first}").lines
    assert "\x1b[" in named(f"{line} --color always").out or command in ("config", "trace", "explain", "stores")


def test_a_document_in_a_pipe_is_whole(lens: Lens) -> None:
    """A text of 200,000 letters stands on one line, and beside it no line is filled up to its length."""
    long = "ValueError: " + "x y" * 66_000 + " end"
    feedback = json.dumps({"feedback": f"Agent execution failed with {long}", "success": False})
    lens.edit(
        ("UPDATE runs SET error_message = ? WHERE run_id = 'fail-001'", (long,)),
        ("UPDATE workflow_state SET error_message = ? WHERE run_id = 'fail-001'", (long,)),
        ("UPDATE spans SET attributes = ? WHERE run_id = 'fail-001' AND name = 'boom'", (feedback,)),
        ("UPDATE steps SET output = ? WHERE run_id = 'fail-001'", (json.dumps(long),)),
    )
    for line in ("show fail-001 -v", "trace fail-001", "list -o table"):
        result = lens(line)
        assert result.code == 0
        whole = [text for text in result.lines if text.rstrip().count("x y") > 65_000]
        assert whole, line
        assert len(result.out) < (len(whole) + 1) * len(long) + 20_000, line


@pytest.mark.parametrize("line", EMPTY)
def test_nothing_is_an_empty_list_and_no_failure(lens: Lens, line: str) -> None:
    for form, expected in (("json", "[]\n"), ("ndjson", ""), ("id", "")):
        result = lens(f"{line} -o {form}")
        assert (result.code, result.out) == (0, expected)
        assert result.err.strip()
        assert "\n\n" not in result.err
    assert lens(f"{line} -o csv").csv == []
    assert len(lens(f"{line} -o tsv").lines) == 1


def test_the_json_option_is_the_json_format(lens: Lens) -> None:
    assert lens("list --json").out == lens("list -o json").out
    assert lens("list --json -o json").code == 0
    assert lens("list --json -o csv").code == 2


def test_the_terminal_alone_chooses_the_format(lens: Lens) -> None:
    assert lens("list -o json", tty=True).json == lens("list -o json").json
    assert lens("list -o tsv", tty=True).out == lens("list").out
    assert lens("list", tty=True).out.startswith("RUN ")
    assert lens("list -o table").out.startswith("RUN ")
    forced = lens("list", env={"FORCE_COLOR": "1"})
    assert forced.out == lens("list").out


# --- documents


@pytest.mark.parametrize("run", ["fail-001", "paused-001", "bgparent-001", "crashed-001", BACKGROUND_TASK])
def test_show_is_one_document(lens: Lens, run: str) -> None:
    document = lens(f"show {run} -o json").json
    assert list(document) == ["run", "steps", "pause", "children"]
    assert list(document["run"]) == fields.RUN
    assert document["run"]["run_id"] == run
    assert all(list(step) == fields.STEP for step in document["steps"])
    assert document == json.loads(lens(f"show {run} -o ndjson").out)
    _same(lens(f"show {run} -o csv").csv, document["steps"])
    assert lens(f"show {run} -o id").out == f"{run}\n"


def test_show_tells_the_question_and_the_tasks(lens: Lens) -> None:
    paused = lens("show paused-001 -o json").json
    question = paused["pause"].pop("question")
    assert paused["pause"] == {"step": "approve", "message": "Approve invoice 4711? (yes/no)"}
    assert question == lens("waiting --search paused-001 --columns question -o tsv --no-header").lines[0]
    parent = lens("show bgparent-001 -o json").json
    assert parent["pause"] is None
    tasks = lens("tasks --parent bgparent-001 -o id").lines
    assert sorted(parent["children"]) == sorted(tasks)


def test_show_with_the_whole_state(lens: Lens) -> None:
    with_state = lens("show paused-001 --state -o json").json
    assert list(with_state) == ["run", "steps", "pause", "children", "state"]
    assert with_state["state"]["pipeline_context"]["pause_message"] == "Approve invoice 4711? (yes/no)"
    assert lens("show otel-001 --state -o json").json["state"] is None


def _spans(roots: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for root in roots:
        yield root
        yield from _spans(root["children"])


@pytest.mark.parametrize("run", ["fail-001", "trace4-001", "otel-001"])
def test_trace_is_a_list_of_roots(lens: Lens, run: str) -> None:
    roots = lens(f"trace {run} -o json").json
    spans = list(_spans(roots))
    assert all(list(span) == [*fields.SPAN, "children"] for span in spans)
    assert all(root["parent_span_id"] is None for root in roots)
    assert all(child["parent_span_id"] == span["span_id"] for span in spans for child in span["children"])
    flat = lens(f"spans {run} -o json").json
    assert flat == [{name: span[name] for name in fields.SPAN} for span in spans]
    _same(lens(f"trace {run} -o csv").csv, flat)
    assert lens(f"trace {run} -o id").lines == [span["span_id"] for span in flat]


def test_a_saved_trace_reads_as_the_run_does(lens: Lens) -> None:
    saved = lens("trace trace4-001 -o json")
    lens.write("saved.json", saved.out)
    assert lens("trace --file saved.json -o json").json == saved.json


def test_a_run_without_spans_is_an_empty_trace(lens: Lens) -> None:
    for line, printed in (("trace crashed-001 -o json", "[]\n"), ("trace crashed-001 -o ndjson", "")):
        result = lens(line)
        assert (result.code, result.out) == (0, printed)
        assert "no spans" in result.err


def test_stats_is_one_document(lens: Lens) -> None:
    stats = lens("stats --since 2026-11-20 -o json").json
    assert list(stats) == fields.STATS
    assert all(list(row) == fields.PIPELINE for row in stats["by_pipeline"])
    assert all(list(row["duration_ms"]) == fields.DURATIONS for row in stats["by_pipeline"])
    assert all(list(row) == fields.FAILURE for row in stats["failures"])
    assert all(list(row) == fields.SPAN_NAME for row in stats["spans"])
    assert all(list(row["duration_ms"]) == fields.DURATIONS for row in stats["spans"])
    assert stats["window"] == {"since": "2026-11-20T05:00:00Z", "until": None}
    assert set(stats["by_status"]) <= fields.STATUSES
    assert stats["total"] == sum(stats["by_status"].values()) == sum(r["total"] for r in stats["by_pipeline"])
    _same(lens("stats -o csv").csv, lens("stats -o json").json["by_pipeline"])
    assert lens("stats -o id").lines == [row["pipeline_name"] for row in stats["by_pipeline"]]


def test_stats_count_what_list_lists(lens: Lens) -> None:
    runs = lens("list --all -o json").json
    stats = lens("stats -o json").json
    assert stats["by_status"] == {s: sum(r["status"] == s for r in runs) for s in {r["status"] for r in runs}}
    assert {row["pipeline_name"] for row in stats["by_pipeline"]} == {run["pipeline_name"] for run in runs}


def test_status_is_one_document(lens: Lens) -> None:
    status = lens("status -o json").json
    assert list(status) == fields.STATUS
    assert list(status["waiting"]) == ["count", "oldest_at"]
    assert status["runs"] == int(lens("list --count").out)
    assert status["waiting"]["count"] == len(lens("waiting -o id").lines)
    assert [list(run) for run in status["silent"]] == [fields.RUN] * len(status["silent"])
    assert [json.loads(line) for line in lens("status -o ndjson").lines] == [status]
    assert status["size_bytes"] == (lens.cwd / "flujo_ops.db").stat().st_size


def test_status_exits_1_when_something_is_red(lens: Lens) -> None:
    assert lens("status").code == 0
    assert lens("status --exit-status").code == 1
    lens.edit("DELETE FROM workflow_state WHERE status = 'running'", "DELETE FROM runs WHERE status = 'running'")
    calm = lens("status --exit-status")
    assert calm.code == 0, calm.out


def test_system_value(lens: Lens) -> None:
    value = {"cursor": "2026-07-01T00:00:00Z", "n": 3}
    assert lens("system get watermark:crm").json == value
    assert lens("system get watermark:crm", tty=True).json == value
    entry = lens("system get watermark:crm -o json").json
    assert (list(entry), entry["value"]) == (fields.SYSTEM, value)


def test_final_output_is_json(lens: Lens) -> None:
    assert lens("show complex-001 --final-output").json == "finished"
    assert lens("show crashed-001 --final-output").code == 0


# --- times


def _times(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name.endswith("_at") and name not in ("metadata", "attributes"):
                yield item
            elif name not in ("metadata", "attributes", "output", "state"):
                yield from _times(item)
    elif isinstance(value, list):
        for item in value:
            yield from _times(item)


@pytest.mark.parametrize("store", ["lens", "old_lens"])
@pytest.mark.parametrize(
    "line", ["status", "list --all", "show deep-001", "trace deep-001", "stats", "failed", "waiting"]
)
def test_times_are_utc_with_a_z(request: pytest.FixtureRequest, store: str, line: str) -> None:
    document = request.getfixturevalue(store)(f"{line} -o json --time local").json
    times = [when for when in _times(document) if when is not None]
    assert times or line == "stats"
    assert [when for when in times if not RFC3339.fullmatch(when)] == []


def test_both_versions_of_the_library_tell_the_same_times(bare_lens: Lens) -> None:
    """0.4.35 wrote naive local times (UTC-5 here): nothing may be five hours off."""
    bare_lens.store(OLD)
    runs = bare_lens("list --all -o json").json
    assert {run["updated_at"][:16] for run in runs} == {"2026-11-21T00:11"}
    assert all(run["created_at"] <= run["updated_at"] for run in runs)


# --- columns and formats that are asked for


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "tsv"])
def test_columns_choose_and_order(lens: Lens, form: str) -> None:
    result = lens(f"list --columns status,run_id -o {form} -n 2")
    if form in ("csv", "tsv"):
        assert re.split("[,\t]", result.lines[0]) == ["status", "run_id"]
    else:
        rows = result.json if form == "json" else [json.loads(line) for line in result.lines]
        assert [list(row) for row in rows] == [["status", "run_id"]] * 2


def test_columns_in_a_table(lens: Lens) -> None:
    shown = lens("list --columns status,run_id,metadata -n 2", tty=True).lines
    assert shown[0].split() == ["STATUS", "RUN_ID", "METADATA"]
    assert lens("stats --columns pipeline_name,total", tty=True).lines[0].split() == ["PIPELINE_NAME", "TOTAL"]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("list", fields.RUN),
        ("show fail-001", fields.STEP),
        ("spans fail-001", fields.SPAN),
        ("trace fail-001", fields.SPAN),
        ("failed", fields.FAILURE),
        ("stores", fields.STORE),
    ],
)
def test_a_wrong_column_names_the_legal_ones(lens: Lens, line: str, names: list[str]) -> None:
    for options in ("", " -o csv"):
        result = lens(f"{line} --columns statsu{options}")
        assert (result.code, result.out) == (2, "")
        assert ", ".join(names) in result.err


def test_a_column_that_does_not_exist_is_told_before_anything_is_printed(lens: Lens) -> None:
    for line in ("list --all", "waiting", "stats", "status", "show fail-001", "trace fail-001", "evals"):
        for form in ("json", "ndjson", "csv", "tsv", "table"):
            result = lens(f"{line} --columns nonsense -o {form}")
            assert (result.code, result.out) == (2, ""), (line, form)


@pytest.mark.parametrize(
    "line", ["list -o yaml", "status -o id", "status -o jsn", "list -o ''", "show fail-001 -o xml"]
)
def test_a_format_that_makes_no_sense(lens: Lens, line: str) -> None:
    result = lens(line)
    assert (result.code, result.out) == (2, "")
    assert "json" in result.err


def test_a_format_that_does_not_exist_names_the_nearest(lens: Lens) -> None:
    assert "Did you mean ndjson?" in lens("list -o ndjsn").err


# --- ids lead back

IDS = [
    "two words",
    "  edge",
    "a/b/../c",
    "per%cent%20sign",
    'it\'s "quoted"',
    "line\nbreak",
    "tab\tstop",
    "carriage\rreturn",
    "back\\slash",
    "back\\nslash",
    "ünï-漢字-🦊",
    "\x1b[31mred\x1b[0m",
    "\x9b31m",
    "bell\x07",
    "bidi\u202edlrow",
    "zero\u200bwidth",
    "[bold]markup[/bold]",
    "[/x]",
    "$(reboot)`;&|",
    "comma,semi;colon",
    "=1+1",
    "@latest",
    "@other",
    "run_run_run",
    "run_",
    "x",
    "*",
    "_%_",
]


@pytest.fixture
def odd(lens: Lens) -> Lens:
    """A store whose runs have odd ids."""
    runs = lens("list --all -o id --top-level").lines
    for run, run_id in zip(runs, IDS, strict=False):
        lens.rename(run, run_id)
    for run_id in IDS[len(runs) :]:
        lens.edit(("INSERT INTO runs SELECT ?, " + ", ".join(RUNS) + " FROM runs WHERE run_id = ?", (run_id, IDS[0])))
    return lens


RUNS = [
    "pipeline_id", "pipeline_name", "pipeline_version", "status", "created_at", "updated_at", "execution_time_ms",
    "memory_usage_mb", "total_steps", "error_message", "end_time", "total_cost", "final_context_blob",
]  # fmt: skip


def _printed(lens: Lens, form: str) -> list[str]:
    """All ids as `list` prints them in some format."""
    line = "list --all --columns run_id"
    if form == "table":
        return [text.rstrip() for text in lens(f"{line} -o table", tty=True, width=300).lines[1:]]
    result = lens(f"{line} -o {form}")
    if form == "json":
        return [row["run_id"] for row in result.json]
    if form == "ndjson":
        return [json.loads(text)["run_id"] for text in result.lines]
    if form == "csv":
        return [row["run_id"] for row in result.csv]
    return result.lines[form == "tsv" :]


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "tsv", "id", "table"])
def test_every_printed_id_leads_back(odd: Lens, form: str) -> None:
    meant = []
    for printed in _printed(odd, form):
        found = odd("show", printed, "-o", "json")
        assert found.code == 0, (printed, found.err)
        meant.append(found.json["run"]["run_id"])
    assert len(set(meant)) == len(meant)
    assert set(IDS) <= set(meant)


def test_what_is_proposed_to_type_leads_back(lens: Lens) -> None:
    """The commands on the screens are shell words; the ids in them are those of the runs."""
    lens.rename("fail-001", "it's $HOME\n\x1b[31m [b]")
    shown = lens("show @failed --columns step_name -o csv")
    assert shown.code == 0
    screen = lens("status", tty=True, width=300).out + lens("show", "it's $HOME\n\x1b[31m [b]", tty=True, width=300).out
    proposed = re.findall(r"lens (?:show|trace) (?:(?!·|  |\n).)+", screen)
    assert proposed
    for line in proposed:
        result: Result = lens(line.removeprefix("lens "))
        assert result.code == 0, (line, result.err)


def test_an_id_that_looks_like_an_option(lens: Lens) -> None:
    lens.rename("single-001", "--help")
    assert lens("show", "-o", "json", "--", "--help").json["run"]["run_id"] == "--help"


EXPORT = {
    "exported_at": "2026-11-21T03:00:00Z",
    "pipeline_name": "orders",
    "run_id": "run-7",
    "env": {"FLUJO_DEBUG": None},
    "trace_tree": {
        "name": "pipeline_run",
        "status": "failed",
        "start_time": 5000.25,
        "end_time": 5002.25,
        "attributes": {"flujo.run_id": "run-7", "flujo.pipeline.version": "1.2.0"},
        "events": [],
        "children": [
            {
                "name": "load",
                "status": "completed",
                "start_time": 5000.5,
                "end_time": 5001.0,
                "attributes": {"success": True},
                "events": [{"name": "agent.usage", "attributes": {"input_tokens": 7}}],
                "children": [],
            },
            {"name": "charge", "status": "failed", "start_time": 5001.5, "end_time": None, "children": []},
        ],
    },
    "result": {"step_history": []},
}
"""What ``flujo run --debug-export`` writes: times of a monotonic clock, no ids."""


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_debug_export_of_the_library_is_a_trace(lens: Lens, is_whole: bool) -> None:
    document = EXPORT if is_whole else EXPORT["trace_tree"]
    (lens.cwd / "debug.json").write_text(json.dumps(document))
    (root,) = lens("trace --file debug.json -o json").json
    assert (root["name"], root["status"], root["start_offset_ms"], root["duration_ms"]) == (
        "pipeline_run",
        "failed",
        0,
        2000,
    )
    load, charge = root["children"]
    assert (load["start_offset_ms"], load["duration_ms"], load["started_at"]) == (250, 500, None)
    assert load["attributes"]["events"] == [{"name": "agent.usage", "attributes": {"input_tokens": 7}}]
    assert (charge["start_offset_ms"], charge["duration_ms"]) == (1250, None)
    assert load["parent_span_id"] == charge["parent_span_id"] == root["span_id"]
    assert len({span["span_id"] for span in (root, load, charge)}) == 3
    drawn = lens("trace --file debug.json -o table").out
    assert [name for name in ("load", "charge") if name in drawn] == ["load", "charge"]
    assert ("run-7" in drawn.splitlines()[0]) == is_whole
    assert ("orders 1.2.0" in drawn) == is_whole
    assert lens("trace --file debug.json --spans --status failed --name charge -o id").lines == [charge["span_id"]]


def test_a_debug_export_without_a_tree_has_no_spans(lens: Lens) -> None:
    (lens.cwd / "debug.json").write_text(json.dumps({**EXPORT, "trace_tree": {}}))
    shown = lens("trace --file debug.json -o json")
    assert (shown.json, "no spans" in shown.err) == ([], True)


def test_a_saved_list_of_spans_is_a_trace(lens: Lens) -> None:
    (lens.cwd / "flat.json").write_bytes(lens("spans orders-v1-001 -o json").stdout)
    assert lens("trace --file flat.json -o json").json == lens("trace orders-v1-001 -o json").json


@pytest.mark.parametrize("content", ['{"trace_tree": 5}', '{"trace_tree": [1]}', "7", '{"run": {}}'])
def test_what_is_no_trace_is_refused(lens: Lens, content: str) -> None:
    (lens.cwd / "debug.json").write_text(content)
    refused = lens("trace --file debug.json")
    assert (refused.code, "is not a saved trace: its JSON has no spans\n" in refused.err) == (2, True)
    assert "--file reads html, chrome and otlp files" in refused.err


def test_a_file_of_another_kind_is_named(lens: Lens) -> None:
    for form in ("mermaid", "svg"):
        lens(f"trace orders-v1-001 --export {form} a.{form}")
    lens("export a.ndjson.gz --pipeline orders")
    texts = {"a.html": "<html></html>", "cut.json": '{"run_id": "a", "spa', "no.txt": "spans: none", "empty": "\n"}
    for name, text in texts.items():
        lens.write(name, text)
    for name, what in {
        "flujo_ops.db": "it is an SQLite database", "a.mermaid": "it is a Mermaid chart",
        "a.svg": "it is a picture (SVG)", "a.html": "it is a page without a trace of lens",
        "cut.json": "its JSON is damaged or cut off", "a.ndjson.gz": "it is compressed",
        "no.txt": "it is not JSON", "empty": "it is empty",
    }.items():  # fmt: skip
        refused = lens(f"trace --file {name}")
        assert (refused.code, f"{name} is not a saved trace: {what}\n" in refused.err) == (2, True), name
        assert "what lens trace RUN -o json and flujo run --debug-export write" in refused.err
        assert ("lens trace RUN --store" in refused.err) == (name == "flujo_ops.db")
