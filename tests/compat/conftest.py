"""A backend of each kind, as an application has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from applications import KINDS, backend_of

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend


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
