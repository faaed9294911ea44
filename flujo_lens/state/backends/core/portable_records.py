"""Portable records (see `flujo_lens.state.portable`) of any store on the core, read and written some runs at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from flujo_lens.serialization.exact import exact_dumps, exact_loads
from flujo_lens.state.backends.core.deletion_records import records_of
from flujo_lens.state.backends.core.port import CHILD_KINDS, AddsRuns, ChildKind, ChildRow, RunRow, Transaction
from flujo_lens.state.deletion import Record, Restored
from flujo_lens.state.portable import plain_evaluation, plain_run, plain_span, plain_state, plain_step, run_of_state

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend

_MANY = 20_000
"""Rows of children of the runs that are read together; if there are more, run by run."""

_NAMES: dict[ChildKind, str] = {"step": "steps", "span": "spans", "evaluation": "evaluations"}
_PLAIN = {"steps": plain_step, "spans": plain_span, "evaluations": plain_evaluation}


# --- reading


async def read_portable(tx: Transaction, run_ids: Sequence[str], zone: tzinfo) -> AsyncIterator[Record]:
    """Yield the records of these runs, those that there are, in their order. A manifest is in the first run of it.

    Args:
        zone: The zone of naive times in states.
    """
    seen: set[str] = set()
    async for stored in _stored(tx, run_ids):
        for record in portable_records([stored], zone):
            digest = record.get("manifest")
            if digest is not None and digest not in seen:
                seen.add(digest)
                found = await tx.get("manifest", [digest])
                record |= {"manifest_document": exact_loads(found[digest])} if digest in found else {}
            yield record


async def _stored(tx: Transaction, run_ids: Sequence[str]) -> AsyncIterator[Record]:
    """The stored records: at once if they have few children, else run by run."""
    runs = await tx.runs(run_ids)
    known = [run_id for run_id in run_ids if run_id in runs]
    children = await _children(tx, known)
    if children is None:
        for run_id in known:
            if runs[run_id].unreadable:
                yield _problem(runs[run_id])
                continue
            async for record, _ in records_of(tx, [run_id]):
                yield record
        return
    bindings, notes = await tx.get("binding", known), await tx.get("strip", known)
    for run_id in known:
        row = runs[run_id]
        if row.unreadable:
            yield _problem(row)
            continue
        manifest = bindings[run_id].decode() if run_id in bindings else None
        more = {"stripped": notes[run_id]} if run_id in notes else {}
        yield {"run_id": run_id, "state": row.state, "run": row.run, "manifest": manifest, **more, **children[run_id]}


async def _children(tx: Transaction, run_ids: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """The children of these runs by kind, in order, and the mark of a last record; None if they are many."""
    found: dict[str, dict[str, Any]] = {
        run_id: {**{name: [] for name in _NAMES.values()}, "last": True} for run_id in run_ids
    }
    left = _MANY
    for kind in CHILD_KINDS:
        async for child in tx.children(kind, run_ids):
            found[child.run_id][_NAMES[kind]].append((child.key, child.data))
            left -= 1
            if not left:
                return None
    return found


def _problem(row: RunRow) -> Record:
    return {"run_id": row.run_id, "problem": row.problems[0], "last": True}


def portable_records(records: Iterable[Record], zone: tzinfo) -> Iterator[Record]:
    """The portable form of records of `flujo_lens.state.backends.core.deletion_records`.

    Raises:
        ValueError, TypeError, KeyError: a record does not have the form of one.
    """
    for stored in records:
        if "problem" in stored:
            yield stored
            continue
        record: Record = {key: stored[key] for key in ("run_id", "manifest") if key in stored}
        try:
            if "state" in stored:
                record |= _documents(stored, zone)
            if stored.get("stripped"):
                record["stripped"] = exact_loads(stored["stripped"])
            record |= {
                name: [plain(exact_loads(data)) for _, data in stored[name]]
                for name, plain in _PLAIN.items()
                if stored.get(name)
            }
        except ValueError as error:
            record = {"run_id": stored["run_id"], "problem": f"a document of it does not parse: {error}"}
        if "state" in record and record["run"] is None and record["state"] and _has_history(record):
            record["run"] = run_of_state(record["state"])
        yield record | ({"last": True} if stored.get("last") is True else {})


def _documents(stored: Record, zone: tzinfo) -> Record:
    state, run = (None if stored[name] is None else exact_loads(stored[name]) for name in ("state", "run"))
    if not isinstance(state, dict | None) or not isinstance(run, dict | None):
        raise ValueError("not an object")
    return {
        "state": None if state is None else plain_state(state, zone),
        "run": None if run is None else plain_run(run),
    }


def _has_history(record: Record) -> bool:
    return bool(record.get("steps") or record.get("spans"))


# --- writing


def state_document(run_id: str, state: Mapping[str, Any]) -> bytes:
    """The stored form of a state: keys sorted, in ASCII."""
    data = exact_dumps({**state, "run_id": run_id}, sort_keys=True)
    return data if data.isascii() else data.decode().encode("ascii", "flujo_lens.json_escape")


async def write_portable(
    core: CoreBackend, tx: Transaction, records: Iterable[Record], *, replace: bool = False
) -> Restored:
    """Save the runs of these records in one transaction.

    Args:
        records: All records of some runs.
        replace: Whether runs that exist are replaced; else they are left alone.
    """
    new: dict[str, bool] = {}
    waiting: list[Record] = []
    size = 0
    for record in records:
        waiting.append(record)
        size += 1 + sum(len(record.get(name, ())) for name in _NAMES.values())
        if size >= _MANY:
            await _put(core, tx, waiting, new, replace)
            waiting, size = [], 0
    await _put(core, tx, waiting, new, replace)
    return Restored(
        tuple(i for i, is_new in new.items() if is_new), tuple(i for i, is_new in new.items() if not is_new)
    )


async def _put(
    core: CoreBackend, tx: Transaction, records: Sequence[Record], new: dict[str, bool], replace: bool
) -> None:
    """Save some records. A run in `new` was begun by earlier ones."""
    begun = [record["run_id"] for record in records if "state" in record and record["run_id"] not in new]
    if begun:
        there = await _locked(tx, begun)
        if replace and there:
            await tx.drop([run_id for run_id in begun if run_id in there])
        new |= {run_id: replace or run_id not in there for run_id in begun}
    own = [record for record in records if new.get(record["run_id"])]
    rows = [row for record in own if "state" in record for row in (_row(record),) if row != RunRow(row.run_id)]
    whole = {record["run_id"]: record for record in own if "state" in record and record.get("last") is True}
    if isinstance(tx, AddsRuns):
        await tx.add_runs(rows)
        rows = []
    for row in rows:
        if row.run_id in whole:
            await tx.put_run(row, core.codec.index(core.reader.raw_of(whole[row.run_id])))
        else:
            await core.put(tx, row)
    for kind, name in _NAMES.items():
        children = [
            ChildRow(record["run_id"], exact_dumps(_stored_row(kind, record["run_id"], row)), row.get("span_id"))
            for record in own
            for row in record.get(name, ())
        ]
        if children:
            await tx.put_children(kind, children)
    for row in rows:
        if row.run_id not in whole and core.reader.index_needs_history(row):
            await core.put(tx, row)
    for record in own:
        if record.get("manifest") is not None:
            await tx.set("binding", record["run_id"], record["manifest"].encode())
        if record.get("stripped"):
            await tx.set("strip", record["run_id"], exact_dumps(record["stripped"]))


async def _locked(tx: Transaction, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs that exist, or have evaluations; all are locked."""
    await tx.lock(run_ids)
    there = set(await tx.runs(run_ids))
    async for child in tx.children("evaluation", run_ids):
        there.add(child.run_id)
    return there


def _row(record: Record) -> RunRow:
    run_id, state, run = record["run_id"], record["state"], record["run"]
    return RunRow(
        run_id,
        None if state is None else state_document(run_id, state),
        None if run is None else exact_dumps({"run_id": run_id, **run}),
    )


def _stored_row(kind: ChildKind, run_id: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row if kind == "span" else {"run_id": run_id, **row}
