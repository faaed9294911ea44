"""The tables of ``lens diff``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flujo_lens.rendering import human
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.views import Shown, View


class SideRow(NamedTuple):
    """One of the two runs, or what the second has more than the first.

    Attributes:
        label: ``A``, ``B``, or ``B - A``.
        run: The run; None for the difference.
        duration_ms, cost_usd, tokens: Figures, or texts of differences.
    """

    label: str
    run: Any
    duration_ms: str
    cost_usd: str
    tokens: str


class StepRow(NamedTuple):
    """A pair of steps, with a mark before the first that differs."""

    mark: str
    pair: Any


class ChangeRow(NamedTuple):
    """A difference by its path; the values are texts, and secrets in them are masked."""

    sign: str
    path: str
    left: str
    right: str


def _of_run(cell: Callable[[Any, Human], str]) -> Callable[[Any, Human], str]:
    return lambda row, shown: "" if row.run is None else cell(row.run, shown)


SIDES = View(
    name="side",
    fields=(),
    table=(
        Shown("", lambda row, _: row.label, 100),
        Shown("RUN", _of_run(lambda run, _: run.run_id), 100, "id"),
        Shown("STATUS", _of_run(lambda run, _: run.status), 90, "status"),
        Shown("PIPELINE", _of_run(lambda run, _: f"{run.pipeline_name} {run.pipeline_version}"), 80, "name"),
        Shown("STARTED", _of_run(lambda run, shown: shown.time(run.created_at)), 30),
        Shown("TIME", lambda row, _: row.duration_ms, 70, "right"),
        Shown("COST", lambda row, _: row.cost_usd, 60, "amount"),
        Shown("TOKENS", lambda row, _: row.tokens, 40, "right"),
    ),
    id="",
)


def _of_step(side: str, cell: Callable[[Any], str]) -> Callable[[Any, Human], str]:
    def text(row: Any, _: Human) -> str:
        step = getattr(row.pair, side)
        return "-" if step is None else cell(step)

    return text


def _columns(side: str, label: str) -> tuple[Shown, ...]:
    return (
        Shown(label, _of_step(side, lambda step: step.status), 90, "status"),
        Shown(f"TIME {label}", _of_step(side, lambda step: human.duration(step.duration_ms)), 60, "right", pair="time"),
        Shown(f"COST {label}", _of_step(side, lambda step: human.money(step.cost_usd)), 40, "amount", pair="cost"),
        Shown(
            f"TOKENS {label}", _of_step(side, lambda step: human.count(step.token_counts)), 30, "right", pair="tokens"
        ),
    )


def _index(row: Any, _: Human) -> str:
    indexes = [step.step_index for step in (row.pair.left, row.pair.right) if step is not None]
    return "/".join(dict.fromkeys("-" if index is None else str(index) for index in indexes))


def _differs(row: Any, _: Human) -> str:
    if row.pair.left is None or row.pair.right is None:
        return "only in A" if row.pair.right is None else "only in B"
    return ", ".join(row.pair.differs)


STEP_PAIRS = View(
    name="step pair",
    fields=(),
    table=(
        Shown("", lambda row, _: row.mark, 100),
        Shown("#", _index, 80, "right"),
        Shown("STEP", lambda row, _: row.pair.step_name, 100, "id"),
        *_columns("left", "A"),
        *_columns("right", "B"),
        Shown("DIFFERS", _differs, 95, "fold", masks=True),
    ),
    id="",
)

CHANGES = View(
    name="change",
    fields=(),
    table=(
        Shown("", lambda row, _: row.sign, 100),
        Shown("PATH", lambda row, _: row.path, 100, "fold", masks=True),
        Shown("A", lambda row, _: row.left, 95, "fold", masks=True),
        Shown("B", lambda row, _: row.right, 95, "fold", masks=True),
    ),
    id="",
)
