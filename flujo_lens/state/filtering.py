"""Whether a run matches a filter: the reference for the queries of all drivers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from flujo_lens.state.fingerprint import glob_matches
from flujo_lens.state.views import UNREADABLE, RunFilter, RunSummary

_OLDEST = datetime.min


def matches(wanted: RunFilter, run: RunSummary) -> bool:
    """Whether `run` matches every field of `wanted` that is set."""
    return (
        _is_kind(wanted, run)
        and _is_pipeline(wanted, run)
        and _in_time(wanted, run)
        and _has_text(wanted, run)
        and _has_meta(wanted, run)
    )


def needs_details(wanted: RunFilter) -> bool:
    """Whether `wanted` needs values inside a run's blobs (error, pause message, metadata)."""
    return bool(wanted.error is not None or wanted.search is not None or wanted.meta)


def sort_key(run: RunSummary) -> tuple[datetime, str]:
    """The sort key by start; runs without a readable start come first."""
    return (run.created_at.replace(tzinfo=None) if run.created_at else _OLDEST, run.run_id)


def _is_kind(wanted: RunFilter, run: RunSummary) -> bool:
    if wanted.statuses and run.status not in wanted.statuses:
        return False
    if wanted.top_level and run.is_background_task:
        return False
    if wanted.tasks_only and not run.is_background_task:
        return False
    return wanted.parent is None or run.parent_run_id == wanted.parent


def _is_pipeline(wanted: RunFilter, run: RunSummary) -> bool:
    return (wanted.pipeline is None or run.pipeline_name == wanted.pipeline) and (
        wanted.version is None or run.pipeline_version == wanted.version
    )


def _between(when: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    if since is None and until is None:
        return True
    return when is not None and (since is None or when >= since) and (until is None or when < until)


def _in_time(wanted: RunFilter, run: RunSummary) -> bool:
    return _between(run.created_at, wanted.since, wanted.until) and _between(
        run.updated_at, wanted.active_since, wanted.active_until
    )


def _has_text(wanted: RunFilter, run: RunSummary) -> bool:
    if wanted.error is not None and (run.error_message is None or not glob_matches(wanted.error, run.error_message)):
        return False
    if wanted.search is None:
        return True
    sought = wanted.search.casefold()
    texts = (run.run_id, run.pipeline_name, run.error_message, run.pause_message)
    return any(sought in text.casefold() for text in texts if text)


def _has_meta(wanted: RunFilter, run: RunSummary) -> bool:
    return all(meta_text(run.metadata.get(key)) == value for key, value in wanted.meta)


def meta_text(value: Any) -> str | None:
    """A metadata value as typed in ``--meta``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    import orjson

    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested too deeply, or a number of more than 64 bits
        return None


def statuses_stored(wanted: RunFilter) -> tuple[frozenset[str], frozenset[str]] | None:
    """Which statuses states can have, and runs without one, that a filter admits; None if it admits any.

    A state may say failed of a run that was cancelled, and paused of one that failed (see `interpret.status_of`).
    """
    asked = wanted.statuses
    if not asked or UNREADABLE in asked or not are_plain(asked):
        return None
    more = {"failed"} if "cancelled" in asked else set()
    return asked | more | ({"paused"} if "failed" in asked else set()), asked


def are_plain(texts: Iterable[str]) -> bool:
    """Whether every store keeps these texts as they are."""
    return not any("\0" in text or "\ufffd" in text for text in texts)
