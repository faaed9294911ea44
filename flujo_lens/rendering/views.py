"""What a view of rows is: its public fields, from which the machine formats are made, and the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from flujo_lens.errors import UnknownValueError
from flujo_lens.rendering import human
from flujo_lens.rendering.human import Human

Getter = Callable[[Any], Any]


class Field(NamedTuple):
    """A public field of a view."""

    name: str
    get: Getter


class Shown(NamedTuple):
    """A column of a table.

    Attributes:
        cell: Maps a row to the text of the cell.
        need: Priority: on a narrow terminal, the columns with the lowest are dropped; 100 is never dropped.
        style: ``status`` to colour by status, ``right`` to align numbers, ``amount`` to align them by their decimal
            points, ``id``, ``name``, ``fold`` for text that may wrap.
        masks: Whether the cell masks secrets itself, since a name before a text, such as "step:", could look like
            a key.
        pair: Columns with the same name here are kept or dropped together.
        lines: Maximum number of lines of a folded text, which is cut after them; 0 for all.
        below: If not None: where the column has no room, its cell is on a line below the row, after this text.
        below_need: If not None: the priority instead of `need` where rows may have lines below them.
        times: ``keep`` for the column of times that stays if a style of times is requested, ``add`` for one that is
            there only then.
    """

    title: str
    cell: Callable[[Any, Human], str]
    need: int = 50
    style: str = ""
    masks: bool = False
    pair: str = ""
    lines: int = 0
    below: str | None = None
    below_need: int | None = None
    times: str = ""

    def text(self, item: Any, shown: Human) -> str:
        """The text of a cell with secrets masked, except in ids and names."""
        cell = self.cell(item, shown)
        return cell if self.masks or self.style in ("id", "name", "status") else shown.mask(cell)


class View(NamedTuple):
    """A kind of rows: its public fields, and its table columns."""

    name: str
    fields: tuple[Field, ...]
    table: tuple[Shown, ...]
    id: str

    def with_times(self, *, is_asked: bool) -> View:
        """The view with the columns of times that are needed if a style of times is requested, or without them."""
        if is_asked:
            return self._replace(table=tuple(c._replace(need=95) if c.times else c for c in self.table))
        return self._replace(table=tuple(c for c in self.table if c.times != "add"))

    def row(self, item: Any, fields: tuple[Field, ...] | None = None) -> dict[str, Any]:
        """The public fields of one item."""
        return {field.name: field.get(item) for field in fields or self.fields}


def plain_fields(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, _attribute(name)) for name in names)


def _attribute(name: str) -> Getter:
    return lambda item: item[name] if isinstance(item, Mapping) else getattr(item, name)


def choose_fields(view: View, asked: str | None) -> tuple[Field, ...]:
    """The fields of ``--columns a,b,c``, in that order.

    Raises:
        UnknownValueError: a field does not exist; the message lists the legal ones.
    """
    if asked is None:
        return view.fields
    by_name = {field.name: field for field in view.fields}
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names or [asked]:
        if name not in by_name:
            raise UnknownValueError.of("column", name, list(by_name))
    return tuple(by_name[name] for name in names)


def human_value(value: Any, name: str, shown: Human) -> str:
    """The value of a field as a table cell for ``--columns``."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return shown.time(value)
    if name == "duration_ms" and isinstance(value, int | float):
        return human.duration(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    from flujo_lens.rendering.json_text import compact

    return compact(value)
