"""Which runs a deletion takes: one set of rules for all drivers.

A driver makes a `Member` of each run and offers a `Chooser` whole families, the run itself first, then its
background tasks and theirs. What is chosen goes into a `Chosen` of the driver's, which may be packed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple, Protocol

from flujo_lens.state.deletion import DeletionPlan, DeletionRequest, Retained
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RUN_STATUSES

_ABSENT = frozenset({None, ""})
_KNOWN = frozenset(RUN_STATUSES)
_ENDED = _KNOWN - {"paused", "running"}

_CHANGED = frozenset({"young", "family", "unknown_age", "unknown_status"})
"""Reasons to stay that a run of a plan has got since: it was changed."""


class Member(NamedTuple):
    """What a choice goes by.

    Attributes:
        pipeline: The name of its pipeline.
        updated: Its last update (see `last_sign`); None is never old.
        started: When it started; None if unknown.
        admitted: Whether it fits the filter, its status and its being a task apart.
        parent: The run whose background task it is, if there is that run.
        held: Whether a living process holds it.
        key: How the driver finds it again.
        is_stripped: Whether it has nothing left of the parts that are to be dropped.
    """

    run_id: str
    status: str
    pipeline: str
    updated: datetime | None
    started: datetime | None = None
    admitted: bool = True
    parent: str | None = None
    held: bool = False
    key: Any = None
    is_stripped: bool = False


class Outline(NamedTuple):
    """What the tables of a store tell before its runs are looked at.

    Attributes:
        total: How many runs there are.
        heads: Ids that background tasks name as their runs.
        ids: All runs that may be old enough, belong to families, or need a closer look; None: not known.
    """

    total: int
    heads: frozenset[str] = frozenset()
    ids: frozenset[str] | None = None


class Chosen(Protocol):
    """Where the families go that are chosen."""

    def add(self, members: Sequence[Member]) -> None:
        """Keep a family, in the order of the calls."""


class Families:
    """`Chosen` as a list of the members' ids."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...]] = []

    def add(self, members: Sequence[Member]) -> None:
        self.all.append(tuple(member.run_id for member in members))


class Chooser:
    """Takes what fits a request, and counts what it takes and what stays.

    Args:
        asked: The request; not one for `run_ids`.
        chosen: Where the families go.
    """

    def __init__(self, asked: DeletionRequest, chosen: Chosen) -> None:
        self.asked, self.chosen = asked, chosen
        self.count = 0
        self.by_status: Counter[str] = Counter()
        self.by_pipeline: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self._offered = 0
        self._last: dict[str, list[tuple[float, int, Sequence[Member]]]] = {}

    def offer(self, members: Sequence[Member]) -> None:
        """Decide on a family. A family is offered once."""
        head = members[0]
        if not self._is_wanted(head):
            self.kept["family"] += self._left_behind(members)
            return
        reason, count = self.reason_to_stay(members)
        if count:
            self.kept[reason] += count
        if self.asked.keep_last is not None:
            self._rank(head, () if reason else members)
        elif not reason:
            self.take(members)

    def take(self, members: Sequence[Member]) -> None:
        """Choose a family, whatever the request says; but for runs that are stripped already."""
        members = [member for member in members if not member.is_stripped]
        if not members:
            return
        self.chosen.add(members)
        self.count += len(members)
        for member in members:
            self.by_status[member.status] += 1
            self.by_pipeline[member.pipeline] += 1

    def _is_wanted(self, member: Member) -> bool:
        return member.admitted and self._has_status(member)

    def _left_behind(self, members: Sequence[Member]) -> int:
        """How many tasks fit the request by themselves, and stay since their run, which is as old, does not."""
        if self.asked.wanted.top_level or not self._is_old(members[0]):
            return 0
        return sum(self._is_wanted(member) and self._is_old(member) for member in members[1:])

    def _is_old(self, member: Member) -> bool:
        cutoff = self.asked.cutoff
        return cutoff is None or bool(member.updated and member.updated < cutoff)

    def _has_status(self, member: Member) -> bool:
        return _has_status(self.asked, member)

    def reason_to_stay(self, members: Sequence[Member]) -> tuple[str, int]:
        """Why a family stays (a field of `Retained`, ``young``, or nothing), and the number of its runs to report."""
        cutoff = self.asked.cutoff
        if len(members) == 1 and goes_for_certain(self.asked, members[0]):
            return "", 0
        if cutoff is not None:
            young = [member.updated is not None and member.updated >= cutoff for member in members]
            if any(young):
                return ("young", 0) if young[0] else ("family", 1)
            undated = sum(member.updated is None for member in members)
            if undated:
                return "unknown_age", undated
        if not all(self._has_status(member) for member in members):
            return "family", 1
        paused = sum(member.status == "paused" for member in members)
        if paused and self.asked.keep_paused:
            return "paused", paused
        unknown = sum(member.status not in _KNOWN for member in members)
        if unknown and self.asked.keep_unknown:
            return "unknown_status", unknown
        held = 0 if self.asked.force else sum(member.held or self._may_be_alive(member) for member in members)
        return ("held", held) if held else ("", 0)

    def _may_be_alive(self, member: Member) -> bool:
        """Whether a run may be executed by an application that takes no claim; a time behind the present is a sign."""
        since = self.asked.alive_since
        if since is None or member.status != "running":
            return False
        return member.updated is None or member.updated >= since

    def _rank(self, head: Member, members: Sequence[Member]) -> None:
        """Count a run among the last of its pipeline; take whichever of them is so no more."""
        self._offered += 1
        start = head.started.timestamp() if head.started else float("inf")
        last = self._last.setdefault(head.pipeline, [])
        heapq.heappush(last, (start, self._offered, members))
        if len(last) > (self.asked.keep_last or 0):
            passed = heapq.heappop(last)[2]
            if passed:
                self.take(passed)

    def plan(self, choice: Any, total: int) -> DeletionPlan:
        """The plan, when every family was offered."""
        for last in self._last.values():
            self.kept["last"] += sum(len(members) for _, _, members in last)
        return DeletionPlan(
            request=self.asked,
            choice=choice,
            count=self.count,
            total=total,
            by_status=dict(self.by_status),
            by_pipeline=dict(self.by_pipeline),
            kept=Retained(**self.kept),
        )


def _has_status(asked: DeletionRequest, member: Member) -> bool:
    return not asked.wanted.statuses or member.status in asked.wanted.statuses


def goes_for_certain(asked: DeletionRequest, member: Member) -> bool:
    """Whether a run without tasks can be deleted without a look at other runs, as most can."""
    updated, cutoff = member.updated, asked.cutoff
    is_free = member.status in _ENDED and not member.held and _has_status(asked, member)
    return is_free and bool(updated and cutoff and updated < cutoff)


def families(members: Iterable[Member]) -> list[list[Member]]:
    """Members in families, each with its head first. Those that are each other's tasks in a circle have none."""
    known = {member.run_id: member for member in members}
    found: dict[str, list[Member]] = {}
    for member in known.values():
        head = _head(member, known)
        if head is not None:
            found.setdefault(head.run_id, [head]).extend([member] if member is not head else [])
    return list(found.values())


def in_batches(found: Iterable[Sequence[str]], most: int) -> Iterator[list[Sequence[str]]]:
    """Whole families by `most` runs at a time; a larger family alone."""
    batch: list[Sequence[str]] = []
    for family in found:
        if batch and sum(map(len, batch)) + len(family) > most:
            yield batch
            batch = []
        batch.append(family)
    if batch:
        yield batch


def why_not(asked: DeletionRequest, family: Sequence[Member], tasks: Iterable[Member]) -> str:
    """Why a family of a plan, as it is now, has to stay (see `Skipped`); "" if it goes.

    Args:
        family: What there is of it, the run itself first.
        tasks: All background tasks as they are now: one of the family's that is not in it has come since.
    """
    if asked.run_ids is not None:
        return "held" if not asked.force and any(member.held for member in family) else ""
    if asked.strip and any(member.is_stripped for member in family):
        return "changed"
    ids = {member.run_id for member in family}
    if not asked.strip and any(member.parent in ids and member.run_id not in ids for member in tasks):
        return "changed"
    reason, _ = Chooser(asked, Families()).reason_to_stay(family)
    return skipped_why(reason)


def skipped_why(reason: str) -> str:
    """Why a run of a plan stays (see `Skipped`), for a reason of `Chooser.reason_to_stay`."""
    return "changed" if reason in _CHANGED else reason


def _head(member: Member, known: Mapping[str, Member]) -> Member | None:
    seen = set()
    while member.parent is not None and member.parent != member.run_id and member.parent in known:
        if member.run_id in seen:
            return None
        seen.add(member.run_id)
        member = known[member.parent]
    return member


def last_sign(
    state: Iterable[object], run: Iterable[object], zones: Sequence[tzinfo], now: datetime
) -> datetime | None:
    """The last update of a run, for a deletion; None, which is never old, if a time cannot be read, there is none,
    or one lies behind `now`.

    Args:
        state: The times of its state; naive ones may be of any of the `zones`, and the youngest reading counts.
        run: Those of its row of ``runs``, where naive ones are UTC.
        zones: At least one.
    """
    if len(zones) == 1 and zones[0] is UTC:  # as nearly all are read, in a third of the time
        read = [parse_instant(_text(value)) for value in _set(*state, *run)]
    else:
        read = [_youngest(value, zones) for value in _set(*state)]
        read += [parse_instant(_text(value)) for value in _set(*run)]
    known = [when for when in read if when is not None]
    if not known or len(known) < len(read):
        return None
    newest = max(known)
    return newest if newest <= now else None


def _set(*times: object) -> Collection[object]:
    """The times that are set, each of them once if it can be: a file of JSON holds a list as well as a text."""
    try:
        return {*times} - _ABSENT
    except TypeError:
        return [value for value in times if value is not None and value != ""]


def _text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _youngest(value: object, zones: Sequence[tzinfo]) -> datetime | None:
    """A time of a state; of a naive one in the hour that the clock shows twice, the second."""
    text = _text(value)
    first = parse_instant(text, zones[0])
    if first is None or (len(zones) == 1 and zones[0] is UTC):
        return first
    naive = datetime.fromisoformat(str(text))
    if naive.tzinfo is not None:
        return first
    try:
        return max(naive.replace(tzinfo=zone, fold=fold).astimezone(UTC) for zone in zones for fold in (0, 1))
    except (ValueError, OverflowError):
        return None
