"""``lens watch``: real processes that follow a store while it is written, on a terminal and in a pipe."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from typing import Any

import pytest
from servers import redis_server, valkey_program
from support import Lens, tree

from flujo_lens.errors import UnreachableStoreError
from flujo_lens.operations.watch import looks
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.memory import InMemoryBackend
from flujo_lens.state.registry import open_backend

LONG = 30.0
"""Seconds to wait for what has to come: the machine may be busy."""

ENTER, LEAVE, SHOW_CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"

WORKER = """
import asyncio, os, sys
from flujo_lens import Flujo, step
from flujo_lens.state.registry import open_backend

@step
async def load(text):
    return text

@step
async def charge(text):
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    raise ValueError("refused: api_key=abc123secret\\x1b[31m")

async def main():
    backend = open_backend(sys.argv[1], {}, timeout=10, zone=None)
    await Flujo(load >> charge, state_backend=backend, pipeline_name="orders").run_async("x", run_id=sys.argv[2])
    await backend.shutdown()

asyncio.run(main())
"""


def written(uri: str, *writes: Callable[[StateBackend], Awaitable[Any]]) -> None:
    """Do something to a store, as an application would."""

    async def work() -> None:
        async with open_backend(uri, {}, timeout=10, zone=None) as backend:
            for write in writes:
                await write(backend)

    asyncio.run(work())


def saved(run_id: str, status: str, **more: Any) -> Callable[[StateBackend], Awaitable[Any]]:
    """Save the state of a run that began just now."""
    now = datetime.now(UTC).isoformat()
    state = {"status": status, "pipeline_name": "orders", "created_at": now, "updated_at": now, **more}
    return lambda backend: backend.save_state(run_id, state)


class Events:
    """The events of a process that prints ndjson."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._pipe, self._left = process.stdout.fileno(), b""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        end = time.monotonic() + LONG
        while b"\n" not in self._left:
            assert select.select([self._pipe], [], [], max(end - time.monotonic(), 0))[0], "no event came"
            data = os.read(self._pipe, 65536)
            if not data:
                raise StopIteration
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return dict(json.loads(line))

    def until(self, event: str, run_id: str | None = None) -> dict[str, Any]:
        """The next such event."""
        return next(e for e in self if (e["event"], run_id or e["run_id"]) == (event, e["run_id"]))


@contextmanager
def watching(lens: Lens, line: str) -> Iterator[tuple[subprocess.Popen[bytes], Events]]:
    """A process that prints events; it is ended, should it go on."""
    with lens.start(f"{line} -o ndjson", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process, Events(process)
        finally:
            process.kill()


def told(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """How a process ended, and what it said on stderr."""
    assert process.stderr is not None
    return process.wait(LONG), process.stderr.read()


# --- events


@pytest.mark.parametrize("uri", ["sqlite:///new.db", "file://{cwd}/states"])
def test_events_of_runs_as_they_happen(bare_lens: Lens, uri: str) -> None:
    uri = uri.format(cwd=bare_lens.cwd)
    written(uri, saved("before", "running"), saved("done", "completed"))
    with watching(bare_lens, f"watch --store {uri} --interval 0.1 --pipeline orders") as (process, events):
        first = next(events)
        assert [first[name] for name in ("event", "run_id", "pipeline_name")] == ["running", "before", "orders"]
        written(uri, saved("new", "running"), saved("other", "running", pipeline_name="mails"))
        assert events.until("started")["run_id"] == "new"
        question = {"pause_message": "Pay with //user:secret@bank? \x1b[2J"}
        written(uri, saved("new", "paused", pipeline_context=question))
        assert events.until("paused")["message"] == "Pay with //user:***@bank? \x1b[2J"
        written(uri, saved("new", "running"))
        assert events.until("resumed")["run_id"] == "new"
        written(uri, saved("new", "failed", error_message="ValueError: no"), saved("before", "completed"))
        ended = [next(events) for _ in range(2)]
        assert {(e["run_id"], e["event"], e["message"]) for e in ended} == {
            ("new", "failed", "ValueError: no"),
            ("before", "completed", None),
        }
        written(uri, lambda backend: backend.delete_run("new"))
        assert events.until("deleted")["run_id"] == "new"
        process.send_signal(signal.SIGINT)
        assert list(events) == []
        assert told(process) == (130, b"")


@contextmanager
def begun(lens: Lens, events: Events) -> Iterator[subprocess.Popen[bytes]]:
    """A process with run-1, which is seen to start; it fails when there is a file "go"."""
    assert next(events)["run_id"] == "other", "a run that is there before has no event of its start"
    worker = lens.write("worker.py", WORKER)
    arguments = [sys.executable, str(worker), f"sqlite:///{lens.cwd}/new.db", "run-1"]
    with subprocess.Popen(arguments, cwd=lens.cwd, env=lens.environment(), stderr=subprocess.DEVNULL) as process:
        try:
            events.until("started", "run-1")
            yield process
        finally:
            process.kill()


def test_a_run_is_followed_until_it_fails(bare_lens: Lens) -> None:
    written("sqlite:///new.db", saved("other", "running"))
    with (
        watching(bare_lens, "watch --store sqlite:///new.db --interval 0.1") as (_, events),
        begun(bare_lens, events),
        watching(bare_lens, "watch run-1 --store sqlite:///new.db --exit-status") as (process, followed),
    ):
        found = [next(followed)]
        bare_lens.write("go", "")
        found += followed
        assert told(process) == (1, b"")
        assert events.until("failed", "run-1")["message"] == "ValueError: refused: api_key=***"
    names = {(e["event"], e["step_name"] or e["span_name"], e["status"]) for e in found}
    assert {("step", "load", "completed"), ("step", "charge", "failed"), ("span", "charge", "failed")} <= names
    assert [found[0]["event"], found[-1]["event"]] == ["started", "failed"]
    assert "abc123secret" not in json.dumps(found)


def test_a_run_whose_process_dies_is_stale_and_no_longer_followed(bare_lens: Lens) -> None:
    written("sqlite:///new.db", saved("other", "running"))
    with (
        watching(bare_lens, "watch --store sqlite:///new.db --interval 0.1") as (_, events),
        begun(bare_lens, events) as running,
        watching(bare_lens, "watch run-1 --store sqlite:///new.db --exit-status") as (process, followed),
    ):
        followed.until("step")
        running.kill()
        running.wait()
        assert f"pid {running.pid}" in events.until("stale", "run-1")["message"]
        assert followed.until("stale")["run_id"] == "run-1"
        code, said = told(process)
    assert (code, b"lens resume --store sqlite:///new.db run-1" in said) == (1, True)


@pytest.mark.parametrize(("run", "code"), [("single-001", 0), ("fail-001", 1), ("cancelled-001", 1), ("paused-001", 6)])
def test_the_outcome_of_a_run_is_the_exit_code(lens: Lens, run: str, code: int) -> None:
    before = tree(lens.cwd)
    assert lens(f"watch {run} --exit-status").code == code
    assert lens(f"watch {run}").code == 0
    followed, watched = lens(f"show {run} --follow -o csv"), lens(f"watch {run} -o csv")
    assert (followed.code, followed.stdout) == (0, watched.stdout)
    assert lens(f"watch {run}", tty=True).out.startswith(f"{run}   ")
    assert tree(lens.cwd) == before


def test_lines_for_people(lens: Lens) -> None:
    shown = lens("watch fail-001 -o table").lines
    assert shown[0].endswith(" -05:00  started     fail-001  payments 1.0.0")
    assert shown[-1].split()[3:6] == ["failed", "fail-001", "payments"]


REFUSED = [
    ("watch nothing-001", 3, "no run"),
    ("watch -o json", 2, "-o json"),
    ("watch --exit-status", 2, "needs a RUN"),
    ("watch fail-001 --status failed", 2, "--status"),
    ("watch fail-001 --recent 3m", 2, "--recent"),
    ("watch --recent soon", 2, "--recent"),
    ("watch --columns run_id,nothing", 2, "nothing"),
    ("watch --interval 0", 2, "--interval"),
    ("watch --store missing.db", 5, "missing.db"),
    ("show fail-001 --follow --state", 2, "--state"),
]


@pytest.mark.parametrize(("line", "code", "words"), REFUSED)
def test_what_is_refused(lens: Lens, line: str, code: int, words: str) -> None:
    done = lens(line)
    assert (done.code, words in done.err) == (code, True), done.err


def test_a_reader_that_goes_ends_it_though_nothing_happens(lens: Lens) -> None:
    with lens.start("watch --interval 0.1", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"at\tevent\trun_id")
        process.stdout.close()
        assert told(process) == (0, b"")


# --- a store that goes away


def test_a_file_that_goes_away_and_comes_back(bare_lens: Lens) -> None:
    path = bare_lens.cwd / "new.db"
    written("sqlite:///new.db", saved("run-1", "running"))
    with watching(bare_lens, "watch --store sqlite:///new.db --interval 0.1") as (process, events):
        next(events)
        shutil.move(path, path.with_suffix(".away"))
        assert "no store at" in events.until("store_lost")["message"]
        shutil.move(path.with_suffix(".away"), path)
        events.until("store_back")
        written("sqlite:///new.db", saved("run-1", "completed"))
        events.until("completed", "run-1")
        process.send_signal(signal.SIGTERM)
        assert told(process) == (143, b"")


def test_a_server_that_is_restarted(bare_lens: Lens) -> None:
    with redis_server(valkey_program()) as server:
        written(server.uri, saved("run-1", "running"))
        with watching(bare_lens, f"watch --store {server.uri} --interval 0.1 --timeout 2") as (_, events):
            next(events)
            server.kill()
            assert events.until("store_lost")["run_id"] is None
            server.start()
            written(server.uri, saved("run-2", "running"))
            events.until("store_back")
            events.until("started", "run-2")


# --- on a terminal


class Screen:
    """A terminal on which a command runs, and all that it printed there so far."""

    def __init__(self, lens: Lens, line: str, width: int, height: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        self._size(theirs, width, height)
        env = {"TERM": "xterm-256color", "NO_COLOR": "1"}
        self.process = lens.start(line, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self.shown = b""

    def _size(self, terminal: int, width: int, height: int) -> None:
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window; a terminal then sends the signal, here it is no session's."""
        self._size(self._ours, width, height)
        self.shown = b""
        self.process.send_signal(signal.SIGWINCH)

    def until(self, words: str) -> str:
        """What is shown once it has these words."""
        end = time.monotonic() + LONG
        while words.encode() not in self.shown:
            assert time.monotonic() < end, self.shown
            self.read(0.1)
        return self.shown.decode("utf-8", "replace")

    def read(self, seconds: float) -> bool:
        """Read what comes within some seconds; False at the end."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)

    def end(self, number: int) -> int:
        """Send a signal, and return how it ended."""
        self.process.send_signal(number)
        while self.read(LONG):
            pass
        os.close(self._ours)
        return self.process.wait(LONG)


def lines_of(shown: str) -> list[str]:
    """The lines of the last screen that was drawn, without what moves the cursor."""
    return [line.rstrip() for line in shown.rpartition("\x1b[H")[2].split("\r\n")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_table_follows_the_store_and_the_window(bare_lens: Lens, number: int, code: int) -> None:
    odd = "run_0123456789abcdef0123456789abcdef"
    uri = "sqlite:///new.db"
    written(uri, saved(odd, "running"), saved("r2", "failed", error_message="password=hunter2 [red]x[/red] \x1b[2J"))
    screen = Screen(bare_lens, f"watch --store {uri} --interval 0.1", 80)
    first = lines_of(screen.until("password=***"))
    assert [first[1], first[2]] == ["1 running   0 paused", "last 15m: 1 finished (0.1/min), 1 failed (100%)"]
    assert max(map(len, first)) <= 80
    assert [line.split()[0] for line in first[4:7]] == ["RUN", odd, "r2"]
    written(uri, saved("r3", "paused"), saved(odd, "completed"))
    screen.until("1 paused")
    screen.resize(160, 24)
    assert r"password=*** [red]x[/red] \x1b[2J" in screen.until("\\x1b[2J")
    screen.resize(160, 8)
    wide = lines_of(screen.until("the window is too low"))
    assert wide[3] == "showing 2 of 3: the window is too low"
    assert wide[0].rindex(":") > 140
    assert screen.end(number) == code
    whole = screen.shown
    assert whole.rindex(LEAVE) < whole.rindex(SHOW_CURSOR) or whole.rindex(SHOW_CURSOR) > 0
    assert ENTER not in whole[whole.rindex(LEAVE) :]
    assert b"Traceback" not in whole


def test_at_80_columns_it_says_who_is_stale_and_how_long_a_run_waits(bare_lens: Lens) -> None:
    ids = [f"run_{n}123456789abcdef0123456789abcdef" for n in range(3)]
    ago = (datetime.now(UTC) - timedelta(hours=3, seconds=20)).isoformat()
    old = {"created_at": ago, "updated_at": ago, "execution_time_ms": 31}
    written(
        "sqlite:///new.db",
        saved(ids[0], "running", **old),
        saved(ids[1], "paused", **old, pipeline_context={"pause_message": "Approve invoice 4711?"}),
        saved(ids[2], "failed", error_message="ValueError: no such card"),
    )
    screen = Screen(bare_lens, "watch --store sqlite:///new.db --interval 0.1", 80)
    head, *rows = (line.split(maxsplit=2) for line in lines_of(screen.until(ids[2]))[4:8])
    screen.end(signal.SIGTERM)
    assert head == ["RUN", "STATUS", "TIME  NOTE"]
    assert [row[:2] for row in rows] == [[ids[0], "stale"], [ids[1], "paused"], [ids[2], "failed"]]
    assert "no activity for 3h" in rows[0][2]
    assert rows[1][2].split(maxsplit=1) == ["3h", "Approve invoice 4711?"]
    assert "ValueError: no such c" in rows[2][2]


def test_the_screen_says_that_the_store_is_away(bare_lens: Lens) -> None:
    written("sqlite:///new.db", saved("run-1", "running"))
    screen = Screen(bare_lens, "watch run-1 --store sqlite:///new.db --interval 0.1", 100)
    screen.until("run-1   running   orders")
    path = bare_lens.cwd / "new.db"
    shutil.move(path, path.with_suffix(".away"))
    screen.until("trying again: LENS-S1: no store at")
    shutil.move(path.with_suffix(".away"), path)
    written("sqlite:///new.db", saved("run-1", "completed"))
    left = screen.until("run-1   completed   orders")
    while screen.read(LONG):
        left = screen.shown.decode()
    assert screen.process.wait(LONG) == 0
    assert "run-1   completed   orders" in left.rpartition(LEAVE.decode())[2]


# --- the cost


class Counting(InMemoryBackend):
    """Counts reads; may be away."""

    reads = 0
    is_away = False

    async def read_change_token(self) -> Any:
        if self.is_away:
            raise UnreachableStoreError("away")
        return await super().read_change_token()

    async def read(self) -> int:
        self.reads += 1
        return self.reads


def test_an_unchanged_store_is_not_read() -> None:
    async def work() -> Sequence[tuple[int, bool, bool]]:
        backend, found = Counting(), []
        pauses = list[float]()

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        await saved("run-1", "running")(backend)
        async for look in looks(backend, backend.read, 0, 0.5, sleep):
            found.append((look.value, look.is_new, look.problem is not None))
            if len(found) == 4:
                await saved("run-1", "completed")(backend)
            backend.is_away = len(found) in (5, 6)
            if len(found) == 9:
                assert min(pauses) >= 0.5
                return found
        raise AssertionError

    assert asyncio.run(work()) == [
        *[(1, True, False), (1, False, False), (1, False, False), (1, False, False)],
        *[(2, True, False), (2, False, True), (2, False, True), (3, True, False), (3, False, False)],
    ]
