#!/usr/bin/env bash
# flujo 0.6.11 (Python 3.13): a run that waits for a person is listed by its command line as completed, and not under
# `--status paused`. Its statistics of the last 24 hours count no span a second after the run: the times of spans are
# seconds of a clock that does not begin in 1970, and are compared with the date.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What it imports, without the clients of model vendors; newer ones of those with a limit it does not run with.
"${PYTHON:-python3.13}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install "pydantic==2.12.5" "pydantic-ai-slim==1.25.1" "pydantic-evals==1.25.1" "opentelemetry-api==1.38.0" \
    "typer<0.28" click pydantic-settings python-dotenv pyyaml tenacity aiosqlite orjson rich packaging ruamel.yaml
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


@step
async def prepare(order: str) -> str:
    return f"transfer for {order}"


async def main():
    backend = SQLiteBackend(Path("runs.db"))
    approve = HumanInTheLoopStep(name="approve", message_for_user="pay?")
    application = Flujo(prepare >> approve, context_model=PipelineContext, state_backend=backend, pipeline_name="orders")
    async for result in application.run_async(
        "order 7", run_id="one", initial_context_data={"initial_prompt": "order 7"}
    ):
        pass
    spans = len(await backend.get_spans("one"))
    await backend.shutdown()
    print(f"returned {result.status}, {spans} spans stored")


print("flujo", importlib.metadata.version("flujo"))
asyncio.run(main())
PY
./venv/bin/python application.py 2>errors || { tail -1 errors; exit 1; }
export FLUJO_STATE_URI="sqlite:///$folder/runs.db" NO_COLOR=1 COLUMNS=120
lens() { timeout 60 ./venv/bin/python -c 'from flujo.cli.main import app; app(prog_name="flujo")' lens "$@" 2>/dev/null || true; }
completed=$(lens list --status completed | grep -c ' one ' || true)
paused=$(lens list --status paused | grep -c ' one ' || true)
spans=$(lens stats | grep 'Total spans' || true)
echo "lens list --status completed: $completed run, --status paused: $paused; lens stats: $spans"
[ "$completed $paused $spans" = "1 0 Total spans: 0" ] || { echo "changed: it was listed as completed, and no span was counted"; exit 1; }
