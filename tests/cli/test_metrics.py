"""Metrics for Prometheus: right by its own reader and by prometheus-client's, served, and written as a file."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import NOW, Lens, tree

from flujo_lens.cli.context import App
from flujo_lens.cli.options import CommonOptions
from flujo_lens.cli.screens.metrics import CachedMetrics
from flujo_lens.cli.world import World
from flujo_lens.rendering.export.prometheus import CONTENT_TYPE, MOST_PIPELINES, OTHER, prometheus_text
from flujo_lens.state.backends.sqlite.engine.session import Session
from flujo_lens.state.statistics import DURATION_BOUNDS_MS
from flujo_lens.state.views import RUN_STATUSES

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
MORE_RUNS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at,
    execution_time_ms)
SELECT 'more-' || i, '', {name}, '1', {status}, '2026-11-21T0' || (i % 3) || ':00:00+00:00',
    '2026-11-21T03:00:00+00:00', i
FROM n
"""


def more_runs(lens: Lens, count: int, name: str = "'many'", status: str = "'failed'") -> None:
    lens.edit(MORE_RUNS.format(count=count, name=name, status=status))


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The values by the names of their samples, as prometheus-client's parser reads them."""
    found = defaultdict[str, list[tuple[dict[str, str], float]]](list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.timestamp is None
            found[sample.name].append((dict(sample.labels), sample.value))
    return found


def value(found: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    fitting = [number for has, number in found[name] if labels.items() <= has.items()]
    assert len(fitting) == 1, (name, labels, fitting)
    return fitting[0]


def well_formed(text: str) -> None:
    """The rules that one or another reader insists on."""
    assert text.endswith("\n")
    assert "\r" not in text
    seen: list[str] = []
    labels: dict[str, set[str]] = {}
    for line in text.split("\n")[:-1]:
        if line.startswith("#"):
            _, kind, name, rest = line.split(" ", 3)
            assert (kind, seen.count(name)) == ("HELP", 0) or (kind, seen[-1:]) == ("TYPE", [name])
            assert kind == "HELP" or rest in ("counter", "gauge", "histogram")
            seen += [name] if kind == "HELP" else []
            continue
        match = re.fullmatch(r"([a-z_]+)\{(.*)\} ([-+0-9.e]+|\+Inf)", line)
        assert match, line
        assert match[1].startswith(seen[-1]), "all samples of a family in one block"
        names = set(re.findall(r'([a-z_]+)="(?:[^"\\]|\\.)*"', match[2]))
        assert labels.setdefault(match[1], names) == names, "the same labels in all samples of a family"
        assert names >= {"store"}


def by_promtool(*arguments: str, text: str = "", **more: Any) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on this machine")
    done = subprocess.run([program, *arguments], input=text, capture_output=True, encoding="utf-8", check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the figures


def test_the_figures_are_those_of_stats_and_status(lens: Lens) -> None:
    more_runs(lens, 7)
    before = tree(lens.cwd)
    text = lens("stats -o prometheus").out
    well_formed(text)
    found = samples(text)
    stats = lens("stats -o json").json
    for pipeline in stats["by_pipeline"]:
        name = pipeline["pipeline_name"]
        for status in RUN_STATUSES:
            assert value(found, "lens_runs", pipeline=name, status=status) == pipeline["by_status"].get(status, 0)
        if pipeline["cost_usd"] is not None:
            assert value(found, "lens_cost_usd", pipeline=name) == pytest.approx(pipeline["cost_usd"])
            assert value(found, "lens_tokens", pipeline=name) == pipeline["tokens"]
    status = lens("status -o json").json
    failing = sum(group["count"] for group in status["failing"])
    assert sum(number for _, number in found["lens_failures_recent"]) == failing > 0
    assert value(found, "lens_stale_runs") == len(status["silent"])
    assert value(found, "lens_store_size_bytes") == status["size_bytes"]
    waiting = lens("waiting -o json").json
    assert value(found, "lens_oldest_waiting_seconds") == pytest.approx(
        max(NOW.timestamp() - _at(run["updated_at"]) for run in waiting)
    )
    running = lens("list --status running --all -o json").json
    assert value(found, "lens_oldest_running_seconds") == pytest.approx(
        max(NOW.timestamp() - _at(run["created_at"]) for run in running if run["created_at"])
    )
    assert value(found, "lens_up") == 1
    assert value(found, "lens_read_timestamp_seconds") == NOW.timestamp()
    assert "lens_scrape_errors_total" not in found
    assert tree(lens.cwd) == before


def _at(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("count", [200, 12_000], ids=["few", "in buckets"])
def test_durations_are_a_histogram(lens: Lens, count: int) -> None:
    lens.edit("DELETE FROM runs", "DELETE FROM workflow_state")
    more_runs(lens, count, status="'completed'")
    found = samples(lens("stats -o prometheus").out)
    buckets = {labels["le"]: number for labels, number in found["lens_run_duration_seconds_bucket"]}
    assert list(buckets) == [str(bound / 1000) for bound in DURATION_BOUNDS_MS] + ["+Inf"]
    lengths = [run["duration_ms"] for run in lens("list --all -o json").json]
    assert len(lengths) == count
    for bound in DURATION_BOUNDS_MS:
        exact = sum(length <= bound for length in lengths)
        assert buckets[str(bound / 1000)] == pytest.approx(exact, abs=0 if count == 200 else 0.03 * count)
    assert buckets["+Inf"] == value(found, "lens_run_duration_seconds_count") == count
    assert value(found, "lens_run_duration_seconds_sum") == pytest.approx(sum(lengths) / 1000)
    assert sorted(buckets.values()) == list(buckets.values())


def test_filters_apply(lens: Lens) -> None:
    found = samples(lens("stats -o prometheus --pipeline orders --status completed").out)
    assert {labels["pipeline"] for labels, _ in found["lens_runs"]} == {"orders"}
    assert value(found, "lens_runs", status="cancelled") == 0
    assert value(found, "lens_oldest_waiting_seconds") == 0
    assert value(found, "lens_oldest_running_seconds") == 0
    assert sum(number for _, number in found["lens_failures_recent"]) == 0


def test_names_of_stores_and_pipelines_are_data(lens: Lens) -> None:
    odd = 'a"b\\c\nd{x="y"} 1 漢字 \x00'
    lens.edit(("UPDATE runs SET pipeline_name = ? WHERE pipeline_name = 'orders'", [odd]))
    lens.write("lens.toml", '[stores.odd]\nuri = "flujo_ops.db"\n')
    text = lens("stats -o prometheus --store odd").out
    well_formed(text)
    found = samples(text)
    assert value(found, "lens_runs", pipeline=odd.replace("\x00", "\\u0000"), status="completed") == 9
    assert {labels["store"] for family in found.values() for labels, _ in family} == {"odd"}
    by_promtool("check", "metrics", text=text)


def test_a_password_is_no_label() -> None:
    assert b"hunter2" not in prometheus_text("postgresql://lens:***@db/ops", None)


def test_very_many_pipelines_are_few_series(lens: Lens) -> None:
    more_runs(lens, 150, name="'pipeline ' || i")
    text = lens("stats -o prometheus").out
    well_formed(text)
    found = samples(text)
    names = {labels["pipeline"] for labels, _ in found["lens_runs"]}
    assert len(names) == MOST_PIPELINES
    assert OTHER in names
    assert sum(number for _, number in found["lens_runs"]) == lens("list --count -o json").json
    assert value(found, "lens_run_duration_seconds_bucket", pipeline=OTHER, le="+Inf") == value(
        found, "lens_run_duration_seconds_count", pipeline=OTHER
    )
    assert len(found["lens_failures_recent"]) <= MOST_PIPELINES


def test_promtool_finds_nothing_to_say(lens: Lens) -> None:
    assert by_promtool("check", "metrics", text=lens("stats -o prometheus").out) == ""


def test_reading_costs_a_fixed_number_of_queries(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    rows = Session.rows

    def counted(self: Session, sql: str, *more: Any, **named: Any) -> Any:
        asked.append(sql)
        return rows(self, sql, *more, **named)

    monkeypatch.setattr(Session, "rows", counted)
    counts = []
    for more in (0, 3_000):
        if more:
            more_runs(lens, more)
        asked.clear()
        assert lens("stats -o prometheus").code == 0
        counts.append(len(asked))
    assert counts[1] <= counts[0] + 10
    assert 5 < counts[0] < 60


# --- a file


def test_a_file_for_node_exporter(lens: Lens) -> None:
    assert lens("stats -o prometheus --output-file lens.prom").code == 0
    path = lens.cwd / "lens.prom"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    first = path.stat().st_ino
    well_formed(path.read_text(encoding="utf-8"))
    assert lens("stats -o prometheus --output-file lens.prom").code == 0
    assert path.stat().st_ino != first, "a new file takes its name"
    assert [name for name in tree(lens.cwd) if "tmp" in name] == []
    shutil.move(lens.cwd / "flujo_ops.db", lens.cwd / "away.db")
    lost = lens("stats -o prometheus --output-file lens.prom --store flujo_ops.db")
    assert lost.code == 5
    found = samples(path.read_text(encoding="utf-8"))
    assert {name: [number for _, number in values] for name, values in found.items()} == {"lens_up": [0]}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("stats -o prometheus --output-file lens.txt", "does not end in .prom"),
        ("stats -o json --output-file lens.prom", "applies only to -o prometheus"),
        ("stats -o prometheus --by day", "--by contradict"),
        ("stats -o prometheus --sort cost", "--sort contradict"),
        ("stats -o prometheus --columns total", "--columns contradict"),
        ("list -o prometheus", "prometheus"),
        ("metrics serve --port 70000", "70000"),
        ("metrics server", "Did you mean serve"),
    ],
)
def test_what_does_not_apply_is_refused(lens: Lens, command: str, words: str) -> None:
    found = lens(command)
    assert (found.code, words in found.err) == (2, True), found.err


# --- a server


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_figures_are_kept_for_the_interval_and_a_lost_store_is_no_crash(lens: Lens) -> None:
    import io

    stderr = io.StringIO()
    world = World(stdout=io.StringIO(), stderr=stderr, env=lens.env, cwd=lens.cwd, now=lambda: NOW)
    clock = Clock()
    metrics = CachedMetrics(App(world).with_options(CommonOptions(store="flujo_ops.db")), 15.0, clock)

    def read() -> Any:
        return samples(metrics.text().decode())

    before = value(read(), "lens_runs", pipeline="orders", status="completed")
    lens.edit("UPDATE runs SET pipeline_name = 'moved' WHERE pipeline_name = 'orders'")
    clock.now = 14.9
    assert value(read(), "lens_runs", pipeline="orders", status="completed") == before
    clock.now = 15.0
    assert value(read(), "lens_runs", pipeline="moved", status="completed") == before
    shutil.move(lens.cwd / "flujo_ops.db", lens.cwd / "away.db")
    for number in (1, 2):
        clock.now += 15
        found = read()
        assert (value(found, "lens_up"), value(found, "lens_scrape_errors_total")) == (0, number)
    assert stderr.getvalue().count("cannot read the store") == 1
    shutil.move(lens.cwd / "away.db", lens.cwd / "flujo_ops.db")
    clock.now += 15
    found = read()
    assert (value(found, "lens_up"), value(found, "lens_scrape_errors_total")) == (1, 2)
    well_formed(metrics.text().decode())


def test_a_slow_store_holds_no_scrape_up(lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old figures are served while a thread reads new ones, and reading takes at most a tenth of the time."""
    clock, begun, go = Clock(), threading.Event(), threading.Event()
    metrics = CachedMetrics(App(World()), 15.0, clock)
    texts = iter([b"first", b"second"])

    def slow() -> bytes:
        begun.set()
        assert go.wait(30)
        clock.now += 20
        return next(texts)

    monkeypatch.setattr(metrics, "_collect", slow)
    go.set()
    assert metrics.text() == b"first"
    go.clear()
    begun.clear()
    clock.now = 20 + 179
    assert (metrics.text(), begun.is_set()) == (b"first", False)
    clock.now = 20 + 180
    assert metrics.text() == metrics.text() == b"first"
    assert begun.wait(30)
    go.set()
    with metrics._lock:
        assert metrics.text() == b"second"


@contextmanager
def served(lens: Lens, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    process = lens.start("metrics", "serve", "--port", "0", *options, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        match = re.search(r"on (http://\S+)/metrics;", line)
        assert match, line
        yield process, match[1]
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_a_store_that_does_not_exist_is_an_error_and_a_server_is_waited_for(lens: Lens) -> None:
    missing = lens("metrics serve --port 0 -s nope.db")
    assert (missing.code, "LENS-S1" in missing.err, missing.out) == (5, True, "")
    process = lens.start("metrics serve --port 0 -s redis://127.0.0.1:1/0 --timeout 2", stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        warning = process.stderr.readline().decode()
        assert re.match("cannot read the store: .*127.0.0.1.*; it is tried again at every scrape", warning)
        url = re.search(r"on (http://\S+);", process.stderr.readline().decode())
        assert url
        with urllib.request.urlopen(url[1], timeout=30) as answer:
            assert value(samples(answer.read().decode()), "lens_up") == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_the_bare_command_prints_its_help(lens: Lens) -> None:
    shown = lens("metrics")
    assert (shown.code, shown.out, shown.err) == (0, lens("metrics --help").out, "")
    assert "serve" in shown.out


def test_it_is_served_and_ends_by_a_signal(lens: Lens) -> None:
    before = tree(lens.cwd)
    with served(lens) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
            text = answer.read().decode()
        well_formed(text)
        assert value(samples(text), "lens_scrape_errors_total") == 0
        by_promtool("check", "metrics", text=text)
        with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", method="HEAD"), timeout=30) as answer:
            assert (answer.read(), int(answer.headers["Content-Length"]) > 1000) == (b"", True)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/../etc/passwd", timeout=30)
        assert refused.value.code == 404
        refused.value.close()
        port = url.rpartition(":")[2]
        taken = lens("metrics", "serve", "--port", port)
        assert (taken.code, f"cannot listen on 127.0.0.1 port {port}" in taken.err) == (1, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    assert tree(lens.cwd) == before
    with served(lens) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):  # a client that says nothing holds nothing up
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130


# --- dashboard and alerts


def named(text: str) -> set[str]:
    return set(re.findall(r"\blens_[a-z_]+", text))


def test_the_dashboard_and_the_alerts_name_metrics_that_exist(lens: Lens) -> None:
    figures = samples(lens("stats -o prometheus").out)
    known = {*figures, *samples(prometheus_text("", None, errors=0).decode())}
    dashboard = (MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8")
    alerts = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    assert named(dashboard) - known == set()
    assert named(alerts) - known == set()
    panels = json.loads(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def test_the_guide_names_every_metric(lens: Lens) -> None:
    page = (MONITORING.parent / "guides" / "metrics.md").read_text(encoding="utf-8")
    text = lens("stats -o prometheus").out + prometheus_text("", None, errors=0).decode()
    assert set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE)) <= named(page)


def test_the_alerts_fire_when_they_should() -> None:
    assert "7 rules found" in by_promtool("check", "rules", str(MONITORING / "alerts.yml"))
    assert "SUCCESS" in by_promtool("test", "rules", "alerts_test.yml", cwd=MONITORING)


def test_the_queries_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    """As rules, which promtool parses."""
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))["panels"]
    queries = [
        target["expr"].replace("$store", "x").replace("$pipeline", "x") for p in panels for target in p["targets"]
    ]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(queries)} rules found" in by_promtool("check", "rules", str(path))
