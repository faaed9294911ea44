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
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.file.folder import Reader
    from flujo_lens.state.backends.file.index.joined_table import RunEntry
    from flujo_lens.state.backends.file.index.state_table import Stamp, StateRow
    from flujo_lens.state.deletion import DeletionRequest

_ALONE = "parent IS NULL AND NOT EXISTS (SELECT 1 FROM runs AS tasks WHERE tasks.parent = runs.run_id)"
"""A run without background tasks, that is none itself."""


class Candidates:
    """The runs of a folder as a deletion goes by them.

    Args:
        reader: Reads the folder.
        snapshot: The runs as they were at a look.
        asked: The request.
        admitted: The runs that the filter admits, its statuses apart; None if the index tells them.
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
        self._filter = RunFilter() if admitted is not None else asked.wanted._replace(statuses=frozenset())
        stored = {} if reader.histories is None else key_files.read(reader.histories, "claim", run_ids)
        claims = claims_in(stored).values()
        self._held = {claim.run_id: str(claim.holder) for claim in claims if not claim.has_ended(asked.now)}

    def families(self) -> Iterator[list[Member]]:
        """All runs, with their background tasks; those without any one by one, as most are."""
        for page in self._snapshot.entries(_ALONE):
            self._admit(page)
            for run in page:
                yield [self.member(run)]
        related: list[Member] = []
        for page in self._snapshot.entries(f"NOT ({_ALONE})"):
            self._admit(page)
            related += map(self.member, page)
        yield from families(related)

    def _admit(self, page: Sequence[RunEntry]) -> None:
        """Ask which runs of a page the filter admits, if the index tells that."""
        if self._filter != RunFilter():
            self._admitted = self._snapshot.admitted(self._filter, [run.run_id for run in page])

    def member(self, run: RunEntry) -> Member:
        """A run that is there."""
        return Member(
            run.run_id,
            run.status,
            run.pipeline,
            self._updated(run),
            started=instant(run.started) if self._asked.keep_last is not None else None,
            admitted=self._admitted is None or run.run_id in self._admitted,
            parent=run.parent,
            held=run.run_id in self._held,
            key=self._held.get(run.run_id),
        )

    def _updated(self, run: RunEntry) -> datetime | None:
        """The last update; None if one of its times, in any of its files, cannot be read."""
        known = [] if run.sign is None else [run.sign]
        texts: list[object] = []
        for row in self._snapshot.rows_of(run.run_id) if run.undated else ():
            times = (row.created, row.updated)
            texts += self._read_times(row) if None in times else [time for time in times if isinstance(time, str)]
        return self._newest(known, texts)

    def _newest(self, known: Sequence[int], texts: Sequence[object]) -> datetime | None:
        newest = instant(max(known)) if known else None
        if texts:
            return last_sign(texts, () if newest is None else (newest,), (self._snapshot.zone,), self._asked.now)
        return newest if newest is not None and newest <= self._asked.now else None

    def _read_times(self, row: StateRow) -> Sequence[object]:
        """The times in a file of which the table does not tell one: there may be none, or one that is no time."""
        found = documents.read_document(self._reader.folder, row.name)
        state = found.state if found else None
        return ("unreadable",) if state is None else [state.get(name) for name in ("created_at", "updated_at")]


def old_orphans(reader: Reader, snapshot: Snapshot, before: datetime) -> list[str]:
    """Histories without a run, of which everything can be read and is older than `before`."""
    return [run_id for run_id in snapshot.strays() if _is_old(reader, run_id, before)]


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
    found = {("states", row.name): row[1:5] for row in snapshot.rows_of(run_id)}
    history = snapshot.history_of(run_id)
    return found if history is None else {**found, ("histories", history.name): history[1:5]}
