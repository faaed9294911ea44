"""What one save changes of a run: made before anything waits, written inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.port import ChildRow, RunRow, Transaction
from flujo_lens.state.backends.core.rows import end_row, run_row, span_rows, step_row, trace_rows
from flujo_lens.state.backends.core.run_codec import RunCodec

if TYPE_CHECKING:
    from flujo_lens.state.claims import Progress


class RunChanges(NamedTuple):
    """The parts of a save; those that are None stay as they are.

    Attributes:
        state: The document of its state.
        run: The document of its metadata.
        end: Fields of its metadata that change.
        steps: Executions of steps that are added.
        spans: Spans that are added, each in place of one with its id; None where no spans are meant.
        replaces_spans: Whether all spans of before go.
        started: The start of a run that was not announced.
    """

    run_id: str
    state: bytes | None = None
    run: bytes | None = None
    end: JSONObject | None = None
    steps: Sequence[ChildRow] = ()
    spans: Sequence[ChildRow] | None = None
    replaces_spans: bool = False
    started: object = None

    @property
    def has_history(self) -> bool:
        """Whether a run without metadata is announced by this save."""
        return bool(self.end is not None or self.steps or self.spans)

    def applied(self, row: RunRow, codec: RunCodec) -> RunRow:
        """The run as it is after this save, its children apart."""
        state = row.state if self.state is None else self.state
        run = row.run if self.run is None else self.run
        if run is None and (self.has_history or (self.spans is not None and row != RunRow(self.run_id))):
            run = codec.row("run", self.run_id, run_row({"run_id": self.run_id, "created_at": self.started}))
        if self.end is not None:
            run = codec.merged("run", self.run_id, run, self.end)
        return RunRow(self.run_id, state, run)

    async def put_children(self, tx: Transaction, *, is_known: bool) -> None:
        """Write the steps and spans. Spans that are none leave an unknown run unknown."""
        if self.steps:
            await tx.put_children("step", self.steps)
        if self.spans or (self.spans is not None and self.replaces_spans and is_known):
            await tx.put_children("span", self.spans, replaces=self.run_id if self.replaces_spans else None)


def step_changes(codec: RunCodec, data: JSONObject) -> RunChanges:
    """One execution of a step, from what `save_step_result` is given."""
    row = step_row(data)
    run_id = row["run_id"]
    started = row.get("start_time") or row["created_at"]
    return RunChanges(run_id, steps=[codec.child("step", run_id, row)], started=started)


def span_changes(codec: RunCodec, run_id: str, spans: Sequence[JSONObject]) -> RunChanges:
    """Spans, from what `save_spans` is given."""
    return RunChanges(run_id, spans=[codec.child("span", run_id, row, row["span_id"]) for row in span_rows(spans)])


def trace_changes(codec: RunCodec, run_id: str, trace: JSONObject) -> RunChanges:
    """All spans of a run, from what `save_trace` is given."""
    rows = [codec.child("span", run_id, row, row["span_id"]) for row in trace_rows(trace)]
    return RunChanges(run_id, spans=rows, replaces_spans=True)


def end_changes(codec: RunCodec, run_id: str, data: JSONObject) -> RunChanges:
    """The end of a run, from what `save_run_end` is given."""
    return RunChanges(run_id, end=codec.plain(end_row(data)))


def changes_of(codec: RunCodec, progress: Progress) -> RunChanges:
    """All parts of one save of progress."""
    run_id = progress.run_id
    made = RunChanges(run_id)
    if progress.step is not None:
        made = step_changes(codec, {**progress.step, "run_id": run_id})
    if progress.spans:
        made = made._replace(spans=span_changes(codec, run_id, list(progress.spans)).spans)
    if progress.run_end is not None:
        made = made._replace(end=end_changes(codec, run_id, progress.run_end).end)
    if progress.run_start is not None:
        made = made._replace(run=codec.row("run", run_id, run_row({**progress.run_start, "run_id": run_id})))
    return made if progress.state is None else made._replace(state=codec.state(run_id, progress.state))
