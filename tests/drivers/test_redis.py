"""The Redis driver on real servers: Valkey 9, and the heart of it on Redis 6.2; with LENS_SOAK all of it on both."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from servers import RedisServer

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.testing.claim_checks import ClaimChecks
from flujo_lens.testing.contract import BackendContract
from flujo_lens.testing.deletion_checks import DeletionChecks

pytest.importorskip("redis")
T = TypeVar("T")
SOAK = "LENS_SOAK" in os.environ


class _Slice(ClaimChecks, DeletionChecks):
    """What locks and deletes."""


Sliced: Any = BackendContract if SOAK else _Slice


class _Contract:
    """How the suite gets its stores: a server that is emptied before each check."""

    many_loops = True
    uri = ""

    async def new_backend(self) -> StateBackend:
        return RedisBackend(self.uri)

    async def reopen(self) -> StateBackend:
        return RedisBackend(self.uri)

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return RedisBackend(self.uri, serializer_default=serializer_default)


class TestContractOnValkey(_Contract, BackendContract):
    """Every check of the suite."""

    @pytest.fixture(autouse=True)
    def _store(self, valkey: RedisServer) -> None:
        valkey.call("FLUSHALL")
        self.uri = f"{valkey.uri}?prefix=lens:"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the wheel of Redis 6.2 ends with Python 3.12")
class TestContractOnRedis6(_Contract, Sliced):
    """The checks that ask most of the engine; the others in the long rounds."""

    @pytest.fixture(autouse=True)
    def _store(self, redis6: RedisServer) -> None:
        redis6.call("FLUSHALL")
        self.uri = redis6.uri
