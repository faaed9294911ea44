"""What every command prints, as files to read and to compare: ``tests/goldens``.

``LENS_UPDATE_GOLDENS=1 pytest tests/cli/test_goldens.py`` writes them anew; read the difference then.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from support import HERE, NEW, OLD, WAL, Lens, Result

from flujo_lens.operations.audit_chain import FIRST, sealed

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
UPDATE = os.environ.get("LENS_UPDATE_GOLDENS") == "1"


@dataclass(frozen=True)
class Case:
    """One golden: a command line, and the ways in which it is run.

    Attributes:
        store: A folder of `DATA`, ``demo``, ``files`` (the JSON files of one), or none.
        modes: ``80`` is a terminal of that width, ``80c`` a coloured one, ``pipe`` is none, and anything
            else a format in a pipe.
    """

    name: str
    line: str
    modes: str = "80 160 pipe"
    store: str = NEW
    files: tuple[tuple[str, str], ...] = ()


TOML = """\
default = "prod"
silent_after = "30m"
timezone = "America/Lima"

[stores.prod]
uri = "flujo_ops.db"

[stores.billing]
uri = "postgresql://lens:hunter2@db.example/ops"
readonly = true

[redact]
keys = ["*ssn*"]
"""
SETTINGS = (("lens.toml", TOML),)
EVERY = "json ndjson csv tsv id"


def _audit_log() -> str:
    """Three changes, chained."""
    text, previous = "", FIRST
    for minute, words, reason, counts, run_ids in (
        (11, "lens migrate --yes", None, {"steps": 4}, []),
        (12, "lens prune --older-than 30d --yes", "the disk is full", {"deleted": 2, "kept": 1}, ["old-1", "old-2"]),
        (58, "lens delete 'weird id/with slash'", None, {"deleted": 1}, ["weird id/with slash"]),
    ):
        told = {"audit_id": f"20261121T02{minute}00000000-0000000{len(run_ids)}", "at": f"2026-11-21T02:{minute}:00Z"}
        told |= {"actor": "ana", "host": "ops1"}
        more = {"command": shlex.split(words), "reason": reason, "counts": counts, "run_ids": run_ids}
        line = sealed({**told, **more, "previous": previous})
        previous = sha256(line[:-1]).hexdigest()
        text += line.decode()
    return text


AUDIT = (("flujo_ops.db.lens-audit.ndjson", _audit_log()),)

LISTS = [
    Case("status", "status", "80 160 pipe json"),
    Case("status-colour", "status", "100c"),
    Case("status-utc", "status --utc", "100"),
    Case("bare", "", "100 pipe"),
    Case("version", "--version", "100 pipe"),
    Case("list", "list", "80 100 160"),
    Case("list-colour", "list -n 20", "100c"),
    Case("list-pipe", "list", "pipe"),
    Case("list-formats", "list -n 3 --status failed,paused", EVERY),
    Case("list-columns", "list --columns run_id,status,created_at,duration_ms,metadata --pipeline orders", "100 pipe"),
    Case("list-time-iso", "list -n 3 --time iso", "100"),
    Case("list-time-local", "list -n 3 --time local", "100"),
    Case("list-utc", "list -n 3 --utc", "100"),
    Case("list-page", "list -n 4", "100 pipe json"),
    Case("list-page-reverse", "list -n 4 --reverse", "100 pipe"),
    Case("list-count", "list --count", "100 pipe"),
    Case("list-nothing", "list --pipeline nothing", "100 pipe " + EVERY),
    Case("list-no-header", "list -n 2 --no-header", "tsv csv"),
    Case("failed", "failed", "80 160 pipe json"),
    Case("failed-flat", "failed --flat", "80 160 pipe json"),
    Case("failed-nothing", "failed --hours 1", "100 pipe json"),
    Case("waiting", "waiting", "80 160 pipe id"),
    Case("tasks", "tasks list", "80 160 pipe json"),
    Case("tasks-parent", "tasks --parent bgparent-001", "160 id"),
    Case("evals", "evals", "80 160 pipe json"),
    Case("evals-run", "evals orders-v1-001", "100 pipe json"),
    Case("system-list", "system list", "80 160 pipe json"),
    Case("system-get", "system get watermark:crm", "100 pipe json csv"),
    Case("stats", "stats", "80 160 pipe json"),
    Case("stats-colour", "stats --pipeline payments", "100c"),
    Case("stats-nothing", "stats --pipeline nothing", "100 pipe json"),
    Case("config", "config", "80 160 pipe json", files=SETTINGS),
    Case("config-empty", "config", "100 pipe"),
    Case("audit", "audit", "80 160 pipe " + EVERY, files=AUDIT),
    Case("audit-run", "audit --run old-1", "100", files=AUDIT),
    Case("audit-nothing", "audit", "100 pipe json"),
    Case("audit-verify", "audit verify", "100 pipe json", files=AUDIT),
    Case("stores", "stores", "80 160 pipe json", files=SETTINGS),
    Case("stores-empty", "stores", "100 pipe"),
    Case("status-named-store", "status", "100 json", files=SETTINGS),
    Case("explain", "explain", "80 pipe json"),
    Case("explain-code", "explain B1", "60 100 pipe json"),
    Case("explain-code-colour", "explain s6", "100c"),
    Case("demo", "demo", "100"),
    Case("demo-pipe", "demo sample.db", "pipe"),
]

SHOWN = {
    "orders": "orders-v1-001",
    "failed": "fail-001",
    "paused": "paused-001",
    "paused-schema": "paused-schema-001",
    "paused-loop": "paused-loop-001",
    "resumed": "resumed-001",
    "cancelled": "cancelled-001",
    "crashed": "crashed-001",
    "deep": "deep-001",
    "cost": "cost-001",
    "single": "single-001",
    "plain": "plain-001",
    "meta": "meta-001",
    "prefix": "run_3d91",
    "space-slash": "'weird id/with slash'",
    "percent": "per%cent_under",
    "letters": "üñí-run",
    "binary": "binary-001",
    "complex": "complex-001",
    "otel": "otel-001",
    "with-tasks": "bgparent-001",
    "task": "bgparent-001_bg_bg_23d875c599424dd6aa5fe053e8f2c700",
    "crashed-with-task": "bgcrashed-001",
}
SHOWS = [
    *(Case(f"show-{name}", f"show {run}", "80") for name, run in SHOWN.items()),
    Case("show-failed-wide", "show fail-001", "160"),
    Case("show-failed-colour", "show fail-001", "100c"),
    Case("show-paused-colour", "show paused-001", "100c"),
    Case("show-failed-verbose", "show fail-001 -v", "100"),
    Case("show-failed-formats", "show fail-001", "pipe " + EVERY),
    Case("show-failed-state", "show fail-001 --state", "100"),
    Case("show-paused-formats", "show paused-001", "pipe json id"),
    Case("show-state-json", "show single-001 --state", "json"),
    Case("show-complex-verbose", "show complex-001 -v", "100"),
    Case("show-complex-final", "show complex-001 --final-output", "100 pipe"),
    Case("show-columns", "show cost-001 --columns step_name,cost_usd,token_counts", "100 pipe csv"),
]

TRACED = {
    "orders": "orders-v1-001",
    "failed": "fail-001",
    "deep": "deep-001",
    "four-levels": "trace4-001",
    "paused": "paused-001",
    "paused-loop": "paused-loop-001",
    "resumed": "resumed-001",
    "otel": "otel-001",
}
TRACES = [
    *(Case(f"trace-{name}", f"trace {run}", "80 160") for name, run in TRACED.items()),
    Case("trace-colour", "trace fail-001", "100c"),
    Case("trace-no-spans", "trace crashed-001", "100 pipe json"),
    Case("trace-formats", "trace fail-001", "pipe " + EVERY),
    Case("trace-depth", "trace trace4-001 --depth 2", "100 json"),
    Case("trace-spans-failed", "trace fail-001 --spans --status failed", "100 pipe id"),
    Case("spans", "spans deep-001", "80 160 pipe"),
    Case("spans-name", "spans deep-001 --name load", "100 json"),
    Case("spans-nothing", "spans deep-001 --name nobody", "100 pipe json"),
]

OLDER = [
    Case(f"old-{name}", line, modes, store=OLD)
    for name, line, modes in (
        ("status", "status", "100"),
        ("list", "list", "80 160"),
        ("list-pipe", "list", "pipe"),
        ("list-formats", "list -n 2 --status paused", "json csv"),
        ("show-failed", "show fail-001", "80 json"),
        ("show-paused", "show paused-001", "80"),
        ("show-cancelled", "show cancelled-001", "80"),
        ("show-crashed", "show crashed-001", "80"),
        ("show-cost", "show cost-001", "80"),
        ("trace-failed", "trace fail-001", "80 160"),
        ("trace-four-levels", "trace trace4-001", "80 160"),
        ("stats", "stats", "100"),
        ("failed", "failed", "100 pipe"),
        ("waiting", "waiting", "100"),
        ("tasks", "tasks list", "100 json"),
        ("evals", "evals", "100 json"),
        ("system", "system list", "100 json"),
    )
]
IN_USE = [
    Case("wal-list", "list --status running", "100", store=WAL),
    Case("wal-show-crashed", "show crashed-001", "100", store=WAL),
    Case("wal-status", "status", "100", store=WAL),
]

DEMO = [
    Case(f"demo-{name}", line, modes, store="demo")
    for name, line, modes in (
        ("status", "status", "80 100c"),
        ("failed", "failed", "80 160 json"),
        ("failed-one-group", "failed --error 'RateLimitError:*' --flat", "100 id"),
        ("waiting", "waiting", "80"),
        ("list", "list", "80 160"),
        ("show-failed", "show payments-7731 -v", "80"),
        ("show-paused", "show approve-4711", "80"),
        ("trace-failed", "trace @failed", "80 160"),
        ("trace-loop", "trace research-0022", "80 160"),
        ("stats", "stats", "80 160"),
    )
]
FILES = [
    Case(f"files-{name}", f"{line} -s states", modes, store="files")
    for name, line, modes in (
        ("list", "list", "80 pipe"),
        ("show-paused", "show paused-001", "80 json"),
        ("status", "status", "80"),
        ("failed", "failed", "80"),
        ("trace", "trace fail-001", "80 json"),
        ("tasks", "tasks list", "100"),
        ("stats", "stats", "80"),
    )
]

CLEANING = [
    Case("prune-dry-run-paused", "prune --max-share 100% --older-than 2h --include-paused --no-bin --dry-run", "80"),
    Case("prune-dry-run-files", "prune --max-share 100% --older-than 2h --dry-run -s states", "80 json", store="files"),
    Case("prune-dry-run-formats", "prune --max-share 100% --older-than 2h --dry-run", "80 160 pipe json id"),
    Case("prune-dry-run-last", "prune --max-share 100% --keep-last 1 --older-than 2h --dry-run", "80 160"),
    Case("prune-dry-run-nothing", "prune --days-old 30 --dry-run", "80 pipe json id"),
    Case("delete-dry-run", "delete bgparent-001 --dry-run", "80 160 pipe json id"),
    Case("delete-dry-run-several", "delete fail-001 paused-001 'weird id/with slash' --dry-run", "80 pipe"),
    Case("delete-dry-run-state-only", "delete paused-001 --state-only --dry-run", "80 160"),
]

COMMANDS = [
    "status",
    "list",
    "show",
    "trace",
    "spans",
    "stats",
    "failed",
    "waiting",
    "tasks",
    "evals",
    "system",
    "delete",
    "prune",
    "audit",
    "stores",
    "config",
    "explain",
    "demo",
]
GROUPED = ("tasks list", "tasks sweep", "system list", "system get", "system set", "audit list", "audit verify")
HELPS = [
    Case("help", "--help", "100"),
    *(Case(f"help-{name.replace(' ', '-')}", f"{name} -h", "100") for name in (*COMMANDS, *GROUPED)),
]

ERRORS = [
    Case(f"error-{name}", line, "100 pipe json")
    for name, line in (
        ("command", "lsit"),
        ("option", "list --stats failed"),
        ("option-value", "list --limit some"),
        ("no-argument", "show"),
        ("status", "list --status cancled"),
        ("time", "list --since 3months"),
        ("column", "list --columns run_id,stauts"),
        ("run", "show orders-v3-001"),
        ("short", "show or"),
        ("ambiguous", "show orders-v"),
        ("word", "show @last"),
        ("missing-store", "list -s nowhere.db"),
        ("scheme", "list -s postgers://db/ops"),
        ("memory", "list -s memory://"),
        ("cursor", "list --cursor xyz"),
        ("trace-file", "trace --file nowhere.json"),
        ("system-key", "system get nothing"),
        ("code", "explain LENS-B9"),
        ("prune-age", "prune --older-than 3m --yes"),
        ("prune-no-age", "prune --yes"),
        ("prune-too-many", "prune --older-than 2h --max-delete 10 --yes"),
        ("prune-share", "prune --older-than 2h --yes"),
        ("delete-missing", "delete fail-001 fail-002 --yes"),
        ("delete-unasked", "delete fail-001"),
    )
]
ERRORS.append(Case("error-no-store", "list", "100 pipe json", store=""))
ERRORS.append(Case("error-store-name", "list -s bilning", "100 pipe json", files=SETTINGS))
ERRORS.append(Case("error-colour", "list --status cancled", "100c"))

CASES = [*LISTS, *SHOWS, *TRACES, *OLDER, *IN_USE, *DEMO, *FILES, *CLEANING, *HELPS, *ERRORS]


@pytest.mark.skipif(not HERE.is_dir(), reason="the folder's name would be another in every run")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, bare_lens: Lens) -> None:
    if case.store == "demo":
        assert bare_lens("demo flujo_ops.db").code == 0
    elif case.store == "files":
        bare_lens.files()
    elif case.store:
        bare_lens.store(case.store)
    for name, text in case.files:
        bare_lens.write(name, text)
    _compare(case.name, "\n".join(_sections(case, bare_lens)))


def _sections(case: Case, lens: Lens) -> Iterator[str]:
    for mode in case.modes.split():
        result, how = _run(lens, case.line, mode)
        yield _shown(result, how)


def _run(lens: Lens, line: str, mode: str) -> tuple[Result, str]:
    width = mode.rstrip("c")
    if width.isdigit():
        colour = mode.endswith("c")
        return lens(line, tty=True, colour=colour, width=int(width)), f"$ lens {line}   [terminal, {mode}]"
    asked = "" if mode == "pipe" else f" -o {mode}"
    return lens(line + asked), f"$ lens {line}{asked}   [pipe]"


def _shown(result: Result, how: str) -> str:
    """A result as text, with the folder's name and the escapes of colours made readable."""
    notes = f"--- stderr\n{result.err}" if result.err else ""
    text = f"{how}   exit {result.code}\n{result.out}{notes}"
    return text.replace(str(HERE), "/srv/acme/prod").replace("\x1b", "␛")


def _compare(name: str, text: str) -> None:
    path = GOLDENS / f"{name}.txt"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"there is no golden {path.name}: LENS_UPDATE_GOLDENS=1 makes it"
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_has_its_case() -> None:
    named = {f"{case.name}.txt" for case in CASES}
    assert {path.name for path in GOLDENS.iterdir()} == named
