"""What ``prune --dry-run`` names is what ``--yes`` and a person's ``y`` delete, whatever the filters and options."""

from __future__ import annotations

import asyncio
import io
import os
import random
import shlex
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support import NOW, ZONE

from flujo_lens.cli.app import run
from flujo_lens.cli.world import World
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.views import RunFilter

ROUNDS = range(300) if os.environ.get("LENS_SOAK") else range(8)
"""Stores of each kind, each with some lines."""

LINES = 4
RUNS = 14
STATUSES = ("completed", "failed", "paused", "running", "cancelled")
FILTERS = (
    "--status completed", "--status failed,paused", "--status paused", "--pipeline orders", "--pipeline nothing",
    "--search r-1", "--top-level", "--error 'Rate*'", "--since 3d", "--until 1d", "--active-until 2d", "--meta k=1",
    "--version 2",
)  # fmt: skip
AGES = ("--older-than 1h", "--older-than 12h", "--days-old 1", "--older-than 3d", "--older-than 30d")
MORE = ("--include-paused", "--force", "--batch-size 1", "--batch-size 3", "--no-bin", "--keep-last 1", "--keep-last 3")
LIMITS = ("--max-share 100%", "--max-share 100%", "", "--max-share 20%", "--max-delete 3 --max-share 100%")


class RememberedBackend(InMemoryBackend):
    """A store in memory that the commands of one process share, by its name."""

    stores: dict[str, RememberedBackend] = {}  # noqa: RUF012

    @classmethod
    def from_uri(cls, uri: str) -> RememberedBackend:
        return cls.stores[uri]


class Typed(io.StringIO):
    """A terminal on which somebody has typed something."""

    def isatty(self) -> bool:
        return True


def states(chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """States of runs, and of background tasks of some: old and young, of every status."""
    found: list[tuple[str, dict[str, Any]]] = []
    for number in range(chance.randint(1, RUNS)):
        heads = [run_id for run_id, state in found if not state["is_background_task"]]
        parent = chance.choice(heads) if heads and chance.random() < 0.3 else None
        updated = NOW - timedelta(hours=chance.choice((0.5, 5, 20, 40, 100, 900)))
        created = updated - timedelta(minutes=chance.randint(0, 3000))
        status = chance.choice(STATUSES)
        state = {
            "pipeline_name": chance.choice(("orders", "nightly")), "pipeline_version": chance.choice(("1", "2")),
            "status": status, "created_at": created, "updated_at": updated, "pipeline_context": {},
            "error_message": "RateLimitError: 429" if status == "failed" else None,
            "metadata": {"k": str(chance.randint(1, 2))}, "is_background_task": parent is not None,
            "parent_run_id": parent,
        }  # fmt: skip
        found.append((f"r-{number}", state))
    return found


def line(chance: random.Random) -> str:
    """A command line of ``prune``, whose filters and options may contradict the runs, but not each other."""
    ages = [chance.choice(AGES)] if chance.random() < 0.8 else ["--keep-last 2"]
    filters = {words.split()[0]: words for words in chance.sample(FILTERS, chance.randint(0, 2))}.values()
    more = {words.split()[0]: words for words in chance.sample(MORE, chance.randint(0, 2))}
    more.pop("--keep-last" if "--keep-last 2" in ages else "", None)
    orphans = ["--orphans"] if chance.random() < 0.2 else []
    return " ".join(["prune", *ages, *filters, *more.values(), *orphans, chance.choice(LIMITS)])


class Place:
    """One copy of a store, and what is run on it."""

    def __init__(self, kind: str, folder: Path, name: str) -> None:
        self.folder, self.kind = folder, kind
        self.uri = {"sqlite": f"{name}.db", "files": f"{name}-states", "memory": f"remembered://{name}"}[kind]

    def fill(self, content: list[tuple[str, dict[str, Any]]]) -> None:
        """Make the store."""
        if self.kind == "memory":
            RememberedBackend.stores[self.uri] = RememberedBackend()
        elif self.kind == "files":
            (self.folder / self.uri).mkdir()
        asyncio.run(self._fill(content))

    def fill_as(self, other: Place, content: list[tuple[str, dict[str, Any]]]) -> None:
        """Make the store what another is, of the same content: files are copied."""
        if self.kind == "memory":
            self.fill(content)
        else:
            copied = shutil.copytree if self.kind == "files" else shutil.copyfile
            copied(self.folder / other.uri, self.folder / self.uri)

    def _backend(self) -> StateBackend:
        if self.kind == "memory":
            return RememberedBackend.stores[self.uri]
        path = self.folder / self.uri
        return SQLiteBackend(path) if self.kind == "sqlite" else FileBackend(path)

    async def _fill(self, content: list[tuple[str, dict[str, Any]]]) -> None:
        backend = self._backend()
        for run_id, state in content:
            await backend.save_state(run_id, state)
        await backend.shutdown()

    async def _ids(self) -> set[str]:
        backend = self._backend()
        found = {run.run_id async for run in backend.iter_runs(RunFilter())}
        await backend.shutdown()
        return found

    def ids(self) -> set[str]:
        return asyncio.run(self._ids())

    def lens(self, words: str, answer: str | None = None) -> tuple[int, list[str], str]:
        """Run a command; its exit code, the lines of stdout, and what it told beside."""
        stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
        world = World(
            stdin=io.StringIO() if answer is None else Typed(answer), stdout=stdout, stderr=stderr, env={},
            cwd=self.folder, now=lambda: NOW, zone=ZONE, stdout_tty=False, stderr_tty=answer is not None,
            user_config_dir=self.folder / "user", etc_dir=self.folder / "etc",
        )  # fmt: skip
        code = run([*shlex.split(words), "--audit-file", f"{self.folder}/log", "-s", self.uri], world)
        texts = []
        for stream in (stdout, stderr):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return code, texts[0].splitlines(), texts[1]


@pytest.mark.parametrize("kind", ["sqlite", "files", "memory"])
@pytest.mark.parametrize("seed", ROUNDS)
def test_the_ids_of_a_dry_run_are_those_that_go(kind: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    (tmp_path / "lens.toml").write_text(f'[drivers]\nremembered = "{__name__}:RememberedBackend"\n')
    for number in range(LINES):
        content, words = states(chance), line(chance)
        dry, yes, asked = (Place(kind, tmp_path, f"{way}-{number}") for way in ("dry", "yes", "asked"))
        dry.fill(content)
        yes.fill_as(dry, content)
        asked.fill_as(dry, content)
        code, planned, told = dry.lens(f"{words} --dry-run -o id")
        assert code in (0, 1), (words, told)
        before = dry.ids()
        assert before == {run_id for run_id, _ in content}
        report = dry.lens(f"{words} --dry-run")
        assert (dry.ids(), report[0]) == (before, code), "a dry run changes nothing"
        assert len(planned) == len(set(planned))
        done, gone, error = yes.lens(f"{words} --yes -o id")
        assert (done, sorted(gone)) == (code, [] if code else sorted(planned)), (words, error)
        assert before - yes.ids() == set(gone), words
        agreed, _, _ = asked.lens(words, "y\n")
        refused = agreed == 1
        assert before - asked.ids() == (set() if refused else set(planned)), words
        assert not refused or (code == 1 and ("--max-share 20%" in words or "--max-delete" in words)), words
