"""What a deletion goes by in a folder of JSON files, out of the table that lists are made of. Nothing is written.

Only the files of runs whose times the table does not tell are read, and those that a filter by texts needs. Counted
are files: ``states`` (a run can have several) and ``histories``. The library's files ``_granular_blobs:*`` belong to
no run that could be named: they stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from flujo_lens.state.backends.core.selection import Member, families, last_sign
from flujo_lens.state.backends.core.stored_claims import claims_in
from flujo_lens.state.backends.file.format import document as documents
from flujo_lens.state.backends.file.format import history as file_history
from flujo_lens.state.backends.file.format import key_files
from flujo_lens.state.backends.file.index.run_selection import Snapshot, instant
from flujo_lens.state.timestamps import parse_instant

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.folder import Reader
    from flujo_lens.state.backends.file.index.state_table import Rows, Stamp
    from flujo_lens.state.deletion import DeletionRequest


class Candidates:
    """The runs of a folder as a deletion goes by them.

    Args:
        reader: Reads the folder.
        snapshot: The runs as they were at a look.
        asked: The request.
        admitted: The runs that the filter admits, its statuses apart; None for all.
        run_ids: The runs whose claims matter; None for all.
    """

    def __init__(
        self,
        reader: Reader,
        snapshot: Snapshot,
        asked: DeletionRequest,
        admitted: Collection[str] | None,
        run_ids: Sequence[str] | None,
    ) -> None:
        self._reader, self._snapshot, self._asked, self._admitted = reader, snapshot, asked, admitted
        stored = {} if reader.histories is None else key_files.read(reader.histories, "claim", run_ids)
        claims = claims_in(stored).values()
        self._held = {claim.run_id: str(claim.holder) for claim in claims if not claim.has_ended(asked.now)}

    def families(self) -> Iterator[list[Member]]:
        """All runs, with their background tasks; those without any one by one, as most are."""
        parents = self._snapshot.table.parent
        named = {parent for parent in parents if parent is not None}
        related = []
        for run_id, at in self._snapshot.row_of.items():
            if parents[at] is None and run_id not in named:
                yield [self.member(run_id)]
            else:
                related.append(run_id)
        yield from families(map(self.member, related))

    def member(self, run_id: str) -> Member:
        """A run that is there."""
        at, table = self._snapshot.row_of[run_id], self._snapshot.table
        return Member(
            run_id,
            table.status[at] or "",
            table.pipeline[at] or "",
            self._updated(run_id),
            started=self._snapshot.started(at) if self._asked.keep_last is not None else None,
            admitted=self._admitted is None or run_id in self._admitted,
            parent=table.parent[at],
            held=run_id in self._held,
            key=self._held.get(run_id),
        )

    def _updated(self, run_id: str) -> datetime | None:
        """The last update; None if one of its times, in any of its files, cannot be read."""
        known: list[int] = []
        texts: list[object] = []
        states, histories = self._snapshot.states, self._snapshot.histories
        for row in self._snapshot.rows_of(run_id):
            if not states.readable[row]:
                return None
            times = (states.created[row], states.updated[row])
            known += [time for time in times if isinstance(time, int)]
            texts += self._read_times(row) if None in times else [time for time in times if isinstance(time, str)]
        at = self._snapshot.history_of.get(run_id)
        if at is not None and histories is not None:
            if not histories.dated[at]:
                return None
            updated = histories.updated[at]
            known += [] if updated is None else [updated]
        return self._newest(known, texts)

    def _newest(self, known: Sequence[int], texts: Sequence[object]) -> datetime | None:
        newest = instant(max(known)) if known else None
        if texts:
            return last_sign(texts, () if newest is None else (newest,), (self._snapshot.zone,), self._asked.now)
        return newest if newest is not None and newest <= self._asked.now else None

    def _read_times(self, row: int) -> Sequence[object]:
        """The times in a file of which the table does not tell one: there may be none, or one that is no time."""
        found = documents.read_document(self._reader.folder, self._snapshot.states.name[row])
        state = found.state if found else None
        return ("unreadable",) if state is None else [state.get(name) for name in ("created_at", "updated_at")]


def old_orphans(reader: Reader, snapshot: Snapshot, before: datetime) -> list[str]:
    """Histories without a run, of which everything can be read and is older than `before`."""
    alone = [run_id for run_id in snapshot.histories_with("evaluation") if run_id not in snapshot.row_of]
    return [run_id for run_id in alone if _is_old(reader, run_id, before)]


def _is_old(reader: Reader, run_id: str, before: datetime) -> bool:
    history = reader.history(run_id)
    if history is None or history.run is not None or history.problems:
        return False
    times = [parse_instant(row.get("created_at")) for row in history.evaluations]
    return bool(times) and all(time is not None and time < before for time in times)


# --- files as they were


def stamps_of(reader: Reader, snapshot: Snapshot, run_id: str) -> Mapping[tuple[str, str], Stamp]:
    """The files of a run as they are now, also such that have come since the look, each with its stamp."""
    found: dict[tuple[str, str], Stamp] = {}
    known = snapshot.files_of(run_id)
    for name in dict.fromkeys((*known, *documents.names_of(run_id))):
        now = documents.lstat(reader.folder, name)
        if now is not None and (name in known or _holds(reader.folder, name, run_id)):
            found["states", name] = documents.stamp_of(now)
    if reader.histories is not None:
        for name in file_history.names_found(reader.histories, run_id):
            now = documents.lstat(reader.histories, name)
            if now is not None and name not in reader.graves.histories:
                found["histories", name] = documents.stamp_of(now)
    return found


def _holds(folder: int, name: str, run_id: str) -> bool:
    found = documents.read_document(folder, name)
    return found is not None and found.run_id == run_id


def stamps_known(snapshot: Snapshot, run_id: str) -> Mapping[tuple[str, str], Stamp]:
    """The files of a run as they were at a look, each with its stamp."""
    found = {("states", snapshot.states.name[row]): _stamp(snapshot.states, row) for row in snapshot.rows_of(run_id)}
    at = snapshot.history_of.get(run_id)
    if at is not None and snapshot.histories is not None:
        found["histories", snapshot.histories.name[at]] = _stamp(snapshot.histories, at)
    return found


def _stamp(table: Rows, row: int) -> Stamp:
    modified, changed, size, inode = (column[row] for column in table.columns[1:5])
    return modified, changed, size, inode
