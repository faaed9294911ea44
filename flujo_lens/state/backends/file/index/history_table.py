"""What a list needs of a history: a row of the index, and how it is gathered.

As `flujo_lens.state.backends.file.index.state_table` does it for states, by the same rule of when a row counts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.core.run_codec import history_facts
from flujo_lens.state.backends.core.worker_pool import Stopped
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format.history import History
from flujo_lens.state.backends.file.index.state_table import MICROSECOND, Named
from flujo_lens.state.timestamps import EPOCH, parse_instant


class HistoryRow(NamedTuple):
    """A file of a history. One that holds no record has None as `run_id`.

    `start` is None if the history tells none, and a text if what it tells is no time. `updated` is the newest of
    its times, in microseconds since 1970; `dated` is false if one of them cannot be read.
    """

    name: str
    modified: int
    changed: int
    size: int
    inode: int
    settled: bool
    run_id: str | None
    has_run: bool
    status: str | None
    pipeline: str | None
    version: str | None
    root_pipeline: str | None
    root_version: str | None
    start: int | str | None
    updated: int | None
    dated: bool
    step_failed: bool
    spans: bool
    evaluations: bool


def read_histories(
    folder: int, histories: int, files: Iterable[Named], rested: int, codec: StateCodec, stop: threading.Event
) -> tuple[Sequence[tuple[Any, ...]], list[str], int]:
    """What the files tell, as of `HistoryRow`; the names of those that are gone, no files, or may not be read; and the
    number of the latter two.

    Raises:
        Stopped: `stop` was set on the way.
    """
    rows: list[tuple[Any, ...]] = []
    gone: list[str] = []
    unreadable = 0
    for name, stamp in files:
        if stop.is_set():
            raise Stopped
        row = None if stamp is None else _read(folder, histories, name, rested, codec)
        if row is None:
            gone.append(name)
            unreadable += stamp is not None
        else:
            rows.append(row)
    return rows, gone, unreadable


def _read(folder: int, histories: int, name: str, rested: int, codec: StateCodec) -> tuple[Any, ...] | None:
    """The row of one file; None if it is gone, or not readable."""
    try:
        now = os.stat(name, dir_fd=histories, follow_symlinks=False)
        history = file_history.read(folder, histories, name, codec, light=True)
    except OSError:
        return None
    is_whole = history is not None and not (history.problems or history.is_unfinished)
    return (name, *documents.stamp_of(now), is_whole and now.st_ctime_ns <= rested, *_row_of(history))


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
