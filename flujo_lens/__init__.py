"""flujo-lens: look into, repair and clean up the state stores of durable workflows.

Names are resolved on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flujo_lens._version import __version__

if TYPE_CHECKING:
    from flujo_lens.errors import LensError
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.backends.file import FileBackend
    from flujo_lens.state.backends.memory import InMemoryBackend
    from flujo_lens.state.backends.sqlite import SQLiteBackend
    from flujo_lens.state.models import WorkflowState
    from flujo_lens.state.registry import open_backend
    from flujo_lens.state.views import RunFilter, RunSummary

__all__ = [
    "FileBackend",
    "InMemoryBackend",
    "LensError",
    "RunFilter",
    "RunSummary",
    "SQLiteBackend",
    "StateBackend",
    "WorkflowState",
    "__version__",
    "open_backend",
]

_MODULES = {
    "FileBackend": "flujo_lens.state.backends.file",
    "InMemoryBackend": "flujo_lens.state.backends.memory",
    "LensError": "flujo_lens.errors",
    "RunFilter": "flujo_lens.state.views",
    "RunSummary": "flujo_lens.state.views",
    "SQLiteBackend": "flujo_lens.state.backends.sqlite",
    "StateBackend": "flujo_lens.state.backends.base",
    "WorkflowState": "flujo_lens.state.models",
    "open_backend": "flujo_lens.state.registry",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
