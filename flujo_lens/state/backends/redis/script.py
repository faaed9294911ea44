"""A save in one packet: what the last save of a run left is remembered, and a script writes if that is still so.

The script compares what is stored with digests of what is remembered, and does nothing where anything differs; then the
transaction is begun anew, and reads. Documents, scores and times go through it as they came: none is a number in Lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from threading import Lock
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.port import RunRow
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.index import Entry
from flujo_lens.state.backends.redis.keys import Keys

_SCRIPT = b"""
local count = tonumber(ARGV[2])
local found = redis.call('MGET', unpack(KEYS, 1, count))
for i = 1, count do
  if (found[i] and redis.sha1hex(found[i]) or '') ~= ARGV[4 + i] then return 0 end
end
if (redis.call('HGET', KEYS[count + 1], ARGV[1]) or '') ~= ARGV[3] then return 0 end
if (redis.call('HGET', KEYS[count + 2], 'n') or '0') ~= ARGV[4] then return 0 end
local at = 5 + count
while ARGV[at] do
  local size = tonumber(ARGV[at])
  local command = {ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])]}
  for i = 3, size do command[i] = ARGV[at + i] end
  redis.call(unpack(command))
  at = at + size + 1
end
return 1
"""
_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_RUNS, _LARGEST, _MOST_ARGUMENTS = 128, 65_536, 500


class Known(NamedTuple):
    """What the last save of a run left.

    Attributes:
        row: State and metadata.
        claim, binding: Who works on it, and the digest of its manifest.
        entry: What the index says.
        spans: The number of its last span.
    """

    row: RunRow
    claim: bytes | None
    binding: bytes | None
    entry: Entry | None
    spans: int


class Memory:
    """What is known of the runs that were saved last, of small ones."""

    def __init__(self) -> None:
        self._runs: dict[str, Known] = {}
        self._lock = Lock()

    def of(self, run_id: str | None) -> Known | None:
        """What is known of a run."""
        return None if run_id is None else self._runs.get(run_id)

    def keep(self, run_id: str | None, known: Known | None) -> None:
        """Remember a run, or forget it."""
        if run_id is None:
            return
        with self._lock:
            self._runs.pop(run_id, None)
            if known is not None and len(known.row.state or b"") + len(known.row.run or b"") <= _LARGEST:
                self._runs[run_id] = known
            if len(self._runs) > _RUNS:
                del self._runs[next(iter(self._runs))]


def guarded(keys: Keys, known: Known, token: tuple[bytes, bytes], commands: Sequence[Command]) -> Command | None:
    """The call of the script that does `commands` if a run is as it is known; None if it cannot do them.

    Args:
        keys: The store's.
        known: The run.
        token: The key of this transaction, and the number that it should have.
        commands: Each with its key first.
    """
    run_id, at = known.row.run_id, dict[bytes, int]()
    compared = {
        token[0]: token[1] or None, keys.made: b"1", keys.state(run_id): known.row.state,
        keys.of("run", run_id): known.row.run, keys.of("claim", run_id): known.claim,
        keys.of("binding", run_id): known.binding,
    }  # fmt: skip
    for key in (*compared, keys.index, keys.of("span", run_id), *(command[1] for command in commands)):
        at.setdefault(key, len(at) + 1)
    digests = [b"" if value is None else sha1(value, usedforsecurity=False).hexdigest() for value in compared.values()]
    entry = b"" if known.entry is None else known.entry.dumped()
    given: list[Any] = [run_id.encode(), len(compared), entry, known.spans, *digests]
    for name, key, *values in commands:
        if name in ("UNLINK", "DEL") and values:
            return None
        given += [len(values) + 2, name, at[key], *values]
    if len(given) > _MOST_ARGUMENTS:
        return None
    return ("EVALSHA", _SHA, len(at), *at, *given)


def whole_script(call: Command) -> Command:
    """The same call for a server that does not have the script yet."""
    return ("EVAL", _SCRIPT, *call[2:])
