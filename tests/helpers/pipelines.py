"""An application with pipelines, in a file and a process of its own, for the commands that make runs go on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import forks
from support import Lens, words

STORE = "runs.db"

SHOP = r"""
import asyncio, os
from typing import Literal
from pydantic import BaseModel, Field
from flujo_lens import Flujo, PipelineRegistry, step, Step

def sign(name):
    with open("signs", "a") as file:
        file.write(name + "\n")

class Decision(BaseModel):
    approved: bool
    amount: int = Field(default=1, description="in euros", ge=0)
    colour: Literal["red", "green"]
    tags: list[str] = []

@step
async def load(text: str) -> str:
    print("loading")
    os.system("echo said by a child")
    sign("load")
    return text.upper()

@step
async def charge(value) -> str:
    sign("charge")
    if os.path.exists("slow"):
        await asyncio.sleep(60)
    if os.path.exists("broken"):
        raise ValueError("no such customer")
    print("charging")
    return f"charged {value}"

ask = Step.human_in_the_loop("approve", message_for_user="Approve invoice 4711?")
form = Step.human_in_the_loop("decide", message_for_user="Decide [b]now[/b]", input_schema=Decision)

registry = PipelineRegistry()
registry.register(load >> ask >> charge, name="billing", version="1.0.0")
registry.register(load >> form >> charge, name="forms", version="1.0.0")
registry.register(load >> charge, name="orders", version="1.0.0")
registry.register(load >> ask >> form >> charge, name="twice", version="1.0.0")
other = Step.human_in_the_loop("decide", message_for_user="And now?")
registry.register(load >> ask >> other >> charge, name="thrice", version="1.0.0")
flujo = Flujo(registry=registry, pipeline_name="billing")
single = load >> ask >> charge

def made():
    print("made")
    return registry

def broken():
    raise RuntimeError("no settings")

async def later():
    return registry

def wants(one):
    return registry

number = 7
"""

START = """
import sys
import shop
from flujo_lens import Flujo
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

store, name, *ids = sys.argv[1:]
if store.startswith("redis"):
    from flujo_lens.state.backends.redis import RedisBackend

    backend = RedisBackend(store)
else:
    backend = SQLiteBackend(store) if store.endswith(".db") else FileBackend(store)
flujo = Flujo(registry=shop.registry, pipeline_name=name, state_backend=backend)
for run_id in ids:
    flujo.run("hello", run_id=run_id, metadata={"kept": "yes"})
"""


class Shop:
    """``lens`` beside an application, and the store of its runs."""

    def __init__(self, lens: Lens, store: str = STORE) -> None:
        self.lens, self.store, self.cwd = lens, store, lens.cwd
        lens.env["LENS_STORE"] = store if store.endswith(".db") or "://" in store else f"{store}/"
        lens.env["PYTHONDONTWRITEBYTECODE"] = "1"  # shop.py is edited within a second, often without a change of size
        lens.write("shop.py", SHOP)

    def begin(self, pipeline: str, *run_ids: str) -> None:
        """Begin runs in a process of the application."""
        self.python(START, self.store, pipeline, *run_ids)

    def fail(self, *run_ids: str) -> None:
        """Begin runs of ``orders`` that fail at ``charge``; they would not, if they were tried again."""
        broken = self.lens.write("broken", "")
        self.begin("orders", *run_ids)
        broken.unlink()

    def python(self, script: str, *arguments: str) -> str:
        """What a Python process in the folder prints."""
        env = self.lens.environment({"PYTHONPATH": os.pathsep.join([self.lens.environment()["PYTHONPATH"], "."])})
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with forks.popen(["-c", script, *arguments], env, cwd=self.cwd, text=True, **pipes) as process:
            out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        return str(out)

    def signs(self) -> list[str]:
        """The steps that ran, in order."""
        path = self.cwd / "signs"
        return path.read_text().split() if path.exists() else []

    def wait_for(self, sign: str, process: subprocess.Popen[Any]) -> None:
        """Wait until a step of the process has begun."""
        for _ in range(2400):
            if sign in self.signs():
                return
            assert process.poll() is None, process.communicate()
            time.sleep(0.025)
        raise AssertionError(f"{sign} did not begin")

    def run(self, run_id: str) -> dict[str, Any]:
        """The run as lens shows it."""
        return dict(self.lens("show", run_id, "-o", "json").json["run"])

    def entries(self) -> list[dict[str, Any]]:
        """What was begun by the audit log, the oldest first; not the entries that tell its end."""
        log = Path(f"{self.cwd / self.store}.lens-audit.ndjson")
        lines = log.read_bytes().splitlines() if log.exists() else []
        return [entry for entry in map(json.loads, lines) if "closes" not in entry]

    def ends(self) -> list[dict[str, Any]]:
        """What came of it: the entries that close others."""
        log = Path(f"{self.cwd / self.store}.lens-audit.ndjson")
        return [entry for entry in map(json.loads, log.read_bytes().splitlines()) if "closes" in entry]

    def typing(
        self, command: str, answers: Iterable[str], more: Mapping[str, str] | None = None, encoding: str = "utf-8"
    ) -> tuple[int, str]:
        """Run lens on a terminal, where each answer is typed when it is asked for; the exit code, and all shown."""
        ours, theirs = pty.openpty()
        env = {"TERM": "xterm-256color", "NO_COLOR": "1", **(more or {})}
        shown = b""
        with self.lens.start(*words([command]), env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            for answer in answers:
                shown += _until_asked(ours)
                os.write(ours, answer.encode(encoding) + b"\n" if answer != "\x04" else b"\x04")
            shown += _to_the_end(ours)
        os.close(ours)
        return process.returncode, shown.replace(b"\r\n", b"\n").decode(encoding, "replace")


def _until_asked(terminal: int) -> bytes:
    """What is shown up to the next prompt, which ends in a colon or a question mark and a space."""
    shown = b""
    while not shown.endswith((b": ", b"] ")):
        shown += os.read(terminal, 1)
    return shown


def _to_the_end(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return shown
        if not data:
            return shown
        shown += data
