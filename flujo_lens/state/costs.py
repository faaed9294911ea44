"""Costs, tokens and models of steps: the rules shared by all drivers.

The library writes cost and tokens of a step into its entry in the step history. The cost of an entry includes that of
the steps inside it (a loop, parallel branches). No version writes the model; it is where an application, an agent
framework or an OpenTelemetry instrumentation left it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flujo_lens.state.numbers import BEYOND_SENSE, as_int, as_number
from flujo_lens.state.views import Span, StepRecord

DIGITS = 9
"""Decimals to which sums of costs are rounded, so that they do not depend on the order of adding."""

MODEL_KEYS = (
    "gen_ai.response.model",
    "gen_ai.request.model",
    "llm.model_name",
    "llm.request.model",
    "ai.model.id",
    "flujo.agent.model",
    "flujo.model",
    "flujo.model_id",
    "model_name",
    "model_id",
    "model",
)
"""Keys of a model's name, in the attributes of spans, the metadata of steps and their outputs; the first counts.

``gen_ai.*`` are those of the OpenTelemetry conventions, ``llm.*`` those of OpenInference.
"""

_TOKEN_TOTALS = ("total", "total_tokens", "token_counts")


def tokens_of(value: Any) -> int | None:
    """The tokens of a step: a number, or counts by kind, of which the total or else the sum counts."""
    if value is None or value.__class__ is int or not isinstance(value, Mapping):
        return as_int(value)
    for key in _TOKEN_TOTALS:
        if (total := as_int(value.get(key))) is not None:
            return total
    counts = [count for count in map(as_int, value.values()) if count is not None]
    return sum(counts) if counts else None


def total_of(pairs: Iterable[tuple[Any, Any]]) -> tuple[float | None, int | None]:
    """The sums of stored costs and tokens; each None if no step has any."""
    costs, tokens = [], []
    for cost, count in pairs:
        if cost is not None and (number := as_number(cost)) is not None:
            costs.append(number)
        if count is not None and (whole := tokens_of(count)) is not None:
            tokens.append(whole)
    return (round(float(sum(costs)), DIGITS) if costs else None), (sum(tokens) if tokens else None)


def total_of_history(entries: Iterable[Any]) -> tuple[float | None, int | None, int]:
    """As `total_of`, of the entries of a step history, and how many of them are objects.

    Nearly all have a plain number each, so these are taken first.
    """
    costs, tokens, count = [], [], 0
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        count += 1
        cost, many = entry.get("cost_usd"), entry.get("token_counts")
        if cost.__class__ is float and -BEYOND_SENSE < cost < BEYOND_SENSE:
            costs.append(cost)
        elif cost is not None and (number := as_number(cost)) is not None:
            costs.append(number)
        if many.__class__ is int and -BEYOND_SENSE < many < BEYOND_SENSE:
            tokens.append(many)
        elif many is not None and (whole := tokens_of(many)) is not None:
            tokens.append(whole)
    return (round(float(sum(costs)), DIGITS) if costs else None), (sum(tokens) if tokens else None), count


def model_in(values: Any) -> str | None:
    """The model named in attributes, metadata or an output; None if there is none."""
    if not isinstance(values, Mapping):
        return None
    found = (values.get(key) for key in MODEL_KEYS)
    return next((name for name in found if isinstance(name, str) and name), None)


def with_models(steps: Sequence[StepRecord], spans: Sequence[Span]) -> list[StepRecord]:
    """Steps with the models that their spans name: those of a step's own span, or else of the spans below it.

    Args:
        steps: The steps of a run, in order.
        spans: Its spans, parents before their children. The nth execution of a step has the nth span of its name.
    """
    named = _models_by_name(spans)
    made = []
    for step in steps:
        waiting = named.get(step.step_name, [])
        model = waiting.pop(0) if len(waiting) > 1 else waiting[0] if waiting else None
        made.append(step if step.model or model is None else step._replace(model=model))
    return made


def _models_by_name(spans: Sequence[Span]) -> dict[str, list[str | None]]:
    """The models of the spans of each name, in order of their start."""
    below: dict[str, list[str]] = {span.span_id: [] for span in spans}
    for span in reversed(spans):  # children first
        own = model_in(span.attributes)
        found = below[span.span_id] = [own] if own else list(dict.fromkeys(reversed(below[span.span_id])))
        if span.parent_span_id in below:
            below[span.parent_span_id] += reversed(found)
    named: dict[str, list[str | None]] = {}
    for span in sorted(spans, key=lambda span: (span.start_offset_ms is None, span.start_offset_ms or 0.0)):
        named.setdefault(span.name, []).append(", ".join(below[span.span_id]) or None)
    return named
