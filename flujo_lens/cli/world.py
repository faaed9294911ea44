"""The environment of one invocation: streams, terminal, clock and folders. Injected, so that tests pass their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, cast

from flujo_lens.folders import current_folder

_NARROWEST, _WIDEST, _LOWEST = 20, 10_000, 4
"""Limits of the size of a terminal in cells. One without a size reports 1."""


def _now() -> datetime:
    return datetime.now(UTC)


def _nowhere(mode: str) -> TextIO:
    """A stream to /dev/null, for a standard stream that was closed at the start."""
    return cast("TextIO", open(os.devnull, mode, encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Send a stream whose reader is gone to /dev/null, so that Python does not report it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """The streams, clock, terminal and environment that lens uses; tests pass their own.

    Attributes:
        zone: The user's time zone; None for the machine's.
        width: Width of a line in cells; None for the terminal's.
        stdout_tty: Whether stdout is a terminal; None to detect it.
        owns_process: Whether the process ends with this invocation, so that nothing prints to stdout after it.
        diverted: The streams diverted by `flujo_lens.cli.application_output`; None until an application is imported.
    """

    stdin: TextIO = field(default_factory=lambda: sys.stdin or _nowhere("r"))
    stdout: TextIO = field(default_factory=lambda: sys.stdout or _nowhere("w"))
    stderr: TextIO = field(default_factory=lambda: sys.stderr or _nowhere("w"))
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path = field(default_factory=current_folder)
    now: Callable[[], datetime] = _now
    zone: tzinfo | None = None
    width: int | None = None
    stdout_tty: bool | None = None
    stderr_tty: bool | None = None
    user_config_dir: Path | None = None
    etc_dir: Path = Path("/etc/flujo-lens")
    owns_process: bool = False
    diverted: Any = None

    @property
    def stdout_is_closed(self) -> bool:
        """Whether stdout was closed at the start, so that nothing that is written to it arrives anywhere."""
        return getattr(self.stdout, "name", None) == os.devnull

    @cached_property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return self.stdout.isatty() if self.stdout_tty is None else self.stdout_tty

    @cached_property
    def columns(self) -> int:
        """Width of a line in cells; unlimited without a terminal."""
        if self.width is not None:
            return self.width
        given = self._given("COLUMNS")
        if given is not None:
            return min(max(given, _NARROWEST), _WIDEST)
        try:
            return max(os.get_terminal_size(self.stdout.fileno()).columns or 80, _NARROWEST)
        except (OSError, ValueError):
            return 80 if self.is_terminal else _WIDEST

    def size(self) -> tuple[int, int]:
        """Width and height of the terminal in cells, as they are now."""
        try:
            found = os.get_terminal_size(self.stdout.fileno())
        except (OSError, ValueError):
            found = os.terminal_size((0, 0))
        width = self.width or self._given("COLUMNS") or found.columns or 80
        return max(width, _NARROWEST), max(self._given("LINES") or found.lines or 24, _LOWEST)

    def _given(self, name: str) -> int | None:
        """A size that a variable gives."""
        given = self.env.get(name, "")
        return int(given[:9]) or None if given.isascii() and given.isdigit() else None

    @cached_property
    def folds(self) -> bool:
        """Whether lines have a width, that of a terminal or of COLUMNS; without one, nothing is folded or cut."""
        return self.columns < _WIDEST

    @cached_property
    def unicode(self) -> bool:
        """Whether the terminal can show more than ASCII."""
        return (self.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32", "utf8sig")

    def colour(self, when: str | None, terminal: bool) -> bool:
        """Whether to use colour: decided by the option, NO_COLOR, FORCE_COLOR, then whether it is a terminal."""
        if when in ("always", "never"):
            return when == "always"
        if self.env.get("NO_COLOR"):
            return False
        if self.env.get("FORCE_COLOR"):
            return True
        return terminal and self.env.get("TERM") != "dumb"
