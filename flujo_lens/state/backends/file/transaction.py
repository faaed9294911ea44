"""A folder of JSON files as a `Transaction` of the core. All of it blocks, on a thread of the driver.

What is read of a run is the file of its state as it stands there, and what its history says; values that are sealed
stay so. What is written goes into its place at once, under the locks of the folder; files that are removed go together
at the end (see `flujo_lens.state.backends.file.format.tombstones`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import LensError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import SEALED
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space
from flujo_lens.state.backends.core.stored_claims import claims_in
from flujo_lens.state.backends.core.worker_pool import Stopped
from flujo_lens.state.backends.file.deletion import Candidates, old_orphans, stamps_known, stamps_of
from flujo_lens.state.backends.file.folder import Folder, Reader
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format import key_files
from flujo_lens.state.backends.file.format.history import History
from flujo_lens.state.backends.file.format.history_lines import line_of
from flujo_lens.state.backends.file.format.history_rewrite import lines_of
from flujo_lens.state.backends.file.format.run_records import records_of
from flujo_lens.state.backends.file.index.run_selection import Snapshot
from flujo_lens.state.backends.file.index.state_table import Stamp
from flujo_lens.state.backends.file.os_errors import check_writable
from flujo_lens.state.backends.file.writes import Changes, Places, Stop
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.selection import Member
    from flujo_lens.state.backends.file.index.cache import Place
    from flujo_lens.state.claims import Claim
    from flujo_lens.state.deletion import DeletionRequest, Record, Restored

_PAGE = 64
"""Runs that are sorted at first, if no limit is given."""

_HELD = 256
"""Rows and histories that are held at most."""

_ROW = 512
"""Bytes of a file that count as a row."""

_AT_ONCE = 1_000
"""Runs that are measured together."""

_PLACES: tuple[Place, ...] = ("states", "histories")

_SMALL = 1 << 20
"""Bytes up to which a history is read whole at once."""


class NeedsLook(Exception):  # noqa: N818 - it is no error
    """Under the locks, something is asked that a look at the whole folder tells, which was not taken yet."""


class FileTransaction:
    """One look at an open folder.

    Args:
        reader: Reads it.
        stop: Set by a caller who does not want the result any more.
        uses_last: Whether the last look at the whole folder will do; of files that have changed since it is not used.
        may_look: Whether the whole folder may be looked at: not under its locks.
        writing: What writes to it, and the folder with its sub-folder, locked; None to read alone.
    """

    def __init__(
        self,
        folder: Folder,
        reader: Reader,
        stop: Stop,
        *,
        uses_last: bool = False,
        may_look: bool = True,
        writing: tuple[Changes, Places] | None = None,
    ) -> None:
        self._folder, self._reader, self._stop = folder, reader, stop
        self._uses_last, self._may_look, self._written = uses_last, may_look, writing
        self._rows: dict[str, RunRow | None] = {}
        self._histories: dict[tuple[str, bool], History | None] = {}
        self._going: tuple[list[str], list[str]] = ([], [])

    @cached_property
    def snapshot(self) -> Snapshot:
        """The runs of the folder."""
        last = self._folder.last
        if self._uses_last and last is not None and (self._written is not None or self._folder.is_recent):
            return last
        return self._look()

    def _look(self) -> Snapshot:
        if not self._may_look:
            raise NeedsLook
        self.snapshot = self._folder.snapshot(self._reader.folder, self._stop)
        return self.snapshot

    @property
    def has_histories(self) -> bool:
        """Whether anything but states is stored."""
        return self._reader.histories is not None

    # --- runs

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        rows = {run_id: self.row(run_id) for run_id in run_ids}
        return {run_id: row for run_id, row in rows.items() if row is not None}

    async def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        for page in self.snapshot.pages(hint, after, reverse, first=limit or _PAGE):
            for row in self.rows([run.run_id for run in page]):
                yield row

    async def ids(self, prefix: str, limit: int) -> list[str]:
        return self.snapshot.ids(prefix, limit)

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        return self.snapshot.tasks_of(run_ids)

    def rows(self, run_ids: Sequence[str]) -> Iterator[RunRow]:
        """What there is of these runs, of which the index tells."""
        self.snapshot.hold(run_ids)
        return (row for row in map(self.row, run_ids) if row is not None)

    def row(self, run_id: str) -> RunRow | None:
        """What there is of a run; None if it is gone."""
        if self._stop.is_set():
            raise Stopped
        if self._written is None:
            return self._read(run_id)
        if run_id not in self._rows:
            _forget_if_many(self._rows)
            self._rows[run_id] = self._read(run_id)
        return self._rows[run_id]

    def _read(self, run_id: str) -> RunRow | None:
        row = next(self._states(run_id), RunRow(run_id))
        history = self.history(run_id, light=True) if self._reader.histories is not None else None
        run = history.run if history is not None else None
        if row.state is None and run is None:
            return None
        if history is None and not self._oddities(run_id):
            return row
        problems = (*row.problems, *(history.problems if history else ()), *self._oddities(run_id))
        return row._replace(run=None if run is None else safe_dumps(run), problems=problems)

    def _oddities(self, run_id: str) -> tuple[str, ...]:
        return self.snapshot.problems(run_id) if self._written is None else ()

    def _states(self, run_id: str) -> Iterator[RunRow]:
        """The states of a run, the one that counts first."""
        for name in self.names(run_id):
            row = documents.read_row(self._reader.folder, name, run_id, partial(self.snapshot.is_known, run_id, name))
            if row is not None:
                yield row

    def names(self, run_id: str) -> list[str]:
        """The files that may hold the state of a run; under the locks those of its own names too, for it may have been
        saved since the last look."""
        known = self.snapshot.files_of(run_id)
        own = list(documents.names_of(run_id)) if self._uses_last else []
        return [name for name in dict.fromkeys((*known, *own)) if name not in self._reader.graves.states]

    def files_of(self, run_id: str) -> list[str]:
        """The files that hold the state of a run, the one that counts first."""
        return [name for name in self.names(run_id) if self._holds(name, run_id)]

    def _holds(self, name: str, run_id: str) -> bool:
        found = documents.lstat(self._reader.folder, name)
        if found is None or self.snapshot.is_known(run_id, name, found):
            return found is not None
        document = documents.read_document(self._reader.folder, name)
        return document is not None and document.run_id == run_id

    def history(self, run_id: str, *, light: bool = False) -> History | None:
        """The history of a run, sealed as it is; None if it has none, or it may not be read."""
        if (run_id, False) in self._histories:
            return self._histories[run_id, False]
        if (run_id, light) not in self._histories:
            _forget_if_many(self._histories)
            found = self._reader.history(run_id, light=light, small=_SMALL)
            self._histories[run_id, light and bool(found and found.is_light)] = found
            return found
        return self._histories[run_id, light]

    # --- children

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        for run_id in self.snapshot.histories_with(kind) if run_ids is None else run_ids:
            history = self.history(run_id)
            for row in () if history is None else _rows_of(history, kind):
                yield ChildRow(run_id, safe_dumps(row), row["span_id"] if kind == "span" else None)

    # --- keys

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        histories = self._reader.histories
        if histories is None:
            return {}
        if space == "binding":
            found = {key: self.history(key, light=True) for key in keys or ()}
            return {key: history.manifest.encode() for key, history in found.items() if history and history.manifest}
        if space == "system":
            return self._system(histories, keys)
        return key_files.read(histories, space, keys)

    def _system(self, histories: int, keys: Sequence[str] | None) -> dict[str, bytes]:
        stored = key_files.read_system(histories)
        rows = {key: stored[key] for key in (stored if keys is None else keys) if isinstance(stored.get(key), dict)}
        return {key: safe_dumps(self._opened(key, row, shown=keys is None)) for key, row in rows.items()}

    def _opened(self, key: str, row: Mapping[str, Any], *, shown: bool) -> dict[str, Any]:
        """A global key; one that cannot be opened hides no other from who looks at all of them."""
        try:
            value = self._reader.codec.opened_leaf(key_files.SYSTEM, key, row.get("value"))
        except LensError:
            if not shown:
                raise
            value = SEALED
        return {"key": key, "value": value, "updated_at": row.get("updated_at")}

    # --- what a deletion asks

    def totals(self) -> tuple[int, int]:
        graves = self._reader.graves
        return self.snapshot.count(RunFilter()), max(len(graves.states), len(graves.histories))

    async def members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        if self._uses_last and not (self._folder.is_recent and self._are_unchanged(run_ids)):
            self._look()
        found = Candidates(self._reader, self.snapshot, asked, None, run_ids)
        known = self.snapshot.known(run_ids)
        return [found.member(known[run_id]) for run_id in run_ids if run_id in known]

    def _are_unchanged(self, run_ids: Sequence[str]) -> bool:
        """Whether the files of these runs are as they were at the last look."""
        self.snapshot.hold(run_ids)
        return all(stamps_known(self.snapshot, one) == self._stamps(one) for one in run_ids)

    def families(self, asked: DeletionRequest, admitted: Collection[str] | None) -> Iterator[list[Member]]:
        return Candidates(self._reader, self.snapshot, asked, admitted, None).families()

    async def orphans(self, before: datetime) -> list[str]:
        return old_orphans(self._reader, self.snapshot, before)

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        return {run_id: tuple(sorted(self._stamps(run_id).items())) for run_id in run_ids}

    def _stamps(self, run_id: str) -> Mapping[tuple[str, str], Stamp]:
        return stamps_of(self._reader, self.snapshot, run_id)

    async def measure(self, run_ids: Sequence[str], kinds: Sequence[ChildKind]) -> tuple[dict[str, int], int]:
        counts: Counter[str] = Counter()
        size = 0
        for at in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[at : at + _AT_ONCE]
            known = self.snapshot.known(some)
            for place in _PLACES:
                sizes = self.snapshot.sizes(place, list(known))
                counts[place] += len(sizes)
                size += sum(sizes)
            alone = [run_id for run_id in some if run_id not in known]
            size += sum(self.snapshot.sizes("histories", alone))
            histories = [self.history(run_id, light=True) for run_id in alone]
            counts["evaluations"] += sum(len(history.evaluations) for history in histories if history)
        return dict(counts), size

    async def records(self, run_ids: Sequence[str], *, state_only: bool) -> AsyncIterator[tuple[Record, int]]:
        places = {"states": self._reader.folder, "histories": self._reader.histories}
        for run_id in run_ids:
            stamps = self._stamps(run_id)
            files = [file for file in stamps if not state_only or file[0] == "states"]
            length = sum(stamp[2] for (place, _), stamp in stamps.items() if place == "histories")
            note = key_files.read(self._reader.histories, "strip", [run_id]) if self._reader.histories else {}
            more = {"stripped": note[run_id].decode()} if run_id in note and not state_only else {}
            for record in records_of(places, run_id, files, length if state_only else None):
                record |= more if record.get("last") is True else {}
                yield record, 1 + len(record.get("text", "") or record.get("base64", "")) // _ROW

    async def restore(
        self, records: Iterable[Record], restore_run: Callable[[Iterator[Record]], Awaitable[bool]]
    ) -> Restored:
        from flujo_lens.state.backends.file.restore import restore

        return await restore(self, self._writing[1], records, restore_run)

    # --- writing

    @property
    def _writing(self) -> tuple[Changes, Places]:
        assert self._written is not None, "a transaction that reads"
        return self._written

    async def lock(self, run_ids: Iterable[str]) -> None:
        """The folder is locked; a change that finds nothing to change would not notice that it may not change it."""
        check_writable(self._reader.folder)

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        changes, places = self._writing
        before = self.row(row.run_id) or RunRow(row.run_id)
        if row.run is not None and row.run != before.run:
            changes.add_line(places, row.run_id, self._run_line(before, row.run))
        if row.state is None and before.state is not None:
            self._going[0].extend(self.files_of(row.run_id))
        elif row.state is not None and row.state != before.state:
            changes.put_state(places, row.run_id, row.state, next(iter(self.files_of(row.run_id)), None))
        self._forget(row.run_id)

    def _run_line(self, before: RunRow, data: bytes) -> bytes:
        run, old = safe_loads(data), None if before.run is None else safe_loads(before.run)
        changed = run if old is None else {name: run[name] for name in run if name not in old or run[name] != old[name]}
        kind = "run_start" if old is None else "run_end"
        return line_of(self._reader.codec, before.run_id, kind, changed, is_stored=True)

    async def save_progress(
        self, run_id: str, state: bytes | None, lines: Sequence[bytes], claim: Claim | None
    ) -> None:
        """Save progress of a run, if the claim on it is still held."""
        changes, places = self._writing
        await self.lock([run_id])
        if claim is not None:
            claim.check_held(claims_in(await self.get("claim", [run_id])).get(run_id))
        changes.save_both(places, run_id, state, lines)
        if claim is not None:
            key_files.write(places.need_histories(), "claim", run_id, safe_dumps(claim.beaten().to_dict()))

    async def put_children(self, kind: ChildKind, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        changes, places = self._writing
        if replaces is not None:
            self._put_in_place_of(kind, replaces, [safe_loads(row.data) for row in rows if row.run_id == replaces])
        for run_id in dict.fromkeys(row.run_id for row in rows if row.run_id != replaces):
            own = [safe_loads(row.data) for row in rows if row.run_id == run_id]
            data = [{"spans": own}] if kind == "span" else own
            name = "spans" if kind == "span" else kind
            for one in data:
                line = line_of(self._reader.codec, run_id, name, one, is_stored=True)
                changes.add_line(places, run_id, line)
            self._forget(run_id)

    def _put_in_place_of(self, kind: ChildKind, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the history of a run anew, with these rows in place of those of their kind."""
        history = self.history(run_id)
        if not rows and not (history is not None and any(True for _ in _rows_of(history, kind))):
            return
        changes, places = self._writing
        lines = lines_of(self._reader.codec, history or History(run_id), kind, rows)
        changes.put_history(places, run_id, lines)
        self._forget(run_id)

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        changes, places = self._writing
        if value is None and places.histories is None:
            return
        histories = places.need_histories()
        if space == "binding" and value is not None:
            line = line_of(self._reader.codec, key, "manifest", {"manifest": value.decode()})
            changes.add_line(places, key, line)
        elif space == "system" and value is not None:
            row = safe_loads(value)
            leaf = self._reader.codec.leaf(key_files.SYSTEM, key, row["value"])
            key_files.write_system(histories, {**row, "value": leaf})
        elif space in ("claim", "strip") or value is not None:
            key_files.write(histories, space, key, value)
        if space == "claim" and value is not None:
            file_history.cut_unfinished(places.folder, histories, key)
        self._forget(key)

    async def drop(self, run_ids: Sequence[str]) -> None:
        _, places = self._writing
        check_writable(places.folder)
        for run_id in run_ids:
            self._going[0].extend(self.files_of(run_id))
            if places.histories is not None:
                self._going[1].extend(file_history.names_found(places.histories, run_id))
                for space in ("claim", "strip"):
                    key_files.write(places.histories, space, run_id, None)
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._rows.pop(run_id, None)
        for light in (False, True):
            self._histories.pop((run_id, light), None)

    def commit(self) -> None:
        """Remove what is to go, in one moment."""
        changes, places = self._writing
        changes.remove(places, *self._going)


def _rows_of(history: History, kind: ChildKind) -> Iterable[dict[str, Any]]:
    if kind == "span":
        return history.spans.values()
    return history.steps if kind == "step" else history.evaluations


def _forget_if_many(found: dict[Any, Any]) -> None:
    if len(found) >= _HELD:
        found.clear()
