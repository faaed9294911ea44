"""A folder of generated files: written, or compared with what is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Generated"]


class Generated(NamedTuple):
    """Files as they have to be.

    Attributes:
        folder: All files in it are generated, unless ``only``; folders below it are not looked at.
        texts: Name -> text.
        target: The command that writes them, for the message.
        only: Whether the folder has files that are not generated, too.
    """

    folder: Path
    texts: Mapping[str, str]
    target: str
    only: bool = False

    def stale(self) -> list[str]:
        """The names of files that are out of date, missing, or left from before."""
        paths = [path for path in self.folder.glob("*") if path.is_file()]
        there = {path.name: path.read_text(encoding="utf-8") for path in paths if self._is_generated(path)}
        return sorted(name for name in there.keys() | self.texts.keys() if there.get(name) != self.texts.get(name))

    def _is_generated(self, path: Path) -> bool:
        return not self.only or path.name in self.texts

    def write(self) -> None:
        """Make the folder what it has to be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.stale():
            if name in self.texts:
                (self.folder / name).write_text(self.texts[name], encoding="utf-8")
            else:
                (self.folder / name).unlink()

    def main(self, arguments: list[str]) -> int:
        """Write, or with ``--check`` compare; the exit code."""
        if "--check" not in arguments:
            self.write()
            return 0
        if stale := self.stale():
            sys.stderr.write(f"out of date in {self.folder.name}: {', '.join(stale)}; update them: {self.target}\n")
        return int(bool(stale))
