"""Forks Python processes that have the package imported already; `forks` asks for them. Not to be imported.

Arguments are the number of its socket, and modules to import instead of the package. It runs until the other end of its
socket is closed. A request is a length and a JSON object, with four files: stdin,
stdout, stderr, and one that gets the status of the process when it has ended. The answer is its pid.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
import warnings
from contextlib import suppress
from typing import Any

_FILES = 4
_EARLIER = [path for path in sys.path[1:] if path not in os.environ["PYTHONPATH"].split(os.pathsep)]
"""Where modules are found without PYTHONPATH; sys.path[0] is the folder of this file."""


def preload(wanted: list[str]) -> None:
    """Import what a start of lens or of an application costs the most for."""
    for name in wanted:
        __import__(name)
    if wanted:
        return
    for name in ("aiosqlite", "pydantic", "rich.console", "rich.table", "typer.rich_utils", "asyncpg", "redis.asyncio"):
        with suppress(ImportError):
            __import__(name)
    import flujo_lens

    for module in pkgutil.walk_packages(flujo_lens.__path__, "flujo_lens."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                __import__(module.name)


def serve(asked: socket.socket) -> dict[str, Any]:
    """Fork until the other end is closed; returns in each new process what it was asked to be."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asked, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report(reports)
        if asked in ready:
            request, files = _received(asked)
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for place in range(3):
                    os.dup2(files[place], place)
                asked.detach()
                os.closerange(3, 256)
                return request
            for file in files[:3]:
                os.close(file)
            reports[pid] = files[3]
            asked.sendall(pid.to_bytes(4, "big"))


def _received(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, files, _, _ = socket.recv_fds(asked, 8, _FILES)
    if not data:
        os._exit(0)
    size, content = int.from_bytes(data, "big"), b""
    while len(content) < size:
        content += asked.recv(size - len(content))
    return json.loads(content), files


def _report(reports: dict[int, int]) -> None:
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        report = reports.pop(pid)
        with suppress(BrokenPipeError):
            os.write(report, status.to_bytes(4, "big"))
        os.close(report)


def become(request: dict[str, Any]) -> None:
    """Take on the folder, variables, streams and arguments of the new process."""
    os.chdir(request["cwd"])
    if request["is_leader"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    added = os.environ.get("PYTHONPATH")
    sys.path[:] = [*(os.path.abspath(path) for path in added.split(os.pathsep)), *_EARLIER] if added else [*_EARLIER]
    if registry := sys.modules.get("flujo_lens.state.registry"):
        registry._PLACES = registry._places()  # type: ignore[attr-defined]  # sys.path was not yet what it would be
    if request["is_strict"]:
        sys.warnoptions[:] = ["error"]
        warnings.simplefilter("error")
    for place, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, name)
        new = open(place, mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        if name == "stderr":
            new.reconfigure(line_buffering=True)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.orig_argv[:] = request["words"]


def run(words: list[str]) -> None:
    """Run as Python runs its arguments: ``-m MODULE``, ``-c CODE`` or a file."""
    kind, rest = words[0], words[1:]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *rest[1:]]
        code = compile(rest[0], "<string>", "exec")
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv[:] = words
        main.__file__ = kind
        with open(kind, encoding="utf-8") as file:
            code = compile(file.read(), kind, "exec")
    exec(code, main.__dict__)


def end(error: BaseException | None) -> None:
    """End as Python does; but nothing is freed one by one, which takes ten times as long as the fork."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
        traceback.clear_frames(error.__traceback__)
    threading._shutdown()  # as in multiprocessing, for what is forked there
    atexit._run_exitfuncs()
    if (left := sys.modules["__main__"].__dict__) is not globals():
        left.clear()
    warnings.simplefilter("ignore", ResourceWarning)  # as by default
    gc.collect()  # what the program has left open is closed, as by Python's own end
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            status = 120
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    preload(sys.argv[2:])
    gc.collect()
    gc.freeze()
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        become(wanted)
        run(wanted["words"])
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        end(error)
    else:
        end(None)
