"""Who works on a run: claims with a lease and a heartbeat; and what a runner saves and finds in one call.

A claim is a row beside the run, taken by compare-and-set (`StateBackend.claim_run`). Whoever holds it beats within
its lease; whoever does not has lost the run to the first that asks. A holder whose process is known to be gone has
lost it at once; one that is known to be alive, since it is a process of this machine, does not lose it, however long
it is silent.

Times are of the clock of the machine that writes them. A clock that goes ahead of its holder's by as much as the
lease takes a run from one that lives; one that goes behind waits longer than the lease. So a lease has to be longer
than clocks differ, and every save of progress checks the claim inside its own transaction: a holder that was
replaced saves nothing more.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flujo_lens.errors import LostClaimError, RunHeldError
from flujo_lens.state.processes import boot_id, is_other_boot, start_of

__all__ = ["WORKING", "Claim", "Holder", "Progress", "ResumableGroup", "check_lease", "present"]

WORKING: set[str] = set()
"""Tokens of the claims under which this process works on a run, and gives signs. Of another claim of its own nobody
knows whether somebody still works under it: that one ends with its lease."""


def present() -> datetime:
    """The present, by this machine's clock: all that the rules of claims know of time."""
    return datetime.now(UTC)


class Holder(NamedTuple):
    """A process that works on runs.

    Attributes:
        host: The name of its machine. Machines that share a store need names of their own.
        boot_id: The boot of its machine (and its container), see `flujo_lens.state.processes.boot_id`.
        pid: Its process id.
        started: The start of the process as its system tells it; "" if it does not.
    """

    host: str
    boot_id: str
    pid: int
    started: str

    @classmethod
    def current(cls) -> Holder:
        """This process. A child of `os.fork` is another one."""
        pid = os.getpid()
        return cls(socket.gethostname(), boot_id(), pid, start_of(pid) or "")

    def is_gone(self) -> bool:
        """Whether the process is known to be dead: of this machine, and of another boot, no process, or another's id.

        False if it lives, and if nobody here can know.
        """
        return self._is_alive() is False

    def is_alive(self) -> bool:
        """Whether the process is known to live: it is one of this machine. False if it is gone, or nobody can know."""
        return self._is_alive() is True

    def _is_alive(self) -> bool | None:
        """None if nobody here can know."""
        if self.host != socket.gethostname():
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
    """The right of one holder to work on one run.

    Attributes:
        run_id: The run.
        token: What tells this claim from all others; a new one for every claim.
        holder: Who has it.
        taken_at: When it was taken, in UTC by the holder's clock.
        beat_at: When the holder gave its last sign, in the same way.
        lease: Seconds that it is good for after a sign.
    """

    run_id: str
    token: str
    holder: Holder
    taken_at: datetime
    beat_at: datetime
    lease: float

    @classmethod
    def take(cls, run_id: str, holder: Holder, lease: float, now: datetime) -> Claim:
        """A new claim, with a token of its own; nothing is stored.

        Raises:
            ValueError: `lease` is no length of time.
        """
        return cls(run_id, os.urandom(16).hex(), holder, now, now, check_lease(lease))

    def has_ended(self, now: datetime) -> bool:
        """Whether another may take the run at `now`: the holder is gone, or nobody knows and its lease is over.

        A sign that lies in the future by the clock of `now` counts as one. A holder of this machine that lives keeps
        its run beyond the lease: it may be stopped, or be kept from giving signs.
        """
        if self.holder.is_gone():
            return True
        return now - self.beat_at > timedelta(seconds=self.lease) and not self.is_kept()

    def is_kept(self) -> bool:
        """Whether its holder is known to live, and to work under it."""
        if self.token in WORKING:
            return True
        return self.holder.pid != os.getpid() and self.holder.is_alive()

    def check_free(self, now: datetime) -> None:
        """Do nothing if another may take the run at `now`.

        Raises:
            RunHeldError: its holder still has it.
        """
        if not self.has_ended(now):
            ends = self.beat_at + timedelta(seconds=self.lease)
            told = str(self.holder), self.beat_at.isoformat(), ends.isoformat()
            raise RunHeldError.of(self.run_id, *told, pid=self.holder.pid if self.is_kept() else None)

    def check_held(self, found: Claim | None) -> None:
        """Do nothing if `found`, which is stored for the run, is this claim.

        Raises:
            LostClaimError: it is another's, or there is none.
        """
        if found is None or found.token != self.token:
            raise LostClaimError.of(self.run_id, str(found.holder) if found else None)

    def beaten(self, now: datetime | None = None) -> Claim:
        """This claim with a sign at `now` (by default the present)."""
        return self._replace(beat_at=now or present())

    def to_dict(self) -> dict[str, Any]:
        """The claim in plain values: the holder's fields beside its own, times as ISO 8601 texts."""
        times = {"taken_at": self.taken_at.isoformat(), "beat_at": self.beat_at.isoformat()}
        return {"run_id": self.run_id, "token": self.token, **self.holder._asdict(), **times, "lease": self.lease}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Claim:
        """The claim that `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it gave something else.
        """
        holder = Holder(str(row["host"]), str(row["boot_id"]), int(row["pid"]), str(row["started"]))
        taken, beaten = (datetime.fromisoformat(row[name]).astimezone(UTC) for name in ("taken_at", "beat_at"))
        return cls(row["run_id"], row["token"], holder, taken, beaten, check_lease(row["lease"]))


def check_lease(lease: float) -> float:
    """`lease` if it is a length of time in seconds, from above 0 to that of a century.

    Raises:
        ValueError, TypeError: it is none.
    """
    if not (math.isfinite(lease) and 0 < lease <= 3.2e9):
        raise ValueError(f"a lease must be a number of seconds above 0, not {lease!r}")
    return float(lease)


class Progress(NamedTuple):
    """What a runner saves between two steps, all of it or nothing (`StateBackend.save_progress`).

    Attributes:
        run_id: The run; it counts, whatever the documents below say.
        state: As of `save_state`.
        run_start: As of `save_run_start`.
        step: As of `save_step_result`.
        spans: As of `save_spans`.
        run_end: As of `save_run_end`.
        manifest: Digest of the manifest that the run belongs to from now on.
        claim: The claim that must still be held; it gets a sign.
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
    """Runs that could still resume and stand at the same place in the same shape.

    Attributes:
        pipeline_name: Their pipeline, as `flujo_lens.state.interpret.named` finds it.
        pipeline_version: Its version.
        status: ``paused``, ``failed`` or ``running``.
        step_index: Where they go on; None if the store does not tell.
        step_name: The step that they stand at; None if the store does not tell.
        manifest: The digest of their shape; None for those without one.
        completed: The names of the steps done, in order, of those without a manifest; empty for the others.
        runs: How many they are.
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
