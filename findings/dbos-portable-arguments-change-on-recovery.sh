#!/usr/bin/env bash
# dbos 3.4.0: a workflow with portable serialization gets the arguments themselves when it is called, and what was stored
# when it is recovered. A Decimal is then a text, which multiplies (3 * '1.10' is '1.101.101.10'), and a naive datetime
# is aware and has lost its microseconds. The annotations say Decimal and datetime; only the latter is asked for them.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "dbos==3.4.0"
cd "$folder"
cat >application.py <<'PY'
import importlib.metadata, os, sys
from datetime import datetime
from decimal import Decimal
from dbos import DBOS, SetWorkflowID, WorkflowSerializationFormat


@DBOS.step()
def stock():
    if sys.argv[1] == "killed":
        os._exit(9)
    return 3


@DBOS.workflow(serialization_type=WorkflowSerializationFormat.PORTABLE)
def order(price: Decimal, due: datetime):
    print(f"{sys.argv[1]}: {price!r}, {due.tzinfo and 'aware' or 'naive'}, {due.microsecond} us")
    return price * stock()


DBOS(config={"name": "shop", "system_database_url": "sqlite:///shop.db", "application_version": "1", "log_level": "CRITICAL"})
DBOS.launch()
if sys.argv[1] == "whole":
    print("dbos", importlib.metadata.version("dbos"))
if sys.argv[1] == "recovered":
    total = DBOS.retrieve_workflow("killed").get_result()
else:
    with SetWorkflowID(sys.argv[1]):
        total = order(Decimal("1.10"), datetime(2026, 1, 2, 3, 4, 5, 123456))
print(f"{sys.argv[1]}: total {total}")
DBOS.destroy()
PY
for call in whole killed; do PYTHONUNBUFFERED=1 ./venv/bin/python application.py "$call" 2>/dev/null || true; done
seen=$(./venv/bin/python application.py recovered 2>/dev/null)
echo "$seen"
[ "$seen" = $'recovered: \'1.10\', aware, 123000 us\nrecovered: total 1.101.101.10' ] ||
    { echo "changed: the price was a text, and the total 1.101.101.10"; exit 1; }
