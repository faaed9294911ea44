"""The columns of runs that are sorted by one of their figures."""

from __future__ import annotations

from flujo_lens.rendering import human
from flujo_lens.rendering.columns import RUN
from flujo_lens.rendering.views import Shown, View, plain_fields

_SORTED: dict[str, Shown] = {
    "updated": Shown("UPDATED", lambda run, shown: shown.time(run.updated_at), 95),
    "duration": Shown("TIME", lambda run, _: human.duration(run.duration_ms), 95, "right"),
    "cost": Shown("COST", lambda run, _: human.money(run.cost_usd), 95, "amount"),
    "tokens": Shown("TOKENS", lambda run, _: human.count(run.tokens), 95, "right"),
    "size": Shown("SIZE", lambda run, _: human.size(run.size_bytes), 95, "right"),
}


def run_view(sort: str) -> View:
    """The view of runs that are sorted by a field, whose column it has next to the id."""
    figure = _SORTED[sort]
    others = tuple(column for column in RUN.table[1:] if column.title != figure.title)
    fields = (*RUN.fields, *plain_fields("size_bytes")) if sort == "size" else RUN.fields
    return RUN._replace(fields=fields, table=(RUN.table[0], figure, *others))
