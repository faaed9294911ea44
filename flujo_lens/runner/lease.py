"""Holding a run: a claim, kept alive by a heartbeat on another thread, given back at the end."""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Self

from flujo_lens.errors import ConfigError, LensError, LostClaimError, NotSupportedError
from flujo_lens.runner.heartbeat import Heartbeat
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import Claim, Holder, check_lease
from flujo_lens.state.typed_times import parse_age

__all__ = ["RunLease", "lease_of"]

_USUAL_LEASE = 30.0
_log = logging.getLogger("flujo_lens")
_told: set[type] = set()
"""Drivers without claims, of which it was said once."""


def lease_of(given: float | None) -> float:
    """The lease in seconds: `given`, else ``LENS_LEASE`` (``30``, ``90s``, ``5m``), else 30.

    Raises:
        ConfigError: it is no length of time.
    """
    text = os.environ.get("LENS_LEASE") if given is None else None
    if text:
        age = parse_age(text)
        seconds = age.total_seconds() if age is not None else _number(text)
    else:
        seconds = _USUAL_LEASE if given is None else given
    try:
        return check_lease(seconds)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{text or given} is no length of a lease: seconds, or 90s, 5m", hint="LENS_LEASE=30"
        ) from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


class RunLease:
    """The right to work on a run, for as long as the block lasts.

    Signs are given by a thread of its own, so that a step that blocks the event loop keeps its run. When another
    process takes the run over all the same, the block is cancelled, and `LostClaimError` comes out of it. A driver
    without claims has none: then `claim` is None, and that is logged once.

    Args:
        backend: The store.
        run_id: The run.
        lease: Seconds that the claim is good for after each sign.

    Raises:
        RunHeldError: another process works on the run.
    """

    def __init__(self, backend: StateBackend, run_id: str, lease: float) -> None:
        self.claim: Claim | None = None
        self._backend, self._run_id, self._lease = backend, run_id, lease
        self._heart: Heartbeat | None = None

    async def __aenter__(self) -> Self:
        try:
            self.claim = await self._backend.claim_run(self._run_id, Holder.current(), self._lease)
        except NotSupportedError:
            _tell(type(self._backend))
            return self
        self._heart = Heartbeat(self._backend, self.claim)
        self._heart.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._heart is None or self.claim is None:
            return
        self._heart.stop()
        if self._heart.lost is not None:
            self._end_cancellation(self._heart.lost, error)
        await asyncio.shield(asyncio.ensure_future(self._release(self.claim)))

    def _end_cancellation(self, lost: LostClaimError, error: BaseException | None) -> None:
        """What was lost is an error, not a cancellation; unless somebody else cancelled the task too."""
        task = asyncio.current_task()
        if task is not None and task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
            raise lost from None

    async def _release(self, claim: Claim) -> None:
        """Give the run free. Where that fails, the lease or the end of the process does it."""
        try:
            await self._backend.release_run(claim)
        except LensError as error:
            _log.warning("the claim on %s could not be released: %s", self._run_id, error)


def _tell(driver: type) -> None:
    if driver not in _told:
        _told.add(driver)
        _log.warning("%s has no claims: nothing keeps two processes from working on one run", driver.__name__)
