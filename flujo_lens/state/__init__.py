"""Workflow states: the model, the views, the drivers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.models import WorkflowState

__all__ = ["StateBackend", "WorkflowState"]

_MODULES = {"StateBackend": "flujo_lens.state.backends.base", "WorkflowState": "flujo_lens.state.models"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
