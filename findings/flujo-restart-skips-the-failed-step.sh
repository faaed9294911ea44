#!/usr/bin/env bash
# flujo 0.4.35: run_async with the run_id of a run that failed goes on behind the step that failed. That step is not
# tried again, and the next one gets None for its input; its outcome reads as if the whole pipeline had run.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "flujo==0.4.35" "sqlvalidator>=0.0.8"
cd "$folder"
cat >application.py <<'PY'
import asyncio, importlib.metadata, logging, sys
from pathlib import Path
from typing import Any
from flujo import Flujo, step
from flujo.domain.models import PipelineContext
from flujo.state.backends.file import FileBackend

logging.disable(logging.CRITICAL)
called = []

@step
async def load(text: str) -> str:
    called.append("load")
    return "order 7"

@step
async def charge(order: str) -> str:
    called.append("charge")
    if sys.argv[1] == "first":
        raise ValueError("the bank is closed")
    return f"{order}, charged"

@step
async def ship(order: Any) -> str:
    called.append("ship")
    return f"shipped: {order}"

async def main():
    runner = Flujo(load >> charge >> ship, context_model=PipelineContext, state_backend=FileBackend(Path("runs")))
    async for result in runner.run_async("hello", run_id="one", initial_context_data={"initial_prompt": "hello"}):
        pass
    print(f"{sys.argv[1]}: called {called}, output {result.step_history[-1].output!r}")

print("flujo", importlib.metadata.version("flujo"))
asyncio.run(main())
PY
./venv/bin/python application.py first 2>/dev/null
seen=$(./venv/bin/python application.py second 2>/dev/null | tail -1)
echo "$seen"
[ "$seen" = "second: called ['ship'], output 'shipped: None'" ] || { echo "changed: it called ship alone, with None"; exit 1; }
