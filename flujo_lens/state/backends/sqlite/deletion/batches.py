"""Batches of a deletion: families by the rows that a plan knows them by, and what there is of them now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from flujo_lens.state.backends.core.selection import Member
from flujo_lens.state.backends.sqlite.deletion.plan import Key
from flujo_lens.state.backends.sqlite.deletion.queries import HEADS
from flujo_lens.state.deletion import Skipped


class Family(NamedTuple):
    """The rows of a family, or of a part of it; `whole` is the number of the family that it is a part of."""

    keys: list[Key]
    whole: int = 0


class Batch(NamedTuple):
    """Families of a plan, and whether their deletion began earlier; or ids whose rows belong to no run."""

    families: list[Family]
    begun: bool = False
    orphans: tuple[Any, ...] = ()


class Going(NamedTuple):
    """A family that goes."""

    family: Family
    members: list[Member]


class Seen:
    """Runs as they are now, by the rows that a plan knows them by."""

    def __init__(self, found: Sequence[Member]) -> None:
        self.by_key = {member.key: member for member in found}
        self._by_row = {row: member.run_id for member in found for row in _rows_of(member.key)}
        self.twins: dict[str, list[Member]] = {}
        for member in found:
            self.twins.setdefault(member.run_id, []).append(member)

    def of(self, family: Family) -> tuple[list[Member], list[str]]:
        """The members that are where they were, and those of which only a row is."""
        members = [self.by_key[key] for key in family.keys if key in self.by_key]
        gone = [key for key in family.keys if key not in self.by_key]
        moved = {self._by_row[row]: None for key in gone for row in _rows_of(key) if row in self._by_row}
        return members, list(moved)


def _rows_of(key: Key) -> list[tuple[str, int, int]]:
    """The rows of a run, those that it has."""
    return [(table, rowid, key.name) for table, rowid in zip(HEADS, key[:2], strict=True) if rowid]


def sign(member: Member) -> str:
    """What every save of a run changes."""
    return f"{member.status} {member.updated}"


def without(going: Sequence[Going], changed: set[str]) -> tuple[list[Going], list[Skipped]]:
    """The families that go without those of which a run has changed."""
    stay = [one for one in going if any(member.run_id in changed for member in one.members)]
    skipped = [Skipped(member.run_id, "changed") for one in stay for member in one.members]
    return [one for one in going if one not in stay], skipped


def count_heads(members: Sequence[Member]) -> int:
    """How many rows of states and runs these have."""
    return len({row for member in members for row in _rows_of(member.key)})
