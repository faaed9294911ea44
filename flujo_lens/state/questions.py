"""Tokens of questions: each question of a run has a different one, even at the same step.

A token is derived from the stored position and time of the pause. So a run that asks again, or another run with the
same id, has a different token.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flujo_lens.state.views import RunSummary

_DIGITS = 8


def question_of(run: RunSummary) -> str | None:
    """The token of the current question of a run; None if it does not wait."""
    if run.status != "paused":
        return None
    return token_of(run.run_id, run.current_step_index, run.updated_at)


def token_of(run_id: str, index: int | None, asked_at: datetime | None) -> str:
    """The token of a question: eight hexadecimal digits.

    Args:
        index: The stored index of the current step.
        asked_at: The time of the pause. Only its minutes within a quarter of an hour and below are used, which are
            equal in every zone of a naive time.
    """
    from hashlib import sha256  # slow to import, and not needed without questions

    when = "" if asked_at is None else _within_a_quarter(asked_at.astimezone(UTC))
    return sha256("\0".join((run_id, str(index), when)).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _within_a_quarter(when: datetime) -> str:
    return f"{when.minute % 15}:{when.second}.{when.microsecond}"
