"""Runs the steps of a record, and saves after each."""

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

_WAITS = (0.1, 0.5, 2.0, 5.0, 15.0)
"""Seconds between attempts to save to a busy store, so that the result of a step is not lost."""

_log = logging.getLogger("flujo_lens")


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        to: The index of the human step.
    """

    response: Any
    to: int


class Execution(Generic[ContextT]):
    """Runs a record to its end, a question or a failure.

    Args:
        record: The run.
        claim: The claim, checked by every save; None for a driver without claims.
        answer: The answer to the current question, if given.
    """

    def __init__(
        self, backend: StateBackend, record: Record[ContextT], claim: Claim | None, answer: Answer | None = None
    ) -> None:
        self._backend, self._record, self._claim, self._answer = backend, record, claim, answer
        self._turn: Turn | None = None
        self._inside, self._pid, self._wishes = step_context(), os.getpid(), 0

    async def go(self, digest: str | None) -> None:
        """Run the steps; `digest` is the new manifest of the run.

        A failed step does not raise; the record has the error. A cancellation leaves the run failed, "interrupted".

        Raises:
            LostClaimError: another process has taken the run over. Nothing more was saved.
            LensError: saving failed. The last step is not saved.
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
        """Raise a cancellation of the run that a step has suppressed."""
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
            await self._save_result(progress, turn.step.name)
            if record.status == "failed":
                return

    def _succeeded(self, turn: Turn, result: StepResult) -> Progress:
        """The progress of a successful step; it counts as failed if its output or context cannot be serialized."""
        record, before = self._record, self._record.mark()
        try:
            record.context = turn.context
            return record.succeed(result, turn.began)
        except BaseException as error:  # noqa: BLE001 - what writes them may be the application's
            end_child(self._pid, error)
            as_exception(error)
            record.back_to(before)
            return record.fail(turn.failed(f"the output cannot be saved: {describe(error)}"), turn.began)

    async def _break_off(self) -> None:
        """Leave the run failed at the current step, unless it has ended."""
        if self._record.status != "running":
            return
        turn = self._turn or Turn(self._record.step, self._inside)
        with suppress(LensError), application_code():
            await self._save(self._record.fail(turn.failed("interrupted"), turn.began), waits=())

    async def _save_result(self, progress: Progress, step: str) -> None:
        """Save after a step; an error says that the step has run."""
        try:
            await self._save(progress)
        except LostClaimError:
            raise
        except LensError as error:
            again = f'step "{step}" has run, but its result was not saved: it will run again when the run is resumed'
            raise error.reworded(f"{error.without_claim}; {again}") from error

    async def _save(self, progress: Progress, waits: Sequence[float] = _WAITS) -> None:
        """Save, even if the run is cancelled during it, so that the result of a step is not lost."""
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
