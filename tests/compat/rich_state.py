"""A state with all kinds of values, made alike in two processes: one of them has the library and not us."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

SAVED = datetime(2026, 3, 1, 10, 0, 0, 250_000)


class Severity(Enum):
    HIGH = "high"


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class Invoice(BaseModel):
    number: int
    due: date
    severity: Severity = Severity.HIGH
    lines: list[dict[str, Any]] = []


def common() -> dict[str, Any]:
    """Values that every version of the library writes alike."""
    return {
        "text": "“quote” ünïcode 漢字 🎉",
        "odd": "[/x] \x1b[31mred\x1b[0m \x00 <b>&</b> C:\\tmp\nl2",
        "marks": ["<unserializable: T>", "<circular-ref>", "nan", "2026-01-02T03:04:05Z", ""],
        "numbers": [0, -1, 2**53 + 1, 0.1, 1e300, -0.0, True, None],
        "not_numbers": [float("nan"), float("inf"), float("-inf")],
        "times": [datetime(2026, 7, 1, 9, 0, 0, 123_456), date(2026, 7, 1), time(9, 30)],
        "aware": datetime(2026, 7, 1, 9, tzinfo=timezone(timedelta(hours=2))),
        "complex": 1 - 2j,
        "severity": Severity.HIGH,
        "tuple": (1, ("a", None)),
        "set": {3, 1, 2},
        "point": Point(1, ["a"]),
        "invoice": Invoice(number=4711, due=date(2026, 12, 31), lines=[{"n": 1}]),
        "keys": {1: "one", None: "none", date(2026, 7, 1): "date"},
        "empty": [{}, [], ""],
        "function": len,
    }


def theirs() -> dict[str, Any]:
    """Values that the library writes in a way of its own, and that must not suffer when we read them."""
    return {**common(), "large": [2**70, -(2**63) - 1, 2**64]}


def ours() -> dict[str, Any]:
    """Values of which the versions leave different things, or nothing."""
    return {
        "money": Decimal("9.90"),
        "id": UUID(int=1),
        "bytes": "é".encode(),
        "bad": b"\xff",
        "span": timedelta(hours=1),
    }


def state(run_id: str, context: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A state as the library's runner saves it."""
    return {
        "run_id": run_id,
        "pipeline_id": "orders-id",
        "pipeline_name": "orders",
        "pipeline_version": "1.0",
        "current_step_index": 1,
        "pipeline_context": context,
        "last_step_output": context,
        "step_history": [{"name": "load", "success": True, "output": None, "branch_context": context}],
        "status": "paused",
        "created_at": SAVED,
        "updated_at": SAVED,
        "total_steps": 2,
        "error_message": "Boom: [/x]",
        "execution_time_ms": 1234,
        "memory_usage_mb": 1.5,
        **more,
    }


HISTORY: dict[str, Any] = {
    "start": {"run_id": "whole", "pipeline_name": "orders", "pipeline_version": "1.0", "start_time": SAVED},
    "steps": [
        {
            "step_run_id": f"whole:{n}",
            "run_id": "whole",
            "step_name": name,
            "step_index": n,
            "status": status,
            "start_time": SAVED,
            "end_time": SAVED,
            "duration_ms": 5 + n,
            "execution_time_ms": 5 + n,
            "output": {"rows": [n, None]},
        }
        for n, (name, status) in enumerate([("load", "completed"), ("check", "failed")])
    ],
    "trace": {
        "span_id": "a",
        "name": "pipeline_root",
        "start_time": 1772359200.25,
        "end_time": 1772359201.0,
        "status": "completed",
        "attributes": {"initial_input": "x", "n": 1},
        "children": [
            {
                "span_id": "b",
                "name": "load",
                "start_time": 1772359200.5,
                "end_time": 1772359200.75,
                "status": "completed",
            },
            {"span_id": "c", "name": "check", "start_time": 1772359200.75, "end_time": None, "status": "running"},
        ],
    },
    # So the library ends a run that pauses.
    "end": {"status": "completed", "end_time": SAVED + timedelta(seconds=1), "total_cost": 0.5},
}
