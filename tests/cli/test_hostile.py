"""Text from a store is data: nothing in it moves a cursor, opens a link, turns a line or ends a program."""

from __future__ import annotations

import json
import re
from itertools import cycle
from typing import Any

import pytest
from support import Lens

TEXTS = {
    "escapes": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\ "
    "\x1b]52;c;cm0gLXJmIC8=\x07 \x9b2J\x90q\x9c",
    "controls": "a\x01b\x08\x08\rc\x7f\x0b\x0c \u202eevil\u202c \u2066x\u2069 \u200f zero\u200bwidth\ufeff\u00ad",
    "lines": "one\ntwo\r\nthree\u2028four\u2029five\x85six\tseven",
    "markup": "[/x] [bold]loud[/bold] [link=https://evil]x[/link] :boom: [red",
    "words": "C:\\new\\table \\x1b[31m \"double\" 'single' `back` %s %d {0} ${HOME} $(reboot)",
    "letters": "🦊 e\u0301 漢字" + "漢" * 100,
    "long": "x" * 1500,
    "json": '"\\ud800"' + "[" * 500,
}
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
IN_TSV = re.compile(CONTROLS.pattern.replace("\x00-\x09", "\x00-\x08"))
IN_CSV = re.compile(CONTROLS.pattern.replace("\x00-\x09\x0b-\x1f", "\x00-\x08\x0b\x0c\x0e-\x1f"))
IN_JSON = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
FORBIDDEN = {"table": CONTROLS, "tsv": IN_TSV, "id": CONTROLS, "csv": IN_CSV, "json": IN_JSON, "ndjson": IN_JSON}


def _fill(lens: Lens, text: str) -> None:
    """Put `text` into every text that a store keeps."""
    run_id = f"id {text}"
    document = json.dumps({text: text, "list": [text, {"key": text}]})
    context = json.dumps({"pause_message": text, "hitl_data": {"last_hitl_step": text}, text: [text]})
    history = [{"name": text, "success": False, "output": text, "feedback": text, "attempts": 2, "latency_s": 0.1}]
    lens.rename("fail-001", run_id)
    lens.edit(
        (
            "UPDATE workflow_state SET pipeline_name = ?, error_message = ?, metadata = ?, pipeline_context = ?, "
            "step_history = ?, background_error = ?",
            (text, text, document, context, json.dumps(history), text),
        ),
        ("UPDATE workflow_state SET parent_run_id = ?, task_id = ? WHERE is_background_task", (run_id, text)),
        ("UPDATE runs SET pipeline_name = ?, pipeline_version = ?, error_message = ?", (text, text, text)),
        ("UPDATE steps SET step_name = ?, output = ?", (text, json.dumps(text))),
        ("UPDATE spans SET name = ?, attributes = ?", (text, json.dumps({"feedback": text, text: text}))),
        (
            "UPDATE evaluations SET run_id = ?, step_name = ?, feedback = ?, metadata = ?",
            (run_id, text, text, document),
        ),
        ("UPDATE system_state SET key = ?, value = ?", (text, document)),
    )


LINES = [
    ["list", "--all"],
    ["failed"],
    ["failed", "--flat"],
    ["waiting"],
    ["tasks", "list"],
    ["evals"],
    ["system", "list"],
    ["stats"],
    ["status"],
    ["show", "@failed", "-v", "--state"],
    ["show", "@paused", "-v"],
    ["trace", "@failed"],
    ["spans", "@failed"],
]


def _safe(text: str, form: str) -> None:
    found = FORBIDDEN[form].search(text)
    assert found is None, (form, text[max(0, found.start() - 60) : found.end() + 20])


@pytest.mark.parametrize("kind", TEXTS)
def test_nothing_is_obeyed(lens: Lens, kind: str) -> None:
    text = TEXTS[kind]
    _fill(lens, text)
    forms = cycle(("json", "csv", "tsv", "ndjson"))
    for line in LINES:
        shown = lens(*line, tty=True, width=110)
        assert shown.code == 0, (line, shown.err)
        _safe(shown.out + shown.err, "table")
        form = next(forms)
        rows = [word for word in line if word != "--state" or form not in ("csv", "tsv")]
        printed = lens(*rows, "-o", form)
        assert printed.code == 0, (line, form, printed.err)
        _safe(printed.out, form)
        _safe(printed.err, "table")


@pytest.mark.parametrize("kind", TEXTS)
def test_errors_do_not_obey_either(lens: Lens, kind: str) -> None:
    _fill(lens, TEXTS[kind])
    for line in (["show", "id "], ["show", f"nothing {TEXTS[kind]}"], ["system", "get", TEXTS[kind] + "x"]):
        for options in ([], ["-o", "json"]):
            told = lens(*line, *options)
            _safe(told.err, "json" if options else "table")
    for line in (
        ["list", "--status", TEXTS[kind]],
        [TEXTS[kind], "x"],
        ["list", "--since", TEXTS[kind]],
        ["list", f"--{TEXTS[kind]}"],
    ):
        told = lens(*line)
        assert told.code == 2
        _safe(told.err, "table")


@pytest.mark.parametrize("kind", TEXTS)
def test_values_are_whole_in_machine_formats(lens: Lens, kind: str) -> None:
    text = TEXTS[kind]
    _fill(lens, text)
    document: Any = lens("show", f"id {text}", "--state", "-o", "json").json
    assert document["run"]["run_id"] == f"id {text}"
    assert document["run"]["pipeline_name"] == text
    assert document["steps"][0]["step_name"] == text
    assert document["state"]["metadata"] == {text: text, "list": [text, {"key": text}]}


def test_markup_is_literal(lens: Lens) -> None:
    _fill(lens, TEXTS["markup"])
    for line in (
        ["list", "--all"],
        ["show", "@failed", "-v"],
        ["trace", "@failed"],
        ["failed"],
        ["waiting"],
        ["evals"],
    ):
        shown = lens(*line, tty=True, width=300).out
        assert "[bold]loud[/bold]" in shown, line
        assert "[/x]" in shown


def test_wide_characters_keep_the_columns_straight(lens: Lens) -> None:
    lens.edit("UPDATE runs SET pipeline_name = '漢字漢字' WHERE run_id LIKE 'orders-v1%'")
    rich_cells = pytest.importorskip("rich.cells")
    shown = lens("list --all", tty=True, width=160).lines
    column = rich_cells.cell_len(shown[0][: shown[0].index("STATUS")])
    rows = [line for line in shown[1:] if "orders-v" in line]
    assert {rich_cells.cell_len(line[: line.index("completed")]) for line in rows} == {column}


@pytest.mark.parametrize("run_id", ["-x", "--yes", "--"])
def test_a_suggested_command_takes_an_id_like_an_option(lens: Lens, run_id: str) -> None:
    lens.rename("fail-001", run_id)
    lines = lens("show", "--", run_id).lines
    first = next(number for number, line in enumerate(lines) if line.startswith("next: "))
    commands = [line.removeprefix("next: ").strip().removeprefix("lens ") for line in lines[first:]]
    trace = next(command for command in commands if command.startswith("trace"))
    assert f"resume --app MODULE:NAME -- {run_id}" in commands
    assert lens(trace).code == 0
