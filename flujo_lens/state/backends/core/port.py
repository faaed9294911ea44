"""The port: what a driver provides, so that `CoreBackend` can do the rest.

The core knows the rules: what a status means, which runs a filter admits, who holds a claim, what a deletion takes.
A driver knows an engine: how a transaction begins and ends, how rows are found by their key, and in which order runs
are listed. It never interprets what it stores, with one exception: a driver for the tables of another
application maps its rows to theirs and back.

A driver is a `Store`. Everything happens inside a `Transaction` of it, handed to a coroutine function, the *work*:

    async def work(tx: Transaction) -> None:
        await tx.lock(["run-1"])
        found = await tx.runs(["run-1"])
        ...
        await tx.put_run(row, index)

    await store.write(work)

The store may call the work again from its start (a serialization failure, a conflict, a schema that had to be made
first), so the work has no effect but its writes. For an engine that blocks, the methods of the transaction never
suspend: the whole coroutine runs on the engine's thread, one hop a call (see `run_without_waiting`).

What a driver can do faster than the core's own scan, it offers by a further protocol, which the core asks for by
`isinstance`: `AddsRuns`, `ListsRuns`, `ReadsStates`, `PutsStates`, `CountsRuns`, `TellsFigures`, `MeasuresRuns`,
`ListsMembers`, `SelectsMembers`, `SkipsLocked`, `MarksRuns`, `TellsChanges`. A driver without them is right, only
slower on large stores. One that keeps runs in a form of its own, which is to come back as it was, is `CopiesRuns`.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
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
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.aggregate import FailedGroup, RunGroup, SpanTally
    from flujo_lens.state.backends.core.selection import Member, Outline
    from flujo_lens.state.deletion import DeletionRequest, Record, Restored
    from flujo_lens.state.groups import Grouping
    from flujo_lens.state.interpret import RawRun
    from flujo_lens.state.views import RunSummary

__all__ = [
    "CHILD_KINDS",
    "NO_START",
    "AddsRuns",
    "ChecksWrites",
    "ChildKind",
    "ChildRow",
    "CopiesRuns",
    "CountsRuns",
    "Figures",
    "KeyValues",
    "ListedRun",
    "ListsMembers",
    "ListsRuns",
    "MarksRuns",
    "MeasuresRuns",
    "PutsStates",
    "ReadsStates",
    "RunIndex",
    "RunRow",
    "SelectsMembers",
    "SkipsLocked",
    "Space",
    "Store",
    "TellsChanges",
    "TellsFigures",
    "Transaction",
    "ValueWork",
    "Work",
    "micros",
    "run_without_waiting",
]

T = TypeVar("T")

ChildKind = Literal["step", "span", "evaluation"]
CHILD_KINDS: tuple[ChildKind, ...] = ("step", "span", "evaluation")

Space = Literal["claim", "manifest", "binding", "strip", "system", "audit", "audit_head"]
"""Key-value spaces: claims by run id, manifests by digest, the digest of a run's manifest by run id, notes of what was
stripped of a run by run id (see `flujo_lens.state.stripped`), system state; of a store that keeps its audit log
(`CoreBackend.keeps_audit`) its lines by number, and its end."""

NO_START = -(2**53)
"""`RunIndex.started` of a run without a readable start: before all others, and exact as a double."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(when: datetime | None) -> int:
    """An instant as drivers order by it: microseconds since 1970; `NO_START` for None."""
    if when is None:
        return NO_START
    since = when - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class RunIndex(NamedTuple):
    """What runs are found by. The core makes it at every write; a driver stores it and filters by it.

    Attributes:
        started: Microseconds since 1970, or `NO_START`.
        updated: The last update, in the same way.
        status: The status by the run's own rows. The effective one can differ where history decides.
        pipeline: The pipeline's name.
        version: Its version.
        parent: The run whose background task it is; None for none.
        is_task: Whether it is a background task.
    """

    started: int = NO_START
    updated: int = NO_START
    status: str = "running"
    pipeline: str = "unknown"
    version: str = "latest"
    parent: str | None = None
    is_task: bool = False


class RunRow(NamedTuple):
    """What is stored of a run: two JSON documents, each None where the run has none.

    Attributes:
        run_id: The run.
        state: Its saved state, as of `StateBackend.save_state`; large fields may be sealed.
        run: Its metadata, as of `save_run_start` and `save_run_end`.
        problems: What cannot be read of it, in words. Empty where a store keeps nothing but what it wrote.
        unreadable: Whether `state` is there, and is no document; the first problem says why.
        changed_at: When a state that is unreadable was written.
    """

    run_id: str
    state: bytes | None = None
    run: bytes | None = None
    problems: tuple[str, ...] = ()
    unreadable: bool = False
    changed_at: datetime | None = None


class ChildRow(NamedTuple):
    """A row that belongs to a run: a step, a span or an evaluation.

    Attributes:
        run_id: The run; of an evaluation it need not be known.
        data: A JSON document.
        key: A later row of the same run, kind and key takes its place (spans, by their id); None: all are kept.
    """

    run_id: str
    data: bytes
    key: str | None = None


class KeyValues(Protocol):
    """The part of a transaction that has no runs in it: all that claims, manifests and bindings need."""

    async def get(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return the values of these keys, those that there are; of all keys for None."""
        ...

    async def set(self, space: Space, key: str, value: bytes | None) -> None:
        """Set a key; None removes it."""
        ...

    async def lock(self, run_ids: Iterable[str]) -> None:
        """Keep others from writing these runs, their claims and bindings until the transaction ends."""
        ...


class Transaction(KeyValues, Protocol):
    """One transaction or one snapshot: all that is read is of one moment, all that is written of one, too."""

    async def runs(self, run_ids: Sequence[str]) -> Mapping[str, RunRow]:
        """Return those of these runs that have a state or metadata."""
        ...

    def scan(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncIterator[RunRow]:
        """Yield runs by (`RunIndex.started`, id), the highest first; with `reverse` the lowest.

        Args:
            hint: May be used to leave runs out; what it lets through too much, the core leaves out.
            after: Begin behind this position.
            reverse: The lowest first.
            limit: As many are wanted at most; more may come.
        """
        ...

    async def ids(self, prefix: str, limit: int) -> list[str]:
        """Return the ids of runs that begin with `prefix`, in code point order."""
        ...

    async def tasks_of(self, run_ids: Sequence[str]) -> list[str]:
        """Return the ids of runs whose `RunIndex.parent` is one of these."""
        ...

    def children(self, kind: ChildKind, run_ids: Sequence[str] | None) -> AsyncIterator[ChildRow]:
        """Yield the rows of one kind of these runs (None: of all ids, also such that are no runs), oldest first."""
        ...

    async def put_run(self, row: RunRow, index: RunIndex) -> None:
        """Save a run in place of what there is of it. A row without state and metadata removes it alone."""
        ...

    async def put_children(self, kind: ChildKind, rows: Sequence[ChildRow], *, replaces: str | None = None) -> None:
        """Add rows, in this order; `replaces`: all of that run's go before."""
        ...

    async def drop(self, run_ids: Sequence[str]) -> None:
        """Remove these runs, their children, claims, bindings, and what was noted of their parts."""
        ...


Work = Callable[[Transaction], Coroutine[Any, Any, T]]
ValueWork = Callable[[KeyValues], Coroutine[Any, Any, T]]


class Store(Protocol):
    """An engine. Its errors come out as subclasses of `flujo_lens.errors.LensError`, its client's own never."""

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one moment of the store.

        Raises:
            StoreNotFoundError: there is no store yet. Nothing is created.
        """
        ...

    async def write(self, work: Work[T], *, creates: bool = True, run_id: str | None = None) -> T:
        """Run `work` in a transaction: all of it or nothing, also when the process dies on any line.

        Args:
            work: May be called again from its start.
            creates: Whether a store that is not there is made; else it is a `StoreNotFoundError`.
            run_id: The run that it is about (or something else that it changes): what is about one is done in the order
                of the calls.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Transaction]:
        """Hold one moment of the store for a long list, between whose rows the caller does other things."""
        ...

    def clone(self) -> Store:
        """Another store object on the same place, with connections of its own."""
        ...

    async def facts(self) -> Mapping[str, Any]:
        """What the store knows of itself, as of `StateBackend.read_facts`."""
        ...

    async def close(self) -> None:
        """Release connections and threads; may be called twice."""
        ...


class ListedRun(NamedTuple):
    """What a list shows of a run.

    Attributes:
        run: What is stored of it, or what `flujo_lens.state.interpret` reads of that, with documents parsed, or what it
            makes of it.
        history: Its spans and steps, as far as a list asks for them; None if they have not been read.
    """

    run: RunRow | RawRun | RunSummary
    history: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None = None


@runtime_checkable
class ListsRuns(Protocol):
    """A transaction that reads what a list shows of runs, without what it does not show."""

    def listed(
        self, hint: RunFilter, after: tuple[int, str] | None, reverse: bool, limit: int | None
    ) -> AsyncGenerator[list[ListedRun], None]:
        """Yield the runs of `scan` page by page; of the first page `limit` are wanted, if it is not None."""
        ...


@runtime_checkable
class CountsRuns(Protocol):
    """A store that counts runs without handing them out."""

    async def count(self, wanted: RunFilter) -> int | None:
        """Return how many runs `wanted` admits; None where the filter asks for more than the index tells."""
        ...


class Figures(Protocol):
    """What an engine tells of runs without their documents, in one moment.

    A filter that asks for more than an index tells (see `needs_details`) is not asked of it. There may be runs of which
    the engine does not tell everything, the odd ones: the core reads them.
    """

    tx: Transaction

    async def odd(self, wanted: RunFilter) -> list[str]:
        """Return the ids of the odd runs: all that `wanted` admits, and maybe more."""
        ...

    async def count(self, wanted: RunFilter) -> tuple[int, list[str]]:
        """Return how many runs `wanted` admits, and the odd ones."""
        ...

    async def light(self, wanted: RunFilter) -> tuple[list[RunSummary], list[str]]:
        """Return the runs that `wanted` admits without what `details=False` leaves out, and the odd ones."""
        ...

    async def groups(self, wanted: RunFilter, grouping: Grouping) -> tuple[list[RunGroup], list[str]]:
        """Return the runs that `wanted` admits by pipeline, status, length and what `grouping` names; and the odd ones.

        Grouped by error, those in need of a look by `failures` are left out.
        """
        ...

    async def failures(self, wanted: RunFilter) -> tuple[list[FailedGroup], list[str]]:
        """Return the failed runs that `wanted` admits by error and step, and the ids of those that need a look."""
        ...

    async def spans(self, wanted: RunFilter, more: Sequence[str], tally: SpanTally) -> list[str]:
        """Count the spans of the runs that `wanted` admits, and of `more`; return the runs whose spans need a look."""
        ...


@runtime_checkable
class TellsFigures(Protocol):
    """A store that counts and sums runs by itself."""

    async def figures(self, work: Callable[[Figures], Coroutine[Any, Any, T]]) -> T | None:
        """Run `work` on one moment of the store; None if there is something in it that the engine cannot count with."""
        ...


@runtime_checkable
class MeasuresRuns(Protocol):
    """A transaction that tells how many rows belong to runs, and how large they are, without handing them out."""

    async def measure(self, run_ids: Sequence[str], kinds: Sequence[ChildKind]) -> tuple[dict[str, int], int]:
        """Return the number of rows by kind (also ``state`` and ``run``), and their size in bytes."""
        ...


@runtime_checkable
class CountsDropped(Protocol):
    """A transaction that tells what it has removed, so that nobody has to count it before."""

    async def drop_counted(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """Remove runs as `Transaction.drop`; return the number of rows by kind (also ``state`` and ``run``)."""
        ...


@runtime_checkable
class ListsMembers(Protocol):
    """A transaction that tells what a deletion goes by without handing out what is stored of the runs."""

    def totals(self) -> tuple[int, int]:
        """Return how many runs there are, and how many are deleted but take room until the next write."""
        ...

    async def members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> list[Member]:
        """Return those of these runs that are there, in their order; the key of one that is held says by whom."""
        ...

    def families(self, asked: DeletionRequest, admitted: Collection[str] | None) -> Iterator[list[Member]]:
        """Yield all runs with their background tasks, as `flujo_lens.state.backends.core.selection.families`.

        Args:
            asked: What is asked for.
            admitted: The runs that its filter admits, if that asks for more than an index tells.
        """
        ...

    async def orphans(self, before: datetime) -> list[str]:
        """Return the ids without a run whose evaluations can all be read and are older."""
        ...


@runtime_checkable
class SelectsMembers(Protocol):
    """A transaction that selects what a deletion goes by in its engine, and tells it run by run.

    Runs of which the engine does not tell everything, the odd ones, are handed out by their ids.
    """

    async def selected_members(self, asked: DeletionRequest, run_ids: Sequence[str]) -> tuple[list[Member], list[str]]:
        """Return those of these runs that are there, and the odd ones."""
        ...

    async def outline(self, asked: DeletionRequest) -> Outline:
        """Return what `candidates` begins with."""
        ...

    def candidates(
        self, asked: DeletionRequest, admitted: Collection[str] | None, outline: Outline
    ) -> AsyncIterator[tuple[Member | str, bool]]:
        """Yield runs, or the ids of odd ones, each with whether it may belong to a family of several.

        Left out may be runs alone that `asked` does not admit, or that are too young.

        Args:
            asked: What is asked for.
            admitted: The runs that its filter admits, if that asks for more than an index tells.
            outline: What there is.
        """
        ...

    async def count(self, wanted: RunFilter) -> int | None:
        """Return how many runs there are."""
        ...

    async def orphan_ids(self) -> list[str]:
        """Return the ids that have evaluations and no run."""
        ...


@runtime_checkable
class ChecksWrites(Protocol):
    """A store on a server, which knows who may write."""

    async def check_write(self) -> None:
        """Check that this user may write, without writing.

        Raises:
            ReadOnlyStoreError: the server, or the node, takes no writes from this user.
        """
        ...


@runtime_checkable
class SkipsLocked(Protocol):
    """A transaction that passes over runs that others are writing, and removes those that nothing belongs to."""

    async def lock_free(self, run_ids: Sequence[str]) -> Mapping[str, tuple[str, datetime] | None]:
        """Lock those of these runs that no other transaction has locked, without waiting.

        Returns:
            These, each with its status and its last update as they are now; None where that takes a closer look.
        """
        ...

    async def drop_alone(
        self, run_ids: Sequence[str], marks: Mapping[str, Hashable] | None
    ) -> tuple[set[str], Mapping[str, int]]:
        """Remove those of these locked runs that have neither claims nor background tasks, nor need a closer look.

        Args:
            run_ids: Runs whose status and last update `lock_free` has returned.
            marks: What they were marked with; those that have another mark by now stay. None: they are not compared.

        Returns:
            The runs that are gone, and the number of rows by kind.
        """
        ...


@runtime_checkable
class MarksRuns(Protocol):
    """A transaction that tells whether runs have changed without handing them out."""

    async def marks(self, run_ids: Sequence[str]) -> Mapping[str, Hashable]:
        """Return for each run something that is another one after any change of it."""
        ...


@runtime_checkable
class TellsChanges(Protocol):
    """A store that tells whether anything in it may have changed, without reading it."""

    async def change_token(self) -> Hashable | None:
        """Return a token, as of `StateBackend.read_change_token`; None if it cannot tell."""
        ...


@runtime_checkable
class AddsRuns(Protocol):
    """A transaction that adds many runs at once, and finds runs by what is stored of them, without an index."""

    async def add_runs(self, rows: Sequence[RunRow]) -> None:
        """Save runs of which nothing is stored."""
        ...


@runtime_checkable
class ReadsStates(Protocol):
    """A transaction that reads the state of a run faster than all of the run."""

    async def state(self, run_id: str) -> RunRow | None:
        """Return a run without its metadata; None if it has no state."""
        ...


@runtime_checkable
class PutsStates(Protocol):
    """A store that saves a state faster than by a transaction: nothing else of the run is read or changed."""

    async def put_state(self, run_id: str, document: bytes) -> bool:
        """Save a state in place of what there is of it; False if nothing was done, since more is asked for."""
        ...


@runtime_checkable
class CopiesRuns(Protocol):
    """A transaction whose copies of runs have a form of their own (see `flujo_lens.state.deletion.Record`)."""

    def records(self, run_ids: Sequence[str], *, state_only: bool) -> AsyncIterator[tuple[Record, int]]:
        """Yield all that there is of these runs, run by run, each record with the number of rows in it."""
        ...

    async def restore(
        self, records: Iterable[Record], restore_run: Callable[[Iterator[Record]], Awaitable[bool]]
    ) -> Restored:
        """Bring runs back from their records, as `StateBackend.restore`.

        Args:
            records: The records.
            restore_run: Makes a run that was cancelled or stripped what it was, and returns whether it could be: it has
                no records of the store's own form.
        """
        ...


def provided(thing: object, protocol: Callable[..., T]) -> T | None:
    """A store or a transaction as one of these protocols, if it has its methods; faster than `isinstance`.

    For what is asked in each call.
    """
    return cast("T", thing) if _provides(cast("Hashable", type(thing)), protocol) else None


@cache
def _provides(kind: Any, protocol: Any) -> bool:
    return issubclass(kind, protocol)


def run_without_waiting(work: Awaitable[T]) -> T:
    """Drive a coroutine that never suspends to its end, on this thread.

    Raises:
        RuntimeError: it waited for something after all, which is a fault of the driver.
    """
    try:
        work.__await__().send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise RuntimeError("a transaction of a blocking engine has waited")
