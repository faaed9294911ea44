"""Redis: the server dies in the middle, or an answer is lost. What was acknowledged is there, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers import RedisServer, redis_server, valkey_program
from test_redis import use, whole

from flujo_lens.errors import LensError, RunHeldError, UnreachableStoreError
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.claims import Holder
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter

SOAK = "LENS_SOAK" in os.environ
ROUNDS = 50 if SOAK else 5
PREFIX = "f:"


@pytest.fixture(scope="module")
def safe() -> Iterator[RedisServer]:
    """A server that may be killed: it has handed over to the kernel what it acknowledges."""
    with redis_server(valkey_program(), appendonly="yes", appendfsync="no") as server:
        yield server


# --- the server dies


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_acknowledged_saves_outlive_the_server(safe: RedisServer, round_: int) -> None:
    chance = random.Random(round_)
    safe.call("FLUSHALL")
    saved: dict[str, int] = {}

    async def save(backend: RedisBackend, run_id: str) -> None:
        for number in range(1_000):
            await again(lambda: backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": number}))  # noqa: B023
            await again(lambda: backend.save_state(run_id, {"status": "running", "pipeline_context": {"n": number}}))  # noqa: B023
            saved[run_id] = number

    async def again(call: Callable[[], Awaitable[None]]) -> None:
        """As an application does it: what was not sent is sent again, if the server comes back."""
        while True:
            try:
                return await call()
            except UnreachableStoreError as error:
                if stays_away or "not known" in error.message:
                    raise
            await asyncio.sleep(0.01)

    async def work(backend: RedisBackend) -> None:
        savers = [asyncio.create_task(save(backend, f"run-{number}")) for number in range(3)]
        while min(saved.values(), default=0) < 2 or len(saved) < 3:
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.random() * 0.03)
        await asyncio.to_thread(safe.kill)
        if not stays_away:
            await asyncio.to_thread(safe.start)
        await asyncio.wait(savers, timeout=30 if stays_away else 0.6)
        if stays_away:
            assert all(isinstance(saver.exception(), UnreachableStoreError) for saver in savers)
        for saver in savers:
            saver.cancel()
        await asyncio.gather(*savers, return_exceptions=True)

    stays_away = round_ % 2 == 0
    use(f"{safe.uri}?prefix={PREFIX}", work, timeout=0.4)
    if stays_away:
        safe.start()

    async def look(backend: RedisBackend) -> None:
        for run_id, number in saved.items():
            state, run = await backend.load_state(run_id), await backend.read_run(run_id)
            assert state is not None
            assert run is not None
            rows = (await backend._server.ask([("LRANGE", f"{PREFIX}:lens:step:{run_id}", 0, -1)]))[0]
            steps = [json.loads(row)["step_index"] for row in rows]
            assert state["pipeline_context"]["n"] in (number, number + 1)
            assert steps in (list(range(number + 1)), list(range(number + 2)))

    use(f"{safe.uri}?prefix={PREFIX}", look)
    assert set(whole(safe, PREFIX)) == set(saved)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_prune_that_the_server_did_not_outlive(safe: RedisServer, round_: int) -> None:
    """Each run is there whole or gone whole, and what was said to be gone is."""
    safe.call("FLUSHALL")
    uri, count, gone = f"{safe.uri}?prefix={PREFIX}", 24, set[str]()

    async def fill(backend: RedisBackend) -> None:
        for number in range(count):
            run_id, old = f"run-{number}", f"2026-01-01T00:00:{number:02}+00:00"
            await backend.save_run_start({"run_id": run_id, "created_at": old, "updated_at": old})
            await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0, "created_at": old})
            await backend.save_state(run_id, {"status": "completed", "created_at": old, "updated_at": old})

    async def prune(backend: RedisBackend) -> None:
        now = datetime.now(UTC)
        plan = await backend.plan_deletion(DeletionRequest(now=now, cutoff=now - timedelta(days=1)))
        assert plan.count == count
        after = random.Random(round_).randrange(1, 9)
        killing: asyncio.Future[None] | None = None
        async for deleted in backend.delete_planned(plan, keep=lambda records: None, batch_size=2):
            gone.update(deleted.run_ids)
            if len(gone) >= 2 * after and killing is None:
                killing = asyncio.ensure_future(asyncio.to_thread(safe.kill))

    use(uri, fill)
    with pytest.raises(LensError):
        use(uri, prune, timeout=0.3)
    safe.start()
    left = whole(safe, PREFIX)
    assert not gone & set(left)
    assert len(left) <= count - len(gone)
    names = safe.call("KEYS", f"{PREFIX}*")
    for kind in ("run", "step"):
        assert {name.rpartition(":")[2] for name in names if f":lens:{kind}:" in name} == set(left)


# --- the answer is lost


class Wire:
    """A socket before the server's that does to the packets that commit something what is planned, in order.

    ``lost``: the server does it, and the answer does not come. ``cut``: it does not reach the server. ``late``: the
    connection is cut, and the packet arrives when the next was answered. ``between``: it arrives just before the
    next one.
    """

    def __init__(self, server: RedisServer, path: str) -> None:
        self._server, self._path = server, path
        self.plan: list[str] = []
        self.done: list[str] = []
        self._held: list[tuple[str, bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with await asyncio.start_unix_server(self._serve, self._path):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(self._server.folder / "s"))
        back = asyncio.create_task(self._pump(up_reader, writer))
        try:
            while data := await reader.read(1_000_000):
                if b"PX" not in data or not (b"\r\nEXEC\r\n" in data or b"\r\nEVAL" in data):
                    up_writer.write(data)
                elif not self.plan:
                    await self._deliver("between")
                    up_writer.write(data)
                    await self._deliver("late")
                else:
                    await self._act(self.plan.pop(0), data, back, up_reader, up_writer)
                    return
        finally:
            back.cancel()
            writer.close()
            if not any(up_writer is held[3] for held in self._held):
                up_writer.close()

    async def _act(
        self, fault: str, data: bytes, back: asyncio.Task[None], up: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        back.cancel()
        await asyncio.wait([back])
        if fault == "lost":
            writer.write(data)
            await up.read(100_000)
        if fault in ("lost", "cut"):
            self.done.append(fault)
        else:
            self._held.append((fault, data, up, writer))

    async def _deliver(self, fault: str) -> None:
        """Let the packets arrive that were held back, and be answered."""
        for held in [held for held in self._held if held[0] == fault]:
            self._held.remove(held)
            if fault == "late":
                await asyncio.sleep(0.05)
            held[3].write(held[1])
            await asyncio.wait_for(held[2].read(100_000), 5)
            held[3].close()
            self.done.append(fault)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1_000_000):
            writer.write(data)
        writer.close()


async def _step(backend: RedisBackend) -> Any:
    await backend.save_step_result({"run_id": "r", "step_name": "s", "step_index": 0})
    return await backend._server.ask([("LLEN", f"{PREFIX}:lens:step:r")])


async def _evaluation(backend: RedisBackend) -> Any:
    await backend.persist_evaluation("r", 0.5)
    return [row["score"] for row in await backend.list_evaluations()]


async def _span(backend: RedisBackend) -> Any:
    await backend.save_spans("r", [{"span_id": "a", "name": "n", "start_time": 1.0}])
    return [span["span_id"] for span in await backend.get_spans("r")]


async def _claim(backend: RedisBackend) -> Any:
    claim = await backend.claim_run("r", Holder.current(), 30)
    held = (await backend.read_claims())["r"]
    with pytest.raises(RunHeldError):
        await backend.claim_run("r", Holder.current(), 30)
    return claim == held


async def _deletion(backend: RedisBackend) -> Any:
    now = datetime.now(UTC)
    plan = await backend.plan_deletion(DeletionRequest(now=now, run_ids=("r", "q"), force=True))
    deleted = [one async for one in backend.delete_planned(plan)]
    return sum(len(one.run_ids) for one in deleted), [run.run_id async for run in backend.iter_runs(RunFilter())]


CALLS: dict[str, tuple[Callable[[RedisBackend], Awaitable[Any]], Any]] = {
    "step": (_step, [1]),
    "evaluation": (_evaluation, [0.5]),
    "span": (_span, ["a"]),
    "claim": (_claim, True),
    "deletion": (_deletion, (2, [])),
}
FAULTS = [["lost"], ["cut"], ["late"], ["between"], ["cut", "late"], ["late", "between"]]


@pytest.mark.parametrize("call", CALLS)
def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(valkey: RedisServer, call: str) -> None:
    work, wanted = CALLS[call]

    async def run() -> None:
        wire = Wire(valkey, str(valkey.folder / "wire"))
        async with (
            wire.open(),
            RedisBackend(f"redis+unix://{valkey.folder}/wire?prefix={PREFIX}", timeout=5) as backend,
        ):
            for faults in FAULTS * (3 if SOAK else 1):
                await asyncio.to_thread(valkey.call, "FLUSHALL")
                for run_id in ("r", "q"):
                    await backend.save_state(run_id, {"status": "running"})
                wire.plan, wire.done = list(faults), []
                assert await work(backend) == wanted, faults
                assert sorted(wire.done) == sorted(faults)
                await asyncio.to_thread(whole, valkey, PREFIX)

    asyncio.run(run())
