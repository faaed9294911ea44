"""The rows of ``lens watch``: of its table, and one for each event in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo_lens.rendering import human
from flujo_lens.rendering.columns import RUN
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.views import Field, Shown, View


def _time(run: Any, shown: Human) -> str:
    """How long a run took or runs; of a paused one, how long it waits."""
    return shown.since(run.updated_at) if run.status == "paused" else human.duration(run.duration_ms)


_CHANGES: dict[str, dict[str, Any]] = {
    "NOTE": {"need": 86},
    "TIME": {"need": 85, "cell": _time},
    "STATUS": {"cell": lambda run, _: run.status if run.stale is None else "stale"},
    "PIPELINE": {"need": 42},
    "STEP": {"need": 41},
    "STARTED": {"need": 40},
}

ACTIVITY = RUN._replace(table=tuple(column._replace(**_CHANGES.get(column.title, {})) for column in RUN.table))
"""Runs with a line each: how they are, for how long, and why matters more than which pipeline and step it is."""


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
