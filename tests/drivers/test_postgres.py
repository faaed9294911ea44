"""The PostgreSQL driver on real servers, 16 and 18."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from servers import postgres_server

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.testing.contract import BackendContract

asyncpg = pytest.importorskip("asyncpg")
_NUMBERS = count()


@pytest.fixture(scope="module", params=[16, 18])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a server."""
    with postgres_server(request.param) as uri:
        yield uri


def execute(uri: str, *statements: str) -> Any:
    """Run statements on a connection of their own; the rows of the last."""

    async def run() -> Any:
        connection = await asyncpg.connect(uri)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetch(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


class TestContract(BackendContract):
    """Every check of the suite, each in a schema of its own."""

    many_loops = True

    @pytest.fixture(autouse=True)
    def _schema(self, server: str) -> Iterator[None]:
        name = f"s{next(_NUMBERS)}"
        execute(server, f"CREATE SCHEMA {name}")
        self.uri = f"{server}&schema={name}"
        yield
        execute(server, f"DROP SCHEMA {name} CASCADE")

    async def new_backend(self) -> StateBackend:
        return PostgresBackend(self.uri)

    async def reopen(self) -> StateBackend:
        return PostgresBackend(self.uri)

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return PostgresBackend(self.uri, serializer_default=serializer_default)
