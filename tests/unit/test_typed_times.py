"""Times as people and scripts type them: read as they are meant, or refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from flujo_lens.errors import TimeFormatError
from flujo_lens.rendering.human import Human
from flujo_lens.state.timestamps import local_zone
from flujo_lens.state.typed_times import parse_age, parse_when

LIMA = timezone(timedelta(hours=-5))
NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2026, 11, 21, 3, 11, 8, 250_000, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("20261101010000Z", utc(2026, 11, 1, 1)),
        ("20261101010000", utc(2026, 11, 1, 6)),
        ("20261101", utc(2026, 11, 1, 5)),
        ("20261101T0100Z", utc(2026, 11, 1, 1)),
        ("20261101T010203.5+0530", utc(2026, 10, 31, 19, 32, 3, 500_000)),
        ("20261101T01", utc(2026, 11, 1, 6)),
        ("2026-11-01t01:00:00z", utc(2026, 11, 1, 1)),
        ("2026-11-20 19:11:08 -05:00", utc(2026, 11, 21, 0, 11, 8)),
        ("2026-11-20T19:11:08,123456789-05", utc(2026, 11, 21, 0, 11, 8, 123_456)),
        ("2026-11-20T19:11:08-00:00", utc(2026, 11, 20, 19, 11, 8)),
        ("2026-11-20T19:11:08+01:00:30", utc(2026, 11, 20, 18, 10, 38)),
        ("2026-11-20T24:00Z", utc(2026, 11, 21)),
        ("2026-11-20T24:00:00", utc(2026, 11, 21, 5)),
        ("2026-11-01Z", utc(2026, 11, 1)),
        ("2026-11-01+01:00", utc(2026, 10, 31, 23)),
        ("2026-W48-1", utc(2026, 11, 23, 5)),
        ("2026W487T10:00Z", utc(2026, 11, 29, 10)),
        ("2026-W01", utc(2025, 12, 29, 5)),
        ("0001-01-02", utc(1, 1, 2, 5)),
        ("0" * 30 + "2d", NOW - timedelta(days=2)),
    ],
)
def test_forms_that_scripts_make(text: str, when: datetime) -> None:
    assert parse_when(text, NOW, LIMA) == when


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1796011500",
            "1796011500000",
            "1796011500000000",
            "1796011500000000000",
            "20261",
            "202611010100",
            "11012026",
        ),
        *("20112026", "19112026", "12101112", "20261332", "20261101250000Z", "20261101T1:00", "2026334", "2026-334"),
        *("2026-11-01X01:00", "2026-11-01501:00", "2026-11-01  01:00", "2026-11-01T01:60", "2026-11-01T23:59:60Z"),
        *("2026-11-01T24:01", "2026-11-01T01:00+25:00", "2026-11-01T01:00+01:60", "2026-11-01T01:00  Z", "2026-W54"),
        *(
            "2026-W48-8",
            "0000-01-01",
            "10000-01-01",
            "２０２６-11-01",
            "2026-11-01T０１:00",
            "1h30m",
            "1.5h",
            "+1d",
            "3M",
        ),
        *(
            "٣d",
            "²m",
            "today 10:00",
            "9999-12-31T23:59:59",
            "0001-01-01T00:00+14:00",
            "9" * 5000,
            "9" * 5000 + "d",
            "\0",
        ),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(text: str) -> None:
    with pytest.raises(TimeFormatError) as caught:
        parse_when(text, NOW, LIMA)
    assert caught.value.hint
    assert len(caught.value.message) < 200


def test_a_number_since_1970_is_refused_with_what_it_would_be() -> None:
    with pytest.raises(TimeFormatError) as caught:
        parse_when("1796011500000", NOW, LIMA)
    assert "milliseconds since 1970, it is 2026-11-30T04:05:00Z" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("2026-11-01T01:30", ("2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "is ambiguous")),
        ("2026-03-08 02:30", ("2026-03-08T02:30:00-05:00", "2026-03-08T02:30:00-04:00", "does not exist")),
        ("20261101013000", ("-04:00", "-05:00", "is ambiguous")),
    ],
)
def test_a_time_that_clocks_show_twice_or_never_needs_its_offset(text: str, ways: tuple[str, ...]) -> None:
    with pytest.raises(TimeFormatError) as caught:
        parse_when(text, NOW, NEW_YORK)
    for way in ways:
        assert way in f"{caught.value.message} {caught.value.hint}"
    assert parse_when(f"{text[:10]}T01:30-05:00" if "-" in text else "20261101013000-0500", NOW, NEW_YORK)


@pytest.mark.parametrize(
    ("zone", "day", "when"),
    [
        ("America/Havana", "2026-11-01", utc(2026, 11, 1, 4)),  # 00:00 comes twice
        ("America/Havana", "2026-03-08", utc(2026, 3, 8, 5)),  # 00:00 does not come
        ("America/New_York", "2026-07-01", utc(2026, 7, 1, 4)),
        ("America/New_York", "2026-12-01T00:00", utc(2026, 12, 1, 5)),
    ],
)
def test_a_day_begins_at_its_first_instant(zone: str, day: str, when: datetime) -> None:
    assert parse_when(day, NOW, ZoneInfo(zone)) == when


def test_today_and_yesterday_on_days_of_another_length() -> None:
    now = utc(2026, 11, 2, 4, 30)  # 23:30 of the day with 25 hours
    assert parse_when("today", now, NEW_YORK) == utc(2026, 11, 1, 4)
    assert parse_when("yesterday", now, NEW_YORK) == utc(2026, 10, 31, 4)


FORMS = ("%Y-%m-%dT%H:%M:%S.%f{}", "%Y-%m-%d %H:%M:%S,%f {}", "%Y%m%dT%H%M%S.%f{}")


@settings(max_examples=examples(100))
@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(FORMS),
)
def test_what_is_written_in_any_form_is_read_back(naive: datetime, minutes: int, form: str) -> None:
    there = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    offset = there.strftime("%z") if "%Y%m%d" in form else there.isoformat()[-6:]
    assert parse_when(there.strftime(form).format(offset), NOW, LIMA) == there
    seconds = there.replace(microsecond=0)
    assert parse_when(seconds.strftime("%Y%m%d%H%M%S%z"), NOW, LIMA) == seconds


@settings(max_examples=examples(300))
@given(st.text("0123456789-:.,T Z+Ww", max_size=32) | st.from_regex(r"\A\d{4}-?\d\d-?\d\d.\d\d:?\d\d(:?\d\d)?Z?\Z"))
def test_what_is_taken_is_what_a_strict_reader_takes(text: str) -> None:
    for zone in (LIMA, NEW_YORK):
        try:
            found = parse_when(text, NOW, zone)
        except TimeFormatError:
            continue
        if parse_age(text.strip()) is None and text[10:11] in ("T", " "):
            strict = datetime.fromisoformat(text.strip().replace("w", "W").replace(" +", "+").replace(" -", "-"))
            assert found == (strict if strict.tzinfo else strict.replace(tzinfo=zone))


@pytest.mark.parametrize("zone", ["machine", NEW_YORK])
def test_screens_show_the_offset_of_that_hour_and_season(zone: tzinfo | str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
        time.tzset()
        human = Human(NOW, local_zone() if isinstance(zone, str) else zone, "local")
        assert human.time(utc(2026, 11, 1, 5, 30)) == "2026-11-01 01:30:00 -04:00"
        assert human.time(utc(2026, 11, 1, 6, 30)) == "2026-11-01 01:30:00 -05:00"
        assert human.time(utc(2026, 7, 1, 6, 30)) == "2026-07-01 02:30:00 -04:00"
        assert parse_when(human.time(utc(2026, 11, 1, 6, 30)), NOW, human.zone) == utc(2026, 11, 1, 6, 30)
    time.tzset()


def test_an_instant_at_the_end_of_the_calendar_is_shown() -> None:
    last = utc(9999, 12, 31, 23, 59, 59)
    assert Human(NOW, timezone(timedelta(hours=14)), "local").time(last) == "9999-12-31 23:59:59Z"
