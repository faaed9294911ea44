"""Output of ``lens list``: by start, or sorted by another figure."""

from __future__ import annotations

from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import Asked, print_page, stream_all
from flujo_lens.errors import UsageError
from flujo_lens.rendering.columns import RUN
from flujo_lens.state.views import RunFilter


def print_runs(app: App, out: Output, wanted: RunFilter, limit: int | None, asked: Asked) -> None:
    """Print runs: a page, or all if `limit` is None; by their start, or sorted."""
    _check_columns(out, asked.sort)
    if asked.sort is not None:
        from flujo_lens.state.sorting import parse_sort

        sort = parse_sort(asked.sort)
        if sort.field != "started":
            from flujo_lens.cli.screens.sorted_list import print_sorted

            print_sorted(app, out, wanted, limit, asked, sort.reversed() if asked.reverse else sort)
            return
        asked = asked._replace(reverse=asked.reverse == sort.descending)
    if limit is None and not out.is_table:
        stream_all(app, out, RUN, wanted, asked)
    else:
        print_page(app, out, RUN, wanted, limit, asked)


def _check_columns(out: Output, sort: str | None) -> None:
    """Refuse the size as a column of another order: it is read for `sort` by it alone."""
    columns = out.options.columns or ""
    if "size_bytes" in [name.strip() for name in columns.split(",")] and (sort or "").partition(":")[0] != "size":
        from flujo_lens.rendering.text import quoted

        hint = f"lens list --sort size --columns {quoted(columns)}"
        raise UsageError("the column size_bytes comes only with --sort size", hint=hint)
