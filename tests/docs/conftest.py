"""The sample folder: made once in each process of the tests, and copied for each line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_folder import Sample, fill
from support import Lens


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is copied."""
    lens = Lens.made(tmp_path_factory.mktemp("filled"))
    with lens.entered():
        fill(lens)
    return lens.folder


@pytest.fixture
def sample(filled: Path, bare_lens: Lens) -> Iterator[Sample]:
    """A sample folder of the test's own."""
    shutil.copytree(filled, bare_lens.folder, dirs_exist_ok=True)
    yield Sample(bare_lens)
    for name in [name for name in sys.modules if name.split(".")[0] == "myapp"]:
        del sys.modules[name]
