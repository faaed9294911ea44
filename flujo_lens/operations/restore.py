"""Restoring runs from an archive: plan and execution, with an audit entry.

Used by ``lens import``, and by ``lens undo`` for the bin (`flujo_lens.operations.undo`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.errors import ArchiveError, LensError, NotAStoreError, SchemaError, StoreNotFoundError
from flujo_lens.operations.archive import driver_kind
from flujo_lens.operations.archive_compression import LIMITS, Limits
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.archive_reader import Group, LongRun, Survey, read_archive, runs_of, survey
from flujo_lens.operations.change_report import Recorder, Report, error_code
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.record_spool import RecordSpool
from flujo_lens.state.deletion import Record
from flujo_lens.state.stripped import Stripped
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunFilter

_AT_ONCE = 500


class RestorePlan(NamedTuple):
    """The runs that would be restored from an archive.

    Attributes:
        found: Its content, whose digests were all checked.
        run_ids: The runs to restore, in the order of the archive.
        existing: The runs to skip, since a run of that id exists, or has changed since it was cancelled.
        store_is_empty: Whether the store has no runs.
        source: A descriptor of the archive, if it has no path.
    """

    path: Path
    found: Survey
    run_ids: tuple[str, ...]
    existing: tuple[str, ...]
    store_is_empty: bool
    limits: Limits = LIMITS
    source: int | None = None

    @property
    def report(self) -> Report:
        """The report of a dry run."""
        count = len(self.run_ids)
        return Report(matched=count + len(self.existing), skipped=len(self.existing), left=count, dry_run=True)


class Restoration(NamedTuple):
    """The restored runs.

    Attributes:
        report: The counts.
        run_ids: The restored runs.
        existing: The skipped runs, whose id exists.
        failed: The runs that the store could not take, with the reasons.
    """

    report: Report
    run_ids: tuple[str, ...]
    existing: tuple[str, ...]
    failed: dict[str, str]


async def plan_restore(
    backend: StateBackend,
    path: Path,
    wanted: Collection[str] | None = None,
    *,
    limits: Limits = LIMITS,
    source: int | None = None,
    creates: bool = False,
) -> RestorePlan:
    """Plan a restore. Reads and checks the whole archive; changes nothing.

    Args:
        path: The archive, or several concatenated ones.
        wanted: The runs to restore; None for all.
        source: A descriptor of the archive, if it has no path; `path` is then its name for messages.
        creates: Whether the store may not exist yet.

    Raises:
        ArchiveError, CorruptArchiveError: it cannot be read, or was made from another kind of store.
    """
    with read_archive(path, limits, source) as archive:
        _check_kind(backend, path, archive.headers)
    found = survey(path, limits, source)
    _check_kind(backend, path, found.headers)
    run_ids = [run_id for run_id in found.run_ids if wanted is None or run_id in wanted]
    is_empty = await store_is_empty(backend, creates=creates)
    existing = await _existing(backend, run_ids, found) if found.cancelled or not is_empty else set()
    new = tuple(run_id for run_id in run_ids if run_id not in existing)
    old = tuple(run_id for run_id in run_ids if run_id in existing)
    return RestorePlan(path, found, new, old, is_empty, limits, source)


async def store_is_empty(backend: StateBackend, *, creates: bool = False) -> bool:
    """Whether a store has no runs; with `creates`, also whether there is none."""
    try:
        return not (await backend.query_runs(RunFilter(), limit=1)).items
    except (StoreNotFoundError, NotAStoreError) as error:
        if creates and (isinstance(error, StoreNotFoundError) or error.to_dict().get("empty")):
            return True
        raise


def _check_kind(backend: StateBackend, path: Path, headers: Sequence[Header]) -> None:
    kind = driver_kind(backend)
    if others := [header.driver for header in headers if header.driver != kind]:
        raise ArchiveError(
            f"{path} was made from a store of the driver {others[0]}, but this store has the driver {kind}",
            hint="use a store with the same driver: --store NAME_OR_URI; nothing was changed",
            path=str(path),
        )


async def _existing(backend: StateBackend, run_ids: Sequence[str], found: Survey) -> set[str]:
    """The runs to skip because they exist.

    If only the state of a run was deleted, its history may exist. A cancelled run must exist unchanged; the driver
    checks that. A stripped run may exist if its parts are still missing by that strip.
    """
    there: set[str] = set()
    marked: set[str] = set()
    for begin in range(0, len(run_ids), _AT_ONCE):
        part = run_ids[begin : begin + _AT_ONCE]
        notes = await backend.read_stripped(part) if found.stripped else {}
        for run in await backend.read_summaries(part):
            if run.run_id in notes and _lacks(notes[run.run_id], found.stripped.get(run.run_id)):
                continue
            if run.run_id in found.cancelled:
                marked.update([run.run_id] if run.status == "cancelled" else [])
            elif run.run_id not in found.states or await backend.load_state(run.run_id) is not None:
                there.add(run.run_id)
    return there | (found.cancelled - marked).intersection(run_ids)


def _lacks(note: Stripped, strip: Mapping[str, Any] | None) -> bool:
    """Whether a run still lacks a part by a certain strip."""
    return strip is not None and any(at == parse_instant(strip.get("at")) for at in note.parts.values())


@dataclass(slots=True)
class _Done:
    run_ids: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of processed runs."""
        return len(self.run_ids) + len(self.existing) + len(self.failed)


async def restore_runs(
    backend: StateBackend,
    plan: RestorePlan,
    recorder: Recorder,
    *,
    stop: Stop | None = None,
    progress: Callable[[int], None] | None = None,
) -> Restoration:
    """Restore the runs of a plan, batch by batch, after writing an audit entry.

    Each run is restored completely or not at all. If the process dies, the earlier batches are restored; running the
    same command again continues after them. A second audit entry has the result if runs are missing.

    Args:
        stop: When to stop early; checked after each batch.
        progress: Called after each batch with the number of processed runs.

    Raises:
        ReadOnlyStoreError, OperationFailedError: the log cannot be written; nothing was changed.
        LensError: as for `StateBackend.restore` and `ArchiveReader.groups`; the earlier batches are restored.
    """
    if not plan.run_ids:
        count = len(plan.existing)
        return Restoration(Report(matched=count, skipped=count), (), plan.existing, {})
    log, command, reason = recorder
    log.check()
    counts = {"restored": len(plan.run_ids)}
    audit_id = log.append(command=command, reason=reason, counts=counts, run_ids=plan.run_ids, state="started")
    done = _Done()
    try:
        await _restore_all(backend, plan, done, Stop() if stop is None else stop, progress)
    except BaseException as error:
        _tell_end(recorder, audit_id, done, error)
        raise
    _tell_end(recorder, audit_id, done)
    return _restoration(plan, done, audit_id)


def _tell_end(recorder: Recorder, audit_id: str, done: _Done, error: BaseException | None = None) -> None:
    """Write the second audit entry, with the result."""
    counts = {"restored": len(done.run_ids), "existing": len(done.existing), "failed": len(done.failed)}
    recorder.log.append_result(
        audit_id, command=recorder.command, reason=recorder.reason, run_ids=done.run_ids,
        counts={what: count for what, count in counts.items() if count or what == "restored"},
        error=None if error is None else error_code(error),
    )  # fmt: skip


def _restoration(plan: RestorePlan, done: _Done, audit_id: str) -> Restoration:
    existing = (*plan.existing, *done.existing)
    matched, left = len(plan.run_ids) + len(plan.existing), len(plan.run_ids) - done.count
    report = Report(matched, len(done.run_ids), len(existing), len(done.failed), left, False, audit_id)
    return Restoration(report, tuple(done.run_ids), existing, done.failed)


async def _restore_all(
    backend: StateBackend, plan: RestorePlan, done: _Done, stop: Stop, progress: Callable[[int], None] | None
) -> None:
    """Restore group by group; separately deleted states after their histories."""
    wanted = set(plan.run_ids)
    for states in (False, True) if plan.found.states and len(plan.found.headers) > 1 else (None,):
        with read_archive(plan.path, plan.limits, plan.source) as archive:
            for number, group in enumerate(archive.groups()):
                chosen = _chosen(plan, group, number, states, wanted)
                if not chosen:
                    continue
                if stop:
                    return
                await _restore(backend, chosen, done)
                if progress is not None:
                    progress(done.count)


def _chosen(plan: RestorePlan, group: Group, number: int, states: bool | None, wanted: Collection[str]) -> Group:
    """The records of a group to restore."""
    runs = [
        run
        for key, run in runs_of(group)
        if key[0] in wanted and plan.found.chosen.get(key) == number and states in (None, key[1])
    ]
    if isinstance(group, LongRun):
        return group if runs else []
    return [record for run in runs for record in run]


async def _restore(backend: StateBackend, records: Group, done: _Done) -> None:
    """Restore a batch; if the store cannot take one of its runs, run by run."""
    try:
        restored = await backend.restore(records)
    except SchemaError:
        if isinstance(records, LongRun):
            await _restore_one(backend, records.run_id, records, done)
            return
        for run_id, run in groupby(records, lambda record: record["run_id"]):
            await _restore_one(backend, run_id, list(run), done)
        return
    done.run_ids += restored.run_ids
    done.existing += restored.existing


async def _restore_one(backend: StateBackend, run_id: str, records: Iterable[Record], done: _Done) -> None:
    try:
        await backend.restore(records)
    except SchemaError as error:
        if not await _restored_as_portable(backend, records):
            done.failed[run_id] = error.message
            return
    done.run_ids.append(run_id)  # if it exists, the failed call for the batch had restored it


async def _restored_as_portable(backend: StateBackend, records: Iterable[Record]) -> bool:
    """Whether a run of another schema could be restored by its portable form, with all that it has."""
    if not all(isinstance(record.get("tables"), Mapping) for record in records):
        return False  # only tables have a schema
    lost: Counter[str] = Counter()
    try:
        parts = PortableParts(fields=type(backend).portable_fields())
        with RecordSpool(parts.of(record, lost) for record in type(backend).portable_records(records)) as portable:
            if lost or any(record.get("state_only") for record in records) or any("problem" in one for one in portable):
                return False
            return bool((await backend.write_portable(portable)).run_ids)
    except (AttributeError, IndexError, KeyError, LensError, TypeError, ValueError):
        return False
