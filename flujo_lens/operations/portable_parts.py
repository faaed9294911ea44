"""What of a run is moved: parts that are left out, secrets that are masked, fields that a target cannot hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flujo_lens.redaction import MASK, Redactor
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.state.backends.core.record_spool import RecordSpool
from flujo_lens.state.backends.core.run_codec import history_facts
from flujo_lens.state.deletion import Record
from flujo_lens.state.interpret import raw_from_documents, summarise
from flujo_lens.state.portable import CHILDREN, MARK
from flujo_lens.state.stripped import PARTS, Stripped, light_run, light_spans, light_state, light_step
from flujo_lens.state.views import RunSummary

__all__ = ["PARTS", "PortableParts", "Selected"]

Document = dict[str, Any]

_SPAN_VALUES = frozenset(
    {"step_input", "step_output", "output", "flujo.input", "flujo.output", "flujo.step.output", "initial_input"}
)
"""Attributes of spans that repeat inputs and outputs."""

_HEADS = ("state", "run")
_WORDS = {"state": "states", "run": "runs"}


class PortableParts:
    """Makes what is moved of the records of runs.

    Args:
        without: Of `PARTS`, those that are left out. What stays is what `lens prune --strip` leaves.
        redactor: Masks secrets; None to mask nothing. Sealed values, which cannot be searched, are masked whole.
        fields: As of `StateBackend.portable_fields`.
        now: When parts are left out; the present.
    """

    def __init__(
        self,
        without: Collection[str] = (),
        redactor: Redactor | None = None,
        fields: Mapping[str, Collection[str]] | None = None,
        now: datetime | None = None,
    ) -> None:
        self._now = now or datetime.now(UTC)
        self._without, self._redactor, self._fields = frozenset(without), redactor, fields

    def applied(self, records: RecordSpool, lost: Counter[str]) -> RecordSpool:
        """What is moved of some records; what is lost is counted by description."""
        return records.changed(lambda record: self.of(record, lost))

    def of(self, record: Record, lost: Counter[str]) -> Record:
        """What is moved of a record; what is lost is counted by description."""
        if "problem" in record:
            return record
        lost.update(record.get("lost", {}))
        made = {name: value for name, value in record.items() if name != "lost"}
        if self._without:
            made = _without(made, self._without, self._now)
        if self._redactor is not None:
            made = self._each(made, self._masked, lost)
        return made if self._fields is None else self._each(made, self._held, lost)

    def _each(self, record: Record, change: Any, lost: Counter[str]) -> Record:
        """A record whose documents are changed."""
        heads = {name: change(name, record[name], lost) for name in _HEADS if record.get(name) is not None}
        rows = {name: [change(name, row, lost) for row in record[name]] for name in CHILDREN if name in record}
        return {**record, **heads, **rows}

    def _masked(self, kind: str, document: Document, lost: Counter[str]) -> Document:
        assert self._redactor is not None
        sealed = [name for name, value in document.items() if is_sealed(value)]
        lost.update({"sealed values, which are masked whole": len(sealed)} if sealed else {})
        masked: Document = self._redactor.value({**document, **dict.fromkeys(sealed, MASK)})
        return masked

    def _held(self, kind: str, document: Document, lost: Counter[str]) -> Document:
        """The fields of a document that the target can hold."""
        assert self._fields is not None
        known = self._fields[kind]
        if known.issuperset(document) if isinstance(known, frozenset) else all(name in known for name in document):
            return document
        strange = [name for name, value in document.items() if name not in known and name != MARK]
        lost.update(f"{name} of {_WORDS.get(kind, kind)}" for name in strange if document[name] is not None)
        return {name: value for name, value in document.items() if name in known}


def _without(record: Record, parts: Collection[str], now: datetime) -> Record:
    """A record without some parts, as ``lens prune --strip`` leaves a run, with the note of what is left out."""
    made = dict(record)
    if "state" in made:
        run = _summary(made)
        old = Stripped.earlier(Stripped.from_dict(made.get("stripped")), run.updated_at)
        missing = {**dict.fromkeys(parts, now), **old.parts}
        left_out = old.left_out | (frozenset(parts) - old.parts.keys())
        note = Stripped(missing, run.updated_at, run.updated_at, len(made.get("steps", ())), left_out=left_out)
        made["stripped"] = note.to_dict()
        for name, light in (("state", light_state), ("run", light_run)):
            made[name] = None if made[name] is None else light(made[name], parts)
        if "spans" in parts and "spans" in made:
            made["spans"] = light_spans(made["spans"], run.status)
    elif "spans" in parts:
        made.pop("spans", None)
    if "steps" in made:
        made["steps"] = [light_step(step, parts) for step in made["steps"]]
    if "outputs" in parts and "spans" in made:
        made["spans"] = [_span_without_values(span) for span in made["spans"]]
    return made


def _summary(record: Record) -> RunSummary:
    raw = raw_from_documents(record["run_id"], record["state"], record["run"])
    spans = [{"parent_span_id": None, "end_time": None, **span} for span in record.get("spans", ())]
    history_facts(raw, spans, record.get("steps", ()))
    return summarise(raw)


def _span_without_values(span: Document) -> Document:
    attributes = span.get("attributes")
    if not isinstance(attributes, dict):
        return {**span, "attributes": {}} if is_sealed(attributes) else span
    return {**span, "attributes": {name: value for name, value in attributes.items() if name not in _SPAN_VALUES}}


class Selected:
    """The records of some of the runs; can be gone through several times."""

    def __init__(self, records: RecordSpool, run_ids: Collection[str]) -> None:
        self._records, self._ids = records, frozenset(run_ids)

    def __iter__(self) -> Iterator[Record]:
        return (record for record in self._records if record["run_id"] in self._ids)
