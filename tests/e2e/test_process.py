"""Real processes: closed pipes, Ctrl-C, terminals of all sorts, what a start imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import forks
import pytest
from support import Lens

FRESH = pytest.mark.usefixtures("fresh_processes")
"""For how Python begins and ends; what only needs a process is forked."""

COLOUR = re.compile(rb"\x1b\[[\d;]*m")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


# --- pipes


def _fill(lens: Lens, runs: int) -> None:
    """More runs than a pipe holds."""
    lens.edit(
        f"WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers LIMIT {runs}) "
        "INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at) "
        "SELECT 'many-' || n, 'p', 'p', '1', 'completed', '2026-11-20T00:00:00Z', '2026-11-20T00:00:00Z' FROM numbers"
    )


@pytest.mark.parametrize("form", ["tsv", "ndjson", "json", "table"])
def test_a_closed_pipe_is_silent(lens: Lens, form: str) -> None:
    _fill(lens, 1500)
    with forks.fresh() if form == "table" else nullcontext():
        process = lens.start(f"list --all -o {form}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), told) == (0, b"")


@FRESH
def test_a_pipe_that_is_closed_from_the_start(lens: Lens) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for line in ("list", "show fail-001 -o table", "list --help", "--version", "list --count"):
        process = lens.start(line, stdout=writer, stderr=subprocess.PIPE)
        _, told = process.communicate(timeout=30)
        assert (process.returncode, told) == (0, b""), line
    os.close(writer)


@FRESH
def test_head_takes_one_line(lens: Lens) -> None:
    lister = lens.start("list --all", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = subprocess.run(["head", "-1"], stdin=lister.stdout, capture_output=True, check=True)
    assert lister.stdout is not None
    lister.stdout.close()
    _, told = lister.communicate(timeout=30)
    assert head.stdout.startswith(b"run_id\t")
    assert (lister.returncode, told) == (0, b"")


def _shell(lens: Lens, command: str) -> tuple[int, str]:
    """Run a shell's command line in which "lens" is ours; its code, and what is on stderr."""
    script = command.replace("lens", f"{sys.executable} -m flujo_lens", 1)
    done = subprocess.run(["sh", "-c", script], cwd=lens.cwd, env=lens.environment(), capture_output=True)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("lens list >&-", 0),
        ("lens list -o table >&-", 0),
        ("lens show nothing-001 2>&-", 3),
        ("lens show nothing-001 2>/dev/full", 3),
        ("lens list -n 2 2>/dev/full", 0),
        ("lens list <&-", 0),
    ],
)
def test_streams_that_are_closed_or_full(lens: Lens, command: str, code: int) -> None:
    assert _shell(lens, command) == (code, "")


def test_a_closed_pipe_is_silent_without_stderr(lens: Lens) -> None:
    _shell(lens, "{ lens list --all 2>&-; echo $? >code; } | true")
    assert (lens.cwd / "code").read_text() == "0\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("list --all", False), ("show fail-001 -o table", False), ("doctor", False),
        ("prune --older-than 1h --max-share 100% --dry-run", False), ("cancel crashed-001 --yes", True),
    ],
)  # fmt: skip
def test_a_full_disk(lens: Lens, line: str, changes: bool) -> None:
    with open("/dev/full", "wb") as full, forks.fresh() if changes else nullcontext():
        done = lens.process(line, stdout=full)
    assert (done.code, done.err.count("error LENS-F1: cannot write the output: No space left")) == (1, 1)
    assert ("lens audit list shows what was changed" in done.err) == changes


# --- signals


@pytest.mark.parametrize("line", ["list --all -o ndjson", "list --all", "list", "stats"])
def test_ctrl_c(lens: Lens, line: str) -> None:
    """In a long read: the pipe is full (or another holds the store) when the signal comes."""
    _fill(lens, 5000)
    is_held = line in ("list", "stats")
    is_fresh = line == "list --all"
    with _hold(lens) if is_held else nullcontext(), forks.fresh() if is_fresh else nullcontext():
        process = lens.start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        if is_held:
            _wait_until_opened(process.pid, "flujo_ops.db")
        else:
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, b"")


@contextmanager
def _hold(lens: Lens) -> Iterator[None]:
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect('flujo_ops.db', isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = delete')\n"
        "c.execute('BEGIN EXCLUSIVE')\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=lens.cwd, **pipes) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.communicate()


def _wait_until_opened(pid: int, name: str) -> None:
    folder = f"/proc/{pid}/fd"
    while not any(name in _target(f"{folder}/{number}") for number in os.listdir(folder)):
        pass


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


# --- terminals


def test_a_terminal_gets_a_coloured_table_of_its_width(lens: Lens) -> None:
    for width in (80, 132):
        shown = lens.terminal("list", width=width)
        assert shown.code == 0
        assert b"\x1b[31mfailed" in shown.stdout
        plain = COLOUR.sub(b"", shown.stdout).decode()
        assert "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= width
        assert plain.startswith("RUN ")


def test_a_terminal_that_is_very_narrow(lens: Lens) -> None:
    for line in ("list", "status", "show fail-001", "trace trace4-001", "stats", "failed", "config", "--help"):
        for width in (1, 30):
            assert lens(line, tty=True, width=width).code == 0
    text = COLOUR.sub(b"", lens.terminal("list", width=40).stdout).decode()
    assert "run_3d910948d833493585c530b50f639448" in text.replace("\n", "")


def test_bare_lens(lens: Lens) -> None:
    assert b"next: " in lens.terminal("").stdout
    piped = lens.process("")
    assert piped.code == 0
    assert "Usage" in piped.out


@pytest.mark.parametrize(
    ("env", "options", "coloured"),
    [
        ({}, "", True),
        ({"NO_COLOR": "1"}, "", False),
        ({"NO_COLOR": ""}, "", True),
        ({"TERM": "dumb"}, "", False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, "", False),
        ({"NO_COLOR": "1"}, " --color always", True),
        ({}, " --color never", False),
        ({"TERM": "dumb"}, " --color always", True),
        ({"FORCE_COLOR": "1"}, " --color never", False),
    ],
)
def test_colour_on_a_terminal(lens: Lens, env: dict[str, str], options: str, coloured: bool) -> None:
    shown = lens(f"list{options}", tty=True, colour=True, env=env)
    assert ("\x1b[" in shown.out) == coloured
    failed = lens(f"list --status nonsense{options}", tty=True, colour=True, env=env)
    assert ("\x1b[" in failed.err) == coloured


@pytest.mark.parametrize("line", ["--help", "list --help"])
def test_help_obeys_no_colour(lens: Lens, line: str) -> None:
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert b"\x1b[" not in lens.terminal(line, env=env).stdout
    assert b"\x1b[" not in lens.process(line).stdout


def test_colour_without_a_terminal(lens: Lens) -> None:
    """What is printed is decided by the terminal alone; colour can be forced upon a table."""
    forced = {"FORCE_COLOR": "1"}
    assert "\x1b" not in lens("list", colour=True, env=forced).out
    assert "\x1b" not in lens("list -o json --color always").out
    assert "\x1b" not in lens("list -o table", colour=True).out
    assert "\x1b[31m" in lens("list -o table", colour=True, env=forced).out
    assert "\x1b[31m" in lens("list -o table --color always").out
    assert "\x1b" not in lens("list -o table", env=forced).out


def test_no_hyperlinks(lens: Lens) -> None:
    for line in ("status", "show fail-001", "config", "stores", "list --help"):
        assert "\x1b]" not in lens(line, tty=True, colour=True).out


# --- encodings

LINES = ("list -o table", "show üñí-run", "trace trace4-001 -o table")


@pytest.mark.parametrize("env", [ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_that_is_not_utf_8(lens: Lens, env: dict[str, str]) -> None:
    for line in LINES if env is ASCII else LINES[:1]:
        result = lens.process(line, env=env)
        assert result.code == 0, (line, result.err)
        assert result.stderr == b""
        if line == "list -o table":
            expected = "üñí-run".encode("latin-1") if "latin-1" in env.values() else rb"\xfc\xf1\xed-run"
            assert expected in result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_screens_in_other_encodings(lens: Lens, encoding: str) -> None:
    for line in ("list", "show fail-001", "trace trace4-001", "status", "--help"):
        assert lens(line, tty=True, encoding=encoding).code == 0
    if encoding == "ascii":
        assert "#####" in lens("trace trace4-001", tty=True, encoding=encoding).out


def test_bytes_that_are_no_text(lens: Lens) -> None:
    for words in (["show", b"\xff\xfe-run"], ["list", "--pipeline", b"\xff"], ["list", "--search", b"\xff", "--debug"]):
        command = [sys.executable, "-m", "flujo_lens", *words]
        done = subprocess.run(command, cwd=lens.cwd, env=lens.environment(), capture_output=True)
        assert done.returncode in (0, 2, 3)
        assert b"LENS-X1" not in done.stderr


def test_an_escaped_id_of_an_ascii_terminal_leads_back(lens: Lens) -> None:
    assert lens.process("show", r"\xfc\xf1\xed-run", "-o", "id", env=ASCII).stdout == "üñí-run\n".encode()


def test_json_is_utf_8_everywhere(lens: Lens) -> None:
    for env in (ASCII, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-16"}):
        assert "üñí-run".encode() in lens.process("list --all -o json", env=env).stdout


def test_errors_on_a_terminal_that_is_not_utf_8(lens: Lens) -> None:
    result = lens.process("show", "漢字-001", env=ASCII)
    assert result.code == 3
    assert b"LENS-R1" in result.stderr
    result.stderr.decode("ascii")


# --- start

MODULES = """
import sys
from flujo_lens.__main__ import main
try:
    main()
finally:
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = [
    "asyncio",
    "socket",
    "rich",
    "pydantic",
    "pydantic_core",
    "redis",
    "asyncpg",
    "unittest",
    "tkinter",
    "importlib.metadata",
    "email",
    "http.client",
    "doctest",
    "pdb",
    "multiprocessing",
    "zoneinfo",
    "prometheus_client",
    "cryptography",
    "zstandard",
    "pygments",
    "markdown_it",
    "numpy",
    "flujo_lens.rendering.tables",
    "flujo_lens.rendering.trace",
    "flujo_lens.state.models",
    "flujo_lens.state.backends.memory",
    "flujo_lens.state.backends.file",
    "flujo_lens.runner",
    "flujo_lens.testing",
]


def _imported(lens: Lens, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", MODULES, *arguments]
    done = subprocess.run(command, cwd=lens.cwd, env=lens.environment(), capture_output=True, check=True)
    return set(done.stderr.decode().split("\n"))


@pytest.mark.parametrize("options", [[], ["--all", "-o", "json", "--status", "failed"]])
def test_a_list_in_a_pipe_imports_little(lens: Lens, options: list[str]) -> None:
    imported = _imported(lens, "list", *options)
    assert "flujo_lens.state.backends.sqlite.backend" in imported
    assert [name for name in HEAVY if name in imported] == []


def test_the_version_imports_no_backend(lens: Lens) -> None:
    imported = _imported(lens, "--version")
    assert [name for name in imported if name.startswith(("flujo_lens.state.backends", "flujo_lens.operations"))] == []
    assert [name for name in (*HEAVY, "sqlite3", "aiosqlite", "orjson") if name in imported] == []


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, json; import flujo_lens; print(json.dumps([m for m in sys.modules if m.startswith('flujo_lens')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ})
    assert set(json.loads(done.stdout)) <= {"flujo_lens", "flujo_lens._version"}


@FRESH
def test_all_ways_to_start(lens: Lens) -> None:
    assert lens.process("--version").out == lens("--version").out
    assert lens.process("list --all -o json").json == lens("list --all -o json").json
