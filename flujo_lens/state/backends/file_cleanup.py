"""Cleaning up a folder of JSON files by age. All of it blocks, and waits for the folder's locks.

What the index says of a run is looked at again under the lock before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, tzinfo

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.serialization.codec import StateCodec
from flujo_lens.state.backends import file_documents as documents
from flujo_lens.state.backends.file_changes import Changes, Stop, remove_history
from flujo_lens.state.backends.file_runs import Reader, Source
from flujo_lens.state.backends.file_table import Stopped
from flujo_lens.state.backends.file_writing import drafted
from flujo_lens.state.backends.vocabulary import is_stale, last_update, now_text, timed_out
from flujo_lens.state.views import RunFilter

__all__ = ["delete_old", "give_up"]

_STATE_TIMES = ("created_at", "updated_at")
_RUN_TIMES = ("created_at", "updated_at", "end_time")

_BATCH = 50
"""Runs that are deleted under one lock."""


def delete_old(changes: Changes, cutoff: datetime, stop: Stop) -> int:
    """Delete the runs whose last update is before `cutoff`, with all that hangs on them; return how many.

    What the index says is looked at again under the locks, which are taken for 50 runs at a time. A process
    that dies on the way, or is stopped, leaves the runs that it had not come to.
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
    with changes.changing() as folder, documents.history_folder(folder) as histories, ExitStack() as locks:
        locks.enter_context(changes.lock(folder, stop))
        if histories is not None:
            locks.enter_context(changes.lock(histories, stop))
        reader = Reader(folder, histories, changes.folder.codec)
        old = [run_id for run_id, names in files.items() if _is_old(changes.folder.zone, reader, run_id, names, cutoff)]
        for run_id in old:
            if histories is not None:
                remove_history(histories, run_id)
            changes.remove_state(folder, run_id, files[run_id])
        for changed in (histories, folder) if old else ():
            if changed is not None:
                changes.settle(changed)
    return len(old)


def _is_old(zone: tzinfo, reader: Reader, run_id: str, names: Sequence[str], cutoff: datetime) -> bool:
    found = [reader.source(run_id, name) for name in (names or ("",))]
    sources = [source for source in found if source is not None]
    return bool(sources) and all(_is_before(cutoff, source, zone) for source in sources)


def give_up(changes: Changes, cutoff: datetime, stale_hours: float, stop: Stop) -> int:
    """Mark the background tasks failed that run and gave no sign since `cutoff`; return how many.

    Each is looked at again and written under the lock. A process that dies on the way leaves the rest.
    """
    wanted = RunFilter(statuses=frozenset({"running"}), tasks_only=True, active_until=cutoff)
    try:
        snapshot = changes.folder.current(stop)
    except StoreNotFoundError:
        return 0
    count = 0
    for _, run_id, _ in snapshot.select(wanted, None, False):
        for name in snapshot.files_of(run_id)[:1]:
            with changes.changing() as folder, changes.lock(folder, stop):
                count += _give_up_one(changes, folder, run_id, name, cutoff, stale_hours)
    return count


def _give_up_one(changes: Changes, folder: int, run_id: str, name: str, cutoff: datetime, stale_hours: float) -> bool:
    found = documents.read_document(folder, name, exact=True)
    if found is None or found.state is None or found.run_id != run_id:
        return False
    if not is_stale(found.state, cutoff, changes.folder.zone):
        return False
    # What is sealed stays as it is: there may be no key for it here.
    state = found.state | timed_out(stale_hours, now_text())
    data = documents.encode_state(StateCodec(), run_id, state, is_stored=True)
    with drafted(folder, data, name) as draft:
        draft.place(name)
    changes.settle(folder)
    return True


def _is_before(cutoff: datetime, source: Source, zone: tzinfo) -> bool:
    """Whether the last update of a run was before `cutoff`. One that cannot be read is not."""
    state = source.document.state if source.document else {}
    run = (source.history.run if source.history else None) or {}
    if state is None:
        return False
    updated = last_update(map(state.get, _STATE_TIMES), map(run.get, _RUN_TIMES), zone)
    return updated is not None and updated < cutoff
