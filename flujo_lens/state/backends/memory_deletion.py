"""Deleting in memory, and bringing back; under the lock of everything else, so each batch goes and comes whole."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flujo_lens.errors import NotSupportedError, OperationFailedError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state import interpret
from flujo_lens.state.backends.arguments import asked_id, check_days
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.choosing import Chooser, Families, Member, families, in_batches, last_sign, why_not
from flujo_lens.state.backends.memory_durable import DurableMemory, KeptRun
from flujo_lens.state.backends.vocabulary import last_update, moment_before
from flujo_lens.state.deletion import Deleted, DeletionPlan, DeletionRequest, Keep, Record, Restored, Skipped
from flujo_lens.state.matching import matches
from flujo_lens.state.timestamps import parse_instant

__all__ = ["DeletingMemory"]

_STATE_TIMES = ("created_at", "updated_at")
_RUN_TIMES = ("created_at", "updated_at", "end_time")


class _Choice(Families):
    """The chosen runs by family; and ids of evaluations without a run."""

    def __init__(self) -> None:
        super().__init__()
        self.orphans: list[str] = []


class DeletingMemory(DurableMemory):
    """Deletion by the rules that all drivers share. Rows are what is kept: states, runs, steps, spans, evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self._evaluations: list[tuple[str, bytes]] = []
        self._cancelled: dict[str, tuple[bytes | None, bytes | None]] = {}

    def _state(self, run_id: str) -> JSONObject | None:
        raise NotImplementedError

    def _row(self, run_id: str) -> JSONObject | None:
        raise NotImplementedError

    def _raw(self, run_id: str) -> interpret.RawRun:
        raise NotImplementedError

    # --- at once

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all that hangs on it."""
        asked_id(run_id)
        with self._lock:
            self._remove({run_id})

    def _remove(self, run_ids: set[str]) -> None:
        self._forget(run_ids)
        for run_id in run_ids:
            self._cancelled.pop(run_id, None)
            self._runs.pop(run_id, None)
        self._evaluations = [(run_id, row) for run_id, row in self._evaluations if run_id not in run_ids]

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete runs that were last updated more than `days_old` days ago, whatever their status; all or none."""
        cutoff = moment_before(datetime.now(UTC), days=check_days(days_old))
        with self._lock:
            known = {run_id: last_update(*self._times(run_id)) for run_id in self._runs}
            old = {run_id for run_id, last in known.items() if last is not None and last < cutoff}
            self._remove(old)
        return len(old)

    def _times(self, run_id: str) -> tuple[list[Any], list[Any]]:
        state, row = self._state(run_id) or {}, self._row(run_id) or {}
        return [state.get(name) for name in _STATE_TIMES], [row.get(name) for name in _RUN_TIMES]

    # --- planning

    async def plan_deletion(self, asked: DeletionRequest) -> DeletionPlan:
        """Return what would be deleted now."""
        choice = _Choice()
        chooser = Chooser(asked, choice)
        with self._lock:
            members = {member.run_id: member for member in self._members(asked)}
            named = [members[run_id] for run_id in dict.fromkeys(asked.run_ids or ()) if run_id in members]
            for member in named:
                chooser.take([member])
            if asked.run_ids is None and (asked.cutoff is not None or asked.keep_last is not None):
                for family in families(members.values()):
                    chooser.offer(family)
            plan = chooser.plan(choice, len(members))
            return self._counted(plan, choice, {m.run_id for m in named if m.held})

    def _members(self, asked: DeletionRequest) -> Iterator[Member]:
        held = self._held(asked.now)
        for run_id in self._runs:
            run = interpret.summarise(self._raw(run_id))
            yield Member(
                run_id,
                run.status,
                run.pipeline_name,
                last_sign(*self._times(run_id), (UTC,), asked.now),
                started=run.created_at,
                admitted=matches(asked.wanted._replace(statuses=frozenset()), run),
                parent=run.parent_run_id,
                held=run_id in held,
            )

    def _held(self, now: datetime) -> dict[str, str]:
        return {run_id: str(claim.holder) for run_id, claim in self._claims.items() if not claim.has_ended(now)}

    def _counted(self, plan: DeletionPlan, choice: _Choice, held: set[str]) -> DeletionPlan:
        """The plan with what hangs on its runs, and on none."""
        asked = plan.request
        ids = [run_id for family in choice.all for run_id in family]
        if asked.orphans_before is not None:
            choice.orphans = self._orphans(asked.orphans_before)
        count = sum(run_id in choice.orphans for run_id, _ in self._evaluations)
        holders = self._held(asked.now)
        return replace(
            plan,
            missing=tuple(run_id for run_id in dict.fromkeys(asked.run_ids or ()) if run_id not in self._runs),
            held={run_id: holders[run_id] for run_id in holders if run_id in held},
            rows=self._rows(ids, asked),
            size_bytes=sum(map(self._size, ids)),
            orphans={"evaluations": count} if count else {},
        )

    def _rows(self, run_ids: Sequence[str], asked: DeletionRequest) -> dict[str, int]:
        """What there is of these runs, by kind."""
        kept = [self._runs[run_id] for run_id in run_ids]
        counts = {"states": sum(run.state is not None for run in kept)}
        if not asked.state_only:
            ids = set(run_ids)
            counts["runs"] = sum(run.row is not None for run in kept)
            counts["steps"] = sum(len(run.steps) for run in kept)
            counts["spans"] = sum(len(run.spans) for run in kept)
            counts["evaluations"] = sum(run_id in ids for run_id, _ in self._evaluations)
        return {kind: count for kind, count in counts.items() if count}

    def _size(self, run_id: str) -> int:
        kept = self._runs[run_id]
        parts = (kept.state or b"", kept.row or b"", *kept.steps, *kept.spans.values())
        return sum(map(len, parts)) + sum(len(row) for of, row in self._evaluations if of == run_id)

    def _orphans(self, before: datetime) -> list[str]:
        """Ids of evaluations without a run, all of which are older."""
        found: dict[str, bool] = {}
        for run_id, row in self._evaluations:
            if run_id not in self._runs:
                when = parse_instant(safe_loads(row).get("created_at"))
                found[run_id] = found.get(run_id, True) and when is not None and when < before
        return [run_id for run_id, is_old in found.items() if is_old]

    # --- deleting

    async def delete_planned(
        self, plan: DeletionPlan, *, keep: Keep | None = None, batch_size: int = 100
    ) -> AsyncIterator[Deleted]:
        """Delete what was planned; `keep` is called on another thread."""
        choice = plan.choice
        if not isinstance(choice, _Choice):
            raise NotSupportedError("this plan is not of a store in memory", hint="make it with plan_deletion")
        for families_ in in_batches(choice.all, max(1, batch_size)):
            yield await asyncio.to_thread(self._delete_batch, plan.request, families_, keep)
        if choice.orphans:
            yield await asyncio.to_thread(self._delete_orphans, choice.orphans, keep)

    def _delete_batch(self, asked: DeletionRequest, batch: Sequence[Sequence[str]], keep: Keep | None) -> Deleted:
        with self._lock:
            members = {member.run_id: member for member in self._members(asked)}
            going: list[Member] = []
            skipped: list[Skipped] = []
            for run_ids in batch:
                family = [members[run_id] for run_id in run_ids if run_id in members]
                why = why_not(asked, family, members.values()) if family else ""
                if asked.state_only and not why and not any(self._runs[member.run_id].state for member in family):
                    why = "stateless" if family else ""
                if why:
                    skipped += [Skipped(member.run_id, why) for member in family]
                else:
                    going += family
            return self._delete(asked, [member.run_id for member in going], keep)._replace(
                by_status=dict(Counter(member.status for member in going)), skipped=tuple(skipped)
            )

    def _delete(self, asked: DeletionRequest, run_ids: Sequence[str], keep: Keep | None) -> Deleted:
        rows = self._rows(run_ids, asked)
        if keep is not None and run_ids:
            keep([self._record(run_id, state_only=asked.state_only) for run_id in run_ids])
        if asked.state_only:
            for run_id in run_ids:
                self._cancel(run_id)
        else:
            self._remove(set(run_ids))
        return Deleted(tuple(run_ids), rows=rows)

    def _delete_orphans(self, run_ids: Sequence[str], keep: Keep | None) -> Deleted:
        with self._lock:
            alone = [run_id for run_id in run_ids if run_id not in self._runs]
            count = sum(run_id in alone for run_id, _ in self._evaluations)
            if keep is not None and alone:
                keep([self._record(run_id) for run_id in alone])
            self._remove(set(alone))
        return Deleted(rows={"evaluations": count} if count else {}, orphans=count)

    def _cancel(self, run_id: str) -> None:
        """Delete the state of a run; its history says that it was cancelled."""
        kept = self._runs[run_id]
        if kept.row is None:
            del self._runs[run_id]
        else:
            kept.state, kept.row = None, safe_dumps({**safe_loads(kept.row), "status": "cancelled"})

    # --- keeping, bringing back

    def _record(self, run_id: str, *, state_only: bool = False) -> Record:
        """All that there is of a run."""
        kept = self._runs.get(run_id, KeptRun())
        texts: dict[str, Any] = {
            "state": None if kept.state is None else kept.state.decode(),
            "row": None if kept.row is None else kept.row.decode(),
            "steps": [step.decode() for step in kept.steps],
            "spans": {span_id: span.decode() for span_id, span in kept.spans.items()},
            "evaluations": [row.decode() for of, row in self._evaluations if of == run_id],
            "manifest": self._manifest_of.get(run_id),
        }
        return {"run_id": run_id, "kept": texts, **({"state_only": True} if state_only else {}), "last": True}

    async def restore(self, records: Sequence[Record]) -> Restored:
        """Bring back runs, all or none."""
        if any(not isinstance(record.get("kept", record.get("cancelled")), dict) for record in records):
            raise OperationFailedError(
                "what was kept is not of a store in memory; nothing came back",
                hint="bring it back into a store of the kind that it was taken from",
            )
        with self._lock:
            done = {record["run_id"]: self._put_back(record) for record in records}
            self._evaluations.sort(key=lambda pair: str(safe_loads(pair[1]).get("created_at")))
        existing = tuple(run_id for run_id, is_back in done.items() if not is_back)
        return Restored(tuple(run_id for run_id, is_back in done.items() if is_back), existing)

    def _put_back(self, record: Record) -> bool:
        run_id = record["run_id"]
        if "cancelled" in record:
            return self._take_cancellation_back(run_id, record["cancelled"])
        texts, there = record["kept"], self._runs.get(run_id)
        if record.get("state_only"):
            return self._put_state_back(run_id, texts, there)
        if there is not None or any(of == run_id for of, _ in self._evaluations):
            return False
        if texts["state"] is not None or texts["row"] is not None:
            steps = [step.encode() for step in texts["steps"]]
            spans = {span_id: span.encode() for span_id, span in texts["spans"].items()}
            self._runs[run_id] = KeptRun(_encoded(texts["state"]), _encoded(texts["row"]), steps, spans)
        self._evaluations += [(run_id, row.encode()) for row in texts["evaluations"]]
        if texts["manifest"] is not None:
            self._manifest_of[run_id] = texts["manifest"]
        return True

    def _cancellable(self, run_id: str) -> Record:
        """What a run is before it is cancelled."""
        kept = self._runs[run_id]
        texts = {
            name: None if part is None else part.decode() for name, part in (("state", kept.state), ("row", kept.row))
        }
        return {"run_id": run_id, "cancelled": texts, "last": True}

    def _take_cancellation_back(self, run_id: str, texts: JSONObject) -> bool:
        """Make a run what it was before it was cancelled, unless it has changed since."""
        kept = self._runs.get(run_id)
        if kept is None or self._cancelled.get(run_id) != (kept.state, kept.row):
            return False
        kept.state, kept.row = _encoded(texts["state"]), _encoded(texts["row"])
        del self._cancelled[run_id]
        return True

    def _put_state_back(self, run_id: str, texts: JSONObject, there: KeptRun | None) -> bool:
        """Put a state back beside its history, which gets the status that it had."""
        kept = there or KeptRun()
        if kept.state is not None:
            return False
        kept.state = _encoded(texts["state"])
        if kept.row is not None and texts["row"] is not None:
            row, before = safe_loads(kept.row), safe_loads(texts["row"])
            kept.row = safe_dumps({**row, "status": before["status"]}) if row["status"] == "cancelled" else kept.row
        self._runs[run_id] = kept
        return True


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
