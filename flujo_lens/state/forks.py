"""Forks that were not resumed yet: stored as failed, so that they can be resumed, but not counted as failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_lens.state.views import RunSummary

FORKED_FROM = "forked_from"
"""The metadata key of a fork with the id of its original run."""

ID_PART = "-fork-"
"""What the id of every fork has between that of its original run and some random letters."""


def fork_error(old_id: str) -> str:
    """The error message of a fork until it is resumed."""
    return f"forked from {old_id}, and not resumed yet"


def unstarted_fork_of(run: RunSummary) -> str | None:
    """The original run of a fork that was not resumed yet; None for any other run."""
    metadata: Mapping[str, Any] = run.metadata
    old = metadata.get(FORKED_FROM)
    is_one = run.status == "failed" and isinstance(old, str) and run.error_message == fork_error(old)
    return old if is_one else None
