"""Errors that differ only in numbers, ids, addresses and quotes are one error.

`normalise_error` folds those to ``#``; `glob_matches` tries a pattern on a text as stored and as folded.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

__all__ = ["glob_matches", "normalise_error", "plain_error"]

LONGEST = 200
"""Characters of a normalised error; two errors that agree so far are one."""

_WRAPPERS = ("Agent execution failed with ",)
_FOLD = r"""
      (?<!\w)'[^'\n]*'(?!\w) | "[^"\n]*" | `[^`\n]*` | ‘[^’\n]*’ | “[^”\n]*”   # quotes
    | (?P<scheme>\b[a-zA-Z][\w+.-]*://)\S+                                     # addresses in the net
    | \b\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.,]*(?:Z\b|[+-]\d\d:?\d\d)?          # ISO times
    | \b0[xX][0-9a-fA-F]+\b                                                    # addresses in memory
    | \b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b                 # UUIDs
    | \b(?=\w*\d)(?:[A-Za-z]+_)*[0-9a-fA-F]{8,}\b                              # run_3d910948, 8f3a91c2
    | \b(?=\w*\d)(?:req|run|msg|chatcmpl|call|bg|org|file|task)[_-][0-9A-Za-z]{6,}\b
    | (?<![A-Za-z_\d])[+-]?\d+(?:[.,:/-]\d+)*(?:[eE][+-]?\d+)?                   # numbers, dates, times
    | \d{3,}
    """
_QUOTES = "'\"`‘“"


@cache
def _folding() -> re.Pattern[str]:
    """Compiled when the first error comes: most commands show none."""
    return re.compile(_FOLD, re.VERBOSE)


def plain_error(text: str) -> str:
    """The first line of an error that says something, without what the library wraps round it."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    while wrapper := next((text for text in _WRAPPERS if line.startswith(text)), None):
        line = line.removeprefix(wrapper)
    return line


@lru_cache(maxsize=4096)
def normalise_error(text: str) -> str:
    """`text` in one line of at most 200 characters, with what changes from run to run folded to ``#``.

    Secrets are masked before: what names them may be folded.

    A normal form is its own: what looks like a number or a quote only when another is folded is folded too.
    """
    from flujo_lens.redaction import masked_text

    folded = _folded(masked_text(text))
    for _ in range(LONGEST):
        if (again := _folded(folded)) == folded:
            break
        folded = again
    return folded or "(no error text)"


def _folded(text: str) -> str:
    found = _folding().sub(_fold, plain_error(text)[: 4 * LONGEST])
    return " ".join(found.split())[:LONGEST].rstrip()


def _fold(match: re.Match[str]) -> str:
    found = match.group()
    if found[0] in _QUOTES:
        return f"{found[0]}#{found[-1]}"
    return f"{match.group('scheme') or ''}#"


@lru_cache(maxsize=64)
def _glob(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.IGNORECASE | re.DOTALL)


def glob_matches(pattern: str, error: str) -> bool:
    """Whether `error` as stored, in plain or in normalised form is matched by `pattern` (``*`` and ``?``)."""
    glob = _glob(pattern)
    forms = (error, plain_error(error), normalise_error(error))
    return any(glob.fullmatch(form) is not None for form in forms)
