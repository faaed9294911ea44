"""One clean-up of a store at a time: between processes, after deaths, and where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from programs import python, run_python

from flujo_lens.errors import BusyError, OperationFailedError, ReadOnlyStoreError
from flujo_lens.operations.store_lock import StoreLock, holder_of

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)

HOLD = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from flujo_lens.operations.store_lock import StoreLock

    now = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
    with StoreLock(Path(sys.argv[1]), command=["lens", "prune", "--yes"], actor="ana", now=now):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ops.db.lens-lock"


def lock_at(path: Path, timeout: float = 0) -> StoreLock:
    return StoreLock(path, command=["lens", "delete", "r"], actor="bob", now=NOW, timeout=timeout)


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is told to end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with python("-c", textwrap.dedent(HOLD), path, **pipes, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_it_says_who_holds_it(path: Path) -> None:
    with lock_at(path):
        told = json.loads(path.read_bytes())
        assert (told["pid"], told["host"], told["actor"]) == (os.getpid(), socket.gethostname(), "bob")
        assert told["since"] == "2026-11-21T03:11:08.000000Z"
        assert told["command"] == ["lens", "delete", "r"]
        assert stat.S_IMODE(path.stat().st_mode) & 0o133 == 0
    assert not path.exists()


def test_it_goes_also_after_an_error(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_at(path):
        raise ZeroDivisionError
    assert not path.exists()
    with lock_at(path):
        assert path.exists()


def test_the_second_is_told_of_the_first(path: Path) -> None:
    with another(path) as first:
        before = path.read_bytes()
        with pytest.raises(BusyError) as caught, lock_at(path):
            pytest.fail("two hold it")
        assert caught.value.message == (
            f"lens prune (pid {first.pid} on {socket.gethostname()}, ana, since 2026-11-21T03:11:08Z) "
            "is changing this store; nothing was changed"
        )
        assert (caught.value.details["pid"], caught.value.details["host"]) == (first.pid, socket.gethostname())
        assert path.read_bytes() == before


def test_two_in_one_process(path: Path) -> None:
    with lock_at(path), pytest.raises(BusyError, match="lens delete"), lock_at(path):
        pytest.fail("two hold it")


def test_one_that_was_killed_locks_nobody_out(path: Path) -> None:
    with another(path) as first:
        first.kill()
        first.wait()
        assert path.exists()
        with lock_at(path):
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert not path.exists()


def test_waiting_for_it(path: Path) -> None:
    with another(path) as first:
        assert first.stdin is not None
        end = threading.Timer(0.4, first.stdin.close)
        end.start()
        with lock_at(path, timeout=60):
            first.wait()
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
        end.join()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"pid":"x"}', b"[" * 9000])
def test_whatever_was_left_is_written_over(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with lock_at(path):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()


def test_while_it_says_nothing_yet(path: Path) -> None:
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another command is changing this store"), lock_at(path):
            pytest.fail("two hold it")
        holder = holder_of(path)
        assert holder is not None
        assert holder.process.pid == 0


def test_a_file_that_was_replaced_is_not_removed(path: Path) -> None:
    with lock_at(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_who_holds_it(path: Path) -> None:
    assert holder_of(path) is None
    assert not path.exists()
    path.touch()
    assert holder_of(path) is None
    with another(path) as first:
        holder = holder_of(path)
        assert holder is not None
        assert (holder.process.pid, holder.actor, holder.since) == (first.pid, "ana", NOW)
        assert holder.command == ("lens", "prune", "--yes")
    assert holder_of(path) is None


def test_looking_is_not_mistaken_for_holding(path: Path) -> None:
    """Whoever looks has the lock for a moment; here for longer."""
    path.touch()
    looking = threading.Event()

    def look() -> None:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            threading.Event().wait(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    with lock_at(path, timeout=30):
        pass
    thread.join()


def test_a_folder_or_a_link_in_its_place(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    with pytest.raises(OperationFailedError, match="cannot create the lock"), lock_at(path):
        pytest.fail("held")
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationFailedError, match="cannot create the lock"), lock_at(path):
        pytest.fail("held")
    assert not (tmp_path / "elsewhere").exists()


def test_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(OperationFailedError, match="No such file"), lock_at(tmp_path / "none" / "x.lens-lock"):
        pytest.fail("held")


def test_its_place(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "link").symlink_to("states")
    assert StoreLock.sidecar_path(tmp_path / "link") == tmp_path / "states.lens-lock"


AS_NOBODY = """
    import os, socket, sys  # socket: the other user may not be able to read this Python's modules
    from datetime import UTC, datetime
    from pathlib import Path
    from flujo_lens.errors import LensError
    from flujo_lens.operations.store_lock import StoreLock, holder_of

    os.setgid(65534)
    os.setuid(65534)
    path = Path(sys.argv[1])
    print(holder_of(path) and holder_of(path).actor)
    try:
        with StoreLock(path, command=["lens", "prune"], actor="nobody", now=datetime.now(UTC)):
            print("held", path.stat().st_uid)
    except LensError as error:
        print(error.code, error.message.partition(":")[0])
"""


def as_nobody(path: Path) -> list[str]:
    return run_python("-c", textwrap.dedent(AS_NOBODY), path, check=True).stdout.splitlines()  # type: ignore[no-any-return]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_between_two_users(path: Path, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:4]):
        parent.chmod(parent.stat().st_mode | 0o055)
    code = ReadOnlyStoreError.code
    assert as_nobody(path) == ["None", f"{code} cannot create the lock {path}"]
    with another(path):
        told = as_nobody(path)
        assert told[0] == "ana"
        assert told[1].startswith(f"{BusyError.code} lens prune (pid")
    assert path.exists()
    assert as_nobody(path) == ["None", f"{code} cannot create the lock {path}"]
    tmp_path.chmod(0o777)
    assert as_nobody(path) == ["None", "held 65534"]
    assert not path.exists()


class TestWithoutLocks:
    """A file system that knows no flock: the file itself is the lock."""

    @pytest.fixture(autouse=True)
    def no_locks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)

    def test_a_living_process_keeps_it(self, path: Path) -> None:
        with another(path) as first:
            with pytest.raises(BusyError, match=f"pid {first.pid}"), lock_at(path):
                pytest.fail("two hold it")
            holder = holder_of(path)
            assert holder is not None
            assert holder.process.pid == first.pid

    def test_a_dead_one_does_not(self, path: Path) -> None:
        with another(path) as first:
            first.kill()
            first.wait()
            assert holder_of(path) is None
            with lock_at(path):
                assert json.loads(path.read_bytes())["pid"] == os.getpid()
        assert not path.exists()

    def test_one_of_another_machine_counts(self, path: Path) -> None:
        with another(path):
            told = json.loads(path.read_bytes())
        path.write_text(json.dumps({**told, "host": "elsewhere"}))
        with pytest.raises(BusyError, match="on elsewhere"), lock_at(path):
            pytest.fail("two hold it")
