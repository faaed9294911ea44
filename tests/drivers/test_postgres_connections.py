"""Connections of the PostgreSQL driver: TLS, several hosts, and how many there are.

The servers of the wheels have no TLS, so a gate before them speaks it, as a managed service's does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from servers import PostgresServer

from flujo_lens.errors import ConfigError, UnreachableStoreError
from flujo_lens.state.backends.core import pool_leases as leases
from flujo_lens.state.backends.postgres import PostgresBackend
from flujo_lens.state.backends.postgres import store as stores
from flujo_lens.state.views import RunFilter

asyncpg = pytest.importorskip("asyncpg")
x509 = pytest.importorskip("cryptography.x509")
T = TypeVar("T")
SSL_REQUEST = struct.pack("!II", 8, 80877103)
_KEY = b"K" + struct.pack("!I", 12)
"""The beginning of the message that names the server's process."""


class Gate:
    """A port of the loopback that passes connections on to a server's socket, by TLS if it is asked for.

    As a pooler does, it may name another process than that of the server.
    """

    def __init__(self, socket: str, context: ssl.SSLContext | None, *, pools: bool = False) -> None:
        self._socket, self._context, self._pools = socket, context, pools
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.secured = 0
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._end.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                first = await reader.readexactly(8)
                if first == SSL_REQUEST:
                    writer.write(b"S" if self._context else b"N")
                    first = b""
                    if self._context:
                        await writer.start_tls(self._context)
                        self.secured += 1
                there = await asyncio.open_unix_connection(self._socket)
                there[1].write(first)
                await asyncio.gather(_pumped(reader, there[1]), _pumped(there[0], writer, pools=self._pools))
        finally:
            writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, pools: bool = False) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            at = data.find(_KEY) + len(_KEY) if pools and _KEY in data else 0
            writer.write(data[:at] + bytes(4) + data[at + 4 :] if at else data)
            pools = pools and not at
            await writer.drain()
    writer.close()


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return files


@pytest.fixture(scope="module")
def tls(pg16: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, Path, Path]]:
    """A gate with TLS before a store, the certificate of who signed it, and one of somebody else."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = _certificate(folder, "mine")
    other, _ = _certificate(folder, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    pg16.execute("CREATE SCHEMA IF NOT EXISTS tls", "SELECT 1")
    use(f"{pg16.uri}&schema=tls", lambda b: b.save_state("r", {"status": "running"}))
    gate = Gate(_socket(pg16), context)
    yield gate, certificate, other
    gate.stop()


def _socket(server: PostgresServer) -> str:
    return f"{server.uri.partition('host=')[2]}/.s.PGSQL.5432"


def use(uri: str, work: Callable[[PostgresBackend], Awaitable[T]], **options: Any) -> T:
    """Do something with a backend."""

    async def run() -> T:
        async with PostgresBackend(uri, **options) as backend:
            return await work(backend)

    return asyncio.run(run())


def test_encrypted_connections(tls: tuple[Gate, Path, Path]) -> None:
    gate, certificate, _ = tls
    uri = f"postgresql://postgres@127.0.0.1:{gate.port}/postgres?schema=tls"
    for wanted in ("sslmode=require", f"sslmode=verify-full&sslrootcert={certificate}"):
        before = gate.secured
        assert use(f"{uri}&{wanted}", lambda b: b.count_runs(RunFilter())) == 1
        assert gate.secured > before


def test_a_certificate_that_nobody_known_has_signed(tls: tuple[Gate, Path, Path]) -> None:
    gate, _, other = tls
    uri = f"postgresql://postgres:hush@127.0.0.1:{gate.port}/postgres?schema=tls&sslmode=verify-full"
    with pytest.raises(UnreachableStoreError, match="certificate") as told:
        use(f"{uri}&sslrootcert={other}", lambda b: b.count_runs(RunFilter()), timeout=5)
    assert "sslrootcert" in str(told.value.hint)
    assert "hush" not in str(told.value)
    with pytest.raises(ConfigError, match=r"no file .*missing"):
        use(f"{uri}&sslrootcert={other.parent}/missing.crt", lambda b: b.count_runs(RunFilter()))


def test_a_server_without_tls_where_it_is_required(pg16: PostgresServer) -> None:
    gate = Gate(_socket(pg16), None)
    try:
        uri = f"postgresql://postgres@127.0.0.1:{gate.port}/postgres?sslmode=require"
        with pytest.raises(UnreachableStoreError, match="SSL"):
            use(uri, lambda b: b.count_runs(RunFilter()), timeout=5)
    finally:
        gate.stop()


def test_the_second_host_answers_where_the_first_is_down(pg16: PostgresServer, tls: tuple[Gate, Path, Path]) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{tls[0].port}"
    uri = f"postgresql://postgres@{hosts}/postgres?schema=tls&target_session_attrs="
    for wanted in ("any", "read-write", "primary"):
        assert use(f"{uri}{wanted}", lambda b: b.count_runs(RunFilter())) == 1
    with pytest.raises(UnreachableStoreError):
        use(f"{uri}standby", lambda b: b.count_runs(RunFilter()), timeout=5)


def test_no_more_connections_than_the_pool_has(pg16: PostgresServer) -> None:
    pg16.execute("CREATE SCHEMA IF NOT EXISTS pool", "CREATE ROLE pooled LOGIN SUPERUSER", "SELECT 1")
    uri = f"{pg16.uri.replace('//postgres:@', '//pooled@')}&schema=pool"
    most = 0

    async def watch(done: asyncio.Event) -> None:
        nonlocal most
        connection = await asyncpg.connect(pg16.uri)
        while not done.is_set():
            most = max(most, await connection.fetchval(_COUNT))
            await asyncio.sleep(0)
        await connection.close()

    async def work(backend: PostgresBackend) -> None:
        await backend.save_state("r", {"status": "running"})
        done = asyncio.Event()
        watching = asyncio.create_task(watch(done))
        await asyncio.gather(*(backend.save_state(f"r-{n % 9}", {"status": "running"}) for n in range(60)))
        done.set()
        await watching

    use(uri, work, pool_size=3)
    assert 1 < most <= 3
    assert pg16.execute(_COUNT)[0][0] == 0


_COUNT = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pooled'"


_SETTINGS = ("search_path", "lock_timeout", "jit", "default_transaction_read_only")


async def _rounds(backend: PostgresBackend) -> tuple[list[int], list[str]]:
    """How many messages a save, one of the same state, a look at it, a page and a prefix take; what stays set then."""
    state = {"pipeline_name": "p", "status": "completed", "created_at": "2026-01-01T00:00:00+00:00"}
    await backend.save_state("first", state)
    statements: list[Any] = []
    counts = []
    async with backend._server._connection() as connection:
        connection.add_query_logger(statements.append)
    for call in (
        lambda: backend.save_state("r", state | {"pipeline_context": {"a": 1}}),
        lambda: backend.save_state("r", state | {"pipeline_context": {"a": 1}}),
        lambda: backend.load_state("r"),
        lambda: backend.query_runs(RunFilter(), limit=1),
        lambda: backend.find_run_ids("r"),
    ):
        await call()  # a second one has what the first found out
        await backend.delete_run("other")
        statements.clear()
        await call()
        counts.append(len(statements))
    async with backend._server._connection() as connection:
        return counts, [await connection.fetchval("SELECT current_setting($1)", name) for name in _SETTINGS]


def test_one_message_for_a_save_and_for_what_is_read_in_one_statement(pg16: PostgresServer) -> None:
    pg16.execute("CREATE SCHEMA IF NOT EXISTS rounds", "SELECT 1")
    counts, settings = use(f"{pg16.uri}&schema=rounds", _rounds, pool_size=1)
    assert counts == [1, 1, 1, 1, 1]
    assert settings == ['"rounds"', "10s", "off", "on"]


_TEXTS = (
    "'",
    "''; SELECT 1; --",
    "\\' $1 %s {} E'\\n",
    "$$ $2::text",
    "\n\t\u2028",
    "über 漢 🚀",
    "\0",
    "x" * 100_000,
    "",
)


def test_a_state_comes_back_as_it_was_however_it_is_written(pg16: PostgresServer) -> None:
    """In the text of a statement, as a parameter, or as a document beside its row."""
    pg16.execute("CREATE SCHEMA IF NOT EXISTS texts", "SELECT 1")

    async def work(backend: PostgresBackend) -> None:
        await backend.create_store()
        await backend.save_state("first", {"status": "running"})
        for number, text in enumerate(_TEXTS):
            run_id = f"run {number} ' \\ $1 {text[:9]}".replace("\0", "")
            for memory in (None, 0.5, 1 / 3):
                state = {
                    "run_id": run_id,
                    "pipeline_name": "it's",
                    "status": "running",
                    "created_at": "2026-01-01T00:00:00.000001+00:00",
                    "updated_at": "2026-01-01T00:00:00+00:00",
                    "pipeline_context": {text: [text, 1e300, -7, None, True]},
                    "error_message": text,
                    "memory_usage_mb": memory,
                    "is_background_task": True,
                }
                await backend.save_state(run_id, state)
                assert await backend.load_state(run_id) == state

    use(f"{pg16.uri}&schema=texts", work)


def test_a_connection_that_is_not_used_is_given_back(pg16: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pg16.execute("CREATE ROLE idle LOGIN SUPERUSER", "CREATE SCHEMA IF NOT EXISTS idle", "SELECT 1")
    uri = f"{pg16.uri.replace('//postgres:@', '//idle@')}&schema=idle"
    for module in (leases, stores):
        monkeypatch.setattr(module, "LONGEST", 0.05)

    async def work(backend: PostgresBackend) -> None:
        await backend.save_state("r", {"status": "running"})
        connection = await asyncpg.connect(pg16.uri)
        async with asyncio.timeout(30):
            while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'idle'"):
                await asyncio.sleep(0.02)
        await connection.close()
        assert (await backend.load_state("r") or {})["status"] == "running"

    use(uri, work)


def test_a_pooler_keeps_none_of_our_settings(pg16: PostgresServer) -> None:
    pg16.execute("CREATE SCHEMA IF NOT EXISTS pooled", "SELECT 1")
    gate = Gate(_socket(pg16), None, pools=True)
    try:
        uri = f"postgresql://postgres@127.0.0.1:{gate.port}/postgres?schema=pooled&sslmode=disable"
        counts, settings = use(uri, _rounds, pool_size=1)
    finally:
        gate.stop()
    assert counts[2:] == [3, 3, 3]
    assert settings == ['"$user", public', "0", "on", "off"]
