"""Fixtures of the command line's tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
from hypothesis import settings
from servers import (
    PostgresServer,
    RedisCluster,
    RedisServer,
    postgres_server,
    redis_cluster,
    redis_program,
    redis_server,
    valkey_program,
)
from support import NEW, OLD, Lens

# No test cuts the power, and in memory an fsync costs nothing. xdist's workers take the folder of this process.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# The same examples in every run: a red run is red for what was changed. The long rounds look for new ones.
_SOAK = "LENS_SOAK" in os.environ
settings.register_profile(
    "suite", deadline=None, database=None, derandomize=not _SOAK, max_examples=500 if _SOAK else 40
)
settings.load_profile("suite")

# A shell starts what it runs in the background deaf to Ctrl-C, and so would all be that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same of nohup and SIGHUP.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Take the thousands of collected tests out of the collector's sight: it went through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def bare_lens(tmp_path: Path) -> Iterator[Lens]:
    """``lens`` in a folder without a store."""
    lens = Lens.made(tmp_path)
    with lens.entered():
        yield lens


@pytest.fixture
def lens(bare_lens: Lens) -> Lens:
    """``lens`` beside a store of the newest library, as ``flujo_ops.db``."""
    bare_lens.store(NEW)
    return bare_lens


@pytest.fixture
def old_lens(bare_lens: Lens) -> Lens:
    """``lens`` beside a store of the older library."""
    bare_lens.store(OLD)
    return bare_lens


@pytest.fixture
def file_lens(bare_lens: Lens) -> Lens:
    """``lens`` beside a store of JSON files, which a variable names."""
    bare_lens.files(NEW, to="states")
    bare_lens.env["LENS_STORE"] = "states/"
    return bare_lens


@pytest.fixture
def fresh_processes() -> Iterator[None]:
    """Every process of the test is a new Python: for tests of what happens when it starts."""
    with forks.fresh():
        yield


@pytest.fixture(scope="session")
def pg16() -> Iterator[PostgresServer]:
    """The oldest PostgreSQL that is tested; a server for each process of the tests."""
    with postgres_server(16) as server:
        yield server


@pytest.fixture(scope="session")
def pg18() -> Iterator[PostgresServer]:
    """The newest PostgreSQL."""
    with postgres_server(18) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """The newest server that speaks Redis; each test has a prefix of its own, or empties it."""
    with redis_server(valkey_program(), tcp=True) as server:
        yield server


@pytest.fixture(scope="session")
def redis6() -> Iterator[RedisServer]:
    """The oldest Redis that is tested."""
    with redis_server(redis_program()) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    """Three primaries; a store is in one slot of one of them."""
    with redis_cluster(valkey_program()) as servers:
        yield servers
