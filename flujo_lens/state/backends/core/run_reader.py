"""Runs out of the rows of a store, by the rules that all drivers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.port import CHILD_KINDS, RunRow, Transaction
from flujo_lens.state.backends.core.run_codec import RunCodec, history_facts
from flujo_lens.state.filtering import matches
from flujo_lens.state.views import RunFilter, RunSummary

_BATCH = 200
_NO_FILTER = RunFilter()


class RunReader:
    """Reads runs in a transaction.

    Args:
        codec: Opens their documents.
    """

    def __init__(self, codec: RunCodec) -> None:
        self._codec = codec

    async def raws(
        self, tx: Transaction, rows: Sequence[RunRow], *, index_only: bool = False
    ) -> list[interpret.RawRun]:
        """The runs, with what their history tells where their documents do not.

        Args:
            rows: What is stored of them.
            index_only: Whether only name, status and times are asked for.
        """
        found = [self._codec.raw(row) for row in rows]
        asks = _index_needs_history if index_only else _needs_history
        needing = [raw for raw in found if asks(raw)]
        if needing:
            ids = [raw.run_id for raw in needing]
            spans, steps = await self._rows_by_run(tx, "span", ids), await self._rows_by_run(tx, "step", ids)
            for raw in needing:
                history_facts(raw, spans.get(raw.run_id, ()), steps.get(raw.run_id, ()))
        return found

    def raw_of(self, record: Mapping[str, Any]) -> interpret.RawRun:
        """The run of a portable record that has all of it (see `flujo_lens.state.portable`)."""
        run_id = record["run_id"]
        raw = self._codec.raw_of(run_id, record["state"], record["run"])
        if _index_needs_history(raw):
            spans, steps = (
                [self._codec.shown_row(kind, run_id, dict(row)) for row in record.get(name, ())]
                for kind, name in (("span", "spans"), ("step", "steps"))
            )
            history_facts(raw, spans, steps)
        return raw

    def index_needs_history(self, row: RunRow) -> bool:
        """Whether spans or steps decide by which name or status a run is found."""
        return _index_needs_history(self._codec.raw(row))

    async def _rows_by_run(self, tx: Transaction, kind: str, ids: Sequence[str]) -> dict[str, list[JSONObject]]:
        found: dict[str, list[JSONObject]] = {}
        async for row in tx.children(kind, ids):  # type: ignore[arg-type]
            found.setdefault(row.run_id, []).append(self._codec.shown(kind, row.run_id, row.data) or {})
        return found

    async def history(self, tx: Transaction, run_id: str) -> tuple[list[JSONObject], list[JSONObject]]:
        """The spans and the steps of a run, in the order of saving."""
        spans = await self._rows_by_run(tx, "span", [run_id])
        steps = await self._rows_by_run(tx, "step", [run_id])
        return spans.get(run_id, []), steps.get(run_id, [])

    def raw_with(self, row: RunRow, spans: Sequence[JSONObject], steps: Sequence[JSONObject]) -> interpret.RawRun:
        """A run with its history."""
        raw = self._codec.raw(row)
        history_facts(raw, spans, steps)
        return raw

    async def summaries(self, tx: Transaction, rows: Sequence[RunRow]) -> list[RunSummary]:
        """The runs as operators read them."""
        readable = await self.raws(tx, [row for row in rows if not row.unreadable])
        found = {raw.run_id: interpret.summarise(raw, self._codec.zone) for raw in readable}
        return [found[row.run_id] if not row.unreadable else _unreadable(row) for row in rows]

    async def sizes(self, tx: Transaction, run_ids: Sequence[str]) -> dict[str, int]:
        """What these runs take: the bytes of their documents, and of those that belong to them."""
        rows = await tx.runs(run_ids) if run_ids else {}
        found = {run_id: len(row.state or b"") + len(row.run or b"") for run_id, row in rows.items()}
        for kind in CHILD_KINDS if rows else ():
            async for child in tx.children(kind, list(rows)):
                found[child.run_id] += len(child.data)
        return found

    async def with_tasks(self, tx: Transaction, runs: Sequence[RunSummary]) -> list[RunSummary]:
        """The runs with the number of their background tasks by status."""
        ids = await tx.tasks_of([run.run_id for run in runs])
        if not ids:
            return list(runs)
        counts: dict[str | None, Counter[str]] = {}
        for task in await self.summaries(tx, list((await tx.runs(ids)).values())):
            counts.setdefault(task.parent_run_id, Counter())[task.status] += 1
        return [run._replace(tasks=dict(counts[run.run_id])) if run.run_id in counts else run for run in runs]

    async def selected(
        self,
        tx: Transaction,
        wanted: RunFilter,
        after: tuple[int, str] | None,
        reverse: bool,
        limit: int | None = None,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, in order; more than `limit` are not asked for where that is safe."""
        size = _BATCH if limit is None else max(1, min(limit, _BATCH))
        batch: list[RunRow] = []
        async for row in tx.scan(wanted, after, reverse, limit if wanted == _NO_FILTER else None):
            batch.append(row)
            if len(batch) >= size:
                for run in await self._admitted(tx, wanted, batch):
                    yield run
                batch = []
        for run in await self._admitted(tx, wanted, batch):
            yield run

    async def _admitted(self, tx: Transaction, wanted: RunFilter, rows: Sequence[RunRow]) -> list[RunSummary]:
        return [run for run in await self.summaries(tx, rows) if matches(wanted, run)]


def _unreadable(row: RunRow) -> RunSummary:
    run = interpret.unreadable(row.run_id, row.problems[0], row.changed_at)
    return run._replace(problems=row.problems)


def _index_needs_history(raw: interpret.RawRun) -> bool:
    """Whether spans name the pipeline, or a failed step decides between failed and cancelled."""
    return interpret.named(raw)[0] == "unknown" or (raw.state_status == "failed" and raw.run_status == "completed")


def _needs_history(raw: interpret.RawRun) -> bool:
    """Whether spans or steps tell something of a run that its documents may not: name, error, where it stands."""
    statuses = (raw.state_status, raw.run_status)
    return _index_needs_history(raw) or "failed" in statuses or raw.state_status in ("running", "paused", None)
