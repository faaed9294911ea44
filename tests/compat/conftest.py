"""A backend of each kind, as an application has it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from applications import KINDS, backend_of

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

SLICE = (
    "test_a_paused_run_is_finished_question_by_question",
    "test_a_failed_run_goes_on_at_the_step_that_failed",
    "test_a_killed_run_goes_on",
)
"""Runs that the library's own runner finishes in every run of the suite; ``make compat`` runs them all."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the other processes of the library out of an ordinary run: each takes seconds to start."""
    if os.environ.get("LENS_COMPAT") or os.environ.get("LENS_SOAK"):
        return
    left = [
        item
        for item in items
        if item.path.name == "test_resume_with_library.py" and item.name.partition("[")[0] not in SLICE
    ]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateBackend]:
    """One of each kind; closed in another event loop than the test's, as a synchronous runner does."""
    made = backend_of(request.param, tmp_path)
    yield made
    asyncio.run(made.shutdown())


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLiteBackend]:
    """A store that keeps history."""
    made = SQLiteBackend(tmp_path / "store.db")
    yield made
    asyncio.run(made.shutdown())
