#!/usr/bin/env bash
# dbos 3.4.0: a step's recorded error is not always the error that a recovered workflow sees. An exception whose
# constructor takes other arguments than it hands to Exception pickles, and cannot be unpickled: where the first
# execution caught PaymentRefused and kept the goods, the recovered one gets a TypeError, goes through another branch,
# ships, and ends as SUCCESS. Nothing is raised or logged when the step is recorded.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "dbos==3.4.0"
cd "$folder"
cat >application.py <<'PY'
import importlib.metadata, os, sys
from dbos import DBOS, SetWorkflowID


class PaymentRefused(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code


@DBOS.step()
def charge():
    raise PaymentRefused(402, "no funds")


@DBOS.step()
def wait_for_goods():
    if sys.argv[1] == "first":
        os._exit(9)  # the process is killed here
    return "here"


@DBOS.workflow()
def order():
    try:
        charge()
    except PaymentRefused as error:
        decision = f"keep the goods ({error.code})"
    except Exception as error:  # the bank cannot be reached: ship, charge later
        decision = f"ship, charge later ({type(error).__name__})"
    print(f"{sys.argv[1]}: {decision}")
    wait_for_goods()
    return decision


DBOS(config={"name": "shop", "system_database_url": "sqlite:///shop.db", "application_version": "1", "log_level": "CRITICAL"})
DBOS.launch()
if sys.argv[1] == "first":
    print("dbos", importlib.metadata.version("dbos"))
    with SetWorkflowID("one"):
        order()
else:
    run = DBOS.retrieve_workflow("one")
    run.get_result()
    print(f"{sys.argv[1]}: {run.get_status().status}")
DBOS.destroy()
PY
PYTHONUNBUFFERED=1 ./venv/bin/python application.py first 2>/dev/null || true
seen=$(./venv/bin/python application.py recovered 2>/dev/null)
echo "$seen"
[ "$seen" = $'recovered: ship, charge later (TypeError)\nrecovered: SUCCESS' ] || { echo "changed: it shipped after a TypeError"; exit 1; }
