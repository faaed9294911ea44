"""Options that cannot both be meant are refused: none is parsed and ignored."""

from __future__ import annotations

import re
import shlex

import pytest
from support import Lens

REFUSED = [
    ("list --all -n 3", "--all", "--limit"),
    ("list --count -n 3", "--count", "--limit"),
    ("list --count --cursor gPq-AAB6eno", "--count", "--cursor"),
    ("list --count --reverse", "--count", "--reverse"),
    ("list --count --columns run_id", "--count", "--columns"),
    ("list --count -o id", "", ""),
    ("list --json -o csv", "--json", "-o csv"),
    ("list --utc --time local", "--utc", "--time local"),
    ("list --utc --time relative", "--utc", "--time relative"),
    ("list -o id --columns run_id,status", "-o id", "--columns"),
    ("spans fail-001 -o id --columns name", "-o id", "--columns"),
    ("list -o json --no-header", "-o json", "--no-header"),
    ("list -o ndjson --no-header", "-o ndjson", "--no-header"),
    ("list --json --no-header", "-o json", "--no-header"),
    ("list -o id --no-header", "-o id", "--no-header"),
    ("list --since 1h --until 2h", "--since", "--until"),
    ("list --since today --until today", "--since", "--until"),
    ("stats --active-since 2026-11-20 --active-until 2026-11-19", "--active-since", "--active-until"),
    ("prune --older-than 30d --since 1d --until 2d --dry-run", "--since", "--until"),
    ("list --meta customer=1 --meta customer=2", "--meta customer=1", "--meta customer=2"),
    ("failed --status paused", "failed", "paused"),
    ("failed --status failed,cancelled --flat", "failed", "cancelled"),
    ("failed --hours 3 --since 2d", "--hours", "--since"),
    ("failed --hours 24 --active-since 2d", "--hours", "--active-since"),
    ("waiting --status failed", "waiting", "failed"),
    ("waiting --status paused,running", "waiting", "running"),
    ("tasks list --top-level", "--top-level", "tasks"),
    ("tasks sweep --top-level --dry-run", "--top-level", "tasks"),
    ("tasks sweep --status failed --dry-run", "running", "failed"),
    ("tasks sweep --silent-for 2h --stale-hours 2 --dry-run", "--silent-for", "--stale-hours"),
    ("show fail-001 --final-output -v", "--final-output", "--verbose"),
    ("show fail-001 --final-output --state", "--final-output", "--state"),
    ("show fail-001 --final-output --columns step_name", "--final-output", "--columns"),
    ("show fail-001 --final-output -o csv", "csv", "json"),
    ("show fail-001 --state -o csv", "--state", "-o csv"),
    ("show fail-001 --state -o tsv", "--state", "-o tsv"),
    ("show fail-001 --state -o id", "--state", "-o id"),
    ("show fail-001 --state --columns step_name", "--state", "--columns"),
    ("trace fail-001 --file saved.json", "RUN", "--file"),
    ("trace", "RUN", "--file"),
    ("check --save a.json --from b.json", "--from", "--save"),
    ("check --save a.json --deep", "--save", "--deep"),
    ("check --save a.json --fail-on none", "--save", "--fail-on"),
    ("check --save a.json --app-dir .", "--save", "--app-dir"),
    ("check --save a.json --columns runs", "--save", "--columns"),
    ("check --save a.json -o csv", "csv", "json"),
    ("check --app x:y --force", "--force", "--save"),
    ("check --app x:y --max-age 1d", "--max-age", "--from"),
    ("doctor --reason tidy", "--reason", "--fix"),
    ("doctor --dry-run", "--dry-run", "--fix"),
    ("prune --older-than 30d --days-old 30", "--older-than", "--days-old"),
    ("retry fail-001 --status failed", "run ids", "filters"),
    ("resume paused-001 --input a --input-json 1", "--input", "--input-json"),
    ("undo --dry-run", "lens undo", ""),
    ("undo --reason tidy", "--reason", "AUDIT_ID"),
    ("undo --audit-file other.ndjson", "--audit-file", "AUDIT_ID"),
    ("undo 20261121 --columns runs", "AUDIT_ID", "--columns"),
    ("trace --file saved.json --store flujo_ops.db", "--file", "--store"),
    ("check --from a.json --app x:y --store flujo_ops.db", "--from", "--store"),
    ("demo --store other.db", "--store", "lens demo other.db"),
]


@pytest.mark.parametrize(("line", "one", "other"), REFUSED)
def test_exit_2_and_both_are_named(lens: Lens, line: str, one: str, other: str) -> None:
    before = {path.name: path.stat().st_size for path in lens.cwd.iterdir()}
    result = lens(line)
    assert (result.code, result.out) == (2, ""), result.err
    assert one in result.err
    assert other in result.err
    assert "Traceback" not in result.err
    assert {path.name: path.stat().st_size for path in lens.cwd.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [
        "list --all --cursor gPq-AAB6eno",
        "list --all --count",
        "list --count -o json",
        "list --utc --time iso",
        "list -o id --columns run_id",
        "list -o json --utc",
        "list -o json --time iso",
        "list --no-header",
        "list --since 30d --until 1h",
        "list --meta a=1 --meta a=1",
        "failed --status failed",
        "failed --status FAILED --hours 3 --until 1h",
        "failed --hours 3 --active-until 1h",
        "waiting --status paused",
        "tasks sweep --status running --dry-run",
        "show fail-001 --final-output",
        "show fail-001 --final-output -o json",
        "show fail-001 --state -v -o json",
        "trace fail-001 --spans --depth 1 --status failed",
        "check --save a.json --min-runs 1",
    ],
)
def test_what_goes_together_is_taken(lens: Lens, line: str) -> None:
    result = lens(line)
    assert result.code == 0, result.err


def test_a_table_without_its_header(lens: Lens) -> None:
    with_head, without = lens("list -n 3", tty=True).lines, lens("list -n 3 --no-header", tty=True).lines
    assert with_head[0].split()[:2] == ["RUN", "PIPELINE"]
    assert [line.split() for line in without] == [line.split() for line in with_head[1:]]


def test_one_key_of_the_system_state_by_columns(lens: Lens) -> None:
    assert lens("system get watermark:crm --columns key").lines == ["key", "watermark:crm"]


def test_the_window_of_failures_is_before_active_until(lens: Lens) -> None:
    """24 hours before that instant, not before the present: else it would always be empty."""
    everything = set(lens("failed --flat -o id --hours 9999").lines)
    until = "2026-11-21T00:11:10Z"
    found = set(lens(f"failed --flat -o id --active-until {until}").lines)
    rows = lens("list --all --status failed -o json").json
    assert found == {row["run_id"] for row in rows if row["updated_at"] < until} & everything
    assert found


# --- hints


def _commands(text: str) -> list[str]:
    """The command lines of a text."""
    return [found.rstrip() for found in re.findall(r"\blens [a-z][^\n;)]*?(?=\)|;|   |$)", text, re.MULTILINE)]


def test_hints_of_list_lead_to_the_next_page_of_the_same_runs(lens: Lens) -> None:
    everything = lens("list --all --status completed -o id").lines
    line, seen = "lens list --status completed -n 4", []
    while True:
        shown = lens(*[*shlex.split(line)[1:], "-o", "id"])
        seen += shown.lines
        commands = _commands(shown.err)
        if not commands:
            break
        line, count = commands
        assert int(lens(*shlex.split(count)[1:]).out) == len(everything)
        assert "-n 4" in line
    assert seen == everything
    assert len(seen) > 8


@pytest.mark.parametrize("command", ["list -n 1", "tasks list -n 1", "waiting -n 1", "failed --flat -n 1"])
def test_every_hint_repeats_the_filters(lens: Lens, command: str) -> None:
    lens.edit(
        """UPDATE workflow_state SET metadata = '{"a b": "c d"}'""",
        "UPDATE workflow_state SET pipeline_name = 'orders', pipeline_version = '1.0.0'",
        "UPDATE runs SET pipeline_name = 'orders', pipeline_version = '1.0.0'",
    )
    filters = "--pipeline orders --version 1.0.0 --meta 'a b=c d' --search 0 --store flujo_ops.db"
    told = lens(f"{command} {filters}")
    assert told.code == 0
    commands = _commands(told.err)
    assert commands, told.err
    for each in commands:
        words = shlex.split(each)
        for pair in (("--pipeline", "orders"), ("--version", "1.0.0"), ("--meta", "a b=c d"), ("--search", "0")):
            assert any(words[i : i + 2] == list(pair) for i in range(len(words))), each
        assert words[words.index("--store") :][:2] == ["--store", "flujo_ops.db"]
        assert lens(*words[1:]).code == 0, each


def test_hints_of_failed_stay_in_its_window_and_filters(lens: Lens) -> None:
    lens.edit("UPDATE runs SET pipeline_name = 'payments' WHERE run_id IN ('crashed-001', 'orders-v1-001')")
    told = lens("failed --hours 90 --pipeline payments", tty=True, width=200).err
    one, silent = (next(c for c in _commands(told) if word in c) for word in ("--error", "--status running"))
    assert "--hours 90" in one
    assert "--pipeline payments" in one
    assert "--pipeline payments" in silent
    ids = lens(*shlex.split(one)[1:], "-o", "id").lines
    assert ids
    assert {lens("show", run_id, "-o", "json").json["run"]["pipeline_name"] for run_id in ids} == {"payments"}


def test_nothing_failed_leads_further_back(lens: Lens) -> None:
    told = lens("failed --hours 1 --pipeline payments").err
    (further,) = (command for command in _commands(told) if "--hours" in command)
    assert further == "lens failed --hours 30 --pipeline payments"
    assert lens(*shlex.split(further)[1:], "-o", "id").lines


@pytest.mark.parametrize(
    ("command", "number"),
    [("failed --hours 99", 1), ("failed --flat --hours 99", 1), ("waiting", 2), ("evals", 1), ("audit list", 2)],
)
def test_limit_cuts_off_and_says_so(lens: Lens, command: str, number: int) -> None:
    lens.edit(
        "INSERT INTO evaluations (run_id, score) VALUES ('fail-001', 0.1), ('fail-001', 0.2), ('paused-001', 0.3)"
    )
    for key in "abc":
        lens(f"system set {key} {{}}")
    whole = lens(f"{command} -o id")
    cut = lens(f"{command} -o id -n {number}")
    assert cut.lines == whole.lines[:number]
    assert len(whole.lines) > number
    (every,) = (each for each in _commands(cut.err) if each.startswith(f"lens {command.split()[0]}"))
    assert lens(*shlex.split(every)[1:], "-o", "id").lines == whole.lines
    assert _commands(lens(f"{command} -o id -n 999").err) == _commands(whole.err)
    assert lens(f"{command} -n 0").code == 2
