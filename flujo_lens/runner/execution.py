"""Runs the steps of a record one after the other, and saves after each."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple

from flujo_lens.errors import BusyError, LensError, LostClaimError
from flujo_lens.runner.application_code import application_code, as_exception, describe, end_child
from flujo_lens.runner.dsl import HUMAN
from flujo_lens.runner.results import ContextT, StepResult
from flujo_lens.runner.retry import Turn, step_context
from flujo_lens.runner.run_record import Record
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim, Progress

__all__ = ["Answer", "Execution"]

_WAITS = (0.1, 0.5, 2.0, 5.0, 15.0)
"""Seconds between the tries to save, while the store is busy: what a step did must not get lost for a lock."""

_log = logging.getLogger("flujo_lens")


class Answer(NamedTuple):
    """What a person answered.

    Attributes:
        response: The answer.
        to: Index of the step that asked.
    """

    response: Any
    to: int


class Execution(Generic[ContextT]):
    """Brings one run as far as it goes: to its end, to a question, to a failure.

    Args:
        backend: Where it is saved, once a step.
        record: The run.
        claim: The right to work on it; checked by every save. None for a store without claims.
        answer: What a person answered already.
    """

    def __init__(
        self, backend: StateBackend, record: Record[ContextT], claim: Claim | None, answer: Answer | None = None
    ) -> None:
        self._backend, self._record, self._claim, self._answer = backend, record, claim, answer
        self._turn: Turn | None = None
        self._inside, self._pid, self._wishes = step_context(), os.getpid(), 0

    async def go(self, digest: str | None) -> None:
        """Run the steps. The run belongs to the manifest with this digest from now on.

        A step that fails is no exception here: the record says so. One that is cut off by a cancellation leaves
        the run failed, "interrupted".

        Raises:
            LostClaimError: another process has taken the run over. Nothing more was saved.
            LensError: the store did not take it. The step that ran is not saved.
        """
        task = asyncio.current_task()
        self._wishes = task.cancelling() if task is not None else 0
        try:
            with application_code():
                beginning = self._record.begin(digest)
            await self._save(beginning)
            await self._steps()
        except (asyncio.CancelledError, KeyboardInterrupt):
            await self._break_off()
            raise

    def _check_wanted(self) -> None:
        """A step may have swallowed the cancellation that was meant for the run."""
        task = asyncio.current_task()
        if task is not None and task.cancelling() > self._wishes:
            raise asyncio.CancelledError

    async def _steps(self) -> None:
        record = self._record
        while not record.is_done:
            if record.step.kind == HUMAN:
                if self._answer is None or self._answer.to != record.index:
                    await self._save(record.pause())
                    return
                response, self._answer = self._answer.response, None
                with application_code():
                    answered = record.answer(response)
                await self._save(answered)
                continue
            self._check_wanted()
            self._turn = turn = Turn(record.step, self._inside)
            result = await turn.take(record.value, record.context)
            self._turn = None
            progress = self._succeeded(turn, result) if result.success else record.fail(result, turn.began)
            await self._save(progress)
            if record.status == "failed":
                return

    def _succeeded(self, turn: Turn, result: StepResult) -> Progress:
        """What is saved of a step that succeeded; one whose output or context cannot be written has failed."""
        record, before = self._record, self._record.mark()
        try:
            record.context = turn.context
            return record.succeed(result, turn.began)
        except BaseException as error:  # noqa: BLE001 - what writes them may be the application's
            end_child(self._pid, error)
            as_exception(error)
            record.back_to(before)
            return record.fail(turn.failed(f"what it returned cannot be saved: {describe(error)}"), turn.began)

    async def _break_off(self) -> None:
        """Leave the run failed at the step that it was at, unless it had come to its end."""
        if self._record.status != "running":
            return
        turn = self._turn or Turn(self._record.step, self._inside)
        with suppress(LensError), application_code():
            await self._save(self._record.fail(turn.failed("interrupted"), turn.began), waits=())

    async def _save(self, progress: Progress, waits: Sequence[float] = _WAITS) -> None:
        """Save to the end, also when the run is cancelled meanwhile: what a step did must be known."""
        end_child(self._pid, None)
        saving = asyncio.ensure_future(self._persist(progress._replace(claim=self._claim), waits))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await asyncio.wait([saving])
            if not saving.cancelled() and saving.exception() is not None:
                _log.error("%s was not saved: %s", progress.run_id, saving.exception())
            raise

    async def _persist(self, progress: Progress, waits: Sequence[float]) -> None:
        for wait in waits:
            try:
                return await self._backend.save_progress(progress)
            except LostClaimError:
                raise
            except BusyError as error:
                _log.warning("%s waits for its store: %s", progress.run_id, error)
                await asyncio.sleep(wait)
        return await self._backend.save_progress(progress)
