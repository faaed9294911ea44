"""The screens of the README and of the first pages of the site are those of the program as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import HERE

ROOT = Path(__file__).resolve().parents[2]
GENERATE = ROOT / "docs" / "generate_readme.py"

needs_linux = pytest.mark.skipif(not HERE.is_dir(), reason="the folder's name would be another in every run")


def _run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "docs" / "generate_readme.py"), *arguments],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@needs_linux
def test_the_screens_are_up_to_date() -> None:
    done = _run("--check")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@needs_linux
def test_an_old_screen_is_noticed_and_mended(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in (GENERATE.name, "sample_screens.py"):
        shutil.copy(GENERATE.with_name(name), tmp_path / "docs")
    (tmp_path / "flujo_lens").symlink_to(ROOT / "flujo_lens")
    page = tmp_path / "README.md"
    page.write_text("before\n\n```console\n$ lens waiting\nan old screen\n```\n\nbehind\n", encoding="utf-8")
    old = _run("--check", folder=tmp_path)
    assert old.returncode == 1
    assert "-an old screen" in old.stdout
    assert "make readme" in old.stderr
    assert _run(folder=tmp_path).returncode == 0
    made = page.read_text(encoding="utf-8")
    assert made.startswith("before\n\n```console\n$ lens waiting\nWAITS ")
    assert made.endswith("--input ANSWER --app MODULE:NAME\n```\n\nbehind\n")
    assert _run("--check", folder=tmp_path).returncode == 0


@pytest.mark.parametrize(("page", "number"), [("README.md", 10), ("docs/index.md", 1), ("docs/quick-start.md", 6)])
def test_every_screen_of_the_page_is_made_by_the_program(page: str, number: int) -> None:
    """A block with a command that the script does not find would grow old unseen."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= number
    for block in blocks:
        commands = [line for line in block.splitlines() if line.startswith("$ ")]
        assert len(commands) == 1, block
        assert block.startswith("$ lens "), block
