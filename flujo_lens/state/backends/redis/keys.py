"""The names of a store's keys.

A state is at ``PREFIX + run_id``, as plain JSON, where other programs find it. All else is behind ``PREFIX:lens:``::

    made            string   the version of this layout; a store without it has no index
    changes         string   how many transactions have written
    order           zset     run ids by start, in microseconds
    updated         zset     run ids by last update
    ids             zset     run ids by their bytes
    index           hash     run id -> [start, update, status, pipeline, version, parent, is_task, expiry]
    status:S        zset     run ids of one status by start; `statuses` is the set of them
    tasks:ID        zset     background tasks of a run by start; `parents` is the set of runs that have some
    expires         zset     run ids by expiry, in milliseconds
    run:ID          string   metadata of a run
    step:ID         list     its steps, oldest first
    evaluation:ID   list     its evaluations; `evaluated` is the set of ids that have some
    span:ID         hash     its spans: "=" + span id -> number, blank, JSON; "n" is the number of the last
    claim:ID        string   who works on it; `claims` is the set of runs that are claimed
    binding:ID      string   the digest of its manifest
    manifest        hash     digest -> manifest
    strip           hash     run id -> what was dropped of it
    system          hash     key -> system state
    audit           hash     number -> line of the audit log; `audit_head` has its end
    tx:CLIENT-N     string   the number of the last transaction that a client committed; expires
"""

from __future__ import annotations

from collections.abc import Sequence

RESERVED = ":lens:"
"""What no run id begins with."""


class Keys:
    """Keys under one prefix, as bytes.

    Args:
        prefix: What all of them begin with.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode("utf-8", "surrogatepass")
        self.own = self.prefix + RESERVED.encode()
        self.made, self.changes, self.order, self.updated, self.ids, self.index = map(
            self.named, ("made", "changes", "order", "updated", "ids", "index")
        )
        self.statuses, self.parents, self.claims, self.evaluated, self.expires = map(
            self.named, ("statuses", "parents", "claims", "evaluated", "expires")
        )
        self.types = {
            **{self.named(name): b"zset" for name in ("order", "updated", "ids", "expires")},
            **{self.named(name): b"set" for name in ("statuses", "parents", "claims", "evaluated")},
            **{self.named(name): b"hash" for name in ("index", "manifest", "strip", "system", "audit", "audit_head")},
            **{self.named(name): b"string" for name in ("made", "changes")},
        }

    def named(self, name: str) -> bytes:
        """A key that the store has once."""
        return self.own + name.encode()

    def state(self, run_id: str) -> bytes:
        """The key of a state."""
        return self.prefix + run_id.encode()

    def of(self, kind: str, name: str) -> bytes:
        """A key that there is for each run, status or parent."""
        return b"%s%s:%s" % (self.own, kind.encode(), name.encode("utf-8", "surrogatepass"))

    def of_run(self, run_id: str) -> Sequence[bytes]:
        """All keys that are a run's alone."""
        kinds = ("run", "step", "span", "evaluation", "claim", "binding")
        return (self.state(run_id), *(self.of(kind, run_id) for kind in kinds))

    def run_id(self, key: bytes) -> str | None:
        """The run whose state is at a key; None if it is of no run that could have been saved."""
        if key.startswith(self.own) or not key.startswith(self.prefix):
            return None
        try:
            return key[len(self.prefix) :].decode()
        except UnicodeDecodeError:
            return None
