"""States without an index, as other programs write them: found by SCAN, read, and never changed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from flujo_lens.serialization import safe_loads
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.keys import Keys
from flujo_lens.state.views import RunFilter

_PAGE = 500


class Server(Protocol):
    """Whom to ask."""

    keys: Keys

    async def ask(self, commands: Sequence[Command]) -> list[Any]: ...


async def found_states(server: Server, begin: str = "") -> AsyncIterator[list[RunRow]]:
    """Yield the states under the prefix whose ids begin with `begin`, each once, by hundreds.

    A text that is no JSON object is no state: another program's. So is one of a store whose prefix begins with ours.
    """
    keys, seen, made = server.keys, set[str](), server.keys.made[len(server.keys.prefix) :]
    inner = [name async for names in _scanned(server, keys.prefix, made) for name in names if name != keys.made]
    others = tuple(name[: -len(made)] for name in inner)
    async for names in _scanned(server, keys.state(begin)):
        named = (keys.run_id(name) for name in names if not name.startswith(others))
        ids = [run_id for run_id in named if run_id is not None and run_id not in seen]
        seen.update(ids)
        if ids and (rows := await states_of(server, list(dict.fromkeys(ids)))):
            yield rows


async def _scanned(server: Server, begin: bytes, end: bytes = b"") -> AsyncIterator[list[bytes]]:
    cursor, pattern = b"0", re.sub(rb"([\[\]*?\\])", rb"\\\1", begin) + b"*" + end
    while True:
        cursor, names = (await server.ask([("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE, "TYPE", "string")]))[0]
        yield names
        if cursor == b"0":
            return


async def states_of(server: Server, run_ids: Sequence[str]) -> list[RunRow]:
    """The states of these runs, of those that have one."""
    names = [server.keys.state(run_id) for run_id in run_ids]
    values = (await server.ask([("MGET", *names)]))[0] if names else []
    return [
        RunRow(i, value) for i, value in zip(run_ids, values, strict=True) if value is not None and _is_object(value)
    ]


def _is_object(data: bytes) -> bool:
    try:
        return data.lstrip()[:1] == b"{" and isinstance(safe_loads(data), dict)
    except ValueError:
        return False


class PlainTransaction:
    """Reads states only: such a store has no history.

    Args:
        server: Whom to ask.
        indexed: The index of a state.
    """

    def __init__(self, server: Server, indexed: Callable[[RunRow], RunIndex]) -> None:
        self._server, self._indexed = server, indexed
        self._indexes: dict[str, RunIndex] | None = None

    async def indexes(self) -> Mapping[str, RunIndex]:
        """What all runs are found by; the whole store is read for it, once."""
        if self._indexes is None:
            found = {}
            async for rows in found_states(self._server):
                found.update({row.run_id: self._indexed(row) for row in rows})
            self._indexes = found
        return self._indexes

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return the runs by id."""
        asked = [run_id for run_id in run_ids if self._server.keys.run_id(self._server.keys.state(run_id)) is not None]
        return {row.run_id: row for row in await states_of(self._server, asked)}

    async def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        """Yield runs by start."""
        indexes = await self.indexes()
        parent = hint.parent
        order = [(i.started, run_id) for run_id, i in indexes.items() if parent in (None, i.parent)]
        order.sort(reverse=not reverse)
        if after is not None:
            order = [place for place in order if (place > after if reverse else place < after)]
        wanted = [run_id for _, run_id in order]
        for at in range(0, len(wanted), _PAGE):
            found = await self.runs(wanted[at : at + _PAGE])
            for run_id in wanted[at : at + _PAGE]:
                if run_id in found:
                    yield found[run_id]

    async def ids(self, prefix: str, limit: int) -> list[str]:
        """Return ids by their beginning."""
        return sorted([row.run_id async for rows in found_states(self._server, prefix) for row in rows])[:limit]

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        """Return the ids of background tasks."""
        parents = set(run_ids)
        return [run_id for run_id, index in (await self.indexes()).items() if index.parent in parents]

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        """Yield nothing."""
        for row in list[ChildRow]():
            yield row

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return nothing."""
        return {}
