"""Traces as pictures and in the formats of other tools: what their readers insist on, and that all leads back."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Lens, tree

from flujo_lens.redaction import Redactor
from flujo_lens.rendering.export import TRACE_FORMATS, export_trace
from flujo_lens.rendering.export.axis import ticks
from flujo_lens.rendering.export.lanes import assign_lanes
from flujo_lens.rendering.export.mermaid import MOST_CHARACTERS
from flujo_lens.rendering.export.svg import MOST_ROWS
from flujo_lens.rendering.export.timeline import Failure, Timeline, make_timeline
from flujo_lens.state.views import RunSummary, Span

ZERO = datetime(2026, 11, 20, 19, 11, 8, 689190, tzinfo=UTC)
RUN = RunSummary("run-1", "orders", "1.0.0", "failed", ZERO)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><script>alert(1)</script><b onclick=x> ]]> &amp; -- \x1b[31m\x00\ud800 \u2028 漢字"


def span(
    name: str, start: float, length: float | None, *children: Span, status: str = "completed", **more: Any
) -> Span:
    made = Span(name, None, name, status, start, length, ZERO + timedelta(milliseconds=start), more, children)
    return made._replace(children=tuple(child._replace(parent_span_id=name) for child in children))


def timeline_of(*roots: Span, show: bool = False) -> Timeline:
    return make_timeline(roots, RUN, Redactor(show=show))


def exported(form: str, *roots: Span) -> bytes:
    return export_trace(timeline_of(*roots), form).data


EXAMPLE = span(
    "root",
    0.0,
    100.0,
    span("first", 5.0, 20.0),
    span("fan", 30.0, 50.0, span("left", 31.0, 30.0), span("right", 32.0, 47.0)),
    span("late", 85.0, None, status="running"),
    status="failed",
)
ODD = span(
    "odd",
    0.0,
    10.0,
    span(HOSTILE, 1.0, 2.0, **{HOSTILE: HOSTILE}),
    nan=math.nan,
    infinite=-math.inf,
    huge=2**70,
    least=-(2**63),
    none=None,
    flag=True,
    list=[1, 2.5, "three", None, [4]],
    deep={"a": {"b": {"c": [{}]}}},
)


def very_deep(levels: int = 60) -> dict[str, Any]:
    made: dict[str, Any] = {"end": 1}
    for _ in range(levels):
        made = {"level": [made]}
    return made


# --- the clock


def test_spans_are_placed_in_whole_nanoseconds() -> None:
    timeline = timeline_of(span("root", 0.0, 1.000001, span("early", -0.5, 0.25), span("open", 0.2, None)))
    assert [(s.name, s.start, s.end, s.unfinished) for s in timeline.spans] == [
        ("root", 500_000, 1_500_001, False),
        ("early", 0, 250_000, False),
        ("open", 700_000, 1_500_001, True),
    ]
    assert timeline.started_at == ZERO - timedelta(microseconds=500)


def test_roots_keep_their_distance() -> None:
    second = span("second", 0.0, 1.0)._replace(started_at=ZERO + timedelta(seconds=2))
    assert [s.start for s in timeline_of(span("first", 0.0, 1.0), second).spans] == [0, 2_000_000_000]
    unknown = second._replace(started_at=None)
    assert [s.start for s in timeline_of(span("first", 0.0, 1.0), unknown).spans] == [0, 0]


def test_the_critical_path_is_what_was_waited_for() -> None:
    timeline = timeline_of(EXAMPLE)
    found = sorted((s.start // 1_000_000, s.end // 1_000_000, timeline.spans[s.span].name) for s in timeline.critical)
    assert found == [
        (0, 5, "root"),
        (5, 25, "first"),
        (25, 30, "root"),
        (30, 32, "fan"),
        (32, 79, "right"),
        (79, 80, "fan"),
        (80, 85, "root"),
        (85, 100, "late"),
    ]


@pytest.mark.parametrize("length", [0, 1, 999, 160_000_000, 2_410_000_000, 3_725_000_000_000, 40 * 86_400 * 10**9])
def test_an_axis_has_few_round_marks(length: int) -> None:
    found = ticks(length, 5)
    assert found[0] == (0, "0")
    assert 1 <= len(found) <= 6
    assert len({label for _, label in found}) == len(found)


# --- Chrome

spans = st.recursive(
    st.tuples(st.integers(-20, 40), st.integers(0, 30) | st.none(), st.just(())),
    lambda inner: st.tuples(st.integers(-20, 40), st.integers(0, 30) | st.none(), st.lists(inner, max_size=4)),
    max_leaves=25,
)


def grown(node: Any, names: Iterator[int]) -> Span:
    """A tree whose times step by 0.37 µs, so that many coincide, and not all are whole microseconds."""
    start, length, children = node
    below = [grown(child, names) for child in children]
    return span(f"s{next(names)}", start * 0.00037, None if length is None else length * 0.00037, *below)


def as_read(event: dict[str, Any]) -> tuple[int, int]:
    """Start and end in nanoseconds, as a reader of doubles in microseconds computes them."""
    start = round(event["ts"] * 1000)
    return start, start + round(event["dur"] * 1000)


@given(st.lists(spans, min_size=1, max_size=3))
def test_no_viewer_drops_a_span(nodes: list[Any]) -> None:
    names = iter(range(10_000))
    roots = [grown(node, names) for node in nodes]
    events = [e for e in json.loads(exported("chrome", *roots))["traceEvents"] if e["ph"] == "X"]
    assert len(events) == len(timeline_of(*roots).spans)
    lanes = defaultdict[int, list[tuple[int, int]]](list)
    for event in events:
        start, end = as_read(event)
        assert start >= 0
        stack = lanes[event["tid"]]
        while stack and stack[-1][1] <= start:
            stack.pop()
        assert not stack or (stack[-1][0] <= start and end <= stack[-1][1]), "spans of a lane nest or follow"
        stack.append((start, end))
    first = {event["args"]["span_id"]: at for at, event in reversed(list(enumerate(events)))}
    for at, event in enumerate(events):
        parent = events[first[event["args"].get("parent_span_id", event["args"]["span_id"])]]
        if parent["tid"] == event["tid"] and parent["ts"] <= event["ts"]:
            assert first[parent["args"]["span_id"]] <= at, "parents first"


@given(st.lists(spans, min_size=1, max_size=3))
def test_a_lane_never_shows_a_span_within_a_stranger(nodes: list[Any]) -> None:
    names = iter(range(10_000))
    timeline = timeline_of(*(grown(node, names) for node in nodes))
    lanes = assign_lanes(timeline.spans)
    for at, one in enumerate(timeline.spans):
        for other_at, other in enumerate(timeline.spans):
            if at != other_at and lanes[at] == lanes[other_at] and one.start < other.end and other.start < one.end:
                assert other_at in ancestors(timeline, at) or at in ancestors(timeline, other_at)


def ancestors(timeline: Timeline, at: int) -> set[int]:
    found = set()
    while (parent := timeline.spans[at].parent) is not None:
        found.add(parent)
        at = parent
    return found


def test_ten_thousand_parallel_spans_get_ten_thousand_lanes() -> None:
    many = timeline_of(span("root", 0.0, 2.0, *(span(f"s{i}", 0.1, 1.0) for i in range(10_000))))
    assert sorted(assign_lanes(many.spans)) == sorted([0, *range(10_000)])


def test_chrome_events_have_what_viewers_need() -> None:
    raw = exported("chrome", EXAMPLE, ODD)
    document = json.loads(raw, parse_constant=pytest.fail)
    for event in document["traceEvents"]:
        assert {"name", "cat", "ph", "ts", "pid", "tid", "args"} <= event.keys()
        assert "cname" not in event
        assert (event["pid"], 0 < event["tid"] < 100, event["ts"] >= 0) == (1, True, True)
        assert event["ph"] == "M" or event["dur"] >= 0
    by_name = {event["name"]: event for event in document["traceEvents"]}
    assert (by_name["right"]["ts"], by_name["right"]["dur"]) == (32_000, 47_000)
    assert by_name["left"]["tid"] != by_name["right"]["tid"]
    assert by_name["late"]["args"]["unfinished"] is True
    assert document["otherData"]["started_at"] == "2026-11-20T19:11:08.689190Z"
    assert "漢字".encode() in raw, "Perfetto shows escapes in the names of arguments as they stand"
    assert b"\\u0000" not in raw.replace(b"\\\\u0000", b"")
    assert not raw.startswith(b"\xef\xbb\xbf")


# --- OTLP


def otlp_request(raw: bytes) -> Any:
    """The document as the proto's own reader takes it; ids in hexadecimal become base64 first, as the format is."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    document = json.loads(raw, parse_constant=pytest.fail)
    for each in otlp_spans(document):
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in each:
                assert re.fullmatch("[0-9a-f]+", each[name])
                each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    return json_format.ParseDict(document, service.ExportTraceServiceRequest(), ignore_unknown_fields=False)


def otlp_spans(document: Any) -> list[dict[str, Any]]:
    return [s for r in document["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]


def test_the_reader_of_the_opentelemetry_proto_takes_it() -> None:
    deep = span("deep", 0.0, 1.0, value=very_deep())
    request = otlp_request(exported("otlp", EXAMPLE, ODD, deep))
    found = {each.name: each for each in request.resource_spans[0].scope_spans[0].spans}
    assert {(len(each.trace_id), len(each.span_id)) for each in found.values()} == {(16, 8)}
    assert len({each.span_id for each in found.values()}) == len(found) == 9
    assert [len(found[name].parent_span_id) for name in ("root", "left")] == [0, 8]
    assert found["left"].parent_span_id == found["fan"].span_id
    assert {each.kind for each in found.values()} == {1}
    assert [found[name].status.code for name in ("root", "fan", "late")] == [2, 1, 0]
    zero = int(ZERO.timestamp()) * 10**9 + 689_190_000
    assert (found["right"].start_time_unix_nano, found["right"].end_time_unix_nano) == (
        zero + 32 * 10**6,
        zero + 79 * 10**6,
    )
    values = {pair.key: pair.value for pair in found["odd"].attributes}
    kinds = {name: value.WhichOneof("value") for name, value in values.items()}
    assert kinds | {"nan": "string_value", "huge": "string_value", "none": None, "flag": "bool_value"} == kinds
    assert values["least"].int_value == -(2**63)
    assert values["list"].array_value.values[1].double_value == 2.5
    resource = {pair.key: pair.value for pair in request.resource_spans[0].resource.attributes}
    assert resource["service.name"].string_value == "orders"


def test_ids_of_opentelemetry_stay() -> None:
    kept = span("0123456789abcdef", 0.0, 1.0)
    document = json.loads(exported("otlp", kept, span("0" * 16, 0.0, 1.0), span("0123456789ABCDEF", 0.0, 1.0)))
    ids = [each["spanId"] for each in otlp_spans(document)]
    assert ids[0] == "0123456789abcdef"
    assert len({*ids, "0" * 16}) == 4
    assert all("parentSpanId" not in each for each in otlp_spans(document))
    assert all(isinstance(each["startTimeUnixNano"], str) for each in otlp_spans(document))


# --- SVG


def test_a_picture_is_xml_that_shows_every_span() -> None:
    made = ElementTree.fromstring(exported("svg", EXAMPLE, ODD))
    texts = {"".join(each.itertext()) for each in made.iter(f"{SVG}text")}
    assert {"run-1failed", "rootfailed", "first", "left", "right", "laterunning", "odd"} <= texts
    assert any(text.startswith("</script><script>") for text in texts)
    assert {each.tag.removeprefix(SVG) for each in made.iter()} == {
        "svg", "title", "style", "rect", "text", "tspan", "line", "path", "g",
    }  # fmt: skip
    assert made.get("role") == "img"
    assert made.get("aria-label") == "Trace of run-1: failed, 8 spans"
    for box in made.iter(f"{SVG}rect"):
        assert 0 <= float(box.get("x", 0)) <= float(box.get("x", 0)) + float(box.get("width", 0)) <= 800.5


REFUSED = span("charge", 40.0, 50.0, status="failed", feedback="ValueError: declined by //u:hush@pay, code 51 " * 9)
FAILED = span("root", 0.0, 100.0, span("load", 1.0, 9.0, status="failed", feedback="try 1"), REFUSED, status="failed")


def test_a_failed_run_has_its_step_and_error_at_the_top() -> None:
    """In three lines at most, of which none is wider than the picture; secrets are masked."""
    made = ElementTree.fromstring(exported("svg", FAILED))
    texts = ["".join(each.itertext()) for each in made.iter(f"{SVG}text")]
    assert texts[2].startswith("charge: ValueError: declined by //u:***@pay, code 51 ValueError")
    assert [text[-1] for text in texts[2:5]] == [text[-1] for text in texts[2:4]] + ["…"]
    assert all(len(text) <= 112 for text in texts[2:5])
    assert made.get("aria-label", "").startswith("Trace of run-1: failed, 3 spans. charge: ValueError: declined")
    page = json.loads(_Elements(exported("html", FAILED).decode()).texts["script"][0])
    assert (page["failure"]["span"], page["failure"]["step"]) == (2, "charge")
    chart = exported("mermaid", FAILED).decode()
    assert "charge (50.0 ms)#58; ValueError#58; declined by //u#58;#42;#42;#42;#64;pay, code 51" in chart


@pytest.mark.parametrize(
    ("roots", "run", "expected"),
    [
        ((EXAMPLE,), RUN, None),
        ((EXAMPLE,), RUN._replace(error_message="E: no", step_name="late"), Failure(None, "late", "E: no")),
        ((span("root", 0.0, 9.0, REFUSED),), RUN._replace(error_message="x"), Failure(1, "charge", None)),
        ((FAILED,), RUN._replace(status="completed", error_message="x"), None),
        ((span("root", 0.0, 9.0, span("in", 1.0, 2.0, status="failed"), status="failed"),), RUN, Failure(1, "in", "")),
    ],
)  # fmt: skip
def test_the_failure_of_a_run(roots: tuple[Span, ...], run: RunSummary, expected: Failure | None) -> None:
    found = make_timeline(roots, run, Redactor()).failure
    assert found is None if expected is None else found is not None and found[:2] == expected[:2]
    assert found is None or expected is None or expected.error is None or found.error == expected.error


def test_a_picture_of_very_many_spans_says_what_it_lacks() -> None:
    many = timeline_of(span("root", 0.0, 5.0, *(span(f"s{i}", 1.0, 1.0) for i in range(MOST_ROWS + 9))))
    made = export_trace(many, "svg")
    assert made.omitted == 10
    assert "10 more spans" in made.data.decode()


# --- Mermaid


def test_names_are_no_syntax_of_a_chart() -> None:
    names = ["a:b;c#d", "title x", "%%{init}%%", "Section 2", "x\ny", HOSTILE, "`code` <b>"]
    text = exported("mermaid", span("root", 0.0, 70_000.0, *(span(name, 1.0, 1.0) for name in names))).decode()
    head, *lines = text.splitlines()
    assert head == "gantt"
    for line in [lines[0], *lines[4:]]:
        bare = re.sub(r"#\d+;", "", line)
        assert re.fullmatch(r"    [\w .,()/+\-]*( :(done|crit|active), s\d+, \d+, \d+)?", bare, re.ASCII), line
    assert "#116;itle x (1.0 ms) :done" in text
    assert "axisFormat %H:%M:%S" in text
    assert f"s0, {int(ZERO.timestamp() * 1000)}, " in text


def test_a_chart_stays_below_the_limit_of_its_readers() -> None:
    many = timeline_of(span("root", 0.0, 5.0, *(span(f"s{i:05}", 1.0, 1.0) for i in range(3_000))))
    made = export_trace(many, "mermaid")
    assert len(made.data) <= MOST_CHARACTERS
    assert made.data.decode().count(" :done") + made.omitted == 3_001


# --- HTML


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.texts[self.found[-1][0]].append(data)


def test_the_page_admits_its_own_script_and_style_alone() -> None:
    page = exported("html", EXAMPLE, ODD).decode()
    made = _Elements(page)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert [attrs.get("type") for tag, attrs in made.found if tag == "script"] == ["application/json", None]
    assert len(scripts) == 2
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = next(attrs["content"] for tag, attrs in made.found if attrs.get("http-equiv"))
    assert policy is not None
    for kind, text in (("script", scripts[1]), ("style", style[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert [attrs for _, attrs in made.found if {"src", "onclick", "onload", "style"} & attrs.keys()] == []
    assert [attrs["href"] for tag, attrs in made.found if "href" in attrs] == ["data:,"]
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|https?://", scripts[1] + style[0])


# --- the command


READ_BACK = ["chrome", "otlp", "html"]


def close(one: Any, two: Any) -> None:
    """The same trees, with times to the nanosecond and the time of day to the microsecond."""
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        for name in ("span_id", "parent_span_id", "name", "status", "attributes"):
            assert left[name] == right[name], name
        for name in ("start_offset_ms", "duration_ms"):
            assert left[name] == pytest.approx(right[name], abs=1.1e-6), name
        if left["started_at"] is None or right["started_at"] is None:
            assert left["started_at"] == right["started_at"]
        else:
            apart = datetime.fromisoformat(left["started_at"]) - datetime.fromisoformat(right["started_at"])
            assert abs(apart) <= timedelta(microseconds=1)
        close(left["children"], right["children"])


@pytest.mark.parametrize("form", READ_BACK)
@pytest.mark.parametrize("run", ["trace4-001", "fail-001", "paused-loop-001", "otel-001"])
def test_an_export_is_read_back(lens: Lens, form: str, run: str) -> None:
    before = lens(f"trace {run} -o json").json
    assert lens(f"trace {run} --export {form} saved").code == 0
    found = lens("trace --file saved -o json")
    assert (found.code, found.err) == (0, "")
    close(found.json, before)
    again = lens(f"trace --file saved --export {form} -")
    first = (lens.cwd / "saved").read_bytes()
    assert again.stdout == first, "an export of an export is the same"


@pytest.mark.parametrize("form", READ_BACK)
def test_odd_values_and_deep_trees_are_read_back(lens: Lens, form: str) -> None:
    deep = span("leaf", 0.0, 1.0)
    for level in range(3_000):
        deep = span(f"level {level}", 0.0, 1.0, deep)
    lens.write("saved", exported(form, ODD, deep).decode())
    rows = lens("trace --file saved --spans -o json --show-secrets").json
    assert len(rows) == 3_003
    assert rows[0]["attributes"]["deep"] == {"a": {"b": {"c": [{}]}}}
    assert rows[0]["attributes"]["huge"] == str(2**70)
    assert rows[1]["name"].startswith("</script><script>")


def test_traces_of_other_tools_are_read(lens: Lens) -> None:
    lens.write(
        "foreign.json",
        '[{"name":"inner","ph":"X","ts":1010,"dur":5,"pid":1,"tid":7},{"name":"outer","ph":"X","ts":1000,"dur":20,'
        '"pid":1,"tid":7,"args":{"n":1}},{"name":"other","ph":"X","ts":1001,"dur":2,"pid":1,"tid":8}]',
    )
    rows = lens("trace --file foreign.json --spans -o json").json
    assert [(row["name"], row["parent_span_id"], row["start_offset_ms"]) for row in rows] == [
        ("outer", None, 0.0),
        ("inner", "1", 0.01),
        ("other", None, 0.0),
    ]
    line = (
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"%s","spanId":"%s","name":"%s","startTimeUnixNano":1000000,'
        '"endTimeUnixNano":"3000000","status":{"code":"STATUS_CODE_ERROR"},"attributes":[{"key":"n","value":{"intValue":7}}]}]}]}]}\n'
    )
    lens.write("foreign.otlp", line % ("a" * 32, "b" * 16, "one") + line % ("a" * 32, "c" * 16, "two"))
    rows = lens("trace --file foreign.otlp --spans -o json").json
    assert [(row["name"], row["status"], row["duration_ms"], row["attributes"]) for row in rows] == [
        ("one", "failed", 2.0, {"n": 7}),
        ("two", "failed", 2.0, {"n": 7}),
    ]


@pytest.mark.parametrize("form", list(TRACE_FORMATS))
def test_secrets_are_masked(lens: Lens, form: str) -> None:
    secret = '{"api_key": "hunter2hunter2", "feedback": "Bearer abcdefghijklmnop refused"}'
    lens.edit(("UPDATE spans SET attributes = ?, status = 'failed' WHERE run_id = 'deep-001'", [secret]))
    masked = lens(f"trace deep-001 --export {form} -").out
    assert "hunter2hunter2" not in masked
    assert "abcdefghijklmnop" not in masked
    if form not in ("svg", "mermaid"):
        assert "hunter2hunter2" in lens(f"trace deep-001 --export {form} - --show-secrets").out


def test_a_file_is_new_private_and_whole(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert lens("trace deep-001 --export svg out.svg").err == "wrote 5 spans to out.svg\n"
    path = lens.cwd / "out.svg"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    refused = lens("trace trace4-001 --export svg out.svg")
    assert (refused.code, "out.svg already exists" in refused.err, "--overwrite" in refused.err) == (2, True, True)
    kept = path.read_bytes()
    assert lens("trace trace4-001 --export svg out.svg --overwrite --quiet").err == ""
    assert path.read_bytes() != kept
    found = tree(lens.cwd)
    del found["out.svg"]
    assert found == before
    assert lens("trace deep-001 --export svg nowhere/out.svg").code == 2
    assert lens("trace deep-001 --export svg /dev/null").code == 0


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("trace deep-001 --export png x", 2, "unknown export format"),
        ("trace deep-001 --export html x -o json", 2, "contradict"),
        ("trace deep-001 --export html x --status failed", 2, "contradict"),
        ("trace deep-001 --export html x --spans", 2, "contradict"),
        ("trace deep-001 --overwrite", 2, "--export"),
        ("trace deep-001 --export html", 2, "takes a format and a file"),
        ("trace crashed-001 --export html x", 1, "no spans"),
        ("trace nothing-there --export html x", 3, "nothing-there"),
    ],
)
def test_nothing_is_written_in_vain(lens: Lens, command: str, code: int, words: str) -> None:
    found = lens(command)
    assert (found.code, words in found.err) == (code, True), found.err
    assert not (lens.cwd / "x").exists()


def test_depth_limits_what_is_exported(lens: Lens) -> None:
    document = json.loads(lens("trace trace4-001 --export chrome - --depth 2").out)
    assert (
        1
        < sum(event["ph"] == "X" for event in document["traceEvents"])
        < len(lens("trace trace4-001 --spans -o json").json)
    )


def test_the_parts_of_the_page_are_in_the_package() -> None:
    folder = Path(__file__).resolve().parents[2] / "flujo_lens" / "data" / "trace_page"
    assert {path.name for path in folder.iterdir()} == {"page.html", "page.css", "page.js"}
