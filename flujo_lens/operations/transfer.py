"""Moving runs into a store: from another store, or from a file. Constant memory, run by run whole or not at all.

A run whose digest is equal in the target is left as it is, whatever is to be done with conflicts. So the same command
goes on where an interrupted one stopped.
"""

from __future__ import annotations

from asyncio import CancelledError, create_task
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flujo_lens.errors import (
    BusyError,
    LensError,
    NotAStoreError,
    NotSupportedError,
    OperationFailedError,
    ReadOnlyStoreError,
    SchemaError,
    StoreNotFoundError,
    UnreachableStoreError,
)
from flujo_lens.operations.change_report import Recorder, Report, error_code
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.portable_parts import PortableParts, Selected
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.record_spool import RecordSpool, SpoolsRecords
from flujo_lens.state.portable import digests_of
from flujo_lens.state.views import RunFilter

CONFLICTS = ("fail", "skip", "replace")
"""What is done with a run that exists in the target and differs."""

MOST_NAMED = 10_000
"""Runs that are named in the audit log and in the result."""

_GROUP_BYTES, _GROUP_RUNS = 4 << 20, 200

Groups = AsyncIterator[RecordSpool]
"""The records of some whole runs at a time; who is handed a group closes it."""


class Target(NamedTuple):
    """What is known of a target before anything is written.

    Attributes:
        exists: Whether the store exists.
        runs: Its number of runs.
    """

    exists: bool
    runs: int


async def look_at(backend: StateBackend) -> Target:
    """Look at a target, which may not exist yet.

    Raises:
        NotAStoreError: there is something else.
    """
    try:
        return Target(True, await backend.count_runs(RunFilter()))
    except StoreNotFoundError:
        return Target(False, 0)
    except NotAStoreError as error:
        if error.to_dict().get("empty"):
            return Target(False, 0)
        raise


async def groups_of(backend: StateBackend, wanted: RunFilter) -> Groups:
    """Yield the runs of a store, the oldest first, some megabytes at a time; each group is the caller's to close.

    While the caller does something with one, the next one is read.
    """
    async with aclosing(_groups(backend, wanted)) as groups:  # type: ignore[type-var]
        ahead = create_task(anext(groups, None))
        try:
            while (group := await ahead) is not None:
                ahead = create_task(anext(groups, None))
                yield group
        finally:
            ahead.cancel()
            with suppress(CancelledError, Exception):
                if (unused := await ahead) is not None:
                    unused.close()


async def _groups(backend: StateBackend, wanted: RunFilter) -> Groups:
    waiting: list[str] = []
    size = 20
    async with aclosing(backend.portable_ids(wanted)) as ids:  # type: ignore[type-var]
        async for run_id in ids:
            waiting.append(run_id)
            if len(waiting) >= size:
                group = await spooled(backend, waiting)
                size = max(1, min(_GROUP_RUNS, _GROUP_BYTES * len(waiting) // max(group.size, 1)))
                waiting = []
                yield group
    if waiting:
        yield await spooled(backend, waiting)


async def spooled(backend: StateBackend, run_ids: Sequence[str]) -> RecordSpool:
    """The records of these runs, those that there are."""
    if isinstance(backend, SpoolsRecords):
        return await backend.spool_portable(run_ids)
    group = RecordSpool()
    try:
        async for record in backend.read_portable(run_ids):
            group.add(record)
    except BaseException:
        group.close()
        raise
    return group


@dataclass(slots=True)
class Transferred:
    """What was moved.

    Attributes:
        matched: Number of runs to move.
        dry_run: Whether nothing was changed.
        audit_id: The entry in the audit log of the target.
        run_ids: The runs that were written, the first `MOST_NAMED`.
        done: Number of runs that were written, or would be.
        replaced: Of these, those that existed and differed.
        unchanged: Number of runs that the target had already.
        conflicts: Number of runs that exist and differ, and were skipped.
        failed: Runs that could not be moved, with the reasons.
        verified: Number of runs whose digests in both stores were compared, at the end of a write or without one.
        lost: What the target cannot hold: numbers by description.
    """

    matched: int
    dry_run: bool = False
    audit_id: str | None = None
    run_ids: list[str] = field(default_factory=list)
    done: int = 0
    replaced: int = 0
    unchanged: int = 0
    conflicts: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    verified: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        """Number of processed runs."""
        return self.done + self.unchanged + self.conflicts + len(self.failed)

    def document(self) -> dict[str, Any]:
        """The report for ``-o json``."""
        left = self.done if self.dry_run else max(0, self.matched - self.seen)
        skipped = self.unchanged + self.conflicts
        done = 0 if self.dry_run else self.done
        report = Report(self.matched, done, skipped, len(self.failed), left, self.dry_run, self.audit_id)
        return report.document() | {
            "replaced": self.replaced,
            "unchanged": self.unchanged,
            "conflicts": self.conflicts,
            "verified": self.verified,
            "lost": dict(self.lost),
            "errors": self.failed,
        }


class Transfer:
    """Writes groups of runs into a store.

    Args:
        target: The store.
        parts: What of the runs is moved.
        into: What is known of the target.
        on_conflict: One of `CONFLICTS`.
        verify: Whether each run is read again after it was written, and its digest compared. Those that the target
            has already are read and compared in any case; they count as verified then.
        done: What was moved, which is updated.
    """

    def __init__(
        self,
        target: StateBackend,
        parts: PortableParts,
        into: Target,
        done: Transferred,
        *,
        on_conflict: str = "fail",
        verify: bool = False,
    ) -> None:
        self._target, self._parts, self._done = target, parts, done
        self._is_empty = not into.runs
        self._on_conflict, self._verifies = on_conflict, verify
        self._manifests: set[str] = set()

    async def put(self, group: RecordSpool) -> None:
        """Write the runs of a group.

        Raises:
            OperationFailedError: a run exists in the target and differs, and that was not to be ignored. The other runs
                of the group are not written, those of earlier groups are.
            LensError: the target cannot be written.
        """
        with group, self._parts.applied(group, self._done.lost) as runs:
            await self._put_group(runs)

    async def _put_group(self, runs: RecordSpool) -> None:
        ids, problems = await self._looked_through(runs)
        self._done.failed |= problems
        new = [run_id for run_id in ids if run_id not in problems]
        there = {} if self._is_empty else await self._digests(new)
        compared = new if self._verifies and not self._done.dry_run else there
        digests = digests_of(Selected(runs, compared)) if compared else {}
        same = {run_id for run_id, digest in there.items() if digest == digests[run_id]}
        self._done.unchanged += len(same)
        if self._verifies and not self._done.dry_run:
            self._done.verified += len(same)
        differing = [run_id for run_id in new if run_id in there and run_id not in same]
        replaced = self._decided(differing)
        await self._write(runs, [run_id for run_id in new if run_id not in there], digests)
        await self._write(runs, replaced, digests, replace=True)

    async def _looked_through(self, runs: RecordSpool) -> tuple[list[str], dict[str, str]]:
        """The runs, and why some cannot be moved. Manifests are stored."""
        problems: dict[str, str] = {}
        manifests: dict[str, Any] = {}
        ids: dict[str, None] = {}
        for record in runs:
            ids[record["run_id"]] = None
            if "problem" in record:
                problems.setdefault(record["run_id"], record["problem"])
            if "manifest_document" in record and record["manifest"] not in self._manifests:
                manifests[record["manifest"]] = record["manifest_document"]
        if not self._done.dry_run:
            for digest, manifest in manifests.items():
                self._manifests.add(digest)
                with suppress(NotSupportedError):
                    await self._target.put_manifest(digest, manifest)
        return list(ids), problems

    async def _digests(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The digests of those of these runs that the target has."""
        if not run_ids:
            return {}
        with await spooled(self._target, run_ids) as found:
            return digests_of(found)

    def _decided(self, differing: Sequence[str]) -> list[str]:
        """Those of the runs that exist and differ that are replaced."""
        if self._on_conflict == "replace":
            return list(differing)
        if differing and self._on_conflict == "fail" and not self._done.dry_run:
            raise OperationFailedError(
                f"run {differing[0]} exists in the target, and differs; "
                + (f"{self._done.done:,} runs were written before it" if self._done.done else "nothing was changed"),
                hint="--on-conflict skip leaves such runs as they are in the target\n"
                "--on-conflict replace takes those of the source; --dry-run counts them",
                run_id=differing[0],
            )
        self._done.conflicts += len(differing)
        return []

    async def _write(
        self, runs: RecordSpool, run_ids: Sequence[str], digests: dict[str, str], *, replace: bool = False
    ) -> None:
        if not run_ids:
            return
        written = list(run_ids) if self._done.dry_run else await self._written(runs, run_ids, replace)
        if self._verifies and not self._done.dry_run:
            written = await self._verified(written, digests)
        self._done.done += len(written)
        self._done.replaced += len(written) if replace else 0
        self._done.run_ids += written[: max(0, MOST_NAMED - len(self._done.run_ids))]

    async def _written(self, runs: RecordSpool, run_ids: Sequence[str], replace: bool) -> list[str]:
        """Write runs together; if the target cannot take one of them, one by one."""
        try:
            return await self._put(runs, run_ids, replace)
        except (BusyError, ReadOnlyStoreError, UnreachableStoreError, NotSupportedError):
            raise
        except (LensError, ValueError, TypeError) as error:
            first = error
        written: list[str] = []
        failed: dict[str, str] = {}
        for run_id in run_ids:
            try:
                written += await self._put(runs, [run_id], replace)
            except (SchemaError, OperationFailedError, ValueError, TypeError) as error:
                failed[run_id] = error.message if isinstance(error, LensError) else str(error)
        if not written and isinstance(first, LensError) and not isinstance(first, SchemaError):
            raise first  # it is the store that fails, not a run
        self._done.failed |= failed
        return written

    async def _put(self, runs: RecordSpool, run_ids: Collection[str], replace: bool) -> list[str]:
        restored = await self._target.write_portable(Selected(runs, run_ids), replace=replace)
        self._done.conflicts += len(restored.existing)  # saved by another process in the meantime
        return list(restored.run_ids)

    async def _verified(self, run_ids: Sequence[str], digests: dict[str, str]) -> list[str]:
        found = await self._digests(run_ids)
        differing = [run_id for run_id in run_ids if found.get(run_id) != digests[run_id]]
        self._done.verified += len(run_ids)
        self._done.failed |= dict.fromkeys(differing, "its digest differs after it was written")
        return [run_id for run_id in run_ids if run_id not in differing]


async def transfer(
    target: StateBackend,
    groups: Groups,
    writing: Transfer,
    done: Transferred,
    recorder: Recorder | None,
    *,
    verb: str = "copied",
    stop: Stop | None = None,
    progress: Callable[[int], None] | None = None,
) -> Transferred:
    """Move groups of runs into a store, after writing an audit entry there.

    Args:
        target: The store.
        groups: The runs.
        writing: Writes them.
        done: What is updated, and returned.
        recorder: Records the change; None for a dry run.
        verb: The name of the numbers in the audit log.
        stop: When to stop early; checked after each group.
        progress: Called after each group with the number of processed runs.

    Raises:
        LensError: as for `Transfer.put`; the log cannot be written, and nothing was changed.
    """
    if recorder is not None:
        recorder.log.check()
        counts = {"planned": done.matched}
        done.audit_id = recorder.log.append(
            command=recorder.command, reason=recorder.reason, counts=counts, run_ids=(), state="started"
        )
    try:
        async with aclosing(groups):  # type: ignore[type-var]
            async for group in groups:
                await writing.put(group)
                if progress is not None:
                    progress(done.seen)
                if stop and done.seen < done.matched:
                    break
    except BaseException as error:
        _tell_end(recorder, done, verb, error)
        raise
    _tell_end(recorder, done, verb)
    return done


def _tell_end(recorder: Recorder | None, done: Transferred, verb: str, error: BaseException | None = None) -> None:
    """Write the second audit entry, with the result; with the ids unless there are very many."""
    if recorder is None:
        return
    counts = {verb: done.done, "replaced": done.replaced, "skipped": done.conflicts, "failed": len(done.failed)}
    with suppress(LensError):
        recorder.log.append(
            command=recorder.command, reason=recorder.reason, closes=done.audit_id,
            counts={what: count for what, count in counts.items() if count or what == verb},
            run_ids=done.run_ids if done.done <= MOST_NAMED else (),
            error=None if error is None else error_code(error),
        )  # fmt: skip
