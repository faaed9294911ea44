"""A driver of another package, on the port: built, installed, and used as any other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import run_python
from support import Lens

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.testing.contract import BackendContract

SAMPLE = Path(__file__).resolve().parents[1] / "sample_driver"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as pip puts it there."""
    folder = tmp_path_factory.mktemp("installed")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--no-build-isolation", "--target", str(folder), str(SAMPLE)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return folder


class TestContract(BackendContract):
    """The suite that the package's own author would run."""

    @pytest.fixture(autouse=True)
    def _place(self, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(installed)
        self.installed, self.path = installed, tmp_path / "store.json"

    def _backend(self, **options: Any) -> StateBackend:
        from acme_onefile import OneFileBackend

        made: StateBackend = OneFileBackend(self.path, **options)
        return made

    async def new_backend(self) -> StateBackend:
        return self._backend()

    async def reopen(self) -> StateBackend:
        return self._backend()

    async def new_backend_with(self, serializer_default: Callable[[Any], Any]) -> StateBackend:
        return self._backend(serializer_default=serializer_default)

    async def new_sealed_backend(self, envelope: Any) -> StateBackend:
        return self._backend(envelope=envelope)

    async def broken_backend(self) -> StateBackend:
        self.path.write_bytes(b'{"run": ')
        return self._backend()

    def in_another_process(self) -> str:
        return (
            f"sys.path.insert(0, {str(self.installed)!r})\nfrom acme_onefile import OneFileBackend\n"
            f"backend = OneFileBackend({str(self.path)!r})"
        )


@pytest.fixture
def acme(bare_lens: Lens, installed: Path) -> Lens:
    """``lens`` where the package is installed, beside a store of it with one run."""
    path = os.pathsep.join([bare_lens.environment()["PYTHONPATH"], str(installed)])
    bare_lens.env.update(PYTHONPATH=path, LENS_STORE=f"onefile://{bare_lens.cwd}/runs.json")
    code = (
        "import asyncio, os\nfrom flujo_lens import Flujo, Step\nfrom flujo_lens.state.registry import open_backend\n"
        "first = Step.human_in_the_loop('ask', message_for_user='Go?')\n"
        "async def main():\n"
        "    async with open_backend(os.environ['LENS_STORE'], {}) as backend:\n"
        "        await Flujo(first, pipeline_name='orders', state_backend=backend).run_async('x', run_id='one')\n"
        "asyncio.run(main())\n"
    )
    run_python("-c", code, check=True, cwd=bare_lens.cwd, env=bare_lens.environment())
    return bare_lens


def test_an_installed_driver_is_found_by_its_scheme(acme: Lens) -> None:
    (row,) = [row for row in acme.process("stores --drivers -o json").json if row["scheme"] == "onefile"]
    assert (row["package"], row["version"], row["source"]) == ("acme-onefile", "1.2.3", "installed")
    assert row["available"] is True
    assert {"list", "trace", "undo", "claims"} <= set(row["capabilities"])
    assert acme.process("waiting -o id").lines == ["one"]
    assert acme.process("delete one --yes").code == 0
    assert acme.process("list -o id").lines == []
    (item,) = acme.process("undo -o json").json
    assert acme.process(f"undo {item['audit_id']} --yes").code == 0
    assert acme.process("list -o id").lines == ["one"]


def test_one_that_cannot_be_imported_breaks_nothing_else(lens: Lens, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    (packages / "bad_driver-0.1.dist-info").mkdir(parents=True)
    (packages / "bad_driver-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bad-driver\nVersion: 0.1\n"
    )
    (packages / "bad_driver-0.1.dist-info" / "entry_points.txt").write_text(
        "[flujo_lens.backends]\nbad = bad_driver:Bad\nlacking = bad_lacking:Other\n"
    )
    (packages / "bad_driver.py").write_text("raise RuntimeError('no licence')\n")
    (packages / "bad_lacking.py").write_text("import not_there_at_all\n")
    lens.env["PYTHONPATH"] = os.pathsep.join([lens.environment()["PYTHONPATH"], str(packages)])
    rows = {row["scheme"]: row for row in lens.process("stores --drivers -o json").json}
    assert rows["sqlite"]["available"] is True
    assert (rows["bad"]["available"], rows["bad"]["package"]) == (False, "bad-driver")
    assert "cannot load the driver bad_driver:Bad: RuntimeError: no licence" in rows["bad"]["problem"]
    assert "no module named not_there_at_all" in rows["lacking"]["problem"]
    assert lens.process("list -o id").code == 0
    refused = lens.process("list -s bad://x -o json")
    assert (refused.code, "no licence" in refused.error["message"]) == (2, True)


def test_the_guide_has_the_same_code() -> None:
    page = (SAMPLE.parents[1] / "docs" / "guides" / "write-your-own-backend.md").read_text(encoding="utf-8")
    code = (SAMPLE / "src" / "acme_onefile" / "__init__.py").read_text(encoding="utf-8")
    assert f"<!-- file: acme_onefile.py -->\n```python\n{code}```\n" in page
