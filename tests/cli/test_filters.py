"""Every filter against a plain reading of the whole list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest
from support import NOW, Lens

from flujo_lens import Step
from flujo_lens.state.resumable import RESUMABLE

Row = dict[str, Any]
Oracle = Callable[[Row], bool]

META = '{"customer": "4711", "tries": 3, "vip": true, "note": null, "rate": 0.5, "tags": ["a"], "name": "Ana López"}'


def _has(row: Row, text: str) -> bool:
    found = (row["run_id"], row["pipeline_name"], row["error_message"], row["pause_message"])
    return any(text.casefold() in value.casefold() for value in found if value)


def _fails_like(row: Row, glob: str) -> bool:
    """As stored; or without the words that the library wraps round it."""
    error = row["error_message"]
    if error is None:
        return False
    plain = error.removeprefix("Agent execution failed with ")
    return any(fnmatchcase(text.casefold(), glob.casefold()) for text in (error, plain))


def _when(row: Row, name: str) -> datetime:
    return datetime.fromisoformat(row[name])


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


CASES: list[tuple[str, Oracle]] = [
    ("--status failed", lambda r: r["status"] == "failed"),
    ("--status failed --status paused", lambda r: r["status"] in ("failed", "paused")),
    ("--status failed,cancelled", lambda r: r["status"] in ("failed", "cancelled")),
    ("--status ' FAILED , paused'", lambda r: r["status"] in ("failed", "paused")),
    ("--status completed", lambda r: r["status"] == "completed"),
    ("--status running", lambda r: r["status"] == "running"),
    ("--pipeline orders", lambda r: r["pipeline_name"] == "orders"),
    ("--pipeline ORDERS", lambda r: False),
    ("--pipeline unknown", lambda r: r["pipeline_name"] == "unknown"),
    ("--version 1.0.0", lambda r: r["pipeline_version"] == "1.0.0"),
    ("--version latest", lambda r: r["pipeline_version"] == "latest"),
    (
        "--pipeline orders --version 2.0.0 --status completed",
        lambda r: (r["pipeline_name"], r["pipeline_version"], r["status"]) == ("orders", "2.0.0", "completed"),
    ),
    ("--search orders", lambda r: _has(r, "orders")),
    ("--search ORDERS-V1", lambda r: _has(r, "orders-v1")),
    ("--search 4711", lambda r: _has(r, "4711")),
    ("--search DECLINED", lambda r: _has(r, "declined")),
    ("--search Ñ", lambda r: _has(r, "ñ")),
    ("--search %", lambda r: _has(r, "%")),
    ("--search _", lambda r: _has(r, "_")),
    ("--search \"gateway said: 'declined'\"", lambda r: _has(r, "gateway said: 'declined'")),
    ("--error '*declined*'", lambda r: _fails_like(r, "*declined*")),
    ("--error '*DECLINED*'", lambda r: _fails_like(r, "*declined*")),
    ("--error '*code=5?)'", lambda r: _fails_like(r, "*code=5?)")),
    ("--error declined", lambda r: False),
    ("--error '*'", lambda r: r["error_message"] is not None),
    ("--error 'RuntimeError: smtp*'", lambda r: _fails_like(r, "runtimeerror: smtp*")),
    ("--top-level", lambda r: not r["is_background_task"]),
    ("--top-level --status running", lambda r: r["status"] == "running" and not r["is_background_task"]),
    ("--meta customer=4711", lambda r: r["metadata"].get("customer") == "4711"),
    ("--meta tries=3", lambda r: r["metadata"].get("tries") == 3),
    ("--meta vip=true", lambda r: r["metadata"].get("vip") is True),
    ("--meta vip=True", lambda r: False),
    ("--meta rate=0.5 --meta tries=3", lambda r: r["metadata"].get("rate") == 0.5),
    ("--meta customer=4711 --meta vip=false", lambda r: False),
    ("--meta 'name=Ana López'", lambda r: "name" in r["metadata"]),
    ("--meta customer=", lambda r: False),
    ("--meta nothing=x", lambda r: False),
    ("--since 2026-11-20T19:11:31-05:00", lambda r: _when(r, "created_at") >= _at("2026-11-20T19:11:31-05:00")),
    ("--since 2026-11-21T00:11:09Z", lambda r: _when(r, "created_at") >= _at("2026-11-21T00:11:09Z")),
    ("--since 2026-11-20T19:11:09", lambda r: _when(r, "created_at") >= _at("2026-11-20T19:11:09-05:00")),
    ("--since 3h", lambda r: _when(r, "created_at") >= NOW - timedelta(hours=3)),
    ("--since 10790s", lambda r: _when(r, "created_at") >= NOW - timedelta(seconds=10790)),
    ("--since today", lambda r: True),
    ("--until today", lambda r: False),
    ("--since yesterday --until 2026-11-21", lambda r: True),
    ("--until 2026-11-21T00:11:10Z", lambda r: _when(r, "created_at") < _at("2026-11-21T00:11:10Z")),
    ("--active-since 2026-11-21T00:11:10Z", lambda r: _when(r, "updated_at") >= _at("2026-11-21T00:11:10Z")),
    ("--active-until 2026-11-21T00:11:10Z", lambda r: _when(r, "updated_at") < _at("2026-11-21T00:11:10Z")),
    ("--active-until 2h", lambda r: _when(r, "updated_at") < NOW - timedelta(hours=2)),
    ("--active-since 1h", lambda r: False),
]
COMMANDS: list[tuple[str, Oracle]] = [
    ("waiting", lambda r: r["status"] == "paused"),
    ("failed --flat --hours 9999", lambda r: r["status"] == "failed"),
    ("tasks list", lambda r: r["is_background_task"]),
]


@pytest.fixture(params=["lens", "old_lens", "file_lens"])
def stored(request: pytest.FixtureRequest) -> Lens:
    """``lens`` beside a store of each kind; one has some metadata in it."""
    lens: Lens = request.getfixturevalue(request.param)
    if request.param == "lens":
        lens.edit(f"UPDATE workflow_state SET metadata = '{META}' WHERE run_id LIKE 'orders-%' OR run_id = 'fail-001'")
    return lens


def _whole(lens: Lens) -> list[Row]:
    return list(lens("list --all -o json").json)


def test_list(stored: Lens) -> None:
    rows = _whole(stored)
    for line, oracle in CASES:
        expected = [row["run_id"] for row in rows if oracle(row)]
        found = stored(f"list --all -o id {line}")
        assert found.code == 0, (line, found.err)
        assert found.lines == expected, line


def test_count(stored: Lens) -> None:
    rows = _whole(stored)
    for line, oracle in CASES[::4]:
        assert stored(f"list --count {line}").out == f"{sum(map(oracle, rows))}\n", line


def test_every_case_separates(lens: Lens) -> None:
    """The oracle would not notice a filter that is ignored if all cases were all or nothing."""
    rows = _whole(lens)
    parts = [sum(map(oracle, rows)) for _, oracle in CASES]
    assert sum(0 < part < len(rows) for part in parts) > len(CASES) / 2


@pytest.mark.parametrize(("command", "kind"), COMMANDS)
def test_the_same_filters_mean_the_same_runs(stored: Lens, command: str, kind: Oracle) -> None:
    rows = [row for row in _whole(stored) if kind(row)]
    for line, oracle in CASES[COMMANDS.index((command, kind)) :: 3]:
        if "--status" in line and command != "tasks list":
            continue  # the command is about one status, and refuses the others
        if "since" in line:
            command = command.removesuffix(" --hours 9999")  # the window has one beginning
        expected = {row["run_id"] for row in rows if oracle(row)}
        assert set(stored(f"{command} -o id {line}").lines) == expected, line


def test_stats_count_what_the_filters_admit(stored: Lens) -> None:
    rows = _whole(stored)
    for line, oracle in CASES[::3]:
        expected = [row for row in rows if oracle(row)]
        stats = stored(f"stats -o json {line}").json
        assert stats["total"] == len(expected), line
        counts = {row["pipeline_name"]: row["total"] for row in stats["by_pipeline"]}
        assert counts == {p: sum(r["pipeline_name"] == p for r in expected) for p in counts}, line


def test_a_check_counts_what_the_filters_admit(stored: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """By groups and run by run: of what is admitted, what could still resume."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "an_application", ModuleType("an_application"))
    monkeypatch.setattr("an_application.ask", Step.human_in_the_loop("ask", message_for_user="?"), raising=False)
    rows = [row for row in _whole(stored) if row["status"] in RESUMABLE and not row["is_background_task"]]
    for line, oracle in CASES[1::3]:
        for more in ("", "--deep"):
            found = stored(f"check --app an_application:ask --fail-on none -o json {more} {line}")
            assert found.code == 0, (line, found.err)
            assert sum(row["runs"] for row in found.json) == sum(map(oracle, rows)), (line, more)


def test_bounds_are_since_inclusive_until_exclusive(lens: Lens) -> None:
    run = lens("show single-001 -o json").json["run"]
    for name, since, until in (
        ("created_at", "--since", "--until"),
        ("updated_at", "--active-since", "--active-until"),
    ):
        assert "single-001" in lens(f"list --all -o id {since} {run[name]}").lines
        assert "single-001" not in lens(f"list --all -o id {until} {run[name]}").lines


def test_a_normalised_error_finds_its_runs(lens: Lens) -> None:
    """What `failed` prints as a group's error can be given to --error, whatever was folded in it."""
    for group in lens("failed -o json").json:
        found = lens("failed", "--flat", "-o", "id", "--error", group["error"])
        assert len(found.lines) == group["count"]
        assert group["sample_run_id"] in found.lines


def test_the_proposed_glob_finds_the_group(lens: Lens) -> None:
    told = lens("failed", tty=True, width=200)
    proposed = next(line for line in told.err.splitlines() if "lens failed --error" in line)
    assert len(lens(proposed[proposed.index("failed --error") :] + " -o id").lines) == 1


@pytest.mark.parametrize(
    "line",
    [
        "list --status cancled",
        "list --status ''",
        "list --status failed,",
        "list --meta customer",
        "list --meta =4711",
        "list --since 3months",
        "list --since 2026-13-01",
        "list --since ''",
        "list --since 10",
        "list --since -3h",
        "list --until 99999999999999d",
        "list --active-since noon",
        "waiting --active-until never",
        "failed --since x",
        "failed --hours -1",
        "failed --hours nan",
        "failed --hours inf",
        "failed --hours 1e99",
        "failed --hours 1e9",
        "list --timeout nan",
        "list --timeout inf",
        "stats --until x",
        "tasks list --status x",
        "trace fail-001 --status cancelled",
        "spans fail-001 --status bad",
        "trace fail-001 --depth 0",
        "evals -n 0",
    ],
)
def test_what_cannot_be_meant_exits_2(lens: Lens, line: str) -> None:
    result = lens(line)
    assert (result.code, result.out) == (2, ""), result.err
    assert "Traceback" not in result.err
