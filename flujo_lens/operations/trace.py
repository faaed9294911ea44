"""The spans of a run, from a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flujo_lens.operations.runs import read_run
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.stripped import Stripped
from flujo_lens.state.views import RunSummary, Span


class Trace(NamedTuple):
    """The span trees of a run; `run` is None if they come from a file, `lost` tells that spans were dropped."""

    roots: Sequence[Span]
    run: RunSummary | None = None
    lost: Stripped | None = None


async def read_trace(backend: StateBackend, text: str, unescaped: str | None = None) -> Trace:
    """The spans of the run that `text` names."""
    run = (await read_run(backend, text, unescaped)).run
    note = (await backend.read_stripped([run.run_id])).get(run.run_id)
    lost = note if note is not None and "spans" in note.parts else None
    return Trace(await backend.read_spans(run.run_id), run, lost)


def pick_spans(spans: Sequence[Span], statuses: frozenset[str], name: str | None) -> list[Span]:
    """The flat spans with these statuses (any if empty) and this name."""
    return [span for span in spans if (not statuses or span.status in statuses) and (name is None or span.name == name)]
