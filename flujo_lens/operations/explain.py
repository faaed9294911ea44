"""The pages on error codes: Markdown files in the package."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import NamedTuple

from flujo_lens.errors import UnknownValueError

_PAGES = files("flujo_lens").joinpath("data", "explanations")
_CODE = re.compile("(?:LENS-)?([A-Z][0-9]{1,9})", re.IGNORECASE)
_NUMBER = len("LENS-B")
"""Where the number of a code begins."""

_EXIT_CODES = "for exit codes: lens help exit-codes"

_HEAD = re.compile(r"# (?P<code>\S+): (?P<title>.+)\n\nExit code (?P<exit_code>[0-9]+)")


class Explanation(NamedTuple):
    """The page of one error code.

    Attributes:
        title: Its meaning, in a few words.
        exit_code: The exit code of a command that ends with the error.
        text: The page in Markdown; ASCII, for every terminal.
    """

    code: str
    title: str
    exit_code: int
    text: str


def explanations() -> list[Explanation]:
    """All pages, in the order of the codes."""
    return [_page(code) for code in _codes()]


def explain(code: str) -> Explanation:
    """The page of `code`: ``LENS-B1``, ``lens-b1`` or ``b1``.

    Raises:
        UnknownValueError: the code is unknown; the message names the nearest, and all.
    """
    found = _CODE.fullmatch(code.strip())
    whole = f"LENS-{found[1].upper()}" if found else code
    codes = _codes()
    if whole not in codes:
        unknown = UnknownValueError.of("error code", whole, codes, _near(whole, codes))
        raise UnknownValueError(unknown.message, hint=_EXIT_CODES, value=whole) if code.strip().isdigit() else unknown
    return _page(whole)


def _near(code: str, codes: list[str]) -> str | None:
    """The code of the same letter with the nearest number, or None."""
    found = _CODE.fullmatch(code)
    same = [each for each in codes if found and each[:_NUMBER] == code[:_NUMBER]]
    return min(same, key=lambda each: abs(int(each[_NUMBER:]) - int(code[_NUMBER:])), default=None)


def _codes() -> list[str]:
    codes = [page.name.removesuffix(".md") for page in _PAGES.iterdir() if page.name.endswith(".md")]
    return sorted(codes, key=lambda code: (code[:_NUMBER], int(code[_NUMBER:])))


def _page(code: str) -> Explanation:
    text = _PAGES.joinpath(f"{code}.md").read_text(encoding="ascii")
    head = _HEAD.match(text)
    assert head is not None, f"{code}.md has a malformed head"
    return Explanation(head["code"], head["title"], int(head["exit_code"]), text)
