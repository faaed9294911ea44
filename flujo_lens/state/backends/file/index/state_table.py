"""What a list needs of a file of a state: a row of the index, and how it is gathered.

A row counts as long as the file's modification time, change time, size and inode are what the system says
now. Two writes within one tick of the file system's clock could leave all four equal, so a row is settled only
if the file had been at rest for two seconds when its folder was looked at: a later write then has another change
time, which (other than the modification time) no program can set. What has changed within the last two
seconds is read each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from flujo_lens.state import interpret
from flujo_lens.state.backends.core.worker_pool import Stopped
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.document import UnreadableFile
from flujo_lens.state.timestamps import EPOCH, parse_instant

REST_NS = 2_000_000_000
"""How long a file must have been at rest before its row is settled; no file system's clock is coarser."""

MICROSECOND = timedelta(microseconds=1)

Moment = int | str | None
"""Microseconds since 1970; the text of a time without a zone; None for what is no time."""

Stamp = tuple[int, int, int, int]
"""A file's modification time, change time, size and inode."""

Named = tuple[str, Stamp | None]
"""A file's name, and its stamp; None if it could not be looked at, or is no regular file."""

Facts = tuple[Any, ...]
"""What a file tells for the columns from `StateRow.run_id` on, as it stands there."""

_NO_STAMP: Stamp = (0, 0, 0, 0)
_NO_RUN: Facts = (None,) * 10
_NOTHING: dict[str, Any] = {}


FAILED_UNSEEN = 1
"""Failed, with no step that did: cancelled, if the history says that the run completed."""

PAUSED_UNASKED = 2
"""Paused without a question: failed, unless the history says something else."""

PAUSED_UNLESS_FAILED = 3
"""Paused: failed, if the history says that the run did."""


class StateRow(NamedTuple):
    """A file of a state. One that is no run has None as `run_id` and as `readable`.

    `modified` and `changed` are in nanoseconds. `doubt` is how the status of a state depends on what a history says of
    the run: one of `FAILED_UNSEEN`, `PAUSED_UNASKED`, `PAUSED_UNLESS_FAILED`, or 0.
    """

    name: str
    modified: int
    changed: int
    size: int
    inode: int
    settled: bool
    run_id: str | None
    created: Moment
    updated: Moment
    status: str | None
    pipeline: str | None
    version: str | None
    parent: str | None
    background: bool | None
    readable: bool | None
    doubt: int | None


def at_rest() -> int:
    """Nanoseconds since 1970: what changed last before this may be settled."""
    return time.time_ns() - REST_NS


def read_states(
    folder: int, files: Iterable[Named], rested: int, stop: threading.Event
) -> tuple[Sequence[tuple[Any, ...]], list[str]]:
    """What the files tell, as of `StateRow`, and the names of those that are gone, or no files.

    No more is done here with each than must be: what runs between two parses runs on cold caches.

    Raises:
        Stopped: `stop` was set on the way.
    """
    rows: list[tuple[str, Stamp, Facts | None]] = []
    gone: list[str] = []
    forbidden: set[str] = set()
    for name, stamp in files:
        if stop.is_set():
            raise Stopped
        try:
            if stamp is None:
                stamp = _second_look(folder, name)
            rows.append((name, stamp, _facts_of(documents.load_object(folder, name, stamp[2]))))
        except FileNotFoundError:
            gone.append(name)
        except UnreadableFile as error:
            if isinstance(error.__cause__, OSError):
                # Whether this user may read the file can change without a change of the file.
                forbidden.add(name)
            rows.append((name, stamp or _NO_STAMP, _unreadable(stamp or _NO_STAMP)))
    return _rows_of(rows, rested, forbidden), gone


def _second_look(folder: int, name: str) -> Stamp:
    """Why a file could not be looked at, or is none."""
    now = documents.stat_document(folder, name)
    if now is None:
        raise FileNotFoundError
    return documents.stamp_of(now)


def _facts_of(state: dict[str, Any]) -> Facts | None:
    """What a list needs of a state, as it stands there; None for an object that is no state."""
    if not documents.is_state(state):
        return None
    get = state.get
    metadata = get("metadata")
    meta = metadata.get if isinstance(metadata, dict) else _NOTHING.get
    return (
        get("run_id"),
        get("created_at"),
        get("updated_at"),
        get("status"),
        get("pipeline_name"),
        get("pipeline_version"),
        get("parent_run_id") or meta("parent_run_id"),
        get("is_background_task", meta("is_background_task")),
        True,
        _doubt(state) if get("status") in ("failed", "paused") else 0,
    )


def _doubt(state: dict[str, Any]) -> int:
    """How the status of a failed or paused state depends on a history."""

    def read(run_status: str | None) -> str:
        history, context = state.get("step_history"), state.get("pipeline_context")
        raw = interpret.RawRun("", has_state=True, state_status=state["status"], history=history, context=context)
        raw.run_status = run_status
        return interpret.status_of(raw)

    if state["status"] == "failed":
        return FAILED_UNSEEN if read("completed") != "failed" else 0
    if read(None) == "failed":
        return PAUSED_UNASKED
    return PAUSED_UNLESS_FAILED if read("failed") == "failed" else 0


def _unreadable(stamp: Stamp) -> Facts:
    when = documents.instant_of(stamp[0]).isoformat() if stamp[0] else None
    return (None, when, when, None, None, None, None, False, False, 0)


def _rows_of(
    rows: Sequence[tuple[str, Stamp, Facts | None]], rested: int, forbidden: set[str]
) -> Sequence[tuple[Any, ...]]:
    """The rows with what they tell by the rules of everything that is shown."""
    if not rows:
        return ()
    names, stamps, facts = zip(*rows, strict=True)
    modified, changed, size, inode = zip(*stamps, strict=True)
    ids, created, updated, statuses, pipelines, versions, parents, background, readable, doubts = zip(
        *(one or _NO_RUN for one in facts), strict=True
    )
    moments = [moment_of(text) for text in created]
    kinds = [_kind(*kind) for kind in zip(_texts(statuses), _texts(pipelines), _texts(versions), strict=True)]
    columns: tuple[Sequence[Any], ...] = cast("Any", StateRow)(
        name=names,
        modified=modified,
        changed=changed,
        size=size,
        inode=inode,
        settled=[at <= rested and name not in forbidden for name, at in zip(names, changed, strict=True)],
        run_id=[one and documents.run_id_of(run_id, name) for one, run_id, name in zip(facts, ids, names, strict=True)],
        created=moments,
        updated=[m if u == c else moment_of(u) for m, c, u in zip(moments, created, updated, strict=True)],
        status=["failed" if doubt == PAUSED_UNASKED else kind[0] for kind, doubt in zip(kinds, doubts, strict=True)],
        pipeline=[kind[1] for kind in kinds],
        version=[kind[2] for kind in kinds],
        parent=_texts(parents),
        background=[bool(one) for one in background],
        readable=readable,
        doubt=doubts,
    )
    return list(zip(*columns, strict=True))


def moment_of(text: Any) -> Moment:
    """A stored time as a table keeps it."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    if text[4:8:3] != "--":  # `parse_instant` reads no such form
        return None
    if when.tzinfo is UTC:
        return (when - EPOCH) // MICROSECOND
    if when.tzinfo is None:
        return text if text.isascii() else when.isoformat()
    aware = parse_instant(text)
    return None if aware is None else (aware - EPOCH) // MICROSECOND


@lru_cache(maxsize=4096)
def _kind(status: str | None, pipeline: str | None, version: str | None) -> tuple[str, str, str]:
    """Status, pipeline and version by the rules of everything that is shown; a store has few of them."""
    raw = interpret.RawRun("", has_state=True, state_status=status, state_name=pipeline, state_version=version)
    return interpret.status_of(raw), *interpret.named(raw)


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [value if isinstance(value, str) or value is None else str(value) for value in values]
