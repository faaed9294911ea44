"""``lens help formatting``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flujo_lens.cli.context import App

if TYPE_CHECKING:
    from flujo_lens.rendering.views import View

FORMATS: dict[str, str] = {
    "table": "for people, in the width of the terminal",
    "tsv": "a header and a row per item, tab-separated; \\t \\n \\r \\\\ are escapes",
    "csv": "the same as RFC 4180; a cell that a spreadsheet would run as a formula gets an apostrophe (--raw: none)",
    "json": "one document",
    "ndjson": "one JSON object per line, each written as soon as it is read",
    "id": "only ids, one per line, as every command accepts them",
}
"""Output format -> how it looks."""


def lines(app: App) -> Iterator[str]:
    """The formats, the default of each, columns, times and colors."""
    yield "-o FORMAT, or --output FORMAT:"
    yield ""
    yield from (f"  {name:<8}{about}" for name, about in FORMATS.items())
    yield ""
    yield from _DEFAULTS
    yield ""
    yield "--columns a,b,c selects and orders the fields, in every format. The fields of:"
    yield ""
    for view, commands in _views():
        yield f"  {commands}"
        yield f"{_INDENT}{', '.join(field.name for field in view.fields)}"
    yield ""
    yield from _TIMES


def _views() -> Iterator[tuple[View, str]]:
    from flujo_lens.rendering import columns

    yield columns.RUN, "list, failed --flat"
    yield columns.WAITING, "waiting"
    yield columns.FAILURE, "failed"
    yield columns.STEP, "show"
    yield columns.SPAN, "trace, spans"
    yield columns.STATS, "stats -o json; the rows of other formats are its by_pipeline"
    yield columns.STATUS, "status"
    yield columns.CHECK, "check"
    yield columns.TASK, "tasks list"
    yield columns.EVALUATION, "evals"
    yield columns.SYSTEM, "system list"
    yield columns.AUDIT, "audit list"
    yield columns.FINDING, "doctor"
    yield columns.CONFIG, "config"
    yield columns.STORE, "stores"
    yield columns.EXPLANATION, "explain"


_INDENT = " " * 6
_DEFAULTS = (
    "Without -o, a terminal gets a screen or table. In a pipe or file, lists are TSV: list, failed, waiting, spans, "
    "tasks, evals, system, audit, undo. Documents are the plain text of their screen, without color, with nothing "
    "cut or folded: status, show, trace, stats, diff, doctor, check, config, stores, explain. With --columns, they are "
    "TSV, too.",
    "",
    "Scripts should name the format: a screen may change with every version.",
)
_TIMES = (
    "Times are UTC with a Z in machine formats. On screens, they are ages (3h ago); --time local and --time iso show "
    "instants, --utc in UTC.",
    "",
    "Colors mark statuses only, and never alone: --color always, --color never, NO_COLOR and FORCE_COLOR.",
    "",
    "Text from a store is data: control characters and terminal escapes are shown as \\x1b or \\u202e.",
)
