"""Real Python processes in a tenth of the time: forked from one that has imported the package, not started anew.

A process has a pid, files, variables, a folder and signals of its own, can be killed, and ends as Python ends. What it
has not is a start: where that is the point (imports, locales, what a user's ``sitecustomize`` does), `fresh` says so.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flujo_lens

__all__ = ["fresh", "popen"]

_SERVER = Path(__file__).with_name("fork_server.py")
_ROOT = str(Path(flujo_lens.__file__).resolve().parents[1])
_START = {"PYTHONPATH": _ROOT, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
_AT_START = ("PYTHON", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "COVERAGE_")
"""How variables begin that a process reads while it starts, or imports."""
_LATER = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", *_START}
_PIPES = {"stdin", "stdout", "stderr", "text", "encoding", "cwd", "env", "start_new_session"}
_servers: dict[tuple[str, ...], tuple[int, socket.socket]] = {}
"""By what they run and import: the process of the tests that has it, and the socket to it."""
_is_fresh = False


@contextmanager
def fresh() -> Iterator[None]:
    """In this block every process is a new Python."""
    global _is_fresh
    before, _is_fresh = _is_fresh, True
    try:
        yield
    finally:
        _is_fresh = before


def popen(
    words: Sequence[str | bytes],
    env: Mapping[str, str],
    *,
    is_strict: bool = False,
    python: str = sys.executable,
    imported: Sequence[str] = (),
    **more: Any,
) -> Any:
    """`subprocess.Popen` of a Python with `words`: a forked process where that is the same, else a new one.

    Args:
        is_strict: Warnings are errors.
        python: Another Python than this one.
        imported: What the forked process has imported; all of the package without it.
        more: Arguments of `subprocess.Popen`.
    """
    if _is_fresh or not _can_fork(env, more):
        return subprocess.Popen([python, *(["-W", "error"] if is_strict else []), *words], env=env, **more)
    return _Forked([python, *words], env=env, is_strict=is_strict, server=_server(python, *imported), **more)


def _can_fork(env: Mapping[str, str], more: Mapping[str, Any]) -> bool:
    if not _PIPES.issuperset(more) or "coverage" in sys.modules:
        return False
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    if _ROOT not in paths or any((Path(path) / "sitecustomize.py").exists() for path in paths):
        return False
    if any(env.get(name) != value for name, value in _START.items() if name != "PYTHONPATH"):
        return False
    return not any(name.startswith(_AT_START) and name not in _LATER for name in env)


def _server(*what: str) -> socket.socket:
    """The server of this process of the tests that runs a Python, and has imported modules."""
    if _servers.get(what, (0,))[0] != os.getpid():
        ours, theirs = socket.socketpair()
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **_START}
        command = [what[0], str(_SERVER), str(theirs.fileno()), *what[1:]]
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        _servers[what] = os.getpid(), ours
        atexit.register(_end, process, ours)
    return _servers[what][1]


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    ours.close()
    process.wait()


class _Forked(subprocess.Popen[Any]):
    """A process that the server forks, to be used as any other.

    Only three methods of `subprocess.Popen` that have no public name know how a process begins and ends.
    """

    def __init__(self, words: Sequence[str | bytes], *, is_strict: bool, server: socket.socket, **more: Any) -> None:
        self._is_strict, self._server = is_strict, server
        super().__init__(words, **more)

    def _execute_child(self, args: Sequence[str | bytes], *more: Any) -> None:
        cwd, env, pipes = more[4], more[5], more[9:15]
        words = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else word for word in args[1:]]
        asked = {
            "words": words,
            "cwd": os.fsdecode(cwd or os.getcwd()),
            "env": dict(env),
            "is_strict": self._is_strict,
            "is_leader": bool(more[20]),  # start_new_session
        }
        content = json.dumps(asked).encode()
        files = [place if file == -1 else file for place, file in enumerate((pipes[0], pipes[3], pipes[5]))]
        self._report, theirs = os.pipe()
        server = self._server
        socket.send_fds(server, [len(content).to_bytes(8, "big")], [*files, theirs])
        server.sendall(content)
        os.close(theirs)
        self.pid = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags and not select.select([self._report], [], [], 0)[0]:
            return 0, 0
        status = int.from_bytes(os.read(self._report, 4), "big")
        os.close(self._report)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode
