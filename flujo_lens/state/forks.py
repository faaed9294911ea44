"""Forks that nobody has resumed yet: they are stored as failed, so that they can go on, and have not failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_lens.state.views import RunSummary

__all__ = ["FORKED_FROM", "fork_error", "unstarted_fork_of"]

FORKED_FROM = "forked_from"
"""Key of the metadata of a fork: the run that it was made of."""


def fork_error(old_id: str) -> str:
    """The error message of a fork until it is resumed; what it fails with then takes its place."""
    return f"forked from {old_id}, and not resumed yet"


def unstarted_fork_of(run: RunSummary) -> str | None:
    """The run of which this one is a fork that nobody has resumed; None for any other run."""
    metadata: Mapping[str, Any] = run.metadata
    old = metadata.get(FORKED_FROM)
    is_one = run.status == "failed" and isinstance(old, str) and run.error_message == fork_error(old)
    return old if is_one else None
