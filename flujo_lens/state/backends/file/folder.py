"""A folder of JSON files: opening it, and finding runs in it. All of it blocks."""

from __future__ import annotations

import errno
import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import (
    NAME_ANOTHER,
    RESTORE,
    CorruptStoreError,
    LensError,
    NotAStoreError,
    StoreNotFoundError,
)
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.core.rows import as_saved
from flujo_lens.state.backends.core.unreadable_states import readable
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.codec import Codec
from flujo_lens.state.backends.file.format.document import Document
from flujo_lens.state.backends.file.format.tombstones import read_graves
from flujo_lens.state.backends.file.index.cache import Catalogue
from flujo_lens.state.backends.file.index.run_selection import Pick, Reader, Snapshot, Source, in_order, instant
from flujo_lens.state.backends.file.index.state_table import Scan
from flujo_lens.state.unreachable_paths import databases_in, unreached
from flujo_lens.state.views import Page, RunDetail, RunFilter, RunSummary, StepRecord

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.format.history import History

__all__ = ["Folder", "opened"]


class Folder:
    """A folder of JSON files, one a run. Safe to use from several threads.

    Args:
        path: The folder.
        zone: The zone of naive times.
        cache_dir: Where the index of the files is kept; None for the user's cache directory.
        codec: Unseals states and histories.
    """

    def __init__(self, path: Path, zone: tzinfo, cache_dir: Path | None, codec: Codec) -> None:
        self.path, self.zone, self.codec = path, zone, codec
        self._catalogue = Catalogue(path, cache_dir, codec)
        self._last: Snapshot | None = None

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The folder, open for reading; see `opened` for the errors."""
        with opened(self.path) as folder, documents.history_folder(folder) as histories:
            yield Reader(folder, histories, self.codec)

    def close(self) -> None:
        """Let go of what is kept in memory."""
        self._catalogue.forget()
        self._last = None

    # --- the whole

    def scan(self, folder: int, stop: threading.Event) -> tuple[Scan, Snapshot]:
        """The folder as it is now.

        Raises:
            NotAStoreError: it holds files, and not one is a run.
        """
        found = self._catalogue.refresh(folder, stop)
        if found.has_history:
            _pass_over_graves(folder, found)
        snapshot = Snapshot(found, self.zone)
        if snapshot.strange and not snapshot.row_of and not found.has_history:
            raise _no_states(self.path, snapshot.strange)
        self._last = snapshot
        return found, snapshot

    def snapshot(self, folder: int, stop: threading.Event) -> Snapshot:
        """The runs of the folder as it is now; see `scan`."""
        return self.scan(folder, stop)[1]

    def last_snapshot(self, folder: int, stop: threading.Event) -> Snapshot:
        """The runs as they were at the last look; see `scan`."""
        return self._last or self.snapshot(folder, stop)

    def current(self, stop: threading.Event) -> Snapshot:
        """The runs of the folder as it is now; see `scan` and `opened`."""
        with opened(self.path) as folder:
            return self.snapshot(folder, stop)

    def facts(self, stop: threading.Event) -> dict[str, Any]:
        """Size of the store's files in bytes, the newest update of a run, and what is odd."""
        with self.reading() as reader:
            found, snapshot = self.scan(reader.folder, stop)
            beside = sum(documents.size_of(reader.folder, name) for name in (*found.leftovers, *found.blobs))
            history = sum(_sizes(reader.histories))
        sizes = zip(found.table.size, found.table.run_id, strict=True)
        states = sum(size for size, run_id in sizes if run_id is not None)
        size = states + beside + history
        return {"size_bytes": size, "last_write_at": snapshot.last_save(), "notes": _notes(found, snapshot)}

    def check(self, stop: threading.Event) -> None:
        """Raise what is wrong with the folder, if anything is."""
        with opened(self.path):
            return

    # --- states

    def load(self, run_id: str, stop: threading.Event) -> dict[str, Any] | None:
        """The state of a run, or None; also if there is no store yet.

        The file that the run's name stands for comes first, so that no other has to be looked at.

        Raises:
            CorruptStoreError: the run's file does not parse, or what is sealed in it is damaged.
            SealedStateError: it is encrypted, and the key is not here.
        """
        try:
            with self.reading() as reader:
                found = _find_by_name(reader, run_id) or self._by_scan(reader.folder, run_id, stop)
        except StoreNotFoundError:
            return None
        return None if found is None else self._whole(run_id, found)

    def _whole(self, run_id: str, found: Document) -> dict[str, Any]:
        if found.state is None:
            raise CorruptStoreError(found.problem or "", hint=RESTORE, run_id=run_id, path=str(self.path))
        return self.codec.opened(run_id, _whole_state(found))

    def _by_scan(self, folder: int, run_id: str, stop: threading.Event) -> Document | None:
        try:
            names = self.snapshot(folder, stop).files_of(run_id)
        except NotAStoreError:
            return None
        found = documents.read_document(folder, names[0], exact=True) if names else None
        return found if found is not None and found.run_id == run_id else None

    def states(self, status: str | None, stop: threading.Event) -> list[dict[str, Any]]:
        """All states that can be read (and whose own status is `status`), the last saved first."""
        found: list[tuple[datetime, dict[str, Any]]] = []
        never = datetime.min.replace(tzinfo=UTC)
        with opened(self.path) as folder:
            snapshot = self.snapshot(folder, stop)
            for run_id, at in snapshot.row_of.items():
                name = snapshot.table.name[at]
                document = documents.read_document(folder, name, exact=True) if name else None
                if document is None or document.run_id != run_id:
                    continue
                if status is not None and document.state is not None and document.state.get("status") != status:
                    continue
                state = readable(run_id, partial(self._whole, run_id, document))
                if state is not None:
                    saved = Source(run_id, document, None).summary(self.zone).updated_at
                    found.append((saved or never, {"run_id": run_id, **state}))
        found.sort(key=lambda pair: pair[0], reverse=True)
        return [state for _, state in found]

    # --- runs

    def page(
        self, wanted: RunFilter, after: Position | None, limit: int, reverse: bool, stop: threading.Event
    ) -> Page[RunSummary]:
        """One page of runs. The scan tells where the next begins, not a file that has changed since."""
        with self.reading() as reader:
            snapshot = self.snapshot(reader.folder, stop)
            picks = in_order(snapshot.select(wanted, after, reverse), reverse, limit + 1)
            found = list(islice(snapshot.detailed(reader, picks, wanted, stop), limit + 1))
        runs = tuple(run for _, run in found[:limit])
        if len(found) <= limit:
            return Page(runs)
        if not runs:
            return Page((), after)
        start, run_id, _ = found[limit - 1][0]
        return Page(runs, (instant(start), run_id))

    def batch(
        self, snapshot: Snapshot, picks: Sequence[Pick], wanted: RunFilter, stop: threading.Event
    ) -> list[RunSummary]:
        """The runs of some picks that `wanted` admits, with details."""
        with self.reading() as reader:
            return [run for _, run in snapshot.detailed(reader, picks, wanted, stop)]

    def summaries(self, run_ids: Sequence[str], stop: threading.Event) -> list[RunSummary]:
        """The runs with these ids, in their order; those that are not there are left out."""
        with self.reading() as reader:
            snapshot = self.snapshot(reader.folder, stop)
            picks = [(0, run_id, snapshot.row_of[run_id]) for run_id in run_ids if run_id in snapshot.row_of]
            return [run for _, run in snapshot.detailed(reader, picks, RunFilter(), stop)]

    def sources(self, run_ids: Sequence[str], stop: threading.Event) -> list[Source]:
        """The files of these runs; those that are not there are left out."""
        with self.reading() as reader:
            snapshot = self.snapshot(reader.folder, stop)
            known = [run_id for run_id in run_ids if run_id in snapshot.row_of]
            found = [reader.source(run_id, snapshot.table.name[snapshot.row_of[run_id]]) for run_id in known]
        return [source for source in found if source is not None]

    def detail(self, run_id: str, stop: threading.Event) -> RunDetail | None:
        """All about one run; background tasks in the order of their start."""
        with self.reading() as reader:
            snapshot = self.snapshot(reader.folder, stop)
            if run_id not in snapshot.row_of:
                return None
            source = reader.source(run_id, snapshot.table.name[snapshot.row_of[run_id]])
            if source is None:
                return None
            below = RunFilter(parent=run_id)
            picks = sorted(snapshot.select(below, None, reverse=True))
            children = tuple(run for _, run in snapshot.detailed(reader, picks, below, stop))
        return _detail(source, snapshot.completed(source.summary(self.zone)), children)


# --- what is in a folder


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder for reading.

    Raises:
        StoreNotFoundError: nothing is there.
        NotAStoreError: it is no folder.
        UnreachableStoreError: it may not be read.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield folder
        finally:
            os.close(folder)
    except OSError as error:
        raise _read_error(path, error) from error


def _find_by_name(reader: Reader, run_id: str) -> Document | None:
    """The state of a run in one of the files that its id stands for; None if none of them holds it."""
    for name in documents.names_of(run_id):
        found = None if name in reader.graves.states else documents.read_document(reader.folder, name, exact=True)
        if found is not None and found.state is not None and found.run_id == run_id:
            return found
    return None


def _whole_state(document: Document) -> dict[str, Any]:
    """The state in a file, with the run id that counts, as it was saved."""
    state = document.state or {}
    return as_saved(state if state.get("run_id") == document.run_id else {**state, "run_id": document.run_id})


def _pass_over_graves(folder: int, found: Scan) -> None:
    """Leave out the files that are as good as gone."""
    with documents.history_folder(folder) as histories:
        graves = read_graves(folder, histories)
    if not graves:
        return
    names = found.table.name
    found.table = found.table.take(at for at, name in enumerate(names) if name not in graves.states)
    if found.histories is not None:
        table = found.histories.table
        rows = (at for at, name in enumerate(table.name) if name not in graves.histories)
        found.histories = replace(found.histories, table=table.take(rows))


def _sizes(folder: int | None) -> Iterator[int]:
    for name in () if folder is None else os.listdir(folder):
        yield documents.size_of(folder or 0, name)


def _detail(source: Source, run: RunSummary, children: tuple[RunSummary, ...]) -> RunDetail:
    document, history = source.document, source.history
    if document is not None and document.state is None:
        return RunDetail(run=run, children=children, has_spans=bool(history and history.spans))
    raw = source.raw()
    rows = _rows_of(history) if history else []
    state = _whole_state(document) if document else None
    return RunDetail(
        run=run,
        steps=tuple(interpret.steps_of(raw, rows, {})),
        state=state,
        pause=interpret.pause_of(raw, run.status),
        children=children,
        final_output=None if state is None else state.get("last_step_output"),
        has_spans=bool(history and history.spans),
    )


def _rows_of(history: History) -> list[StepRecord]:
    from flujo_lens.state.backends.core.fallbacks import step_of

    return [step_of(row) for row in history.steps]


def _notes(found: Scan, snapshot: Snapshot) -> tuple[str, ...]:
    counted = (
        (snapshot.unreadable(), "files do not parse"),
        (len(found.leftovers), f"leftovers of interrupted saves (*{documents.LEFTOVER})"),
        (len(snapshot.rivals), "runs are in several files each"),
        (snapshot.strange, "files are no workflow states"),
        (found.histories.unreadable if found.histories else 0, "histories may not be read"),
    )
    return tuple(f"{count} {words}" for count, words in counted if count)


def _no_states(path: Path, files: int) -> NotAStoreError:
    """The error for a folder that holds other files alone: a database is one of them as a rule."""
    inside = databases_in(path)
    more = f"; {inside[0]} in it is an SQLite file" if inside else ""
    hint = f"lens list --store {shlex.quote(str(path / inside[0]))}" if inside else NAME_ANOTHER
    return NotAStoreError(f"{path} holds no workflow states{more}", hint=hint, path=str(path), files=files)


def _read_error(path: Path, error: OSError) -> LensError:
    if error.errno == errno.ENOTDIR and os.path.lexists(path):
        hint = NAME_ANOTHER
        return NotAStoreError(f"{path} is no folder, so it is no store of JSON files", hint=hint, path=str(path))
    return unreached(path, error)
