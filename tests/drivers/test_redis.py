"""The Redis driver on real servers: Valkey 9, and the heart of it on Redis 6.2 and a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from servers import RedisCluster, RedisServer

from flujo_lens.errors import BusyError, OperationFailedError, UnreachableStoreError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.claim_checks import ClaimChecks
from flujo_lens.testing.contract import BackendContract
from flujo_lens.testing.deletion_checks import DeletionChecks
from flujo_lens.testing.progress_checks import ProgressChecks

pytest.importorskip("redis")
T = TypeVar("T")
SOAK = "LENS_SOAK" in os.environ


class _Slice(ClaimChecks, DeletionChecks):
    """What locks and deletes."""


class _ClusterSlice(ClaimChecks, ProgressChecks):
    """What goes through several keys at once."""


Sliced: Any = BackendContract if SOAK else _Slice
ClusterSliced: Any = BackendContract if SOAK else _ClusterSlice
DOCS = Path(__file__).resolve().parents[2] / "docs"


def use(uri: str, work: Callable[[RedisBackend], Awaitable[T]], **options: Any) -> T:
    """Do something with a backend."""

    async def run() -> T:
        async with RedisBackend(uri, **options) as backend:
            return await work(backend)

    return asyncio.run(run())


class _Contract:
    """How the suite gets its stores: a server that is emptied before each check."""

    many_loops = True
    uri = ""
    server: RedisServer

    async def new_backend(self) -> StateBackend:
        return RedisBackend(self.uri)

    async def reopen(self) -> StateBackend:
        return RedisBackend(self.uri)

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return RedisBackend(self.uri, serializer_default=serializer_default)

    def queries(self) -> int:
        return int(self.server.call("INFO", "stats")["total_commands_processed"])

    async def new_sealed_backend(self, envelope: Any) -> StateBackend:
        return RedisBackend(self.uri, envelope=envelope)

    async def broken_backend(self) -> StateBackend:
        return RedisBackend("redis://127.0.0.1:1/0", timeout=2)

    def in_another_process(self) -> str:
        return f"from flujo_lens.state.backends.redis import RedisBackend\nbackend = RedisBackend({self.uri!r})"


class TestContractOnValkey(_Contract, BackendContract):
    """Every check of the suite."""

    @pytest.fixture(autouse=True)
    def _store(self, valkey: RedisServer) -> None:
        valkey.call("FLUSHALL")
        self.server, self.uri = valkey, f"{valkey.uri}?prefix=lens:"

    def queries(self) -> int:
        """What the server counts."""
        return sum(int(each["calls"]) for each in self.server.call("INFO", "commandstats").values())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the wheel of Redis 6.2 ends with Python 3.12")
class TestContractOnRedis6(_Contract, Sliced):
    """The checks that ask most of the engine; the others in the long rounds."""

    @pytest.fixture(autouse=True)
    def _store(self, redis6: RedisServer) -> None:
        redis6.call("FLUSHALL")
        self.server, self.uri = redis6, redis6.uri


class TestContractOnACluster(_Contract, ClusterSliced):
    """The checks that touch several keys; the others in the long rounds."""

    @pytest.fixture(autouse=True)
    def _store(self, cluster: RedisCluster) -> None:
        for server in cluster.servers:
            server.call("FLUSHALL")
        self.server, self.uri = cluster.owner("{lens}:"), cluster.uri


# --- beside another program


def _tutorial() -> type[Any]:
    """The class of the guide, as it is printed there."""
    page = (DOCS / "guides" / "write-your-own-backend.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?class RedisBackend.*?)```", page, re.DOTALL)
    assert found
    scope: dict[str, Any] = {"__name__": "tutorial"}
    exec(found[1], scope)
    made: type[Any] = scope["RedisBackend"]
    return made


STATE = {
    "run_id": "r", "status": "running", "pipeline_name": "orders", "pipeline_context": {"n": 2**60, "t": "é"},
    "step_history": [], "created_at": "2026-11-01T00:00:00.123456+00:00", "updated_at": "2026-11-01T00:00:01+00:00",
}  # fmt: skip


def test_the_class_of_the_tutorial_and_ours_read_each_other(valkey: RedisServer) -> None:
    url = f"redis://127.0.0.1:{valkey.port}/5"

    async def work(ours: RedisBackend) -> None:
        theirs = _tutorial()(url)
        await theirs.save_state("theirs", STATE)
        assert await ours.load_state("theirs") == STATE
        await ours.save_state("ours", STATE)
        assert await theirs.load_state("ours") == await ours.load_state("ours") == {**STATE, "run_id": "ours"}
        # What they change is seen at once, what they delete is gone, and ours can be deleted by them.
        await theirs.save_state("ours", {**STATE, "status": "completed"})
        assert [run.status async for run in ours.iter_runs(RunFilter())] == ["completed"]
        await theirs.delete_state("ours")
        assert await ours.load_state("ours") is None
        assert [run async for run in ours.iter_runs(RunFilter())] == []
        await ours.delete_state("theirs")
        assert await theirs.load_state("theirs") is None
        await (await theirs._conn()).aclose()

    valkey.call("FLUSHALL")
    use(url, work)


def test_a_state_is_json_and_a_serializer_is_taken(valkey: RedisServer) -> None:
    class Odd:
        pass

    async def work(backend: RedisBackend) -> None:
        await backend.save_state("r", {"status": "running", "pipeline_context": {"odd": Odd(), "n": 2**63 + 1}})

    valkey.call("FLUSHALL")
    use(f"{valkey.uri}?prefix=p:", work, serializer_default=lambda value: "odd" if isinstance(value, Odd) else None)
    stored = json.loads(valkey.call("GET", "p:r"))
    assert stored["pipeline_context"] == {"odd": "odd", "n": 2**63 + 1}


def test_every_key_is_under_the_prefix_and_no_id_is_taken_for_one_of_ours(valkey: RedisServer) -> None:
    async def work(backend: RedisBackend) -> None:
        await backend.save_state("a", {"status": "running"})
        await backend.persist_evaluation("a", 1.0)
        await backend.set_system_state("k", {})
        with pytest.raises(OperationFailedError, match="must not begin"):
            await backend.save_state(":lens:made", {"status": "running"})
        assert await backend.load_state(":lens:made") is None

    valkey.call("FLUSHALL")
    use(f"{valkey.uri}?prefix=p:", work)
    assert all(name.startswith("p:") for name in valkey.call("KEYS", "*"))


# --- several at once


def test_three_clients_at_once_keep_the_index_whole(valkey: RedisServer) -> None:
    uri = f"{valkey.uri}?prefix=p:"
    statuses = ("running", "paused", "completed", "failed")

    async def client(number: int) -> None:
        async with RedisBackend(uri) as backend:
            for at in range(20):
                run_id = f"run-{at % 5}"
                await backend.save_state(run_id, {"status": statuses[(at + number) % 4], "pipeline_name": f"p{number}"})
                await backend.save_step_result({"run_id": run_id, "step_name": f"s{number}", "step_index": at})
                if at % 7 == number:
                    await backend.delete_run(run_id)

    async def run() -> None:
        await asyncio.gather(*map(client, range(3)))

    valkey.call("FLUSHALL")
    asyncio.run(run())
    whole(valkey, "p:")


def whole(server: RedisServer, prefix: str) -> dict[str, list[Any]]:
    """The index of a store, which points at what is there and at nothing else; by run id."""
    own = f"{prefix}:lens:"
    names = server.call("KEYS", f"{prefix}*")
    index = {run_id: json.loads(entry) for run_id, entry in (server.call("HGETALL", f"{own}index") or {}).items()}
    for name, place in (("order", 0), ("updated", 1)):
        assert _scores(server, own + name) == {run_id: entry[place] for run_id, entry in index.items()}, name
    assert set(server.call("ZRANGE", f"{own}ids", 0, -1)) == set(index)
    by_status = {name.rpartition(":")[2]: _scores(server, name) for name in names if name.startswith(f"{own}status:")}
    found = {run_id: status for status, members in by_status.items() for run_id in members}
    assert found == {run_id: entry[2] for run_id, entry in index.items()}
    assert sum(map(len, by_status.values())) == len(index)
    there = {name[len(prefix) :] for name in names if not name.startswith(own)}
    there |= {name[len(f"{own}run:") :] for name in names if name.startswith(f"{own}run:")}
    assert there == set(index)
    rows = {name.split(":", 5)[-1] for name in names if name.startswith((f"{own}step:", f"{own}span:"))}
    assert rows <= set(index)
    return index


def _scores(server: RedisServer, name: str) -> dict[str, int]:
    flat = server.call("ZRANGE", name, 0, -1, "WITHSCORES")
    return {member: int(float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)}


def test_connections_are_bounded_and_a_crowd_waits(valkey: RedisServer) -> None:
    async def work(backend: RedisBackend) -> int:
        await backend.save_state("r", {"status": "running"})
        assert all(await asyncio.gather(*(backend.load_state("r") for _ in range(300))))
        return await asyncio.to_thread(clients)

    def clients() -> int:
        return str(valkey.call("CLIENT", "LIST")).count("laddr=") - 1  # that asks is one, too

    before = clients()  # of an earlier test, whose end the server has not seen yet
    assert use(f"{valkey.uri}?prefix=p:", work, pool_size=3) <= before + 3


def test_a_server_that_stalls_is_given_up_in_time(valkey: RedisServer) -> None:
    async def work(backend: RedisBackend) -> None:
        await backend.save_state("r", {"status": "running"})
        loop = asyncio.get_running_loop()
        valkey.pause()
        try:
            for call in (backend.load_state("r"), backend.save_state("r", {"status": "completed"})):
                began = loop.time()
                with pytest.raises(UnreachableStoreError, match="does not answer"):
                    await call
                assert loop.time() - began < 5
        finally:
            valkey.go_on()
        assert (await backend.load_state("r") or {})["status"] in ("running", "completed")

    use(f"{valkey.uri}?prefix=p:", work, timeout=0.3)


def test_a_restart_that_nobody_noticed(valkey: RedisServer) -> None:
    """Connections that were cut while they were idle are made anew, for a read and for a write."""

    async def work(backend: RedisBackend) -> Any:
        await backend.save_state("r", {"status": "running"})
        for _ in range(2):
            await asyncio.to_thread(valkey.call, "CLIENT", "KILL", "TYPE", "normal")
            await backend.save_state("r", {"status": "paused"})
            await asyncio.to_thread(valkey.call, "CLIENT", "KILL", "TYPE", "normal")
            assert (await backend.load_state("r") or {})["status"] == "paused"

    use(f"{valkey.uri}?prefix=p:", work)


def test_a_run_that_is_always_written_is_busy(valkey: RedisServer) -> None:
    uri = f"{valkey.uri}?prefix=p:"

    async def work(backend: RedisBackend) -> None:
        await backend.save_state("r", {"status": "running"})

        async def change(tx: Any) -> None:
            await tx.lock(["r"])
            await asyncio.to_thread(valkey.call, "SET", "p:r", json.dumps({"status": "running"}))
            await tx.set("claim", "r", b"{}")

        with pytest.raises(BusyError, match="all the time"):
            await backend._server.write(change)

    use(uri, work, timeout=0.2)


# --- TLS


@asynccontextmanager
async def _encrypted(server: RedisServer, folder: Path) -> Any:
    """A port of the loopback that speaks TLS and passes on to the server."""
    certificate, key = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(str(server.folder / "s"))
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1], certificate


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")]),
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


def test_tls(valkey: RedisServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with _encrypted(valkey, tmp_path) as (port, certificate):
            uri = f"rediss://localhost:{port}/0?prefix=p:"
            async with RedisBackend(f"{uri}&ssl_ca_certs={certificate}") as backend:
                await backend.save_state("tls", {"status": "running"})
                assert (await backend.load_state("tls") or {})["status"] == "running"
            async with RedisBackend(uri) as backend:
                with pytest.raises(UnreachableStoreError, match="certificate"):
                    await backend.load_state("tls")
            other_name = uri.replace("localhost", "127.0.0.1")
            async with RedisBackend(f"{other_name}&ssl_ca_certs={certificate}") as backend:
                with pytest.raises(UnreachableStoreError, match="certificate"):
                    await backend.load_state("tls")
            async with RedisBackend(f"{other_name}&ssl_cert_reqs=none") as backend:
                assert (await backend.load_state("tls") or {})["status"] == "running"

    asyncio.run(run())


# --- a cluster


def test_a_store_is_in_one_slot_and_comes_back_with_its_node(cluster: RedisCluster) -> None:
    owner = cluster.owner("{lens}:")
    others = [server for server in cluster.servers if server is not owner]

    async def save(backend: RedisBackend) -> None:
        for at in range(5):
            await backend.save_state(f"{{odd}}-{at}", {"status": "running"})

    for server in cluster.servers:
        server.call("FLUSHALL")
    use(cluster.uri, save)
    assert [server.call("DBSIZE") for server in others] == [0, 0]
    whole(owner, "{lens}:")

    async def away(backend: RedisBackend) -> None:
        assert await backend.load_state("{odd}-1")
        await asyncio.to_thread(owner.kill)
        for call in (backend.load_state("{odd}-1"), backend.save_state("x", {"status": "running"})):
            with pytest.raises(UnreachableStoreError):
                await call
        await asyncio.to_thread(owner.start)
        await asyncio.to_thread(cluster.wait)
        assert await backend.load_state("{odd}-1")
        await backend.save_state("x", {"status": "running"})

    use(cluster.uri, away, timeout=2)
    assert len(whole(owner, "{lens}:")) == 6


def test_a_cluster_that_lacks_a_slot_is_down(cluster: RedisCluster) -> None:
    owner, first = cluster.owner("{lens}:"), cluster.servers[0]
    for server in {owner, first}:
        server.call("CLUSTER DELSLOTS", 0)
    try:
        with pytest.raises(UnreachableStoreError, match="is down") as caught:
            use(cluster.uri, lambda b: b.load_state("x"))
        assert "cluster nodes" in (caught.value.hint or "")
    finally:
        first.call("CLUSTER ADDSLOTS", 0)
        if owner is not first:
            owner.call("CLUSTER SETSLOT", 0, "NODE", first.call("CLUSTER MYID"))
        cluster.wait()


@pytest.mark.parametrize(("prefix", "said"), [("{x}", "MOVED"), ("x", "CROSSSLOT")])
def test_a_node_of_a_cluster_that_is_named_as_a_single_server(cluster: RedisCluster, prefix: str, said: str) -> None:
    other = next(server for server in cluster.servers if server is not cluster.owner("{x}"))
    with pytest.raises(UnreachableStoreError, match=said) as caught:
        use(f"{other.uri}?prefix={prefix}", lambda b: b.load_state("r"))
    assert "redis-cluster://" in (caught.value.hint or "")


def test_a_slot_that_moves_is_followed(cluster: RedisCluster) -> None:
    """The next command is sent to the node that has the slot now."""
    owner = cluster.owner("{moving}:")
    target = next(server for server in cluster.servers if server is not owner)
    uri = f"{cluster.uri}?prefix={{moving}}:"
    slot = owner.call("CLUSTER KEYSLOT", "{moving}:")

    def move(source: RedisServer, to: RedisServer) -> None:
        names = {server: server.call("CLUSTER MYID") for server in cluster.servers}
        to.call("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        source.call("CLUSTER SETSLOT", slot, "MIGRATING", names[to])
        keys = source.call("CLUSTER GETKEYSINSLOT", slot, 1000)
        if keys:
            source.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        for server in (to, source, *(one for one in cluster.servers if one not in (to, source))):
            server.call("CLUSTER SETSLOT", slot, "NODE", names[to])

    async def work(backend: RedisBackend) -> None:
        await backend.save_state("a", {"status": "running"})
        await asyncio.to_thread(move, owner, target)
        assert await backend.load_state("a")
        await backend.save_state("a", {"status": "completed"})
        assert [run.status async for run in backend.iter_runs(RunFilter())] == ["completed"]

    use(uri, work)
    whole(target, "{moving}:")
    move(target, owner)
