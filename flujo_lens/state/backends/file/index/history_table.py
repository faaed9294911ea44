"""What a list needs of every history of a store, as columns, and how it is gathered.

As `flujo_lens.state.backends.file.index.state_table` does it for states, by the same rule of when a row counts.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.core.run_codec import history_facts
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format.history import History
from flujo_lens.state.backends.file.index.state_table import MICROSECOND, Rows, Stopped, at_rest, unchanged
from flujo_lens.state.timestamps import EPOCH, parse_instant


class _HistoryColumns(NamedTuple):
    name: list[str]
    modified: list[int]
    changed: list[int]
    size: list[int]
    inode: list[int]
    run_id: list[str | None]
    has_run: list[bool]
    status: list[str | None]
    pipeline: list[str | None]
    version: list[str | None]
    root_pipeline: list[str | None]
    root_version: list[str | None]
    start: list[int | str | None]
    updated: list[int | None]
    dated: list[bool]
    step_failed: list[bool]
    spans: list[bool]
    evaluations: list[bool]


class HistoryTable(Rows, _HistoryColumns):
    """Files of histories, one a row. One that holds no record has None as `run_id`.

    `start` is None if the history tells none, and a text if what it tells is no time. `updated` is the newest of
    its times, in microseconds since 1970; `dated` is false if one of them cannot be read.
    """

    __slots__ = ()


@dataclass(slots=True)
class HistoryScan:
    """The histories at one moment."""

    table: HistoryTable
    kept: HistoryTable
    """Those rows of it that may be kept."""
    reread: int = 0
    """Rows that are new and may be kept."""
    unreadable: int = 0
    """Files that may not be read."""


def scan_histories(
    folder: int, histories: int, known: HistoryTable, codec: StateCodec, stop: threading.Event
) -> HistoryScan:
    """Look at every history of the sub-folder; read those of which `known` has no row that holds.

    Raises:
        Stopped: `stop` was set on the way.
        OSError: the sub-folder cannot be read.
    """
    rested = at_rest()
    names = [name for name in os.listdir(histories) if name.endswith(file_history.ENDING)]
    holding, others = unchanged(histories, names, known, stop)
    if not others and len(holding) == len(known.name):
        return HistoryScan(known, known)
    rows = [_read(folder, histories, name, codec, stop) for name, stamp in others if stamp is not None]
    found = [row for row in rows if row is not None]
    settled = [row for row in found if row.changed <= rested and row.is_whole]
    table, kept = known.take(holding), known.take(holding)
    table.extend(_table_of(found))
    kept.extend(_table_of(settled))
    return HistoryScan(table, kept, len(settled), len(rows) - len(found))


class _Row(NamedTuple):
    columns: tuple[Any, ...]
    changed: int
    is_whole: bool


def _table_of(rows: list[_Row]) -> HistoryTable:
    if not rows:
        return HistoryTable.empty()
    return HistoryTable.of(map(list, zip(*(row.columns for row in rows), strict=True)))


def _read(folder: int, histories: int, name: str, codec: StateCodec, stop: threading.Event) -> _Row | None:
    """The row of one file; None if it is gone, or not readable."""
    if stop.is_set():
        raise Stopped
    try:
        now = os.stat(name, dir_fd=histories, follow_symlinks=False)
        history = file_history.read(folder, histories, name, codec, light=True)
    except OSError:
        return None
    columns = name, now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino, *_row_of(history)
    is_whole = history is not None and not (history.problems or history.is_unfinished)
    return _Row(columns, now.st_ctime_ns, is_whole)


def _row_of(history: History | None) -> tuple[Any, ...]:
    if history is None:
        return (None, False, *[None] * 7, True, False, False, False)
    raw = interpret.raw_from_documents(history.run_id, None, history.run)
    history_facts(raw, list(history.spans.values()), history.steps)
    root = raw.mapping("root_attributes")
    texts = (raw.run_start, raw.run_updated, raw.run_end)
    times = [_micros(text) for text in texts]
    return (
        history.run_id,
        raw.has_run,
        raw.run_status,
        raw.run_name,
        raw.run_version,
        _text(root.get("flujo.pipeline.name")),
        _text(root.get("flujo.pipeline.version")),
        times[0] if times[0] is not None else _text(raw.run_start) or None,
        max((when for when in times if when is not None), default=None),
        all(when is not None for when, text in zip(times, texts, strict=True) if text not in (None, "")),
        raw.failed_step is not None,
        history.has_spans,
        bool(history.evaluations),
    )


def _micros(text: object) -> int | None:
    when = parse_instant(text)
    return None if when is None else (when - EPOCH) // MICROSECOND


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
