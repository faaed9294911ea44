"""`FileBackend`: the contract on a folder of JSON files, one a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import tzinfo
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.state.backends.base import JSONObject, Position
from flujo_lens.state.backends.file_folder import Folder
from flujo_lens.state.backends.file_runs import Pick, Snapshot
from flujo_lens.state.backends.reading import ReadingBackend
from flujo_lens.state.matching import needs_details
from flujo_lens.state.timestamps import local_zone
from flujo_lens.state.views import Evaluation, Page, RunDetail, RunFilter, RunSummary, Span, SystemEntry

if TYPE_CHECKING:
    from flujo_lens.state.figures import SpanStats

__all__ = ["FileBackend", "folder_of_uri"]

T = TypeVar("T")
_BATCH = 200


def folder_of_uri(uri: str) -> Path:
    """The folder of ``file:///absolute/folder`` or a bare path."""
    from urllib.parse import unquote

    if not uri.lower().startswith("file://"):
        return Path(uri)
    rest = uri[len("file://") :].partition("?")[0]
    return Path(unquote(rest.removeprefix("localhost") if rest.startswith("localhost/") else rest))


class FileBackend(ReadingBackend):
    """Keeps states in a folder, one JSON file a run, as the library's own backend of this name does.

    A file is a run if it is named ``*.json`` and holds a JSON object that is a state; the run id inside
    counts, else the file's name. A file that does not parse is a run of the status ``unreadable``. What else
    lies in the folder is passed over. Such a store has no history apart from the states: no spans,
    evaluations or system state.

    Reading never writes into the folder. What a list needs of every file is kept in an index in the user's
    cache directory (see `flujo_lens.state.backends.file_index`), which may be deleted at any time.

    Args:
        path: The folder; made by the first save if it is missing.
        zone: How naive local times of old files are read; None for this machine's zone.
        timeout: Seconds to wait for a lock; nothing here takes one.
        cache_dir: Where the index is kept; None for the user's cache directory.

    Raises (from any method):
        StoreNotFoundError: there is no such folder (when listing).
        NotAStoreError: it is no folder, or holds files of which not one is a run.
        UnreachableStoreError: it may not be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        zone: tzinfo | None = None,
        timeout: float = 10.0,
        cache_dir: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self._folder = Folder(self.path, zone or local_zone(), cache_dir)

    @classmethod
    def from_uri(cls, uri: str, *, timeout: float = 10.0, zone: tzinfo | None = None) -> FileBackend:
        """The backend for a ``file:`` URI or a path."""
        return cls(folder_of_uri(uri), timeout=timeout, zone=zone)

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        """Return ``work(stop)``, done on a thread; `stop` is set when the caller is cancelled."""
        stop = threading.Event()
        task = asyncio.ensure_future(asyncio.to_thread(work, stop))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise

    async def shutdown(self) -> None:
        """Let go of what is kept in memory."""
        self._folder.close()

    # --- what applications call

    async def save_state(self, run_id: str, state: JSONObject) -> None:
        """Save the state in place of the one before; when this returns, it survives the death of the machine.

        Raises:
            ReadOnlyStoreError: the folder may not be written.
            OperationFailedError: it cannot be written; the state before is intact.
            TypeError: the state holds what JSON has no form for.
        """
        await self._run(lambda _: self._folder.save(run_id, state))

    async def load_state(self, run_id: str) -> JSONObject | None:
        """Return the saved state, or None; also if there is no folder yet.

        Raises:
            CorruptStoreError: the run's file does not parse.
        """
        return await self._run(lambda stop: self._folder.load(run_id, stop))

    async def delete_state(self, run_id: str) -> None:
        """Delete the files of a run, which are all there is of it.

        Raises:
            ReadOnlyStoreError: a file may not be removed.
        """
        await self._run(lambda stop: self._folder.delete(run_id, stop))

    async def list_states(self, status: str | None = None) -> list[JSONObject]:
        """Return all states (whose own status is `status`), the last saved first."""
        return await self._run(lambda stop: self._folder.states(status, stop))

    async def get_trace(self, run_id: str) -> Any:
        """Return None: files hold no traces."""
        return None

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[JSONObject]:
        """Return no spans: files hold none."""
        return []

    async def list_evaluations(self, limit: int = 20, run_id: str | None = None) -> list[JSONObject]:
        """Return no evaluations: files hold none."""
        return []

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
        snapshot = self._snapshot(stop)
        picks = snapshot.select(wanted, after, reverse)
        return snapshot, sorted(picks, reverse=not reverse) if ordered else picks

    def _snapshot(self, stop: threading.Event) -> Snapshot:
        with self._folder.opened() as folder:
            return self._folder.snapshot(folder, stop)

    async def query_runs(
        self, wanted: RunFilter, *, after: Position | None = None, limit: int = 50, reverse: bool = False
    ) -> Page[RunSummary]:
        """Return one page; of the runs on it alone the files are read in full."""
        return await self._run(lambda stop: self._folder.page(wanted, after, limit, reverse, stop))

    async def count_runs(self, wanted: RunFilter) -> int:
        """Return how many runs `wanted` admits."""
        if needs_details(wanted):
            return await super().count_runs(wanted)
        _, picks = await self._run(lambda stop: self._select(stop, wanted, None, False, False))
        return len(picks)

    async def find_run_ids(self, prefix: str, limit: int = 10) -> list[str]:
        """Return run ids that begin with `prefix`, in order."""
        snapshot = await self._run(self._snapshot)
        return nsmallest(limit, (run_id for run_id in snapshot.row_of if run_id.startswith(prefix)))

    async def read_run(self, run_id: str) -> RunDetail | None:
        """Return all about one run, or None. Its background tasks can be in any file."""
        return await self._run(lambda stop: self._folder.detail(run_id, stop))

    async def read_spans(self, run_id: str) -> Sequence[Span]:
        """Return no spans: files hold none."""
        return ()

    async def read_span_stats(self, wanted: RunFilter) -> tuple[SpanStats, ...]:
        """Return nothing: files hold no spans."""
        return ()

    async def read_evaluations(self, run_id: str | None = None, limit: int = 50) -> Sequence[Evaluation]:
        """Return no evaluations: files hold none."""
        await self._run(self._folder.check)
        return ()

    async def read_system_state(self) -> Sequence[SystemEntry]:
        """Return no keys: files hold none."""
        await self._run(self._folder.check)
        return ()

    async def read_facts(self) -> Mapping[str, Any]:
        """Return ``size_bytes``, ``last_write_at`` (the newest update of a run) and ``notes``."""
        return await self._run(self._folder.facts)
