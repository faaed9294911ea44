"""From the shared filter options to a `RunFilter`."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any

from flujo_lens.cli.options import FilterOptions
from flujo_lens.errors import UnknownValueError, UsageError
from flujo_lens.state.timestamps import parse_when
from flujo_lens.state.views import RUN_STATUSES, UNREADABLE, RunFilter

__all__ = ["run_filter", "statuses"]


def statuses(asked: list[str] | None, legal: tuple[str, ...] = RUN_STATUSES) -> frozenset[str]:
    """The statuses of ``--status a,b --status c``.

    Raises:
        UnknownValueError: there is no such status; names the nearest.
    """
    names = [name.strip().lower() for text in asked or [] for name in text.split(",")]
    for name in names:
        if name not in (*legal, UNREADABLE):
            raise UnknownValueError.of("status", name, legal)
    return frozenset(names)


def run_filter(options: FilterOptions, now: datetime, zone: tzinfo, **more: Any) -> RunFilter:
    """The filter that the options describe; `more` sets further fields.

    Raises:
        UsageError: a status, time or KEY=VALUE that cannot be read.
    """

    def when(text: str | None) -> datetime | None:
        return None if text is None else parse_when(text, now, zone)

    fields: dict[str, Any] = {
        "statuses": statuses(options.status),
        "pipeline": options.pipeline,
        "version": options.version,
        "since": when(options.since),
        "until": when(options.until),
        "active_since": when(options.active_since),
        "active_until": when(options.active_until),
        "meta": tuple(_pair(text) for text in options.meta or []),
        "search": options.search,
        "error": options.error,
        "top_level": options.top_level,
    }
    return RunFilter(**(fields | more))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f'--meta takes KEY=VALUE, not "{text}"', hint="as in --meta customer=4711")
    return key, value
