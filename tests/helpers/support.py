"""What the tests of the command line share: a world to run in, real processes, stores to change."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shlex
import shutil
import sqlite3
import struct
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from fcntl import ioctl
from pathlib import Path
from typing import Any

import forks
import pytest

import flujo_lens
from flujo_lens.cli.app import run
from flujo_lens.cli.world import World

PACKAGE = Path(flujo_lens.__file__).resolve().parent
DATA = Path(__file__).resolve().parents[1] / "data"
NEW, OLD, WAL = "flujo-0.6.11", "flujo-0.4.35", "flujo-0.6.11-wal"
HERE = Path("/proc/self/cwd")
"""The current folder by a name that is the same in every run, so that no screen folds elsewhere."""

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
ZONE = timezone(timedelta(hours=-5))


def examples(often: int) -> int:
    """How many examples a property gets in a soak, or a fifth of them."""
    return often if "LENS_SOAK" in os.environ else max(20, often // 5)


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    stdout: bytes
    stderr: bytes
    encoding: str = "utf-8"

    @property
    def out(self) -> str:
        return self.stdout.decode(self.encoding)

    @property
    def err(self) -> str:
        return self.stderr.decode(self.encoding)

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[str]:
        """The lines of stdout, split at newlines alone."""
        return self.out.split("\n")[:-1]

    @property
    def csv(self) -> list[dict[str, str]]:
        """The rows of a csv with a header."""
        return list(csv.DictReader(io.StringIO(self.out, newline="")))

    @property
    def tsv(self) -> list[dict[str, str]]:
        """The rows of a tsv with a header; fields as they stand there, escaped."""
        head, *rows = (line.split("\t") for line in self.lines)
        return [dict(zip(head, row, strict=True)) for row in rows]

    @property
    def error(self) -> dict[str, Any]:
        """The error that -o json tells on stderr."""
        found = json.loads(self.stderr)
        assert list(found) == ["error"]
        return dict(found["error"])


def _stream(encoding: str, content: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")


class Keyboard(io.StringIO):
    """A terminal on which something is typed."""

    def isatty(self) -> bool:
        return True


def _bytes(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    return stream.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


def words(arguments: Sequence[str]) -> list[str]:
    """One argument is a command line as typed, several are its words."""
    return shlex.split(arguments[0]) if len(arguments) == 1 else list(arguments)


@dataclass(frozen=True)
class Lens:
    """Runs command lines in this process (which has to stand in `cwd`), in a world of its own.

    Attributes:
        folder: Holds `cwd`, and the configuration folders of the user and of the machine.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path) -> Lens:
        """One with the folders that it needs in `folder`, which is there."""
        for name in ("w", "user", "etc", "home"):
            (folder / name).mkdir()
        return cls(folder, {"XDG_CACHE_HOME": str(folder / "cache")})

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In this block the process stands in `cwd`, in UTC, before a terminal of 100 columns."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.cwd)
            patch.setenv("TZ", "UTC")
            patch.setenv("COLUMNS", "100")
            patch.setenv("XDG_CACHE_HOME", self.env["XDG_CACHE_HOME"])
            time.tzset()
            yield
        time.tzset()

    @property
    def cwd(self) -> Path:
        """Where the commands run."""
        return self.folder / "w"

    def __call__(
        self,
        *arguments: str,
        tty: bool = False,
        colour: bool = False,
        width: int | None = 100,
        encoding: str = "utf-8",
        stdin: bytes = b"",
        typed: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run ``lens`` with `arguments`: one is split as by a shell, several are taken as they are.

        On a terminal, a person answers questions with `typed`.
        """
        stdout, stderr = _stream(encoding), _stream(encoding)
        world = World(
            stdin=_stream(encoding, stdin) if typed is None else Keyboard(typed),
            stdout=stdout,
            stderr=stderr,
            env={**self.env, **({} if colour else {"NO_COLOR": "1"}), **(env or {})},
            cwd=HERE if HERE.is_dir() else self.cwd,
            now=lambda: NOW,
            zone=ZONE,
            width=width if tty else None,
            stdout_tty=tty,
            stderr_tty=tty,
            user_config_dir=self.folder / "user",
            etc_dir=self.folder / "etc",
        )
        with redirect_stdout(stdout), redirect_stderr(stderr):
            code = run(words(arguments), world)
        return Result(code, _bytes(stdout), _bytes(stderr), encoding)

    # --- what is in the folder ---------------------------------------------------------------------------

    def store(self, name: str = NEW, to: str = "flujo_ops.db") -> Path:
        """A copy of a real store, in the current folder as `to`."""
        for path in (DATA / name).glob("flujo_ops.db*"):
            shutil.copyfile(path, self.cwd / path.name.replace("flujo_ops.db", to))
        return self.cwd / to

    def files(self, name: str = NEW, to: str = "states") -> Path:
        """A copy of a real folder of JSON files."""
        shutil.copytree(DATA / name / "file-state", self.cwd / to)
        return self.cwd / to

    def write(self, name: str, text: str) -> Path:
        """A file in the current folder."""
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, *statements: str | tuple[str, Sequence[Any]], store: str = "flujo_ops.db") -> None:
        """Change a store as its owner would; it is left without a -wal beside it."""
        with closing(sqlite3.connect(self.cwd / store)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                sql, values = (statement, ()) if isinstance(statement, str) else statement
                connection.execute(sql, values)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def rename(self, old: str, new: str) -> None:
        """Give a run another id, in every table that knows it."""
        self.edit(
            *(
                (f"UPDATE {table} SET run_id = ? WHERE run_id = ?", (new, old))
                for table in ("workflow_state", "runs", "steps", "spans")
            )
        )

    # --- real processes ----------------------------------------------------------------------------------

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of a real process: few, and none of the person who runs the tests."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PACKAGE.parent),
            "PYTHONUTF8": "0",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(self.folder / "home"),
            **self.env,
            **(env or {}),
        }

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[bytes]:
        """Start ``lens`` as a real process."""
        given = [word.encode("utf-8", "surrogateescape") for word in words(arguments)]
        command = ["-m", "flujo_lens", *given]
        return forks.popen(command, self.environment(env), cwd=self.cwd, **more)  # type: ignore[no-any-return]

    def process(self, *arguments: str, env: Mapping[str, str] | None = None, **more: Any) -> Result:
        """Run ``lens`` as a real process to its end, in a pipe."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*arguments, env=env, **(pipes | more)) as process:
            stdout, stderr = process.communicate(timeout=60)
        return Result(process.returncode, stdout, stderr)

    def terminal(self, *arguments: str, width: int = 100, env: Mapping[str, str] | None = None) -> Result:
        """Run ``lens`` as a real process on a terminal; all that it prints is stdout."""
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        given = {"TERM": "xterm-256color", **(env or {})}
        with self.start(*arguments, env=given, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            shown = b"".join(_read_all(ours))
            os.close(ours)
        return Result(process.returncode, shown.replace(b"\r\n", b"\n"), b"")


def _read_all(terminal: int) -> Iterable[bytes]:
    """What is printed on a terminal until its last user goes (Linux tells that by an error)."""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            return
        if not data:
            return
        yield data


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time: equal if nothing was written."""
    found = {path.relative_to(folder): path.stat() for path in sorted(folder.rglob("*"))}
    return {str(name): (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
