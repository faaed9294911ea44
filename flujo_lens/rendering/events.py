"""The rows of ``lens watch``: of its table, and one for each event in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo_lens.rendering import human
from flujo_lens.rendering.columns import RUN, Field, Shown, View
from flujo_lens.rendering.human import Human

__all__ = ["ACTIVITY", "EVENT", "event_text"]

_NEEDS = {"NOTE": 86, "TIME": 85, "STEP": 62, "PIPELINE": 60, "STARTED": 40}

ACTIVITY = RUN._replace(
    table=tuple(column._replace(need=_NEEDS.get(column.title, column.need)) for column in RUN.table)
)
"""Runs with a line each: the time that they run matters more than when they started."""


def _of_run(name: str) -> Field:
    return Field(name, lambda event: getattr(event.run, name) if event.run is not None else None)


def _of_part(name: str, *parts: str) -> Field:
    """A field of the step or span; of the run for other events, if `parts` names it."""

    def get(event: Any) -> Any:
        if event.event in ("step", "span"):
            found = getattr(event, event.event) if event.event in parts else None
        else:
            found = event.run if "run" in parts else None
        return getattr(found, name, None)

    return Field(name, get)


def _status(event: Any) -> Any:
    part = event.step or event.span or event.run
    return None if part is None else part.status


def _name(part: str, name: str) -> Callable[[Any], Any]:
    return lambda event: getattr(getattr(event, part), name) if getattr(event, part) is not None else None


EVENT = View(
    name="event",
    fields=(
        Field("at", lambda event: event.at),
        Field("event", lambda event: event.event),
        *map(_of_run, ("run_id", "pipeline_name", "pipeline_version")),
        Field("status", _status),
        _of_part("step_index", "step"),
        _of_part("step_name", "run", "step"),
        Field("span_id", _name("span", "span_id")),
        Field("span_name", _name("span", "name")),
        _of_part("duration_ms", "run", "step", "span"),
        _of_part("cost_usd", "step"),
        _of_part("token_counts", "step"),
        Field("message", lambda event: event.message),
    ),
    table=(Shown("", lambda event, _: event.event, 100),),
    id="run_id",
)


def event_text(event: Any, shown: Human) -> str:
    """An event as a line for people; secrets are masked, controls are not escaped yet."""
    parts = [shown.clock(event.at or shown.now), f"{event.event:<10}"]
    if event.run is not None:
        parts.append(event.run.run_id)
    for part, name in ((event.step, "step_name"), (event.span, "name")):
        if part is not None:
            parts += [getattr(part, name), part.status, human.duration(part.duration_ms)]
    if event.step is None and event.span is None and event.run is not None:
        parts.append(f"{event.run.pipeline_name} {event.run.pipeline_version}")
    return "  ".join([*parts, *([shown.mask(event.message)] if event.message else [])])
