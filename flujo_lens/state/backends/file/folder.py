"""A folder of JSON files: opening it, and finding runs in it. All of it blocks."""

from __future__ import annotations

import errno
import os
import shlex
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from datetime import tzinfo
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import NAME_ANOTHER, LensError, NotAStoreError
from flujo_lens.state.backends.core.change_tokens import folder_token
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format.tombstones import Graves, read_graves
from flujo_lens.state.backends.file.index.catalogue import Catalogue, Look
from flujo_lens.state.backends.file.index.run_selection import SEVERAL_FILES, Snapshot
from flujo_lens.state.unreachable_paths import databases_in, unreached

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.file.format.history import History

_FRESH, _SHARE = 5.0, 20.0
"""Seconds for which a look at the whole folder is good; longer by so many times what it took."""


class Reader:
    """Reads the files of runs in an open folder.

    Args:
        folder: A descriptor of the folder.
        histories: One of its sub-folder of histories; None if there is none.
        codec: Opens what is sealed.
    """

    def __init__(self, folder: int, histories: int | None, codec: StateCodec) -> None:
        self.folder, self.histories, self.codec = folder, histories, codec

    @cached_property
    def graves(self) -> Graves:
        """The files that are as good as gone."""
        return read_graves(self.folder, self.histories)

    def state(self, run_id: str) -> dict[str, Any] | None:
        """The state of a run in one of the files that its id stands for; None if none of them holds it."""
        for name in documents.names_of(run_id):
            found = None if name in self.graves.states else documents.read_document(self.folder, name, exact=True)
            if found is not None and found.state is not None and found.run_id == run_id:
                return {**found.state, "run_id": run_id}
        return None

    def history(self, run_id: str, *, light: bool = False, small: int = 0) -> History | None:
        """The history of a run, sealed as it is; None if it has none, or it may not be read.

        Args:
            light: Whether steps and spans are left out, as of `flujo_lens.state.backends.file.format.history.History`.
            small: Bytes up to which a file is read whole all the same.
        """
        if self.histories is None:
            return None
        from flujo_lens.state.backends.file.format import history as file_history

        with suppress(OSError):
            for name in file_history.names_found(self.histories, run_id):
                if name not in self.graves.histories:
                    light = light and documents.size_of(self.histories, name) > small
                    return file_history.read(self.folder, self.histories, name, self.codec, light=light, opened=False)
        return None


class Folder:
    """A folder of JSON files, one a run. Safe to use from several threads.

    Args:
        path: The folder.
        zone: The zone of naive times.
        cache_dir: Where the index of the files is kept; None for the user's cache directory.
        codec: Opens what is sealed in states and histories.
    """

    def __init__(self, path: Path, zone: tzinfo, cache_dir: Path | None, codec: StateCodec) -> None:
        self.path, self.zone, self.codec = path, zone, codec
        self._catalogue = Catalogue(path, zone, cache_dir, codec)
        self.last: Snapshot | None = None
        """The runs as they were at the last look."""
        self._good_until = 0.0

    @property
    def is_recent(self) -> bool:
        """Whether the last look is good for what asks batch by batch."""
        return self.last is not None and monotonic() < self._good_until

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The folder, open for reading; see `opened` for the errors."""
        with opened(self.path) as folder, documents.history_folder(folder) as histories:
            yield Reader(folder, histories, self.codec)

    def close(self) -> None:
        """Let go of what is kept in memory."""
        self._catalogue.forget()
        self.last = None

    def snapshot(self, folder: int, stop: threading.Event) -> Snapshot:
        """The runs of an open folder as it is now.

        Raises:
            NotAStoreError: it holds files, and not one is a run.
        """
        began = monotonic()
        found = self._catalogue.refresh(folder, stop)
        self.last = snapshot = Snapshot(found, self._again)
        self._good_until = monotonic() + max(_FRESH, _SHARE * (monotonic() - began))
        if not found.has_history and not snapshot.has_runs() and snapshot.strange:
            raise _no_states(self.path, snapshot.strange)
        return snapshot

    def _again(self, look: Look, error: Exception) -> Look:
        self._catalogue.give_up(look.index, error)
        with opened(self.path) as folder:
            return self._catalogue.refresh(folder, threading.Event())

    def look(self, stop: threading.Event) -> Snapshot:
        """The runs of the folder as it is now, whatever lies in it; see `opened` for the errors."""
        with opened(self.path) as folder, suppress(NotAStoreError):
            return self.snapshot(folder, stop)
        assert self.last is not None
        return self.last

    def change_token(self) -> Hashable:
        """What tells whether a file of the folder, or of the sub-folder of histories, has changed."""
        with opened(self.path) as folder, documents.history_folder(folder) as histories:
            return folder_token(folder, histories)

    def facts(self, stop: threading.Event) -> dict[str, Any]:
        """Size of the store's files in bytes, the newest update of a run, and what is odd."""
        with self.reading() as reader:
            snapshot = self.snapshot(reader.folder, stop)
            look = snapshot.look
            extra = sum(documents.size_of(reader.folder, name) for name in (*look.leftovers, *look.blobs))
            size = snapshot.size() + extra + sum(_sizes(reader.histories))
        return {"size_bytes": size, "last_write_at": snapshot.last_save(), "notes": _notes(snapshot)}


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder for reading.

    Raises:
        StoreNotFoundError: nothing is there.
        NotAStoreError: it is not a folder.
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


def _sizes(folder: int | None) -> Iterator[int]:
    for name in () if folder is None else os.listdir(folder):
        yield documents.size_of(folder or 0, name)


def _notes(snapshot: Snapshot) -> tuple[str, ...]:
    counted = (
        (snapshot.unreadable()[0], "files do not parse"),
        (len(snapshot.look.leftovers), f"leftovers of interrupted saves (*{documents.LEFTOVER})"),
        (snapshot.number(SEVERAL_FILES), "runs are in several files each"),
        (snapshot.strange, "files are no workflow states"),
        (snapshot.look.unreadable, "histories may not be read"),
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
        return NotAStoreError(f"{path} is not a folder, so not a store of JSON files", hint=hint, path=str(path))
    return unreached(path, error)
