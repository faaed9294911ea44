#!/usr/bin/env bash
# langgraph 1.2.24: collections that a node put into the state are others after a resume. A set of pairs is a list of
# lists (a warning is logged), a deque with a maxlen has none, so a window of the last messages grows without end, and a
# Counter is a dict, so that counting a new key raises KeyError. Until the resume the nodes see what was put in.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "langgraph==1.2.24" \
    "langgraph-checkpoint==4.3.2" "langgraph-checkpoint-sqlite==3.1.2"
cd "$folder"
cat >application.py <<'PY'
import importlib.metadata, sys
from collections import Counter, deque
from typing import TypedDict
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


class State(TypedDict, total=False):
    window: deque
    visited: set
    counts: Counter
    approved: bool


def load(state):
    return {"window": deque([1, 2, 3], maxlen=3), "visited": {(1, 2)}, "counts": Counter(a=2)}


def show(state):
    print("before:", state["window"], state["visited"], state["counts"])
    return {}


def approve(state):
    return {"approved": interrupt("go on?")}


def use(state):
    state["window"].append(4)
    print("after: ", state["window"], state["visited"], state["counts"])
    return {}


graph = StateGraph(State)
for node in (load, show, approve, use):
    graph.add_node(node)
for edge in ((START, "load"), ("load", "show"), ("show", "approve"), ("approve", "use"), ("use", END)):
    graph.add_edge(*edge)

if sys.argv[1] == "start":
    print("langgraph", importlib.metadata.version("langgraph"))
with SqliteSaver.from_conn_string("checkpoints.db") as saver:
    begin = {} if sys.argv[1] == "start" else Command(resume=True)
    graph.compile(checkpointer=saver).invoke(begin, {"configurable": {"thread_id": "1"}})
PY
./venv/bin/python application.py start
seen=$(./venv/bin/python application.py resume 2>/dev/null)
echo "$seen"
[ "$seen" = "after:  deque([1, 2, 3, 4]) [[1, 2]] {'a': 2}" ] || { echo "changed: it was deque([1, 2, 3, 4]) [[1, 2]] {'a': 2}"; exit 1; }
