"""Rich tables that fit the terminal: ids are never cut, columns of low priority are dropped, texts are folded."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flujo_lens.redaction import Redactor
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.text import escape_controls, one_line
from flujo_lens.rendering.views import Field, Shown, View, human_value

STATUS_STYLES = {
    "completed": "green",
    "failed": "red",
    "running": "yellow",
    "stale": "yellow",
    "paused": "cyan",
    "cancelled": "dim",
    "unreadable": "magenta",
}
"""Colours are used only for statuses, in addition to the word."""

_GAP = 2
_INDENT = 4
"""Of the lines below a row."""

_FOLDS_TO = {"fold": 20, "id": 36, "name": 12, "cut": 10}
"""Minimum width of a column by style; an id such as ``run_`` and 32 digits fits."""
_STAGES: tuple[tuple[dict[str, int], int], ...] = (
    ({"fold": 28, "cut": 28}, 45),
    ({"fold": _FOLDS_TO["fold"], "cut": _FOLDS_TO["cut"]}, 45),
    (_FOLDS_TO, 100),
)
"""Stages of fitting: the minimum widths, and the priority below which columns are dropped."""

_FOLDED = ("name", "fold", "cut")
_RIGHT = ("right", "amount")
_WIDENS = {"name": 1, "id": 2, "fold": 3, "cut": 3}
_LONGEST_CELL = 300
_WIDEST_COLUMN = 120
_STAYS, _NEEDED = 100, 60
_NO_VALUE = ("", "-")
_DECIMALS = r"\.\d+$"


def status_text(status: str) -> Text:
    """A coloured status."""
    return Text(one_line(status), style=STATUS_STYLES.get(status, ""))


class FittedTable(NamedTuple):
    """A table, and the titles of the columns for which it has no room."""

    rendered: Group | Text
    dropped: tuple[str, ...] = ()


def table(
    view: View,
    items: Sequence[Any],
    shown: Human,
    redactor: Redactor,
    width: int | None,
    fields: Sequence[Field] = (),
    *,
    header: bool = True,
    cut: bool = False,
) -> FittedTable:
    """A table of at most `width` cells. An id longer than its column gets a separate line.

    Without a width, nothing is dropped, folded or cut.

    Args:
        width: The width of the terminal; None for unlimited.
        fields: The fields of ``--columns``; by default, the table columns of the view.
        header: Whether to print the header.
        cut: Whether each row has one line: texts and names that are too long are cut instead of folded or shown below
            the row; ids never are.
    """
    columns = tuple(_of_field(field, view, redactor) for field in fields) if fields else view.table
    columns = tuple(_in_one_line(c) if cut else _with_room_below(c) for c in columns)
    shown = shown._replace(mask=redactor.text, under=redactor.under)
    cells = _aligned(columns, [[_cell(c, item, shown, is_cut=width is not None) for c in columns] for item in items])
    widths = [max([len(c.title), *(cell_len(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    if width is None:
        return FittedTable(_whole(columns, cells, widths, header))
    empty = _empty(columns, cells)
    columns = tuple(c._replace(need=0) if i in empty and c.need < _STAYS else c for i, c in enumerate(columns))
    kept = fit(columns, widths, width)
    most = [c.lines if not cut or c.style == "id" else 1 for c in columns]
    cells = [[_cut(cell, kept[i], most[i]) if i in kept else cell for i, cell in enumerate(row)] for row in cells]
    lost = [c.title for i, c in enumerate(columns) if c.title and c.below is None and i not in {*kept, *empty}]
    return FittedTable(_folded(columns, cells, kept, width, header), tuple(lost))


def _in_one_line(column: Shown) -> Shown:
    return column._replace(style="cut" if column.style == "fold" else column.style, below=None)


def _with_room_below(column: Shown) -> Shown:
    return column if column.below_need is None else column._replace(need=column.below_need)


def _empty(columns: Sequence[Shown], cells: Sequence[Sequence[str]]) -> set[int]:
    """The columns that have no value in any row, nor have those of their pair: the first to be dropped."""
    found = {i for i in range(len(columns)) if all(row[i].strip() in _NO_VALUE for row in cells)}
    return {i for i in found if found.issuperset(_with_pair(columns, i))}


def _aligned(columns: Sequence[Shown], cells: list[list[str]]) -> list[list[str]]:
    """The cells, those of amounts filled with spaces, so that the decimal points of a column are in one place."""
    for i in (i for i, column in enumerate(columns) if column.style == "amount"):
        decimals = [len(found.group()) if (found := re.search(_DECIMALS, row[i])) else 0 for row in cells]
        longest = max(decimals, default=0)
        for row, length in zip(cells, decimals, strict=True):
            row[i] += " " * (longest - length) if length else ""
        width = max([len(columns[i].title), *(len(row[i]) for row in cells)])
        for row in cells:
            row[i] = row[i].rjust(width)
    return cells


def _folded(
    columns: Sequence[Shown], cells: Sequence[Sequence[str]], kept: dict[int, int], width: int, header: bool
) -> Group:
    """The columns that are kept, with lines of their own for what has no room in a column."""
    parts: list[Table | Text | Padding] = [_part(columns, kept, header)]
    first, whole = next(iter(kept), 0), _total([kept.get(i, 0) for i in range(len(columns))], list(kept))
    for row in cells:
        alone = [i for i in kept if columns[i].style == "id" and kept[i] < cell_len(row[i]) <= width]
        if first in alone:
            parts.append(Text(row[first]))
        if first in alone or not isinstance(parts[-1], Table):
            parts.append(_part(columns, kept, header=False))
        part = parts[-1]
        assert isinstance(part, Table)
        part.add_row(*(Text("") if i in alone else _styled(columns[i], row[i]) for i in kept))
        parts += [Text(" " * (whole - cell_len(row[i])) + row[i]) for i in alone if i != first]
        parts += _below(columns, row, kept, width - _INDENT)
    return Group(*parts)


def _below(columns: Sequence[Shown], row: Sequence[str], kept: Container[int], width: int) -> list[Padding]:
    """The cells of a row that are shown below it, for want of room."""
    cells = [
        _cut(f"{c.below}{row[i]}", width, c.lines)
        for i, c in enumerate(columns)
        if c.below is not None and i not in kept and row[i] not in _NO_VALUE
    ]
    return [Padding(Text(" · ".join(cells)), (0, 0, 0, _INDENT), expand=False)] if cells else []


def _cut(cell: str, width: int, most: int) -> str:
    """A cell that takes at most so many lines (any number if 0) of a column of this width."""
    if not most or cell_len(cell) <= width:
        return cell
    lines = wrap(cell, width) if most > 1 and width > 0 else []
    if lines and len(lines) <= most:
        return cell
    last = " ".join(lines[most - 1 :]) or cell
    return " ".join([*lines[: most - 1], set_cell_size(last, max(width - 1, 0)).rstrip() + "…"])


def _part(columns: Sequence[Shown], kept: dict[int, int], header: bool) -> Table:
    """A part of a table, with the column widths of the whole."""
    made = Table(
        box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_edge=False, header_style="bold", show_header=header
    )
    for i in kept:
        _add_column(made, columns[i], kept[i])
    return made


def _of_field(field: Field, view: View, redactor: Redactor) -> Shown:
    style = "status" if field.name == "status" else "id" if field.name == view.id else "fold"

    def cell(item: Any, shown: Human) -> str:
        return human_value(redactor.value({field.name: field.get(item)})[field.name], field.name, shown)

    return Shown(field.name.upper(), cell, _STAYS, style, masks=True)


def _cell(column: Shown, item: Any, shown: Human, *, is_cut: bool) -> str:
    text = column.text(item, shown)
    if column.style == "id":
        return escape_controls(text)
    return one_line(text, _LONGEST_CELL if is_cut and column.style in ("fold", "cut") else 0)


def _whole(columns: Sequence[Shown], cells: Sequence[Sequence[str]], widths: Sequence[int], header: bool) -> Text:
    """The lines of a table of any width. A cell wider than `_WIDEST_COLUMN` moves the rest of its line."""
    kept = [i for i, column in enumerate(columns) if widths[i] > len(column.title) or column.title]
    heads = [Text(column.title, style="bold") for column in columns]
    rows = [[_styled(column, cell) for column, cell in zip(columns, row, strict=True)] for row in cells]
    lines = []
    for row in [heads, *rows] if header else rows:
        line = Text()
        for i in kept:
            gap = " " * (min(widths[i], _WIDEST_COLUMN) - row[i].cell_len)
            is_right = columns[i].style in _RIGHT
            line.append(gap if is_right else "").append_text(row[i]).append("" if is_right else gap).append(" " * _GAP)
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def fit(columns: Sequence[Shown], widths: Sequence[int], width: int) -> dict[int, int]:
    """The columns to show in `width` cells, with their widths.

    If the table is too wide, columns of low priority are dropped first. Then texts and names are folded, long ids get
    separate lines, and more columns are dropped. The required columns stay and are folded.
    """
    kept = [i for i, column in enumerate(columns) if widths[i] > len(column.title) or column.title]
    for narrow, border in _STAGES:
        least = [min(w, narrow.get(c.style, w)) for c, w in zip(columns, widths, strict=True)]
        while _total(least, kept) > width:
            next_to_go = min(kept, key=lambda i: columns[i].need)
            if columns[next_to_go].need >= border:
                break
            gone = _with_pair(columns, next_to_go)
            kept = [i for i in kept if i not in gone]
        if _total(least, kept) <= width:
            whole = [w if c.style == "name" else n for c, w, n in zip(columns, widths, least, strict=True)]
            kept = _with_others(columns, whole, kept, width)
            return _widened(columns, least, widths, kept, width)
    room = max(1, (width - _GAP * (len(kept) - 1)) // len(kept))
    return {i: min(least[i], room) for i in kept}


def _with_pair(columns: Sequence[Shown], i: int) -> list[int]:
    """A column and those that are dropped with it."""
    return [j for j, column in enumerate(columns) if j == i or (column.pair and column.pair == columns[i].pair)]


def _with_others(columns: Sequence[Shown], least: Sequence[int], kept: Sequence[int], width: int) -> list[int]:
    """The kept columns, and dropped ones that fit after wider ones were dropped, without folding a name.

    Beside a text, which needs the room, only the more important ones come back.
    """
    found = list(kept)
    border = _NEEDED if any(columns[i].style in ("fold", "cut") for i in kept) else 0
    gone = [i for i, c in enumerate(columns) if i not in found and c.title and c.need >= border]
    for i in sorted(gone, key=lambda i: -columns[i].need):
        more = [] if i in found else _with_pair(columns, i)
        if _total(least, [*found, *more]) <= width:
            found += more
    return sorted(found)


def _widened(
    columns: Sequence[Shown], least: Sequence[int], widths: Sequence[int], kept: Sequence[int], width: int
) -> dict[int, int]:
    """Distribute the remaining width: to names and ids that then fit, then to texts, short ones first."""
    left = width - _total(least, kept)
    made = {i: least[i] for i in kept}
    for i in sorted(kept, key=lambda i: (_WIDENS.get(columns[i].style, 0), widths[i] - least[i])):
        lacking = widths[i] - least[i]
        more = min(left, lacking) if columns[i].style in _FOLDED else lacking if lacking <= left else 0
        made[i] += more
        left -= more
    return made


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] + _GAP for i in kept) - (_GAP if kept else 0)


def _add_column(made: Table, column: Shown, width: int) -> None:
    made.add_column(
        column.title.rjust(width) if column.style == "amount" else column.title,  # whose cells are filled already
        justify="right" if column.style == "right" else "left",
        no_wrap=column.style not in _FOLDS_TO,
        overflow="fold",
        width=width,
    )


def _styled(column: Shown, cell: str) -> Text:
    return Text(cell, style=STATUS_STYLES.get(cell, "") if column.style == "status" else "")


def make_console(file: Any, *, width: int, colour: bool, unicode: bool, terminal: bool = False) -> Console:
    """A console without markup, highlighting, emoji codes and links; with `terminal`, its cursor is moved."""
    return Console(
        file=file,
        width=width,
        force_terminal=colour or terminal,
        color_system="standard" if colour else None,
        no_color=not colour,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
        safe_box=not unicode,
        _environ={},
    )
