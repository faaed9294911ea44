#!/usr/bin/env bash
# opentelemetry-proto-json 0.66b2 and protobuf 7.36.2 read one OTLP/JSON document, each other bytes, and say nothing.
# bytesValue in the URL-safe alphabet, which the JSON mapping of protobuf admits: proto-json leaves out '-' and '_' and
# reads 3 bytes of 6. The ids, which OTLP writes in hex: json_format takes the text for base64 and reads a trace id of 24
# bytes, not 16, and a span id of 12, not 8; written out again they look right.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "opentelemetry-proto-json==0.66b2" \
    "opentelemetry-proto==1.45.2" "protobuf==7.36.2" typing-extensions
cat >"$folder/readers.py" <<'PY'
import base64, importlib.metadata, json
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as ByProtobuf
from opentelemetry.proto_json.collector.trace.v1.trace_service import ExportTraceServiceRequest as ByProtoJson

digest = bytes([0xFB, 0xFF, 0xBF, 1, 2, 3])
span = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "charge",
    "attributes": [{"key": "digest", "value": {"bytesValue": base64.urlsafe_b64encode(digest).decode()}}],
}
document = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})

for name in ("opentelemetry-proto-json", "opentelemetry-proto", "protobuf"):
    print(name, importlib.metadata.version(name))
print(f"written:    digest {digest.hex()}, trace id of 16 bytes, span id of 8")
for name, read in (
    ("json_format", json_format.Parse(document, ByProtobuf())),
    ("proto-json", ByProtoJson.from_json(document)),
):
    seen = read.resource_spans[0].scope_spans[0].spans[0]
    value = seen.attributes[0].value.bytes_value
    print(f"{name}: digest {value.hex()}, trace id of {len(seen.trace_id)} bytes, span id of {len(seen.span_id)}")
PY
seen=$("$folder/venv/bin/python" "$folder/readers.py")
echo "$seen"
[ "$(tail -2 <<<"$seen")" = "json_format: digest fbffbf010203, trace id of 24 bytes, span id of 12
proto-json: digest 010203, trace id of 16 bytes, span id of 8" ] || { echo "changed: each reader had one of the two wrong"; exit 1; }
