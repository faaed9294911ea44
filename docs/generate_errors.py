"""Writes docs/reference/errors.md from the pages that ``lens explain`` shows.

python docs/generate_errors.py           # writes it
python docs/generate_errors.py --check   # fails if it is out of date, and writes nothing
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from flujo_lens.operations.explain import Explanation, explanations  # noqa: E402

PAGE = HERE / "reference" / "errors.md"
NOTE = "<!-- Made from flujo_lens/data/explanations by docs/generate_errors.py: change those, then run it. -->"
WORDS = """\
Every error that is raised on purpose has a code. On the command line `lens explain CODE` shows what stands here, and
needs neither a network nor a store. By symptom: [Troubleshooting](../troubleshooting.md)."""


def render() -> str:
    """The whole page."""
    return "\n\n".join([NOTE, "# Error codes", WORDS, _table(), *map(_section, explanations())]) + "\n"


def _table() -> str:
    rows = [f"| [{page.code}](#{_anchor(page)}) | {page.exit_code} | {page.title} |" for page in explanations()]
    return "\n".join(["| code | exit code | means |", "|---|---|---|", *rows])


def _anchor(page: Explanation) -> str:
    """The anchor of its heading, as code hosts make them."""
    return re.sub(r"[^\w\- ]", "", f"{page.code}: {page.title}".lower()).replace(" ", "-")


def _section(page: Explanation) -> str:
    return "\n".join(_lowered(page.text.rstrip("\n").split("\n")))


def _lowered(lines: list[str]) -> Iterator[str]:
    """Headings a level lower: the code's below the page's. What begins with # in a block of code is none."""
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        yield f"#{line}" if line.startswith("#") and not fenced else line


def main(arguments: list[str]) -> int:
    """Write or check the page; the exit code."""
    text = render()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in arguments:
        sys.stderr.write(f"out of date: {PAGE.name}; write it anew: python docs/generate_errors.py\n")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
