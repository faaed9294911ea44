"""Every plan by which runs are found gives the same runs in the same order: that of a plain sort in Python.

Stores are made at random (from seeds) in every form of time that real stores hold; the plans are forced by
their constants. `Book` keeps what was written and knows by `interpret` and `matching` what has to come out.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stores import listed, make, read, run, state

from flujo_lens.state import interpret
from flujo_lens.state.backends.base import Position
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.reads import index_choice
from flujo_lens.state.backends.sqlite.reads import run_selection as plans
from flujo_lens.state.backends.sqlite.schema.tables import CREATE
from flujo_lens.state.filtering import matches, sort_key
from flujo_lens.state.views import RunFilter, RunSummary

ZONE = timezone(timedelta(hours=-5))
BASE = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
HUGE = 10**9
SEEDS = range(int(os.environ.get("LENS_SEEDS", "1")))
"""One a test; ``LENS_SEEDS=20`` looks harder."""

OLD_RUNS = """
CREATE TABLE runs (run_id TEXT PRIMARY KEY, pipeline_name TEXT NOT NULL, pipeline_version TEXT NOT NULL,
    status TEXT NOT NULL, start_time TEXT, end_time TEXT, total_cost REAL, final_context_blob TEXT);
CREATE INDEX idx_runs_status ON runs(status);
CREATE INDEX idx_runs_pipeline_name ON runs(pipeline_name);
CREATE INDEX idx_runs_start_time_desc ON runs(start_time DESC);
"""
ADDED = """
ALTER TABLE runs ADD COLUMN pipeline_id TEXT;
ALTER TABLE runs ADD COLUMN created_at TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN updated_at TEXT;
CREATE INDEX idx_runs_created_at ON runs(created_at);
"""
STATES = CREATE[
    CREATE.index("CREATE TABLE IF NOT EXISTS workflow_state") : CREATE.index("CREATE TABLE IF NOT EXISTS runs")
]
STATE_INDEXES = """
CREATE INDEX idx_workflow_state_status ON workflow_state(status);
CREATE INDEX idx_workflow_state_pipeline_id ON workflow_state(pipeline_id);
CREATE INDEX idx_workflow_state_parent_run_id ON workflow_state(parent_run_id);
CREATE INDEX idx_workflow_state_created_at ON workflow_state(created_at);
"""
SCHEMAS = {
    "0.6.11": CREATE.replace("created_at TEXT NOT NULL, updated_at TEXT NOT NULL", "created_at TEXT, updated_at TEXT"),
    "0.4.35": STATES + STATE_INDEXES + OLD_RUNS,
    "mixture": STATES + STATE_INDEXES + OLD_RUNS + ADDED,
    "no indexes": STATES + OLD_RUNS.partition("CREATE INDEX")[0],
    "states alone": STATES + STATE_INDEXES,
    "runs alone": OLD_RUNS,
}

Form = Callable[[datetime], "str | None"]


def aware(when: datetime) -> str:
    return when.isoformat()


def zulu(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def naive_utc(when: datetime) -> str:
    return when.replace(tzinfo=None).isoformat()


def spaced(when: datetime) -> str:
    return when.replace(tzinfo=None).isoformat(" ", "seconds")


def naive_local(when: datetime) -> str:
    return when.astimezone(ZONE).replace(tzinfo=None).isoformat()


def elsewhere(when: datetime) -> str:
    return when.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()


def seconds(when: datetime) -> str:
    return when.replace(microsecond=0).isoformat()


def day(when: datetime) -> str:
    return when.date().isoformat()


RUN_FORMS: tuple[Form, ...] = (aware, zulu, naive_utc, spaced, elsewhere, seconds, day)
STATE_FORMS: tuple[Form, ...] = (aware, zulu, naive_local, spaced, elsewhere, seconds, day)
GARBAGE = ("", None, "yesterday", "0", ":", "2026-13-15T00:00:00", "2026-02-30T10:00:00+00:00", "2026-03-01Tnoon")
GARBAGE += ("20260301T100000", "2026-W09-7", "99999", "-2026-03-01T10:00:00", "2026-03-01T10:00:00+99:00", "\U0010ffff")


@dataclass
class Book:
    """A store, and the rows that are in it by run id."""

    path: Path
    states: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    zone: tzinfo = ZONE

    @cached_property
    def summaries(self) -> list[RunSummary]:
        """All runs, the oldest first."""
        found = []
        for run_id in {**self.states, **self.runs}:
            raw = interpret.raw_from_documents(run_id, self.states.get(run_id), self.runs.get(run_id))
            found.append(interpret.summarise(raw, self.zone))
        return sorted(found, key=sort_key)

    def ids(self, wanted: RunFilter, after: Position | None = None, reverse: bool = False) -> list[str]:
        """What has to come out."""
        admitted = [r for r in self.summaries if matches(wanted, r)]
        if after is not None:
            border = sort_key(RunSummary(run_id=after[1], created_at=after[0]))
            admitted = [r for r in admitted if (sort_key(r) > border if reverse else sort_key(r) < border)]
        return [r.run_id for r in admitted][:: 1 if reverse else -1]


class Maker:
    """Makes a random store.

    Args:
        seed: Of everything random.
        schema: A name of `SCHEMAS`.
        forms: ``one`` form of time a column, ``two`` (the second from the middle on), or ``any``.
        garbage: The share of times that are none.
    """

    def __init__(self, seed: int, schema: str, forms: str, garbage: float = 0.0) -> None:
        self.random = random.Random(f"{seed} {schema} {forms} {garbage}")
        self.schema, self.forms, self.garbage = schema, forms, garbage
        self.run_forms = self.random.sample(RUN_FORMS, 2)
        self.state_forms = self.random.sample(STATE_FORMS, 2)
        self.saved: dict[str, datetime] = {}

    def make(self, path: Path, count: int) -> Book:
        states: dict[str, dict[str, Any]] = {}
        runs: dict[str, dict[str, Any]] = {}
        for number in range(count):
            self._add(number, count, states, runs)
        states = dict(sorted(states.items(), key=lambda item: str(self.saved[item[0]])))
        tables = {"runs": runs.values(), "workflow_state": states.values()}
        make(path, {name: rows for name, rows in tables.items() if rows}, SCHEMAS[self.schema])
        return Book(path, states, runs)

    def _add(self, number: int, count: int, states: dict[str, Any], runs: dict[str, Any]) -> None:
        run_id = f"{self.random.choice('abcxyzABC')}{self.random.randrange(10**6)}-{number}"
        kinds = {"states alone": ["state"], "runs alone": ["run"]}.get(self.schema, ["both", "both", "run", "state"])
        kind = self.random.choice(kinds)
        when = BASE + timedelta(minutes=self.random.randrange(count * 30) if number % 3 else number * 30)
        when += timedelta(microseconds=self.random.choice((0, 0, 1, 500_000, 999_999, self.random.randrange(10**6))))
        late = when > BASE + timedelta(minutes=count * 15)
        name = self.random.choice(("p1", "p1", "p2", "unknown", ""))
        if kind != "state":
            runs[run_id] = self._run(run_id, name, self._time(when, RUN_FORMS, self.run_forms, late))
        if kind != "run":
            saved = when + timedelta(seconds=self.random.choice((0, 1, 90)))
            self.saved[run_id] = saved
            states[run_id] = self._state(run_id, saved, late)

    def _time(self, when: datetime, all_forms: tuple[Form, ...], two: list[Form], late: bool) -> str | None:
        if self.random.random() < self.garbage:
            return self.random.choice(GARBAGE)
        form = self.random.choice(all_forms) if self.forms == "any" else two[late and self.forms == "two"]
        return form(when)

    def _run(self, run_id: str, name: str, start: str | None) -> dict[str, Any]:
        status = self.random.choice(("completed", "completed", "failed", "running"))
        row = run(run_id, pipeline_name=name, status=status, created_at=start, updated_at=None)
        if self.schema == "0.6.11":
            return row
        for column in ("created_at", "updated_at", "pipeline_id"):
            del row[column]
        if self.schema == "mixture" and self.random.random() < 0.3:
            return {**row, "start_time": self.random.choice((None, "")), "created_at": start or ""}
        return {**row, "start_time": start}

    def _state(self, run_id: str, saved: datetime, late: bool) -> dict[str, Any]:
        status = self.random.choice(("completed", "completed", "failed", "paused", "running", "odd"))
        created = self._time(saved, STATE_FORMS, self.state_forms, late)
        history = self.random.choice(("[]", '[{"name": "a", "success": false, "feedback": "E 1"}]', None))
        name = self.random.choice(("p1", "p2", "unknown"))
        parent = {"parent_run_id": "p-1", "is_background_task": 1} if self.random.random() < 0.1 else {}
        return state(
            run_id,
            pipeline_id=f"{name}-id",
            pipeline_name=name,
            status=status,
            step_history=history,
            created_at=created or "",
            updated_at=created or "",
            metadata=json.dumps({"n": self.random.randrange(3)}),
            **parent,
        )


FILTERS = (
    RunFilter(),
    RunFilter(statuses=frozenset({"failed"})),
    RunFilter(statuses=frozenset({"cancelled"})),
    RunFilter(statuses=frozenset({"paused", "odd"})),
    RunFilter(pipeline="p1"),
    RunFilter(pipeline="unknown"),
    RunFilter(pipeline="p2", statuses=frozenset({"completed", "running"})),
    RunFilter(since=BASE + timedelta(hours=7), until=BASE + timedelta(hours=20)),
    RunFilter(until=BASE + timedelta(hours=9), statuses=frozenset({"completed"})),
    RunFilter(since=BASE + timedelta(hours=9, microseconds=1)),
    RunFilter(active_since=BASE + timedelta(hours=11), statuses=frozenset({"failed"})),
    RunFilter(active_since=BASE + timedelta(hours=20)),
    RunFilter(active_since=BASE + timedelta(hours=11), pipeline="p1"),
    RunFilter(active_until=BASE + timedelta(hours=11)),
    RunFilter(meta=(("n", "1"),)),
    RunFilter(error="E #"),
    RunFilter(search="c1"),
    RunFilter(parent="p-1"),
    RunFilter(top_level=True, version="1"),
    RunFilter(statuses=frozenset({"nobody has this"})),
)


class Plan(NamedTuple):
    """Constants that force a plan."""

    small_store: int
    few: int
    budget: int


PLANS = {
    "everything is read and sorted": Plan(4_000, 5_000, 20_000),
    "an index if there is one": Plan(-1, HUGE, 20_000),
    "a walk": Plan(-1, -1, HUGE),
    "a walk that is given up": Plan(-1, -1, 7),
}


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    small, few, budget = PLANS[request.param]
    monkeypatch.setattr(index_choice, "SMALL_STORE", small)
    monkeypatch.setattr(index_choice, "FEW", few)
    monkeypatch.setattr(plans, "WALK_BUDGET", budget)
    return str(request.param)


async def _paged(backend: SQLiteBackend, wanted: RunFilter, limit: int, reverse: bool) -> list[str]:
    """All runs, page by page."""
    found: list[str] = []
    after: Position | None = None
    for _ in range(10_000):
        page = await backend.query_runs(wanted, after=after, limit=limit, reverse=reverse)
        found += [r.run_id for r in page.items]
        if page.next is None:
            return found
        after = page.next
    raise AssertionError("the pages have no end")


def check(book: Book, filters: Iterable[RunFilter] | None = None, limit: int = 20) -> None:
    """Lists and pages of the store against the book, by these filters or by some of `FILTERS`."""
    dice = random.Random(f"{book.path} {len(book.runs)}")
    filters = filters or [RunFilter(), *dice.sample(FILTERS[1:], 6)]

    async def work(backend: SQLiteBackend) -> None:
        for wanted in filters:
            reverse, expected = dice.random() < 0.5, book.ids(wanted)
            after = _somewhere(book, dice)
            found = [r.run_id for r in await listed(backend, wanted, reverse=reverse, after=after)]
            assert found == book.ids(wanted, after, reverse), (wanted, after, reverse)
            assert await _paged(backend, wanted, limit, not reverse) == book.ids(wanted, None, not reverse), wanted
            assert [r.run_id for r in await listed(backend, wanted)] == expected, wanted
            loose = await listed(backend, wanted, ordered=False, details=False)
            assert sorted(r.run_id for r in loose) == sorted(expected), wanted
            assert await backend.count_runs(wanted) == len(expected), wanted

    read(book.path, work, book.zone)


def _somewhere(book: Book, dice: random.Random) -> Position:
    """A position at a run, or near one."""
    found = dice.choice(book.summaries)
    run_id = dice.choice((found.run_id, found.run_id + "!", "", "zzz"))
    return (found.created_at, run_id)


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_form_of_time(seed: int, schema: str, plan: str, tmp_path: Path) -> None:
    check(Maker(seed, schema, "one").make(tmp_path / "s.db", 45))


@pytest.mark.parametrize("schema", ["0.6.11", "mixture", "states alone"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_form_that_changed_on_the_way(seed: int, schema: str, plan: str, tmp_path: Path) -> None:
    check(Maker(seed, schema, "two").make(tmp_path / "s.db", 45))


@pytest.mark.parametrize("schema", ["0.6.11", "mixture", "0.4.35", "no indexes"])
@pytest.mark.parametrize("seed", SEEDS)
def test_times_that_are_none(seed: int, schema: str, plan: str, tmp_path: Path) -> None:
    check(Maker(seed, schema, "one", garbage=0.3).make(tmp_path / "s.db", 45), FILTERS[:9:2])


@pytest.mark.parametrize("schema", ["0.6.11", "mixture"])
@pytest.mark.parametrize("seed", SEEDS)
def test_forms_that_go_criss_cross(seed: int, schema: str, plan: str, tmp_path: Path) -> None:
    """A walk knows it by the ends of the index: the first and the last time have different forms."""
    maker = Maker(seed, schema, "any")
    book = maker.make(tmp_path / "s.db", 45)
    ends = {"first": aware(BASE - timedelta(days=9)), "last": spaced(BASE + timedelta(days=99))}
    more = {i: run(i, pipeline_name="p1", updated_at=None, created_at=when) for i, when in ends.items()}
    if schema == "mixture":
        more = {i: {**row, "start_time": row["created_at"], "created_at": ""} for i, row in more.items()}
    states = {f"s-{i}": state(f"s-{i}", created_at=when, updated_at=when) for i, when in ends.items()}
    make(book.path, {"runs": more.values(), "workflow_state": states.values()}, "")
    check(Book(book.path, {**book.states, **states}, {**book.runs, **more}))


def test_any_forms_at_once_in_a_small_store(tmp_path: Path) -> None:
    """A small store is read whole, so its order is exact whatever is in it."""
    for seed in SEEDS:
        check(Maker(seed, "mixture", "any", garbage=0.1).make(tmp_path / f"{seed}.db", 60))


def test_a_store_that_is_not_small(tmp_path: Path) -> None:
    """With the constants as they are: more than `SMALL_STORE` runs are walked, or found by an index."""
    book = Maker(7, "mixture", "two").make(tmp_path / "s.db", 1_600)
    assert index_choice.SMALL_STORE < 1_600
    check(book, [FILTERS[at] for at in (0, 4, 12)], limit=400)


def test_local_times_round_the_change_of_the_clock(plan: str, tmp_path: Path) -> None:
    """On 2026-11-01 New York's clock goes back from 2:00 to 1:00: texts of that hour are in no order of time."""
    zone = pytest.importorskip("zoneinfo").ZoneInfo("America/New_York")
    start = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
    states = {}
    for number in range(60):
        when = (start + timedelta(minutes=7 * number)).astimezone(zone)
        text = when.replace(tzinfo=None).isoformat()
        states[f"r{number * 37 % 60}"] = state(f"r{number * 37 % 60}", created_at=text, updated_at=text)
    make(tmp_path / "s.db", {"workflow_state": states.values()}, SCHEMAS["states alone"])
    since = [RunFilter(since=start + timedelta(hours=h), until=start + timedelta(hours=h + 1)) for h in range(6)]
    check(Book(tmp_path / "s.db", states, {}, zone), [RunFilter(), *since], limit=5)


def test_times_at_the_ends_of_the_calendar(plan: str, tmp_path: Path) -> None:
    texts = ("0001-01-01T00:00:00", "0999-12-31T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00")
    texts += ("1000-01-01T00:00:00.000001", "9999-12-31T23:59:59", "2026-03-01T00:00:00")
    runs = {f"r{at}": run(f"r{at}", created_at=text) for at, text in enumerate(texts)}
    make(tmp_path / "s.db", {"runs": runs.values()}, SCHEMAS["0.6.11"])
    times = [datetime.min, datetime(999, 1, 1), datetime(1000, 1, 1), datetime(9999, 12, 31), datetime.max]
    bounds = [when.replace(tzinfo=UTC) for when in times]
    filters = [*(RunFilter(since=when) for when in bounds), *(RunFilter(until=when) for when in bounds)]
    check(Book(tmp_path / "s.db", {}, runs), [RunFilter(), *filters], limit=2)
