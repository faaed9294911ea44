"""The index: what it says of a run, and the commands that make it say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.core.port import NO_START, RunIndex, micros
from flujo_lens.state.backends.redis.connection import Command
from flujo_lens.state.backends.redis.keys import Keys
from flujo_lens.state.views import UNREADABLE, RunFilter

FINISHED = frozenset({"completed", "cancelled"})
"""Runs that a ttl applies to: a failed one can go on yet."""

_ZONES = 26 * 3_600 * 1_000_000
"""Microseconds by which a naive time differs at most from one zone to another: the index has that of who saved."""
_DOUBTFUL = frozenset({"failed", "cancelled", "paused"})


class Entry(NamedTuple):
    """What the index says of a run, and when it expires: in milliseconds since 1970; None for never."""

    found_by: RunIndex
    expires: int | None = None

    def dumped(self) -> bytes:
        return safe_dumps([*self.found_by, self.expires])

    @classmethod
    def loaded(cls, data: bytes) -> Entry:
        *fields, expires = safe_loads(data)
        return cls(RunIndex(*fields), expires)


def listed(keys: Keys, run_id: str, before: Entry | None, after: Entry) -> list[Command]:
    """What makes the index say of a run what it says after a save."""
    if before == after:
        return []
    member, old, new = run_id.encode(), before.found_by if before else None, after.found_by
    found: list[Command] = [("HSET", keys.index, member, after.dumped())]
    if old is None:
        found.append(("ZADD", keys.ids, 0, member))
    if old is None or old.updated != new.updated:
        found.append(("ZADD", keys.updated, new.updated, member))
    if old is None or old.started != new.started:
        found.append(("ZADD", keys.order, new.started, member))
    if old is None or (old.status, old.started) != (new.status, new.started):
        if old is not None and old.status != new.status:
            found.append(("ZREM", keys.of("status", old.status), member))
        found.append(("ZADD", keys.of("status", new.status), new.started, member))
        found.append(("SADD", keys.statuses, new.status.encode("utf-8", "surrogatepass")))
    if old is not None and old.parent is not None and old.parent != new.parent:
        found.append(("ZREM", keys.of("tasks", old.parent), member))
    if new.parent is not None and (old is None or (old.parent, old.started) != (new.parent, new.started)):
        found.append(("ZADD", keys.of("tasks", new.parent), new.started, member))
        found.append(("SADD", keys.parents, new.parent.encode("utf-8", "surrogatepass")))
    if after.expires is not None:
        found.append(("ZADD", keys.expires, after.expires, member))
    elif before is not None and before.expires is not None:
        found.append(("ZREM", keys.expires, member))
    return found


def unlisted(keys: Keys, run_id: str, before: Entry | None) -> list[Command]:
    """What takes a run out of the index."""
    if before is None:
        return []
    member = run_id.encode()
    places = [keys.order, keys.updated, keys.ids, keys.expires, keys.of("status", before.found_by.status)]
    if before.found_by.parent is not None:
        places.append(keys.of("tasks", before.found_by.parent))
    return [("HDEL", keys.index, member), *(("ZREM", place, member) for place in places)]


def removal(keys: Keys, run_id: str, before: Entry | None) -> list[Command]:
    """What removes a run with all that belongs to it."""
    sets = [("SREM", name, run_id.encode()) for name in (keys.claims, keys.evaluated)]
    note = ("HDEL", keys.named("strip"), run_id.encode())
    return [("UNLINK", *keys.of_run(run_id)), *sets, note, *unlisted(keys, run_id, before)]


def statuses_stored(wanted: RunFilter) -> frozenset[str] | None:
    """Which statuses of the index the runs that a filter admits can have; None for any.

    The writer of a run may have had a key that the reader lacks: an encrypted context or history decides between
    paused and failed, failed and cancelled.
    """
    if not wanted.statuses or UNREADABLE in wanted.statuses:
        return None
    return wanted.statuses | (_DOUBTFUL if wanted.statuses & _DOUBTFUL else frozenset())


def sources(keys: Keys, hint: RunFilter) -> list[bytes]:
    if hint.parent is not None:
        return [keys.of("tasks", hint.parent)]
    statuses = statuses_stored(hint)
    return [keys.order] if statuses is None else [keys.of("status", status) for status in sorted(statuses)]


def start_bounds(hint: RunFilter) -> tuple[bytes, bytes]:
    """Between which scores the runs that a filter admits are, by their start."""
    low = b"-inf" if hint.since is None else b"%d" % (micros(hint.since) - _ZONES)
    return low, b"+inf" if hint.until is None else b"%d" % (micros(hint.until) + _ZONES)


def entry_filter(hint: RunFilter) -> Callable[[RunIndex], bool] | None:
    """What an entry of the index has to be for a filter; None if the filter asks for nothing that it tells."""
    if hint._replace(statuses=frozenset(), parent=None, error=None, search=None, meta=()) == RunFilter():
        return None

    def lies(when: int, since: Any, until: Any) -> bool:
        if since is None and until is None:
            return True
        late = since is None or when >= micros(since) - _ZONES
        return when != NO_START and late and (until is None or when < micros(until) + _ZONES)

    def admits(index: RunIndex) -> bool:
        return (
            hint.pipeline in (None, index.pipeline)
            and hint.version in (None, index.version)
            and not (hint.top_level and index.is_task)
            and not (hint.tasks_only and not index.is_task)
            and lies(index.started, hint.since, hint.until)
            and lies(index.updated, hint.active_since, hint.active_until)
        )

    return admits
