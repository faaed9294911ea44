"""The SQLite driver."""

from flujo_lens.state.backends.sqlite.backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
