"""The pages of the error codes: every code has one, what they say holds, and every way to read them works."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from support import Lens, tree

from flujo_lens import errors
from flujo_lens.cli.exit_codes import exit_code_of
from flujo_lens.operations.explain import Explanation, explain, explanations
from flujo_lens.rendering.plain_markdown import plain_text
from flujo_lens.runner import differences
from flujo_lens.runner.incompatibility import StateIncompatibilityError

ROOT = Path(__file__).resolve().parent.parent.parent
BY_CODE = {
    cls.code: cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, errors.LensError) and "code" in vars(cls)
}
BY_CODE |= dict.fromkeys(differences.CODES.values(), StateIncompatibilityError)
PAGES = explanations()
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
VARIABLES = {"LENS_STORE", "LENS_CONFIG", "LENS_TIMEOUT", "LENS_LEASE", "LENS_KEY", "LENS_KEY_FILE"}


def page_id(page: Explanation) -> str:
    return page.code


CODES = sorted(BY_CODE, key=lambda code: (code[:6], int(code[6:])))

every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)

# --- what the pages say


def test_every_error_has_a_page_and_every_page_an_error() -> None:
    assert [page.code for page in PAGES] == CODES


def test_no_two_pages_have_the_same_title() -> None:
    assert len({page.title for page in PAGES}) == len(PAGES)


@every_page
def test_the_head_is_that_of_the_error(page: Explanation) -> None:
    error = BY_CODE[page.code]
    assert page.exit_code == exit_code_of(error.__new__(error))
    head = page.text.partition("\n## ")[0]
    assert head.startswith(f"# {page.code}: {page.title}\n\nExit code {page.exit_code}. In Python: `{error.__name__}`")


@every_page
def test_every_page_answers_the_same_questions(page: Explanation) -> None:
    assert re.findall("^## (.*)$", page.text, re.MULTILINE) == ["Why it happens", "What to do", "What is safe"]
    lines = page.text.splitlines()
    assert 15 <= len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def commands_of(page: Explanation) -> Iterator[list[str]]:
    """The words after ``lens`` of each command of a page, in blocks of the shell and within lines."""
    shell = "\n".join(text for language, text in FENCED.findall(page.text) if language == "sh")
    for line in [*shell.splitlines(), *INLINE.findall(FENCED.sub("", page.text))]:
        if line.startswith("lens "):
            yield list(takewhile(lambda word: word not in ("2>", ">", "|"), shlex.split(line)[1:]))


KNOWN: set[tuple[str, ...]] = set()


@every_page
def test_every_command_that_is_named_exists(page: Explanation, bare_lens: Lens) -> None:
    """With --help nothing is done, but each word and each option is looked at."""
    for command in commands_of(page):
        if tuple(command) in KNOWN:  # of another page
            continue
        at = command.index("--") if "--" in command else len(command)
        shown = bare_lens(*command[:at], "--help", *command[at:])
        assert (shown.code, shown.err) == (0, ""), command
        assert "Usage: lens" in shown.out or command == ["--version"]
        KNOWN.add(tuple(command))
    assert tree(bare_lens.cwd) == {}


def test_commands_are_found_in_the_pages() -> None:
    found = [command for page in PAGES for command in commands_of(page)]
    assert {"list", "show", "config", "stores", "explain", "demo", "failed", "prune"} <= {words[0] for words in found}
    assert len(found) > 2 * len(PAGES)


def test_a_command_that_does_not_exist_would_be_found(bare_lens: Lens) -> None:
    for wrong in ("mend --help", "list --mend --help", "system mend --help"):
        assert bare_lens(wrong).code == 2


@every_page
def test_other_codes_and_variables_that_are_named_exist(page: Explanation) -> None:
    assert set(re.findall(r"LENS-[A-Z]\d+", page.text)) <= set(BY_CODE)
    assert set(re.findall(r"LENS_[A-Z_]+", page.text)) <= VARIABLES


@every_page
def test_classes_that_are_named_exist(page: Explanation) -> None:
    named = {name for text in INLINE.findall(page.text) if (name := text.rpartition(" ")[2]).endswith("Error")}
    assert named <= {error.__name__ for error in BY_CODE.values()} | {"NotImplementedError"}


# --- reading them


@pytest.mark.parametrize("typed", ["LENS-B1", "lens-b1", "B1", "b1", " b1 "])
def test_a_code_may_be_typed_in_several_ways(bare_lens: Lens, typed: str) -> None:
    shown = bare_lens("explain", typed)
    assert (shown.code, shown.out, shown.err) == (0, plain_text(explain("LENS-B1").text), "")
    assert tree(bare_lens.cwd) == {}


@every_page
def test_a_page_in_a_pipe_is_the_text_of_the_screen(page: Explanation) -> None:
    """Without the marks of Markdown, and with the words of the screen, whose commands stand on lines of their own."""
    text = plain_text(page.text)
    assert not re.search("`|^#", text, re.MULTILINE)
    marks = re.sub(r"^```[a-z]*$|^#+ |`", "", page.text, flags=re.MULTILINE)
    assert text.split() == marks.split()
    for command in (line for _, code in FENCED.findall(page.text) for line in code.splitlines()):
        assert f"    {command}".rstrip() in text.splitlines()


def test_a_page_as_fields(bare_lens: Lens) -> None:
    page = explain("S6")
    whole = {"code": "LENS-S6", "title": page.title, "exit_code": 5, "text": page.text}
    assert bare_lens("explain S6 -o json").json == whole
    assert bare_lens("explain S6 --json").json == whole
    assert json.loads(bare_lens("explain S6 -o ndjson").out) == whole
    assert bare_lens("explain S6 -o csv").csv == [{**whole, "exit_code": "5"}]
    assert bare_lens("explain S6 -o id").lines == ["LENS-S6"]
    assert bare_lens("explain S6 -o json --columns exit_code,code").json == {"exit_code": 5, "code": "LENS-S6"}
    assert bare_lens("explain S6 --columns exit_code --no-header").lines == ["5"]


def test_the_list_of_codes(bare_lens: Lens) -> None:
    rows = [{"code": page.code, "title": page.title, "exit_code": page.exit_code} for page in PAGES]
    assert bare_lens("explain -o json").json == rows
    assert bare_lens("explain -o id").lines == [page.code for page in PAGES]
    assert [(row["code"], row["title"]) for row in bare_lens("explain -o tsv").tsv] == [
        (p.code, p.title) for p in PAGES
    ]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_list_on_a_terminal(bare_lens: Lens, width: int) -> None:
    shown = bare_lens("explain", tty=True, width=width)
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.lines if line.startswith("LENS-")] == CODES
    assert max(map(len, shown.lines)) <= width


@every_page
@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_page_on_a_terminal(bare_lens: Lens, page: Explanation, width: int) -> None:
    shown = bare_lens("explain", page.code, tty=True, width=width)
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0].startswith(f"{page.code}: ")
    assert max(map(len, shown.lines)) <= min(width, 80)
    assert "```" not in shown.out
    assert "\x1b" not in shown.out
    if width >= 80:
        for command in (line for _, text in FENCED.findall(page.text) for line in text.splitlines()):
            assert f"    {command}".rstrip() in [line.rstrip() for line in shown.lines]


def test_a_page_in_colour_has_no_colours(bare_lens: Lens) -> None:
    """Colour tells a status and nothing else; bold is none."""
    shown = bare_lens("explain U1", tty=True, colour=True)
    assert set(re.findall("\x1b\\[([0-9;]*)m", shown.out)) == {"0", "1"}


def test_a_terminal_that_cannot_show_all_letters(bare_lens: Lens) -> None:
    shown = bare_lens("explain B1", tty=True, encoding="ascii")
    assert shown.out == plain_text(explain("B1").text)


@pytest.mark.parametrize("typed", ["S88", "lens-s88", "LENS-S88"])
def test_an_unknown_code_names_the_nearest(bare_lens: Lens, typed: str) -> None:
    told = bare_lens("explain", typed)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith('error LENS-U3: unknown error code "LENS-S88". Did you mean LENS-S8? Valid: LENS-A1, ')


def test_an_exit_code_is_not_an_error_code(bare_lens: Lens) -> None:
    told = bare_lens("explain 5 -o json")
    assert (told.code, told.error["hint"]) == (2, "for exit codes: lens help exit-codes")
    valid = told.error["message"].partition("Valid: ")[2].split(", ")
    assert valid.index("LENS-C9") + 1 == valid.index("LENS-C10"), "in the order of the numbers"


@pytest.mark.parametrize("typed", ["", "locked", "7", "B", "../B1", "\u0661", "B\u0661", "\x1b[31m"])
def test_what_is_no_code(bare_lens: Lens, typed: str) -> None:
    told = bare_lens("explain", typed)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("error LENS-U3: unknown error code ")
    assert "\x1b" not in told.err


@pytest.mark.parametrize("line", ["explain U2", "explain U2 -o json", "explain", "explain -o json"])
@pytest.mark.parametrize("tty", [True, False])
def test_broken_settings_keep_nobody_from_reading_about_them(bare_lens: Lens, line: str, tty: bool) -> None:
    bare_lens.write("lens.toml", "default = 3\n")
    assert "LENS-U2" in bare_lens("list").err
    shown = bare_lens(line, tty=tty)
    assert (shown.code, shown.err) == (0, "")
    assert "LENS-U2" in shown.out


def test_the_store_does_not_matter(bare_lens: Lens) -> None:
    assert bare_lens("explain S1 --store nowhere.db").out == plain_text(explain("S1").text)


# --- the package and the documentation

MODULES = """
import sys
from flujo_lens.cli.app import main
try:
    main()
finally:
    sys.stdout.flush()
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("line", [["explain", "-o", "tsv"], ["explain", "B1"], ["explain", "B1", "-o", "json"]])
def test_it_starts_fast_in_a_pipe(bare_lens: Lens, line: list[str]) -> None:
    command = [sys.executable, "-c", MODULES, *line]
    done = subprocess.run(command, cwd=bare_lens.cwd, env=bare_lens.environment(), capture_output=True, check=True)
    heavy = {
        "rich",
        "pydantic",
        "markdown_it",
        "pygments",
        "aiosqlite",
        "flujo_lens.config",
        "flujo_lens.rendering.markdown",
    }
    assert heavy & set(done.stderr.decode().split("\n")) == set()
    assert b"LENS-B1" in done.stdout


def test_the_page_of_the_documentation_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_errors.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_documentation_has_every_page() -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (LENS-\S+): ", text, re.MULTILINE)
    assert found == CODES
    for code in found:
        assert f"| [{code}](#{code.lower()}-" in text
