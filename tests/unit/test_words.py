"""The language of the package: words that no manual of a command-line tool uses are counted, and may not come back."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import flujo_lens

PACKAGE = Path(flujo_lens.__file__).resolve().parent

OLD = ("told", "beside", "aside", "whoever", "somebody", "nobody", "meanwhile", "herewith")
MOST = 30

_WORD = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(OLD)})(?![a-z])", re.IGNORECASE)


def _counted() -> Counter[str]:
    files = (path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".md", ".json"))
    return Counter(
        {
            str(path.relative_to(PACKAGE)): len(found)
            for path in files
            if (found := _WORD.findall(path.read_text(encoding="utf-8")))
        }
    )


def test_old_words_are_gone() -> None:
    """In code, comments, messages and pages; a rewritten sentence is meant, not another word."""
    found = _counted()
    assert found.total() < MOST, found.most_common(10)


def test_a_word_inside_a_name_counts() -> None:
    assert [len(_WORD.findall(text)) for text in ("_told", "refuse_beside(x)", "Nobody", "untold", "considers")] == [
        1, 1, 1, 0, 0,
    ]  # fmt: skip
