"""The lease on a run: a claim, renewed by heartbeats on another thread, and released at the end."""

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

_USUAL_LEASE = 30.0
_log = logging.getLogger("flujo_lens")
_warned: set[type] = set()
"""Drivers without claims for which a warning was logged."""


def lease_of(given: float | None) -> float:
    """The lease in seconds: `given`, else ``LENS_LEASE`` (``30``, ``90s``, ``5m``), else 30.

    Raises:
        ConfigError: it is not a valid duration.
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
            f"cannot read the lease {text or given}: use seconds, or 90s, 5m", hint="LENS_LEASE=30"
        ) from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


class RunLease:
    """A claim on a run for the duration of a block.

    Heartbeats are sent by a separate thread, so that a step that blocks the event loop keeps its claim. If another
    process takes the run over nevertheless, the block is cancelled and raises `LostClaimError`. For a driver without
    claims, `claim` is None, and a warning is logged once.

    Args:
        lease: Seconds from a heartbeat to the expiry of the claim.

    Raises:
        RunHeldError: another process holds the run.
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
        """Raise the lost claim instead of the cancellation, unless the task was also cancelled by others."""
        task = asyncio.current_task()
        if task is not None and task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
            raise lost from None

    async def _release(self, claim: Claim) -> None:
        """Release the claim. If that fails, it expires with the lease or the process."""
        try:
            await self._backend.release_run(claim)
        except LensError as error:
            _log.warning("the claim on %s could not be released: %s", self._run_id, error)


def _tell(driver: type) -> None:
    if driver not in _warned:
        _warned.add(driver)
        _log.warning("%s has no claims: two processes could work on the same run", driver.__name__)
