#!/usr/bin/env bash
# flujo 0.6.11 (Python 3.13): run_async with the id of a run that waits for a person moves it on by one step each time,
# and answers nothing. The second start passes by the human step, the third makes the payment, without an approval;
# the run is reported, and stored, as paused all the while.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What it imports, without the clients of model vendors; newer ones of those with a limit it does not run with.
"${PYTHON:-python3.13}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install "pydantic==2.12.5" "pydantic-ai-slim==1.25.1" "pydantic-evals==1.25.1" "opentelemetry-api==1.38.0" \
    "typer<0.28" pydantic-settings python-dotenv pyyaml tenacity aiosqlite orjson rich packaging ruamel.yaml
install --no-deps "flujo==0.6.11"
cd "$folder"
cat >application.py <<'PY'
import asyncio, importlib.metadata, logging
from pathlib import Path
from flujo import Flujo, step
from flujo.domain.dsl import HumanInTheLoopStep
from flujo.domain.models import PipelineContext
from flujo.state.backends.sqlite import SQLiteBackend

logging.disable(logging.CRITICAL)
called = []


@step
async def prepare(order: str) -> str:
    called.append("prepare")
    return f"transfer for {order}"


@step
async def pay(transfer: str) -> str:
    called.append(f"pay({transfer!r})")
    return "paid"


async def start(number):
    called.clear()
    backend = SQLiteBackend(Path("runs.db"))
    approve = HumanInTheLoopStep(name="approve", message_for_user="pay?")
    application = Flujo(
        prepare >> approve >> pay, context_model=PipelineContext, state_backend=backend, pipeline_name="orders"
    )
    async for result in application.run_async(
        "order 7", run_id="one", initial_context_data={"initial_prompt": "order 7"}
    ):
        pass
    state = await backend.load_state("one")
    await backend.shutdown()
    print(f"start {number}: {result.status}, stored as {state['status']}, called {called}")


print("flujo", importlib.metadata.version("flujo"))
for number in (1, 2, 3):
    asyncio.run(start(number))
PY
seen=$(./venv/bin/python application.py 2>errors) || { tail -1 errors; exit 1; }
echo "$seen"
[ "$(tail -1 <<<"$seen")" = "start 3: paused, stored as paused, called [\"pay('transfer for order 7')\"]" ] ||
    { echo "changed: the third start paid"; exit 1; }
