#!/usr/bin/env bash
# flujo 0.4.35: a reader that finds its SQLite store locked for some seconds by another writer takes it for a damaged
# one, renames it to runs.db.corrupt.<number> under the writer, and begins an empty store. The writer's COMMIT succeeds,
# into the renamed file; every run is gone for who opens the store then.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install "pydantic<2.13" pydantic-settings python-dotenv pyyaml tenacity sqlvalidator packaging aiosqlite orjson \
    platformdirs "typer<0.28" rich pydantic-ai-slim pydantic-evals
install --no-deps "flujo==0.4.35"
cd "$folder"
cat >reader.py <<'PY'
import asyncio, importlib.metadata, logging, sys
from datetime import datetime
from pathlib import Path
from flujo.state.backends.sqlite import SQLiteBackend

logging.disable(logging.CRITICAL)


async def main():
    backend = SQLiteBackend(Path("runs.db"))
    if sys.argv[1] == "first":
        print("flujo", importlib.metadata.version("flujo"))
        for name in ("one", "two", "three"):
            await backend.save_run_start(
                dict(run_id=name, pipeline_name="orders", pipeline_version="1", status="running", start_time=datetime.now())
            )
    try:
        print(f"{sys.argv[1]}: {len(await backend.list_runs())} runs")
    except Exception as error:
        print(f"{sys.argv[1]}: {error}")
    await backend.close()


asyncio.run(main())
PY
cat >writer.py <<'PY'
import sqlite3, subprocess, sys

store = sqlite3.connect("runs.db", isolation_level=None)
store.execute("BEGIN IMMEDIATE")  # a long clean-up, a migration, ...
store.execute("UPDATE runs SET status = 'completed'")
subprocess.run([sys.executable, "reader.py", "while it is written"], stderr=subprocess.DEVNULL, check=True)
store.execute("COMMIT")
print("the writer sees", store.execute("SELECT count(*), status FROM runs GROUP BY status").fetchall())
PY
./venv/bin/python reader.py first 2>/dev/null
PYTHONUNBUFFERED=1 ./venv/bin/python writer.py 2>/dev/null
seen=$(./venv/bin/python reader.py afterwards 2>/dev/null)
echo "$seen; $(ls | grep -E '^runs.db$|corrupt' | sed 's/[0-9][0-9]*$/<number>/' | paste -sd' ')"
[ "$seen" = "afterwards: 0 runs" ] && ls runs.db.corrupt.* >/dev/null 2>&1 || { echo "changed: the store was renamed, and 0 runs were left"; exit 1; }
