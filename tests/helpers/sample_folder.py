"""A folder in which command lines of pages and of the help run: the sample store, and an application that fits it."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from support import Lens

__all__ = ["Sample", "commands", "fill", "of_lens"]

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
