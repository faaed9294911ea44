"""What the histories of a store tell beside its runs: spans, evaluations, system state. All of it blocks."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import CorruptStoreError, LensError, StoreNotFoundError
from flujo_lens.serialization import safe_loads
from flujo_lens.serialization.codec import SEALED, StateCodec
from flujo_lens.state.backends.core.rows import now_text
from flujo_lens.state.backends.file.folder import Folder
from flujo_lens.state.backends.file.format.history import History
from flujo_lens.state.backends.file.fs.atomic_write import read_file
from flujo_lens.state.filtering import needs_details
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.traces import build_trees, flatten, span_rows
from flujo_lens.state.views import RunFilter, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.statistics import SpanStats

__all__ = [
    "SYSTEM",
    "evaluations",
    "history_of",
    "read_system",
    "span_stats",
    "spans_of",
    "system_entries",
    "system_row",
    "system_value",
]

SYSTEM = "system.json"
"""The file of the system state in the sub-folder: ``{key: {"value": ..., "updated_at": ...}}``."""

JSONObject = dict[str, Any]


def history_of(folder: Folder, run_id: str, stop: threading.Event) -> History | None:
    """The history of a run; None if there is none, or no store yet."""
    try:
        with folder.reading() as reader:
            return reader.history(run_id)
    except StoreNotFoundError:
        return None


def spans_of(history: History | None) -> list[Span]:
    """The spans of a run as trees."""
    if history is None:
        return []
    return build_trees(span_rows(history.spans.values()), parse_instant((history.run or {}).get("created_at")))


def evaluations(folder: Folder, run_id: str | None, limit: int, stop: threading.Event) -> list[JSONObject]:
    """Evaluations (of one run), the newest first."""
    found: list[tuple[str, int, JSONObject]] = []
    with folder.reading() as reader:
        rated = [run_id] if run_id is not None else folder.snapshot(reader.folder, stop).histories_with("evaluations")
        for one in rated:
            history = reader.history(one)
            rows = history.evaluations if history else ()
            found += ((str(row.get("created_at")), at, row) for at, row in enumerate(rows))
    return [row for _, _, row in nlargest(limit, found, key=lambda row: row[:2])]


def span_stats(folder: Folder, wanted: RunFilter, stop: threading.Event) -> tuple[SpanStats, ...]:
    """Counts and durations of spans by name, over the runs that `wanted` admits."""
    from flujo_lens.state.aggregate import aggregate_spans

    found = _traces(folder, wanted, stop)
    return aggregate_spans(flatten(spans_of(history)) for history in found)


def _traces(folder: Folder, wanted: RunFilter, stop: threading.Event) -> Iterator[History]:
    """The histories with spans of the runs that `wanted` admits."""
    with folder.reading() as reader:
        snapshot = folder.snapshot(reader.folder, stop)
        traced = set(snapshot.histories_with("spans"))
        picks = [pick for pick in snapshot.select(wanted, None, False) if pick[1] in traced]
        admitted = (
            snapshot.detailed(reader, picks, wanted, stop) if needs_details(wanted) else ((p, None) for p in picks)
        )
        for (_, run_id, _), _ in admitted:
            history = reader.history(run_id)
            if history is not None:
                yield history


# --- system state


def read_system(histories: int | None) -> JSONObject:
    """The system state as it is stored.

    Raises:
        CorruptStoreError: it does not parse.
    """
    content = _content(histories) if histories is not None else None
    if content is None:
        return {}
    try:
        found = safe_loads(content)
    except ValueError as error:
        raise CorruptStoreError(f"{SYSTEM} does not parse: {error}", hint="restore it, or move it away") from error
    if not isinstance(found, dict):
        raise CorruptStoreError(f"{SYSTEM} holds no object", hint="restore it, or move it away")
    return found


def _content(histories: int) -> bytes | None:
    try:
        file = os.open(SYSTEM, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=histories)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    try:
        return read_file(file)
    finally:
        os.close(file)


def system_row(codec: StateCodec, key: str, value: Any) -> JSONObject:
    """A global key as it is stored, set now."""
    return {"value": codec.leaf(SYSTEM, key, safe_loads(codec.dumps(value))), "updated_at": now_text()}


def system_entries(folder: Folder, stop: threading.Event) -> list[SystemEntry]:
    """All global keys, in order."""
    with folder.reading() as reader:
        stored = read_system(reader.histories)
    return [
        SystemEntry(key, _shown(folder, key, row.get("value")), parse_instant(row.get("updated_at")))
        for key, row in sorted(stored.items())
        if isinstance(row, dict)
    ]


def _shown(folder: Folder, key: str, leaf: Any) -> Any:
    """The value of a key for one who looks: one that cannot be opened is a mark, and hides no other."""
    try:
        return folder.codec.real.opened_leaf(SYSTEM, key, leaf)
    except LensError:
        return SEALED


def system_value(folder: Folder, key: str, stop: threading.Event) -> JSONObject | None:
    """A global key with its value, or None; also if there is no store yet."""
    try:
        with folder.reading() as reader:
            row = read_system(reader.histories).get(key)
    except StoreNotFoundError:
        return None
    if not isinstance(row, dict):
        return None
    return {
        "key": key,
        "value": folder.codec.real.opened_leaf(SYSTEM, key, row.get("value")),
        "updated_at": row.get("updated_at"),
    }
