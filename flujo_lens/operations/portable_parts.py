"""What of a run is moved: parts that are left out, secrets that are masked, fields that a target cannot hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flujo_lens.redaction import MASK, Redactor
from flujo_lens.serialization.envelope import is_sealed
from flujo_lens.state.backends.core.record_spool import RecordSpool
from flujo_lens.state.backends.core.run_codec import history_facts
from flujo_lens.state.deletion import Record
from flujo_lens.state.interpret import raw_from_documents, summarise
from flujo_lens.state.portable import CHILDREN, MARK, plain_run, run_of_state

__all__ = ["PARTS", "PortableParts", "Selected"]

Document = dict[str, Any]

PARTS = ("state", "spans", "outputs")
"""What can be left out."""

_OUTPUTS = {
    "state": ("last_step_output",),
    "run": ("final_context",),
    "steps": ("output", "raw_response"),
    "spans": (),
    "evaluations": (),
}
_SPAN_OUTPUTS = ("output", "step_output", "flujo.output", "flujo.step.output")
_HEADS = ("state", "run")
_WORDS = {"state": "states", "run": "runs"}


class PortableParts:
    """Makes what is moved of the records of runs.

    Args:
        without: Of `PARTS`, those that are left out. A run without its state keeps the status that it had.
        redactor: Masks secrets; None to mask nothing. Sealed values, which cannot be searched, are masked whole.
        fields: As of `StateBackend.portable_fields`.
    """

    def __init__(
        self,
        without: Collection[str] = (),
        redactor: Redactor | None = None,
        fields: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._without, self._redactor, self._fields = frozenset(without), redactor, fields

    @property
    def changes_records(self) -> bool:
        """Whether anything is left out or masked."""
        return bool(self._without or self._redactor)

    def of(self, record: Record, lost: Counter[str]) -> Record:
        """What is moved of a record; what is lost is counted by description."""
        if "problem" in record:
            return record
        lost.update(record.get("lost", {}))
        made = {name: value for name, value in record.items() if name != "lost"}
        if "spans" in self._without:
            made.pop("spans", None)
        if "outputs" in self._without:
            made = _without_outputs(made)
        if "state" in self._without and made.get("state") is not None:
            made |= {"state": None, "run": _run_alone(made)}
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


def _without_outputs(record: Record) -> Record:
    made = dict(record)
    for kind in _HEADS:
        if made.get(kind) is not None:
            made[kind] = {name: value for name, value in made[kind].items() if name not in _OUTPUTS[kind]}
    if made.get("state") is not None and "step_history" in made["state"]:
        made["state"]["step_history"] = _history_without_outputs(made["state"]["step_history"])
    for kind in CHILDREN:
        if kind in made:
            made[kind] = [_row_without_outputs(kind, row) for row in made[kind]]
    return made


def _history_without_outputs(history: Any) -> Any:
    if not isinstance(history, list):
        return None if is_sealed(history) else history
    return [
        {
            name: _history_without_outputs(value) if name == "step_history" else value
            for name, value in entry.items()
            if name not in ("output", "branch_context")
        }
        if isinstance(entry, dict)
        else entry
        for entry in history
    ]


def _row_without_outputs(kind: str, row: Document) -> Document:
    made = {name: value for name, value in row.items() if name not in _OUTPUTS[kind]}
    if kind == "spans" and isinstance(made.get("attributes"), dict):
        made["attributes"] = {name: value for name, value in made["attributes"].items() if name not in _SPAN_OUTPUTS}
    elif kind == "spans" and is_sealed(made.get("attributes")):
        made["attributes"] = {}
    return made


def _run_alone(record: Record) -> Document:
    """The metadata of a run whose state is left out, which says what the state alone said."""
    raw = raw_from_documents(record["run_id"], record["state"], record["run"])
    spans = [{"parent_span_id": None, "end_time": None, **span} for span in record.get("spans", ())]
    history_facts(raw, spans, record.get("steps", ()))
    run = summarise(raw)
    known = {
        "pipeline_name": run.pipeline_name,
        "pipeline_version": run.pipeline_version,
        "status": run.status,
        "error_message": run.error_message,
        "total_steps": run.total_steps,
        "updated_at": None if run.updated_at is None else run.updated_at.isoformat(),
    }
    return plain_run({**run_of_state(record["state"]), **(record["run"] or {}), **known})


class Selected:
    """What is moved of some records; can be gone through several times.

    Args:
        records: The records.
        parts: Makes what is moved.
        run_ids: The runs; None for all.

    Attributes:
        lost: What was lost when they were last gone through, by description.
    """

    def __init__(self, records: RecordSpool, parts: PortableParts, run_ids: Collection[str] | None = None) -> None:
        self._records, self._parts, self._ids = records, parts, run_ids
        self.lost: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Record]:
        self.lost = Counter()
        for record in self._records:
            if self._ids is None or record["run_id"] in self._ids:
                yield self._parts.of(record, self.lost)

    def only(self, run_ids: Collection[str]) -> Selected:
        """Those of these runs."""
        return Selected(self._records, self._parts, run_ids)
