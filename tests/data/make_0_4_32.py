"""How `flujo-0.4.32/flujo_ops.db` was made, by that version of the real library (Python 3.11).

    TZ=America/Lima python make_0_4_32.py flujo_ops.db

It is the oldest version with a store: one table, without a step history. Not run by the tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from flujo import Flujo, Step, step
from flujo.domain.models import PipelineContext
from flujo.state.backends.sqlite import SQLiteBackend


@step
async def load(x: str) -> str:
    await asyncio.sleep(0.01)
    return f"loaded:{x}"


@step
async def enrich(x: str) -> dict[str, str]:
    return {"text": x, "at": "2026-07-01T09:00:00+00:00"}


@step
async def finish(x: Any) -> str:
    return "finished"


@step
async def boom(x: str) -> str:
    raise ValueError("payment gateway said: 'declined' (code=51)")


@step
async def slow(x: Any) -> str:
    await asyncio.sleep(30)
    return "never"


@step
async def die(x: Any) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


class Named(PipelineContext):
    """This version takes the pipeline's name from the context, where an application put it."""

    pipeline_name: str = "unknown"
    pipeline_version: str = "latest"
    pipeline_id: str = "unknown"
    total_steps: int = 0


def backend() -> SQLiteBackend:
    return SQLiteBackend(Path(sys.argv[1]))


async def run(pipeline: Any, run_id: str, text: str, model: Any = PipelineContext, **more: Any) -> Any:
    data = {"initial_prompt": text, "run_id": run_id, **more}
    runner = Flujo(pipeline, context_model=model, state_backend=backend(), initial_context_data=data)
    result = None
    async for item in runner.run_async(text, run_id=run_id):
        result = item
    return runner, result


async def main() -> None:
    orders = load >> enrich >> finish
    await run(orders, "orders-001", "order 1")
    named = {"pipeline_name": "orders", "pipeline_version": "1.0.0", "pipeline_id": "orders-id"}
    await run(orders, "meta-001", "meta", Named, **named, total_steps=3)
    await run(load >> boom, "fail-001", "pay")
    ask = Step.human_in_the_loop("approve", message_for_user="Approve invoice 4711? (yes/no)")
    await run(load >> ask >> finish, "paused-001", "approve me")
    runner, result = await run(load >> ask >> finish, "resumed-001", "approve me")
    await runner.resume_async(result, "yes")
    task = asyncio.create_task(run(load >> enrich >> slow, "cancelled-001", "cancel me"))
    await asyncio.sleep(0.6)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await run(load >> finish, "weird id/with slash", "x")
    await run(load >> finish, "üñí-run", "x")


async def crash() -> None:
    await run(load >> enrich >> die, "crashed-001", "crash")


if __name__ == "__main__":
    if sys.argv[2:] == ["crash"]:
        asyncio.run(crash())
    else:
        asyncio.run(main())
        subprocess.run([sys.executable, __file__, sys.argv[1], "crash"], check=False)
