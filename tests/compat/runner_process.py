"""The library's own runner on a backend of ours: run by a Python that has both.

Usage: runner_process.py KIND STORE ANSWER; the answer is JSON in the file ANSWER.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from flujo import Flujo, Step, step
from flujo.domain.models import PipelineContext

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

logging.disable(logging.CRITICAL)


@step
async def upper(text: str) -> str:
    return text.upper()


@step
async def shout(text: str) -> str:
    if text == "BOOM":
        raise ValueError("too loud")
    return text + "!"


async def run(backend: StateBackend, run_id: str, pipeline: Any, word: str) -> tuple[Any, Any]:
    runner = Flujo(pipeline, context_model=PipelineContext, state_backend=backend, delete_on_completion=False)
    given = {"run_id": run_id, "initial_prompt": word}
    results = [result async for result in runner.run_async(word, initial_context_data=given)]
    return runner, results[-1]


async def work(kind: str, store: Path) -> dict[str, Any]:
    human = upper >> Step.human_in_the_loop("approve", message_for_user="Approve?") >> shout
    async with {"file": FileBackend, "sqlite": SQLiteBackend}[kind](store) as backend:
        _, done = await run(backend, "done", upper >> shout, "hello")
        await run(backend, "failed", upper >> shout, "boom")
        await run(backend, "waiting", human, "hello")
        runner, paused = await run(backend, "resumed", human, "hello")
        resumed = await runner.resume_async(paused, "yes")
    return {name: result.step_history[-1].output for name, result in (("done", done), ("resumed", resumed))}


if __name__ == "__main__":
    kind, store, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(asyncio.run(work(kind, Path(store)))))
