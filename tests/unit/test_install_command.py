"""The command that installs a missing package, in each kind of environment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from flujo_lens.errors import MissingExtraError, install_command


def test_the_environment_of_lens_gets_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = tmp_path / "venvs" / "my lens"
    venv.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "executable", f"{venv}/bin/python")
    assert install_command("postgres", "asyncpg") == f"'{venv}/bin/python' -m pip install 'asyncpg>=0.29'"
    assert MissingExtraError.of("redis", "redis").hint == f"'{venv}/bin/python' -m pip install 'redis[hiredis]>=5.0'"
    (venv / "pipx_metadata.json").touch()
    assert install_command("zstd", "zstandard") == "pipx inject 'my lens' 'zstandard>=0.22'"
    (venv / "pipx_metadata.json").unlink()
    (venv / "uv-receipt.toml").touch()
    assert install_command("zstd", "zstandard") == f"uv pip install --python '{venv}/bin/python' 'zstandard>=0.22'"


def test_without_pip_and_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/lens/bin/python")
    assert install_command("nonesuch", "some-package") == "/opt/lens/bin/python -m pip install some-package"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install_command("crypto", "x") == "uv pip install --python /opt/lens/bin/python 'cryptography>=42'"
