"""The PostgreSQL driver on real servers: 16, and the heart of it on 18; with LENS_SOAK all of it on both."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from servers import PostgresServer, postgres_server
from stores import DATA
from test_real_stores import step_text

from flujo_lens.errors import LensError, NotAStoreError, ReadOnlyStoreError, UnreachableStoreError
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.operations.transfer import Transfer, Transferred, groups_of, look_at, transfer
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.backends.postgres.tables import LENS_TABLES, LIBRARY_TABLES
from flujo_lens.state.claims import Holder
from flujo_lens.state.deletion import DeletionRequest
from flujo_lens.state.portable import digests_of
from flujo_lens.state.views import Pause, RunFilter
from flujo_lens.testing.claim_checks import ClaimChecks
from flujo_lens.testing.contract import BackendContract
from flujo_lens.testing.deletion_checks import DeletionChecks

asyncpg = pytest.importorskip("asyncpg")
T = TypeVar("T")
SOAK = "LENS_SOAK" in os.environ
ROUNDS = 50 if SOAK else 5
"""How often a server is killed in each of two places."""
EMPTIED = ("runs", "workflow_state", "system_state", *LENS_TABLES)


class _Slice(ClaimChecks, DeletionChecks):
    """What locks and deletes."""


ContractOn18: Any = BackendContract if SOAK else _Slice
DUMP = (DATA / "flujo-0.6.11-postgres" / "dump.sql").read_text(encoding="utf-8")


def use(uri: str, work: Callable[[PostgresBackend], Awaitable[T]], **options: Any) -> T:
    """Do something with a backend."""

    async def run() -> T:
        async with PostgresBackend(uri, **options) as backend:
            return await work(backend)

    return asyncio.run(run())


class _Contract:
    """How the suite gets its stores: tables that are made once, and emptied before each check."""

    many_loops = True
    uri = ""

    def _empty(self, server: PostgresServer) -> None:
        self.uri = f"{server.uri}&schema=contract"
        made = server.execute("CREATE SCHEMA IF NOT EXISTS contract", "SELECT to_regclass('contract.lens_documents')")
        if made[0][0] is None:
            use(self.uri, lambda b: b.set_system_state("made", {}))
        server.execute("".join(f"DELETE FROM contract.{name};" for name in EMPTIED), "SELECT 1")

    async def new_backend(self) -> StateBackend:
        return PostgresBackend(self.uri)

    async def reopen(self) -> StateBackend:
        return PostgresBackend(self.uri)

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return PostgresBackend(self.uri, serializer_default=serializer_default)

    async def new_sealed_backend(self, envelope: Any) -> StateBackend:
        return PostgresBackend(self.uri, envelope=envelope)

    async def broken_backend(self) -> StateBackend:
        return PostgresBackend("postgresql://nobody@127.0.0.1:1/none", timeout=2)

    def in_another_process(self) -> str:
        return (
            f"from flujo_lens.state.backends.postgres import PostgresBackend\nbackend = PostgresBackend({self.uri!r})"
        )


class TestContractOn16(_Contract, BackendContract):
    """Every check of the suite."""

    @pytest.fixture(autouse=True)
    def _store(self, pg16: PostgresServer) -> None:
        self._empty(pg16)


class TestContractOn18(_Contract, ContractOn18):
    """The checks that ask most of the engine; the others in the long rounds."""

    @pytest.fixture(autouse=True)
    def _store(self, pg18: PostgresServer) -> None:
        self._empty(pg18)


# --- a store that the library wrote

LISTED = """\
bgcrashed-001_bg_bg_047061e3098f4fdea809b07dad8fd833|unknown latest|running|
bgcrashed-001|notifier-slow 1.0.0|running|load/1/1 slow_bg/0/0
crashed-001|slow-orders 1.0.0|running|load/1/1 enrich/1/0
otel-001|unknown latest|running|
bgparent-001_bg_bg_b90ca044f81341ed95cc9849dccbfaba|unknown latest|failed|
bgparent-001_bg_bg_52185841c21349e2bc1fa23ab3646e95|unknown latest|completed|
bgparent-001|notifier 1.0.0|completed|load/1/1 notify/0/0 notify_fail/0/0 finish/1/1
cancelled-001|slow-orders 1.0.0|cancelled|load/1/1 enrich/1/0
plain-001|unnamed_20261129_221758 latest|completed|load/1/1 enrich/1/0 finish/1/1
meta-001|orders 1.0.0|completed|load/1/1 enrich/1/0 finish/1/1
trace4-001|research 1.0.0|completed|load/1/1 research/1/3 finish/1/1
complex-001|weird 1.0.0|completed|load/1/1 weird/1/0 finish/1/1
üñí-run|odd 1.0.0|completed|load/1/1 finish/1/1
per%cent_under|odd 1.0.0|completed|load/1/1 finish/1/1
weird id/with slash|odd 1.0.0|completed|load/1/1 finish/1/1
run_7e937a0787fa4faa91d0f1063ba26eb4|orders 1.0.0|completed|load/1/1 enrich/1/0 finish/1/1
cost-001|costly 1.0.0|completed|load/1/1 priced/1/456/0.0123 finish/1/1
deep-001|deep 1.0.0|completed|load/1/1 count_to_3/3/0 fan/1/2 finish/1/1
single-001|single 1.0.0|completed|load/1/1
resumed-001|approvals 1.0.0|paused|load/1/1
paused-loop-001|approvals-loop 1.0.0|paused|load/1/1
paused-schema-001|approvals 1.1.0|paused|load/1/1
paused-001|approvals 1.0.0|paused|load/1/1
fail-001|payments 1.0.0|failed|load/1/1 boom!/2/0
orders-v2-002|orders 2.0.0|completed|load/1/1 enrich/1/0 invoice_out/1/0 finish_v2/1/1
orders-v2-001|orders 2.0.0|completed|load/1/1 enrich/1/0 invoice_out/1/0 finish_v2/1/1
orders-v1-003|orders 1.0.0|completed|load/1/1 enrich/1/0 finish/1/1
orders-v1-002|orders 1.0.0|completed|load/1/1 enrich/1/0 finish/1/1
orders-v1-001|orders 1.0.0|completed|load/1/1 enrich/1/0 finish/1/1"""


@pytest.fixture(scope="module", params=[16, 18] if SOAK else [16])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    """A server with a store of the library's."""
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


@pytest.fixture(scope="module")
def library(server: PostgresServer) -> str:
    """The URI of a store of the library's, for a role that may only read."""
    server.execute(DUMP, "SELECT 1")
    server.hang_up()  # the dump leaves the connection without a search_path
    server.execute("CREATE ROLE reader LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", "SELECT 1")
    return server.uri.replace("//postgres:@", "//reader@")


async def _listed(backend: PostgresBackend) -> list[str]:
    lines = []
    async for run in backend.iter_runs(RunFilter()):
        detail = await backend.read_run(run.run_id)
        assert detail is not None
        assert detail.run._replace(tasks={}) == run._replace(tasks={})
        steps = " ".join(map(step_text, detail.steps))
        lines.append(f"{run.run_id}|{run.pipeline_name} {run.pipeline_version}|{run.status}|{steps}")
    return lines


def _everything(server: PostgresServer) -> Any:
    tables = [row[0] for row in server.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'i')")]
    ours = [name for name in tables if not name.startswith(("pg_", "information_schema", "memories"))]
    digest = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM"
    rows = {name: server.execute(f"{digest} {name} t") for name in ours if "idx" not in name and "pkey" not in name}
    return sorted(ours), rows


def test_every_run_of_the_library_once_by_a_role_that_may_only_read(server: PostgresServer, library: str) -> None:
    before = _everything(server)
    assert "\n".join(use(library, _listed)) == LISTED
    assert _everything(server) == before


def test_what_the_librarys_own_tool_gets_wrong(library: str) -> None:
    async def look(backend: PostgresBackend) -> tuple[Any, ...]:
        failed, paused = await backend.read_run("fail-001"), await backend.read_run("paused-001")
        spans = await backend.read_spans("trace4-001")
        assert failed is not None
        assert paused is not None
        return failed.run.error_message, paused.pause, spans[0].name, len(spans[0].children) > 0

    error = "Agent execution failed with ValueError: payment gateway said: [declined] 'no' (code=51)"
    pause = Pause("approve", "Approve invoice 4711? (yes/no)")
    assert use(library, look) == (error, pause, "pipeline_run", True)


def test_pages_and_prefixes(library: str) -> None:
    async def pages(backend: PostgresBackend) -> list[str]:
        found, after = [], None
        while True:
            page = await backend.query_runs(RunFilter(), after=after, limit=4)
            found += [run.run_id for run in page.items]
            if page.next is None:
                return found
            after = page.next

    assert use(library, pages) == [line.partition("|")[0] for line in LISTED.splitlines()]
    assert use(library, lambda b: b.find_run_ids("orders-v2")) == ["orders-v2-001", "orders-v2-002"]
    assert use(library, lambda b: b.find_run_ids("per%")) == ["per%cent_under"]


def test_a_role_that_may_not_write_is_told(library: str) -> None:
    with pytest.raises(ReadOnlyStoreError):
        use(library, lambda b: b.save_state("x", {"status": "running"}))


def test_what_is_written_is_what_the_library_reads(server: PostgresServer) -> None:
    """Its columns, as it would have filled them; and ours beside them alone."""
    server.execute("CREATE SCHEMA shop", "SELECT 1")
    uri = f"{server.uri}&schema=shop"
    state = {"pipeline_name": "orders", "pipeline_context": {"total": 1e20}, "status": "paused", "metadata": {"n": 1}}

    async def save(backend: PostgresBackend) -> None:
        await backend.save_state("run-1", state)
        await backend.claim_run("run-1", Holder.current(), 30)

    use(uri, save)
    row = server.execute("SELECT pipeline_name, pipeline_context::text, status FROM shop.workflow_state")[0]
    assert tuple(row) == ("orders", '{"total": 100000000000000000000}', "paused")
    loaded = use(uri, lambda b: b.load_state("run-1"))
    assert loaded is not None
    assert (loaded["pipeline_context"], type(loaded["pipeline_context"]["total"])) == ({"total": 1e20}, float)
    # What the library has changed since counts alone.
    server.execute("UPDATE shop.workflow_state SET status = 'completed'", "SELECT 1")
    assert use(uri, lambda b: b.load_state("run-1"))["status"] == "completed"  # type: ignore[index]


def test_what_no_column_keeps_is_kept(server: PostgresServer) -> None:
    server.execute("CREATE SCHEMA odd", "SELECT 1")
    context = {"nul": "a\0b", "zero": -0.0, "long": 2**63, "big": 1e300}
    uri = f"{server.uri}&schema=odd"
    use(uri, lambda b: b.save_state("r", {"status": "running", "pipeline_context": context, "total_steps": 2**40}))
    loaded = use(uri, lambda b: b.load_state("r"))
    assert loaded is not None
    assert {name: repr(value) for name, value in loaded["pipeline_context"].items()} == {
        name: repr(value) for name, value in context.items()
    }
    assert loaded["total_steps"] == 2**40


def test_an_empty_database_is_told_and_stays_empty(server: PostgresServer) -> None:
    server.execute("CREATE SCHEMA nothing", "SELECT 1")
    uri = f"{server.uri}&schema=nothing"
    assert use(uri, lambda b: b.load_state("x")) is None
    with pytest.raises(NotAStoreError, match="no tables of a state store"):
        use(uri, lambda b: b.count_runs(RunFilter()))
    assert server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'nothing'")[0][0] == 0


def test_a_server_that_is_away() -> None:
    with pytest.raises(UnreachableStoreError, match=r"postgresql://u:\*\*\*@127.0.0.1:1/db"):
        use("postgresql://u:hush@127.0.0.1:1/db", lambda b: b.load_state("x"), timeout=2)


# --- the server dies


@pytest.fixture(scope="module")
def safe_server() -> Iterator[PostgresServer]:
    """A server that acknowledges what is on the disk, and that may be killed."""
    with postgres_server(18 if SOAK else 16, is_safe=True) as server:
        yield server


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_acknowledged_saves_outlive_the_server(safe_server: PostgresServer, round_: int) -> None:
    safe_server.once(safe_server.uri, f"CREATE SCHEMA kill{round_}", "SELECT 1")
    uri = f"{safe_server.uri}&schema=kill{round_}"
    saved: dict[str, int] = {}

    async def save(backend: PostgresBackend, run_id: str) -> None:
        for number in itertools.count():
            await backend.save_state(run_id, {"status": "running", "pipeline_context": {"n": number}})
            await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": number})
            saved[run_id] = number

    async def work(backend: PostgresBackend) -> list[BaseException | None]:
        savers = [asyncio.create_task(save(backend, f"run-{n}")) for n in range(3)]
        while len(saved) < 3 or min(saved.values()) < 3 + round_:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(safe_server.kill)
        return await asyncio.gather(*savers, return_exceptions=True)

    errors = use(uri, work)
    safe_server.start()
    assert [type(error) for error in errors] == [UnreachableStoreError] * 3, errors

    async def look(backend: PostgresBackend) -> None:
        for run_id, number in saved.items():
            state, run = await backend.load_state(run_id), await backend.read_run(run_id)
            assert state is not None
            assert run is not None
            assert state["pipeline_context"]["n"] in (number, number + 1)
            assert [step.step_index for step in run.steps] in (
                list(range(number + 1)),
                list(range(number + 2)),
            )

    use(uri, look)
    safe_server.once(safe_server.uri, f"DROP SCHEMA kill{round_} CASCADE", "SELECT 1")


@pytest.mark.parametrize("strip", [frozenset[str](), frozenset({"spans", "outputs", "state"})], ids=["prune", "strip"])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_prune_that_the_server_did_not_outlive(
    safe_server: PostgresServer, round_: int, strip: frozenset[str]
) -> None:
    """Each run is whole, or gone (stripped) as a whole, and what was said to be gone is; the same again finishes it."""
    schema = f"cut{round_}{'s' * bool(strip)}"
    safe_server.once(safe_server.uri, f"CREATE SCHEMA {schema}", "SELECT 1")
    uri, count, gone, kept = f"{safe_server.uri}&schema={schema}", 24, set[str](), list[Any]()

    async def fill(backend: PostgresBackend) -> None:
        for number in range(count):
            run_id, old = f"run-{number}", f"2026-01-01T00:00:{number:02}+00:00"
            await backend.save_run_start({"run_id": run_id, "created_at": old, "updated_at": old})
            await backend.save_step_result(
                {"run_id": run_id, "step_name": "s", "step_index": 0, "output": [1], "created_at": old}
            )
            await backend.save_state(
                run_id,
                {"status": "completed", "pipeline_context": {"n": number}, "created_at": old, "updated_at": old},
            )

    async def prune(backend: PostgresBackend) -> None:
        now = datetime.now(UTC)
        plan = await backend.plan_deletion(DeletionRequest(now=now, cutoff=now - timedelta(days=1), strip=strip))
        after, killing = random.Random(round_).randrange(1, 9), None
        async for deleted in backend.delete_planned(plan, keep=kept.extend, batch_size=2):
            gone.update(deleted.run_ids)
            if killing is None and len(gone) >= 2 * after:
                killing = asyncio.ensure_future(asyncio.to_thread(safe_server.kill))

    async def left(backend: PostgresBackend) -> dict[str, Any]:
        runs = [run.run_id async for run in backend.iter_runs(RunFilter())]
        details = {run_id: await backend.read_run(run_id) for run_id in runs}
        return {i: detail for i, detail in details.items() if detail and (not strip or detail.steps[0].output)}

    async def again(backend: PostgresBackend) -> int:
        now = datetime.now(UTC)
        plan = await backend.plan_deletion(DeletionRequest(now=now, cutoff=now - timedelta(days=1), strip=strip))
        done = [one async for one in backend.delete_planned(plan, keep=kept.extend)]
        return sum(len(one.run_ids) for one in done)

    use(uri, fill)
    with pytest.raises(LensError):
        use(uri, prune, timeout=2)
    safe_server.start()
    whole = use(uri, left)
    assert not gone & set(whole)
    assert len(whole) <= count - len(gone)
    for number, detail in ((int(run_id[4:]), detail) for run_id, detail in whole.items()):
        assert (detail.state["pipeline_context"], detail.steps[0].output) == ({"n": number}, [1])
    assert use(uri, again) == len(whole)
    assert use(uri, left) == {}
    assert {record["run_id"] for record in kept} == {f"run-{number}" for number in range(count)}
    safe_server.once(safe_server.uri, f"DROP SCHEMA {schema} CASCADE", "SELECT 1")


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_copy_that_the_server_did_not_outlive(safe_server: PostgresServer, round_: int) -> None:
    """Each run is there whole or not at all, and the same copy goes on where it ended."""
    safe_server.once(safe_server.uri, f"CREATE SCHEMA copy{round_}", "SELECT 1")
    uri, count = f"{safe_server.uri}&schema=copy{round_}", 300
    rng, killing = random.Random(round_), list[threading.Timer]()

    async def copied(source: StateBackend, target: StateBackend, progress: Callable[[int], None]) -> Transferred:
        done = Transferred(count)
        writing = Transfer(target, PortableParts(), await look_at(target), done)
        return await transfer(target, groups_of(source, RunFilter()), writing, done, None, progress=progress)

    async def digests(backend: StateBackend) -> dict[str, str]:
        ids = [run.run_id async for run in backend.iter_runs(RunFilter())]
        return digests_of([record async for record in backend.read_portable(ids)])

    async def work() -> None:
        source = InMemoryBackend()
        for number in range(count):
            await source.save_state(f"run-{number}", {"status": "completed", "pipeline_context": {"n": number}})
            await source.save_step_result({"run_id": f"run-{number}", "step_name": "s", "step_index": 0, "output": 1})
        everything = await digests(source)

        def kill(seen: int) -> None:
            if not killing:
                killing.append(threading.Timer(rng.random() / 20, safe_server.kill))
                killing[0].start()

        async with PostgresBackend(uri, timeout=5) as target:
            with pytest.raises(UnreachableStoreError):
                await copied(source, target, kill)
        await asyncio.to_thread(killing[0].join)
        await asyncio.to_thread(safe_server.start)
        async with PostgresBackend(uri) as target:
            some = await digests(target)
            assert some.items() <= everything.items()
            again = await copied(source, target, lambda seen: None)
            assert (again.done, again.unchanged, again.failed) == (count - len(some), len(some), {})
            assert await digests(target) == everything

    asyncio.run(work())
    safe_server.once(safe_server.uri, f"DROP SCHEMA copy{round_} CASCADE", "SELECT 1")


def test_a_read_is_tried_again_after_its_connection_was_cut(pg16: PostgresServer) -> None:
    pg16.execute("CREATE SCHEMA cut", "SELECT 1")

    async def work(backend: PostgresBackend) -> Any:
        await backend.save_state("r", {"status": "running"})
        others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        await asyncio.to_thread(pg16.once, pg16.uri, cut)
        return await backend.load_state("r")

    pg16.hang_up()
    assert use(f"{pg16.uri}&schema=cut", work)["status"] == "running"


def test_any_table_may_be_missing(pg16: PostgresServer) -> None:
    """What it would hold reads as empty, by every read, and a store without runs and states is none."""
    uri = f"{pg16.uri}&schema=missing"
    pg16.execute("CREATE SCHEMA missing", "SELECT 1")
    state = {"pipeline_name": "p", "status": "failed", "pipeline_context": {"n": 1e20}}

    async def fill(backend: PostgresBackend) -> None:
        await backend.save_run_start({"run_id": "r", "pipeline_name": "p", "status": "failed"})
        await backend.save_state("r", state)

    async def look(backend: PostgresBackend) -> Any:
        failed = RunFilter(statuses=frozenset({"failed"}))
        for wanted in (RunFilter(), failed, RunFilter(parent="r"), RunFilter(statuses=frozenset({"completed"}))):
            for reverse in (False, True):
                await backend.query_runs(wanted, reverse=reverse, after=(datetime(2020, 1, 1, tzinfo=UTC), "x"))
            await backend.count_runs(wanted)
        await backend.plan_deletion(DeletionRequest(now=datetime.now(UTC), cutoff=datetime.now(UTC)))
        await backend.load_state("r")
        assert await backend.find_run_ids("r") == ["r"]
        assert await backend.read_claims() == {}
        assert await backend.read_system_state() == ()
        await backend.get_spans("r")
        await backend.read_evaluations("r")
        detail = await backend.read_run("r")
        assert detail is not None
        return [run.run_id for run in (await backend.query_runs(failed)).items], detail.run.status

    use(uri, fill)
    for table in (*LIBRARY_TABLES, *LENS_TABLES):
        pg16.execute(f"ALTER TABLE missing.{table} RENAME TO hidden", "SELECT 1")
        assert use(uri, look) == (["r"], "failed"), table
        pg16.execute(f"ALTER TABLE missing.hidden RENAME TO {table}", "SELECT 1")
