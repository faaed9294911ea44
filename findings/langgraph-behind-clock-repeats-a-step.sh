#!/usr/bin/env bash
# langgraph 1.2.24 with SqliteSaver: the newest checkpoint of a thread is the one with the greatest id, and the id begins
# with the host's clock. A host whose clock is behind (here two minutes, set by wrapping time.time_ns) resumes a thread
# that waits: the payment is made, invoke() returns the whole result, and the checkpoint that says so sorts before the
# old one. The thread waits again, and the next resume pays a second time.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "langgraph==1.2.24" \
    "langgraph-checkpoint==4.3.2" "langgraph-checkpoint-sqlite==3.1.2"
cd "$folder"
cat >application.py <<'PY'
import sys, time

now, behind = time.time_ns, int(sys.argv[2])
time.time_ns = lambda: now() - behind * 10**9  # this host's clock

from typing import TypedDict
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


class State(TypedDict, total=False):
    approved: bool
    paid: bool


def approve(state):
    return {"approved": interrupt("pay?")}


def pay(state):
    print("  pay was called")
    return {"paid": True}


graph = StateGraph(State)
graph.add_node(approve)
graph.add_node(pay)
for edge in ((START, "approve"), ("approve", "pay"), ("pay", END)):
    graph.add_edge(*edge)
with SqliteSaver.from_conn_string("checkpoints.db") as saver:
    application, thread = graph.compile(checkpointer=saver), {"configurable": {"thread_id": "1"}}
    result = application.invoke({} if sys.argv[1] == "start" else Command(resume=True), thread)
    result.pop("__interrupt__", None)
    stored = application.get_state(thread)
    print(f"{sys.argv[1]}, clock {behind} s behind: returned {result}, stored {stored.values}")
PY
echo "langgraph $(./venv/bin/python -c 'import importlib.metadata as m; print(m.version("langgraph"))')"
seen=$(for call in "start 0" "resume 120" "resume 0"; do ./venv/bin/python application.py $call; done)
echo "$seen"
[ "$(grep -c "pay was called" <<<"$seen")" = 2 ] || { echo "changed: it paid twice"; exit 1; }
grep -qF "resume, clock 120 s behind: returned {'approved': True, 'paid': True}, stored {'approved': True}" <<<"$seen" ||
    { echo "changed: 'paid' was returned, but not what the thread had stored"; exit 1; }
