"""The examples in the help: every one runs, in a sample folder, and ends with 0 (with ``||`` after it, also with 1).

A command that is new needs no entry here if its examples use the names of the sample: ``run-1`` and ``run-2`` (failed),
the store ``prod``, ``myapp.pipelines:registry``, and the ids of ``lens demo``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import parse
from sample_folder import Sample, of_lens
from support import Lens

from flujo_lens.cli.app import COMMANDS, build
from flujo_lens.cli.examples import Example, examples_of, with_headings

NOT_RUN = {
    "lens watch": "does not end by itself",
    "lens metrics serve": "does not end by itself",
    "lens init 'postgresql:": "needs a server",
    "lens migrate --print-sql": "needs a server",
}
"""How an example begins that is only parsed -> why."""

BEFORE = {
    "lens resume": ("orders-1|approve-4711",),
    "lens fork": ("orders-1|orders-001204",),
    "lens undo": ("lens delete run-1 --yes",),
    "lens check --from": ("lens check --save inflight.json",),
    "lens import": ("lens export archive.ndjson.zst",),
    "ssh backup cat": ("lens export runs.ndjson.gz",),
    "lens copy": ('config|[stores.prod]\nuri = "flujo_ops.db"\n',),
    "lens config": ('config|[stores.prod]\nuri = "flujo_ops.db"\n',),
}
"""How an example begins -> what is done before it: a command, ``OTHER|ID`` (ID becomes run-1), or ``config|TOML``."""


def _built() -> Iterator[tuple[str, Any]]:
    for name in COMMANDS:
        command = build(name)
        yield name, command
        yield from ((f"{name} {member}", each) for member, each in getattr(command, "commands", {}).items())


EVERY = [(name, example.line) for name, command in _built() for example in examples_of(command.help or "")]


def _of(line: str, table: dict[str, Any]) -> Any:
    return next((value for begin, value in table.items() if line.startswith(begin)), None)


def _prepare(sample: Sample, step: str) -> None:
    lens = sample.lens
    if step.startswith("config|"):
        toml = (lens.cwd / "lens.toml").read_text(encoding="utf-8")
        lens.write("lens.toml", toml + step.partition("|")[2])
    elif "|" in step:
        other, run_id = step.split("|")
        lens.rename("run-1", other)
        lens.rename(run_id, "run-1")
    else:
        assert sample.run(step, {})[0] == 0, step


def _with_question(sample: Sample, line: str) -> str:
    """The line with the question that run-1 asks, in place of that of the example."""
    if "--question" not in line:
        return line
    return re.sub(r"(?<=--question )\w+", sample.lens("show run-1 -o json").json["pause"]["question"], line)


@pytest.mark.parametrize("line", [line for _, line in EVERY if not _of(line, NOT_RUN)])
def test_an_example_runs(sample: Sample, line: str) -> None:
    for step in _of(line, BEFORE) or ():
        _prepare(sample, step)
    code, shown = sample.run(_with_question(sample, line), {})
    assert code == 0, shown


@pytest.mark.parametrize("line", [line for _, line in EVERY if _of(line, NOT_RUN)])
def test_an_example_that_does_not_end_is_a_command_line(line: str) -> None:
    for words in of_lens(line):
        parse(" ".join(f"'{word}'" for word in words))


def test_every_command_has_one_line_and_examples() -> None:
    """A sentence of at most 80 letters; a group has its examples at its commands."""
    for name, command in _built():
        first, _, rest = (command.help or "").partition("\n")
        assert first.endswith("."), name
        assert len(first) <= 80, name
        assert not rest or rest.startswith("\n"), name
        if not hasattr(command, "commands"):
            assert [line for other, line in EVERY if other == name], name
            own = [line for other, line in EVERY if other == name and f"lens {name}" in line]
            assert own, name


def test_the_help_shows_the_examples_of_a_command_and_of_a_group(bare_lens: Lens) -> None:
    for name, command in _built():
        shown = bare_lens(f"{name} --help", tty=True, width=160).out
        text = shown.partition("\n Examples ")[2]
        members = getattr(command, "commands", {"": command}).values()
        for example in [example for each in members for example in examples_of(each.help or "")[:1]]:
            assert f"   $ {example.line} " in text, name
            assert f"   # {example.comment} " in text or not example.comment, name


def test_what_is_an_example() -> None:
    help = "List [runs].\n\nlens is a tool.\n  And more.\n\nlens list   all\nssh a cat | lens import -\n\nlens [x]"
    assert examples_of(help) == [
        Example("lens list", "all"), Example("ssh a cat | lens import -", ""), Example("lens [x]", ""),
    ]  # fmt: skip
    assert with_headings(help) == (
        "List [runs].\n\nlens is a tool. And more.\n\n[bold]Examples[/bold]\n[dim]  # all[/dim]\n"
        "[not dim]  $ lens list[/not dim]\n[not dim]  $ ssh a cat | lens import -[/not dim]\n"
        "[not dim]  $ lens \\[x][/not dim]"
    )
    assert with_headings("lens alone") == "lens alone"
