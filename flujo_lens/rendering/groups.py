"""The columns of grouped statistics, and of failures against the usual: they depend on what is grouped by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from flujo_lens.rendering import columns, human
from flujo_lens.rendering.columns import STATUS_NEEDS, status_count
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.views import Field, Shown, View
from flujo_lens.state.statistics import GroupStats

_FIELDS = {"pipeline": "pipeline_name", "version": "pipeline_version", "step": "step_name"}
"""The public names of what runs are grouped by, where they differ from those of ``--by``."""

_NEEDS = {"COST": 88}
"""On a narrow terminal, the trend of a group counts less than its statuses, and more than its cost."""

_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = ".:-=+*#@"


def spark_line(counts: Sequence[int], *, unicode: bool = True) -> str:
    """Counts as a line of bars, the highest for the greatest count; a dot (or ``_``) for none."""
    bars, top = _BARS if unicode else _PLAIN_BARS, max(counts, default=0)
    nothing = "·" if unicode else "_"
    return "".join(bars[(count * len(bars) - 1) // top] if count else nothing for count in counts)


def group_view(
    by: Sequence[str], groups: Sequence[GroupStats], *, of_steps: bool, unicode: bool, narrow: bool = False
) -> View:
    """The view of groups; statuses that none of `groups` has get no column in tables.

    With `narrow`, a cell of a trend in tables stands for two.
    """
    names = [_FIELDS.get(name, name) for name in by]
    keys = [Field(name, _key(at)) for at, name in enumerate(names)]
    shown = [_shown(name, at) for at, name in enumerate(by)]
    timed = bool(groups and groups[0].trend)
    fields = (
        *keys,
        *columns.counted_fields(),
        *([Field("trend", lambda group: list(group.trend))] if timed else []),
    )
    of_day = timed and len(groups[0].trend) == 24
    title = ("BY 2 HOURS" if narrow else "BY HOUR") if of_day else "BY 10 MIN" if narrow else "BY 5 MIN"
    trend = Shown(title, lambda group, _: spark_line(_joined(group.trend, 1 + narrow), unicode=unicode), 89)
    table = (*shown, *columns.counted_columns("STEPS" if of_steps else "RUNS"), *([trend] if timed else []))
    view = with_statuses(View("group", fields, table, names[0]), groups)
    return view._replace(
        table=tuple(column._replace(need=_NEEDS.get(column.title, column.need)) for column in view.table)
    )


def _joined(counts: Sequence[int], number: int) -> list[int]:
    """The sums of so many counts each."""
    return [sum(counts[at : at + number]) for at in range(0, len(counts), number)]


def with_statuses(view: View, items: Iterable[Any]) -> View:
    """A view of counts without the columns of statuses that none of the items has, and with those of others."""
    there = dict.fromkeys(status for item in items for status in item.by_status if item.by_status[status])
    known = {status.upper() for status in STATUS_NEEDS}
    gone = known - {status.upper() for status in there}
    table = [column for column in view.table if column.title not in gone]
    others = [Shown(s.upper(), status_count(s), 90, "right") for s in there if s not in STATUS_NEEDS]
    at = next(i for i, column in enumerate(table) if column.title == "AVG")
    return view._replace(table=(*table[:at], *others, *table[at:]))


def grouped_stats_view(view: View) -> View:
    """The view of the whole document, with what is grouped by and the groups in the view `view`."""
    fields = (
        *columns.STATS.fields,
        Field("by", lambda stats: list(stats.by)),
        Field("groups", lambda stats: [view.row(group) for group in stats.groups]),
    )
    return columns.STATS._replace(fields=fields)


def _key(at: int) -> Callable[[Any], Any]:
    return lambda group: group.key[at]


def _shown(name: str, at: int) -> Shown:
    style = "fold" if name == "error" else "name"
    title = name.removeprefix("meta:").upper()
    return Shown(title, lambda group, shown: _text(name, group.key[at], shown), 100, style, masks=name != "error")


def _text(name: str, value: str | None, shown: Human) -> str:
    if value is None:
        return "-"
    if name.startswith("meta:"):
        return shown.under(name, value)
    return hour_text(value, shown) if name == "hour" else value


def hour_text(value: str, shown: Human) -> str:
    """An hour in the user's zone, with its offset from UTC where that is not zero."""
    try:
        when = datetime.fromisoformat(value).astimezone(shown.zone)
    except ValueError:
        return value
    offset = f"{when:%z}"
    return f"{when:%Y-%m-%d %H}h" if offset == "+0000" else f"{when:%Y-%m-%d %H}h {offset[:3]}:{offset[3:5]}"


def total_line(cost: float | None, tokens: int | None) -> str:
    """Cost and tokens of all runs for the head line; empty if none was recorded."""
    parts = [f"cost {human.money(cost)}"] if cost else []
    return ", ".join([*parts, *([human.plural(tokens, "token")] if tokens else [])])


# --- failures against the usual


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
        Field("compared", lambda change: change.compared),
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
        Shown("STEP", lambda change, _: change.group.step_name or "-", 40, below="at "),
        Shown("ERROR", lambda change, _: change.group.error, 100, "fold"),
        Shown("EXAMPLE", lambda change, _: change.group.sample_run_id, 45, "id", below="example: ", below_need=30),
    )
    return View("change", fields, table, "sample_run_id")


def _usual(change: Any, _: Human) -> str:
    if not change.usual:
        return "none" if change.compared else "?"
    return "<1" if change.usual < 1 else f"{change.usual:,.0f}"
