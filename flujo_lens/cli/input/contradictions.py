"""Refusing contradictory options, so that none is ignored."""

from __future__ import annotations

from collections.abc import Mapping

from flujo_lens.errors import UsageError


def refuse_combination(option: str, others: Mapping[str, object], why: str | None = None) -> None:
    """Refuse an option together with any of the others.

    Args:
        option: The option that was given.
        others: Options that contradict it, with their values; None, False and empty values mean not given.
        why: The hint.

    Raises:
        UsageError: one of them was given; the message names both.
    """
    for other, value in others.items():
        if value is not None and value is not False and value != []:
            raise UsageError(f"{option} and {other} contradict each other", hint=why)


def check_statuses(command: str, asked: frozenset[str], legal: frozenset[str], hint: str) -> None:
    """Refuse statuses that a command for some statuses does not show.

    Raises:
        UsageError: other statuses were requested; the hint names the command for them.
    """
    others = sorted(asked - legal)
    if others:
        raise UsageError(
            f"{command} is about {' and '.join(sorted(legal))} runs, not {', '.join(others)} ones", hint=hint
        )
