"""A store that is read without an event loop: its caller waits in its own thread, and Ctrl-C stops the statement."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from support import Lens

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.core.thread_call import BlockingCall, in_event_loop
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.backends.sqlite.engine.connection_thread import ConnectionThread
from flujo_lens.state.views import RunFilter

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def finished(work: Any) -> Any:
    """The result of a coroutine that never suspends."""
    assert not in_event_loop()
    with pytest.raises(StopIteration) as done:
        work.send(None)
    return done.value.value


def test_a_store_is_read_without_an_event_loop(lens: Lens) -> None:
    backend = SQLiteBackend(lens.cwd / "flujo_ops.db")

    async def work() -> tuple[int, int]:
        page = await backend.query_runs(RunFilter(), limit=5)
        every = [run async for run in backend.iter_runs(RunFilter())]
        await backend.shutdown()
        return len(page.items), len(every)

    assert finished(work()) == (5, finished(backend.count_runs(RunFilter())))
    finished(backend.shutdown())


def test_errors_arrive_as_in_an_event_loop(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        SQLiteBackend(tmp_path / "none.db").count_runs(RunFilter()).send(None)


def test_ctrl_c_stops_the_statement_and_awaits_its_end() -> None:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        ended: list[BaseException] = []
        begun = threading.Event()

        def endless() -> None:
            begun.set()
            try:
                connection.execute(ENDLESS).fetchall()
            except sqlite3.OperationalError as error:
                ended.append(error)
                raise

        def press() -> None:
            begun.wait()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        def again() -> None:  # an interrupt that comes before the statement stops nothing
            with suppress(sqlite3.ProgrammingError):  # it may be closed by now
                while not ended:
                    connection.interrupt()

        thread = ConnectionThread(again_in_thread(again))
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            thread.run(endless).send(None)
        assert str(ended[0]) == "interrupted"
        assert finished(thread.run(lambda: connection.execute("SELECT 1").fetchone())) == (1,)
        finished(thread.close(lambda: None))


def again_in_thread(work: Callable[[], None]) -> Callable[[], None]:
    """`work` on a thread: an interrupt must not wait for anything."""
    return lambda: threading.Thread(target=work, daemon=True).start()


def test_a_call_that_waits_for_its_turn_is_taken_off() -> None:
    call = BlockingCall(lambda: pytest.fail("was done"))
    threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        call.wait()
    call.do()
