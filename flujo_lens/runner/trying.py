"""One step's turn: the function is called, with a time limit, and again if it fails."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flujo_lens.runner.context import check_context, copied
from flujo_lens.runner.dsl import Step
from flujo_lens.runner.results import StepResult

__all__ = ["Turn", "told"]

_LONGEST_WAIT = 3600.0
"""Seconds before a retry, however often it was doubled."""

_MOST = 2**63
_RUNS_ON = "it may still be running: a plain function cannot be stopped; make it async"


class Turn:
    """The tries of one step.

    Args:
        step: A step with a function.

    Attributes:
        context: What the try that succeeded has made of the context; None before that.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.attempts = 0
        self.context: Any = None
        self.began = time.time()
        self._clock = time.monotonic()

    async def take(self, value: Any, context: Any) -> StepResult:
        """Call the function until it succeeds or its retries are used up; whatever it raises becomes a result.

        Each try gets a copy of `context`; that of the one that succeeded is `self.context` then, and has to fit its
        model. A failed try leaves nothing behind. A plain function that is over its time cannot be stopped: it runs
        on unheard, and is not tried again.

        Raises:
            asyncio.CancelledError, SystemExit, KeyboardInterrupt: the run itself is to end.
        """
        while True:
            self.attempts += 1
            try:
                async with asyncio.timeout(self.step.timeout) as limit:
                    output = await self._try(value, context)
            except Exception as error:  # noqa: BLE001 - the application's, whatever it is
                over = limit.expired()
                runs_on = over and not _is_async(self.step.function)
                reason = self._over(runs_on) if over else told(error)
                if self.attempts > self.step.retries or runs_on:
                    return self.failed(reason)
            else:
                return self._done(output)
            await asyncio.sleep(self._wait())

    def failed(self, reason: str) -> StepResult:
        """The result of a step that did not succeed."""
        return StepResult(self.step.name, None, False, self.attempts, self._seconds(), feedback=reason)

    def _done(self, output: Any) -> StepResult:
        tokens, cost = _number(output, "token_counts"), _number(output, "cost_usd")
        return StepResult(self.step.name, output, True, self.attempts, self._seconds(), int(tokens), cost)

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


def told(error: BaseException) -> str:
    """An exception in a line: its type and what it says."""
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _number(output: Any, name: str) -> float:
    """What an output says that it cost; 0 if it does not."""
    value = getattr(output, name, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _MOST else 0.0


async def _in_thread(work: Callable[[], Any], name: str) -> Any:
    """Return ``work()``, done on a thread of its own that neither keeps the loop nor the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    inside = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(RuntimeError(told(error)) if isinstance(error, StopIteration) else error)

    def body() -> None:
        result, error = None, None
        try:
            result = inside.run(work)
        except BaseException as caught:  # noqa: BLE001 - it is the waiting coroutine's
            error = caught
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name=f"step-{name}", daemon=True).start()
    return await future
