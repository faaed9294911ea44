#!/usr/bin/env bash
# flujo 0.4.35, as `pip install flujo` leaves it, cannot be imported: it imports sqlvalidator, which is an extra.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "flujo==0.4.35"
echo "flujo $("$folder/venv/bin/python" -c 'import importlib.metadata as m; print(m.version("flujo"))'), as installed:"
seen=$("$folder/venv/bin/python" -c 'import flujo' 2>&1 | tail -1) || true
echo "  $seen"
[ "$seen" = "ModuleNotFoundError: No module named 'sqlvalidator'" ] || { echo "changed: it was No module named 'sqlvalidator'"; exit 1; }

"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "sqlvalidator>=0.0.8"
"$folder/venv/bin/python" -c 'import flujo' || { echo "changed: with sqlvalidator it was importable"; exit 1; }
echo "with sqlvalidator it is imported"
