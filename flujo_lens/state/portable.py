"""Portable records: a run in a form that any store can produce and take.

A record is JSON-ready. Usually it is a whole run; a run with very many rows has several, in order, of which the first
has the documents and the last one ``"last": true``::

    {"run_id": "run-1", "state": {...} | None, "run": {...} | None, "manifest": "<digest>" | None,
     "steps": [{...}], "spans": [{...}], "evaluations": [{...}], "last": true}

``state`` has the fields of `flujo_lens.state.models.WorkflowState`, the others those of
`flujo_lens.state.backends.core.rows`. Times have a zone. Sealed values are their texts, as in a folder of JSON files.
The first record of a run can also have ``manifest_document`` (the manifest itself), ``stripped`` (the note of
`flujo_lens.state.stripped`), ``lost`` (what of the run has no portable form: numbers by description), and ``problem``
(why the run cannot be moved; then it has nothing else).

A digest of a run is equal for all stores that hold the same run, however they represent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from typing import Any

from flujo_lens.serialization.exact import exact_dumps
from flujo_lens.state.deletion import Record
from flujo_lens.state.stripped import Stripped
from flujo_lens.state.timestamps import parse_instant

Document = dict[str, Any]

CHILDREN = ("steps", "spans", "evaluations")
MARK = "lens_filled"
"""The field of a state in which a store notes what it has filled in; it is not a part of the state."""

_SPAN_FIELDS = ("span_id", "parent_span_id", "name", "start_time", "end_time", "status", "attributes")
_NO_PART = ("run_id", MARK)
_CONVERTED = (float, int, bool)
_TIMES = ("created_at", "updated_at", "start_time", "end_time")
_NAMES = ("pipeline_id", "pipeline_name", "pipeline_version")
_DEFAULTS: dict[str, Document] = {
    "state": {
        "pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest",
        "current_step_index": 0, "total_steps": 0, "is_background_task": False,
    },
    "run": {"pipeline_id": "unknown", "pipeline_name": "unknown", "pipeline_version": "latest", "total_steps": 0},
    "steps": {"step_name": "unknown", "step_index": 0, "status": "completed"},
    "spans": {"name": "unknown", "status": "running", "start_time": 0, "attributes": {}},
    "evaluations": {},
}  # fmt: skip
"""What a column that must have a value says where a document says nothing."""


# --- the documents that drivers make


def plain_state(document: Mapping[str, Any], zone: tzinfo) -> Document:
    """A state without its id.

    Args:
        document: The state as stored.
        zone: The zone of naive times.
    """
    return _with_zones({name: value for name, value in document.items() if name != "run_id"}, zone)


def plain_run(document: Mapping[str, Any]) -> Document:
    """The metadata of a run; naive times are UTC. A run that was not updated since was updated at its start."""
    row = _with_zones(_given(document), UTC)
    if row.get("created_at") and not row.get("updated_at"):
        row["updated_at"] = row["created_at"]
    return row


def plain_step(document: Mapping[str, Any]) -> Document:
    """An execution of a step."""
    return _with_zones(_given(document), UTC)


def plain_span(document: Mapping[str, Any]) -> Document:
    """A span with all its fields."""
    span = {name: document.get(name) for name in _SPAN_FIELDS}
    if span["attributes"] is None:
        span["attributes"] = {}
    return span


plain_evaluation = plain_step


def run_of_state(state: Mapping[str, Any]) -> Document:
    """The metadata of a run that has a history, but only a state."""
    names = {name: state[name] for name in (*_NAMES, "status") if state.get(name)}
    return plain_run({**names, "created_at": state.get("created_at"), "updated_at": state.get("updated_at")})


def _given(document: Mapping[str, Any]) -> Document:
    return {name: value for name, value in document.items() if value is not None and name != "run_id"}


def _with_zones(document: Document, zone: tzinfo) -> Document:
    for name in _TIMES:
        text = document.get(name)
        if isinstance(text, str) and _is_naive(text):
            when = parse_instant(text, zone)
            document[name] = text if when is None else when.astimezone(UTC).isoformat()
    return document


def _is_naive(text: str) -> bool:
    if text.endswith("+00:00"):
        return False
    try:
        return datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


# --- digests


def digests_of(records: Iterable[Record]) -> dict[str, str]:
    """The digest of each run (SHA-256 in hex). Holds no more than one record at a time."""
    found: dict[str, _RunHash] = {}
    for record in records:
        found.setdefault(record["run_id"], _RunHash()).add(record)
    return {run_id: made.hexdigest() for run_id, made in found.items()}


class _RunHash:
    """The hash of one run. The order of steps and evaluations counts, that of spans does not."""

    def __init__(self) -> None:
        self._head, self._spans = sha256(), 0
        self._rows = {"steps": sha256(), "evaluations": sha256()}

    def add(self, record: Record) -> None:
        """Add the next record."""
        if "state" in record or "run" in record:
            for kind in ("state", "run"):
                self._head.update(_canonical(kind, record.get(kind)) + b"\n")
            note = Stripped.from_dict(record.get("stripped"))
            self._head.update(f"{record.get('manifest')} {sorted(note.parts) if note else ''}\n".encode())
        for kind, rows in self._rows.items():
            for row in record.get(kind, ()):
                rows.update(_canonical(kind, row) + b"\n")
        for span in record.get("spans", ()):
            self._spans += int.from_bytes(sha256(_canonical("spans", span)).digest())

    def hexdigest(self) -> str:
        """The digest."""
        self._head.update(b"".join(rows.digest() for rows in self._rows.values()))
        self._head.update((self._spans % 2**256).to_bytes(32))
        return self._head.hexdigest()


def _canonical(kind: str, document: Mapping[str, Any] | None) -> bytes:
    """JSON that is the same for all representations of a document: columns have types and defaults of their own."""
    if document is None:
        return b"null"
    kept = {
        name: _comparable(kind, name, value) if name in _TIMES or type(value) in _CONVERTED else value
        for name, value in document.items()
        if value is not None and value != "" and name not in _NO_PART
    }
    for name, default in _DEFAULTS[kind].items():
        if name in kept and kept[name] == default:
            del kept[name]
    return exact_dumps(kept, sort_keys=True)


def _comparable(kind: str, name: str, value: Any) -> Any:
    if name in _TIMES and isinstance(value, str):
        when = parse_instant(value)
        return value if when is None else when.astimezone(UTC).isoformat()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return bool(value) if name == "is_background_task" else value
