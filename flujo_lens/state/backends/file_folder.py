"""A folder of JSON files: opening it, finding runs in it, writing. All of it blocks."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any

from flujo_lens.errors import (
    CorruptStoreError,
    LensError,
    NotAStoreError,
    OperationFailedError,
    ReadOnlyStoreError,
    StoreNotFoundError,
    UnreachableStoreError,
)
from flujo_lens.state import interpret
from flujo_lens.state.backends import file_documents as documents
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.file_documents import Document
from flujo_lens.state.backends.file_index import Catalogue
from flujo_lens.state.backends.file_runs import Pick, Snapshot, in_order, instant, summary_of
from flujo_lens.state.backends.file_table import Scan
from flujo_lens.state.views import Page, RunDetail, RunFilter, RunSummary

__all__ = ["Folder"]


class Folder:
    """A folder of JSON files, one a run. Safe to use from several threads.

    Args:
        path: The folder.
        zone: The zone of naive times.
        cache_dir: Where the index of the files is kept; None for the user's cache directory.
    """

    def __init__(self, path: Path, zone: tzinfo, cache_dir: Path | None) -> None:
        self.path, self.zone = path, zone
        self._catalogue = Catalogue(path, cache_dir)
        self._last: Snapshot | None = None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the folder for reading.

        Raises:
            StoreNotFoundError: nothing is there.
            NotAStoreError: it is no folder.
            UnreachableStoreError: it may not be read.
        """
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield folder
            finally:
                os.close(folder)
        except OSError as error:
            raise _read_error(self.path, error) from error

    def close(self) -> None:
        """Let go of what is kept in memory."""
        self._catalogue.forget()
        self._last = None

    # --- reading

    def scan(self, folder: int, stop: threading.Event) -> tuple[Scan, Snapshot]:
        """The folder as it is now.

        Raises:
            NotAStoreError: it holds files, and not one is a run.
        """
        found = self._catalogue.refresh(folder, stop)
        snapshot = Snapshot(found, self.zone)
        if snapshot.strange and not snapshot.row_of:
            raise NotAStoreError(f"{self.path} holds no workflow states", path=str(self.path), files=snapshot.strange)
        self._last = snapshot
        return found, snapshot

    def snapshot(self, folder: int, stop: threading.Event) -> Snapshot:
        """The runs of the folder as it is now; see `scan`."""
        return self.scan(folder, stop)[1]

    def load(self, run_id: str, stop: threading.Event) -> dict[str, Any] | None:
        """The state of a run, or None; also if there is no store yet.

        The file that the run's name stands for comes first, so that no other has to be looked at.

        Raises:
            CorruptStoreError: the run's file does not parse.
        """
        try:
            with self.opened() as folder:
                found = self._by_name(folder, run_id) or self._by_scan(folder, run_id, stop)
        except StoreNotFoundError:
            return None
        if found is None:
            return None
        if found.state is None:
            raise CorruptStoreError(found.problem or "", run_id=run_id, path=str(self.path))
        return _whole(found)

    def _by_name(self, folder: int, run_id: str) -> Document | None:
        for name in documents.names_of(run_id):
            found = documents.read_document(folder, name)
            if found is not None and found.state is not None and found.run_id == run_id:
                return found
        return None

    def _by_scan(self, folder: int, run_id: str, stop: threading.Event) -> Document | None:
        try:
            names = self.snapshot(folder, stop).files_of(run_id)
        except NotAStoreError:
            return None
        found = documents.read_document(folder, names[0]) if names else None
        return found if found is not None and found.run_id == run_id else None

    def states(self, status: str | None, stop: threading.Event) -> list[dict[str, Any]]:
        """All states (whose own status is `status`), the last saved first."""
        found: list[tuple[datetime, dict[str, Any]]] = []
        never = datetime.min.replace(tzinfo=UTC)
        with self.opened() as folder:
            snapshot = self.snapshot(folder, stop)
            for run_id, at in snapshot.row_of.items():
                document = documents.read_document(folder, snapshot.table.name[at])
                if document is None or document.state is None or document.run_id != run_id:
                    continue
                if status is None or document.state.get("status") == status:
                    saved = summary_of(document, self.zone).updated_at
                    found.append((saved or never, _whole(document)))
        found.sort(key=lambda pair: pair[0], reverse=True)
        return [state for _, state in found]

    def page(
        self, wanted: RunFilter, after: Position | None, limit: int, reverse: bool, stop: threading.Event
    ) -> Page[RunSummary]:
        """One page of runs. The scan tells where the next begins, not a file that has changed since."""
        with self.opened() as folder:
            snapshot = self.snapshot(folder, stop)
            picks = in_order(snapshot.select(wanted, after, reverse), reverse, limit + 1)
            found = list(islice(snapshot.detailed(folder, picks, wanted, stop), limit + 1))
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
        with self.opened() as folder:
            return [run for _, run in snapshot.detailed(folder, picks, wanted, stop)]

    def detail(self, run_id: str, stop: threading.Event) -> RunDetail | None:
        """All about one run; background tasks in the order of their start."""
        with self.opened() as folder:
            snapshot = self.snapshot(folder, stop)
            names = snapshot.files_of(run_id)
            found = documents.read_document(folder, names[0]) if names else None
            if found is None or found.run_id != run_id:
                return None
            below = RunFilter(parent=run_id)
            picks = sorted(snapshot.select(below, None, reverse=True))
            children = tuple(run for _, run in snapshot.detailed(folder, picks, below, stop))
        return _detail(found, snapshot.completed(summary_of(found, self.zone)), children)

    def facts(self, stop: threading.Event) -> dict[str, Any]:
        """Size of the store's files in bytes, the newest update of a run, and what is odd."""
        with self.opened() as folder:
            found, snapshot = self.scan(folder, stop)
            beside = (documents.size_of(folder, name) for name in (*found.leftovers, *found.blobs))
            sizes = zip(found.table.size, found.table.run_id, strict=True)
            size = sum(size for size, run_id in sizes if run_id is not None) + sum(beside)
        return {"size_bytes": size, "last_write_at": snapshot.last_save(), "notes": _notes(found, snapshot)}

    def check(self, stop: threading.Event) -> None:
        """Raise what is wrong with the folder, if anything is."""
        with self.opened():
            return

    # --- writing

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _write_error(self.path, error) from error

    def save(self, run_id: str, state: dict[str, Any]) -> None:
        """Write the state of a run; makes the folder if it is missing.

        Raises:
            ReadOnlyStoreError: it may not be written.
            OperationFailedError: it cannot be written (no space).
        """
        data = documents.encode_state(run_id, state)
        with self._changing():
            self.path.mkdir(parents=True, exist_ok=True)
        with self.opened() as folder, self._changing():
            documents.write_document(folder, self._free_name(folder, run_id), data)

    def _free_name(self, folder: int, run_id: str) -> str:
        """The first of the run's names that no other run, and nothing else, has taken."""
        for name in documents.names_of(run_id):
            found = documents.read_document(folder, name)
            own = found is not None and (found.run_id == run_id or found.state is None)
            if own or documents.is_free(folder, name):
                return name
        raise OperationFailedError(
            f"every file name for the run is taken by something else in {self.path}", run_id=run_id
        )

    def delete(self, run_id: str, stop: threading.Event) -> None:
        """Remove every file that holds the run. A run without one, and a missing folder, are no error.

        Files of other names are those that the last look at the folder knows, so that deleting many runs
        does not look at all files for each.

        Raises:
            ReadOnlyStoreError: a file may not be removed.
        """
        try:
            with self.opened() as folder:
                names = (*documents.names_of(run_id), *self._known_files(folder, run_id, stop))
                for name in dict.fromkeys(names):
                    found = documents.read_document(folder, name)
                    if found is not None and found.run_id == run_id:
                        with self._changing():
                            documents.remove_document(folder, name)
        except StoreNotFoundError:
            return

    def _known_files(self, folder: int, run_id: str, stop: threading.Event) -> list[str]:
        try:
            return (self._last or self.snapshot(folder, stop)).files_of(run_id)
        except NotAStoreError:
            return []


def _whole(document: Document) -> dict[str, Any]:
    """The state in a file, with the run id that counts."""
    state = document.state or {}
    return state if state.get("run_id") == document.run_id else {**state, "run_id": document.run_id}


def _detail(document: Document, run: RunSummary, children: tuple[RunSummary, ...]) -> RunDetail:
    if document.state is None:
        return RunDetail(run=run, children=children)
    raw = interpret.raw_from_documents(document.run_id, document.state)
    return RunDetail(
        run=run,
        steps=tuple(interpret.steps_of(raw, (), {})),
        state=_whole(document),
        pause=interpret.pause_of(raw, run.status),
        children=children,
        final_output=raw.read("last_output"),
    )


def _notes(found: Scan, snapshot: Snapshot) -> tuple[str, ...]:
    counted = (
        (snapshot.unreadable(), "files do not parse"),
        (len(found.leftovers), f"leftovers of interrupted saves (*{documents.LEFTOVER})"),
        (len(snapshot.rivals), "runs are in several files each"),
        (snapshot.strange, "files are no workflow states"),
    )
    return tuple(f"{count} {words}" for count, words in counted if count)


def _read_error(path: Path, error: OSError) -> LensError:
    where = str(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(path):
        hint = "nothing was created; `lens stores` lists the known ones"
        return StoreNotFoundError(f"there is no store at {path}", hint=hint, path=where)
    if error.errno == errno.ENOTDIR:
        return NotAStoreError(f"{path} is no folder, so it is no store of JSON files", path=where)
    return UnreachableStoreError(f"cannot read {path}: {error.strerror or error}", path=where)


def _write_error(path: Path, error: OSError) -> LensError:
    where, reason = str(path), error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ReadOnlyStoreError(f"{path} may not be written: {reason}", path=where)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return NotAStoreError(f"{path} is no folder, so it is no store of JSON files", path=where)
    return OperationFailedError(f"cannot write to {path}: {reason}; nothing was changed", path=where)
