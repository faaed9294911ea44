"""Which runs a deletion takes: families, ages in every form that stores hold, and why runs stay."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flujo_lens.state.backends.core.selection import (
    Chooser,
    Families,
    Member,
    families,
    in_batches,
    last_sign,
    why_not,
)
from flujo_lens.state.deletion import DeletionPlan, DeletionRequest, Retained
from flujo_lens.state.views import RunFilter

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CUTOFF = NOW - timedelta(days=30)
OLD, YOUNG = CUTOFF - HOUR, CUTOFF + HOUR
LIMA, PARIS = timezone(-5 * HOUR), ZoneInfo("Europe/Paris")

FORMS: dict[str, Callable[[datetime], str]] = {
    "T, microseconds, +00:00": lambda when: when.replace(microsecond=7).isoformat(),
    "T, +00:00": lambda when: when.isoformat(),
    "T, microseconds, Z": lambda when: when.replace(microsecond=7).isoformat()[:26] + "Z",
    "T, Z": lambda when: when.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "T, microseconds": lambda when: when.replace(microsecond=7, tzinfo=None).isoformat(),
    "T": lambda when: when.replace(tzinfo=None).isoformat(),
    "space, microseconds": lambda when: when.replace(microsecond=7, tzinfo=None).isoformat(" "),
    "space": lambda when: when.replace(tzinfo=None).isoformat(" "),
    "space, +00:00": lambda when: when.isoformat(" "),
    "elsewhere": lambda when: when.astimezone(timezone(9.5 * HOUR)).isoformat(),
}


def asked(**more: Any) -> DeletionRequest:
    return DeletionRequest(**{"now": NOW, "cutoff": CUTOFF, **more})


def member(run_id: str, updated: datetime | None = OLD, status: str = "completed", **more: Any) -> Member:
    return Member(run_id, status, more.pop("pipeline", "orders"), updated, **more)


def plan(request: DeletionRequest, *members: Member) -> DeletionPlan:
    chosen = Families()
    chooser = Chooser(request, chosen)
    for family in families(members):
        chooser.offer(family)
    return chooser.plan(chosen, len(members))


def ids(found: DeletionPlan) -> list[tuple[str, ...]]:
    return list(found.choice.all)


# --- ages


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of_state", [True, False])
def test_an_hour_decides_in_every_form(form: str, of_state: bool) -> None:
    for when, is_old in ((OLD, True), (YOUNG, False)):
        times = [FORMS[form](when)]
        updated = last_sign(times if of_state else (), () if of_state else times, (UTC,), NOW)
        assert updated is not None
        assert updated.replace(microsecond=0) == when
        assert (plan(asked(), member("r", updated)).count == 1) is is_old


@pytest.mark.parametrize("form", ["T, microseconds", "T", "space"])
def test_naive_times_of_a_state_are_of_the_zone_and_those_of_a_run_utc(form: str) -> None:
    text = FORMS[form](OLD)
    of_state, of_run = last_sign([text], (), (LIMA,), NOW), last_sign((), [text], (LIMA,), NOW)
    assert of_state is not None
    assert of_run is not None
    assert of_state - of_run == 5 * HOUR


def test_of_several_zones_the_youngest_reading_counts() -> None:
    text = "2026-06-01T12:00:00"
    zones: list[tzinfo] = [UTC, LIMA, timezone(3 * HOUR)]
    for order in (zones, zones[::-1]):
        assert last_sign([text], (), order, NOW) == datetime(2026, 6, 1, 17, tzinfo=UTC)


def test_a_time_with_a_zone_has_one_reading() -> None:
    assert last_sign(["2026-06-01T12:00:00+00:00"], (), (LIMA, PARIS), NOW) == datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(("text", "hour"), [("2026-10-25T02:30:00", 1), ("2026-10-25T01:30:00", -1)])
def test_in_the_hour_that_comes_twice_the_second_counts(text: str, hour: int) -> None:
    """Clocks in Paris go from 03:00 back to 02:00 at 01:00 UTC."""
    expected = datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + hour * HOUR
    assert last_sign([text], (), (PARIS,), NOW) == expected


def test_a_time_that_no_clock_showed_is_read_as_the_later() -> None:
    """Clocks in Paris go from 02:00 to 03:00 on this day."""
    assert last_sign(["2026-03-29T02:30:00"], (), (PARIS,), NOW) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_the_newest_of_all_times_counts() -> None:
    old, young = OLD.isoformat(), YOUNG.isoformat()
    assert last_sign([old, young], [old], (UTC,), NOW) == YOUNG
    assert last_sign([old, None], [None, young, ""], (UTC,), NOW) == YOUNG
    assert last_sign([datetime(2026, 6, 1, tzinfo=UTC)], (), (UTC,), NOW) == datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [[], [None, ""], ["soon"], [17], [OLD.isoformat(), "soon"], [(NOW + HOUR).isoformat()], ["20260101T000000Z"]],
)
def test_an_age_that_nobody_knows(times: list[object]) -> None:
    for state, run in ((times, ()), ((), times)):
        assert last_sign(state, run, (UTC,), NOW) is None
    found = plan(asked(), member("r", last_sign(times, (), (UTC,), NOW)))
    assert (found.count, found.kept) == (0, Retained(unknown_age=1))


def test_without_a_cutoff_age_does_not_matter() -> None:
    assert plan(asked(cutoff=None), member("a", None), member("b", YOUNG)).count == 2


# --- families


def test_tasks_and_theirs_are_of_one_family_with_the_run_first() -> None:
    members = [member("c", parent="b"), member("b", parent="a"), member("alone"), member("a"), member("d", parent="a")]
    found = [[m.run_id for m in family] for family in families(members)]
    assert sorted((family[0], sorted(family[1:])) for family in found) == [("a", ["b", "c", "d"]), ("alone", [])]


def test_a_task_whose_run_is_gone_is_a_family_and_a_circle_is_none() -> None:
    members = [member("task", parent="gone"), member("self", parent="self")]
    circle = [member("x", parent="y"), member("y", parent="x"), member("below", parent="x")]
    assert [[m.run_id for m in family] for family in families([*members, *circle])] == [["task"], ["self"]]


def test_a_family_goes_when_its_newest_is_old() -> None:
    found = plan(asked(), member("a"), member("b", parent="a"), member("c"), member("d", YOUNG, parent="c"))
    assert (ids(found), found.count, found.kept) == ([("a", "b")], 2, Retained(family=1))


def test_a_run_that_is_young_is_no_news() -> None:
    assert plan(asked(), member("a", YOUNG), member("b", parent="a")).kept == Retained()


def test_a_member_of_unknown_age_keeps_its_family() -> None:
    found = plan(asked(), member("a"), member("b", None, parent="a"), member("c", None, parent="a"))
    assert (found.count, found.kept) == (0, Retained(unknown_age=2))


def test_every_member_has_one_of_the_statuses() -> None:
    wanted = RunFilter(statuses=frozenset({"completed", "failed"}))
    mixed = [
        member("a"),
        member("b", status="failed", parent="a"),
        member("c"),
        member("d", status="paused", parent="c"),
    ]
    found = plan(asked(wanted=wanted), *mixed, member("e", status="paused"))
    assert (ids(found), found.kept) == ([("a", "b")], Retained(family=1))
    assert (found.by_status, found.by_pipeline) == ({"completed": 1, "failed": 1}, {"orders": 2})


def test_the_rest_of_the_filter_is_about_the_run_alone() -> None:
    found = plan(
        asked(),
        member("a"),
        member("b", parent="a", admitted=False),
        member("c", admitted=False),
        member("d", parent="c"),
    )
    assert (ids(found), found.kept) == ([("a", "b")], Retained(family=1)), "d fits, and stays with c"


def test_paused_runs_stay_where_that_is_asked() -> None:
    members = [member("a", status="paused"), member("b"), member("c", status="paused", parent="b"), member("d")]
    assert plan(asked(), *members).count == 4
    found = plan(asked(keep_paused=True), *members)
    assert (ids(found), found.kept) == ([("d",)], Retained(paused=2))


def test_what_is_held_stays_unless_forced() -> None:
    members = [member("a"), member("b", parent="a", held=True), member("c", held=True), member("d")]
    found = plan(asked(), *members)
    assert (ids(found), found.kept) == ([("d",)], Retained(held=2))
    assert plan(asked(force=True), *members).count == 4


# --- the last ones


def started(run_id: str, hours: float | None, **more: Any) -> Member:
    return member(run_id, started=None if hours is None else CUTOFF - 100 * HOUR + hours * HOUR, **more)


def test_the_last_of_each_pipeline_stay() -> None:
    found = plan(
        asked(keep_last=2),
        *(started(f"a{n}", n, pipeline="a") for n in (3, 1, 4, 2)),
        *(started(f"b{n}", n, pipeline="b") for n in (1, 2)),
    )
    assert (sorted(ids(found)), found.kept) == ([("a1",), ("a2",)], Retained(last=4))


def test_young_runs_are_among_the_last() -> None:
    found = plan(asked(keep_last=1), started("old", 1), member("young", YOUNG, started=YOUNG))
    assert (ids(found), found.kept) == ([("old",)], Retained())


def test_a_run_without_a_start_is_among_the_last() -> None:
    assert ids(plan(asked(keep_last=1), started("known", 1), started("unknown", None))) == [("known",)]


@pytest.mark.parametrize(("keep", "count"), [(0, 3), (1, 2), (3, 0), (9, 0)])
def test_how_many_stay(keep: int, count: int) -> None:
    assert plan(asked(keep_last=keep, cutoff=None), *(started(f"r{n}", n) for n in range(3))).count == count


# --- looking again, batches


def test_a_run_that_changed_stays() -> None:
    wanted = RunFilter(statuses=frozenset({"failed"}))
    assert why_not(asked(), [member("a", YOUNG)], []) == "changed"
    assert why_not(asked(), [member("a", None)], []) == "changed"
    assert why_not(asked(wanted=wanted), [member("a")], []) == "changed"
    assert why_not(asked(wanted=wanted), [member("a", status="failed")], []) == ""
    assert why_not(asked(keep_paused=True), [member("a", status="paused")], []) == "paused"
    assert why_not(asked(), [member("a", held=True)], []) == "held"


def test_a_family_that_has_grown_stays() -> None:
    family = [member("a"), member("b", parent="a")]
    assert why_not(asked(), family, family) == ""
    assert why_not(asked(), family, [*family, member("c", parent="b")]) == "changed"


def test_a_run_by_name_goes_unless_it_is_held() -> None:
    named = asked(run_ids=("a",))
    assert why_not(named, [member("a", YOUNG, "paused")], [member("b", parent="a")]) == ""
    assert why_not(named, [member("a", held=True)], []) == "held"
    assert why_not(named._replace(force=True), [member("a", held=True)], []) == ""


def test_batches_are_of_whole_families() -> None:
    found = [("a",), ("b", "c"), ("d", "e", "f", "g"), ("h",)]
    assert list(in_batches(found, 3)) == [[("a",), ("b", "c")], [("d", "e", "f", "g")], [("h",)]]
    assert list(in_batches([], 3)) == []


# --- runs that may be alive, and tasks whose run is not asked for


@pytest.mark.parametrize(("silent", "goes"), [(HOUR, False), (HOUR - timedelta(seconds=1), False), (2 * HOUR, True)])
def test_a_run_that_gave_a_sign_lately_may_be_alive(silent: timedelta, goes: bool) -> None:
    request = asked(cutoff=None, keep_last=0, alive_since=NOW - HOUR)
    found = plan(request, member("r", NOW - silent, "running"))
    assert (found.count, found.kept.held) == ((1, 0) if goes else (0, 1))
    assert plan(request._replace(force=True), member("r", NOW - silent, "running")).count == 1
    assert plan(request, member("r", NOW - silent, "failed")).count == 1
    assert why_not(request, [member("r", NOW - silent, "running")], ()) == ("" if goes else "held")


def test_a_running_run_of_a_time_behind_the_present_may_be_alive() -> None:
    request = asked(cutoff=None, keep_last=0, alive_since=NOW - HOUR)
    assert plan(request, member("r", None, "running")).kept.held == 1
    assert plan(request, member("r", None, "failed")).count == 1


def test_an_old_run_may_be_alive_where_silence_is_long() -> None:
    request = asked(alive_since=NOW - timedelta(days=90))
    assert plan(request, member("r", OLD, "running"), member("old", status="completed")).count == 1


def test_a_family_with_a_run_that_may_be_alive_stays() -> None:
    request = asked(cutoff=None, keep_last=0, alive_since=NOW - HOUR)
    found = plan(request, member("r", OLD), member("t", NOW, "running", parent="r"))
    assert (found.count, found.kept.held) == (0, 1)


def test_a_task_that_fits_stays_with_a_run_that_does_not() -> None:
    failed = asked(wanted=RunFilter(statuses=frozenset({"failed"})))
    family = member("r"), member("t", status="failed", parent="r"), member("u", parent="r")
    assert plan(failed, *family).kept == Retained(family=1)
    assert plan(failed._replace(wanted=failed.wanted._replace(top_level=True)), *family).kept == Retained()
    young = member("t", YOUNG, status="failed", parent="r")
    assert plan(failed, family[0], young).kept == Retained()
    assert plan(failed, member("r", YOUNG), family[1]).kept == Retained(), "a young run is not told of"
