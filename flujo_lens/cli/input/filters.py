"""The `RunFilter` of the shared filter options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, tzinfo
from typing import Any

from flujo_lens.cli.options import FilterOptions
from flujo_lens.errors import UnknownValueError, UsageError, nearest
from flujo_lens.state.typed_times import parse_when
from flujo_lens.state.views import RUN_STATUSES, UNREADABLE, RunFilter

_MOST_NAMED = 20
"""Maximum number of statuses named in an error."""

_WORDS = {
    "failed": ("error", "errors", "errored", "failure", "fail", "ko", "exception"),
    "completed": ("success", "succeeded", "successful", "ok", "done", "finished", "complete"),
    "running": ("active", "started", "in_progress", "in-progress", "pending", "queued"),
    "paused": ("waiting", "suspended", "blocked", "pause"),
    "cancelled": ("canceled", "aborted", "killed", "stopped", "terminated"),
}
_OF_STALE = ("stale", "silent", "dead", "stuck", "hanging", "crashed", "lost")
_STALE = "stale runs are running ones without activity: lens list --status running marks them"


def statuses(
    asked: list[str] | None, stored: Callable[[], Collection[str]], legal: tuple[str, ...] = RUN_STATUSES
) -> frozenset[str]:
    """The stored statuses that ``--status a,b --status c`` selects.

    A status is legal if lens knows it or the store holds it. Tried are the exact text, then the text with the escapes
    of tables decoded, then ignoring case.

    Args:
        asked: The values of the option.
        stored: Returns the statuses in the store; called only for one that lens does not know.
        legal: The statuses that lens knows.

    Raises:
        UnknownValueError: the status is neither known nor stored; the message names the nearest.
    """
    known = {*legal, UNREADABLE}
    names = [name.strip() for text in asked or [] for name in text.split(",")]
    if known.issuperset(names) and all(text == text.strip() for text in asked or []):
        return frozenset(names)
    held = frozenset(stored())
    found: set[str] = set()
    for text in asked or []:
        for name in [text] if text in held else text.split(","):
            found |= _meant(name, known | held) or _refused(name, legal, held)
    return frozenset(found)


def _meant(name: str, legal: Collection[str]) -> set[str]:
    """The legal statuses that match `name`."""
    from flujo_lens.rendering.text import unescape

    for spelling in (name, name.strip(), unescape(name.strip())):
        if spelling in legal:
            return {spelling}
    folded = name.strip().casefold()
    return {status for status in legal if status.casefold() == folded}


def _refused(name: str, legal: tuple[str, ...], held: Iterable[str]) -> set[str]:
    others = sorted(set(held) - {*legal, UNREADABLE})
    asked = name.strip()
    near = nearest(asked, (*legal, *others)) or _meant_word(asked.casefold(), legal)
    named = [*legal, *others[:_MOST_NAMED]]
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    raise UnknownValueError(
        f'unknown status "{asked}". {f"Did you mean {near}? " if near else ""}Statuses: {", ".join(named)}{more}',
        hint=_STALE if asked.casefold() in _OF_STALE else None,
        value=asked,
        near=near,
    )


def _meant_word(word: str, legal: tuple[str, ...]) -> str | None:
    """The status that another word means."""
    meant = {other: status for status, words in _WORDS.items() for other in words if status in legal}
    near = nearest(word, meant)
    return meant[near] if near else None


def run_filter(
    options: FilterOptions, now: datetime, zone: tzinfo, stored: Callable[[], Collection[str]], **more: Any
) -> RunFilter:
    """The filter of the options; `stored` returns the stored statuses, `more` sets further fields.

    Raises:
        UsageError: a status, time or KEY=VALUE that cannot be parsed.
    """

    def when(text: str | None) -> datetime | None:
        return None if text is None else parse_when(text, now, zone)

    fields: dict[str, Any] = {
        "statuses": frozenset(),
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
    _check_order(fields["since"], fields["until"], "")
    _check_order(fields["active_since"], fields["active_until"], "active-")
    _check_meta(fields["meta"])
    return RunFilter(**(fields | {"statuses": statuses(options.status, stored)} | more))


def _check_order(since: datetime | None, until: datetime | None, which: str) -> None:
    if since is not None and until is not None and since >= until:
        raise UsageError(
            f"--{which}since is not before --{which}until: no run can match",
            hint=f"--{which}since is the earlier time: --{which}since 2d --{which}until 1d",
        )


def _check_meta(pairs: tuple[tuple[str, str], ...]) -> None:
    asked: dict[str, str] = {}
    for key, value in pairs:
        if asked.setdefault(key, value) != value:
            raise UsageError(
                f"--meta {key}={asked[key]} and --meta {key}={value} contradict each other",
                hint="a run has one value per key and must match every --meta",
            )


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f'--meta takes KEY=VALUE, not "{text}"', hint="for example --meta customer=4711")
    return key, value
