"""What `FileBackend` reads, in the application's words and in the operators'."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.core.application_reads import ReadingBackend, empty_if_missing
from flujo_lens.state.backends.core.rows import extras_of
from flujo_lens.state.backends.core.validation import (
    LONGEST_PAGE,
    asked_id,
    check_key,
    check_page,
    check_prefix,
    check_text,
)
from flujo_lens.state.backends.file.folder import Folder
from flujo_lens.state.backends.file.index.run_selection import Pick, Snapshot
from flujo_lens.state.filtering import needs_details
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding
    from flujo_lens.state.statistics import SpanStats

__all__ = ["FileReads"]

T = TypeVar("T")
_BATCH = 200


class FileReads(ReadingBackend):
    """The reading half of `FileBackend`. It writes nothing, and needs none of what writes."""

    _folder: Folder

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        """Return ``work(stop)``; `stop` is set when the caller is cancelled."""
        raise NotImplementedError

    # --- what applications call

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, times as texts, or None; also if there is no folder yet.

        Raises:
            CorruptStoreError: the run's file does not parse.
            SealedStateError: it is encrypted, and the key is not here.
            InvalidStateError: it does not fit the model that states are checked against.
        """
        asked_id(run_id)
        found = await self._run(lambda stop: self._folder.load(run_id, stop))
        if found is not None:
            self._folder.codec.check(found)
        return found

    @empty_if_missing(list[JSONObject])
    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all states (whose own status is `status`), the last saved first."""
        check_text(status, "status")
        return await self._run(lambda stop: self._folder.states(status, stop))

    @empty_if_missing(list[JSONObject])
    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return spans in the order of their start.

        Raises:
            SealedStateError: their attributes are encrypted, and the key is not here.
        """
        asked_id(run_id)
        from flujo_lens.state.backends.file.format import histories

        history = await self._run(lambda stop: histories.history_of(self._folder, run_id, stop))
        if history is not None and history.closed_spans:
            raise next(iter(history.closed_spans.values()))
        spans = history.spans.values() if history else ()
        admitted = [span for span in spans if status in (None, span["status"]) and name in (None, span["name"])]
        return sorted(admitted, key=lambda span: (span["start_time"] is None, span["start_time"] or 0.0))

    @empty_if_missing(lambda: None)
    async def get_system_state(self, key: str) -> JSONObject | None:
        """Return a global key with its value, or None; also if there is no folder yet."""
        check_key(key)
        from flujo_lens.state.backends.file.format import histories

        return await self._run(lambda stop: histories.system_value(self._folder, key, stop))

    # --- what operators read

    async def iter_runs(
        self,
        wanted: RunFilter,
        *,
        after: Position | None = None,
        reverse: bool = False,
        ordered: bool = True,
        details: bool = True,
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that `wanted` admits, of those that were there at the first step."""
        snapshot, picks = await self._run(lambda stop: self._select(stop, wanted, after, reverse, ordered))
        if not (details or needs_details(wanted)):
            for run in snapshot.light(picks):
                yield run
            return
        for at in range(0, len(picks), _BATCH):
            read = partial(self._folder.batch, snapshot, picks[at : at + _BATCH], wanted)
            for run in await self._run(read):
                yield run

    def _select(
        self, stop: threading.Event, wanted: RunFilter, after: Position | None, reverse: bool, ordered: bool
    ) -> tuple[Snapshot, list[Pick]]:
        snapshot = self._folder.current(stop)
        picks = snapshot.select(wanted, after, reverse)
        return snapshot, sorted(picks, reverse=not reverse) if ordered else picks

    async def query_runs(
        self, wanted: RunFilter, *, after: Position | None = None, limit: int = 50, reverse: bool = False
    ) -> Page[RunSummary]:
        """Return one page; of the runs on it alone the files are read in full."""
        check_page(limit)
        most = min(limit, LONGEST_PAGE)
        return await self._run(lambda stop: self._folder.page(wanted, after, most, reverse, stop))

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits."""
        if needs_details(wanted):
            return await super().count_runs(wanted)
        _, picks = await self._run(lambda stop: self._select(stop, wanted, None, False, False))
        return len(picks)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`, in order."""
        check_prefix(prefix, limit)
        snapshot = await self._run(self._folder.current)
        return nsmallest(limit, (run_id for run_id in snapshot.row_of if run_id.startswith(prefix)))

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None. Its background tasks can be in any file."""
        asked_id(run_id)
        return await self._run(lambda stop: self._folder.detail(run_id, stop))

    async def read_summaries(self, run_ids: Sequence[str]) -> Sequence[RunSummary]:
        """Return the runs with these ids, with details, in their order."""
        return await self._run(lambda stop: self._folder.summaries(run_ids, stop))

    async def read_extras(self, run_ids: Sequence[str], *, contexts: bool = False) -> Mapping[str, JSONObject]:
        """Return what states and histories of these runs hold beyond a summary.

        Raises:
            SealedStateError: with `contexts`, one is encrypted, and the key is not here.
        """
        sources = await self._run(lambda stop: self._folder.sources(run_ids, stop))
        for history in [source.history for source in sources if contexts and source.history]:
            closed = history.closed_run.get("final_context") or history.closed_run.get("")
            if closed:
                raise closed
        left_out = () if contexts else ("final_context",)
        found = {
            source.run_id: extras_of(
                source.document.state if source.document else None, source.history.run if source.history else None
            )
            for source in sources
        }
        return {run_id: {k: v for k, v in row.items() if k not in left_out} for run_id, row in found.items()}

    async def read_step_extras(self, run_id: str) -> Mapping[tuple[int | None, str], JSONObject]:
        """Return the rows of the steps of a run.

        Raises:
            SealedStateError: what is in one is encrypted, and the key is not here.
        """
        from flujo_lens.state.backends.file.format import histories

        history = await self._run(lambda stop: histories.history_of(self._folder, run_id, stop))
        if history is None:
            return {}
        if history.closed_steps:
            raise next(iter(history.closed_steps.values()))
        return {(step.get("step_index"), step.get("step_name", "unknown")): step for step in history.steps}

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return the spans of a run as trees."""
        asked_id(run_id)
        from flujo_lens.state.backends.file.format import histories

        history = await self._run(lambda stop: histories.history_of(self._folder, run_id, stop))
        return tuple(histories.spans_of(history))

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return counts and durations of spans by name; of runs with spans alone the files are read."""
        from flujo_lens.state.backends.file.format import histories

        return await self._run(lambda stop: histories.span_stats(self._folder, wanted, stop))

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return evaluations, newest first."""
        check_page(limit)
        from flujo_lens.state.backends.core.fallbacks import evaluation_of
        from flujo_lens.state.backends.file.format import histories

        rows = await self._run(lambda stop: histories.evaluations(self._folder, run_id, limit, stop))
        return tuple(map(evaluation_of, rows))

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return all global keys, in order."""
        from flujo_lens.state.backends.file.format import histories

        return tuple(await self._run(lambda stop: histories.system_entries(self._folder, stop)))

    async def read_facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes``, ``last_write_at`` (the newest update of a run) and ``notes``."""
        return await self._run(self._folder.facts)

    async def check(self, now: datetime, silent_after: timedelta, *, full: bool = False) -> Sequence[Finding]:
        """Look for what is wrong with the folder; unless `full`, histories by their ends."""
        from flujo_lens.state.backends.file.upkeep.check import check
        from flujo_lens.state.maintenance import silent_finding
        from flujo_lens.state.stale_runs import silent_ids

        silent = len(await silent_ids(self, RunFilter(), now - silent_after, now))
        found = await self._run(lambda stop: check(self._folder, stop, full=full))
        return (*found, silent_finding(silent, silent_after))
