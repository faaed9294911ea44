"""Which question a paused run asks: a token that another one, of the same step too, does not have.

It follows from what is stored of the run: where it stands, and when it came to stand there. So a run that asks again,
or another one of the same id, asks another question.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flujo_lens.state.views import RunSummary

__all__ = ["question_of", "token_of"]

_DIGITS = 8


def question_of(run: RunSummary) -> str | None:
    """The token of the question that a run waits with; None if it does not wait."""
    if run.status != "paused":
        return None
    return token_of(run.run_id, run.current_step_index, run.updated_at)


def token_of(run_id: str, index: int | None, asked_at: datetime | None) -> str:
    """The token of a question: eight hexadecimal digits.

    Args:
        run_id: The run.
        index: Of the step at which it stands, as it is stored.
        asked_at: When it was saved there. Of that the minutes within a quarter of an hour and what is less count: the
            same in every zone in which a time without one may be read.
    """
    from hashlib import sha256  # a millisecond that a list without questions need not pay for

    when = "" if asked_at is None else _within_a_quarter(asked_at.astimezone(UTC))
    return sha256("\0".join((run_id, str(index), when)).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _within_a_quarter(when: datetime) -> str:
    return f"{when.minute % 15}:{when.second}.{when.microsecond}"
