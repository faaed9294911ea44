"""Runs and what belongs to them as the documents that a store keeps, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any

from flujo_lens.errors import RESTORE, CorruptStoreError, LensError
from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.serialization.codec import SEALED, StateCodec
from flujo_lens.state import interpret
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, micros
from flujo_lens.state.backends.core.rows import as_object, filled
from flujo_lens.state.backends.core.validation import check_codec
from flujo_lens.state.costs import total_of
from flujo_lens.state.numbers import as_number

_SEALED: dict[str, tuple[str, ...]] = {
    "run": ("final_context",),
    "step": ("input", "output", "raw_response", "error"),
    "span": ("attributes",),
    "evaluation": (),
}
"""The fields of history that are sealed where layers apply; a store may have sealed more. Those of a state are
`flujo_lens.serialization.codec.SEALED_FIELDS`."""


class RunCodec:
    """Serializes, seals and opens the documents of runs.

    Args:
        serializer_default, envelope, validate: As of `flujo_lens.serialization.codec.StateCodec`.
        zone: How naive times in states are read; None for UTC.
    """

    def __init__(
        self,
        serializer_default: Callable[[Any], Any] | None = None,
        *,
        envelope: Any = None,
        validate: Any = None,
        zone: tzinfo | None = None,
    ) -> None:
        check_codec(serializer_default, envelope, validate)
        self.zone: tzinfo = zone or UTC
        self._default = serializer_default
        self.fields = StateCodec(serializer_default, envelope=envelope, validate=validate)

    # --- from values to documents

    def dumps(self, value: Any) -> bytes:
        """A value as JSON, with the application's own types."""
        return safe_dumps(value, self._default)

    def plain(self, value: Any) -> Any:
        """A copy of a value in its JSON form."""
        return safe_loads(self.dumps(value))

    def state(self, run_id: str, state: JSONObject) -> bytes:
        """The document of a state; what is put in is marked, so that `as_saved` takes it out again.

        Raises:
            TypeError, InvalidStateError: it has no fields, or does not fit the model that states are checked against.
        """
        kept = filled(as_object(state, self._default), run_id)
        self.fields.check(kept)
        return self.fields.document(run_id, kept)

    def row(self, kind: str, run_id: str, row: Mapping[str, Any]) -> bytes:
        """The document of a ``run``, ``step``, ``span`` or ``evaluation``."""
        leaf = self.fields.leaf
        leaves = {name: leaf(run_id, name, row[name]) for name in _SEALED[kind] if row.get(name) is not None}
        return self.dumps({**row, **leaves})

    def merged(self, kind: str, run_id: str, stored: bytes | None, changes: Mapping[str, Any]) -> bytes:
        """A stored row with some fields changed; what is sealed in the others stays sealed, so no key is needed."""
        return self.dumps({**safe_loads(stored or b"{}"), **safe_loads(self.row(kind, run_id, changes))})

    def changed_state(self, row: RunRow, changes: Mapping[str, Any]) -> bytes | None:
        """The state of a run with some plain fields changed, as `merged`; None if it has none."""
        return self.rewritten_state(row, lambda state: {**state, **changes})

    def rewritten_state(self, row: RunRow, change: Callable[[JSONObject], JSONObject]) -> bytes | None:
        """The state of a run as `change` makes it of the stored one, in which sealed fields are texts; None if none."""
        if row.state is None or row.unreadable:
            return row.state
        return self.fields.document(row.run_id, change(safe_loads(row.state)), is_stored=True)

    def child(self, kind: ChildKind, run_id: str, row: Mapping[str, Any], key: str | None = None) -> ChildRow:
        """A row that belongs to a run."""
        return ChildRow(run_id, self.row(kind, run_id, row), key)

    # --- from documents to values, for applications

    def opened_state(self, row: RunRow | None) -> JSONObject | None:
        """The state of a run, or None.

        Raises:
            SealedStateError: it is encrypted, and the key is missing or another.
            CorruptStoreError: it does not parse, or what is sealed is damaged.
        """
        if row is None or row.state is None:
            return None
        if row.unreadable:
            raise CorruptStoreError(row.problems[0], hint=RESTORE, run_id=row.run_id)
        return self.fields.opened(row.run_id, safe_loads(row.state))

    def check(self, state: JSONObject) -> None:
        """See that a state fits the model that states are checked against, if there is one."""
        self.fields.check(state)

    def opened(self, kind: str, run_id: str, data: bytes | None) -> JSONObject | None:
        """A row of history, or None.

        Raises:
            SealedStateError, CorruptStoreError: as `opened_state`.
        """
        if data is None:
            return None
        row: JSONObject = safe_loads(data)
        names = self._sealed_names(kind, row)
        return {**row, **{name: self.fields.opened_leaf(run_id, name, row[name]) for name in names}} if names else row

    def _sealed_names(self, kind: str, row: JSONObject) -> Iterable[str]:
        """The fields of a stored row that may be sealed."""
        return [name for name in _SEALED[kind] if row.get(name) is not None]

    # --- for operators, who see what is closed as closed

    def shown(self, kind: str, run_id: str, data: bytes | None) -> JSONObject | None:
        """A row of history, or None; what cannot be opened is `SEALED`."""
        return None if data is None else self.shown_row(kind, run_id, safe_loads(data))

    def shown_row(self, kind: str, run_id: str, row: JSONObject) -> JSONObject:
        """The same of a row that is parsed."""
        names = self._sealed_names(kind, row)
        if not names:
            return row
        shown = {name: self._shown_leaf(run_id, name, row[name]) for name in names}
        if kind == "span" and shown.get("attributes") == SEALED:
            shown["attributes"] = {"unreadable": SEALED}
        return {**row, **shown}

    def _shown_leaf(self, run_id: str, name: str, leaf: Any) -> Any:
        try:
            return self.fields.opened_leaf(run_id, name, leaf)
        except LensError:
            return SEALED

    def shown_state(self, row: RunRow) -> JSONObject | None:
        """The state of a run, or None; fields that cannot be opened are `SEALED`."""
        if row.state is None or row.unreadable:
            return None
        return self.fields.shown(row.run_id, safe_loads(row.state))[0]

    def parsed(self, row: RunRow) -> tuple[JSONObject | None, JSONObject | None]:
        """The state and the metadata of a run as they are stored; a state that is unreadable is None."""
        state = None if row.state is None or row.unreadable else safe_loads(row.state)
        return state, None if row.run is None else safe_loads(row.run)

    def raw(self, row: RunRow) -> interpret.RawRun:
        """A run for the rules of `flujo_lens.state.interpret`, without what belongs to it."""
        return self.raw_of(row.run_id, *self.parsed(row), row.problems)

    def raw_of(
        self, run_id: str, state: JSONObject | None, run: JSONObject | None, problems: Sequence[str] = ()
    ) -> interpret.RawRun:
        """The same of documents that are parsed."""
        errors: Mapping[str, LensError] = {}
        if state is not None:
            state, errors = self.fields.shown(run_id, state)
            if errors:
                state = {name: value for name, value in state.items() if name not in errors}
        raw = interpret.raw_from_documents(run_id, state, None if run is None else self.shown_row("run", run_id, run))
        if errors:
            raw.problems.append(next(iter(errors.values())).message)
        raw.problems += problems
        return raw

    def opened_raw(self, raw: interpret.RawRun) -> interpret.RawRun:
        """A run that a driver has read by columns, with what is sealed in it opened."""
        if not (isinstance(raw.context, str) or isinstance(raw.history, str) or isinstance(raw.last_output, str)):
            return raw
        parts = {"pipeline_context": raw.context, "step_history": raw.history, "last_step_output": raw.last_output}
        opened, errors = self.fields.shown(raw.run_id, parts)
        if opened is not parts:
            opened = {name: None if name in errors else value for name, value in opened.items()}
            raw.context, raw.history, raw.last_output = opened.values()
        if errors:
            raw.problems.append(next(iter(errors.values())).message)
        return raw

    def index(self, raw: interpret.RawRun) -> RunIndex:
        """What a run is found by."""
        run = interpret.summarise(raw, self.zone)
        return RunIndex(
            micros(run.created_at),
            micros(run.updated_at),
            run.status,
            run.pipeline_name,
            run.pipeline_version,
            run.parent_run_id,
            run.is_background_task,
        )


def history_facts(raw: interpret.RawRun, spans: Sequence[JSONObject], steps: Iterable[JSONObject]) -> None:
    """Note in `raw` what spans and steps tell of a run that its documents do not: both in the order of saving."""
    raw.root_attributes = next((span["attributes"] for span in spans if span["parent_span_id"] is None), None)
    unended = [span for span in spans if span["end_time"] is None and span["parent_span_id"] is not None]
    raw.open_span = max(unended, key=lambda span: as_number(span["start_time"]) or 0.0)["name"] if unended else None
    steps = list(steps)
    last = {(step.get("step_index"), step.get("step_name")): step for step in steps}.values()
    cost, tokens = total_of((step.get("cost_usd"), step.get("token_counts")) for step in last)
    raw.stored_cost = raw.stored_cost if cost is None else cost
    raw.stored_tokens = raw.stored_tokens if tokens is None else tokens
    failed = [step for step in steps if step.get("status") == "failed"]
    if failed:
        error = failed[-1].get("error")
        raw.failed_step = failed[-1].get("step_name")
        raw.failed_step_error = None if error == SEALED else safe_dumps(error)
