"""The contract and its drivers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.backends.file import FileBackend
    from flujo_lens.state.backends.memory import InMemoryBackend
    from flujo_lens.state.backends.postgres import PostgresBackend
    from flujo_lens.state.backends.redis import RedisBackend
    from flujo_lens.state.backends.sqlite import SQLiteBackend

__all__ = ["FileBackend", "InMemoryBackend", "PostgresBackend", "RedisBackend", "SQLiteBackend", "StateBackend"]

_MODULES = {
    "FileBackend": "flujo_lens.state.backends.file",
    "InMemoryBackend": "flujo_lens.state.backends.memory",
    "PostgresBackend": "flujo_lens.state.backends.postgres",
    "RedisBackend": "flujo_lens.state.backends.redis",
    "SQLiteBackend": "flujo_lens.state.backends.sqlite",
    "StateBackend": "flujo_lens.state.backends.base",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
