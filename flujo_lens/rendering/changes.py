"""The columns of failures against the usual."""

from __future__ import annotations

from typing import Any

from flujo_lens.rendering import human
from flujo_lens.rendering.columns import Field, Shown, View
from flujo_lens.rendering.groups import hour_text
from flujo_lens.rendering.human import Human


def change_view(by: str) -> View:
    """The view of failures by ``version`` or ``hour``."""
    name, title = ("pipeline_version", "VERSION") if by == "version" else ("hour", "HOUR")
    fields = (
        Field("pipeline_name", lambda change: change.pipeline_name),
        Field(name, lambda change: change.key),
        Field("error", lambda change: change.group.error),
        Field("count", lambda change: change.group.count),
        Field("runs", lambda change: change.runs),
        Field("usual", lambda change: round(change.usual, 3)),
        Field("new", lambda change: change.new),
        Field("first_at", lambda change: change.group.first_at),
        Field("last_at", lambda change: change.group.last_at),
        Field("step_name", lambda change: change.group.step_name),
        Field("sample_run_id", lambda change: change.group.sample_run_id),
    )
    table = (
        Shown("", lambda change, _: "NEW" if change.new else "", 100),
        Shown("PIPELINE", lambda change, _: change.pipeline_name, 95, "name"),
        Shown(title, lambda change, shown: change.key if by == "version" else hour_text(change.key, shown), 98, "name"),
        Shown("FAILED", lambda change, _: human.count(change.group.count), 97, "right"),
        Shown("OF", lambda change, _: human.count(change.runs or None), 50, "right"),
        Shown("USUAL", _usual, 96, "right"),
        Shown("FIRST", lambda change, shown: shown.time(change.group.first_at), 70),
        Shown("STEP", lambda change, _: change.group.step_name or "-", 40),
        Shown("ERROR", lambda change, _: change.group.error, 100, "fold"),
        Shown("EXAMPLE", lambda change, _: change.group.sample_run_id, 45, "id"),
    )
    return View("change", fields, table, "sample_run_id")


def _usual(change: Any, _: Human) -> str:
    if not change.usual:
        return "none"
    return "<1" if change.usual < 1 else f"{change.usual:,.0f}"
