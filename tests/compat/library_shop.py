"""An application of the library, for `lens resume`: begins a run where it is started as a program.

Usage: library_shop.py STORE PIPELINE RUN_ID. Files in the current folder decide what a step does: ``broken`` makes
it fail, ``die`` kills the process, ``slow`` makes it last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

from flujo import Flujo, Step, step
from flujo.domain.dsl import Pipeline
from flujo.domain.models import PipelineContext
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from pydantic import BaseModel

try:
    from flujo.registry import PipelineRegistry
except ImportError:  # 0.6
    from flujo.infra.registry import PipelineRegistry

logging.disable(logging.CRITICAL)


class Pick(BaseModel):
    colour: str
    amount: int = 1


class Order(PipelineContext):
    number: int
    total: float = 0.0


def sign(name: str) -> None:
    with open("signs", "a") as file:
        file.write(f"{name}\n")


@step
async def load(text: str) -> str:
    sign("load")
    return f"loaded {text}"


@step
async def charge(value: str) -> str:
    sign("charge")
    print("charging")
    if os.path.exists("broken"):
        raise ValueError("no such customer")
    if os.path.exists("die"):
        os._exit(9)
    if os.path.exists("slow"):
        await asyncio.sleep(60)
    return f"charged {value}"


@step
async def price(value: str, *, context: Order) -> str:
    context.total += 1.5
    return value


@step
async def total(value: str, *, context: Order) -> str:
    return f"{value} {context.number} {context.total}"


@step
async def finish(value: Any) -> str:
    sign("finish")
    return f"finished {value}"


ask = Step.human_in_the_loop("approve", message_for_user="Approve?")
pick = Step.human_in_the_loop("pick", message_for_user="Pick a colour", input_schema=Pick)

say = Step.human_in_the_loop("say", message_for_user="Say?")
talk = Step.loop_until(
    name="talk",
    loop_body_pipeline=Pipeline.from_step(say),
    exit_condition_callable=lambda output, context: str(output) == "stop",
    max_loops=5,
)

registry = PipelineRegistry()
registry.register(load >> price >> ask >> charge >> total >> finish, "priced", "1.0.0")
registry.register(load >> price >> charge >> total >> finish, "billed", "1.0.0")
registry.register(load >> ask >> finish, "untold", "1.0.0")
registry.register(load >> talk >> finish, "talks", "1.0.0")
registry.register(load >> ask >> charge >> pick >> finish, "approvals", "1.0.0")
registry.register(load >> charge >> finish, "orders", "1.0.0")
runner = Flujo(registry=registry, pipeline_name="orders", pipeline_version="1.0.0", context_model=Order)
untold = Flujo(registry=registry, pipeline_name="untold", pipeline_version="1.0.0", context_model=Order)
single = registry.get("orders", "1.0.0")


async def begin(store: str, name: str, run_id: str) -> None:
    backend = SQLiteBackend(Path(store)) if store.endswith(".db") else FileBackend(Path(store))
    model = Order if name in ("orders", "priced", "billed", "untold") else PipelineContext
    flujo = Flujo(
        registry.get(name, "1.0.0"),
        pipeline_name=name,
        pipeline_version="1.0.0",
        context_model=model,
        state_backend=backend,
    )
    data = {"initial_prompt": "hello", **({"number": 4711} if model is Order else {})}
    async for _ in flujo.run_async("hello", run_id=run_id, initial_context_data=data):
        pass
    if isinstance(backend, SQLiteBackend):
        await (backend.shutdown() if hasattr(backend, "shutdown") else backend.close())


if __name__ == "__main__":
    asyncio.run(begin(*sys.argv[1:]))
