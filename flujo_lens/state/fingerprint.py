"""Normalised errors: errors that differ only in numbers, ids, addresses and quotes are the same error.

`normalise_error` replaces them by ``#``; `glob_matches` matches a pattern with the stored and the normalised text.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

LONGEST = 200
"""Maximum length of a normalised error."""

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
    """Compiled on first use, since most commands show no errors."""
    return re.compile(_FOLD, re.VERBOSE)


def plain_error(text: str) -> str:
    """The first meaningful line of an error, without the library's prefixes."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    while wrapper := next((text for text in _WRAPPERS if line.startswith(text)), None):
        line = line.removeprefix(wrapper)
    return line


@lru_cache(maxsize=4096)
def normalise_error(text: str) -> str:
    """`text` on one line of at most 200 characters, with values specific to a run replaced by ``#``.

    Secrets are masked first, since their keys may be replaced.

    The result is stable: normalising it again changes nothing.
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
    """Whether `pattern` (``*`` and ``?``) matches `error` as stored, plain, or normalised."""
    glob = _glob(pattern)
    forms = (error, plain_error(error), normalise_error(error))
    return any(glob.fullmatch(form) is not None for form in forms)
