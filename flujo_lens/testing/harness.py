"""How the checks are run: a backend for each, filled through the contract's own writing methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from unittest import SkipTest

from flujo_lens.errors import NotSupportedError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.filtering import matches, sort_key
from flujo_lens.state.views import RunFilter, RunSummary, Span
from flujo_lens.testing.samples import EVALUATIONS, SYSTEM, JSONObject, Sample, samples

Check = Callable[[Any, StateBackend], Coroutine[Any, Any, None]]


def equal(found: Any, wanted: Any, what: str) -> None:
    """Fail with both values unless they are equal."""
    if found != wanted:
        raise AssertionError(f"{what}\n  is:     {found!r}\n  should: {wanted!r}")


def on_samples(check: Check) -> Callable[[Any], None]:
    """A test method that hands `check` a backend with all samples in it."""
    return _test(check, fill=True)


def on_nothing(check: Check) -> Callable[[Any], None]:
    """A test method that hands `check` a fresh backend."""
    return _test(check, fill=False)


def on_sample_history(check: Check) -> Callable[[Any], None]:
    """`on_samples`, skipped for a driver that keeps states alone."""
    return _test(check, fill=True, history=True)


def on_history(check: Check) -> Callable[[Any], None]:
    """`on_nothing`, skipped for a driver that keeps states alone."""
    return _test(check, fill=False, history=True)


def _test(check: Check, *, fill: bool, history: bool = False) -> Callable[[Any], None]:
    def test(self: Harness) -> None:
        if history:
            self._needs_history()
        try:
            asyncio.run(self._with_backend(check, fill=fill))
        except NotSupportedError as error:
            if self.complete:
                raise
            raise SkipTest(str(error)) from error

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def document_ids(rows: Iterable[JSONObject]) -> list[str]:
    return [str(row["run_id"]) for row in rows]


async def ids_of(runs: AsyncIterator[RunSummary]) -> list[str]:
    return [run.run_id async for run in runs]


def names_of(spans: Iterable[Span]) -> list[Any]:
    """Names of spans, each with those of its children."""
    return [(span.name, names_of(span.children)) for span in spans]


class Harness:
    """Fills a backend, and knows what has to come out.

    Attributes:
        states_only: The driver keeps no runs, steps, spans, evaluations or system state.
        complete: Every method of the contract is there; else tests that miss one are skipped.
        rich_values: States may hold what JSON does not have (times, sets, models); else they are JSON-ready.
        many_loops: One backend may be used from several threads, each with an event loop of its own.
    """

    states_only = False
    complete = True
    rich_values = True
    many_loops = True

    async def new_backend(self) -> StateBackend:
        """Return a backend on a new, empty store; one that reads naive times of states by a zone: by UTC."""
        raise NotImplementedError

    async def reopen(self) -> StateBackend:
        """Return another backend on the store of the last `new_backend`, as another process would open it.

        Where there is none (a store that ends with its backend), the tests that need it are skipped.
        """
        raise SkipTest("the store cannot be opened a second time")

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        """`new_backend`, with this argument, where the constructor takes it; else the tests are skipped."""
        raise SkipTest("the driver has no serializer_default")

    # --- filling

    @property
    def samples(self) -> list[Sample]:
        """The samples that this driver can keep, with what must come out of it."""
        made = samples(self._now)
        return [by_state_alone(s) for s in made if s.state is not None] if self.states_only else made

    async def _with_backend(self, check: Check, *, fill: bool) -> None:
        self._now = datetime.now(UTC)
        async with await self.new_backend() as backend:
            if fill:
                await self._fill(backend)
            await check(self, backend)

    async def _fill(self, backend: StateBackend) -> None:
        for sample in self.samples:
            await self._write(backend, sample)
        if self.states_only:
            return
        for evaluation in EVALUATIONS:
            await backend.persist_evaluation(**evaluation)
        for key, value in SYSTEM:
            await backend.set_system_state(key, value)

    async def _write(self, backend: StateBackend, sample: Sample) -> None:
        if sample.run is not None and not self.states_only:
            await backend.save_run_start(sample.run)
            for step in sample.steps:
                await backend.save_step_result(step)
            if sample.spans:
                await backend.save_spans(sample.run_id, list(sample.spans))
            if sample.end is not None:
                await backend.save_run_end(sample.run_id, sample.end)
        if sample.state is not None:
            await backend.save_state(sample.run_id, sample.state)

    def _needs_history(self) -> None:
        if self.states_only:
            raise SkipTest("the driver keeps states alone")

    def _needs_rich_values(self) -> None:
        if not self.rich_values:
            raise SkipTest("the driver takes JSON-ready states")

    def _order(self, wanted: RunFilter | None = None) -> list[str]:
        """The ids of the samples that `wanted` admits, the newest start first."""
        runs = [RunSummary(**s.expected) for s in self.samples]
        admitted = [run for run in runs if wanted is None or matches(wanted, run)]
        return [run.run_id for run in sorted(admitted, key=sort_key, reverse=True)]


def instant(value: Any) -> datetime | None:
    """A time as a driver may return it (ISO 8601 text or `datetime`, naive ones in UTC), to be compared."""
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def with_texts(state: Mapping[str, Any] | None) -> JSONObject:
    """A loaded state with its times as texts: a driver may return `created_at` and `updated_at` as `datetime`."""
    return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in (state or {}).items()}


async def refuses(work: Awaitable[Any], kind: type[Exception], what: str) -> None:
    """Fail unless `work` raises an error of this kind."""
    try:
        found = await work
    except kind as error:
        if not str(error):
            raise AssertionError(f"{what}: the {kind.__name__} says nothing") from error
        return
    raise AssertionError(f"{what} gives {found!r}, should raise {kind.__name__}")


def near(found: float | None, wanted: float, what: str) -> None:
    if found is None or abs(found - wanted) > 0.02 * wanted:
        raise AssertionError(f"{what} is {found!r}, should be {wanted!r} to 2 %")


def counted(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def by_pipeline(runs: Sequence[RunSummary]) -> dict[str, tuple[int, dict[str, int]]]:
    names = {run.pipeline_name for run in runs}
    of = {name: [run.status for run in runs if run.pipeline_name == name] for name in names}
    return {name: (len(statuses), counted(statuses)) for name, statuses in of.items()}


def by_state_alone(sample: Sample) -> Sample:
    """The sample as a driver without history has to tell it."""
    assert sample.state is not None
    known = {name: value for name, value in sample.expected.items() if name != "duration_ms"}
    updated = datetime.fromisoformat(sample.state["updated_at"])
    return sample._replace(expected={**known, "status": sample.state["status"], "updated_at": updated})
