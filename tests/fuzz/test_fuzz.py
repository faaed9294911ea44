"""Every command on worlds with something odd in them: none ends by a fault of its own, none hangs, and what is whole
is still listed.

A failure names its number; ``LENS_FUZZ=NUMBER pytest tests/fuzz/test_fuzz.py`` makes that world alone again, and
``LENS_FUZZ=FROM-TO`` many.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from made import Made
from support import Lens, Result

SECONDS = 60
"""A command that takes longer hangs."""

CODES = {0, 1, 2, 3, 4, 5, 6, 7}
READING = (
    "list --all -o json", "list -n 5", "list --status failed,paused --all -o ndjson", "list --search a -o csv",
    "list --count", "list --pipeline orders -o tsv", "list --active-since 3d -o id", "list --sort duration --all",
    "status -o json", "status", "stats -o json", "stats --since 300d", "failed --hours 9000 -o json",
    "failed --flat --hours 9000", "waiting -o json", "show {} -v --state -o json", "show {} -v", "trace {}",
    "trace {} -o json", "spans {} -o csv", "evals -o json", "evals {}", "system list -o json", "tasks list -o json",
    "check --save check.json", "check --from check.json", "doctor -o json", "doctor --full", "audit list -o json",
    "audit list --all-stores", "audit verify", "undo -o json", "config -o json", "config", "stores -o json",
    "migrate --dry-run", "optimize --dry-run -o json", "retry {} --dry-run", "prune --older-than 1h --dry-run -o id",
    "prune --keep-last 1 --dry-run -o json", "prune --orphans --dry-run", "tasks sweep --silent-for 1h --dry-run",
    "import kept.ndjson --dry-run -o json", "list --store a",
    "export all.ndjson --overwrite", "export - --redact --without state,outputs",
)  # fmt: skip
CHANGING = (
    "fork {} --from-step 0 --yes -o json", "cancel {} --yes -o json", "cancel {} --yes", "delete {} --yes -o json",
    "delete {} --family --yes", "delete {} --state-only --yes", "prune --orphans --yes -o json",
    "tasks sweep --silent-for 1h --yes", "system set k 1 --yes", "optimize --yes", "doctor --fix --yes",
    "prune --older-than 1h --yes --max-share 100% --batch-size 3 -o json --archive made.ndjson",
    "prune --older-than 1h --yes --max-share 100% --include-paused --force --no-bin",
    "import made.ndjson --yes -o json",
    "import kept.ndjson -o json", "undo --yes -o json", "migrate --yes",
    "import all.ndjson -s fresh.db --yes --verify -o json", "import kept.ndjson -s fresh/ --yes -o json",
)  # fmt: skip


def _seeds() -> list[int]:
    asked = os.environ.get("LENS_FUZZ")
    if asked:
        first, _, last = asked.partition("-")
        return list(range(int(first), int(last or first) + 1))
    return list(range(2000 if os.environ.get("LENS_SOAK") else 60))


class HungError(BaseException):
    """A command did not come to its end. Nothing of the program catches it."""


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(_: int, frame: FrameType | None) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Session:
    """Commands in a world, of which none may end badly."""

    def __init__(self, made: Made) -> None:
        self.made, self.lens, self.faults = made, made.lens, list[str]()

    def __call__(self, words: str) -> Result | None:
        """Run a line; None if it did not end."""
        typed = [self.made.chance.choice(self.made.ids) if word == "{}" else word for word in words.split()]
        if any("\x00" in word for word in typed):
            return None  # nobody can type that
        try:
            with _limit(SECONDS):
                done = self.lens(*typed)
        except HungError:
            self.faults.append(f"hangs: {typed}")
            return None
        text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        if done.code not in CODES or "Traceback" in text or "LENS-X1" in text:
            self.faults.append(f"{done.code}: {typed}: {done.stderr.decode(errors='replace')[-400:]}")
        return done


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("seed", _seeds())
def test_no_command_fails_by_itself(bare_lens: Lens, seed: int) -> None:
    with warnings.catch_warnings():
        made = Made(bare_lens, seed)
    session = Session(made)
    listed = session("list --all -o id")
    if listed is not None and listed.code == 0:
        missing = made.good - set(listed.lines)
        assert not missing, f"LENS_FUZZ={seed}: not listed: {sorted(missing)}"
    everything = bool(os.environ.get("LENS_FUZZ") or os.environ.get("LENS_SOAK"))
    for line in READING if everything else made.chance.sample(READING, 7):
        session(line)
    for line in made.chance.sample(CHANGING, len(CHANGING) if everything else 3):
        session(line)
    assert not session.faults, f"LENS_FUZZ={seed} ({made.kind}):\n" + "\n".join(session.faults)
