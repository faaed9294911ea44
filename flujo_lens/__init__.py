"""flujo-lens: look into, repair and clean up the state stores of durable workflows.

Names are resolved on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flujo_lens._version import __version__

if TYPE_CHECKING:
    from flujo_lens.errors import LensError
    from flujo_lens.runner.context import PipelineContext
    from flujo_lens.runner.dsl import Pipeline, Step, step
    from flujo_lens.runner.engine import Flujo
    from flujo_lens.runner.incompatibility import StateIncompatibilityError
    from flujo_lens.runner.registry import PipelineRegistry
    from flujo_lens.runner.results import PipelineResult, StepResult
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.backends.file import FileBackend
    from flujo_lens.state.backends.memory import InMemoryBackend
    from flujo_lens.state.backends.sqlite import SQLiteBackend
    from flujo_lens.state.models import WorkflowState
    from flujo_lens.state.registry import open_backend
    from flujo_lens.state.views import RunFilter, RunSummary

__all__ = [
    "FileBackend",
    "Flujo",
    "InMemoryBackend",
    "LensError",
    "Pipeline",
    "PipelineContext",
    "PipelineRegistry",
    "PipelineResult",
    "RunFilter",
    "RunSummary",
    "SQLiteBackend",
    "StateBackend",
    "StateIncompatibilityError",
    "Step",
    "StepResult",
    "WorkflowState",
    "__version__",
    "open_backend",
    "step",
]

_MODULES = {
    "FileBackend": "flujo_lens.state.backends.file",
    "Flujo": "flujo_lens.runner.engine",
    "InMemoryBackend": "flujo_lens.state.backends.memory",
    "LensError": "flujo_lens.errors",
    "Pipeline": "flujo_lens.runner.dsl",
    "PipelineContext": "flujo_lens.runner.context",
    "PipelineRegistry": "flujo_lens.runner.registry",
    "PipelineResult": "flujo_lens.runner.results",
    "RunFilter": "flujo_lens.state.views",
    "RunSummary": "flujo_lens.state.views",
    "SQLiteBackend": "flujo_lens.state.backends.sqlite",
    "StateBackend": "flujo_lens.state.backends.base",
    "StateIncompatibilityError": "flujo_lens.runner.incompatibility",
    "Step": "flujo_lens.runner.dsl",
    "StepResult": "flujo_lens.runner.results",
    "WorkflowState": "flujo_lens.state.models",
    "open_backend": "flujo_lens.state.registry",
    "step": "flujo_lens.runner.dsl",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
