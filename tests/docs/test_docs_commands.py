"""Every command line in the pages runs: each in a sample folder of its own, with the exit code that the page promises.

These are the lines that begin with ``lens`` in blocks of ``sh``, or without a language; ``test_docs.py`` runs blocks of
``console`` with what they print, and ``test_readme.py`` makes the screens. A line has to end with 0, or with N where
``# exit N`` stands behind it.

- Of a pipeline only ``lens`` runs: ``lens list -o id | lens delete -`` whole, of ``lens list | jq`` the first part.
- ``<!-- before: lens ... -->`` above a block is run before each of its lines; ``export NAME=VALUE`` in a block counts
  for the lines after it.
- ``<!-- not run: REASON -->`` above a block: its lines are only read by the parsers of the commands.
- ``RUN`` and ``AUDIT_ID`` are the ids of a run and of the newest change, as are the ids that a page takes for examples.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sample_folder import Sample, of_lens
from servers import PostgresServer, RedisServer
from test_docs import DOCS, ROOT, name_of

from flujo_lens.cli.app import build

PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
RUN_ELSEWHERE = {"commands": "the examples of the help", "errors.md": "the pages of lens explain"}
SERVERS = {"run-on-postgresql.md": "pg18", "run-on-redis.md": "valkey"}
BLOCK = re.compile(r"((?:^<!-- [^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT = re.compile(r"# exit (\d+)\b")


class Line(NamedTuple):
    """A command line of a page."""

    page: Path
    number: int
    text: str
    before: tuple[str, ...]
    env: Mapping[str, str]
    reason: str


def lines_of(page: Path) -> Iterator[Line]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        notes, language, body = match.groups()
        if language not in ("", "sh"):
            continue
        before = tuple(re.findall(r"^<!-- before: (.*?) -->$", notes, re.MULTILINE))
        reason = re.search(r"^<!-- not run: (.*?) -->$", notes, re.MULTILINE)
        env: dict[str, str] = {}
        for number, line in enumerate(body.splitlines(), text.count("\n", 0, match.start(2)) + 2):
            if exported := re.fullmatch(r"export (\w+)=(.*)", line):
                env[exported[1]] = shlex.split(exported[2], comments=True)[0]
            if re.match(r"(?:[^#]*\| )?lens ", line):
                yield Line(page, number, line, before, dict(env), reason[1] if reason else "")


EVERY = [line for page in PAGES for line in lines_of(page)]
HERE = [
    line
    for line in EVERY
    if not line.reason and not {*line.page.parts} & {*RUN_ELSEWHERE} and line.page.name not in SERVERS
]


def where(line: Line) -> str:
    return f"{name_of(line.page)}:{line.number}"


@pytest.mark.parametrize("line", HERE, ids=where)
def test_a_line_of_a_page_runs(line: Line, sample: Sample) -> None:
    check(line, sample, line.env)


def check(line: Line, sample: Sample, env: Mapping[str, str]) -> None:
    for each in line.before:
        code, shown = sample.run(each, env)
        assert code == 0, f"{each}\n{shown}"
    wanted = EXIT.search(line.text)
    code, shown = sample.run(line.text, env)
    assert code == (int(wanted[1]) if wanted else 0), f"{where(line)}: {line.text}\n{shown}"


@pytest.mark.parametrize("page", SERVERS)
def test_the_lines_of_a_server_run(page: str, sample: Sample, request: pytest.FixtureRequest) -> None:
    """In their order, on one server in place of the page's; that of Redis has a state of another program."""
    server: PostgresServer | RedisServer = request.getfixturevalue(SERVERS[page])
    if isinstance(server, RedisServer):
        server.call("SET", "run-1", '{"run_id": "run-1", "status": "paused", "pipeline_name": "orders"}')
    for line in lines_of(DOCS / "guides" / page):
        if not line.reason:
            at_server = line._replace(text=_at(server, line.text))
            check(at_server, sample, {name: _at(server, value) for name, value in line.env.items()})


def _at(server: Any, text: str) -> str:
    """The text with the address of a server in place of an example's; parameters stay."""
    return re.sub(r"(postgresql|redis)://[^\s'?]+", server.uri, text)


# --- what is not run


@pytest.mark.parametrize("page", sorted({line.page for line in EVERY}), ids=name_of)
def test_the_program_takes_every_line(page: Path) -> None:
    """Options and arguments are there, also of lines that another test runs, or none."""
    for line in (each for each in EVERY if each.page == page):
        for words in of_lens(line.text):
            if {"--help", "--version"} & {*words}:
                continue
            command, rest = build(words[0]), words[1:]
            if hasattr(command, "commands"):
                command = command.commands[rest.pop(0) if rest and rest[0] in command.commands else command.default]
            command.make_context(words[0], rest)


def test_reasons_are_sentences() -> None:
    assert all(len(line.reason.split()) > 2 for line in EVERY if line.reason)
