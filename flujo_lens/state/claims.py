"""Claims on runs, with a lease and heartbeats; and the values that a runner saves and reads in one call.

A claim is a separate row for a run, taken by compare-and-set (`StateBackend.claim_run`). Its holder sends heartbeats
within the lease; otherwise the claim expires, and another process can take the run. The claim of a dead process
expires at once; the claim of a live process on this machine does not expire.

Times come from the clock of the writing machine. If clocks differ by more than a lease, a live holder on another
machine can lose its claim, so a lease must be longer than the difference. Every save of progress checks the claim in
its transaction: a holder that lost its claim cannot save.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.errors import LostClaimError, RunHeldError
from flujo_lens.state.processes import boot_id, is_other_boot, start_of

WORKING: set[str] = set()
"""Tokens of the active claims of this process, which get heartbeats. Its other claims expire with their leases."""


def present() -> datetime:
    """The current time by this machine's clock, which the rules of claims use."""
    return datetime.now(UTC)


def _host() -> str:
    """The name of this machine."""
    import socket  # here: most commands that read claims find none

    return socket.gethostname()


class Holder(NamedTuple):
    """A process that holds claims.

    Attributes:
        host: The name of its machine. Machines that share a store need different names.
        boot_id: The boot of its machine (and its container), see `flujo_lens.state.processes.boot_id`.
        pid: Its process id.
        started: The start of the process as reported by its system; "" if unknown.
    """

    host: str
    boot_id: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Holder:
        """This process. A child of `os.fork` is a different holder."""
        pid = os.getpid()
        return cls(_host(), boot_id(), pid, start_of(pid) or "")

    def is_gone(self) -> bool:
        """Whether the process is known to be dead: it was on this machine, which was rebooted or has no such process.

        False if it is alive or unknown.
        """
        return self._is_alive() is False

    def is_alive(self) -> bool:
        """Whether the process is known to be alive on this machine. False if it is dead or unknown."""
        return self._is_alive() is True

    def _is_alive(self) -> bool | None:
        """None if unknown."""
        if self.host != _host():
            return None
        rebooted = is_other_boot(self.boot_id)
        if rebooted is not False:
            return False if rebooted else None
        started = start_of(self.pid)
        if started is None:
            return False
        return started == self.started if started and self.started else None

    def __str__(self) -> str:
        """``pid 4711 on web-1``."""
        return f"pid {self.pid} on {self.host}"


class Claim(NamedTuple):
    """The right of a holder to work on a run.

    Attributes:
        token: A unique token of this claim.
        taken_at: When it was taken, in UTC by the holder's clock.
        beat_at: The last heartbeat, in UTC by the holder's clock.
        lease: Seconds from a heartbeat to the expiry of the claim.
    """

    run_id: str
    token: str
    holder: Holder
    taken_at: datetime
    beat_at: datetime
    lease: float

    @classmethod
    def take(cls, run_id: str, holder: Holder, lease: float, now: datetime) -> Claim:
        """A new claim with a new token. Stores nothing.

        Raises:
            ValueError: `lease` is not a valid duration.
        """
        return cls(run_id, os.urandom(16).hex(), holder, now, now, check_lease(lease))

    def has_ended(self, now: datetime) -> bool:
        """Whether another process may take the run at `now`: the holder is dead, or unknown and its lease has expired.

        A heartbeat in the future of `now` is valid. A live holder on this machine keeps its claim beyond the lease,
        since it may be stopped or too busy for heartbeats.
        """
        if self.holder.is_gone():
            return True
        return now - self.beat_at > timedelta(seconds=self.lease) and not self.is_kept()

    def is_kept(self) -> bool:
        """Whether its holder is known to be alive and uses it."""
        if self.token in WORKING:
            return True
        return self.holder.pid != os.getpid() and self.holder.is_alive()

    def check_free(self, now: datetime) -> None:
        """Raise unless another process may take the run at `now`.

        Raises:
            RunHeldError: the claim is valid.
        """
        if not self.has_ended(now):
            ends = self.beat_at + timedelta(seconds=self.lease)
            times = str(self.holder), self.beat_at.isoformat(), ends.isoformat()
            raise RunHeldError.of(self.run_id, *times, pid=self.holder.pid if self.is_kept() else None)

    def check_held(self, found: Claim | None) -> None:
        """Raise unless `found`, the stored claim on the run, is this claim.

        Raises:
            LostClaimError: it is another claim, or there is none.
        """
        if found is None or found.token != self.token:
            raise LostClaimError.of(self.run_id, str(found.holder) if found else None)

    def beaten(self, now: datetime | None = None) -> Claim:
        """This claim with a heartbeat at `now` (default: the current time)."""
        return self._replace(beat_at=now or present())

    def to_dict(self) -> dict[str, Any]:
        """The claim as plain values, including the holder's fields; times as ISO 8601 texts."""
        times = {"taken_at": self.taken_at.isoformat(), "beat_at": self.beat_at.isoformat()}
        return {"run_id": self.run_id, "token": self.token, **self.holder._asdict(), **times, "lease": self.lease}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Claim:
        """The claim of a `to_dict` result.

        Raises:
            KeyError, TypeError, ValueError: `row` is malformed.
        """
        holder = Holder(str(row["host"]), str(row["boot_id"]), int(row["pid"]), str(row["started"]))
        taken, beaten = (datetime.fromisoformat(row[name]).astimezone(UTC) for name in ("taken_at", "beat_at"))
        return cls(row["run_id"], row["token"], holder, taken, beaten, check_lease(row["lease"]))


def check_lease(lease: float) -> float:
    """Check that `lease` is a number of seconds above 0 and up to a century; return it.

    Raises:
        ValueError, TypeError: it is not.
    """
    if not (math.isfinite(lease) and 0 < lease <= 3.2e9):
        raise ValueError(f"a lease must be a number of seconds above 0, not {lease!r}")
    return float(lease)


class Progress(NamedTuple):
    """What a runner saves between two steps, atomically (`StateBackend.save_progress`).

    Attributes:
        run_id: The run; overrides ids in the documents below.
        state: As for `save_state`.
        run_start: As for `save_run_start`.
        step: As for `save_step_result`.
        spans: As for `save_spans`.
        run_end: As for `save_run_end`.
        manifest: The digest of the new manifest of the run.
        claim: The claim that must be held; it gets a heartbeat.
    """

    run_id: str
    state: dict[str, Any] | None = None
    run_start: dict[str, Any] | None = None
    step: dict[str, Any] | None = None
    spans: Sequence[dict[str, Any]] = ()
    run_end: dict[str, Any] | None = None
    manifest: str | None = None
    claim: Claim | None = None


class ResumableGroup(NamedTuple):
    """Resumable runs at the same position in the same shape.

    Attributes:
        pipeline_name: Their pipeline, see `flujo_lens.state.interpret.named`.
        status: ``paused``, ``failed`` or ``running``.
        step_index: The index of the next step; None if unknown.
        step_name: The current step; None if unknown.
        manifest: The digest of their manifest; None without one.
        completed: Without a manifest, the names of the finished steps in order; else empty.
        runs: Number of runs.
        sample_run_id: One of them.
    """

    pipeline_name: str
    pipeline_version: str
    status: str
    step_index: int | None
    step_name: str | None
    manifest: str | None
    completed: tuple[str, ...]
    runs: int
    sample_run_id: str
