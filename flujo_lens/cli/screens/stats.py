"""Output of ``lens stats``: pipelines, failures and spans, or groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flujo_lens.cli.context import App
from flujo_lens.cli.hints import with_filters
from flujo_lens.cli.options import FilterOptions, OutputOptions, words_of
from flujo_lens.cli.output import Output
from flujo_lens.operations.stats import FIGURES, grouped_statistics, newest_groups, sorted_stats, statistics, with_stale
from flujo_lens.rendering import columns, human
from flujo_lens.rendering.groups import group_view, grouped_stats_view, total_line, with_statuses
from flujo_lens.rendering.text import one_line, quoted
from flujo_lens.rendering.views import View
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.sorting import parse_sort
from flujo_lens.state.statistics import Durations, Stats
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.groups import Grouping
    from flujo_lens.state.statistics import GroupStats

T = TypeVar("T")
FEW_ROWS = 20
_SPANS = "names of spans"
_GAP = " " * 3
_ROOM_FOR_TREND, _FEW_STATUSES = 100, 3
"""On a terminal with fewer columns, and more statuses, a cell of a trend stands for two."""
_FEW_GROUPS = 100


class StatsArguments(NamedTuple):
    """Arguments of ``lens stats``."""

    filters: FilterOptions
    by: list[str] | None = None
    sort: str | None = None
    limit: int | None = None

    def command(self, count: int, options: OutputOptions) -> str:
        """A ``lens stats`` command for the same runs and groups that prints `count` rows in the same form."""
        by = "".join(f" --by {quoted(name)}" for name in self.by or [])
        sort = f" --sort {quoted(self.sort)}" if self.sort else ""
        printed = "".join(f" {word}" for word in words_of(options, "utc", "time", "no_header", "show_secrets"))
        return with_filters(f"lens stats{by}{sort} -n {count}{printed}", self.filters)


def print_stats(app: App, out: Output, asked: StatsArguments) -> None:
    """Print statistics: tables, one JSON document, or rows of pipelines or groups.

    Raises:
        UsageError: an unknown dimension or field.
    """
    from datetime import UTC

    from flujo_lens.state.groups import parse_grouping

    grouping = parse_grouping(asked.by or [], UTC if out.options.utc else app.zone)
    dimensions = grouping.by or ("pipeline",)
    sort = None if asked.sort is None else parse_sort(asked.sort, (*FIGURES, *dimensions))
    wanted = app.wanted(asked.filters)
    whole = out.form == "json"

    async def work(backend: StateBackend) -> Stats:
        if grouping.by:
            found = await grouped_statistics(backend, wanted, grouping, whole=whole)
        else:
            found = await statistics(backend, wanted)
        return found if whole else await with_stale(backend, wanted, found, app.world.now(), app.silent_after)

    stats = app.run(work)
    for problem in stats.problems:
        app.note(f"unreadable: {problem}")
    if sort is not None:
        stats = sorted_stats(stats, sort)
    _Screen(app, out, asked, grouping, wanted).show(stats)


class _Screen:
    """The statistics in the requested format."""

    def __init__(self, app: App, out: Output, asked: StatsArguments, grouping: Grouping, wanted: RunFilter) -> None:
        self.app, self.out, self.asked, self.grouping, self.wanted = app, out, asked, grouping, wanted

    def show(self, stats: Stats) -> None:
        """Print the statistics."""
        nothing = "no runs match" if self.wanted != RunFilter() else "no runs in this store"
        view = self._group_view(stats) if stats.by else columns.PIPELINE
        document = grouped_stats_view(view) if stats.by else columns.STATS
        rows = self._first_groups(stats) if stats.by else self._first(stats.by_pipeline)
        if self.out.is_table and self.out.options.columns is None:
            self._draw(stats, view)
            self.out.note_dropped()
            if not stats.total:
                self.app.note_no_runs(nothing, self.wanted)
        elif self.out.form == "json":
            self.out.document(document.row(self._limited(stats), self.out.fields(document)))
        else:
            self.out.show(view, rows, nothing, self.wanted)
            every, what = (stats.groups, "groups") if stats.by else (stats.by_pipeline, "pipelines")
            self._note_more(len(rows), len(every), what)

    def _group_view(self, stats: Stats) -> View:
        unicode = self.app.world.unicode
        statuses = {status for group in stats.groups for status, number in group.by_status.items() if number}
        narrow = self.out.folds and self.app.world.columns < _ROOM_FOR_TREND and len(statuses) > _FEW_STATUSES
        return group_view(stats.by, stats.groups, of_steps=self.grouping.of_steps, unicode=unicode, narrow=narrow)

    def _first(self, rows: tuple[T, ...], few: int | None = None) -> tuple[T, ...]:
        return rows[: self.asked.limit or few]

    def _first_groups(self, stats: Stats, few: int | None = None) -> tuple[GroupStats, ...]:
        """The first groups; in the order of time the newest, which are the last."""
        count, unit = self.asked.limit or few, self.grouping.of_time
        if count is None or unit is None or self.asked.sort is not None:
            return self._first(stats.groups, few)
        return newest_groups(stats, unit, count)

    def _limited(self, stats: Stats) -> Stats:
        """The statistics with the first rows of each list, as many as ``--limit``; the totals are those of all."""
        if self.asked.limit is None:
            return stats
        first: dict[str, Any] = {}
        parts = (("groups", "groups"), ("by_pipeline", "pipelines"), ("failures", "errors"), ("spans", _SPANS))
        for name, what in parts:
            every = getattr(stats, name)
            rows = self._first_groups(stats) if name == "groups" else self._first(every)
            self._note_more(len(rows), len(every), what)
            first[name] = rows
        return replace(stats, **first)

    def _draw(self, stats: Stats, view: View) -> None:
        self._draw_head(stats)
        few = FEW_ROWS if self.out.folds else None
        if stats.by:
            groups = self._first_groups(stats, _FEW_GROUPS if self.out.folds else None)
            self._draw_rows(view, groups, len(stats.groups), "groups")
        else:
            parts: tuple[tuple[View, tuple[object, ...], str], ...] = (
                (with_statuses(columns.PIPELINE, stats.by_pipeline), stats.by_pipeline, "pipelines"),
                (columns.FAILURE, stats.failures, "errors"),
                (columns.SPAN_NAME, stats.spans, _SPANS),
            )
            for each, rows, what in parts:
                self._draw_rows(each, self._first(rows, few), len(rows), what)
        self._note_durations(stats)
        if "version" in stats.by and "pipeline" not in stats.by and self.wanted.pipeline is None:
            apart = self.app.suggest(with_filters("lens stats --by pipeline --by version", self.asked.filters))
            self.app.note(f"a version is that of all pipelines with it; apart: {apart}")

    def _draw_head(self, stats: Stats) -> None:
        from rich.text import Text

        from flujo_lens.rendering.tables import STATUS_STYLES

        lines = [Text(human.plural(stats.total, "run"), style="bold")]
        width = self.app.world.columns if self.out.folds else None
        for status, number in stats.by_status.items():
            stale = f" ({stats.stale:,} stale)" if status == "running" and stats.stale else ""
            part = Text(f"{number:,} {one_line(status)}{stale}", STATUS_STYLES.get(status, ""))
            if width is not None and lines[-1].cell_len + len(_GAP) + part.cell_len > width:
                lines.append(Text(" " * len(human.plural(stats.total, "run"))))
            lines[-1].append(_GAP).append_text(part)
        for line in lines:
            self.out.print(line)
        if costs := total_line(stats.cost_usd, stats.tokens):
            self.out.print(Text(costs))

    def _draw_rows(self, view: View, shown: tuple[object, ...], count: int, what: str) -> None:
        from rich.text import Text

        if shown:
            self.out.print(Text())
            self.out.table(view, shown)
        self._note_more(len(shown), count, what)

    def _note_more(self, shown: int, count: int, what: str) -> None:
        if shown < count:
            every = self.app.suggest(self.asked.command(count, self.out.options))
            self.app.note(f"{count - shown:,} more {what}: {every}")

    def _note_durations(self, stats: Stats) -> None:
        """Say what the durations include, and which percentiles are approximate."""
        rows = stats.groups if stats.by else stats.by_pipeline
        lengths = [row.duration_ms for row in rows if row.duration_ms.avg is not None]
        if lengths:
            from rich.text import Text

            spans = [span.duration_ms for span in stats.spans]
            self.out.print(Text(f"\ndurations: {'; '.join(_meaning(lengths, spans, self.grouping))}", style="dim"))


def _meaning(lengths: Iterable[Durations], spans: Iterable[Durations], grouping: Grouping) -> Iterable[str]:
    included = {length.counts_waiting for length in lengths}
    if grouping.of_steps:
        yield "of steps, without waiting for a person"
    elif included == {True}:
        yield "start to end, including waiting for a person (--by step excludes it)"
    elif included == {False}:
        yield "sums of the steps of a run, without waiting for a person"
    else:
        yield "start to end, including waiting for a person"
        yield "sums of the steps where that is not stored"
    if not all(length.exact for length in (*lengths, *spans)):
        yield "~ is right to 2 %"
