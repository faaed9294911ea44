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

__all__ = ["draw_findings"]

_NARROW = 70
"""Width in cells below which the count is omitted."""


def draw_findings(out: Output, found: Sequence[Finding]) -> None:
    """Print a line per check, in the width of the terminal, with the repair below each problem."""
    is_narrow = out.app.world.columns < _NARROW
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    if not is_narrow:
        grid.add_column(no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    for finding in found:
        mark = Text("ok", "green") if finding.ok else Text("WRONG", "red")
        meaning = Text(escape_controls(out.redactor.text(finding.detail)))
        if finding.fix:
            meaning.append(f"\n{escape_controls(out.redactor.text(finding.fix))}", "" if finding.ok else "bold")
        count = [] if is_narrow else [human.count(finding.count) if finding.count else ""]
        grid.add_row(mark, escape_controls(finding.check), *count, meaning)
    out.print(grid)
