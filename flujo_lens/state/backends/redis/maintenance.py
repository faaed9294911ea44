"""The care of a store on Redis: an index that does not fit its states, and what the server tells of itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from flujo_lens.errors import LensError
from flujo_lens.state.backends.core.port import RunRow, Transaction
from flujo_lens.state.backends.redis.index import Entry
from flujo_lens.state.backends.redis.plain import found_states
from flujo_lens.state.maintenance import Finding, Repaired
from flujo_lens.state.timestamps import is_same_but_for_zone

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.backend import CoreBackend
    from flujo_lens.state.backends.redis.store import RedisStore

LIMIT = 5.0
"""Seconds that a look at the index takes, unless everything is to be looked at."""

_BATCH = 200
_FULL = 0.9


class Caretaker:
    """Looks after a store.

    Args:
        core: Makes the index of a run.
        server: The store; not one that is read as it is.
    """

    def __init__(self, core: CoreBackend, server: RedisStore) -> None:
        self._core, self._server = core, server

    # --- the index

    async def unlisted(self, end: float = float("inf")) -> AsyncIterator[list[str]]:
        """Yield the ids of states that the index lacks, or of which it says what they were before another program
        wrote them."""
        keys = self._server.keys
        async for rows in found_states(self._server):
            runs, entries = await self._server.ask(
                [
                    ("MGET", *(keys.of("run", row.run_id) for row in rows)),
                    ("HMGET", keys.index, *(row.run_id.encode() for row in rows)),
                ]
            )
            found = zip((row._replace(run=run) for row, run in zip(rows, runs, strict=True)), entries, strict=True)
            wrong = [row.run_id for row, entry in found if not self._fits(row, entry)]
            if wrong:
                yield wrong
            if time.monotonic() > end:
                return

    def _fits(self, row: RunRow, entry: bytes | None) -> bool:
        """Whether an entry says what a run's documents say, where they alone decide."""
        if entry is None:
            return False
        if self._core.reader.index_needs_history(row):
            return True
        listed, made = Entry.loaded(entry).found_by, self._core.codec.index(self._core.codec.raw(row))
        times = ((listed.started, made.started), (listed.updated, made.updated))
        return listed.status == made.status and all(is_same_but_for_zone(*pair) for pair in times)

    async def dangling(self, end: float = float("inf")) -> AsyncIterator[list[str]]:
        """Yield the ids in the index of which there is nothing else."""
        keys, at = self._server.keys, 0
        while time.monotonic() <= end:
            members = (await self._server.ask([("ZRANGE", keys.ids, at, at + _BATCH - 1)]))[0]
            ids = [member.decode() for member in members]
            there = await self._server.ask([("EXISTS", keys.state(i), keys.of("run", i)) for i in ids]) if ids else []
            gone = [run_id for run_id, count in zip(ids, there, strict=True) if not count]
            if gone:
                yield gone
            at += _BATCH
            if len(ids) < _BATCH:
                return

    async def list_states(self) -> int:
        """Put into the index what it lacks; return how many runs."""
        count = 0
        async for ids in self.unlisted():

            async def work(tx: Transaction, ids: Sequence[str] = ids) -> None:
                await tx.lock(ids)
                for row in (await tx.runs(ids)).values():
                    await self._core.put(tx, row)

            await self._server.write(work)
            count += len(ids)
        return count

    async def drop_dangling(self) -> int:
        """Take out of the index what points at nothing; return how many entries."""
        found = [run_id async for ids in self.dangling() for run_id in ids]
        for at in range(0, len(found), _BATCH):
            part = found[at : at + _BATCH]

            async def work(tx: Transaction, ids: Sequence[str] = part) -> None:
                await tx.lock(ids)
                there = await tx.runs(ids)
                await tx.drop([run_id for run_id in ids if run_id not in there])

            await self._server.write(work)
        return len(found)

    async def repaired(self, checks: Sequence[str]) -> list[Repaired]:
        """Do what the findings of these checks name."""
        fixes: Mapping[str, tuple[Callable[[], Awaitable[int]], str]] = {
            "states without an index": (self.list_states, "put {:,} states into the index"),
            "index without runs": (self.drop_dangling, "took {:,} entries out of the index"),
        }
        done = []
        for check in checks:
            if check in fixes:
                fix, said = fixes[check]
                try:
                    done.append(Repaired(check, said.format(await fix())))
                except LensError as error:
                    done.append(Repaired(check, left=error.message))
        return done

    # --- checks

    async def findings(self, full: bool) -> list[Finding]:
        """One finding a check."""
        server = {name: await self._server.info(name) for name in ("memory", "persistence", "replication", "clients")}
        return [
            *await self._of_index(full),
            _memory(server["memory"]),
            _persistence(server["persistence"]),
            _replication(server["replication"]),
            _clients(server["clients"]),
        ]

    async def _of_index(self, full: bool) -> list[Finding]:
        name, (unlisted, is_whole) = "states without an index", await _counted(self.unlisted, full)
        found = Finding(name, True, 0, f"every state{'' if is_whole else _PART} is in the index")
        if unlisted:
            detail = (
                f"states that another program wrote{'' if is_whole else _PART}: they can be shown, and are not listed"
            )
            found = Finding(name, False, unlisted, detail, "to list them: lens doctor --fix", "put them into the index")
        name, (dangling, is_whole) = "index without runs", await _counted(self.dangling, full)
        if not dangling:
            return [found, Finding(name, True, 0, f"every entry{'' if is_whole else _PART} is of a run")]
        detail = "entries of runs that expired, were evicted or deleted by another program: no command shows them"
        fix = "to take them out: lens doctor --fix"
        return [found, Finding(name, False, dangling, detail, fix, "take them out of the index")]


_PART = " that was looked at in 5 seconds (--full looks at all)"


async def _counted(look: Callable[[float], AsyncIterator[list[str]]], full: bool) -> tuple[int, bool]:
    """How many ids a look finds, and whether it came to the end."""
    end = float("inf") if full else time.monotonic() + LIMIT
    count = sum([len(ids) async for ids in look(end)])
    return count, time.monotonic() <= end


def _denied(name: str) -> Finding:
    return Finding(
        name, True, None, "could not be checked: this user may not run INFO", "ACL SETUSER ... +info permits it"
    )


def _memory(info: Mapping[str, str]) -> Finding:
    if not info:
        return _denied("memory")
    used, most, policy = int(info["used_memory"]), int(info.get("maxmemory", 0)), info.get("maxmemory_policy", "")
    detail = f"{used / 2**20:,.1f} MiB in use" + (
        f" of {most / 2**20:,.1f}" if most else ", without a limit (maxmemory)"
    )
    if most and policy != "noeviction":
        detail += f"; when it is full, keys are deleted ({policy}), runs among them"
        return Finding(
            "memory", False, used, detail, "to keep all keys: redis-cli config set maxmemory-policy noeviction"
        )
    if most and used > _FULL * most:
        return Finding("memory", False, used, detail, "raise maxmemory, or make room: lens prune --older-than 30d")
    return Finding("memory", True, used, detail)


def _persistence(info: Mapping[str, str]) -> Finding:
    name = "persistence"
    if not info:
        return _denied(name)
    failed = [what for what in ("rdb_last_bgsave_status", "aof_last_write_status") if info.get(what, "ok") != "ok"]
    if failed:
        detail = f"the server cannot write to its disk ({', '.join(failed)}): what was saved since is in memory alone"
        return Finding(name, False, len(failed), detail, "the server's log says why; make room on its disk")
    if info.get("aof_enabled") == "1":
        return Finding(name, True, 0, "appendonly is on")
    detail = "appendonly is off: if the server dies, what was saved since its last snapshot is lost"
    return Finding(name, True, 0, detail, "where runs must outlive it: redis-cli config set appendonly yes")


def _replication(info: Mapping[str, str]) -> Finding:
    if not info:
        return _denied("replication")
    if info.get("role") == "slave":
        up = info.get("master_link_status") == "up"
        detail = f"a read-only replica of {info.get('master_host')}:{info.get('master_port')}"
        if up:
            return Finding("replication", True, 0, f"{detail}: commands that change something need the primary")
        return Finding(
            "replication", False, 1, f"{detail}, which is away: runs are as they were", "redis-cli info replication"
        )
    return Finding("replication", True, int(info.get("connected_slaves", 0)), "a primary")


def _clients(info: Mapping[str, str]) -> Finding:
    if not info:
        return _denied("connections")
    used, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    detail = f"{used:,}" + (f" of {most:,} are in use" if most else " are in use")
    if most and used > _FULL * most:
        fix = "a smaller pool in each application, or a larger maxclients"
        return Finding("connections", False, used, f"{detail}: the next clients are refused", fix)
    return Finding("connections", True, used, detail)
