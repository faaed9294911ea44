#!/usr/bin/env bash
# dbos 3.4.0: rewind_workflow drops a workflow's steps and runs it again, but not the workflows that it calls. These have
# the id of the caller and the number of the call, so they are found as done, whatever they are called with now: the
# report that is rewound to its first step after its source was repaired counts 10, its child is called with 10, is not
# run, hands back what it did with 100, and the run ends as SUCCESS. fork_workflow from the same step runs the child.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "dbos==3.4.0"
cd "$folder"
cat >application.py <<'PY'
import importlib.metadata
from dbos import DBOS, SetWorkflowID

source = {"orders": 100}  # each order ten times
page = []


@DBOS.step()
def count():
    return source["orders"]


@DBOS.step()
def write(orders):
    page.append(orders)
    return f"published {orders}"


@DBOS.workflow()
def publish(orders):
    return write(orders)


@DBOS.workflow()
def report():
    orders = count()
    return f"counted {orders}, {publish(orders)}"


def show(name, run):
    print(f"{name}: {run.get_result()}, {run.get_status().status}, on the page: {page}")


DBOS(config={"name": "reports", "system_database_url": "sqlite:///reports.db", "log_level": "CRITICAL"})
DBOS.launch()
print("dbos", importlib.metadata.version("dbos"))
with SetWorkflowID("monday"):
    show("first", DBOS.start_workflow(report))
source["orders"] = 10
show("rewound", DBOS.rewind_workflow("monday", start_step=1))
show("forked", DBOS.fork_workflow("monday", 1))
DBOS.destroy()
PY
seen=$(./venv/bin/python application.py 2>errors | grep -e '^dbos' -e ' on the page: ') || { tail -1 errors; exit 1; }
echo "$seen"
[ "$(tail -3 <<<"$seen")" = "first: counted 100, published 100, SUCCESS, on the page: [100]
rewound: counted 10, published 100, SUCCESS, on the page: [100]
forked: counted 10, published 10, SUCCESS, on the page: [100, 10]" ] || { echo "changed: the fork alone ran the child"; exit 1; }
