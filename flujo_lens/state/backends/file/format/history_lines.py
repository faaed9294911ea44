"""One line of a history: how it is written, and what it says.

Each line is one object::

    {"run_id": ..., "kind": ..., "at": ..., <what runs are found by>, "data": {<all else>}}

`kind` is ``run_start``, ``run_end``, ``step``, ``spans``, ``trace``, ``evaluation`` or ``manifest``; `at` is when the
line was written, in UTC. A line of the kind ``progress`` has several in one (see
`flujo_lens.state.backends.file.format.progress_lines`). Where a layer applies, each field of `data` is sealed by
itself, under the name that it has in every driver; of spans the attributes are, and of evaluations nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.errors import LensError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import SEALED
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.serialization.exact import exact_dumps
from flujo_lens.state.backends.core.rows import now_text

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec

_RUN_FIELDS = ("pipeline_id", "pipeline_name", "pipeline_version", "status", "total_steps", "total_cost")
_FIGURES = ("execution_time_ms", "memory_usage_mb", "cost_usd", "token_counts", "score")
_TIMES = ("created_at", "updated_at", "start_time", "end_time")
_FOUND_BY = frozenset((*_RUN_FIELDS, *_FIGURES, *_TIMES, "step_name", "step_index", "manifest"))
"""Fields that stay readable where layers apply, as the same ones of a state do."""

_LARGEST = {"run_start": "final_context", "run_end": "final_context", "step": "output"}
"""The field by which a line in one seal shows that it is closed."""

_CLEAR = {"run_start": "error_message", "run_end": "error_message"}
"""One more, of a kind of line."""

JSONObject = dict[str, Any]


class Line(NamedTuple):
    """What a line says.

    Attributes:
        run_id: Whose it is.
        kind: What it is about; a later version may know more kinds.
        at: When it was written.
        row: Its fields. One that cannot be opened is `flujo_lens.serialization.codec.SEALED`.
        errors: Why what cannot be opened: by the field's name; of spans, by their ids; of a line in one seal, by "".
    """

    run_id: str
    kind: object
    at: str
    row: JSONObject
    errors: dict[str, LensError]


# --- writing


def line_of(codec: StateCodec, run_id: str, kind: str, data: Mapping[str, Any], *, is_stored: bool = False) -> bytes:
    """One line, with its end. Data that `is_stored` comes from a history: what is sealed in it stays as it is.

    Raises:
        LensError: a layer cannot be applied.
    """
    head = {"kind": kind, "at": now_text()}
    clear = (*_FOUND_BY, _CLEAR.get(kind))
    found_by = {key: value for key, value in data.items() if key in clear and _is_plain(value)}
    rest = {key: value for key, value in data.items() if key not in found_by and key not in ("run_id", *head)}
    line = beginning_of(run_id) + safe_dumps({**head, **found_by})[1:-1]
    if not rest:
        return line + b"}\n"
    return (
        line
        + b',"data":'
        + (exact_dumps(rest) if is_stored else codec.dumps(_sealed(codec, run_id, kind, rest)))
        + b"}\n"
    )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def beginning_of(run_id: str) -> bytes:
    """What every line of a run's file begins with."""
    return b'{"run_id":' + json.dumps(run_id).encode("ascii") + b","


def _sealed(codec: StateCodec, run_id: str, kind: str, rest: JSONObject) -> JSONObject:
    if kind == "evaluation":
        return rest
    if kind in ("spans", "trace"):
        leaf = codec.leaf
        return {
            "spans": [{**span, "attributes": leaf(run_id, "attributes", span["attributes"])} for span in rest["spans"]]
        }
    return {name: codec.leaf(run_id, str(name), value) for name, value in rest.items()}


# --- reading


def parse_line(line: bytes, codec: StateCodec, *, opened: bool = True) -> list[Line]:
    """What a line says: one thing, or several that were saved together; nothing if it is no record.

    Unless it is to be `opened`, what is sealed in it stays as it is.

    Raises:
        TypeError, KeyError, AttributeError: it has another form than it should.
    """
    try:
        found = safe_loads(line)
    except ValueError:
        return []
    if not isinstance(found, dict) or not isinstance(found.get("run_id"), str):
        return []
    return [_line(codec, part, opened) for part in (found["lines"] if found.get("kind") == "progress" else [found])]


def _line(codec: StateCodec, found: JSONObject, opened: bool) -> Line:
    run_id, kind, at = found.pop("run_id"), found.pop("kind", None), str(found.pop("at", ""))
    data = found.pop("data", {})
    errors: dict[str, LensError] = {}
    if opened:
        data, errors = _opened(codec, run_id, kind, data)
    else:
        found = {name: codec.leaf(run_id, name, value) if is_sealed(value) else value for name, value in found.items()}
        data, errors = _opened_whole(codec, run_id, str(kind), data) if is_sealed(data) else (data, {})
    return Line(run_id, kind, at, {**found, **data}, errors)


def _opened(codec: StateCodec, run_id: str, kind: object, data: Any) -> tuple[JSONObject, dict[str, LensError]]:
    if is_sealed(data):
        return _opened_whole(codec, run_id, str(kind), data)
    is_flat = kind not in ("spans", "trace")
    if kind == "evaluation" or (is_flat and not any(map(is_sealed, data.values()))):
        return data, {}
    errors: dict[str, LensError] = {}

    def opened(key: str, name: str, leaf: Any) -> Any:
        try:
            return codec.opened_leaf(run_id, name, leaf)
        except LensError as error:
            errors[key] = error
            return SEALED

    if is_flat:
        return {name: opened(name, name, leaf) for name, leaf in data.items()}, errors
    spans = data.get("spans")
    if spans is None:
        return data, {}
    for span in spans:
        attributes = opened(span["span_id"], "attributes", span.get("attributes"))
        span["attributes"] = attributes if isinstance(attributes, dict) else {"unreadable": attributes}
    return {"spans": spans}, errors


def _opened_whole(codec: StateCodec, run_id: str, kind: str, data: str) -> tuple[JSONObject, dict[str, LensError]]:
    """Data in one seal, as the first version wrote it."""
    try:
        return dict(codec.opened_leaf(run_id, kind, data)), {}
    except LensError as error:
        sealed = {"spans": [{"span_id": "sealed", "attributes": data}]} if kind in ("spans", "trace") else {}
        return sealed or ({_LARGEST[kind]: data} if kind in _LARGEST else {}), {"": error}
