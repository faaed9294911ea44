"""The renderers by themselves: text, numbers, machine formats, masks, tables and time bars."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from flujo_lens.errors import UnknownValueError
from flujo_lens.redaction import Redactor
from flujo_lens.rendering import columns, human
from flujo_lens.rendering.data import RowWriter
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.json_text import compact, document
from flujo_lens.rendering.sorted_runs import run_view
from flujo_lens.rendering.tables import fit, make_console, table
from flujo_lens.rendering.text import escape_controls, escape_tsv, one_line, unescape
from flujo_lens.rendering.trace import tree_lines
from flujo_lens.rendering.views import Field, View, choose_fields
from flujo_lens.state.statistics import FailureGroup
from flujo_lens.state.views import RunSummary, Span

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
LIMA = timezone(timedelta(hours=-5))
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PAIR = View("pair", (Field("a", lambda row: row["a"]), Field("b", lambda row: row["b"])), (), "a")

# --- text


@given(TEXT)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for shown in (escape_controls(text), escape_tsv(text), one_line(text)):
        assert OBEYED.search(shown) is None


@given(TEXT)
def test_tsv_is_read_back(text: str) -> None:
    assert unescape(escape_tsv(text)) == text


@given(st.text(st.characters(exclude_characters="\\"), max_size=40))
def test_a_screen_is_read_back_where_there_is_no_backslash(text: str) -> None:
    assert unescape(escape_controls(text)) == text


def test_plain_text_stays_as_it_is() -> None:
    for text in ("run_1", "weird id/with slash", "per%cent", "üñí 漢字 🦊", "[/x] [bold]", ""):
        assert escape_controls(text) == text
        assert unescape(text) == text


def test_one_line_is_cut_with_an_ellipsis() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 10, 5) == "xxxx…"
    assert one_line("x" * 5, 5) == "xxxxx"


# --- numbers and times


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, "-"),
        (0, "0 ms"),
        (0.0426, "0.043 ms"),
        (6.84, "6.8 ms"),
        (99.94, "99.9 ms"),
        (119.6, "0.12 s"),
        (9_994, "9.99 s"),
        (59_940, "59.9 s"),
        (60_000, "1m"),
        (200_000, "3m 20s"),
        (7_500_000, "2h 5m"),
        (86_400_000 * 6 + 7_200_000, "6d 2h"),
        (86_400_000 * 400, "400d"),
    ],
)
def test_durations(ms: float | None, shown: str) -> None:
    assert human.duration(ms) == shown


@given(st.floats(min_value=0, max_value=1e15))
def test_every_duration_is_short_and_never_an_error(ms: float) -> None:
    assert 1 < len(human.duration(ms)) <= 20


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86400 * 2, "2d")]
)
def test_ages(seconds: int, shown: str) -> None:
    assert human.age(timedelta(seconds=seconds)) == shown
    assert Human(NOW, LIMA).ago(NOW - timedelta(seconds=seconds)) == f"{shown} ago"


@pytest.mark.parametrize(
    ("left", "shown"),
    [
        (timedelta(days=7), "7d"),
        (timedelta(days=7, seconds=-3), "7d"),
        (timedelta(days=6, hours=11), "6d"),
        (timedelta(days=1, seconds=-3), "1d"),
        (timedelta(hours=23, minutes=20), "23h"),
        (timedelta(hours=1, seconds=-3), "1h"),
        (timedelta(minutes=1, milliseconds=-1), "1m"),
        (timedelta(seconds=45), "45s"),
        (timedelta(milliseconds=10), "0s"),
        (timedelta(days=364), "1y"),
    ],
)
def test_a_time_to_go_is_rounded_to_the_nearest_unit(left: timedelta, shown: str) -> None:
    assert Human(NOW, LIMA).ago(NOW + left) == f"in {shown}"


def test_times() -> None:
    when = datetime(2026, 11, 21, 0, 11, 8, 689190, tzinfo=UTC)
    assert Human(NOW, LIMA).time(when) == "2h ago"
    assert Human(NOW, LIMA, "local").time(when) == "2026-11-20 19:11:08 -05:00"
    assert Human(NOW, UTC, "local").time(when) == "2026-11-21 00:11:08Z"
    assert Human(NOW, LIMA, "iso").time(when) == "2026-11-21T00:11:08.689190Z"
    assert Human(NOW, LIMA).time(None) == "-"
    assert Human(NOW, LIMA).ago(NOW + timedelta(hours=2)) == "in 2h"


def test_counts_money_sizes() -> None:
    assert (human.plural(1, "run"), human.plural(2310, "run")) == ("1 run", "2,310 runs")
    assert [human.money(usd) for usd in (None, 0.0, 0.0123, 0.006, 1.5, 1234.5, 0.00001)] == [
        "-", "-", "$0.0123", "$0.0060", "$1.50", "$1,234.50", "<$0.0001",
    ]  # fmt: skip
    assert [human.size(n) for n in (None, 0, 1023, 2048, 360_448, 9.1 * 2**30)] == [
        "-", "0 B", "1023 B", "2.0 KiB", "352 KiB", "9.1 GiB",
    ]  # fmt: skip


# --- machine formats


def _written(form: str, rows: list[dict[str, Any]], *, raw: bool = False) -> bytes:
    writer = RowWriter(PAIR, PAIR.fields, form, Redactor(show=True), raw=raw)
    return writer.head() + b"".join(writer.line(row) for row in rows) + writer.tail()


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": JSON}), max_size=4))
def test_json_and_ndjson_hold_any_value(rows: list[dict[str, Any]]) -> None:
    expected = [json.loads(json.dumps(row)) for row in rows]
    whole = _written("json", rows)
    assert re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", whole) is None
    assert json.loads(whole) == expected
    assert [json.loads(line) for line in _written("ndjson", rows).splitlines()] == expected


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), max_size=4))
def test_tsv_holds_any_text(rows: list[dict[str, Any]]) -> None:
    lines = _written("tsv", rows).decode().split("\n")
    assert lines[0] == "a\tb"
    assert lines[-1] == ""
    cells = [tuple(unescape(cell) for cell in f"x{line}".replace("\t", "\tx").split("\t")) for line in lines[1:-1]]
    assert cells == [(f"x{row['a']}", f"x{row['b']}") for row in rows]  # behind an "x" no apostrophe is that of csv


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), max_size=4))
def test_csv_holds_any_text(rows: list[dict[str, Any]]) -> None:
    read = list(csv.DictReader(io.StringIO(_written("csv", rows, raw=True).decode(), newline="")))
    assert [{name: _unescaped(cell) for name, cell in row.items()} for row in read] == rows


def _unescaped(cell: str) -> str:
    """The one escape of csv, as the documentation has it."""
    pattern = r"\\(?:(\\)|x(..)|u(....)|U(.{8}))"
    return re.sub(pattern, lambda found: found[1] or chr(int(found[2] or found[3] or found[4], 16)), cell)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\t@x", "'\t@x"),
        ("\uff1d1", "'\uff1d1"),
        ('=HYPERLINK("x")', '"\'=HYPERLINK(""x"")"'),
        ("-5", "-5"),
        ("+1.5e-3", "+1.5e-3"),
        ("-.5", "-.5"),
        ("-5 items", "'-5 items"),
        ("a=1", "a=1"),
        ("", ""),
        ("'=1", "'=1"),
    ],
)
def test_no_cell_of_csv_is_a_formula(cell: str, written: str) -> None:
    assert _written("csv", [{"a": cell, "b": -5}]).decode() == f"a,b\n{written},-5\n"
    raw = list(csv.reader(io.StringIO(_written("csv", [{"a": cell, "b": ""}], raw=True).decode(), newline="")))
    assert raw[1] == [cell, ""]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("a\x1b[31m", "a\\x1b[31m"),
        ("C:\\x1b", "C:\\\\x1b"),
        ("two\nlines", '"two\nlines"'),
        ("dos\r\n", '"dos\r\n"'),
        ("bare\rreturn", "bare\\x0dreturn"),
        ("\x9b\u202e\u200b\U000e0041", "\\x9b\\u202e\\u200b\\U000e0041"),
        ('say "x"', '"say ""x"""'),
    ],
)
def test_the_escape_of_csv(cell: str, written: str) -> None:
    assert _written("csv", [{"a": cell, "b": ""}]).decode() == f"a,b\n{written},\n"


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "tsv"])
def test_nothing_hidden_is_written_raw(form: str) -> None:
    hidden = "\x7f\x9b\xad\u034f\u061c\u180e\u200b\u200c\u200e\u200f\u2028\u2029\u202e"
    hidden += "\u2060\u2066\u206f\u3164\ufeff\U000e0041"
    written = _written(form, [{"a": f"x{hidden}\u200dy", "b": [hidden]}]).decode()
    assert set(written) & {*hidden, "\u200d"} == set()
    if form == "json":
        assert json.loads(written)[0] == {"a": f"x{hidden}\u200dy", "b": [hidden]}


def test_a_joiner_between_emoji_stays() -> None:
    family = "\U0001f469\u200d\U0001f467 \u2764\ufe0f\u200d\U0001f525"
    assert escape_controls(family) == family
    assert escape_controls("pay\u200dpal \u200d") == "pay\\u200dpal \\u200d"
    assert unescape(escape_controls("pay\u200dpal")) == "pay\u200dpal"


def test_values_that_json_does_not_have() -> None:
    values = {"nan": float("nan"), "big": 2**80, "bytes": b"\xff", "tuple": (1,), "set": {1}, 5: "key", "at": NOW}
    read = json.loads(compact(values))
    assert (read["nan"], read["big"], read["tuple"], read["set"], read["5"]) == (None, 2**80, [1], [1], "key")
    assert read["at"] == "2026-11-21T03:11:08Z"
    assert isinstance(read["bytes"], str)


def test_a_document_that_is_deeper_than_the_stack() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert json.loads(b"".join(document(deep))) == deep


def test_columns_are_chosen_in_order() -> None:
    assert [field.name for field in choose_fields(PAIR, " b , a")] == ["b", "a"]
    assert choose_fields(PAIR, None) == PAIR.fields
    for asked in ("c", "", ",", "a,,c"):
        with pytest.raises(UnknownValueError, match="Valid: a, b"):
            choose_fields(PAIR, asked)


# --- secrets


@pytest.mark.parametrize(
    "key",
    ["password", "DB_PASSWORD", "passwd", "client_secret", "api_key", "api-key", "APIKEY", "access_token", "token",
     "Authorization", "cookie", "sentry_dsn"],
)  # fmt: skip
def test_secret_keys(key: str) -> None:
    assert Redactor().value({key: "x"}) == {key: "***"}
    assert Redactor(show=True).value({key: "x"}) == {key: "x"}


@pytest.mark.parametrize("key", ["token_counts", "tokens", "tokenizer", "key", "author", "cookies_eaten", "passenger"])
def test_keys_that_only_look_like_it(key: str) -> None:
    assert Redactor().value({key: "x"}) == {key: "x"}


def test_numbers_under_secret_keys_stay() -> None:
    assert Redactor().value({"token": 5, "secret": 1.5, "password": True, "api_key": None}) == {
        "token": 5,
        "secret": 1.5,
        "password": True,
        "api_key": None,
    }


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://lens:pw@db/ops", "postgresql://lens:***@db/ops"),
        ("x redis://:pw@h:1/0, https://a:b@c y", "x redis://:***@h:1/0, https://a:***@c y"),
        ("https://host/a:b", "https://host/a:b"),
        ("ana@example.com", "ana@example.com"),
        ("//user@host", "//user@host"),
    ],
)
def test_passwords_in_addresses(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked
    assert Redactor().value({"nested": [{"deep": text}]}) == {"nested": [{"deep": masked}]}


# --- tables

RUN_ID = "run_3d910948d833493585c530b50f639448"


def _runs(*ids: str) -> list[RunSummary]:
    return [
        RunSummary(run_id, "a pipeline with a long name", "1.0.0", "failed", NOW, NOW, error_message="no " * 60)
        for run_id in ids
    ]


def _drawn(rows: Sequence[Any], width: int, view: View = columns.RUN) -> list[str]:
    out = io.StringIO()
    console = make_console(out, width=width, colour=False, unicode=True)
    console.print(table(view, rows, Human(NOW, UTC), Redactor(), width).rendered)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 250])
def test_a_table_fits_and_never_cuts_an_id(width: int) -> None:
    lines = _drawn(_runs(RUN_ID, "x" * 90, "漢" * 30), width)
    assert max(map(cell_len, lines)) <= width
    first = len(lines[0]) - len(lines[0].removeprefix("RUN").lstrip())
    ids = "".join(_first_cells(line, first).strip() for line in lines[1:])
    for run_id in (RUN_ID, "x" * 90, "漢" * 30):
        is_whole = cell_len(run_id) <= width
        assert any(line.startswith(run_id) for line in lines) if is_whole else run_id in ids


@pytest.mark.parametrize("width", [80, 90])
def test_a_long_id_that_is_not_first_has_a_line_of_its_own_below(width: int) -> None:
    group = FailureGroup("ValueError: no such customer", 3, NOW, NOW, "load", "x" * 58)
    lines = _drawn([group, replace(group, sample_run_id="short")], width, columns.FAILURE)
    assert max(map(cell_len, lines)) <= width
    (own,) = (i for i, line in enumerate(lines) if "x" * 58 in line)
    assert lines[own].strip() == f"example: {'x' * 58}"
    assert any("ValueError" in line for line in lines[1:own])
    assert any(line.rstrip().endswith("short") for line in lines[own + 1 :])


def test_amounts_are_aligned_by_their_decimal_points() -> None:
    runs = [run._replace(cost_usd=cost) for run, cost in zip(_runs(*"abcd"), (0.006, 12.5, None, 1234.0), strict=True)]
    for width in (80, 160):
        lines = _drawn(runs, width, run_view("cost"))[1:]
        points = {line.index(".", line.index("$")) for line in lines if "$" in line}
        assert len(points) == 1


@pytest.mark.parametrize("width", range(40, 200, 7))
def test_a_column_is_there_or_below_or_named_as_dropped(width: int) -> None:
    """And one that has no value in any row is not worth a word."""
    group = FailureGroup("ValueError: no such customer", 3, NOW, NOW, "load", RUN_ID)
    runs = [run._replace(cost_usd=1.5, duration_ms=12.0) for run in _runs(RUN_ID)]
    for view, rows in ((columns.RUN, runs), (run_view("cost"), runs), (columns.FAILURE, [group])):
        shown = Human(NOW, UTC)
        made = table(view, rows, shown, Redactor(), width)
        lines = _drawn(rows, width, view)
        for column in view.table:
            cell = column.cell(rows[0], shown)
            is_below = any(column.below is not None and cell[:10] in line for line in lines)
            assert column.title in [*lines[0].split(), *made.dropped] or is_below or cell == "-"
        assert set(made.dropped).isdisjoint(lines[0].split())


def _first_cells(line: str, width: int) -> str:
    return next(line[:end] for end in range(len(line), -1, -1) if cell_len(line[:end]) <= width)


def test_a_usual_id_stays_on_one_line() -> None:
    assert any(RUN_ID in line for line in _drawn(_runs(RUN_ID), 80))


@given(st.integers(1, 300), st.lists(st.integers(0, 120), min_size=7, max_size=7))
def test_columns_that_are_kept_fit(width: int, widths: list[int]) -> None:
    shown = columns.RUN.table
    kept = fit(shown, [max(len(c.title), w) for c, w in zip(shown, widths, strict=True)], width)
    assert 0 in kept
    assert all(w > 0 for w in kept.values())
    assert sum(kept.values()) + 2 * (len(kept) - 1) <= max(width, 3 * len(kept))


# --- time bars

SPANS = st.recursive(
    st.builds(
        Span,
        span_id=st.just("s"),
        parent_span_id=st.none(),
        name=st.text(min_size=1, max_size=30),
        status=st.sampled_from(["completed", "failed", "running", "paused"]),
        start_offset_ms=st.none() | st.floats(-10, 1e6),
        duration_ms=st.none() | st.floats(-1, 1e6),
        started_at=st.none(),
        attributes=st.just({"feedback": "ValueError: [bold]\x1b[31m no"}),
        children=st.just(()),
    ),
    lambda inner: st.builds(
        lambda parent, children: parent._replace(children=tuple(children)), inner, st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


@given(SPANS, st.integers(60, 200), st.booleans())
def test_the_tree_fits_the_terminal(root: Span, width: int, unicode: bool) -> None:
    lines = tree_lines([root], width, unicode=unicode)
    for line in lines:
        assert cell_len(line.plain) <= width
        assert OBEYED.search(line.plain) is None


def test_bars_lie_where_the_time_was_spent() -> None:
    def span(name: str, start: float, length: float, *children: Span) -> Span:
        return Span(name, None, name, "completed", start, length, None, {}, children)

    root = span("root", 0, 100, span("early", 0, 50), span("late", 50, 50))
    bars = [line.plain[line.plain.index("s  ") + 3 :] for line in tree_lines([root], 80)]
    full = len(bars[0])
    assert bars[0] == "█" * full
    assert bars[1].rstrip() == "█" * (full // 2) or bars[1].rstrip()[:-1] == "█" * (full // 2)
    assert bars[2].startswith(" " * (full // 2))
    assert len(bars[2].rstrip()) <= full
