"""Naive times of stores that lived through a change of the clock."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import copy
from support import examples

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter
from flujo_lens.state.zones import Observed, ObservedZone, infer_zone, observed

NEW_YORK = ZoneInfo("America/New_York")
SUMMER, WINTER = timedelta(hours=-4), timedelta(hours=-5)
FIRST = datetime(2026, 10, 20, 12, tzinfo=UTC)
"""Runs begin here, one a day: the clocks of New York are set back on November 1."""

KILLED = "crashed-001"


@pytest.fixture
def machine_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        yield patch
    time.tzset()


def in_new_york(folder: Path) -> dict[str, datetime]:
    """A store of 0.4.35 that a machine in New York wrote; when each run was saved last."""
    path = copy("flujo-0.4.35", folder)
    saved = {}
    with closing(sqlite3.connect(path)) as db:
        ids = [row[0] for row in db.execute("SELECT run_id FROM workflow_state ORDER BY rowid")]
        ids.insert(5, ids.pop(ids.index(KILLED)))
        for day, run_id in enumerate(ids):
            when = FIRST + timedelta(days=day)
            saved[run_id] = when
            local = when.astimezone(NEW_YORK).replace(tzinfo=None).isoformat()
            db.execute(
                "UPDATE workflow_state SET created_at = ?, updated_at = ? WHERE run_id = ?", (local, local, run_id)
            )
            start, end = (when - timedelta(hours=3)).isoformat()[:19], when.isoformat()[:19]
            values = (start, None if run_id == KILLED else end, run_id)
            db.execute("UPDATE runs SET start_time = ?, end_time = ? WHERE run_id = ?", values)
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return saved


@pytest.mark.parametrize("zone", ["EST5EDT,M3.2.0,M11.1.0", "UTC", "XXX-9"])
def test_a_killed_run_is_read_by_the_clock_of_its_season(
    tmp_path: Path, machine_zone: pytest.MonkeyPatch, zone: str
) -> None:
    saved = in_new_york(tmp_path)
    assert saved[KILLED] < datetime(2026, 11, 1, tzinfo=UTC) < max(saved.values())
    machine_zone.setenv("TZ", zone)
    time.tzset()
    asyncio.run(_check(tmp_path / "flujo_ops.db", saved))


async def _check(path: Path, saved: dict[str, datetime]) -> None:
    async with SQLiteBackend(path) as backend:
        page = await backend.query_runs(RunFilter(), limit=100)
        assert {run.run_id: run.updated_at for run in page.items if run.run_id in saved} == saved
        (killed,) = await backend.read_summaries([KILLED])
        assert killed.updated_at == saved[KILLED]
        plan = await backend.plan_deletion(DeletionRequest(now=FIRST + timedelta(days=90), cutoff=saved[KILLED]))
        found = [run_id async for run_id in backend.planned_ids(plan)]
        assert KILLED not in found


def at(day: int, offset: timedelta) -> Observed:
    return Observed((FIRST + timedelta(days=day) + offset).replace(tzinfo=None), offset)


def test_the_rules_of_this_machine_count_where_they_explain_everything() -> None:
    found = [at(day, SUMMER if day < 12 else WINTER) for day in range(0, 24, 3)]
    assert infer_zone(found, NEW_YORK) is NEW_YORK
    assert infer_zone(found[-2:], NEW_YORK) is NEW_YORK
    assert isinstance(infer_zone(found, UTC), ObservedZone)
    assert infer_zone(found[-2:], UTC) == timezone(WINTER)
    assert infer_zone([], NEW_YORK) is None


def test_an_offset_that_is_there_by_chance_does_not_count() -> None:
    found = [*(at(day, WINTER) for day in range(13, 20)), at(20, timedelta(hours=2, minutes=45))]
    assert infer_zone(found, UTC) == timezone(WINTER)
    assert infer_zone(found, NEW_YORK) is NEW_YORK


def test_a_store_that_was_moved() -> None:
    berlin = timedelta(hours=1)
    zone = infer_zone([*(at(day, WINTER) for day in range(5)), *(at(day, berlin) for day in range(10, 15))], UTC)
    assert zone is not None
    assert datetime(2026, 10, 21, 12, tzinfo=zone).utcoffset() == WINTER
    assert datetime(2026, 11, 3, 12, tzinfo=zone).utcoffset() == berlin
    assert zone.slack == berlin - WINTER  # type: ignore[attr-defined]


@settings(max_examples=examples(100))
@given(st.lists(st.integers(0, 400), min_size=2, max_size=30, unique=True), st.integers(0, 400 * 24))
def test_what_was_observed_is_read_back(days: list[int], hour: int) -> None:
    found = []
    for day in sorted(days):
        when = FIRST + timedelta(days=day)
        offset = when.astimezone(NEW_YORK).utcoffset()
        assert offset is not None
        found.append(at(day, offset))
    zone = ObservedZone(found)
    for one in found:
        assert one.local.replace(tzinfo=zone).astimezone(UTC) == (one.local - one.offset).replace(tzinfo=UTC)
    instant = FIRST + timedelta(hours=hour)
    there = instant.astimezone(zone)
    assert abs(there.astimezone(UTC) - instant) <= zone.slack
    assert observed([(one.local.isoformat(), (one.local - one.offset).isoformat()) for one in found]) == found
