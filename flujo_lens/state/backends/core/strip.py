"""Dropping parts of runs whose rows stay, and putting them back: once for all drivers on the core.

What goes, and what stays, is said in `flujo_lens.state.stripped`. A store that does not write all of a transaction in
one moment (a folder of files) first has the note that the run is being stripped: a process that dies leaves a run that
the next strip finishes, and that `lens undo` makes whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.errors import LensError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import SEALED_FIELDS
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.state import stripped as rules
from flujo_lens.state.backends.core.port import ChildRow, RunRow, Transaction
from flujo_lens.state.backends.core.strip_notes import note_bytes, notes_in
from flujo_lens.state.deletion import Record
from flujo_lens.state.interpret import named
from flujo_lens.state.stripped import Stripped
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunSummary

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend

JSONObject = dict[str, Any]
_AT_ONCE = 200


class Light(NamedTuple):
    """A run without the parts.

    Attributes:
        row: Its documents.
        steps: Its steps; None where they stay as they are.
        spans: Those of its spans that stay; None where all do.
        had: How many rows of steps there are.
        dropped: How many ``spans``, ``outputs`` and ``states`` go.
        size: Bytes that go, about.
        is_renamed: Whether its row has got the name of its pipeline, known from its spans.
    """

    row: RunRow
    steps: list[ChildRow] | None
    spans: list[ChildRow] | None
    had: int
    dropped: Counter[str]
    size: int
    is_renamed: bool = False


class Stripper:
    """Drops parts of runs.

    Args:
        at: When.
    """

    def __init__(self, core: CoreBackend, parts: Collection[str], at: datetime) -> None:
        self._core, self._parts, self._at = core, parts, at

    # --- what would go

    async def measured(self, tx: Transaction, ids: Sequence[str]) -> tuple[dict[str, int], int]:
        """How many spans, outputs and states of these runs would go, and about how many bytes."""
        dropped, size = Counter[str](), 0
        for at in range(0, len(ids), _AT_ONCE):
            for light in (await self._lightened(tx, ids[at : at + _AT_ONCE]))[0].values():
                dropped += light.dropped
                size += light.size
        return dict(dropped), size

    async def _lightened(self, tx: Transaction, ids: Sequence[str]) -> tuple[dict[str, Light], dict[str, str]]:
        """The runs without the parts; and of which that cannot be made, with the reason."""
        rows, found, refused = await tx.runs(ids), dict[str, Light](), dict[str, str]()
        steps = await _by_run(tx, "step", ids)
        spans = await _by_run(tx, "span", ids) if "spans" in self._parts else {}
        runs = await self._core.reader.summaries(tx, list(rows.values()))
        statuses = {run.run_id: run.status for run in runs}
        for run_id, row in rows.items():
            if row.unreadable:
                refused[run_id] = "unreadable"
                continue
            open_spans = self._open(spans.get(run_id, []), statuses[run_id])
            try:
                found[run_id] = self._light(row, steps.get(run_id, []), spans.get(run_id, []), open_spans)
            except LensError:
                refused[run_id] = "sealed"
        return found, refused

    def _open(self, spans: Sequence[ChildRow], status: str) -> list[ChildRow]:
        documents = [safe_loads(span.data) for span in spans]
        kept = {id(document) for document in rules.light_spans(documents, status)}
        return [span for span, document in zip(spans, documents, strict=True) if id(document) in kept]

    def _light(self, row: RunRow, steps: Sequence[ChildRow], spans: Sequence[ChildRow], kept: list[ChildRow]) -> Light:
        light = RunRow(row.run_id, self._light_state(row), self._light_run(row))
        dropped = Counter({"spans": len(spans) - len(kept)})
        size = (
            sum(len(span.data) for span in spans)
            - sum(len(span.data) for span in kept)
            + max(0, _size(row) - _size(light))
        )
        rows = None
        if "outputs" in self._parts:
            rows = [self._light_step(step) for step in steps]
            count = sum(new is not old for new, old in zip(rows, steps, strict=True))
            size += sum(len(old.data) - len(new.data) for new, old in zip(rows, steps, strict=True))
            dropped["outputs"] += count or _outputs_in(row, light)
            rows = rows if count else None
        dropped["states"] += light.state != row.state or light.run != row.run
        left = kept if dropped["spans"] else None
        return Light(light, rows, left, len(steps), +dropped, size)

    def _light_state(self, row: RunRow) -> bytes | None:
        if self._parts == {"spans"} or row.state is None:
            return row.state
        changed = False

        def change(state: JSONObject) -> JSONObject:
            nonlocal changed
            light = self._light_document(row.run_id, state)
            changed = light != state
            return light

        light = self._core.codec.rewritten_state(row, change)
        return light if changed else row.state

    def _light_document(self, run_id: str, state: JSONObject) -> JSONObject:
        """A stored state without the parts; what is sealed, and stays in part, is opened for that and sealed again."""
        sealed = {name: state[name] for name in SEALED_FIELDS if is_sealed(state.get(name))}
        opened = {name: leaf for name, leaf in sealed.items() if self._is_cut(name)}
        fields = self._core.codec.fields
        plain = {name: fields.opened_leaf(run_id, name, leaf) for name, leaf in opened.items()}
        light = rules.light_state({**state, **plain}, self._parts)
        for name, leaf in opened.items():
            if name in light:
                light[name] = leaf if light[name] == plain[name] else fields.resealed(run_id, name, light[name], leaf)
        return light

    def _is_cut(self, name: str) -> bool:
        return name == "step_history" or (name == "pipeline_context" and "state" in self._parts)

    def _light_run(self, row: RunRow) -> bytes | None:
        if row.run is None or "state" not in self._parts:
            return row.run
        run = safe_loads(row.run)
        light = rules.light_run(run, self._parts)
        return row.run if light == run else safe_dumps(light)

    def _light_step(self, step: ChildRow) -> ChildRow:
        document = safe_loads(step.data)
        light = rules.light_step(document, self._parts)
        is_lighter = any(document[name] is not None for name in document.keys() - light.keys())
        return step._replace(data=safe_dumps(light)) if is_lighter else step

    # --- dropping

    async def strip(
        self, tx: Transaction, ages: Mapping[str, datetime | None]
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Drop the parts of these runs, each with its age; how many rows lost something, and who stays as it is."""
        lights, refused = await self._lightened(tx, list(ages))
        notes = notes_in(await tx.get("strip", list(ages)))
        runs = await self._core.reader.summaries(tx, list((await tx.runs(list(lights))).values()))
        dropped = Counter[str]()
        for run in runs:
            light, earlier = lights[run.run_id], Stripped.earlier(notes.get(run.run_id), run.updated_at)
            parts = {**dict.fromkeys(self._parts, self._at), **earlier.parts}
            note = Stripped(parts, run.updated_at, ages[run.run_id], light.had, False, earlier.left_out)
            await _write_note(tx, run.run_id, note)
            await self._write(tx, self._named(light, run))
            await _write_note(tx, run.run_id, note._replace(is_whole=True))
            dropped += light.dropped
        return dict(dropped), refused

    def _named(self, light: Light, run: RunSummary) -> Light:
        """The run with the name of its pipeline in its own row, where its spans alone have it."""
        if (
            "spans" not in self._parts
            or light.row.run is None
            or named(self._core.codec.raw(light.row))[0] != "unknown"
        ):
            return light
        names = {"pipeline_name": run.pipeline_name, "pipeline_version": run.pipeline_version}
        row = light.row._replace(run=self._core.codec.merged("run", run.run_id, light.row.run, names))
        return light if run.pipeline_name == "unknown" else light._replace(row=row, is_renamed=True)

    async def _write(self, tx: Transaction, light: Light) -> None:
        run_id = light.row.run_id
        if light.dropped["states"] or light.is_renamed:
            await self._core.put(tx, light.row)
        if light.steps is not None:
            await tx.put_children("step", light.steps, replaces=run_id)
        if light.spans is not None:
            await tx.put_children("span", light.spans, replaces=run_id)


async def _write_note(tx: Transaction, run_id: str, note: Stripped | None) -> None:
    await tx.set("strip", run_id, None if note is None else note_bytes(note))


async def _by_run(tx: Transaction, kind: Any, ids: Sequence[str]) -> dict[str, list[ChildRow]]:
    found: dict[str, list[ChildRow]] = {}
    async for row in tx.children(kind, ids):
        found.setdefault(row.run_id, []).append(row)
    return found


def _size(row: RunRow) -> int:
    return len(row.state or b"") + len(row.run or b"")


def _outputs_in(row: RunRow, light: RunRow) -> int:
    """How many outputs a state has lost, of a run without rows of steps: of entries that lost something."""
    if row.state is None or light.state is None or row.state == light.state:
        return 0
    before, after = (safe_loads(state).get("step_history") for state in (row.state, light.state))
    if not (isinstance(before, list) and isinstance(after, list)):
        return 0
    return sum(old != new for old, new in zip(before, after, strict=True))


# --- putting back


async def put_parts_back(core: CoreBackend, tx: Transaction, row: RunRow, records: Iterator[Record]) -> bool:
    """Put back what one strip dropped of a run; False, and nothing done, if the run has changed since."""
    first = next(records)
    run_id, strip = first["run_id"], first["strip"]
    at = parse_instant(strip["at"])
    note = notes_in(await tx.get("strip", [run_id])).get(run_id)
    parts = {part for part in strip["parts"] if note is not None and note.parts.get(part) == at}
    run = (await core.reader.summaries(tx, [row]))[0]
    if note is None or not parts or not note.is_of(run.updated_at):
        return False
    if "outputs" in parts and len((await _by_run(tx, "step", [run_id])).get(run_id, [])) != note.steps:
        return False
    await _write_note(tx, run_id, note._replace(is_whole=False))
    await core.put(
        tx, _whole_row(core, row, first, parts, is_all=parts == note.parts.keys() and not first.get("stripped"))
    )
    await _put_children(tx, run_id, chain([first], records), parts)
    left = {part: when for part, when in note.parts.items() if part not in parts}
    await _write_note(tx, run_id, note._replace(parts=left) if left else None)
    return True


def _whole_row(core: CoreBackend, light: RunRow, record: Record, parts: set[str], *, is_all: bool) -> RunRow:
    state = None if record["state"] is None else record["state"].encode()
    run = None if record["run"] is None else record["run"].encode()
    if is_all:
        return RunRow(light.run_id, state, run)
    before = safe_loads(state) if state is not None else {}
    fields = core.codec.fields

    def merged(now: JSONObject) -> JSONObject:
        opened = [
            name for name in ("step_history",) if is_sealed(now.get(name)) and is_sealed(before.get(name))
        ]  # the one field that both halves have something of
        plain = [{n: fields.opened_leaf(light.run_id, n, of[n]) for n in opened} for of in (now, before)]
        whole = rules.whole_state({**now, **plain[0]}, {**before, **plain[1]}, parts)
        sealed = {n: fields.resealed(light.run_id, n, whole[n], now[n]) for n in opened}
        return {**whole, **sealed}

    return RunRow(
        light.run_id,
        core.codec.rewritten_state(light, merged),
        run if "state" in parts and run is not None else light.run,
    )


async def _put_children(tx: Transaction, run_id: str, records: Iterable[Record], parts: set[str]) -> None:
    replaces: str | None = run_id
    for record in records:
        if "outputs" in parts and record.get("steps"):
            rows = [ChildRow(run_id, data.encode(), key) for key, data in record["steps"]]
            await tx.put_children("step", rows, replaces=replaces)
            replaces = None
        if "spans" in parts and record.get("spans"):
            rows = [ChildRow(run_id, data.encode(), key) for key, data in record["spans"]]
            is_all = "state" in record and record.get("last") is True  # a trace is made of all spans
            await tx.put_children("span", rows, replaces=run_id if is_all else None)
