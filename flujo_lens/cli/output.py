"""Printing results: format, columns and streams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from flujo_lens.cli.options import OutputOptions
from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.redaction import Redactor
from flujo_lens.rendering.data import FORMATS, RowWriter, check_format
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.json_text import document, dump
from flujo_lens.rendering.views import Field, View, choose_fields

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from flujo_lens.cli.context import App
    from flujo_lens.state.views import RunFilter

_TIME_STYLES = ("iso", "relative", "local")

_WITH_HEADER = ("table", "csv", "tsv")

_LONGEST_LINE = 100
"""Maximum width of a line of several commands where lines have no width."""

_PADDING = r" +((?:\x1b\[[\d;]*m)*)(?=\n|\Z)"
"""Spaces at the end of a line, after an optional end of a colour."""


class Output:
    """The output of a command.

    Args:
        formats: The formats supported by the command; None for all.
        is_document: Whether it is a document, which a pipe gets as the plain text of its screen. A list, also that of
            the --columns of a document, is TSV there.
    """

    def __init__(
        self, app: App, options: OutputOptions, formats: tuple[str, ...] | None = None, *, is_document: bool = False
    ) -> None:
        self.app, self.options = app, options
        self.is_document = is_document
        self._dropped: dict[str, None] = {}
        self._is_text = app.world.is_terminal or (is_document and options.columns is None)
        self.formats = formats or FORMATS
        self.form = self._form()
        self._check_options()

    def _form(self) -> str:
        asked = self.options.output
        if self.options.json:
            if asked not in (None, "json"):
                raise UsageError(f"--json and -o {asked} contradict each other")
            asked = "json"
        if asked is None:
            return "table" if self._is_text else "tsv"
        return check_format(asked, self.formats)

    def _check_options(self) -> None:
        """Refuse options that do not apply to the format."""
        options, form = self.options, self.form
        if options.raw and form != "csv":
            raise UsageError("--raw applies only to -o csv", hint="other formats do not change cells")
        if options.time is not None and options.time not in _TIME_STYLES:
            raise UnknownValueError.of("--time style", options.time, _TIME_STYLES)
        if options.time in ("local", "relative") and options.utc:
            why = f"--utc and --time {options.time} contradict each other"
            raise UsageError(why, hint="--utc alone shows times in UTC")
        if options.output is None and not options.json:
            return
        if options.no_header and form not in _WITH_HEADER:
            raise UsageError(f"-o {form} has no header; --no-header applies to {', '.join(_WITH_HEADER)}")

    @property
    def is_table(self) -> bool:
        """Whether the output is a table."""
        return self.form == "table"

    @property
    def folds(self) -> bool:
        """Whether the text has a width to which it is folded or cut."""
        return self.app.world.folds

    @cached_property
    def redactor(self) -> Redactor:
        """The redactor for the settings and --show-secrets."""
        return Redactor(show=True) if self.options.show_secrets else self.app.redactor

    @cached_property
    def human(self) -> Human:
        """The formatter of times in tables."""
        from datetime import UTC

        style = self.options.time or ("local" if self.options.utc else "relative")
        zone = UTC if self.options.utc else self.app.zone
        return Human(self.app.world.now(), zone, style, self.redactor.text, is_asked=self.options.time is not None)

    def fields(self, view: View) -> tuple[Field, ...]:
        """The fields to print."""
        return choose_fields(view, self.options.columns)

    # --- machine formats

    def write(self, data: bytes, to: TextIO | None = None) -> None:
        """Write bytes to stdout."""
        stream = to or self.app.world.stdout
        buffer = getattr(stream, "buffer", None)
        if buffer is None:
            stream.write(data.decode())
        else:
            buffer.write(data)

    def ids(self, run_ids: Iterable[str]) -> None:
        """Print run ids, one per line, in UTF-8, as every command accepts them."""
        from flujo_lens.rendering.text import escape_tsv

        self.write("".join(f"{escape_tsv(run_id)}\n" for run_id in run_ids).encode("utf-8", "backslashreplace"))

    def result(self, text: str) -> None:
        """Print the output of a run: in a terminal's encoding, else in UTF-8."""
        if self.app.world.is_terminal:
            self.app.world.stdout.write(f"{text}\n")
        else:
            self.write(f"{text}\n".encode("utf-8", "backslashreplace"))

    def writer(self, view: View) -> RowWriter:
        """A writer that prints rows of `view` one by one.

        Raises:
            UsageError: -o id with --columns.
        """
        fields = self.fields(view)
        if self.form == "id" and self.options.columns is not None and [field.name for field in fields] != [view.id]:
            raise UsageError("-o id and --columns contradict each other", hint="to print columns: -o tsv --no-header")
        header, raw = not self.options.no_header, self.options.raw
        return RowWriter(view, fields, self.form, self.redactor, header=header, raw=raw)

    def rows(self, view: View, items: Iterable[Any]) -> None:
        """Print rows in a machine format."""
        writer = self.writer(view)
        self.write(writer.head())
        for item in items:
            self.write(writer.line(item))
        self.write(writer.tail())

    def document(self, value: Any) -> None:
        """Print one JSON document."""
        for part in document(self.redactor.value(value)):
            self.write(part)

    def line(self, value: Any) -> None:
        """Print one JSON document on a line."""
        self.write(dump(self.redactor.value(value)) + b"\n")

    # --- for people

    @cached_property
    def console(self) -> Console:
        """A Rich console on stdout."""
        from flujo_lens.rendering.tables import make_console

        world = self.app.world
        return make_console(
            _Encoded(world.stdout, pads=world.is_terminal),
            width=world.columns,
            colour=world.colour(self.app.options.color, world.is_terminal),
            unicode=world.unicode,
        )

    def print(self, *parts: RenderableType) -> None:
        """Print Rich renderables."""
        for part in parts:
            self.console.print(part, soft_wrap=not self.folds)

    def indented(self, text: str, indent: int, style: str = "") -> None:
        """Print lines of text with an indent, folded to the width."""
        from rich.padding import Padding
        from rich.text import Text

        if self.folds:
            self.print(Padding(Text(text, style=style), (0, 0, 0, indent)))
        else:
            self.print(*(Text(" " * indent + line, style=style) for line in text.split("\n")))

    def table(self, view: View, items: Sequence[Any]) -> None:
        """Print rows as a table."""
        from flujo_lens.rendering.tables import table

        fields = self.fields(view) if self.options.columns is not None else ()
        width, header = self.app.world.columns if self.folds else None, not self.options.no_header
        view = view.with_times(is_asked=self.options.time is not None or self.options.utc)
        made = table(view, items, self.human, self.redactor, width, fields, header=header)
        self._dropped.update(dict.fromkeys(made.dropped))
        self.print(made.rendered)

    def note_dropped(self) -> None:
        """Print on stderr for which columns the tables had no room, and the command that shows them."""
        if not self._dropped:
            return
        more = () if self.is_document or self.options.output is not None else ("-o", "table")
        lost, command = ", ".join(self._dropped), f"{self.app.repeated.whole(*more)} | less -S"
        line = f"no room for {lost}: {command}"
        self.app.note(line if len(line) <= self.app.world.columns else f"no room for {lost}:\n  {command}")
        self._dropped.clear()

    def next(self, *commands: str) -> None:
        """Print the suggested next commands: on one line, or on a line each if it is too narrow."""
        commands = tuple(map(self.app.suggest, commands))
        line = f"next: {' · '.join(commands)}"
        if len(line) > (self.app.world.columns if self.folds else _LONGEST_LINE):
            line = "next: " + "\n      ".join(commands)
        self.command(line)

    def command(self, text: str, style: str = "", indent: int = 0) -> None:
        """Print a command line without folding it, so that it can be copied from the terminal."""
        from rich.text import Text

        self.console.print(Text(" " * indent + text, style=style), soft_wrap=True)

    def show(self, view: View, items: Sequence[Any], empty: str, wanted: RunFilter | None = None) -> None:
        """Print rows in the requested format.

        Args:
            empty: A note if there are none; "" for no note.
            wanted: The filter of the rows, for notes on what may be wrong with it.
        """
        if not items and empty and wanted is not None:
            self.app.note_no_runs(empty, wanted)
        elif not items and empty:
            self.app.note(empty)
        if not self.is_table:
            self.rows(view, items)
        elif items:
            self.table(view, items)
            self.note_dropped()


class _Encoded:
    """A text stream that escapes characters outside its encoding.

    Args:
        stream: The stream to write to.
        pads: Whether to keep trailing spaces, with which Rich fills the width: a terminal needs them to overwrite
            earlier text, a file does not.
    """

    def __init__(self, stream: Any, *, pads: bool) -> None:
        self._stream, self._pads = stream, pads
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        if not self._pads:
            text = re.sub(_PADDING, r"\1", text)
        if self.encoding.lower().replace("-", "") != "utf8":
            text = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        else:
            text = text.encode("utf-8", "backslashreplace").decode()
        return int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())


def live_console(app: App) -> Console:
    """A Rich console that draws on the terminal; its size is set before each drawing."""
    from flujo_lens.rendering.tables import make_console

    world = app.world
    colour = world.colour(app.options.color, world.is_terminal)
    stream = _Encoded(world.stdout, pads=True)
    return make_console(stream, width=world.columns, colour=colour, unicode=world.unicode, terminal=True)
