"""Options that cannot both be meant: a command refuses them, and ignores none."""

from __future__ import annotations

from collections.abc import Mapping

from flujo_lens.errors import UsageError

__all__ = ["check_statuses", "refuse_beside"]


def refuse_beside(option: str, others: Mapping[str, object], why: str | None = None) -> None:
    """Do nothing if none of the other options was given.

    Args:
        option: An option that was given.
        others: Options that do not go with it, and their values; None, False and what is empty were not given.
        why: What the person is to know or to type.

    Raises:
        UsageError: one of them was given; names both.
    """
    for other, value in others.items():
        if value is not None and value is not False and value != []:
            raise UsageError(f"{option} and {other} contradict each other", hint=why)


def check_statuses(command: str, asked: frozenset[str], legal: frozenset[str], hint: str) -> None:
    """Do nothing if a command that shows runs of some statuses alone is asked for no others.

    Raises:
        UsageError: it is; says where those are.
    """
    others = sorted(asked - legal)
    if others:
        raise UsageError(
            f"{command} is about {' and '.join(sorted(legal))} runs, not {', '.join(others)} ones", hint=hint
        )
