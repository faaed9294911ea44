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
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import PostgresServer, RedisServer
from support import Lens
from test_docs import DOCS, ROOT, name_of

from flujo_lens.cli.app import build

PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
RUN_ELSEWHERE = {"commands": "the examples of the help", "errors.md": "the pages of lens explain"}
SERVERS = {"run-on-postgresql.md": "pg18", "run-on-redis.md": "valkey"}
BLOCK = re.compile(r"((?:^<!-- [^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT = re.compile(r"# exit (\d+)\b")
EXAMPLE_ID = re.compile(r"\b20261121\w*(T\d+-\w+)?")

APP = """\
from flujo_lens import PipelineRegistry, Step, step


def passing(name):
    async def body(value):
        return value

    return step(name=name)(body)


registry = PipelineRegistry()
for name, version, steps in (
    ("approvals", "1.0.0", "load approve?"),
    ("cohort", "2.0.0", "plan draft clarify?"),
    ("export", "3.1.0", "collect upload"),
    ("ingest", "0.9.0", "fetch parse"),
    ("orders", "1.4.0", "validate enrich confirm"),
    ("payments", "2.0.1", "load charge"),
    ("research", "1.2.0", "plan loop write"),
):
    made = [
        Step.human_in_the_loop(each[:-1]) if each.endswith("?") else passing(each) for each in steps.split()
    ]
    pipeline = made[0]
    for each in made[1:]:
        pipeline = pipeline >> each
    registry.register(pipeline, name=name, version=version)
"""


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


# --- running a line


def commands(text: str) -> list[list[str]]:
    """The commands of a line, in the order of their pipeline, without redirections."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    skipped = False  # the file of a redirection
    for word in lexer:
        if word in ("|", "||", "&&"):
            found.append([])
        elif word in (">", "<"):
            skipped = True
            if found[-1][-1:] == ["2"]:
                found[-1].pop()
        elif skipped:
            skipped = False
        else:
            found[-1].append(word)
    return found


def of_lens(text: str) -> list[list[str]]:
    """The arguments of the commands of a line that are ``lens``."""
    return [words[1:] for words in commands(text) if words[:1] == ["lens"]]


def fill(lens: Lens) -> None:
    """The sample store with runs of the names that pages use, some of them old; and an application that fits it."""
    assert lens("demo flujo_ops.db").code == 0
    lens.rename("payments-7702", "run-1")
    lens.rename("research-0022", "run-2")
    old = "created_at = '2025-01-01T00:00:00+00:00', updated_at = '2025-01-01T00:00:00+00:00'"
    some = "SELECT run_id FROM runs WHERE status = 'completed' ORDER BY run_id LIMIT 5"
    lens.edit(*(f"UPDATE {table} SET {old} WHERE run_id IN ({some})" for table in ("workflow_state", "runs")))
    lens.write("myapp/pipelines.py", APP)
    lens.write("lens.toml", '[resume]\napp = "myapp.pipelines:registry"\n')
    (lens.cwd / "archive").mkdir()
    now = "UPDATE {} SET updated_at = '2026-11-21T03:11:00+00:00' WHERE status = 'running'"
    lens.edit(*(now.format(table) for table in ("workflow_state", "runs")))
    assert lens("system set limits {}").code == 0


class EndlessError(BaseException):
    """A command does not end; no other error, so that nothing takes it for a fault of a store and goes on."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End a command that does not end by itself: its page needs a mark."""

    def stop(*_: Any) -> None:
        raise EndlessError(f"it did not end in {seconds} s: <!-- not run: it does not end by itself -->")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Sample(NamedTuple):
    """A folder in which lines run."""

    lens: Lens

    def run(self, line: str, env: Mapping[str, str]) -> tuple[int, str]:
        """The exit code and all output of a line: alone on a terminal, where a person says yes, or in a pipe."""
        stdin, shown, code = b"", "", 0
        found = commands(line)
        for words in found:
            if words[:1] == ["lens"]:
                given = [self._placed(word) for word in words[1:]]
                typed = "y\n" if len(found) == 1 and "--yes" not in words else None
                with at_most(30):
                    done = self.lens(*given, tty=typed is not None, typed=typed, stdin=stdin, env=env)
                stdin, code, shown = done.stdout, done.code, shown + done.out + done.err
            elif "cat" in words:
                stdin = (self.lens.cwd / words[-1]).read_bytes()
            if code:
                break
        return (0 if "||" in line and code == 1 else code), shown

    def _placed(self, word: str) -> str:
        if EXAMPLE_ID.fullmatch(word) or word == "AUDIT_ID":
            changes = self.lens("audit list -n 1 -o id").lines
            return changes[0] if changes else word
        return {"RUN": "run-1", "@RUN": "@latest"}.get(word, word)


@pytest.fixture
def sample(bare_lens: Lens) -> Iterator[Sample]:
    fill(bare_lens)
    yield Sample(bare_lens)
    for name in [name for name in sys.modules if name.split(".")[0] == "myapp"]:
        del sys.modules[name]


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
