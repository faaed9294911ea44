"""A history written anew: the same, with other rows of one kind. What is sealed in it stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flujo_lens.state.backends.file.format.history_lines import line_of

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.core.port import ChildKind
    from flujo_lens.state.backends.file.format.history import History


def lines_of(codec: StateCodec, history: History, kind: ChildKind, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """All lines of a run's history, as it was read unopened, with these rows in place of those of their kind."""
    spans = rows if kind == "span" else list(history.spans.values())
    steps = rows if kind == "step" else history.steps
    scores = rows if kind == "evaluation" else history.evaluations
    lines = [line_of(codec, history.run_id, name, data, is_stored=True) for name, data in _run_lines(history)]
    lines += [line_of(codec, history.run_id, "step", step, is_stored=True) for step in steps]
    lines += [line_of(codec, history.run_id, "trace", {"spans": spans}, is_stored=True)] if spans else []
    lines += [line_of(codec, history.run_id, "evaluation", score, is_stored=True) for score in scores]
    return b"".join(lines)


def _run_lines(history: History) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if history.run is not None:
        yield "run_start", history.run
    if history.manifest is not None:
        yield "manifest", {"manifest": history.manifest}
