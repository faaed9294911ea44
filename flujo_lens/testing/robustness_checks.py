"""What has to hold when something goes wrong: no key, no store, a process that dies; and what a page may cost."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import SkipTest

from flujo_lens.errors import LensError, NotSupportedError, SealedStateError
from flujo_lens.serialization import safe_serialize
from flujo_lens.serialization.codec import SEALED
from flujo_lens.state.backends.base import StateBackend, overrides
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness, equal, on_nothing, on_samples
from flujo_lens.testing.samples import plain_state

_SECRET = "sealed-4711"
_HOUR = timedelta(hours=1)
_RUNS = 6

_DYING = """
import asyncio, json, os, sys, threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

DIE_AT, KEPT = int(sys.argv[1]), sys.argv[2]
{source}
import flujo_lens
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.deletion import DeletionRequest

ROOTS = tuple({{os.path.dirname(flujo_lens.__file__), os.path.dirname(sys.modules[type(backend).__module__].__file__)}})
count = 0

def trace(frame, event, _):
    global count
    if not frame.f_code.co_filename.startswith(ROOTS):
        return None
    if event == "line":
        count += 1
        if count == DIE_AT:
            os._exit(9)
    return trace

def keep(records):
    with open(KEPT, "a") as file:
        file.writelines(json.dumps(record) + "\\n" for record in records)
        file.flush()
        os.fsync(file.fileno())

async def main():
    async with backend:
        now = datetime.now(UTC)
        plan = await backend.plan_deletion(DeletionRequest(now, now + timedelta(hours=1)))
        threading.settrace(trace)
        sys.settrace(trace)
        async for _ in backend.delete_planned(plan, keep=keep, batch_size=2):
            pass
        sys.settrace(None)
        threading.settrace(None)

asyncio.run(main())
print(count)
"""


class RobustnessChecks(Harness):
    """What the hooks below make possible; the tests of a hook that is missing are skipped."""

    async def new_sealed_backend(self, envelope: Any) -> StateBackend:
        """`new_backend`, with this ``envelope``, where the constructor takes one."""
        raise SkipTest("the driver has no envelope")

    async def broken_backend(self) -> StateBackend:
        """Return a backend on a store that cannot be used: damaged, or on a server that is not there."""
        raise SkipTest("no broken store is made")

    def queries(self) -> int:
        """Return how many calls the engine has had so far from the backend of the test: statements, files opened."""
        raise SkipTest("calls of the engine are not counted")

    def in_another_process(self) -> str:
        """Return Python source that opens the store of the last `new_backend` as ``backend``, in a new process."""
        raise SkipTest("the store cannot be opened by another process")

    # --- sealed fields

    async def _without_key(self) -> StateBackend:
        from flujo_lens.serialization.envelope import Envelope
        from flujo_lens.serialization.keys import KeyRing

        try:
            envelope = Envelope(keys=KeyRing({"one": bytes(range(32))}))
        except LensError as error:
            raise SkipTest(str(error)) from error
        async with await self.new_sealed_backend(envelope) as backend:
            await backend.save_state("r", plain_state("r", "failed", pipeline_context={"word": _SECRET}))
            await backend.save_step_result({"run_id": "r", "step_name": "load", "step_index": 0, "output": [_SECRET]})
            await backend.save_spans(
                "r", [{"span_id": "a", "name": "load", "start_time": 1.0, "attributes": {_SECRET: 1}}]
            )
            equal((await backend.load_state("r") or {})["pipeline_context"], {"word": _SECRET}, "what the key opens")
            equal((await backend.get_spans("r"))[0]["attributes"], {_SECRET: 1}, "what the key opens of a span")
        return await self.reopen()

    def test_what_is_sealed_stays_so_without_the_key(self) -> None:
        """A list and a detail show the rest; a read of sealed data gets an error that says so."""

        async def check() -> None:
            self._now = datetime.now(UTC)
            async with await self._without_key() as backend:
                runs = [run async for run in backend.iter_runs(RunFilter())]
                equal([(run.run_id, run.status) for run in runs], [("r", "failed")], "the list")
                detail = await backend.read_run("r")
                assert detail is not None
                equal([step.step_name for step in detail.steps], ["load"], "the steps")
                shown = repr((detail, runs, await backend.read_spans("r")))
                equal((_SECRET in shown, SEALED in shown), (False, True), "whether the secret, and a mark, are shown")
                for call in (backend.load_state, backend.list_run_steps, backend.get_spans):
                    await _raises(call("r"), SealedStateError, call.__name__)

        self._needs_history()
        _unless_missing(self, check)

    # --- a store that cannot be used

    def test_no_error_of_the_engine_gets_out(self) -> None:
        """Every method of a broken store raises an error of ours, which says something."""

        async def check() -> None:
            backend = await self.broken_backend()
            try:
                for name, call in _CALLS.items():
                    await _raises(call(backend), LensError, name)
            finally:
                await backend.shutdown()

        asyncio.run(check())

    # --- what a page costs

    @on_nothing
    async def test_a_page_costs_as_much_in_a_larger_store(self, backend: StateBackend) -> None:
        self.queries()

        async def cost() -> int:
            before = self.queries()
            page = await backend.query_runs(RunFilter(), limit=5)
            equal(len(page.items), 5, "the runs of a page")
            return self.queries() - before

        await self._save(backend, range(20))
        small = await cost()
        await self._save(backend, range(20, 200))
        large = await cost()
        if large > small + 1:
            raise AssertionError(f"a page of 5 runs takes {small} calls of 20 runs, and {large} of 200")

    async def _save(self, backend: StateBackend, numbers: range) -> None:
        for number in numbers:
            at = (self._now - timedelta(minutes=number)).isoformat()
            await backend.save_state(f"r-{number:03}", {**plain_state(f"r-{number:03}", "completed"), "created_at": at})

    # --- repairs

    @on_samples
    async def test_a_repair_loses_nothing(self, backend: StateBackend) -> None:
        if not overrides(type(backend), "check"):
            raise SkipTest("the driver has nothing to check")
        before = await _snapshot(backend)
        found = await backend.check(datetime.now(UTC), _HOUR, full=True)
        equal(len({finding.check for finding in found}), len(found), "the names of checks")
        wanted = [finding.check for finding in found if finding.repair is not None]
        done = await backend.repair(wanted or [finding.check for finding in found])
        equal({each.check for each in done} - {finding.check for finding in found}, set(), "repairs without a check")
        equal(await _snapshot(backend), before, "the store after its repair")
        again = await backend.check(datetime.now(UTC), _HOUR, full=True)
        equal([finding.check for finding in again if finding.repair is not None], [], "what is left to repair")

    # --- a process that dies

    def test_a_deletion_that_dies_on_any_line(self) -> None:
        """Each run is there whole or gone whole, and what is gone was kept; the next deletion goes on."""

        async def check() -> None:
            self._now = datetime.now(UTC)
            async with await self.new_backend() as backend:
                await self._fill_with_runs(backend)
                before = await _snapshot(backend)
            source = _DYING.format(source=self.in_another_process())
            with tempfile.TemporaryDirectory() as folder:
                kept = Path(folder) / "kept.ndjson"
                kept.touch()
                for line in _lines():
                    _run(source, line, kept)
                    await self._check_whole(before, kept)
                _run(source, 0, kept)
            async with await self.reopen() as backend:
                equal(await _snapshot(backend), {}, "the store in the end")

        _unless_missing(self, check)

    async def _fill_with_runs(self, backend: StateBackend) -> None:
        for number in range(_RUNS):
            run_id = f"run-{number}"
            await backend.save_state(run_id, plain_state(run_id, "completed"))
            if not self.states_only:
                await backend.save_step_result(
                    {"run_id": run_id, "step_name": "load", "step_index": 0, "output": number}
                )
                await backend.save_spans(run_id, [{"span_id": "a", "name": "load", "start_time": 1.0}])

    async def _check_whole(self, before: Mapping[str, Any], kept: Path) -> None:
        records = [json.loads(line) for line in kept.read_bytes().splitlines()]
        whole = {record["run_id"] for record in records if record.get("last")}
        async with await self.reopen() as backend:
            left = await _snapshot(backend)
        for run_id, found in left.items():
            equal(found, before[run_id], f"what is left of {run_id}")
        equal(set(before) - set(left) - whole, set(), "runs that are gone and were not kept")


def _unless_missing(harness: Harness, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a check; skip it where a driver that is not `complete` lacks a method."""
    try:
        asyncio.run(check())
    except NotSupportedError as error:
        if harness.complete:
            raise
        raise SkipTest(str(error)) from error


def _lines() -> list[int]:
    """Where a deletion is to die: some lines from its beginning to its end. The batches make it shorter each time."""
    few = 24 if "LENS_SOAK" in os.environ else 4
    return [1, *(40 * 3**step for step in range(few // 4)), *(200 + 170 * step for step in range(few))]


def _run(source: str, line: int, kept: Path) -> None:
    command = [sys.executable, "-c", source, str(line), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 9):
        raise AssertionError(f"a deletion that was to die on line {line} ended with {done.returncode}: {done.stderr}")


async def _snapshot(backend: StateBackend) -> dict[str, Any]:
    """What the store says of every run."""
    return {
        run.run_id: safe_serialize((await backend.load_state(run.run_id), await backend.read_run(run.run_id)))
        async for run in backend.iter_runs(RunFilter())
    }


async def _raises(work: Awaitable[Any], kind: type[LensError], what: str) -> None:
    try:
        found = await work
    except kind as error:
        if not str(error):
            raise AssertionError(f"the error of {what} says nothing") from error
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__module__}.{type(error).__qualname__}: {error}") from error
    else:
        raise AssertionError(f"{what} gives {found!r}, should raise {kind.__name__}")


async def _all(backend: StateBackend) -> list[Any]:
    return [run async for run in backend.iter_runs(RunFilter())]


_CALLS: Mapping[str, Callable[[StateBackend], Awaitable[Any]]] = {
    "save_state": lambda backend: backend.save_state("r", plain_state("r", "completed")),
    "load_state": lambda backend: backend.load_state("r"),
    "delete_state": lambda backend: backend.delete_state("r"),
    "iter_runs": _all,
    "query_runs": lambda backend: backend.query_runs(RunFilter()),
    "count_runs": lambda backend: backend.count_runs(RunFilter()),
    "read_run": lambda backend: backend.read_run("r"),
    "find_run_ids": lambda backend: backend.find_run_ids("r"),
    "plan_deletion": lambda backend: backend.plan_deletion(DeletionRequest(datetime.now(UTC), datetime.now(UTC))),
}
