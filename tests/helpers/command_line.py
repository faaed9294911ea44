"""Command lines that are parsed, and not run."""

from __future__ import annotations

import shlex
from typing import Any

from flujo_lens.cli.app import build, root

__all__ = ["parse"]


def parse(line: str) -> None:
    """Parse a command line without running it; raises for a command, option or value that does not exist."""
    name, *words = shlex.split(line)
    if name.startswith("-"):
        root().make_parser(_context(root())).parse_args([name, *words])
        return
    command: Any = build(name)
    while (commands := getattr(command, "commands", None)) and words and words[0] in commands:
        command = commands[words.pop(0)]
    command.make_context(name, words)


def _context(command: Any) -> Any:
    return command.context_class(command)
