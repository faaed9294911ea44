"""Hooks of the site: its navigation, the pictures of screens, and pages from outside of this folder.

- The navigation is that of ``index.md``: a list below each heading.
- Below ``<!-- picture -->``, a block with a command on the sample store becomes a picture of what a terminal shows;
  code hosts show the block itself.
- The changelog and the page on security are pages of the site.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from sample_screens import picture, sample_folder  # noqa: E402

PUBLISHED = "https://github.com/flujo-lens/flujo-lens/blob/main/"
OUTSIDE = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md"}
PICTURE = re.compile(r"<!-- picture -->\n```console\n\$ (lens [^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
LINK = re.compile(r"^- \[([^\]]+)\]\(([^)#]+\.md)\)", re.MULTILINE)


def on_config(config: Any) -> Any:
    """The navigation: the lists of the first page, and the commands by their groups."""
    parts = HEADING.split((HERE / "index.md").read_text(encoding="utf-8"))
    config.nav = [{"Home": "index.md"}]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        links = [{name: _pages(target)} for name, target in LINK.findall(body)]
        if links:
            config.nav.append({title: links})
    return config


def _pages(target: str) -> Any:
    """What the navigation has for a link of the first page."""
    if target == "reference/commands/README.md":
        return _commands()
    if target == "decisions/README.md":
        return [target, *sorted(f"decisions/{path.name}" for path in (HERE / "decisions").glob("0*.md"))]
    return OUTSIDE.get(target.removeprefix(PUBLISHED), target)


def _commands() -> list[Any]:
    parts = HEADING.split((HERE / "reference" / "commands" / "README.md").read_text(encoding="utf-8"))
    found: list[Any] = ["reference/commands/README.md"]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        names = re.findall(r"^\| \[`lens ([\w-]+)`\]", body, re.MULTILINE)
        if names:
            found.append({title: [{name: f"reference/commands/{name}.md"} for name in names]})
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside, and the pictures."""
    for source, name in OUTSIDE.items():
        text = (HERE.parent / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_with_links(text, name)))
    lines = {match[1] for file in files.documentation_pages() for match in PICTURE.finditer(file.content_string)}
    with sample_folder():
        for line in sorted(lines):
            for dark in (False, True):
                files.append(File.generated(config, _file_of(line, dark), content=picture(line, dark=dark)))
    return files


def _with_links(text: str, name: str) -> str:
    """Links of a page that stands one folder lower on the site."""
    text = re.sub(r"\]\(docs/([^)]+\.md)", r"](\1", text)
    return re.sub(r"\]\((?!https?:|#)([^)]*)\)", lambda link: f"]({_outside(link[1], name)})", text)


def _outside(target: str, name: str) -> str:
    if (HERE / target.partition("#")[0]).exists():
        return target
    return OUTSIDE.get(target, PUBLISHED + target)


def _file_of(line: str, dark: bool) -> str:
    name = re.sub(r"\W+", "-", line).strip("-").lower()
    return f"pictures/{name}-{'dark' if dark else 'light'}.svg"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Pictures in place of blocks, and links to pages of the site in place of those to the repository."""
    for source, name in OUTSIDE.items():
        markdown = markdown.replace(f"]({PUBLISHED}{source}", f"]({_relative(name, page)}")
    return PICTURE.sub(lambda match: _images(match[1], match[2], page), markdown)


def _images(line: str, text: str, page: Any) -> str:
    """A picture for either scheme, which scrolls where the page is narrow; its text is the screen."""
    words = html.escape(" ".join(f"{line}: {text}".split()), quote=True).replace("[", "(").replace("]", ")")
    images = [
        f"![{words}]({_relative(_file_of(line, dark), page)}#only-{'dark' if dark else 'light'}){{ loading=lazy }}"
        for dark in (False, True)
    ]
    return "\n".join(['<div class="screen" markdown tabindex="0">', *images, "</div>"])


def _relative(name: str, page: Any) -> str:
    return "../" * page.file.src_uri.count("/") + name
