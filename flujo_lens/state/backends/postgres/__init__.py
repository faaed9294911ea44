"""The driver for PostgreSQL (extra ``postgres``: asyncpg)."""

from flujo_lens.state.backends.postgres.backend import PostgresBackend

__all__ = ["PostgresBackend"]
