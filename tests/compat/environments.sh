#!/usr/bin/env bash
# Makes an environment for each series of the real library (flujo), for the tests of this folder.
#
#     tests/compat/environments.sh [FOLDER [0.4]]     # FOLDER/0.4 and FOLDER/0.6, or the first alone; .compat by default
#
# 0.4.35 is installed with the Python of $PYTHON (python3). 0.6.11 needs Python 3.13 or newer: it is made where one is
# found, as $PYTHON_06 or python3.13 or python3.14 on the PATH. Each is installed without the clients of model vendors,
# which are four fifths of it and which no test needs. At the end the variables that the tests read are printed.
set -euo pipefail

folder=${1:-.compat}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}

# What each imports when it is imported, and what lens imports beside it.
common=(pydantic-settings python-dotenv pyyaml tenacity sqlvalidator packaging aiosqlite orjson platformdirs 'typer<0.28' rich)

make_environment() { # PYTHON, NAME, VERSION, what it needs...
    local target="$folder/$2" version=$3
    local wanted="$version ${*:4}"
    [ "$(cat "$target/.installed" 2>/dev/null)" = "$wanted" ] && return
    rm -rf "$target"
    "$1" -m venv "$target"
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "flujo==$version"
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check "${@:4}" 2>&1 |
        grep -v -e 'dependency resolver' -e '^flujo .* requires' >&2 || true
    "$target/bin/python" -c 'import flujo'
    printf '%s' "$wanted" >"$target/.installed"
}

make_environment "$python" 0.4 0.4.35 "${common[@]}" 'pydantic<2.13' pydantic-ai-slim pydantic-evals
echo "LENS_FLUJO_PYTHON=$folder/0.4/bin/python"

[ "${2:-}" = 0.4 ] && exit
for newer in "${PYTHON_06:-}" python3.13 python3.14; do
    # A shim of a version manager is there, and may not run.
    if [ -n "$newer" ] && "$newer" -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null; then
        make_environment "$newer" 0.6 0.6.11 "${common[@]}" 'pydantic<2.13' 'pydantic-ai-slim[openai]>=1.25,<1.26' \
            'pydantic-evals<1.26' 'opentelemetry-api<1.39' 'openai<3' 'mcp>=1.23,<2' anyio uvloop blake3 numpy \
            ruamel.yaml aiohttp filelock
        echo "LENS_FLUJO_06_PYTHON=$folder/0.6/bin/python"
        exit
    fi
done
echo "no Python 3.13 or newer was found: no environment of 0.6" >&2
