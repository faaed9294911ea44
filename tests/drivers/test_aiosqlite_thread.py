"""What lens relies on in aiosqlite without being documented: a release that changes it fails here, by name."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
import warnings
import weakref
from pathlib import Path
from queue import SimpleQueue

import aiosqlite
import pytest

from flujo_lens.state.backends.sqlite.engine.aiosqlite_thread import AiosqliteThread
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_version_has_the_private_names() -> None:
    connection = aiosqlite.Connection(lambda: None, 1)  # type: ignore[arg-type,return-value]
    assert isinstance(connection._tx, SimpleQueue), "the queue that work is put into"
    assert hasattr(connection, "stop") or hasattr(connection, "_stop_running"), "what ends the thread"


def test_only_minor_versions_that_were_tried_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (name for name in project["dependencies"] if name.startswith("aiosqlite"))
    assert wanted == "aiosqlite>=0.20,!=0.22.0,<0.23", "try docs/decisions/0005 with another one first"
    assert re.match(r"0\.2[012]\.", aiosqlite.__version__)


def test_work_is_done_in_order_on_one_daemon_that_survives_an_error() -> None:
    thread, found, over = AiosqliteThread(), [], threading.Event()
    thread.put(lambda: 1 / 0)
    for number in range(3):
        thread.put(lambda number=number: found.append((number, threading.current_thread())))
    thread.put(over.set)
    assert over.wait(30)
    thread.stop()
    thread.join()
    assert [number for number, _ in found] == [0, 1, 2]
    (one,) = {ran for _, ran in found}
    assert (one.name, one.daemon, one.is_alive()) == ("lens-sqlite", True, False)


def test_a_thread_begins_after_the_end_of_the_one_before() -> None:
    first, begun, go_on, ends = AiosqliteThread(), threading.Event(), threading.Event(), []
    first.put(lambda: (begun.set(), go_on.wait(30), ends.append("first")))
    first.stop()
    second = AiosqliteThread(after=first)
    second.put(lambda: ends.append("second"))
    second.stop()
    assert begun.wait(30)
    assert ends == []
    go_on.set()
    second.join()
    assert ends == ["first", "second"]


def test_what_a_call_returned_is_not_kept_by_the_thread() -> None:
    class Large:
        pass

    async def work() -> weakref.ref[Large]:
        return weakref.ref(await thread.run(Large))

    thread = ConnectionThread(lambda: None)
    gone, end = asyncio.run(work()), time.monotonic() + 30
    while gone() is not None and time.monotonic() < end:
        time.sleep(0.001)  # the thread may still be on its way out of the call
        gc.collect()
    assert gone() is None
    asyncio.run(thread.close(lambda: None))


def test_a_connection_that_is_forgotten_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = ConnectionThread(lambda: None)
        ran = asyncio.run(thread.run(threading.current_thread))
        del thread
        gc.collect()
        ran.join(30)
        gc.collect()
    assert not ran.is_alive()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("left", ["asyncio.run(thread.run(int))", "asyncio.run(leave(thread))"])
def test_a_process_that_closes_nothing_ends_in_silence(left: str) -> None:
    """Also one whose loop was closed while a call ran, and with every warning and debug mode on."""
    script = f"""
import asyncio, time
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread

async def leave(thread):
    loop = asyncio.get_running_loop()
    call = asyncio.ensure_future(thread.run(lambda: time.sleep(0.2)))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()

thread = ConnectionThread(lambda: None)
{left}
print("over")
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", script]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
