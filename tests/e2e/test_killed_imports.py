"""``lens import`` into a server, whose process is killed, or the server: a second one goes on from there."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from cleaning import many
from servers import PostgresServer, RedisServer, postgres_server, redis_server, valkey_program
from stores import digests, digests_there
from support import Lens

SOAK = bool(os.environ.get("LENS_SOAK"))
ROUNDS, RUNS = (50, 400) if SOAK else (1, 150)
COUNTED = ("runs", "workflow_state", "steps", "spans")


class Target(NamedTuple):
    """A store on a server that may be killed, how it is emptied, and how many rows of each kind it has."""

    uri: str
    server: PostgresServer | RedisServer
    empty: Callable[[], object]
    counts: Callable[[], list[int]]


def _on_postgres(server: PostgresServer) -> Target:
    sql = f"SELECT {', '.join(f'(SELECT count(*) FROM imports.{table})' for table in COUNTED)}"
    drop = ("DROP SCHEMA IF EXISTS imports CASCADE", "CREATE SCHEMA imports", "SELECT 1")
    uri = f"{server.uri}&schema=imports"
    return Target(
        uri, server, lambda: server.once(server.uri, *drop), lambda: list(map(int, server.once(server.uri, sql)[0]))
    )


def _on_redis(server: RedisServer) -> Target:
    def counts() -> list[int]:
        keys = [key for key in server.call("KEYS", "i:*") if not key.startswith("i::lens:")]
        steps = [server.call("LLEN", key) for key in server.call("KEYS", "i::lens:step:*")]
        spans = [server.call("HLEN", key) - 1 for key in server.call("KEYS", "i::lens:span:*")]
        return [len(server.call("KEYS", "i::lens:run:*")), len(keys), sum(steps), sum(spans)]

    return Target(f"{server.uri}?prefix=i:", server, lambda: server.call("FLUSHALL"), counts)


@pytest.fixture(scope="module", params=["postgres", "redis"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """What the servers acknowledge outlives them."""
    if request.param == "postgres":
        pytest.importorskip("asyncpg")
        with postgres_server(16, is_safe=True) as postgres:
            yield _on_postgres(postgres)
    else:
        pytest.importorskip("redis")
        with redis_server(valkey_program(), appendonly="yes", appendfsync="no") as redis:
            yield _on_redis(redis)


@pytest.mark.parametrize("dies", ["process", "server"])
def test_a_killed_import_goes_on(lens: Lens, target: Target, dies: str) -> None:
    many(lens, RUNS)
    first = digests(lens.cwd / "flujo_ops.db")
    assert lens("export a.ndjson.gz").code == 0
    line = ["import", "a.ndjson.gz", "-s", target.uri, "--yes", "--timeout", "5"]
    target.empty()
    began = time.monotonic()
    assert lens.process(*line).code == 0
    whole = time.monotonic() - began
    counts = target.counts()
    assert min(counts) >= RUNS
    for _ in range(ROUNDS):
        target.empty()
        with lens.start(*line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            time.sleep(random.uniform(0.2, 1) * whole)
            if dies == "process":
                process.kill()
            else:
                target.server.kill()
            _, told = process.communicate(timeout=60)
        if dies == "server":
            assert process.returncode in (0, 5), told
            target.server.start()
        there = digests_there(target.uri)
        assert there.items() <= first.items()
        again = lens.process(*line, "-o", "json")
        assert again.code == 0, again.err
        assert (again.json["done"], again.json["unchanged"]) == (len(first) - len(there), len(there))
        assert digests(target.uri) == first
        assert target.counts() == counts
