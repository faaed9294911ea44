"""The generated manual: man pages and the reference of the command line are those of the program as it is."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Lens

from flujo_lens.cli import exit_codes

ROOT = Path(__file__).resolve().parents[2]
MAN = sorted((ROOT / "man").glob("man[17]/*"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module


@pytest.mark.parametrize("name", ["generate_man", "generate_commands"])
def test_the_pages_are_up_to_date(script: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = script(name).main(["--check"])
    assert (code, capsys.readouterr().err) == (0, "")


def test_old_pages_are_noticed_and_written_again(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = script("generated").Generated(tmp_path / "man1", {"a.1": "new\n", "b.1": "new\n"}, "make manual")
    (tmp_path / "man1").mkdir()
    for name, text in {"a.1": "old\n", "left.1": "new\n"}.items():
        (tmp_path / "man1" / name).write_text(text, encoding="utf-8")
    assert pages.main(["--check"]) == 1
    assert "a.1, b.1, left.1; update them: make manual" in capsys.readouterr().err
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0
    assert sorted(path.name for path in (tmp_path / "man1").iterdir()) == ["a.1", "b.1"]


# --- man pages


def _run(*words: str | Path, stdin: str | None = None) -> tuple[str, str]:
    """What a program prints; skips the test if it is not there."""
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(
        [str(word) for word in words], input=stdin, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    return done.stdout, done.stderr


def test_groff_and_mandoc_find_nothing_wrong() -> None:
    assert len(MAN) > 30
    assert _run("groff", "-man", "-Tutf8", "-K", "utf8", "-ww", "-z", *MAN) == ("", "")
    assert _run("mandoc", "-T", "lint", "-W", "warning", *MAN) == ("", "")


def test_whatis_finds_the_pages() -> None:
    found, _ = _run("lexgrog", *MAN)
    assert [line.split('"')[1].split(" - ")[0] for line in found.splitlines()] == [path.stem for path in MAN]


def test_text_is_shown_as_it_is(script: Any) -> None:
    """Each line, also one that roff would take for a request; dashes and quotes can be copied."""
    lines = ["--older-than 30d", ".hidden", "'quoted'", "back\\slash", "~/.config ^ `code`", "\\fB", "Grüße"]
    escape = script("generate_man").escape
    text = "\n.br\n".join(["x", *map(escape, lines)])
    found, _ = _run("groff", "-man", "-Tutf8", "-K", "utf8", "-P-c", stdin=f'.TH X 1 "2026-11-30" x x\n.SH A\n{text}\n')
    shown = [line.strip() for line in found.splitlines() if line.startswith("       ")]
    assert shown[1 : 1 + len(lines)] == lines


def test_the_wheel_has_the_pages() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    build = document["tool"]["hatch"]["build"]["targets"]
    shared = build["wheel"]["shared-data"]
    assert {(ROOT / "man" / name).is_dir() and shared[f"man/{name}"] for name in ("man1", "man7")} == {
        "share/man/man1",
        "share/man/man7",
    }
    assert "man" in build["sdist"]["include"]


# --- fields and exit codes


@pytest.fixture
def sample(bare_lens: Lens) -> Lens:
    """The sample store, in which something was changed, so that the audit log and the bin hold something."""
    assert bare_lens("demo flujo_ops.db").code == 0
    assert bare_lens("delete approve-4802 --yes").code == 0
    return bare_lens


def _objects(found: Any, path: str) -> Iterator[dict[str, Any]]:
    """The documents that a command printed, or those in one of their fields."""
    for document in found if isinstance(found, list) else [found]:
        if path:
            yield from document[path]
        else:
            yield document


def test_commands_print_the_documented_fields(script: Any, sample: Lens) -> None:
    for name, page in script("generate_commands").fields().items():
        keys = set[str]()
        for line in page["commands"]:
            done = sample(f"{line} -o json")
            found = list(_objects(done.json, page.get("path", "")))
            assert found, line
            keys |= {key for document in found for key in document}
        documented = page["all"].keys()
        keys |= set(page.get("optional", ())) & documented
        assert not page["commands"] or (keys >= documented if page.get("more") else keys == documented), name


def test_documented_fields_are_those_that_columns_takes(script: Any, sample: Lens) -> None:
    documented = script("generate_commands").fields()
    for name, line in {"run": "list", "waiting": "waiting", "task": "tasks list", "failure": "failed"}.items():
        assert sample(*line.split(), "--columns", ",".join(documented[name]["all"])).code == 0


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert exit_codes.MEANINGS.keys() == codes
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("| exit code | |\n")[2].partition("\n\n")[0]
    assert {int(row.split("|")[1]) for row in text.splitlines()[1:]} == codes
