"""What is common to small changes of a store: the report on one, and its entry in the audit log before it is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from flujo_lens.errors import LensError
from flujo_lens.operations.audit import AuditLog

__all__ = ["Recorder", "Report", "error_code"]

T = TypeVar("T")


def error_code(error: BaseException) -> str:
    """How the log names an error: by its code, or as the interrupt or the fault that it is."""
    return error.code if isinstance(error, LensError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Report:
    """What a change came to.

    Attributes:
        matched: How many it was about.
        done: How many of them were changed.
        skipped: How many needed no change, or none any more.
        failed: How many could not be changed.
        left: How many nobody came to; with `dry_run`, those that would be changed.
        dry_run: Whether it was only looked at.
        audit_id: The entry in the audit log; None if nothing was to be changed.
    """

    matched: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    dry_run: bool = False
    audit_id: str | None = None

    def document(self) -> dict[str, Any]:
        """The report as ``-o json`` prints it."""
        return asdict(self)


class Recorder(NamedTuple):
    """Writes changes down before they are made.

    Attributes:
        log: The audit log of the store.
        command: The words that were typed, without secrets.
        reason: Why, if somebody said.
    """

    log: AuditLog
    command: Sequence[str]
    reason: str | None = None

    async def recorded(
        self,
        counts: Mapping[str, int],
        run_ids: Sequence[str],
        change: Callable[[], Awaitable[T]],
        outcome: Callable[[T], tuple[Mapping[str, int], Sequence[str]]] | None = None,
        *,
        audit_id: str | None = None,
    ) -> tuple[str, T]:
        """Write an entry, then return its id and ``await change()``.

        A second entry closes the first: it says what came of it, or has the error's code. A process that dies after
        the first leaves an entry of what it meant to do, which is ``started`` and never finished.

        Args:
            counts: How many of what it is about.
            run_ids: The runs that it is about.
            change: Makes the change, all of it or nothing.
            outcome: From what `change` returned to how many of what were changed, and which runs; without, those
                that it was about.
            audit_id: The id of the entry, where it was needed before; None to make one.

        Raises:
            LensError: the entry cannot be written, and nothing was changed; or as `change`.
        """
        entry = self.log.append(
            command=self.command, reason=self.reason, counts=counts, run_ids=run_ids, audit_id=audit_id, state="started"
        )
        try:
            done = await change()
        except BaseException as error:
            self._close(entry, {"done": 0}, (), error)
            raise
        self._close(entry, *(outcome(done) if outcome else ({}, ())))
        return entry, done

    def _close(
        self, audit_id: str, counts: Mapping[str, int], run_ids: Sequence[str], error: BaseException | None = None
    ) -> None:
        """Say what came of it; where that cannot be written, the change stays ``started`` in the log."""
        code = None if error is None else error_code(error)
        with suppress(LensError):
            self.log.append(
                command=self.command, reason=self.reason, counts=counts, run_ids=run_ids, closes=audit_id, error=code
            )
