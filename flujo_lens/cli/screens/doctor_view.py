"""The table of ``lens doctor``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flujo_lens.cli.output import Output
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import Finding

_PROGRAMS = "lens|flujo|sqlite3|redis-cli|SELECT|VACUUM"
"""What a command begins with."""

_NARROW = 70
"""Width in cells below which the count is omitted."""


def draw_findings(out: Output, found: Sequence[Finding]) -> None:
    """Print a line per check, in the width of the terminal, with the repair below each problem."""
    if not out.folds:
        _print_whole(out, found)
        return
    is_narrow = out.app.world.columns < _NARROW
    names = max((len(escape_controls(finding.check)) for finding in found), default=0)
    counts = 0 if is_narrow else max((len(_count(finding)) for finding in found), default=0)
    marks = max((_mark(finding).cell_len for finding in found), default=0)
    for finding in found:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True, min_width=marks)
        grid.add_column(no_wrap=True, min_width=names)
        if counts:
            grid.add_column(no_wrap=True, justify="right", min_width=counts)
        grid.add_column(overflow="fold")
        style, (words, command) = "" if finding.ok else "bold", split_command(finding.fix or "")
        meaning = Text(_shown(out, finding.detail))
        if words:
            meaning.append(f"\n{_shown(out, words)}", style)
        count = [_count(finding)] if counts else []
        grid.add_row(_mark(finding), escape_controls(finding.check), *count, meaning)
        out.print(grid)
        if command:
            indent = marks + 2 + names + 2 + (counts + 2 if counts else 0)
            _print_command(out, _shown(out, command), indent, style)


def split_command(fix: str) -> tuple[str, str]:
    """What is done and the command that does it, which is typed or pasted: ``to make them:``, ``lens optimize``."""
    found = re.search(rf"^(.*:) ((?:{_PROGRAMS}) .*)$", fix)
    return (found[1], found[2]) if found else (fix, "")


def _print_command(out: Output, command: str, indent: int, style: str) -> None:
    """A command on a line of its own, never folded: below its words where it fits, else further to the left."""
    room = max(out.app.world.columns - len(command), 0)
    out.console.print(Text(" " * min(indent, max(room, 2)) + command, style), soft_wrap=True)


def _print_whole(out: Output, found: Sequence[Finding]) -> None:
    """The same on lines of any length."""
    names = max((len(escape_controls(finding.check)) for finding in found), default=0)
    counts = max((len(_count(finding)) for finding in found), default=0)
    for finding in found:
        line = Text().append_text(_mark(finding))
        line.append(f"{' ' * (7 - line.cell_len)}{escape_controls(finding.check):<{names}}  ")
        out.print(line.append(f"{_count(finding):>{counts}}  {_shown(out, finding.detail)}"))
        for part in filter(None, split_command(finding.fix or "")):
            out.indented(_shown(out, part), 7 + names + 2 + counts + 2)


def _mark(finding: Finding) -> Text:
    return Text("ok", "green") if finding.ok else Text("WRONG", "red")


def _count(finding: Finding) -> str:
    return human.count(finding.count) if finding.count else ""


def _shown(out: Output, text: str) -> str:
    return escape_controls(out.redactor.text(text))
