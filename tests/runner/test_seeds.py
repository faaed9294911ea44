"""The examples of the documents that the library was made from, word for word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from programs import STRICT, environment, ran

PIPELINE = """
from pathlib import Path
from flujo_lens import Flujo, PipelineRegistry, step, Step
from flujo_lens.state.backends.sqlite import SQLiteBackend

@step
async def to_upper(text: str) -> str:
    return text.upper()

pipeline = to_upper >> Step.human_in_the_loop("approve", message_for_user="Approve?")

registry = PipelineRegistry()
registry.register(pipeline, name="demo", version="1.0.0")
backend = SQLiteBackend(Path("workflow_state.db"))
"""

FIRST = """
# First run will pause for approval and persist state
runner = Flujo(
    registry=registry,
    pipeline_name="demo",
    pipeline_version="1.0.0",
    state_backend=backend,
)
paused = runner.run("hello", initial_context_data={"run_id": "example"})
"""

LATER = """
# Later we create a new runner with the same run_id and resume
resumer = Flujo(
    registry=registry,
    pipeline_name="demo",
    pipeline_version="1.0.0",
    state_backend=backend,
)
final = resumer.resume_async(paused, "yes")
"""

LOOP_BOUND = (
    PIPELINE
    + '''
import asyncio

class Bound(SQLiteBackend):
    """Like a client of a server: what it opened in one loop cannot be used in another."""

    loop = None

    async def load_state(self, run_id):
        self.loop = self.loop or asyncio.get_running_loop()
        assert not self.loop.is_closed() and self.loop is asyncio.get_running_loop()
        return await super().load_state(run_id)

backend = Bound(Path("workflow_state.db"))
'''
)

THREE_METHODS = '''
import orjson
from typing import Any, Dict, Optional
from flujo_lens import Flujo, PipelineRegistry, step, Step
from flujo_lens.state.backends.base import StateBackend

class Shelf(StateBackend):
    """The three methods of the contract, and its constructor."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}

    async def save_state(self, run_id: str, state: Dict[str, Any]) -> None:
        self.documents[run_id] = orjson.dumps(state)

    async def load_state(self, run_id: str) -> Optional[Dict[str, Any]]:
        data = self.documents.get(run_id)
        return orjson.loads(data) if data else None

    async def delete_state(self, run_id: str) -> None:
        self.documents.pop(run_id, None)

@step
async def to_upper(text: str) -> str:
    return text.upper()

registry = PipelineRegistry()
registry.register(to_upper >> Step.human_in_the_loop("approve") >> to_upper_again, name="my_pipeline", version="1.0.0")
backend = Shelf()
runner = Flujo(
    registry=registry,
    pipeline_name="my_pipeline",
    pipeline_version="1.0.0",
    state_backend=backend,
)
paused = runner.run("hello", run_id="r")
print(paused.status, paused.pause_message)
print(runner.resume("r", "yes").output)
'''.replace(
    "registry = ",
    """@step
async def to_upper_again(text: str) -> str:
    return text.upper()

registry = """,
    1,
)


def test_the_whole_example_in_one_process(tmp_path: Path) -> None:
    assert ran(PIPELINE + FIRST + LATER + "print(paused.status, final.status, final.output)", cwd=tmp_path) == (
        "paused completed yes\n"
    )


def test_another_process_resumes_what_one_has_paused(tmp_path: Path) -> None:
    assert ran(PIPELINE + FIRST + "print(paused.status, paused.pause_message)", cwd=tmp_path) == "paused Approve?\n"
    again = PIPELINE + FIRST + LATER + "print(paused.status, paused.pause_message, final.status, final.output)"
    assert ran(again, cwd=tmp_path) == "paused Approve? completed yes\n"
    assert ran(again, cwd=tmp_path) == "completed None completed yes\n"


def test_what_it_returns_without_a_loop_can_be_awaited_too(tmp_path: Path) -> None:
    script = PIPELINE + FIRST + LATER + "import asyncio\nprint(asyncio.run(final).output)"
    assert ran(script, cwd=tmp_path) == "yes\n"


def test_what_a_driver_opened_lives_from_call_to_call(tmp_path: Path) -> None:
    script = LOOP_BOUND + FIRST + "import asyncio\nasyncio.run(asyncio.sleep(0))\n" + LATER + "print(final.output)"
    assert ran(script, cwd=tmp_path) == "yes\n"


def test_a_thread_and_a_child_process_have_loops_of_their_own(tmp_path: Path) -> None:
    script = (
        PIPELINE
        + FIRST
        + (
            "import os, threading\n"
            "def more(name):\n"
            "    print(runner.run(name, run_id=name).status, flush=True)\n"
            "thread = threading.Thread(target=more, args=('thread',))\n"
            "thread.start(); thread.join()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    backend = runner.state_backend = SQLiteBackend(Path('child.db'))\n"
            "    more('child')\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "more('parent')\n"
        )
    )
    assert ran(script, cwd=tmp_path) == "paused\npaused\npaused\n"


def test_awaited_inside_a_loop(tmp_path: Path) -> None:
    script = PIPELINE + (
        "import asyncio\n"
        "async def main():\n"
        "    flujo = Flujo(registry=registry, pipeline_name='demo', pipeline_version='1.0.0', state_backend=backend)\n"
        "    paused = await flujo.run_async('hello', run_id='example')\n"
        "    return await flujo.resume_async(paused, 'yes')\n"
        "final = asyncio.run(main())\n"
        "print(final.output, final.final_pipeline_context.run_id)\n"
    )
    assert ran(script, cwd=tmp_path) == "yes example\n"


def test_a_driver_of_three_methods_runs_and_says_once_what_it_lacks(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, *STRICT, "-c", THREE_METHODS], env=environment(), capture_output=True, text=True, check=True
    )
    assert process.stdout == "paused HELLO\nYES\n"
    assert process.stderr == "Shelf has no claims: two processes could work on the same run\n"


@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize("name", ["Flujo", "PipelineRegistry", "step", "Step", "Pipeline", "PipelineContext"])
def test_importing_the_package_costs_nothing(name: str) -> None:
    script = (
        "import sys, flujo_lens\n"
        "assert 'pydantic' not in sys.modules and 'flujo_lens.runner' not in sys.modules\n"
        f"from flujo_lens import {name}\n"
        "print('pydantic' in sys.modules)"
    )
    assert ran(script) == f"{name in ('Flujo', 'PipelineContext')}\n"
