"""Makes the screens in README.md and the first pages of the site anew: the commands of their console blocks are run.

python docs/generate_readme.py           # writes them
python docs/generate_readme.py --check   # fails if they are out of date, and writes nothing
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

from sample_screens import ROOT, sample_folder, screen

PAGES = (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "quick-start.md")

BLOCK = re.compile(r"(?<=^```console\n)\$ (lens [^\n]*)\n.*?(?=^```$)", re.DOTALL | re.MULTILINE)


def render(text: str) -> str:
    """The page with the screens as they are now."""
    return BLOCK.sub(lambda found: f"$ {found[1]}\n{screen(found[1])}", text)


def main() -> None:
    """Write the pages, or look whether they are as they would be written."""
    pages = [path for path in PAGES if path.exists()]
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    with sample_folder():
        made = {path: render(text) for path, text in texts.items()}
    if "--check" not in sys.argv:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
    elif stale := [path for path in pages if made[path] != texts[path]]:
        for path in stale:
            _show_difference(path, texts[path], made[path])
        sys.exit(f"{' and '.join(path.name for path in stale)} out of date: make readme")


def _show_difference(path: Path, old: str, new: str) -> None:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path.name, "as it is now", lineterm="", n=1)
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
