"""A transaction of an engine that blocks, for a caller on an event loop: each call is a hop to a thread."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunRow, Space
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.selection import Member
    from flujo_lens.state.deletion import DeletionRequest, Record, Restored

T = TypeVar("T")
_CHUNK, _FEW = 64, 4


class ThreadedTransaction:
    """Reads what `flujo_lens.state.backends.core.deletion` asks for, and what lists do. It writes nothing.

    Args:
        tx: The transaction, whose methods never suspend.
        hop: Runs a coroutine of it on a thread.
    """

    def __init__(self, tx: Any, hop: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]) -> None:
        self._tx, self._hop = tx, hop

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        found: Mapping[str, RunRow] = await self._hop(self._tx.runs(run_ids))
        return found

    async def ids(self, prefix: str, limit: int) -> list[str]:
        found: list[str] = await self._hop(self._tx.ids(prefix, limit))
        return found

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        found: list[str] = await self._hop(self._tx.tasks_of(run_ids))
        return found

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        found: dict[str, bytes] = await self._hop(self._tx.get(space, keys))
        return found

    def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        return self._chunks(self._tx.scan(hint, after, reverse, limit))

    def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        return self._chunks(self._tx.children(kind, run_ids))

    async def _chunks(self, rows: AsyncIterator[T], size: int = _CHUNK) -> AsyncIterator[T]:
        while chunk := await self._hop(_taken(rows, size)):
            for row in chunk:
                yield row

    # --- what deletions ask

    def totals(self) -> tuple[int, int]:
        found: tuple[int, int] = self._tx.totals()
        return found

    async def members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        found: list[Member] = await self._hop(self._tx.members(asked, run_ids))
        return found

    def families(self, asked: DeletionRequest, admitted: Collection[str] | None) -> Iterator[list[Member]]:
        found: Iterator[list[Member]] = self._tx.families(asked, admitted)
        return found

    async def orphans(self, before: Any) -> list[str]:
        found: list[str] = await self._hop(self._tx.orphans(before))
        return found

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        found: Mapping[str, Hashable] = await self._hop(self._tx.marks(run_ids))
        return found

    def records(self, run_ids: Sequence[str], *, state_only: bool) -> AsyncIterator[tuple[Record, int]]:
        return self._chunks(self._tx.records(run_ids, state_only=state_only), _FEW)

    async def restore(
        self, records: Iterable[Record], restore_run: Callable[[Iterator[Record]], Awaitable[bool]]
    ) -> Restored:
        found: Restored = await self._hop(self._tx.restore(records, restore_run))
        return found


async def _taken(rows: AsyncIterator[T], size: int) -> list[T]:
    found: list[T] = []
    async for row in rows:
        found.append(row)
        if len(found) >= size:
            break
    return found
