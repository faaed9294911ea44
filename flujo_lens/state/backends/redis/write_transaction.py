"""A transaction that writes: what it reads is watched, what it writes goes out at its end, in one MULTI."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError, WatchError

from flujo_lens.errors import OperationFailedError, StoreNotFoundError
from flujo_lens.state.backends.core.port import ChildKind, ChildRow, RunIndex, RunRow, Space
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.errors import translate
from flujo_lens.state.backends.redis.index import FINISHED, Entry, listed, removal, unlisted
from flujo_lens.state.backends.redis.keys import RESERVED, Keys
from flujo_lens.state.backends.redis.read_transaction import (
    IDS_AT_ONCE,
    Channel,
    ReadTransaction,
    checked,
    is_storable,
    key_of,
    missing,
    row_of,
)
from flujo_lens.state.backends.redis.script import Known


class AppliedError(Exception):
    """The transaction was committed before; its answer was lost."""


class _Found(NamedTuple):
    """A run as it is stored."""

    row: RunRow
    claim: bytes | None = None
    binding: bytes | None = None
    entry: Entry | None = None


class WriteTransaction(ReadTransaction):
    """Reads and watches; its writes are seen by its own later reads of the same runs, and sent by `commit`.

    Args:
        keys, link, shown: As of `ReadTransaction`.
        token: Key and number by which it is known that this transaction was committed (none: it is not), and whether a
            store that is not there is made.
        ttl: Seconds that a finished run is kept; None for ever.
        types: Types that keys must have, unless that is known.
    """

    def __init__(
        self,
        keys: Keys,
        link: Channel,
        shown: str,
        token: tuple[bytes, bytes, bool],
        ttl: int | None,
        types: Mapping[bytes, bytes],
    ) -> None:
        super().__init__(keys, link, shown, "write")
        self._token, self._ttl, self._types = token, ttl, types
        self.is_sent = False
        self._found: dict[str, _Found] = {}
        self._rows: dict[str, tuple[RunRow, RunIndex]] = {}
        self._values: dict[tuple[str, str], bytes | None] = {}
        self._dropped: dict[str, None] = {}
        self._new: dict[tuple[ChildKind, str], list[ChildRow]] = {}
        self._replaced: set[tuple[ChildKind, str]] = set()
        self._numbers: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}

    def assume(self, known: Known) -> None:
        """Take for granted what is known of a run, in place of reading it."""
        run_id = known.row.run_id
        self._found[run_id] = _Found(known.row, known.claim, known.binding, known.entry)
        self._numbers[run_id] = known.spans
        self.packets, self.is_made = 1, True

    def left(self, run_id: str | None) -> Known | None:
        """What a run is after this transaction; None if it does not know."""
        found = self._found.get(run_id or "")
        if run_id is None or found is None or run_id in self._dropped or run_id not in self._numbers:
            return None
        row = self._rows[run_id][0] if run_id in self._rows else found.row
        if row.unreadable or (row.state is None and row.run is None):
            return None
        claim = self._values.get(("claim", run_id), found.claim)
        binding = self._values.get(("binding", run_id), found.binding)
        spans = self._numbers[run_id] + len(self._new.get(("span", run_id), ()))
        return Known(row, claim, binding, self._entries.get(run_id, found.entry), spans)

    # --- reading

    async def _asked_watching(self, commands: Sequence[Command], watched: Sequence[bytes]) -> list[Any]:
        before = self._beginning() if self.packets == 1 else []
        before += [("WATCH", *watched)] if watched else []
        self.is_watching |= bool(before)
        answers = await self.link.exchange([*before, *commands])
        for answer in answers[: len(before)]:
            if isinstance(answer, ResponseError):
                raise answer
        if self.packets == 1:
            self._begun(answers[1:])
        return answers[len(before) :]

    def _beginning(self) -> list[Command]:
        """What a transaction that writes looks at first: whether it was committed before, and what it will meet."""
        key = self._token[0]
        types: list[Command] = [("TYPE", name) for name in self._types]
        return [("WATCH", key), ("MGET", key, self.keys.made), *types]

    def _begun(self, answers: Sequence[Any]) -> None:
        number, made = answers[0]
        self.is_made = made is not None
        if number == self._token[1]:
            raise AppliedError
        for (name, wanted), found in zip(self._types.items(), answers[1:], strict=False):
            if found not in (wanted, b"none"):
                raise translate(ResponseError("WRONGTYPE"), self.shown, name)
        if not self.is_made and not self._token[2]:
            raise StoreNotFoundError(missing(self.shown).message, hint="nothing was created")

    async def lock(self, run_ids: Iterable[str]) -> None:
        """Watch the runs: a write to one of them restarts this transaction."""
        await self._fetch(run_ids)

    async def _fetch(self, run_ids: Iterable[str]) -> None:
        """Read runs that were not read yet, with all that their keys tell, and watch them."""
        ids = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._found and is_storable(run_id)]
        for at in range(0, len(ids), IDS_AT_ONCE):
            part, keys = ids[at : at + IDS_AT_ONCE], self.keys
            names = [keys.of(kind, run_id) for run_id in part for kind in ("run", "claim", "binding")]
            answers = await self.ask(
                [
                    *(("GET", keys.state(run_id)) for run_id in part),
                    ("MGET", keys.made, *names),
                    ("HMGET", keys.index, *(run_id.encode() for run_id in part)),
                    *self._of_children(part),
                ],
                (key for run_id in part for key in keys.of_run(run_id)),
            )
            *states, (made, *values), entries = answers[: len(part) + 2]
            self.is_made = made is not None
            if len(answers) > len(part) + 2:
                self._numbers[part[0]] = int(answers[-2] or 0)
            for number, run_id in enumerate(part):
                run, claim, binding = values[3 * number : 3 * number + 3]
                entry = None if entries[number] is None else Entry.loaded(entries[number])
                self._found[run_id] = _Found(row_of(run_id, states[number], run), claim, binding, entry)

    def _of_children(self, run_ids: Sequence[str]) -> list[Command]:
        """For one run that is written: the number of its last span; an error, should a key be of another type."""
        if self.mode != "write" or len(run_ids) > 1:
            return []
        return [("HGET", self.keys.of("span", run_ids[0]), "n"), ("LLEN", self.keys.of("step", run_ids[0]))]

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return the runs by id, as they are after what was written here."""
        await self._fetch(run_ids)
        rows = {run_id: self._row(run_id) for run_id in run_ids if run_id in self._found}
        return {run_id: row for run_id, row in rows.items() if row.state is not None or row.run is not None}

    def _row(self, run_id: str) -> RunRow:
        if run_id in self._dropped:
            return RunRow(run_id)
        return self._rows[run_id][0] if run_id in self._rows else self._found[run_id].row

    async def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        """Yield the rows of one kind, those that this transaction adds, too."""
        ids = await self._all_with(kind) if run_ids is None else run_ids
        stored: dict[str, list[ChildRow]] = {run_id: [] for run_id in ids}
        async for row in super().children(kind, ids):
            stored[row.run_id].append(row)
        for run_id, rows in stored.items():
            for row in self._with_new(kind, run_id, rows):
                yield row

    def _with_new(self, kind: ChildKind, run_id: str, stored: list[ChildRow]) -> list[ChildRow]:
        if run_id in self._dropped or (kind, run_id) in self._replaced:
            stored = []
        new = self._new.get((kind, run_id), [])
        keys = {row.key for row in new} - {None}
        return [row for row in stored if row.key not in keys] + new

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return values by key."""
        found = await super().get(space, keys)
        changed = {key: value for (of, key), value in self._values.items() if of == space}
        return {key: value for key, value in {**found, **changed}.items() if value is not None}

    async def _of_runs(self, space: Space, ids: Sequence[str]) -> dict[str, bytes]:
        await self._fetch(ids)
        found = {run_id: getattr(self._found[run_id], space) for run_id in ids if run_id not in self._dropped}
        return {run_id: value for run_id, value in found.items() if value is not None}

    # --- writing

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        """Save state and metadata, and what the run is found by."""
        _check_id(row.run_id)
        await self._fetch([row.run_id])
        self._rows[row.run_id] = (row, index)

    async def put_children(self, kind: ChildKind, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        """Add rows; spans take the place of those with their ids."""
        if replaces is not None:
            self._replaced.add((kind, replaces))
            self._new.pop((kind, replaces), None)
        by_run: dict[str, list[ChildRow]] = {} if replaces is None else {replaces: []}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
        await self._prepare(kind, by_run)
        for run_id, new in by_run.items():
            keys = {row.key for row in new} - {None}
            before = [row for row in self._new.get((kind, run_id), []) if row.key not in keys]
            self._new[kind, run_id] = before + list({row.key or id(row): row for row in new}.values())

    async def _prepare(self, kind: ChildKind, run_ids: Iterable[str]) -> None:
        """See that rows can be added: the types of their keys, and the numbers of the last spans."""
        for run_id in run_ids:
            _check_id(run_id)
        asked = [run_id for run_id in run_ids if run_id not in self._numbers or kind == "evaluation"]
        for at in range(0, len(asked), IDS_AT_ONCE):
            part = asked[at : at + IDS_AT_ONCE]
            names = [self.keys.of(kind, run_id) for run_id in part]
            counts: list[Command] = [("HGET", name, "n") if kind == "span" else ("LLEN", name) for name in names]
            entries: list[Command] = [("HGET", self.keys.index, run_id.encode()) for run_id in part]
            answers = await self.ask([*counts, *entries], names)
            for run_id, last, entry in zip(part, answers, answers[len(part) :], strict=False):
                if kind == "span":
                    self._numbers[run_id] = int(last or 0)
                if run_id not in self._found and entry is not None and Entry.loaded(entry).expires is not None:
                    await self._fetch([run_id])

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        """Set or remove a value."""
        if space in ("claim", "binding"):
            _check_id(key)
        self._values[space, key] = value

    async def drop(self, run_ids: Sequence[str]) -> None:
        """Remove runs with all that belongs to them."""
        ids = [run_id for run_id in run_ids if is_storable(run_id)]
        await self._fetch(ids)
        for run_id in ids:
            self._dropped[run_id] = None
            self._rows.pop(run_id, None)
            for changed in [key for key in self._new if key[1] == run_id]:
                del self._new[changed]
            for value in [key for key in self._values if key[1] == run_id and key[0] in ("claim", "binding", "strip")]:
                del self._values[value]

    # --- the end

    async def commit(self) -> None:
        """Send what was written, if nothing that was read has changed since.

        Raises:
            WatchError: something has changed, and nothing was written.
        """
        if not self.packets:
            await self.ask([])
        commands = self.commands()
        if not commands:
            return
        self.is_sent, self.is_watching = True, False
        *_, done = checked(await self.link.exchange([("MULTI",), *commands, ("EXEC",)]))
        if done is None:
            raise WatchError("a key that was read has changed")
        for command, answer in zip(commands, done, strict=True):
            if isinstance(answer, ResponseError):
                raise translate(answer, self.shown, key_of(command)) from answer

    def commands(self) -> list[Command]:
        """What is written, with the number of this transaction; nothing if there is nothing to write."""
        found = self._commands()
        if not self.is_made:
            found.append(("SET", self.keys.made, 1))
        if found and self._token[1]:
            found.append(("INCR", self.keys.changes))
            found.append(("SET", self._token[0], self._token[1], "PX", 3_600_000))
        return found

    def _commands(self) -> list[Command]:
        found: list[Command] = []
        for run_id in self._dropped:
            found += removal(self.keys, run_id, self._found[run_id].entry)
        for (kind, run_id), rows in self._new.items():
            found += self._child_commands(kind, run_id, rows)
        for row, index in self._rows.values():
            found += self._run_commands(row, index)
        for (space, key), value in self._values.items():
            found += self._value_commands(space, key, value)
        for run_id in dict.fromkeys([*self._rows, *(run_id for _, run_id in [*self._new, *self._bound()])]):
            found += self._expiry_commands(run_id)
        return found

    def _bound(self) -> list[tuple[str, str]]:
        return [key for key in self._values if key[0] in ("claim", "binding")]

    def _child_commands(self, kind: ChildKind, run_id: str, rows: Sequence[ChildRow]) -> list[Command]:
        name = self.keys.of(kind, run_id)
        found: list[Command] = [("DEL", name)] if (kind, run_id) in self._replaced else []
        if rows and kind == "span":
            last = self._numbers[run_id]
            pairs: list[Any] = ["n", last + len(rows)]
            for number, row in enumerate(rows, last + 1):
                field = f"#{number}" if row.key is None else f"={row.key}"
                pairs += [field.encode("utf-8", "surrogatepass"), b"%d %s" % (number, row.data)]
            found.append(("HSET", name, *pairs))
        elif rows:
            found.append(("RPUSH", name, *(row.data for row in rows)))
        if rows and kind == "evaluation":
            found.append(("SADD", self.keys.evaluated, run_id.encode()))
        return found

    def _run_commands(self, row: RunRow, index: RunIndex) -> list[Command]:
        keys, run_id = self.keys, row.run_id
        stored = _Found(RunRow(run_id)) if run_id in self._dropped else self._found[run_id]
        before = stored.row
        found: list[Command] = []
        for name, old, new in (
            (keys.state(run_id), before.state, row.state),
            (keys.of("run", run_id), before.run, row.run),
        ):
            if new is None and old is not None:
                found.append(("DEL", name))
            elif new is not None and new != old:
                found.append(("SET", name, new))
        if row.state is None and row.run is None:
            return found + unlisted(keys, run_id, stored.entry)
        entry = self._entries[run_id] = Entry(index, self._expiry(run_id, index))
        return found + listed(keys, run_id, stored.entry, entry)

    def _expiry(self, run_id: str, index: RunIndex) -> int | None:
        if self._ttl is None or index.status not in FINISHED:
            return None
        return int(time.time() * 1000) + self._ttl * 1000

    def _expiry_commands(self, run_id: str) -> list[Command]:
        """What keeps all keys of a run for the same time: a SET has dropped it, a new list has none."""
        stored = self._found.get(run_id)
        before = None if stored is None or stored.entry is None else stored.entry.expires
        after = before
        if run_id in self._rows:
            after = self._expiry(run_id, self._rows[run_id][1])
        names = self.keys.of_run(run_id)
        if after is not None:
            return [("PEXPIREAT", name, after) for name in names]
        return [("PERSIST", name) for name in names] if before is not None else []

    def _value_commands(self, space: str, key: str, value: bytes | None) -> list[Command]:
        name, field = self.keys.named(space), key.encode("utf-8", "surrogatepass")
        if space not in ("claim", "binding"):
            return [("HDEL", name, field) if value is None else ("HSET", name, field, value)]
        name = self.keys.of(space, key)
        found: list[Command] = [("DEL", name) if value is None else ("SET", name, value)]
        if space == "claim":
            found.append(("SREM" if value is None else "SADD", self.keys.claims, field))
        return found


def _check_id(run_id: str) -> None:
    if not is_storable(run_id):
        raise OperationFailedError(f"a run id must not begin with {RESERVED!r}, which is reserved: {run_id!r}")
