"""Screens of ``lens`` on the sample store: as text for pages, and as pictures for the site.

The clock stands still, the terminal has 100 columns, and the folder has a name of its own. A screen has what a command
prints on stdout and stderr, in the order in which a terminal shows it. (Linux alone has the folder's other name.)
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flujo_lens.cli.app import run  # noqa: E402
from flujo_lens.cli.world import World  # noqa: E402

__all__ = ["picture", "sample_folder", "screen"]

WIDTH = 100
MADE = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
NOW = MADE + timedelta(seconds=42)
HERE, SHOWN = "/proc/self/cwd", "/srv/workflows"
"""The folder's name that is the same in every run, and another of the same length, for people."""

LIGHT = (0xF6F8FA, 0x24292F, 0x24292F, 0xCF222E, 0x116329, 0x7D4E00, 0x0969DA, 0x8250DF, 0x1B7C83, 0x6E7781)
DARK = (0x161B22, 0xE6EDF3, 0x6E7681, 0xFF7B72, 0x56D364, 0xE3B341, 0x79C0FF, 0xD2A8FF, 0x56D4DD, 0xE6EDF3)
"""The background, the text, then black, red, green, yellow, blue, magenta, cyan and white."""


@contextmanager
def sample_folder() -> Iterator[None]:
    """A folder with the sample store, flujo_ops.db, as the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            screen("lens demo flujo_ops.db", MADE)
            _set_times()
            yield
        finally:
            os.chdir(before)


def _set_times() -> None:
    """What the engine dates by itself gets the time of the sample."""
    with closing(sqlite3.connect("flujo_ops.db")) as store:
        for table, column in (("evaluations", "created_at"), ("system_state", "updated_at")):
            store.execute(f"UPDATE {table} SET {column} = ?", (MADE.isoformat(),))
        store.commit()
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def screen(line: str, now: datetime = NOW, *, colour: bool = False) -> str:
    """What a terminal shows of a command in the sample folder; with `colour`, with its control sequences."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
    world = World(
        stdin=io.StringIO(),
        stdout=stream,
        stderr=stream,
        env={"XDG_CACHE_HOME": str(Path("cache").absolute()), **({} if colour else {"NO_COLOR": "1"})},
        cwd=Path(HERE),
        now=lambda: now,
        zone=UTC,
        width=WIDTH,
        stdout_tty=True,
        stderr_tty=True,
        user_config_dir=Path("user").absolute(),
        etc_dir=Path("etc").absolute(),
    )
    if run(shlex.split(line)[1:], world):
        sys.exit(f"{line} failed:\n{stream.buffer.getvalue().decode()}")  # type: ignore[attr-defined]
    shown: str = stream.buffer.getvalue().decode().replace(HERE, SHOWN)  # type: ignore[attr-defined]
    return "".join(f"{row.rstrip()}\n" for row in shown.splitlines())


def picture(line: str, *, dark: bool) -> str:
    """The screen of a command in the sample folder, as an SVG that loads nothing."""
    from rich.console import Console
    from rich.terminal_theme import TerminalTheme
    from rich.text import Text

    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ ") + Text(line, style="bold"))
    console.print(Text.from_ansi(screen(line, colour=True)), end="")
    back, text, *colours = [(number >> 16, number >> 8 & 255, number & 255) for number in (DARK if dark else LIGHT)]
    name = re.sub(r"\W+", "-", line).strip("-")
    svg = console.export_svg(title="", theme=TerminalTheme(back, text, colours), unique_id=name)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
