"""Help: the topics say what the program does, and words of other tools name commands that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from command_line import parse
from support import PACKAGE, Lens

from flujo_lens import errors
from flujo_lens.cli import exit_codes
from flujo_lens.cli.app import COMMANDS
from flujo_lens.cli.options import FilterOptions
from flujo_lens.cli.synonyms import SYNONYMS
from flujo_lens.cli.topics import ALSO, TOPICS
from flujo_lens.cli.topics.environment import VARIABLES
from flujo_lens.cli.topics.formatting import FORMATS
from flujo_lens.cli.topics.layout import WIDEST, laid_out
from flujo_lens.operations.explain import explanations
from flujo_lens.rendering import data

# --- words that people try first


@pytest.mark.parametrize("line", sorted({*SYNONYMS.values()}))
def test_a_synonym_is_a_command_line(line: str) -> None:
    parse(line)


def test_what_is_not_a_command_line_does_not_parse() -> None:
    for line in ("list --nothing", "prune --batch-size none", "tasks sweep RUN"):
        with pytest.raises(Exception, match=r"No such option|not a valid|unexpected extra"):
            parse(line)


def test_no_synonym_hides_a_command() -> None:
    assert {*SYNONYMS} & {*COMMANDS} == set()


# --- topics


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_needs_no_store_and_fits_a_terminal(bare_lens: Lens, topic: str) -> None:
    result = bare_lens(f"help {topic}")
    assert (result.code, result.err) == (0, "")
    assert len(result.lines) > 10
    narrow = bare_lens(f"help {topic}", tty=True, width=80)
    assert max(map(len, narrow.lines)) <= 80
    assert narrow.out.split() == result.out.split()
    assert topic in bare_lens("help").out


def test_other_names_of_topics(bare_lens: Lens) -> None:
    for name, topic in ALSO.items():
        assert topic in TOPICS
        assert bare_lens(f"help {name}").out == bare_lens(f"help {topic}").out, name
    result = bare_lens("help enviroment")
    assert (result.code, "Did you mean environment?" in result.err) == (2, True)


def test_every_exit_code_has_its_meaning(bare_lens: Lens) -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert [*exit_codes.MEANINGS] == sorted(codes)
    text = bare_lens("help exit-codes").out
    blocks = dict(re.findall(r"^ +(\d+)  (.*(?:\n       .*)*)", text, re.MULTILINE))
    assert [*map(int, blocks)] == sorted(codes)
    classes = [vars(errors)[name] for name in errors.__all__ if isinstance(vars(errors)[name], type)]
    for error in classes:
        code = str(exit_codes.exit_code_of(error("x")))
        assert re.search(rf"\b{error.code}\b", blocks[code]), (error, code)
    for page in explanations():
        assert re.search(rf"\b{page.code}\b", blocks[str(page.exit_code)]), page.code
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8").partition("| exit code | |\n")[2]
    assert re.findall(r"^\| (\d+) \| (.*) \|$", readme.partition("\n\n")[0], re.MULTILINE) == [
        (str(code), meaning) for code, meaning in exit_codes.MEANINGS.items()
    ]


def _constants(name: str) -> Iterator[str]:
    for path in PACKAGE.rglob("*.py"):
        if path.name != name:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_variable_is_read_and_every_read_one_is_listed() -> None:
    """By the names in the source: of lens, of the library and of the desktop, and what is looked up in a mapping."""
    named = {*_constants("environment.py")}
    by_the_system = {"TZ"}
    assert {*VARIABLES} - named - by_the_system == set()
    exported = {"LENS_DDL", "LENS_TABLES", "LENS_SOAK"}  # names in a module, and the variable of the conformance suite
    found = {name for name in named if re.fullmatch(r"(LENS|FLUJO|XDG)_[A-Z_]+", name)}
    assert found - {*VARIABLES} - exported == set()
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    looked_up = {*re.findall(r'\benv(?:iron)?(?:\.get\(|\[)"([A-Z_]+)"', source)}
    assert len(looked_up) > 5
    assert looked_up - {*VARIABLES} - {"PWD", "SUDO_UID"} == set()  # set by the shell and by sudo


def test_formats_are_those_of_the_program(bare_lens: Lens) -> None:
    assert sorted(FORMATS) == sorted(data.FORMATS)
    text = bare_lens("help formatting").out
    for name, command in (("run_id", "list"), ("sample_run_id", "failed"), ("start_offset_ms", "spans")):
        assert name in text.partition(command)[2]


def test_filters_are_those_of_the_program(bare_lens: Lens) -> None:
    text = bare_lens("help filters").out
    for name in FilterOptions._fields:
        assert f"\n  --{name.replace('_', '-')}" in text
    assert re.search(r"Commands: list, .*\btasks list\b", text)


def test_a_topic_is_folded_at_its_text() -> None:
    lines = [
        "A paragraph of eight words at the margin.",
        "",
        "  NAME  what it is, in more words than fit",
        "      a, bc, def, ghij, klmno, pqrstu, vwxyz, abcdefgh",
    ]
    assert list(laid_out(lines, 40)) == [
        "A paragraph of eight words at the",
        "margin.",
        "",
        "  NAME  what it is, in more words than",
        "        fit",
        "      a, bc, def, ghij, klmno, pqrstu,",
        "      vwxyz, abcdefgh",
    ]
    assert max(map(len, laid_out(["word " * 99], 300))) <= WIDEST
