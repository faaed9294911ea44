"""Applications as real processes: the tests' pipelines in files of their own, run by a Python of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import forks
import pytest

import flujo_lens

PACKAGE = Path(flujo_lens.__file__).resolve().parent
STRICT = ["-W", "error"]
UNMEASURED = pytest.mark.skipif("coverage" in sys.modules, reason="coverage handles SIGTERM and writes a file itself")
"""Of a test that is right only without ``make coverage``."""

TEN_STEPS = """
import os, sys, time
from pathlib import Path
from flujo_lens import Flujo, Pipeline, Step
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

STORE, SIGNS = sys.argv[1], sys.argv[2]

def sign(name):
    '''Tell what happened in a file that nothing but the machine's end can lose a line of.'''
    with open(SIGNS, "a") as file:
        file.write(name + "\\n")
        file.flush()

def made(number):
    async def body(value, context):
        sign(f"begin {number}")
        context.scratchpad[str(number)] = value
        sign(f"end {number}")
        return value + [number]
    return Step(f"step-{number}", function=body)

pipeline = Pipeline(tuple(made(number) for number in range(10)))
backend = SQLiteBackend(Path(STORE)) if STORE.endswith(".db") else FileBackend(Path(STORE))
flujo = Flujo(pipeline, pipeline_name="ten", pipeline_version="1.0.0", state_backend=backend)
print("ready", flush=True)
result = flujo.run([], run_id="r")
print(result.status, result.output, sorted(map(int, result.final_pipeline_context.scratchpad)), flush=True)
"""


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a process that imports the package from its source."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GITHUB_", "FORCE_"))}
    return {**ours, "PYTHONPATH": str(PACKAGE.parent), "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8", **(env or {})}


def python(*words: Any, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[Any]:
    """A Python process with these arguments; `more` as of `subprocess.Popen`."""
    return forks.popen([*map(str, words)], environment() if env is None else env, **more)  # type: ignore[no-any-return]


def run_python(
    *words: Any, env: Mapping[str, str] | None = None, text: bool = True, check: bool = False, **more: Any
) -> subprocess.CompletedProcess[Any]:
    """A Python process that has ended, with its output."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with python(*words, env=env, **pipes, text=text, **more) as process:
        out, error = process.communicate(timeout=120)
    done = subprocess.CompletedProcess(words, process.returncode, out, error)
    assert not check or not done.returncode, error
    return done


def start(
    script: str, *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A Python process that runs `script`; warnings are errors."""
    return forks.popen(  # type: ignore[no-any-return]
        ["-c", script, *map(str, arguments)],
        environment(env),
        is_strict=True,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> str:
    """All that a process that ends well still prints; it complains of nothing."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert error == "", error
    return out


def ran(script: str, *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a process that ends well prints."""
    return ended(start(script, *arguments, cwd=cwd, env=env))
