"""The table of ``lens doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flujo_lens.cli.output import Output
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding

_NARROW = 70
"""Width in cells below which the count is omitted."""


def draw_findings(out: Output, found: Sequence[Finding]) -> None:
    """Print a line per check, in the width of the terminal, with the repair below each problem."""
    if not out.folds:
        _print_whole(out, found)
        return
    is_narrow = out.app.world.columns < _NARROW
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    if not is_narrow:
        grid.add_column(no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    for finding in found:
        mark, meaning = _mark(finding), Text(_shown(out, finding.detail))
        if finding.fix:
            meaning.append(f"\n{_shown(out, finding.fix)}", "" if finding.ok else "bold")
        count = [] if is_narrow else [_count(finding)]
        grid.add_row(mark, escape_controls(finding.check), *count, meaning)
    out.print(grid)


def _print_whole(out: Output, found: Sequence[Finding]) -> None:
    """The same on lines of any length."""
    names = max((len(escape_controls(finding.check)) for finding in found), default=0)
    counts = max((len(_count(finding)) for finding in found), default=0)
    for finding in found:
        line = Text().append_text(_mark(finding))
        line.append(f"{' ' * (7 - line.cell_len)}{escape_controls(finding.check):<{names}}  ")
        out.print(line.append(f"{_count(finding):>{counts}}  {_shown(out, finding.detail)}"))
        if finding.fix:
            out.indented(_shown(out, finding.fix), 7 + names + 2 + counts + 2)


def _mark(finding: Finding) -> Text:
    return Text("ok", "green") if finding.ok else Text("WRONG", "red")


def _count(finding: Finding) -> str:
    return human.count(finding.count) if finding.count else ""


def _shown(out: Output, text: str) -> str:
    return escape_controls(out.redactor.text(text))
