"""Builds and checks a release: the sdist, the wheel, and a bill of materials (SBOM), in dist/.

    python tools/dist.py                       # all of it, as make dist
    python tools/dist.py build sbom            # only these steps
    python tools/dist.py install --python 3.12

Steps:

- ``build``: from the last commit, twice, under different paths, modes and time zones; both have to be the same bytes.
- ``check``: metadata (twine), contents of the wheel (check-wheel-contents).
- ``install``: the wheel in a new environment of each Python from 3.11 to 3.14 on this machine; its commands have to
  work, and its man pages and completions have to be in place.
- ``test``: the sdist is unpacked, and its own ``make check`` has to pass.
- ``sbom``: a CycloneDX document of the wheel with all extras, as pip resolves them now.
- ``sums``: SHA256SUMS of everything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a program prints on stdout; ends this one if it fails."""
    command = [str(word) for word in words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, check=False, **streams)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def version() -> str:
    """That of the package."""
    found = re.search(r'__version__ = "([^"]+)"', (ROOT / "flujo_lens" / "_version.py").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def wheel() -> Path:
    """The wheel in dist/."""
    return DIST / f"flujo_lens-{version()}-py3-none-any.whl"


def sdist() -> Path:
    """The sdist in dist/."""
    return DIST / f"flujo_lens-{version()}.tar.gz"


# --- steps


def build() -> None:
    """The sdist and wheel of the last commit; the wheel of the first build is made from its sdist."""
    if changed := run("git", "status", "--porcelain", "--untracked-files=no", cwd=ROOT):
        sys.exit(f"a release is built from a commit, and these files have changes:\n{changed}")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        first = _built(here / "a", epoch, "UTC", 0o022)
        second = _built(here / "a second folder", epoch, "Pacific/Auckland", 0o077, "--sdist", "--wheel")
        if first != second:
            sys.exit(f"two builds of one commit differ: {first} and {second}")
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.copytree(here / "a" / "dist", DIST)
    for name, digest in first.items():
        print(f"{digest}  {name}")


def _built(folder: Path, epoch: str, zone: str, mask: int, *what: str) -> dict[str, str]:
    """Build the last commit in a folder; the digests of the files, by name."""
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    run("git", "archive", "--format=tar", f"--output={archive}", "HEAD", cwd=ROOT)
    before = os.umask(mask)
    try:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        for path in folder.rglob("*"):
            path.chmod(path.stat().st_mode & ~mask)
        run(sys.executable, "-m", "build", *what, folder, env={"SOURCE_DATE_EPOCH": epoch, "TZ": zone})
    finally:
        os.umask(before)
    return {path.name: _digest(path) for path in sorted((folder / "dist").iterdir())}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check() -> None:
    """Metadata and contents."""
    run(sys.executable, "-m", "twine", "check", "--strict", wheel(), sdist())
    # W002: the completions are in the package, for lens completion, and where shells look for them.
    words = ("--ignore", "W002", "--toplevel", "flujo_lens", "--package", ROOT / "flujo_lens")
    run(sys.executable, "-m", "check_wheel_contents", *words, wheel())
    names = run(sys.executable, "-m", "zipfile", "-l", wheel())
    for name in ("share/man/man1/lens.1", "share/bash-completion/completions/lens", "flujo_lens/py.typed", "LICENSE"):
        if name not in names:
            sys.exit(f"the wheel lacks {name}")
    print("metadata and contents: in order")


def install(pythons: tuple[str, ...] = PYTHONS) -> None:
    """The wheel in a new environment of each Python."""
    found = [(name, path) for name in pythons if (path := _interpreter(name))]
    if not found:
        sys.exit(f"none of Python {', '.join(pythons)} is on this machine")
    for name, python in found:
        with tempfile.TemporaryDirectory() as folder:
            _try_out(Path(folder), python)
        print(f"Python {name}: installed, and works")
    if missing := [name for name in pythons if name not in dict(found)]:
        print(f"not on this machine: Python {', '.join(missing)}")


def _interpreter(name: str) -> str | None:
    """The path of a Python that runs, on PATH or of pyenv; or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    paths = [shutil.which(f"python{name}"), sys.executable, *sorted(pyenv.glob(f"{name}.*/bin/python"))]
    for path in filter(None, paths):
        question = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", question], capture_output=True, text=True, check=False)
        if done.stdout.strip() == name:
            return str(path)
    return None


def _try_out(folder: Path, python: str) -> None:
    venv = folder / "venv"
    run(python, "-m", "venv", venv)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel())
    clean = {
        "PYTHONPATH": "",
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LENS_STORE": "",
        "HOME": str(folder),
    }

    def lens(*words: str) -> str:
        return run(venv / "bin" / "lens", *words, cwd=folder, env=clean)

    for program in ("lens", "flujo-lens"):
        shown = run(venv / "bin" / program, "--version", cwd=folder, env=clean)
        if shown != f"lens {version()}\n":
            sys.exit(f"{program} --version prints {shown!r}")
    lens("demo", "flujo_ops.db")
    lens("status")
    if len(json.loads(lens("list", "--all", "-o", "json", "--quiet"))) < 40:
        sys.exit("lens list shows too few runs of the sample store")
    for name in ("man/man1/lens-list.1", "man/man7/lens-filters.7", "zsh/site-functions/_lens",
                 "bash-completion/completions/lens", "fish/vendor_completions.d/lens.fish"):  # fmt: skip
        if not (venv / "share" / name).is_file():
            sys.exit(f"share/{name} is not installed")
    if shutil.which("man") and str(venv) not in (shown := run("man", "-w", "lens-list", env=clean)):
        sys.exit(f"man finds another page: {shown}")


def test() -> None:
    """The sdist's own quick tests, in an environment that they make."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist()) as packed:
            packed.extractall(folder, filter="data")
        shown = run(
            "make", "check", f"PYTHON={sys.executable}", cwd=Path(folder) / sdist().name.removesuffix(".tar.gz")
        )
    print(f"make check of the sdist: {next(line for line in reversed(shown.splitlines()) if ' passed' in line)}")


def sbom() -> None:
    """The bill of materials: the wheel and all that comes with it."""
    path = DIST / f"flujo_lens-{version()}.cdx.json"
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", python.parent.parent)
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            f"flujo-lens[all] @ {wheel().as_uri()}",
        )
        project = Path(folder) / "pyproject.toml"  # with the version, which is in another file
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        project.write_text(text.replace('dynamic = ["version"]', f'version = "{version()}"'), encoding="utf-8")
        run(
            sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", project,
            "--output-reproducible", "--of", "JSON", "--output-file", path, python,
        )  # fmt: skip
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["metadata"]["component"].get("version") != version():
        sys.exit(f"{path.name} does not name the version")
    print(f"{path.name}: {len(found['components'])} components")


def sums() -> None:
    """SHA256SUMS, which sha256sum --check reads."""
    files = sorted(path for path in DIST.iterdir() if path.name != "SHA256SUMS")
    text = "".join(f"{_digest(path)}  {path.name}\n" for path in files)
    (DIST / "SHA256SUMS").write_text(text, encoding="utf-8")
    print(f"dist/: {', '.join(path.name for path in files)}, SHA256SUMS")


STEPS: dict[str, Callable[[], None]] = {
    "build": build,
    "check": check,
    "install": install,
    "test": test,
    "sbom": sbom,
    "sums": sums,
}


def main() -> None:
    """Run the steps in their order."""
    parser = argparse.ArgumentParser(description="Build and check a release.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)} (default: all)")
    parser.add_argument("--python", action="append", metavar="3.N", help="only this Python, for install")
    given = parser.parse_args()
    if unknown := [name for name in given.steps if name not in STEPS]:
        parser.error(f"unknown step {unknown[0]}; steps: {', '.join(STEPS)}")
    for step in (STEPS[name] for name in given.steps or STEPS):
        if step is install and given.python:
            install(tuple(given.python))
        else:
            step()


if __name__ == "__main__":
    main()
