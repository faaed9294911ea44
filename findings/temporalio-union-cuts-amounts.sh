#!/usr/bin/env bash
# temporalio 1.35.0: an amount of 2.99 for an argument, result or field that is hinted int | float arrives as 2. The
# default data converter hands the value to the first type of the union that takes it, and int takes every number; the
# payload has 2.99, so history, logs and the other side show what was sent, and nothing is raised. float | int keeps it,
# but makes 9007199254740993 another number; the converter for pydantic keeps both in either order.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "temporalio==1.35.0" "pydantic==2.14.4"
cat >"$folder/payloads.py" <<'PY'
import asyncio, importlib.metadata
from dataclasses import dataclass

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter


@dataclass
class Charge:
    order: str
    amount: int | float


@dataclass
class Entry:
    order: float | int
    amount: float | int


async def show(name, converter):
    """Encode what one worker sends and decode it as the other does, with the hint of its parameter."""
    sent = [Charge("one", 2.99), [2.99, 10], Entry(9007199254740993, 2.99)]
    payloads = await converter.encode(sent)
    print(f"{name} payload: {payloads[0].data.decode()}")
    for value in await converter.decode(payloads, [Charge, list[int | float], Entry]):
        print(f"{name}: {value}")


print("temporalio", importlib.metadata.version("temporalio"))
asyncio.run(show("default", DataConverter.default))
asyncio.run(show("pydantic", pydantic_data_converter))
PY
seen=$("$folder/venv/bin/python" "$folder/payloads.py")
echo "$seen"
[ "$(grep '^default' <<<"$seen")" = "default payload: {\"amount\":2.99,\"order\":\"one\"}
default: Charge(order='one', amount=2)
default: [2, 10]
default: Entry(order=9007199254740992.0, amount=2.99)" ] || { echo "changed: the default converter cut 2.99 to 2"; exit 1; }
[ "$(grep '^pydantic: ' <<<"$seen")" = "pydantic: Charge(order='one', amount=2.99)
pydantic: [2.99, 10]
pydantic: Entry(order=9007199254740993, amount=2.99)" ] || { echo "changed: the converter for pydantic kept both"; exit 1; }
