"""Runs out of the rows of a store, by the rules that all drivers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.port import CHILD_KINDS, ListedRun, ListsRuns, RunRow, Transaction, provided
from flujo_lens.state.backends.core.run_codec import RunCodec, history_facts
from flujo_lens.state.completed_runs import summarise_completed_documents
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
        await self._put_history(tx, [raw for raw in found if asks(raw)])
        return found

    async def _put_history(self, tx: Transaction, raws: Sequence[interpret.RawRun]) -> None:
        if not raws:
            return
        ids = [raw.run_id for raw in raws]
        spans, steps = await self._rows_by_run(tx, "span", ids), await self._rows_by_run(tx, "step", ids)
        for raw in raws:
            history_facts(raw, spans.get(raw.run_id, ()), steps.get(raw.run_id, ()))

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
        found, raws = dict[str, RunSummary](), list[interpret.RawRun]()
        for row in rows:
            if row.unreadable:
                found[row.run_id] = _unreadable(row)
                continue
            state, run = self._codec.parsed(row)
            quick = summarise_completed_documents(row.run_id, state, run, self._codec.zone) if state else None
            if quick is not None and not row.problems:
                found[row.run_id] = quick
            else:
                raws.append(self._codec.raw_of(row.run_id, state, run, row.problems))
        await self._put_history(tx, [raw for raw in raws if _needs_history(raw)])
        found |= {raw.run_id: interpret.summarise(raw, self._codec.zone) for raw in raws}
        return [found[row.run_id] for row in rows]

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
        async for page in self.pages(tx, wanted, after, reverse, limit):
            for run in page:
                yield run

    async def pages(
        self,
        tx: Transaction,
        wanted: RunFilter,
        after: tuple[int, str] | None,
        reverse: bool,
        limit: int | None = None,
    ) -> AsyncGenerator[list[RunSummary], None]:
        """Yield the runs of `selected` as they are read, many at once.

        One who does not read to the end closes it: a generator that is dropped costs its event loop a task.
        """
        if (quick := provided(tx, ListsRuns)) is not None:
            async with aclosing(quick.listed(wanted, after, reverse, limit)) as listed:
                async for found in listed:
                    yield _admitted(wanted, await self._summaries_of(tx, found))
            return
        size = _BATCH if limit is None else max(1, min(limit, _BATCH))
        batch: list[RunRow] = []
        async for row in tx.scan(wanted, after, reverse, limit if wanted == _NO_FILTER else None):
            batch.append(row)
            if len(batch) >= size:
                yield _admitted(wanted, await self.summaries(tx, batch))
                batch = []
        yield _admitted(wanted, await self.summaries(tx, batch))

    async def _summaries_of(self, tx: Transaction, found: Sequence[ListedRun]) -> list[RunSummary]:
        made: list[RunSummary | interpret.RawRun] = [
            run if isinstance(run, RunSummary) else self._raw_with(run, history) for run, history in found
        ]
        lacking = [
            raw
            for raw, (run, history) in zip(made, found, strict=True)
            if isinstance(raw, interpret.RawRun) and history is None and _needs_history(raw)
        ]
        await self._put_history(tx, lacking)
        return [run if isinstance(run, RunSummary) else interpret.summarise(run, self._codec.zone) for run in made]

    def _raw_with(
        self, run: RunRow | interpret.RawRun, history: tuple[list[JSONObject], list[JSONObject]] | None
    ) -> interpret.RawRun:
        raw = self._codec.raw(run) if isinstance(run, RunRow) else self._codec.opened_raw(run)
        if history is not None and _needs_history(raw):
            shown = self._codec.shown_row
            spans, steps = (
                [shown(kind, raw.run_id, row) for row in rows]
                for kind, rows in zip(("span", "step"), history, strict=True)
            )
            history_facts(raw, spans, steps)
        return raw


def _admitted(wanted: RunFilter, runs: list[RunSummary]) -> list[RunSummary]:
    return runs if wanted == _NO_FILTER else [run for run in runs if matches(wanted, run)]


def _unreadable(row: RunRow) -> RunSummary:
    run = interpret.unreadable(row.run_id, row.problems[0], row.changed_at)
    return run._replace(problems=row.problems)


def _index_needs_history(raw: interpret.RawRun) -> bool:
    """Whether spans name the pipeline, or a failed step decides between failed and cancelled."""
    return interpret.named(raw)[0] == "unknown" or (raw.state_status == "failed" and raw.run_status == "completed")


def _needs_history(raw: interpret.RawRun) -> bool:
    """Whether spans or steps tell something of a run that its documents may not: name, error, where it stands."""
    statuses = (raw.state_status, raw.run_status)
    if statuses == ("completed", "completed") and raw.run_name not in interpret.NAMELESS:
        return False  # as most are
    if statuses == ("failed", "failed") and interpret.tells_failure(raw):
        return _index_needs_history(raw)
    return _index_needs_history(raw) or "failed" in statuses or raw.state_status in ("running", "paused", None)
