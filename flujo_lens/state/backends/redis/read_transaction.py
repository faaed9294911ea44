"""A transaction that reads: commands go out in packets, as many as possible at once, each answered at one moment.

One that needs a single packet needs no WATCH; one that needs several watches its keys, and is begun anew if any has
changed. A list goes through the index page by page, and is of no single moment: Redis has no snapshots.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from redis.exceptions import ExecAbortError, ResponseError, WatchError

from flujo_lens.errors import NotAStoreError
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.errors import code_of, translate
from flujo_lens.state.backends.redis.index import Entry, entry_filter, sources, start_bounds
from flujo_lens.state.backends.redis.keys import RESERVED, Keys
from flujo_lens.state.views import RunFilter

_BEGINNING = re.compile(rb"\s*\{\s*[\"}]")
_PAGE, IDS_AT_ONCE, _INDEX_AT_ONCE = 200, 200, 2_000


class RestartError(Exception):
    """The work has to begin anew, in a transaction that watches what it reads."""


class Channel(Protocol):
    """Where commands go."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]: ...


class Nowhere:
    """Where a transaction has to do with what it knows."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Begin anew where something is to be read.

        Raises:
            RestartError: always.
        """
        raise RestartError


class ReadTransaction:
    """Reads the rows of a store.

    Args:
        keys: The store's.
        link: Where commands go.
        shown: The store, as it may be shown.
        mode: ``read`` for one packet; ``watched`` for several of one moment; ``list`` without one moment.
    """

    def __init__(self, keys: Keys, link: Channel, shown: str, mode: str) -> None:
        self.keys, self.link, self.shown, self.mode = keys, link, shown, mode
        self.packets = 0
        self.is_made: bool | None = None
        self.is_watching = False
        self._parents: dict[str, bool] = {}

    # --- packets

    async def ask(self, commands: Sequence[Command], watched: Iterable[bytes] = ()) -> list[Any]:
        """The answers to commands that read; in a list each of its own moment, else all of one.

        Raises:
            RestartError: it needs a transaction that watches.
            LensError: one of the answers is an error.
        """
        self.packets += 1
        if self.mode == "read" and self.packets > 1:
            raise RestartError
        if self.mode not in ("read", "list"):
            answers = await self._asked_watching(commands, list(watched))
        elif len(commands) == 1 or self.mode == "list":
            answers = await self.link.exchange(commands)
        else:
            *_, answers = checked(await self.link.exchange([("MULTI",), *commands, ("EXEC",)]))
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, ResponseError):
                raise translate(answer, self.shown, key_of(command)) if code_of(answer) == "WRONGTYPE" else answer
        return answers

    async def _asked_watching(self, commands: Sequence[Command], watched: Sequence[bytes]) -> list[Any]:
        before: list[Command] = [("WATCH", *watched)] if watched else []
        self.is_watching |= bool(before)
        return (await self.link.exchange([*before, *commands]))[len(before) :]

    async def end(self) -> None:
        """See that nothing has changed that was read in several packets.

        Raises:
            WatchError: something has.
        """
        if self.is_watching and self.packets > 1 and self.mode == "watched":
            self.is_watching = False
            if checked(await self.link.exchange([("MULTI",), ("EXEC",)]))[-1] is None:
                raise WatchError("a key that was read has changed")

    async def unwatch(self) -> None:
        """Let go what was watched."""
        if self.is_watching:
            self.is_watching = False
            await self.link.exchange([("UNWATCH",)])

    async def _ensure_made(self) -> None:
        if self.is_made is None:
            self.is_made = bool((await self.ask([("EXISTS", self.keys.made)]))[0])
        if not self.is_made and self.mode != "write":
            raise missing(self.shown)

    # --- runs

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return the runs by id, also those that have a state and are in no index."""
        rows = await self._documents([run_id for run_id in run_ids if is_storable(run_id)])
        found = {run_id: row for run_id, row in rows.items() if row.state is not None or row.run is not None}
        if not found and self.is_made is False:
            raise missing(self.shown)
        if not found and len(rows) == 1:  # MGET says nothing of a key of another type
            await self.ask([("GET", self.keys.state(next(iter(rows))))])
        return found

    async def _documents(self, run_ids: Sequence[str]) -> dict[str, RunRow]:
        """States and metadata alone; of a list of runs with whether they have tasks, which is asked for next."""
        if not run_ids:
            await self._ensure_made()
            return {}
        keys, count = self.keys, len(run_ids)
        names = [*map(keys.state, run_ids), *(keys.of("run", run_id) for run_id in run_ids)]
        commands: list[Command] = [("MGET", keys.made, *names)]
        if self.mode == "list":
            commands.append(("SMISMEMBER", keys.parents, *(run_id.encode() for run_id in run_ids)))
        (made, *values), *has_tasks = await self.ask(commands, names)
        self.is_made = made is not None
        if has_tasks:
            if len(self._parents) > _INDEX_AT_ONCE:
                self._parents = {}
            self._parents.update(zip(run_ids, map(bool, has_tasks[0]), strict=True))
        return {i: row_of(i, *parts) for i, *parts in zip(run_ids, values[:count], values[count:], strict=True)}

    async def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        """Yield runs by pages of the index; statuses and a parent have one of their own, the rest is in it."""
        if hint.parent is None and self.mode in ("read", "watched"):
            self.mode = "list"
        if after is not None:
            after = await self._border(after)
        size = _PAGE if limit is None else max(1, min(limit, _PAGE))
        more, bounds = entry_filter(hint), start_bounds(hint)
        while True:
            many = _INDEX_AT_ONCE if more else size
            places = await self._page(sources(self.keys, hint), after, reverse, many, bounds)
            if not places:
                await self._ensure_made()
            ids = [run_id for _, run_id in places]
            wanted = ids if more is None else await self._wanted(ids, more)
            for at in range(0, len(wanted), size):
                found = await self.runs(wanted[at : at + size])
                for run_id in wanted[at : at + size]:
                    if run_id in found:
                        yield found[run_id]
            if len(places) < many:
                return
            after = places[-1]

    async def _border(self, after: tuple[int, str]) -> tuple[int, str]:
        """Where a run is in the index, by the time zone of its writer."""
        score = (await self.ask([("ZSCORE", self.keys.order, after[1].encode())]))[0]
        return after if score is None else (int(float(score)), after[1])

    async def _page(
        self,
        sources: Sequence[bytes],
        after: tuple[int, str] | None,
        reverse: bool,
        size: int,
        bounds: tuple[bytes, bytes],
    ) -> list[tuple[int, str]]:
        """The next `size` places behind a border and between bounds, of all sources together."""
        pages = [await self._page_of(source, after, reverse, size, bounds) for source in sources]
        merged = heapq.merge(*pages, reverse=not reverse)
        return list(dict.fromkeys(merged))[:size] if len(pages) > 1 else pages[0]

    async def _page_of(
        self, source: bytes, after: tuple[int, str] | None, reverse: bool, size: int, bounds: tuple[bytes, bytes]
    ) -> list[tuple[int, str]]:
        """As `_page`. Redis pages by score alone, so members of the border's score are read and left out again."""
        found: list[tuple[int, str]] = []
        start, end = bounds if reverse else bounds[::-1]
        if after is not None:
            start = b"%d" % after[0]
        command = "ZRANGEBYSCORE" if reverse else "ZREVRANGEBYSCORE"
        offset, many = 0, size + (after is not None)
        while len(found) < size:
            flat = (await self.ask([(command, source, start, end, "WITHSCORES", "LIMIT", offset, many)]))[0]
            places = [(int(float(score)), member.decode()) for member, score in zip(flat[::2], flat[1::2], strict=True)]
            found += [one for one in places if after is None or (one > after if reverse else one < after)]
            offset += many
            if len(places) < many:
                break
        return found[:size]

    async def _wanted(self, ids: Sequence[str], admits: Callable[[RunIndex], bool]) -> list[str]:
        """Those of these runs that the index does not rule out."""
        if not ids:
            return []
        entries = (await self.ask([("HMGET", self.keys.index, *(run_id.encode() for run_id in ids))]))[0]
        return [
            i for i, entry in zip(ids, entries, strict=True) if entry is None or admits(Entry.loaded(entry).found_by)
        ]

    async def ids(self, prefix: str, limit: int) -> list[str]:
        """Return ids by their beginning; one that has a state and is in no index is found by the whole of it."""
        low, high = b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"
        commands: list[Command] = [
            ("ZRANGEBYLEX", self.keys.ids, low if prefix else b"-", high if prefix else b"+", "LIMIT", 0, limit),
            ("EXISTS", self.keys.made),
        ]
        if is_storable(prefix):
            commands.append(("EXISTS", self.keys.state(prefix)))
        members, made, *exact = await self.ask(commands)
        found = [member.decode() for member in members]
        if exact and exact[0] and prefix not in found:
            found = [prefix, *found][:limit]
        if not made and not found and self.mode != "write":
            raise missing(self.shown)
        return found

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        """Return the ids of background tasks; runs of the page that was read last are known to have some or none."""
        asked = [i for i in run_ids if is_storable(i) and self._parents.get(i, True)]
        names = [self.keys.of("tasks", run_id) for run_id in asked]
        if not names:
            return []
        answers = await self.ask([("ZRANGE", name, 0, -1) for name in names], names)
        return [member.decode() for members in answers for member in members]

    # --- what belongs to runs

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        """Yield the rows of one kind, oldest first."""
        if run_ids is None:
            run_ids = await self._all_with(kind)
        ids = [run_id for run_id in run_ids if is_storable(run_id)]
        for at in range(0, len(ids), IDS_AT_ONCE):
            part = ids[at : at + IDS_AT_ONCE]
            names = [self.keys.of(kind, run_id) for run_id in part]
            commands = [("HGETALL", name) if kind == "span" else ("LRANGE", name, 0, -1) for name in names]
            for run_id, answer in zip(part, await self.ask(commands, names), strict=True):
                for row in _rows(kind, run_id, answer):
                    yield row

    async def _all_with(self, kind: str) -> list[str]:
        """The ids that may have rows or values of a kind."""
        if self.mode == "read":
            self.mode = "list"
        source: Command = ("ZRANGE", self.keys.ids, 0, -1)
        if kind in ("evaluation", "claim"):
            source = ("SMEMBERS", self.keys.evaluated if kind == "evaluation" else self.keys.claims)
        members, made = await self.ask([source, ("EXISTS", self.keys.made)])
        if not made and self.mode != "write":
            raise missing(self.shown)
        return [member.decode() for member in members]

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return values by key."""
        if space in ("claim", "binding"):
            ids = await self._all_with(space) if keys is None else keys
            return await self._of_runs(space, [run_id for run_id in dict.fromkeys(ids) if is_storable(run_id)])
        name = self.keys.named(space)
        if keys is None:
            flat, made = await self.ask([("HGETALL", name), ("EXISTS", self.keys.made)])
            if not made and self.mode != "write":
                raise missing(self.shown)
            return {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
        fields = [key.encode("utf-8", "surrogatepass") for key in keys]
        values = (await self.ask([("HMGET", name, *fields)], [name]))[0] if fields else []
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    async def _of_runs(self, space: Space, ids: Sequence[str]) -> dict[str, bytes]:
        names = [self.keys.of(space, run_id) for run_id in ids]
        values = (await self.ask([("MGET", *names)], names))[0] if names else []
        return {run_id: value for run_id, value in zip(ids, values, strict=True) if value is not None}

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        """Return for each run something that is another one after any change of it."""
        found: dict[str, Hashable] = {}
        for at in range(0, len(run_ids), IDS_AT_ONCE):
            part, of = run_ids[at : at + IDS_AT_ONCE], self.keys.of
            commands: list[Command] = []
            for run_id in part:
                commands += [
                    ("GET", self.keys.state(run_id)),
                    ("GET", of("run", run_id)),
                    ("GET", of("binding", run_id)),
                ]
                commands += [("LLEN", of("step", run_id)), ("LLEN", of("evaluation", run_id))]
                commands += [("HGET", of("span", run_id), "n"), ("HLEN", of("span", run_id))]
            answers = iter(await self.ask(commands, (key for run_id in part for key in self.keys.of_run(run_id))))
            for run_id in part:
                found[run_id] = hash(tuple(next(answers) for _ in range(7)))
        return found

    async def measure(self, run_ids: Sequence[str], kinds: Sequence[ChildKind]) -> tuple[dict[str, int], int]:
        """Return the number of rows by kind, and the bytes of memory that lists and documents take."""
        counts, size = dict[str, int](), 0
        for at in range(0, len(run_ids), IDS_AT_ONCE):
            part = run_ids[at : at + IDS_AT_ONCE]
            commands: list[Command] = []
            for run_id in part:
                commands += [("STRLEN", self.keys.state(run_id)), ("STRLEN", self.keys.of("run", run_id))]
                for kind in kinds:
                    rows = self.keys.of(kind, run_id)
                    commands += [("HLEN" if kind == "span" else "LLEN", rows), ("MEMORY", "USAGE", rows)]
            answers = iter(await self.ask(commands) if commands else [])
            for _ in part:
                for name in ("state", "run"):
                    length = next(answers)
                    counts[name], size = counts.get(name, 0) + bool(length), size + length
                for kind in kinds:
                    many, used = next(answers), next(answers)
                    counts[kind] = counts.get(kind, 0) + max(0, many - (kind == "span"))
                    size += used or 0
        return counts, size


# --- small things


def missing(shown: str) -> NotAStoreError:
    """The error for a place without an index."""
    return NotAStoreError(
        f"{shown} has no runs that lens has saved",
        hint="nothing was created; ?prefix=P names other keys, ?layout=plain reads states without an index, "
        "lens migrate makes one",
        empty=True,
    )


def checked(answers: list[Any]) -> list[Any]:
    """Answers to a MULTI, none of which is an error: of several the first tells why the others are."""
    for answer in answers:
        if isinstance(answer, ResponseError) and not isinstance(answer, ExecAbortError):
            raise answer
    if isinstance(answers[-1], ResponseError):
        raise answers[-1]
    return answers


def key_of(command: Command) -> bytes | None:
    return command[1] if len(command) > 1 and isinstance(command[1], bytes) else None


def row_of(run_id: str, state: bytes | None, run: bytes | None) -> RunRow:
    """A run as it is stored. What another program has put in the place of a state may be no JSON object."""
    if state is None or (_BEGINNING.match(state) and state.rstrip().endswith(b"}")):
        return RunRow(run_id, state, run)
    return RunRow(run_id, state, run, ("the state is no JSON object",), unreadable=True)


def is_storable(run_id: str) -> bool:
    return not run_id.startswith((RESERVED, "\0"))


def _rows(kind: ChildKind, run_id: str, answer: Sequence[bytes]) -> list[ChildRow]:
    if kind != "span":
        return [ChildRow(run_id, data) for data in answer]
    rows: list[tuple[int, ChildRow]] = []
    for field, value in zip(answer[::2], answer[1::2], strict=True):
        if field != b"n":
            number, _, data = value.partition(b" ")
            key = field[1:].decode("utf-8", "surrogatepass") if field[:1] == b"=" else None
            rows.append((int(number), ChildRow(run_id, data, key)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]
