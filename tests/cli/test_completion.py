"""Completion: what is offered, and that it comes out right in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Lens

from flujo_lens.cli.completion import SHELLS, script
from flujo_lens.state.groups import DIMENSIONS
from flujo_lens.state.sorting import SORT_FIELDS

ROOT = Path(__file__).resolve().parents[2]
ODD = ("ns:one", "sp ace", "it'll", 'dq"x', "br[a]ck", "back\\sl", "do$llar", "st*r")
STATE = "INSERT INTO workflow_state (run_id, pipeline_id, pipeline_name, pipeline_version, current_step_index, "
STATE += "pipeline_context, status, created_at, updated_at) SELECT {id}, pipeline_id, pipeline_name, pipeline_version, "
STATE += "current_step_index, pipeline_context, 'paused', '2026-11-2{n}T00:00:00', '2026-11-29T00:00:00' "
STATE += "FROM workflow_state LIMIT 1"


def offered(lens: Lens, *words: str, shell: str = "bash") -> list[str]:
    """The values that are offered for the last of these words."""
    done = lens("__complete", shell, *words)
    assert (done.code, done.err) == (0, "")
    return [line.partition("\t")[0] for line in done.lines]


def test_commands_and_options(lens: Lens) -> None:
    assert {"list", "show", "prune", "completion"} <= set(offered(lens, ""))
    assert offered(lens, "und") == ["undo"]
    assert offered(lens, "tasks", "s") == ["sweep"]
    assert offered(lens, "prune", "--older") == ["--older-than"]
    assert offered(lens, "list", "--no-h") == ["--no-header"]
    assert "--all" in offered(lens, "list", "--store", "flujo_ops.db", "-")


def test_values(lens: Lens) -> None:
    assert offered(lens, "list", "--status", "") == ["running", "paused", "completed", "failed", "cancelled"]
    assert offered(lens, "list", "--status", "failed,p") == ["failed,paused"]
    assert offered(lens, "list", "--status=ca") == ["--status=cancelled"]
    assert "payments" in offered(lens, "list", "--pipeline", "pay")
    assert offered(lens, "list", "--columns", "run_id,started,st") == [
        "run_id,started,status",
        *offered(lens, "list", "--columns", "run_id,started,st")[1:],
    ]
    assert offered(lens, "list", "-o", "nd") == ["ndjson"]
    assert offered(lens, "explain", "LENS-B") == ["LENS-B1", "LENS-B2", "LENS-B3"]
    assert offered(lens, "import", "") == [":files"]
    assert offered(lens, "completion", "z") == ["zsh"]
    assert offered(lens, "trace", "@latest", "--export", "") == ["html", "svg", "chrome", "otlp", "mermaid"]
    assert offered(lens, "trace", "--export", "svg", "") == [":files"]
    assert "deep-001" in offered(lens, "trace", "--export", "svg", "out.svg", "deep")


def test_groups_orders_and_steps(lens: Lens) -> None:
    assert offered(lens, "stats", "--by", "") == [*DIMENSIONS, "meta:"]
    assert offered(lens, "stats", "--by=ver") == ["--by=version"]
    keys = {key for run in lens("list --all -o json").json for key in run["metadata"]}
    assert offered(lens, "stats", "--by", "meta:") == [f"meta:{key}" for key in sorted(keys)] != []
    assert offered(lens, "failed", "--by", "") == ["version", "hour"]
    assert offered(lens, "list", "--sort", "") == list(SORT_FIELDS)
    assert offered(lens, "list", "--sort", "cost:") == ["cost:desc", "cost:asc"]
    assert offered(lens, "stats", "--sort", "p9") == ["p95", "p99"]
    assert offered(lens, "stats", "--by", "day", "--by=model", "--sort", "")[-2:] == ["day", "model"]
    assert offered(lens, "list", "--sort", "size", "--columns", "siz") == ["size_bytes"]
    refused = lens("fork orders-v1-001 --from-step none").err
    steps = offered(lens, "fork", "orders-v1-001", "--from-step", "")
    assert steps
    assert all(step in refused for step in steps)
    assert offered(lens, "fork", "--from-step", "") == []


def test_runs_newest_first_with_status_and_age(lens: Lens) -> None:
    listed = lens("list --all -o id").lines
    assert offered(lens, "show", "") == listed
    assert offered(lens, "show", "fail") == [run for run in listed if run.startswith("fail")]
    assert set(offered(lens, "retry", "")) == set(lens("list --status failed --all -o id").lines)
    assert offered(lens, "trace", "@f") == ["@failed"]
    (line,) = lens("__complete", "fish", "show", "fail-001").lines
    assert line.startswith("fail-001\tfailed, ")
    assert "fail-001" not in offered(lens, "delete", "fail-001", "f")


def test_stores_by_name(bare_lens: Lens) -> None:
    bare_lens.write("lens.toml", '[stores.prod]\nuri = "sqlite:///nowhere.db"\n[stores.test]\nuri = "x.db"\n')
    assert offered(bare_lens, "list", "-s", "p") == ["prod"]
    assert offered(bare_lens, "list", "--store", "zzz") == [":files"]
    assert offered(bare_lens, "copy", "p") == ["prod"]
    assert offered(bare_lens, "copy", "prod", "t") == ["test"]
    assert offered(bare_lens, "copy", "prod", "test", "--on-conflict", "") == ["fail", "skip", "replace"]
    assert offered(bare_lens, "export", "--without", "s") == ["state", "spans"]


@pytest.mark.parametrize(
    "words", [("show", ""), ("list", "--pipeline", ""), ("undo", ""), ("list", "-s", "no.db", "--status", "")]
)
def test_without_a_store_nothing_is_said(bare_lens: Lens, words: tuple[str, ...]) -> None:
    before = sorted(bare_lens.cwd.rglob("*"))
    assert set(offered(bare_lens, *words)) <= {"running", "paused", "completed", "failed", "cancelled"}
    assert sorted(bare_lens.cwd.rglob("*")) == before


def test_a_damaged_store_says_nothing(bare_lens: Lens) -> None:
    (bare_lens.cwd / "flujo_ops.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert offered(bare_lens, "show", "") == []


def test_the_folder_has_what_the_program_prints(bare_lens: Lens) -> None:
    for shell, name in SHELLS.items():
        assert (ROOT / "completions" / name).read_text(encoding="utf-8") == script(shell)
        assert bare_lens("completion", shell).out == script(shell)
    refused = bare_lens("completion tcsh")
    assert (refused.code, "bash, zsh, fish" in refused.err) == (2, True)


# --- in real shells


@pytest.fixture
def odd(lens: Lens) -> Lens:
    """``lens`` beside a store of runs whose ids have what shells take for their own."""
    lens.edit(*(STATE.format(id="'" + run.replace("'", "''") + "'", n=n) for n, run in enumerate(ODD)))
    (lens.folder / "bin").mkdir()
    wrapper = lens.folder / "bin" / "lens"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = __complete ]; then exec {sys.executable} -m flujo_lens "$@"; fi\n'
        'printf "%s\\n" "$@" > typed.new && mv typed.new typed\n'
    )
    wrapper.chmod(0o755)
    return lens


STARTS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SETUPS = {
    "bash": "[ -r /usr/share/bash-completion/bash_completion ] && . /usr/share/bash-completion/bash_completion; . {}",
    "zsh": "autoload -Uz compinit; compinit -u -D; . {}",
    "fish": "source {}",
}


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, kind: str, lens: Lens) -> None:
        env = {**lens.environment(), "PATH": f"{lens.folder / 'bin'}:{os.environ['PATH']}", "TERM": "xterm"}
        env |= {"HOME": str(lens.folder / "home"), "PS1": "$ ", "COLUMNS": "200", "LINES": "50"}
        self.shown = b""
        self._master, slave = pty.openpty()
        words = ["setsid", "--ctty", "--wait", *STARTS[kind]]  # fish asks for a terminal that is its own
        self._process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, cwd=lens.cwd, env=env)
        os.close(slave)
        self._typed = lens.cwd / "typed"
        self.send(SETUPS[kind].format(ROOT / "completions" / SHELLS[kind]) + "\n")
        self.send("lens ready\n")
        self.await_words()

    def send(self, text: str) -> None:
        """Type something, and wait until the shell has nothing more to say to it."""
        os.write(self._master, text.encode())
        self._drain(0.5)

    def _drain(self, quiet: float) -> None:
        while select.select([self._master], [], [], quiet)[0]:
            self.shown += os.read(self._master, 65536)

    def await_words(self) -> list[str]:
        """The words that `lens` was called with."""
        end = time.monotonic() + 60
        while not self._typed.exists():
            assert time.monotonic() < end, "lens was not called"
            self._drain(0.1)
        words = self._typed.read_text().splitlines()
        self._typed.unlink()
        return words

    def close(self) -> None:
        """End it: it sees that its terminal is gone."""
        os.close(self._master)
        self._process.wait(30)


def _completed(shell: Shell, begun: str, is_there: Callable[[list[str]], bool], end: str = "") -> list[str]:
    """The words of a line that was begun, completed, ended and entered; a slow machine may need the key twice."""
    words: list[str] = []
    for wait in (0, 2, 6):
        shell.send(f"lens {begun}\t")
        time.sleep(wait)
        shell.send(f"{end}\n")
        words = shell.await_words()
        if is_there(words):
            break
    return words


def test_zsh_lists_values_without_a_description_alone(odd: Lens) -> None:
    """No ``--`` after them, which zsh has before a description."""
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    shell = Shell("zsh", odd)
    try:
        for wait in (0, 2, 6):
            shell.shown = b""
            shell.send("lens list --status \t\t")
            time.sleep(wait)
            shell.send("\x15")
            listed = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shell.shown.decode(errors="replace"))
            if "cancelled" in listed:
                break
        assert all(status in listed for status in ("running", "paused", "completed", "failed", "cancelled")), listed
        assert not re.search(r"(running|paused|completed|failed|cancelled) +--", listed), listed
    finally:
        shell.close()


@pytest.mark.parametrize("kind", STARTS)
def test_odd_ids_come_out_as_one_word(odd: Lens, kind: str) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"there is no {kind}")
    shell = Shell(kind, odd)
    try:
        assert _completed(shell, "stats --by met", lambda words: words[-1] == "meta:x", "x")[1:] == ["--by", "meta:x"]
        for run in ODD if "LENS_SOAK" in os.environ else ODD[:3]:
            begun = f"show {run[:2]}"
            assert _completed(shell, begun, lambda words, run=run: words == ["show", run]) == ["show", run]  # type: ignore[misc]
    finally:
        shell.close()
