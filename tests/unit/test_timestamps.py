"""Instants out of texts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from flujo_lens.errors import TimeFormatError
from flujo_lens.state.timestamps import local_zone, parse_instant, read_instant
from flujo_lens.state.typed_times import parse_age, parse_when
from flujo_lens.state.zones import guess_zone

LIMA = timezone(timedelta(hours=-5))
NOW = datetime(2026, 11, 21, 3, 11, 8, 250_000, tzinfo=UTC)
often = settings(max_examples=examples(200))


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-11-21T00:11:08.689190+00:00", datetime(2026, 11, 21, 0, 11, 8, 689_190, UTC)),
        ("2026-11-20T19:11:31.109698", datetime(2026, 11, 21, 0, 11, 31, 109_698, UTC)),
        ("2026-11-20 19:11:11", datetime(2026, 11, 21, 0, 11, 11, tzinfo=UTC)),
        ("2026-11-21T00:11:08Z", datetime(2026, 11, 21, 0, 11, 8, tzinfo=UTC)),
        ("2026-11-21T05:41:08+05:30", datetime(2026, 11, 21, 0, 11, 8, tzinfo=UTC)),
        ("2026-11-21T05:41:08.5+0530", datetime(2026, 11, 21, 0, 11, 8, 500_000, UTC)),
        ("2026-11-20T19:11", datetime(2026, 11, 21, 0, 11, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, 5, tzinfo=UTC)),
    ],
)
def test_the_forms_that_stores_hold(text: str, when: datetime) -> None:
    found = parse_instant(text, LIMA)
    assert found == when
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "now", "2026", "2026-13-01", "2026-02-30", "2026-11-21T25:00:00", "2026-11-21T00:11:08+99:00"),
        *("20261121T001108", "2026-W47-6", "2026-11-21Tgarbage", " 2026-11-21", "2026-11-21 ", "٢٠٢٦-١١-٢١"),
        *("0000-01-01", "10000-01-01", "-2026-11-21", "2026-11-21T00:11:08 UTC", "2026-11-21T00:11:08+00:00Z"),
        *(None, 5, 1.5, True, b"2026-11-21", [], {}, datetime(2026, 11, 21)),
    ],
)
def test_what_is_no_time(text: object) -> None:
    assert parse_instant(text) is None


@pytest.mark.parametrize(
    ("text", "naive"),
    [
        ("0001-01-01T00:00:00+14:00", UTC),
        ("9999-12-31T23:59:59-01:00", UTC),
        ("0001-01-01T00:00:00", timezone(timedelta(hours=14))),
        ("9999-12-31T23:59:59", timezone(timedelta(hours=-12))),
    ],
)
def test_instants_beyond_the_calendar_are_none(text: str, naive: tzinfo) -> None:
    assert parse_instant(text, naive) is None


@often
@given(st.text() | st.text("0123456789-:.T Z+", max_size=35) | st.binary() | st.integers() | st.floats() | st.none())
def test_nothing_raises(text: object) -> None:
    for zone in (UTC, LIMA, local_zone()):
        found = parse_instant(text, zone)
        assert found is None or found.tzinfo is UTC
    read_instant(text)
    guess_zone([(text, "2026-11-21T00:11:08"), ("2026-11-21T00:11:08", text)])
    if isinstance(text, str):
        try:
            parse_when(text, NOW, LIMA)
        except TimeFormatError as error:
            assert error.hint  # noqa: PT017


@often
@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.sampled_from([" ", "T"]))
def test_what_python_writes_is_read_back(when: datetime, separator: str) -> None:
    aware = when.replace(tzinfo=UTC)
    assert parse_instant(aware.isoformat(separator)) == aware
    assert parse_instant(when.isoformat(separator)) == aware
    assert parse_instant(when.isoformat(separator), LIMA) == when.replace(tzinfo=LIMA)
    assert parse_instant(aware.astimezone(LIMA).isoformat(separator)) == aware


def test_this_machines_zone_knows_its_daylight_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        time.tzset()
        zone = local_zone()
        assert parse_instant("2026-07-01T12:00:00", zone) == datetime(2026, 7, 1, 16, tzinfo=UTC)
        assert parse_instant("2026-12-01T12:00:00", zone) == datetime(2026, 12, 1, 17, tzinfo=UTC)
        assert datetime(2026, 7, 1, 16, tzinfo=UTC).astimezone(zone).hour == 12
    time.tzset()


@pytest.mark.parametrize("seconds", [0, 1795219869.4213712, -1.5, 1e11])
def test_seconds_since_1970(seconds: float) -> None:
    found = read_instant(seconds)
    assert found is not None
    assert abs(found.timestamp() - seconds) < 1e-5


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan"), None, "5"])
def test_numbers_that_are_no_seconds(seconds: object) -> None:
    assert read_instant(seconds) is None


# --- the writer's zone


@pytest.mark.parametrize("minutes", [0, -300, 330, 345, 840, -720, 60])
@pytest.mark.parametrize("late", [0, 5, 50, -50])
def test_the_zone_is_the_rounded_difference(minutes: int, late: int) -> None:
    utc = datetime(2026, 11, 21, 0, 11, 8)
    local = utc + timedelta(minutes=minutes, seconds=late)
    found = guess_zone([(local.isoformat(), utc.isoformat())])
    assert found is not None
    assert found.utcoffset(None) == timedelta(minutes=minutes)
    assert guess_zone([(local.isoformat(), f"{utc.isoformat()}+00:00")]) == found


def test_pairs_that_do_not_tell_are_passed_over() -> None:
    good = ("2026-11-20T19:11:08", "2026-11-21T00:11:08")
    bad = [
        (None, None),
        ("2026-11-20T19:11:08+00:00", "2026-11-21T00:11:08"),
        ("2026-11-20T19:17:08", "2026-11-21T00:11:08"),
        ("2026-11-20T19:11:08", "2026-11-25T00:11:08"),
        ("soon", "2026-11-21T00:11:08"),
        ("2026-11-20T19:11:08", "later"),
    ]
    assert guess_zone(bad) is None
    assert guess_zone([]) is None
    assert guess_zone([*bad, good]) == LIMA
    assert guess_zone([good, ("2026-11-20T20:11:08", "2026-11-21T00:11:08")]) == LIMA


# --- what a person types


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("30d", NOW - timedelta(days=30)),
        ("4w", NOW - timedelta(weeks=4)),
        (" 4W ", NOW - timedelta(weeks=4)),
        ("now", NOW),
        ("today", datetime(2026, 11, 20, 5, tzinfo=UTC)),
        ("Yesterday", datetime(2026, 11, 19, 5, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, 5, tzinfo=UTC)),
        ("2026-11-20T19:11:08", datetime(2026, 11, 21, 0, 11, 8, tzinfo=UTC)),
        ("2026-11-20T19:11:08Z", datetime(2026, 11, 20, 19, 11, 8, tzinfo=UTC)),
        ("2026-11-20 19:11:08-05:00", datetime(2026, 11, 21, 0, 11, 8, tzinfo=UTC)),
    ],
)
def test_times_as_they_are_typed(text: str, when: datetime) -> None:
    assert parse_when(text, NOW, LIMA) == when


@pytest.mark.parametrize("text", ["", "5", "-5d", "5.5h", "d", "5y", "tomorrow", "2026-13-01", "999999999999d", "٥d"])
def test_what_is_typed_and_is_no_time(text: str) -> None:
    with pytest.raises(TimeFormatError):
        parse_when(text, NOW, LIMA)


def test_ages() -> None:
    assert parse_age("0s") == timedelta(0)
    assert parse_age("3m") == timedelta(minutes=3)
    assert parse_age("3") is None
    assert parse_age("") is None
    with pytest.raises(TimeFormatError):
        parse_age("9" * 30 + "w")
