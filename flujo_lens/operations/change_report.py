"""Reports on small changes of a store, and their entries in the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from flujo_lens.errors import LensError
from flujo_lens.operations.audit import AuditLog

T = TypeVar("T")


def error_code(error: BaseException) -> str:
    """The name of an error in the audit log: its code, or that of an interrupt or internal error."""
    return error.code if isinstance(error, LensError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Report:
    """The counts of a change.

    Attributes:
        matched: Number of items selected.
        done: Number changed.
        skipped: Number that needed no change.
        failed: Number that could not be changed.
        left: Number not processed; with `dry_run`, the number that would be changed.
        dry_run: Whether nothing was changed.
        audit_id: The entry in the audit log; None without a change.
    """

    matched: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0
    dry_run: bool = False
    audit_id: str | None = None

    def document(self) -> dict[str, Any]:
        """The report for ``-o json``."""
        return asdict(self)


class Recorder(NamedTuple):
    """Records changes in the audit log before they are made."""

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
        """Write an entry, make the change, and record its result; return the id and the value of ``change()``.

        A second entry has the result, or the code of the error. If the process dies after the first entry, that
        stays ``started``.

        Args:
            counts: The planned numbers by name.
            run_ids: The affected runs.
            change: Makes the change, atomically.
            outcome: Maps the value of `change` to the actual numbers and runs; by default, the planned ones.
            audit_id: The id of the entry, if it was needed earlier; None for a new one.

        Raises:
            LensError: the entry cannot be written, and nothing was changed; or as raised by `change`.
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
        code = None if error is None else error_code(error)
        self.log.append_result(
            audit_id, command=self.command, reason=self.reason, counts=counts, run_ids=run_ids, error=code
        )
