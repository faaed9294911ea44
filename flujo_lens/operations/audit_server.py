"""An audit log in its store, for a store on a server: one log, whichever machine a change is made from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from flujo_lens.errors import ReadOnlyStoreError
from flujo_lens.operations.audit_chain import FIRST, Line
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.audit_lines import AuditLines

T = TypeVar("T")

_ELSEWHERE = (
    "if it is the log alone that cannot be written: --audit-file FILE, or path under [audit] in lens.toml, names a file"
)


class AuditServer:
    """The log of the store that `opened` opens.

    Each call opens the store anew, in a thread with an event loop of its own, since the caller may be inside another
    loop. That is one connection for each entry; a command writes one or two.

    Args:
        opened: Returns a backend whose `audit_lines` are not None.
        shown: The store, without passwords.
    """

    end_place = "the recorded end of the log"

    def __init__(self, opened: Callable[[], StateBackend], shown: str) -> None:
        self._opened, self._store = opened, shown

    @property
    def shown(self) -> str:
        """The log, for messages."""
        return f"the audit log in {self._store}"

    def exists(self) -> bool:
        """Whether there is a recorded end.

        Raises:
            LensError: the store cannot be read.
        """
        return self.end() is not None

    def check(self) -> None:
        """Do nothing: the first entry is written before the change, and raises if that is not possible."""

    def append(self, make: Callable[[str, Mapping[str, Any]], bytes]) -> None:
        """Append a line, as of `AuditJournal.append`, in one transaction.

        Raises:
            LensError: as raised by the driver; nothing was changed.
        """
        try:
            self._done(lambda lines: lines.append(lambda previous: make(previous or FIRST, {}).removesuffix(b"\n")))
        except ReadOnlyStoreError as error:
            elsewhere = _ELSEWHERE if "denied" in error.message else None
            raise ReadOnlyStoreError(
                f"the store is read-only: {error.message}", hint="\n".join(filter(None, (error.hint, elsewhere)))
            ) from error

    def lines(self) -> Iterator[Line]:
        """All current lines, page by page.

        Raises:
            LensError: the store cannot be read.
        """
        last = 0
        while page := self._done(lambda lines: lines.read(last)):  # noqa: B023 - called at once
            for number, data in page:
                yield Line(number, data, True, number)
                last = number

    def end(self) -> tuple[int, str] | None:
        """The number of the last line and its hash.

        Raises:
            LensError: the store cannot be read.
        """
        return self._done(lambda lines: lines.head())

    def _done(self, work: Callable[[AuditLines], Awaitable[T]]) -> T:
        async def once() -> T:
            backend = self._opened()
            try:
                return await work(backend.audit_lines)  # type: ignore[attr-defined]
            finally:
                await backend.shutdown()

        with ThreadPoolExecutor(1, "lens-audit") as thread:
            return thread.submit(lambda: asyncio.run(once())).result()
