"""Texts with secrets of 20 kinds in every place of a store, through every command and format that prints them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from secret_corpus import WITH_SECRETS, WITHOUT_SECRETS
from support import Lens

from flujo_lens.redaction import masked_text

RUN_COLUMNS = "run_id,metadata,error_message,pause_message"
LINES = (
    "list --all",
    f"list --all --columns {RUN_COLUMNS}",
    "failed --hours 9999999",
    "failed --hours 9999999 --flat",
    "waiting",
    "tasks list",
    "tasks list --columns run_id,metadata,background_error",
    "stats",
    "status",
    "evals",
    "evals --columns run_id,metadata,feedback",
    "system list",
    "system get watermark:crm",
    "show fail-001",
    "show fail-001 -v",
    "show fail-001 --show-input --show-output",
    "show fail-001 -v --state",
    "show fail-001 --final-output",
    "show paused-001 -v --state",
    "show text-000",
    "trace fail-001",
    "spans fail-001",
    "spans fail-001 --columns name,attributes",
)
FORMATS = ("table", "json", "ndjson", "csv", "tsv", "id", None)
SOAK = "LENS_SOAK" in os.environ
TEXTS = [text for _, text in WITH_SECRETS]


def fill(lens: Lens, texts: list[str]) -> Lens:
    """Put the texts into every place of the store: all of them at once, and each as the error or question of a run."""
    text, literal = json.dumps(texts), repr({"texts": texts})
    values = json.dumps({"texts": texts, "json": text, "literal": literal})
    history = json.dumps([
        {"name": "load", "success": False, "output": texts, "feedback": literal, "attempts": 1,
         "metadata_": {"headers": texts}},
    ])  # fmt: skip
    spans = json.dumps({"step_input": literal, "more": texts, "feedback": texts[0], "json": text})
    context = json.dumps({"texts": texts, "json": text, "literal": literal, "pause_message": "\n".join(texts)})
    lens.edit(
        (
            "UPDATE workflow_state SET metadata = ?, pipeline_context = ?, step_history = ?, error_message = ?, "
            "last_step_output = ? WHERE run_id IN ('fail-001', 'paused-001')",
            (values, context, history, literal, text),
        ),
        ("UPDATE workflow_state SET background_error = ? WHERE run_id LIKE 'bgparent-001_bg%'", (literal,)),
        ("UPDATE spans SET attributes = ? WHERE run_id = 'fail-001'", (spans,)),
        ("UPDATE steps SET output = ? WHERE run_id = 'fail-001'", (values,)),
        ("UPDATE evaluations SET metadata = ?, feedback = ?", (values, literal)),
        ("UPDATE system_state SET value = ?", (values,)),
        *(_copy(number, each) for number, each in enumerate(texts)),
        *(_copied_run(number) for number in range(len(texts))),
    )
    return lens


COLUMNS = (
    "run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index, pipeline_context, status, created_at, "
    "updated_at"
)
RUNS = "run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at"


def _copy(number: int, text: str) -> tuple[str, tuple[str, ...]]:
    """A failed run with the text as its error; of each tenth one a paused run with it as its question."""
    old = "paused-001" if number % 10 == 0 else "fail-001"
    columns = COLUMNS.replace("run_id", "?", 1).replace("pipeline_context", "?", 1)
    insert = f"INSERT INTO workflow_state ({COLUMNS}, error_message) SELECT {columns}, ? FROM workflow_state"
    context = json.dumps({"pause_message": text, "is_paused": True}) if old == "paused-001" else "{}"
    return f"{insert} WHERE run_id = '{old}'", (f"text-{number:03}", context, text)


def _copied_run(number: int) -> tuple[str, tuple[str, ...]]:
    old = "paused-001" if number % 10 == 0 else "fail-001"
    insert = f"INSERT INTO runs ({RUNS}) SELECT {RUNS.replace('run_id', '?', 1)} FROM runs WHERE run_id = '{old}'"
    return insert, (f"text-{number:03}",)


def _has_secret(text: str) -> bool:
    folded = text.casefold()
    return "hush" in folded or "ahvza" in folded or "h1c2g" in folded


@pytest.fixture
def leaky(lens: Lens) -> Lens:
    return fill(lens, [text for _, text in WITH_SECRETS])


@pytest.mark.parametrize("turn", range(2))
def test_no_secret_is_shown(leaky: Lens, turn: int) -> None:
    """Every line in two formats; in long rounds in all."""
    leaks = []
    for number, line in enumerate(LINES):
        for form in FORMATS if SOAK else (FORMATS[(2 * number + 3 * turn) % len(FORMATS)],):
            shown = leaky(f"{line} -o {form}" if form else line, tty=form is None, width=300)
            assert shown.code in (0, 1, 2), shown.err
            leaks += [(line, form, row) for row in (shown.out + shown.err).splitlines() if _has_secret(row)]
    assert leaks == []


TYPED = (
    "show {text}", "list --search {text}", "list --status {text}", "list --since {text}", "list --columns {text}",
    "-s {text} list", "list --store {text}", "audit --run {text}", "check --app {text}",
    "import {text} --yes", "{text}",
    "undo {text}", "system get {text}", "list --config {text}", "prune --older-than {text}", "list --error {text}",
    "list --meta {text}", "trace --file {text}", "list --debug --since {text}", "help {text}",
)  # fmt: skip
READ = (
    "delete text-001 --dry-run", "prune --older-than 1d --dry-run", "cancel text-001 --dry-run", "doctor",
    "retry text-001 --dry-run", "resume text-010 --dry-run --app nowhere:registry", "resume text-010",
)  # fmt: skip


@pytest.mark.parametrize("turn", range(2))
def test_no_secret_is_told(leaky: Lens, turn: int) -> None:
    """Errors, hints, questions, tracebacks: whatever was typed or found."""
    lines = [line.split(" ") for line in READ]
    for number, typed in enumerate(TYPED):
        texts = TEXTS if SOAK else TEXTS[7 * number + turn :: 29]
        lines += [[word.replace("{text}", text) for word in typed.split(" ")] for text in texts if "\x00" not in text]
    leaks = []
    for words in lines:
        options = ["-o", "json"] if turn else ["--color", "never"]
        shown = leaky(*words, *options, tty=not turn, width=200)
        leaks += [(words, row) for row in (shown.out + shown.err).splitlines() if _has_secret(row)]
    assert leaks == []


def test_no_secret_is_in_a_hint_that_quotes_it() -> None:
    """Hints have what was typed as a shell needs it: that hides neither a key nor the end of a value."""
    hints = {text: f"no run {text!r}; lens list --search {shlex.quote(text)} --all" for _, text in WITH_SECRETS}
    assert [text for text, hint in hints.items() if _has_secret(masked_text(hint))] == []
    others = [f"lens list --search {shlex.quote(text)}" for text in WITHOUT_SECRETS]
    assert [masked_text(hint) for hint in others] == others


def test_no_secret_is_written_down(leaky: Lens) -> None:
    for number, (_, text) in enumerate(WITH_SECRETS[::5]):
        assert leaky("cancel", f"text-{10 * (number % 20):03}", "--yes", "--reason", text).code in (0, 1, 6)
    assert leaky("delete text-001 --yes --reason").code == 2
    written = [path for path in Path(leaky.cwd).rglob("*audit*") if path.is_file()]
    assert written
    assert [path.name for path in written if _has_secret(path.read_text(encoding="utf-8"))] == []
    shown = leaky("audit -n 999 -o json")
    assert len(shown.json) >= 20
    assert not _has_secret(shown.out)


def test_nothing_else_is_masked(lens: Lens) -> None:
    fill(lens, WITHOUT_SECRETS)
    rows = {row["run_id"]: row for row in lens("list --all -o json").json}
    for number, text in enumerate(WITHOUT_SECRETS):
        row = rows[f"text-{number:03}"]
        shown = row["pause_message"] if row["status"] == "paused" else row["error_message"]
        assert (shown or "").strip() == text.strip()
    assert lens("show fail-001 -o json").json["run"]["metadata"]["texts"] == WITHOUT_SECRETS
    assert lens("show fail-001 --state -o json").json["state"]["pipeline_context"]["texts"] == WITHOUT_SECRETS
    for line in LINES:
        for form in ("table", "tsv"):
            shown = lens(f"{line} -o {form}", tty=form == "table", width=300).out
            assert "***" not in shown.replace("password=***", "").replace("**********", ""), line


def test_all_is_shown_if_it_is_asked_for(leaky: Lens) -> None:
    texts = [text for _, text in WITH_SECRETS]
    assert leaky("show fail-001 -o json --show-secrets").json["run"]["metadata"]["texts"] == texts
    rows = {row["run_id"]: row for row in leaky("list --all -o json --show-secrets").json}
    assert rows["text-001"]["error_message"] == texts[1]
