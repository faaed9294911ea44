"""A process that is killed at any moment: what was saved is not run again, and the run comes to its end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
from programs import TEN_STEPS, ended, start, told

from flujo_lens import FileBackend, SQLiteBackend, StateBackend

ROUNDS = 100 if os.environ.get("LENS_SOAK") else 10


def _store(path: Path) -> StateBackend:
    return SQLiteBackend(path) if path.suffix == ".db" else FileBackend(path)


async def _saved(path: Path) -> int:
    """How many steps the store knows to be done."""
    async with _store(path) as backend:
        state = await backend.load_state("r") if path.exists() else None
    return len(state["step_history"]) if state else 0


async def _story(path: Path) -> tuple[str, list[tuple[str, str]], int]:
    """What ``lens show`` and ``lens trace`` tell."""
    async with _store(path) as backend:
        detail = await backend.read_run("r")
        spans = await backend.read_spans("r")
    assert detail is not None
    return detail.run.status, [(each.step_name, each.status) for each in detail.steps], len(spans[0].children)


@pytest.mark.parametrize("name", ["store.db", "states"])
def test_killed_at_any_moment_every_completed_step_ran_once(name: str, tmp_path: Path) -> None:
    random.seed(name)
    killed = 0
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        store, signs = folder / name, folder / "signs"
        deaths: list[tuple[int, int]] = []
        for _ in range(2):
            process = start(TEN_STEPS, store, signs)
            assert told(process) == "ready"
            time.sleep(random.uniform(0, 0.06))
            process.kill()
            process.communicate()
            killed += process.returncode != 0
            deaths.append((len(_lines(signs)), asyncio.run(_saved(store))))
        out = ended(start(TEN_STEPS, store, signs))
        assert out == f"ready\ncompleted {list(range(10))} {list(range(10))}\n"
        _check(_lines(signs), deaths)
        steps = [(f"step-{index}", "completed") for index in range(10)]
        assert asyncio.run(_story(store)) == ("completed", steps, 10)
    assert killed > 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _check(signs: list[str], deaths: list[tuple[int, int]]) -> None:
    """After a death the run went on at the step behind the last that was saved, and nowhere else.

    Args:
        signs: What the steps told, in order.
        deaths: For each, how many signs there were, and how many steps were saved.
    """
    expected, at = 0, 0
    for length, saved in [*deaths, (len(signs), 10)]:
        began = [int(sign.split()[1]) for sign in signs[at:length] if sign.startswith("begin")]
        assert began == list(range(expected, expected + len(began)))
        assert saved - (expected + len(began)) in (0, -1), "what began was saved, but for the last"
        expected, at = saved, length
