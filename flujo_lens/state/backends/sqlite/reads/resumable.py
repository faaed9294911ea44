"""The runs that could still resume, by shape and place.

One pass over the index on the status tells of each run its manifest, its pipeline and where it stands, without a blob.
Where that does not tell the place (no manifest, no name of its own, cancelled or failed, perhaps a background task) the
run is read whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from orjson import dumps

from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.statistics import note_wanted
from flujo_lens.state.backends.sqlite.schema import lens_tables
from flujo_lens.state.backends.sqlite.writes.key_values import manifest_of_digest
from flujo_lens.state.claims import ResumableGroup
from flujo_lens.state.interpret import NAMELESS, RawRun, named, status_of
from flujo_lens.state.resumable import RESUMABLE, Place, Tally, completed_of, place_of, resumable, step_at
from flujo_lens.state.views import RunFilter

_WS, _RUNS = "workflow_state", "runs"
_BATCH = 200
_CACHE_KIB = 8 * 1024
"""The runs' ids lie all over the trees that they are looked up in: the upper pages of these must fit."""

_NAMELESS = "COALESCE({}, '') IN ('', 'unknown')"

_DONE = (
    "SELECT step_name FROM steps WHERE run_id = ? AND status = 'completed' GROUP BY step_index, step_name "
    "ORDER BY step_index, min({row})"
)


def group_resumable(session: Session, wanted: RunFilter) -> list[ResumableGroup]:
    """The groups of the runs that `wanted` admits. To be called on a connection for this alone."""
    admitted = resumable(wanted)
    if admitted is None:
        return []
    session.rows(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return _Grouping(session, admitted).groups()


class _Facts(NamedTuple):
    """What the first pass reads of a state; many runs have the same."""

    status: Any
    name: Any
    version: Any
    index: Any
    digest: Any
    run_name: Any
    run_version: Any
    run_status: Any
    is_child: Any

    def tell(self) -> bool:
        """Whether they tell the place, without a look at the blobs."""
        doubtful = (self.status, self.run_status) in (("failed", "completed"), ("paused", "failed"))
        has_name = self.run_name not in NAMELESS or self.name not in NAMELESS
        return bool(self.digest and has_name and self.status and type(self.index) is int) and not (
            doubtful or self.is_child
        )


class _Group:
    """Runs with the same facts. `place` is None if they do not tell it."""

    __slots__ = ("place", "runs", "sample")

    def __init__(self, place: Place | None, sample: str) -> None:
        self.place, self.sample, self.runs = place, sample, 0


class _Grouping:
    """One look at a store, inside one read transaction."""

    def __init__(self, session: Session, admitted: RunFilter) -> None:
        self._session, self._shape, self._admitted = session, session.shape, admitted
        self._has_manifests = lens_tables.is_there(session.connection, lens_tables.RUN_MANIFESTS)
        self._tally = Tally()
        self._names: dict[tuple[str, int], str | None] = {}
        self._statuses = ", ".join(f"'{status}'" for status in sorted(admitted.statuses))
        may_be_paused = {"paused"} if "failed" in admitted.statuses else set()
        self._stored = ", ".join(f"'{status}'" for status in sorted(admitted.statuses | may_be_paused))
        self._join = self._among_wanted()

    def _among_wanted(self) -> str:
        """SQL that leaves those runs that a filter by more than status, name and version admits."""
        rest = self._admitted._replace(statuses=RESUMABLE, pipeline=None, version=None)
        if rest == RunFilter(statuses=RESUMABLE, top_level=True):
            return ""
        note_wanted(self._session, self._admitted)
        return "CROSS JOIN temp.wanted w ON w.run_id = {}.run_id"

    def groups(self) -> list[ResumableGroup]:
        """The groups, in their order."""
        if self._shape.has(_WS, "status"):
            self._count_states()
        if self._shape.has(_RUNS, "status"):
            self._read_stateless()
        return self._tally.groups()

    def _is_wanted(self, name: str, version: str, status: str) -> bool:
        wanted = self._admitted
        return status in wanted.statuses and wanted.pipeline in (None, name) and wanted.version in (None, version)

    # --- by the facts, without blobs

    def _count_states(self) -> None:
        groups: dict[tuple[Any, ...], _Group] = {}
        unclear: list[int] = []
        for row in self._session.rows(self._facts_sql()):
            group = groups.get(row[2:])
            if group is None:
                group = groups[row[2:]] = _Group(self._place(_Facts(*row[2:])), row[1])
            group.runs += 1
            if row[1] < group.sample:
                group.sample = row[1]
            if group.place is None:
                unclear.append(row[0])
                if len(unclear) == _BATCH:
                    self._read_states(unclear)
                    unclear.clear()
        self._read_states(unclear)
        for group in groups.values():
            if group.place is not None and self._is_wanted(*group.place[:3]):
                self._tally.add(group.place, group.sample, group.runs)

    def _facts_sql(self) -> str:
        state, run = (
            [self._shape.col(table, alias, name) for name in ("pipeline_name", "pipeline_version")]
            for table, alias in ((_WS, "s"), (_RUNS, "r"))
        )
        index, run_status = self._shape.col(_WS, "s", "current_step_index"), self._shape.col(_RUNS, "r", "status")
        has_parents, row = self._shape.indexed(_WS, "parent_run_id"), self._shape.row(_WS)
        child = f"s.{row} IN (SELECT {row} FROM {_WS} WHERE parent_run_id > '')" if has_parents else "0"
        facts = ["s.status", *state, index, self._digest(), *run, run_status, child]
        source = f"{_WS} s {self._join.format('s')} {self._joined_as_needed()}"
        columns = ", ".join([f"s.{row}", "CAST(s.run_id AS TEXT)", *facts])
        return f"SELECT {columns} FROM {source} WHERE s.status IN ({self._stored}, '') AND s.run_id IS NOT NULL"

    def _digest(self) -> str:
        return "m.digest" if self._has_manifests else "NULL"

    def _joined(self) -> str:
        """What is known of a state's run elsewhere."""
        return f"{self._manifest()} {f'LEFT JOIN {_RUNS} r ON r.run_id = s.run_id' if self._shape.has(_RUNS) else ''}"

    def _joined_as_needed(self) -> str:
        """`_joined`, without a look at the run where the state tells all: what has a manifest was saved with it."""
        if not self._shape.has(_RUNS):
            return self._manifest()
        name = self._shape.col(_WS, "s", "pipeline_name")
        untold = f"{self._digest()} IS NULL OR s.status IN ('failed', '') OR {_NAMELESS.format(name)}"
        return f"{self._manifest()} LEFT JOIN {_RUNS} r ON r.run_id = CASE WHEN {untold} THEN s.run_id END"

    def _manifest(self) -> str:
        return f"LEFT JOIN {lens_tables.RUN_MANIFESTS} m ON m.run_id = s.run_id" if self._has_manifests else ""

    def _place(self, facts: _Facts) -> Place | None:
        """The place that the facts tell; None if the run has to be read."""
        if not facts.tell():
            return None
        names = {"state_name": facts.name, "state_version": facts.version}
        name, version = named(RawRun("", **names, run_name=facts.run_name, run_version=facts.run_version))
        return name, version, facts.status, facts.index, self._step(facts.digest, facts.index), facts.digest, ()

    def _step(self, digest: str, index: int | None) -> str | None:
        """The name of the step that runs of this manifest stand at."""
        if index is None:
            return None
        if (digest, index) not in self._names:
            self._names[digest, index] = step_at(manifest_of_digest(self._session.connection, digest), index)
        return self._names[digest, index]

    # --- by all that there is

    def _read_states(self, rowids: list[int]) -> None:
        columns = queries.run_columns(self._shape, "s.run_id", state=True, run=True, details=True)
        source = f"json_each(?) j CROSS JOIN {_WS} s ON s.{self._shape.row(_WS)} = j.value {self._joined()}"
        self._add(self._session.rows(f"SELECT {columns}, {self._digest()} FROM {source}", (dumps(rowids).decode(),)))

    def _read_stateless(self) -> None:
        """Runs that have no state yet, or not any more."""
        columns = queries.run_columns(self._shape, "r.run_id", state=False, run=True, details=True)
        digest = f"(SELECT digest FROM {lens_tables.RUN_MANIFESTS} m WHERE m.run_id = r.run_id)"
        alone = f"NOT EXISTS (SELECT 1 FROM {_WS} x WHERE x.run_id = r.run_id)" if self._shape.has(_WS) else "1"
        where = f"r.run_id IS NOT NULL AND r.status IN ({self._statuses}) AND {alone}"
        source = f"{_RUNS} r {self._join.format('r')} WHERE {where}"
        self._add(self._session.rows(f"SELECT {columns}, {digest if self._has_manifests else 'NULL'} FROM {source}"))

    def _add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for *columns, digest in rows:
            raw = RawRun(*columns)
            status = status_of(raw)
            if raw.is_background or not self._is_wanted(*named(raw), status):
                continue
            place = place_of(raw, status, () if digest else self._done(raw, status))
            if digest:
                place = (*place[:4], self._step(digest, place[3]), digest, ())
            self._tally.add(place, as_text(raw.run_id))

    def _done(self, raw: RawRun, status: str) -> tuple[str, ...]:
        completed = completed_of(raw, status)
        if completed is not None or not self._shape.has("steps", "run_id", "step_name", "step_index", "status"):
            return completed or ()
        return tuple(
            as_text(row[0]) for row in self._session.rows(_DONE.format(row=self._shape.row("steps")), (raw.run_id,))
        )
