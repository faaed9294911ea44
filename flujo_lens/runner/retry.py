"""Attempts of a step: calls its function in a separate task, with a timeout and retries."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from flujo_lens.runner.application_code import IN_STEP, clean_up, describe, end_child, is_signal
from flujo_lens.runner.context import check_context, copied
from flujo_lens.runner.dsl import Step
from flujo_lens.runner.results import StepResult

_LONGEST_WAIT = 3600.0
"""Maximum seconds before a retry."""

_MOST = 2**63
_RUNS_ON = "it may still be running, since a plain function cannot be stopped; make it async"


class _Try(NamedTuple):
    """The outcome of an attempt: a result, or an error."""

    result: StepResult | None
    error: BaseException | None


def step_context() -> contextvars.Context:
    """The `contextvars` context of the steps of a run; variables set by a step are visible to later ones."""
    made = contextvars.copy_context()
    made.run(IN_STEP.set, True)
    return made


class Turn:
    """The attempts of a step.

    Args:
        step: A step with a function.
        inside: The result of `step_context`.

    Attributes:
        context: The context after the successful attempt; None before it.
    """

    def __init__(self, step: Step, inside: contextvars.Context | None = None) -> None:
        self.step = step
        self.attempts = 0
        self.context: Any = None
        self.began = time.time()
        self._clock = time.monotonic()
        self._inside = step_context() if inside is None else inside

    async def take(self, value: Any, context: Any) -> StepResult:
        """Call the function until it succeeds or there are no more retries; exceptions become a failed result.

        Each attempt gets a copy of `context`; that of the successful attempt becomes `self.context` and must fit its
        model. A failed attempt has no effect. A plain function that times out cannot be stopped: it runs on, its result
        is ignored, and it is not retried.

        Each attempt is a separate task, so that cancellations by the function can be distinguished from those of the
        run.

        Raises:
            asyncio.CancelledError, KeyboardInterrupt: the run is cancelled or interrupted.
        """
        task = asyncio.current_task()
        assert task is not None
        wishes = task.cancelling()
        while True:
            self.attempts += 1
            child = asyncio.Task(self._guarded(value, context), loop=asyncio.get_running_loop(), context=self._inside)
            over = await _ended(child, self.step.timeout)
            result, error = _Try(None, asyncio.CancelledError()) if child.cancelled() else child.result()
            if result is not None:
                return result
            assert error is not None
            if is_signal(error):
                raise error
            if task.cancelling() > wishes:
                raise asyncio.CancelledError
            runs_on = over and not _is_async(self.step.function)
            if self.attempts > self.step.retries or runs_on:
                return self.failed(self._over(runs_on) if over else describe(error))
            await asyncio.sleep(self._wait())

    async def _guarded(self, value: Any, context: Any) -> _Try:
        """Make an attempt; never raises, and never returns in a child process."""
        pid = os.getpid()
        try:
            made = _Try(self._done(await self._try(value, context)), None)
        except BaseException as error:  # noqa: BLE001 - the application's, whatever it is
            made = _Try(None, error)
        end_child(pid, made.error)
        clean_up()
        return made

    def failed(self, reason: str) -> StepResult:
        """The result of a failed step."""
        return StepResult(self.step.name, None, False, self.attempts, self._seconds(), feedback=reason)

    def _done(self, output: Any) -> StepResult:
        seconds = self._seconds()
        tokens, cost = _number(output, "token_counts"), _number(output, "cost_usd")
        return StepResult(self.step.name, output, True, self.attempts, seconds, int(tokens), cost)

    def _seconds(self) -> float:
        return time.monotonic() - self._clock

    def _wait(self) -> float:
        doubled = min(self.attempts - 1, 64)
        return float(min(self.step.backoff * 2**doubled, _LONGEST_WAIT))

    def _over(self, runs_on: bool) -> str:
        reason = f"timed out after {self.step.timeout:g} s"
        return f"{reason}; {_RUNS_ON}" if runs_on else reason

    async def _try(self, value: Any, context: Any) -> Any:
        if not self.step.takes_context(type(context)):
            self.context = context
            return await self._call(value, context)
        own = copied(context)
        output = await self._call(value, own)
        check_context(own)
        self.context = own
        return output

    async def _call(self, value: Any, context: Any) -> Any:
        function = self.step.function
        assert function is not None
        signature = self.step.signature
        assert signature is not None
        arguments, named = signature.arguments(value, context)
        if _is_async(function):
            return await function(*arguments, **named)
        made = await _in_thread(lambda: function(*arguments, **named), self.step.name)
        return await made if inspect.isawaitable(made) else made


async def _ended(child: asyncio.Task[Any], timeout: float | None) -> bool:
    """Wait for a task, and cancel it at the timeout or if this task is cancelled; return whether it timed out.

    A cancellation of this task is passed on and not raised here; `Task.cancelling` still shows it.
    """
    over = False
    while not child.done():
        try:
            done, _ = await asyncio.wait([child], timeout=None if over else timeout)
        except asyncio.CancelledError:
            child.cancel()
            continue
        if not done:
            over = child.cancel()
    return over


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _number(output: Any, name: str) -> float:
    """A number in an output, such as its cost; 0 without one."""
    value = getattr(output, name, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _MOST else 0.0


async def _in_thread(work: Callable[[], Any], name: str) -> Any:
    """Run ``work()`` on a daemon thread, and return its value."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    inside, pid = contextvars.copy_context(), os.getpid()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(RuntimeError(describe(error)) if isinstance(error, StopIteration) else error)

    def body() -> None:
        result, error = None, None
        try:
            result = inside.run(work)
        except BaseException as caught:  # noqa: BLE001 - it is the waiting coroutine's
            error = caught
        end_child(pid, error)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name=f"step-{name}", daemon=True).start()
    return await future
