"""The command line as typed, with the word that an error would rather have read: to be pasted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from flujo_lens.errors import LensError, StoreNotFoundError


def corrected_line(error: LensError, arguments: Sequence[str], cwd: Path) -> str | None:
    """The command line with the nearest legal word in place of the one that an error refuses.

    Args:
        error: Its details have the word as ``value``, and the nearest one as ``near``; else there is no such line.
        arguments: The command line, without ``lens``.
        cwd: What relative paths are relative to.
    """
    details = error.details
    wrong, near = details.get("path" if isinstance(error, StoreNotFoundError) else "value"), details.get("near")
    if not (isinstance(wrong, str) and isinstance(near, str)):
        return None
    made = [_corrected(word, wrong, near, cwd) for word in arguments]
    changed = [new for word, new in zip(arguments, made, strict=True) if word != new]
    if len(changed) != 1:
        return None
    words = [near.split() if word == near and wrong.startswith("--") else [word] for word in made]
    return shlex.join(["lens", *(part for several in words for part in several)])


def _corrected(word: str, wrong: str, near: str, cwd: Path) -> str:
    """A word of a command line, corrected if it is the wrong one: alone, in ``--option=``, or in a list ``a,b``."""
    option, equals, value = word.partition("=")
    if not (equals and option.startswith("--")) or word == wrong:
        option, equals, value = "", "", word
    if _is_path_of(value, wrong, cwd):
        return f"{option}{equals}{_with_name(value, os.path.basename(wrong), os.path.basename(near))}"
    if word.startswith("--") and option == wrong:
        return f"{near}{equals}{value}"
    parts = [near if part.strip() == wrong else part for part in value.split(",")]
    return f"{option}{equals}{near if value == wrong else ','.join(parts)}"


def _is_path_of(value: str, path: str, cwd: Path) -> bool:
    """Whether a path or URI names the store at an absolute path."""
    if not os.path.isabs(path) or os.path.basename(path) not in value:
        return False
    from flujo_lens.config_sources import absolute_uri, place_of

    return os.path.realpath(place_of(absolute_uri(value, cwd, os.environ))) == os.path.realpath(path)


def _with_name(value: str, name: str, near: str) -> str:
    before, _, after = value.rpartition(name)
    return f"{before}{near}{after}"
