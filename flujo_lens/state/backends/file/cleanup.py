"""Cleaning up a folder of JSON files by age, and cancelling runs. All of it blocks, and waits for the folder's locks.

What the index says of a run is looked at again under the lock before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state.backends.core.rows import (
    cancelled,
    end_row,
    is_open,
    is_stale,
    last_update,
    now_text,
    timed_out,
)
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.claims import read_claims, remove_claim
from flujo_lens.state.backends.file.format.history import append, cut_unfinished
from flujo_lens.state.backends.file.format.history_lines import line_of
from flujo_lens.state.backends.file.format.run_records import cancelled_records
from flujo_lens.state.backends.file.fs.atomic_write import drafted
from flujo_lens.state.backends.file.index.run_selection import Reader, Source
from flujo_lens.state.backends.file.index.state_table import Stopped
from flujo_lens.state.backends.file.writes import Changes, Stop
from flujo_lens.state.deletion import BackupCallback
from flujo_lens.state.views import RunFilter

__all__ = ["cancel", "delete_old", "give_up"]

_STATE_TIMES = ("created_at", "updated_at")
_RUN_TIMES = ("created_at", "updated_at", "end_time")

_BATCH = 50
"""Runs that are deleted under one lock."""


def delete_old(changes: Changes, cutoff: datetime, stop: Stop) -> int:
    """Delete the runs whose last update is before `cutoff`, with all that hangs on them; return how many.

    What the index says is looked at again under the locks, which are taken for 50 runs at a time; those go in one
    moment (see `flujo_lens.state.backends.file.format.tombstones`). A process that dies on the way, or is stopped,
    leaves the runs that it had not come to.
    """
    try:
        snapshot = changes.folder.current(stop)
    except StoreNotFoundError:
        return 0
    old = [pick[1] for pick in snapshot.select(RunFilter(active_until=cutoff), None, False)]
    count = 0
    for at in range(0, len(old), _BATCH):
        if stop.is_set():
            raise Stopped
        files = {run_id: snapshot.files_of(run_id) for run_id in old[at : at + _BATCH]}
        count += _delete_batch(changes, files, cutoff, stop)
    return count


def _delete_batch(changes: Changes, files: Mapping[str, Sequence[str]], cutoff: datetime, stop: Stop) -> int:
    with changes.both(stop) as (folder, histories):
        reader = Reader(folder, histories, changes.folder.codec)
        old = [run_id for run_id, names in files.items() if _is_old(changes.folder.zone, reader, run_id, names, cutoff)]
        changes.remove_runs(folder, histories, {run_id: files[run_id] for run_id in old})
    return len(old)


def _is_old(zone: tzinfo, reader: Reader, run_id: str, names: Sequence[str], cutoff: datetime) -> bool:
    found = [reader.source(run_id, name) for name in (names or ("",))]
    sources = [source for source in found if source is not None]
    return bool(sources) and all(_is_before(cutoff, source, zone) for source in sources)


def give_up(
    changes: Changes, cutoff: datetime, stale_hours: float, stop: Stop, among: Sequence[str] | None = None
) -> list[str]:
    """Mark the background tasks (of `among`) failed that run and gave no sign since `cutoff`; return their ids.

    Each is looked at again and written under the lock. A process that dies on the way leaves the rest.
    """
    # Not by age: what counts is the last save alone, and the index knows the newest of all times of a run.
    wanted = RunFilter(statuses=frozenset({"running"}), tasks_only=True)
    try:
        snapshot = changes.folder.current(stop)
    except StoreNotFoundError:
        return []
    found = [pick[1] for pick in snapshot.select(wanted, None, False)]
    if among is not None:
        silent = frozenset(found)
        found = [run_id for run_id in dict.fromkeys(among) if run_id in silent]
    done = []
    for run_id in found:
        for name in snapshot.files_of(run_id)[:1]:
            with changes.both(stop) as (folder, histories):
                if _give_up_one(changes, folder, histories, run_id, name, cutoff, stale_hours):
                    done.append(run_id)
    return done


def _give_up_one(
    changes: Changes,
    folder: int,
    histories: int | None,
    run_id: str,
    name: str,
    cutoff: datetime,
    stale_hours: float,
) -> bool:
    found = documents.read_document(folder, name, exact=True)
    if found is None or found.state is None or found.run_id != run_id:
        return False
    if not is_stale(found.state, cutoff, changes.folder.zone):
        return False
    # What is sealed stays as it is: there may be no key for it here.
    _put(changes, folder, histories, run_id, name, found.state | timed_out(stale_hours, now_text()))
    return True


def _put(
    changes: Changes, folder: int, histories: int | None, run_id: str, name: str, state: Mapping[str, Any]
) -> None:
    """Put a state, sealed as it is, in place of the one before, without progress that did not come to its end."""
    _put_data(changes, folder, histories, run_id, name, _data_of(run_id, state))


def _data_of(run_id: str, state: Mapping[str, Any]) -> bytes:
    return documents.encode_state(StateCodec(), run_id, dict(state), is_stored=True)


def _put_data(changes: Changes, folder: int, histories: int | None, run_id: str, name: str, data: bytes) -> None:
    with drafted(folder, data, name) as draft:
        if histories is not None:
            cut_unfinished(folder, histories, run_id)
        draft.place(name)
    changes.settle(folder)


def cancel(
    changes: Changes, run_ids: Sequence[str], force: bool, stop: Stop, keep: BackupCallback | None = None
) -> list[str]:
    """Mark those of the runs as cancelled that could go on and, without `force`, that nobody holds; return their ids.

    Each is looked at again and written under the locks. A process that dies on the way leaves the rest, or of one
    run with a history that says so a state that does not yet.
    """
    try:
        snapshot = changes.folder.current(stop)
    except StoreNotFoundError:
        return []
    done = []
    for run_id in dict.fromkeys(run_ids):
        with changes.both(stop) as (folder, histories):
            if _cancel_one(changes, folder, histories, run_id, snapshot.files_of(run_id), force, keep):
                done.append(run_id)
    return done


def _cancel_one(
    changes: Changes,
    folder: int,
    histories: int | None,
    run_id: str,
    names: Sequence[str],
    force: bool,
    keep: BackupCallback | None,
) -> bool:
    found = documents.read_document(folder, names[0], exact=True) if names else None
    state = found.state if found is not None and found.run_id == run_id else None
    history = Reader(folder, histories, changes.folder.codec).history(run_id)
    run = history.run if history else None
    if not is_open(state, run) or not _is_free(histories, run_id, force):
        return False
    now = now_text()
    has_history = histories is not None and run is not None
    line = line_of(changes.folder.codec.real, run_id, "run_end", end_row(cancelled(now))) if has_history else b""
    data = None if state is None else _data_of(run_id, state | cancelled(now))
    if keep is not None:
        keep(cancelled_records(folder, run_id, names[0] if data else None, data, line))
    if histories is not None and line:
        append(folder, histories, run_id, line)
    if data is not None:
        _put_data(changes, folder, histories, run_id, names[0], data)
    if histories is not None:
        remove_claim(histories, run_id)
    return True


def _is_free(histories: int | None, run_id: str, force: bool) -> bool:
    claims = {} if force or histories is None else read_claims(histories, [run_id])
    return all(claim.has_ended(datetime.now(UTC)) for claim in claims.values())


def _is_before(cutoff: datetime, source: Source, zone: tzinfo) -> bool:
    """Whether the last update of a run was before `cutoff`. One that cannot be read is not."""
    state = source.document.state if source.document else {}
    run = (source.history.run if source.history else None) or {}
    if state is None:
        return False
    updated = last_update(map(state.get, _STATE_TIMES), map(run.get, _RUN_TIMES), zone)
    return updated is not None and updated < cutoff
