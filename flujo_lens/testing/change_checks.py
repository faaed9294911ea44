"""The change token: equal while nothing happens, another after every write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from unittest import SkipTest

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Holder
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, ids_of, on_samples
from flujo_lens.testing.samples import BASE

_LONGEST, _PAUSE = 60, 0.1
"""Looks at a store until its token stays the same, and seconds between two: times of files are coarse."""
_WHEN = BASE.isoformat()


class ChangeChecks(Harness):
    """What `read_change_token` gives."""

    @on_samples
    async def test_the_change_token_stays_the_same_while_nothing_is_written(self, backend: StateBackend) -> None:
        token = await _settled(backend)
        await ids_of(backend.iter_runs(RunFilter()))
        for sample in self.samples[:3]:
            await backend.read_run(sample.run_id)
        equal(await backend.read_change_token(), token, "read_change_token() after reading")

    @on_samples
    async def test_the_change_token_tells_of_every_write(self, backend: StateBackend) -> None:
        for what, write in self._writes(backend):
            before = await _settled(backend)
            try:
                await write()
            except NotSupportedError:
                continue
            equal(await backend.read_change_token() != before, True, f"read_change_token() tells of {what}")

    @on_samples
    async def test_the_change_token_tells_of_what_others_write(self, backend: StateBackend) -> None:
        before = await _settled(backend)
        async with await self.reopen() as other:
            await other.save_state("order-1", {"status": "running", "created_at": _WHEN, "updated_at": _WHEN})
        equal(await backend.read_change_token() != before, True, "read_change_token() tells of another's save")

    def _writes(self, backend: StateBackend) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
        state = {"status": "running", "created_at": _WHEN, "updated_at": _WHEN}
        step = {"run_id": "new", "step_name": "a", "step_index": 0, "status": "completed"}
        span = {"span_id": "s", "parent_span_id": None, "name": "a", "start_time": 1.0, "end_time": 2.0}
        span = {**span, "status": "completed"}
        saves: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("save_state", lambda: backend.save_state("new", state)),
            ("delete_state", lambda: backend.delete_state("new")),
        ]
        if self.states_only:
            return saves
        return [
            ("save_run_start", lambda: backend.save_run_start({"run_id": "new", "status": "running"})),
            ("save_step_result", lambda: backend.save_step_result(step)),
            ("save_spans", lambda: backend.save_spans("new", [span])),
            ("save_spans in place of others", lambda: backend.save_spans("new", [{**span, "end_time": 3.0}])),
            ("save_run_end", lambda: backend.save_run_end("new", {"status": "failed"})),
            ("persist_evaluation", lambda: backend.persist_evaluation("new", 0.5)),
            ("set_system_state", lambda: backend.set_system_state("key", {"a": 1})),
            ("claim_run", lambda: backend.claim_run("new", Holder.current(), 30.0)),
            *saves,
            ("delete_run", lambda: backend.delete_run("new")),
        ]


async def _settled(backend: StateBackend) -> Hashable:
    """The token once it stays the same: just after a write it may change by itself."""
    token = await backend.read_change_token()
    if token is None:
        raise SkipTest("the driver does not tell whether anything has changed")
    for _ in range(_LONGEST):
        await asyncio.sleep(_PAUSE)
        before, token = token, await backend.read_change_token()
        if token == before:
            return token
    raise AssertionError(f"read_change_token() never stays the same, though nothing is written: {token!r}")
