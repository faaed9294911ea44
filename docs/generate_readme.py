"""Makes the screens in README.md anew: the commands of its console blocks are run on the sample store.

python docs/generate_readme.py           # writes them
python docs/generate_readme.py --check   # fails if they are out of date, and writes nothing

The clock stands, the terminal has 100 columns, and the folder has a name of its own. Whatever a command prints on
stdout and stderr stands below it, in the order in which a terminal shows it. (Linux alone has the folder's other name.)
"""

from __future__ import annotations

import difflib
import io
import os
import re
import shlex
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flujo_lens.cli.app import run  # noqa: E402
from flujo_lens.cli.world import World  # noqa: E402

README = ROOT / "README.md"
WIDTH = 100
MADE = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
NOW = MADE + timedelta(seconds=42)
HERE, SHOWN = "/proc/self/cwd", "/srv/workflows"
"""The folder's name that is the same in every run, and another of the same length, for people."""

BLOCK = re.compile(r"(?<=^```console\n)\$ (lens [^\n]*)\n.*?(?=^```$)", re.DOTALL | re.MULTILINE)


def render(text: str) -> str:
    """The page with the screens as they are now."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _lens("lens demo flujo_ops.db", MADE)
            _set_times()
            return BLOCK.sub(lambda found: f"$ {found[1]}\n{_lens(found[1], NOW)}", text)
        finally:
            os.chdir(before)


def _set_times() -> None:
    """What the engine dates by itself gets the time of the sample."""
    with closing(sqlite3.connect("flujo_ops.db")) as store:
        for table, column in (("evaluations", "created_at"), ("system_state", "updated_at")):
            store.execute(f"UPDATE {table} SET {column} = ?", (MADE.isoformat(),))
        store.commit()
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _lens(line: str, now: datetime) -> str:
    """What a terminal shows of a command."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
    world = World(
        stdin=io.StringIO(),
        stdout=stream,
        stderr=stream,
        env={"NO_COLOR": "1", "XDG_CACHE_HOME": str(Path("cache").absolute())},
        cwd=Path(HERE),
        now=lambda: now,
        zone=UTC,
        width=WIDTH,
        stdout_tty=True,
        stderr_tty=True,
        user_config_dir=Path("user").absolute(),
        etc_dir=Path("etc").absolute(),
    )
    if run(shlex.split(line)[1:], world):
        sys.exit(f"{line} failed:\n{stream.buffer.getvalue().decode()}")  # type: ignore[attr-defined]
    shown: str = stream.buffer.getvalue().decode().replace(HERE, SHOWN)  # type: ignore[attr-defined]
    return "".join(f"{row.rstrip()}\n" for row in shown.splitlines())


def main() -> None:
    """Write the page, or look whether it is as it would be written."""
    text = README.read_text(encoding="utf-8")
    made = render(text)
    if "--check" not in sys.argv:
        README.write_text(made, encoding="utf-8")
    elif made != text:
        old, new = text.splitlines(), made.splitlines()
        told = difflib.unified_diff(old, new, "README.md", "as it is now", lineterm="", n=1)
        sys.stdout.writelines(f"{line}\n" for line in told)
        sys.exit("README.md is out of date: make readme")


if __name__ == "__main__":
    main()
