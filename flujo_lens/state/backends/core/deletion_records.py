"""What a deletion hands out of a run, and what brings it back: records that any store on the core understands.

The first record of a run has its documents, the following ones more of its children, 1,000 rows at a time::

    {"run_id": ..., "state": <JSON text> | None, "run": ..., "manifest": <digest> | None,
     "steps": [[None, <JSON text>], ...], "spans": [[<id>, <JSON text>], ...], "evaluations": [...], "last": True}

That of a run that is stripped says ``"strip": {"parts": [...], "at": ...}``, that of one that was ``"stripped"``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.core.cancelling import check_first, data_of, take_back, text_of
from flujo_lens.state.backends.core.port import CHILD_KINDS, ChildKind, ChildRow, RunRow, Transaction
from flujo_lens.state.backends.core.strip import put_parts_back
from flujo_lens.state.deletion import DeletionRequest, Record, Restored

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend

_ROWS = 1_000
_MANY = 4 << 20
"""Bytes of children of the runs that are read together; if there are more, run by run."""
_NAMES: dict[ChildKind, str] = {"step": "steps", "span": "spans", "evaluation": "evaluations"}


class RecordKind(NamedTuple):
    """What is about to be done with the runs: what their records say of it.

    Attributes:
        state_only: Whether their states alone are to go.
        strip: What their parts are that go, and when; None if they go as a whole.
    """

    state_only: bool = False
    strip: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, asked: DeletionRequest) -> RecordKind:
        """That of a request."""
        strip = {"parts": sorted(asked.strip), "at": asked.now.isoformat()} if asked.strip else None
        return cls(asked.state_only, strip)

    @property
    def notes(self) -> Record:
        """Its fields in the first record of a run, and in the last."""
        return {"state_only": True} if self.state_only else {"strip": self.strip} if self.strip else {}


_WHOLE = RecordKind()


async def records_of(
    tx: Transaction, ids: Sequence[str], kind: RecordKind = _WHOLE
) -> AsyncIterator[tuple[Record, int]]:
    """Yield the records of these runs, run by run, each with the number of rows in it."""
    runs, bindings, notes = await tx.runs(ids), await tx.get("binding", ids), await tx.get("strip", ids)
    few = await few_children(tx, ids)
    for run_id in ids:
        row = runs.get(run_id, RunRow(run_id))
        record: Record = {"run_id": run_id, "state": text_of(row.state), "run": text_of(row.run)}
        record["manifest"] = bindings[run_id].decode() if run_id in bindings else None
        record |= kind.notes | ({"stripped": notes[run_id].decode()} if run_id in notes else {})
        count = 1
        async for child_kind, child in _children_of(tx, run_id, few):
            if count >= _ROWS:
                yield record, count
                record, count = {"run_id": run_id}, 0
            record.setdefault(_NAMES[child_kind], []).append([child.key, child.data.decode()])
            count += 1
        yield {**record, **kind.notes, "last": True}, count


async def few_children(
    tx: Transaction, run_ids: Sequence[str], most: int = _MANY
) -> dict[str, list[tuple[ChildKind, ChildRow]]] | None:
    """The children of these runs, in order; None if they are more than `most` bytes."""
    found: dict[str, list[tuple[ChildKind, ChildRow]]] = {run_id: [] for run_id in run_ids}
    for kind in CHILD_KINDS:
        async for child in tx.children(kind, run_ids):
            found[child.run_id].append((kind, child))
            most -= len(child.data) + 100
            if most < 0:
                return None
    return found


async def _children_of(
    tx: Transaction, run_id: str, few: Mapping[str, Sequence[tuple[ChildKind, ChildRow]]] | None
) -> AsyncIterator[tuple[ChildKind, ChildRow]]:
    if few is not None:
        for pair in few[run_id]:
            yield pair
        return
    for kind in CHILD_KINDS:
        async for child in tx.children(kind, [run_id]):
            yield kind, child


class Digests:
    """What the records of runs were, a few bytes a run.

    Args:
        kind: What is to be done with the runs.
    """

    def __init__(self, kind: RecordKind) -> None:
        self._kind = kind
        self._made: dict[str, Any] = {}

    def add(self, record: Record) -> None:
        """Note a record, in the order of `records_of`."""
        self._made.setdefault(record["run_id"], blake2b(digest_size=16)).update(safe_dumps(record))

    async def changed(self, tx: Transaction, ids: Sequence[str]) -> set[str]:
        """Those of these runs that are not what was noted."""
        now = Digests(self._kind)
        async for record, _ in records_of(tx, ids, self._kind):
            now.add(record)
        return {run_id for run_id in ids if now._of(run_id) != self._of(run_id)}

    def _of(self, run_id: str) -> bytes | None:
        made = self._made.get(run_id)
        return None if made is None else bytes(made.digest())


async def restore(core: CoreBackend, tx: Transaction, records: Iterable[Record]) -> Restored:
    """Bring back runs; one whose id exists is left alone. No more than one record is held at a time."""
    done: dict[str, bool] = {}
    for run_id, parts in groupby(records, lambda record: record["run_id"]):
        await tx.lock([run_id])
        done[run_id] = done.get(run_id, False) or await restore_run(core, tx, parts)
    return Restored(tuple(i for i, new in done.items() if new), tuple(i for i, new in done.items() if not new))


async def restore_run(core: CoreBackend, tx: Transaction, records: Iterator[Record]) -> bool:
    """Bring back a run from its records, or what was dropped of it; False, and nothing done, if it is there."""
    first = next(records)
    check_first(first)
    run_id = first["run_id"]
    if "cancelled" in first:
        return await take_back(core, tx, first)
    there = (await tx.runs([run_id])).get(run_id)
    if first.get("state_only"):
        return await _put_state_back(core, tx, first, there)
    if "strip" in first and there is not None:
        return await put_parts_back(core, tx, there, chain([first], records))
    if there is not None or await _has_evaluations(tx, run_id):
        return False
    row = RunRow(run_id, data_of(first["state"]), data_of(first["run"]))
    if row != RunRow(run_id):
        await core.put(tx, row)
    for record in chain([first], records):
        for kind in CHILD_KINDS:
            rows = _children(run_id, record.get(_NAMES[kind], ()))
            if rows:
                await tx.put_children(kind, rows)
    if row != RunRow(run_id) and core.reader.index_needs_history(row):
        await core.put(tx, row)
    if first["manifest"] is not None:
        await tx.set("binding", run_id, first["manifest"].encode())
    if first.get("stripped"):
        await tx.set("strip", run_id, first["stripped"].encode())
    return True


async def _put_state_back(core: CoreBackend, tx: Transaction, record: Record, there: RunRow | None) -> bool:
    """Restore the state of a run with a history; the history gets its old status."""
    row = there or RunRow(record["run_id"])
    if row.state is not None:
        return False
    run = row.run
    if run is not None and record["run"] is not None and safe_loads(run).get("status") == "cancelled":
        run = core.codec.merged("run", row.run_id, run, {"status": safe_loads(record["run"].encode())["status"]})
    await core.put(tx, RunRow(row.run_id, data_of(record["state"]), run))
    return True


async def _has_evaluations(tx: Transaction, run_id: str) -> bool:
    async for _ in tx.children("evaluation", [run_id]):
        return True
    return False


def _children(run_id: str, pairs: Iterable[Sequence[Any]]) -> list[ChildRow]:
    return [ChildRow(run_id, data.encode(), key) for key, data in pairs]
