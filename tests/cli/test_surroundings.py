"""What a process is started with, or without: locales, home folders, streams, limits. Real processes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pipelines import Shop
from support import NEW, Lens, tree

LATIN_1, GREEK = "en_US.ISO-8859-1", "el_GR.ISO-8859-7"
PLAIN_C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ANSWER = "Jürgen, 10 €"
ID = "für-漢字 😀"


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of locales that are not UTF-8 (LOCPATH)."""
    folder = tmp_path_factory.mktemp("locales")
    for name in (LATIN_1, GREEK):
        language, _, charset = name.partition(".")
        made = shutil.which("localedef") and subprocess.run(
            ["localedef", "-i", language, "-f", charset, folder / name], capture_output=True
        )
        if not made or not (folder / name / "LC_CTYPE").exists():
            pytest.skip("localedef, or what it needs, is not installed")
    return folder


@pytest.fixture(params=[LATIN_1, "C", "latin-1", *([GREEK, "ascii", "utf-16"] if "LENS_SOAK" in os.environ else [])])
def odd_encoding(request: pytest.FixtureRequest, locales: Path) -> dict[str, str]:
    """Variables under which Python's streams are not UTF-8."""
    if request.param == "C":
        return PLAIN_C
    if "." in request.param:
        return {"LC_ALL": request.param, "LOCPATH": str(locales)}
    return {"PYTHONIOENCODING": request.param}


def piped(lens: Lens, line: str, text: str | bytes, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Run lens with something in a pipe; the exit code, stdout as UTF-8, stderr."""
    given = text.encode() if isinstance(text, str) else text
    command = [sys.executable, "-m", "flujo_lens", *line.split()]
    done = subprocess.run(command, cwd=lens.cwd, env=lens.environment(env), input=given, capture_output=True)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class TestEncodings:
    def test_ids_go_from_one_lens_to_the_next(self, lens: Lens, odd_encoding: dict[str, str]) -> None:
        lens.rename("fail-001", ID)
        code, ids, told = piped(lens, "list --status failed -o id", b"", odd_encoding)
        assert (code, ID in ids.split("\n")) == (0, True), told
        code, out, told = piped(lens, "delete - --yes --dry-run -o id", f"\ufeff{ID}\r\n\n", odd_encoding)
        assert (code, out) == (0, f"{ID}\n"), told
        code, out, told = piped(lens, "delete - --yes -o id --no-bin", ids, odd_encoding)
        assert (code, out) == (0, ids), told

    def test_words_and_file_names_are_utf_8(self, lens: Lens, odd_encoding: dict[str, str]) -> None:
        (lens.cwd / "flujo_ops.db").rename(lens.cwd / "für.db")
        lens.write("lens.toml", 'default = "é"\n[stores."é"]\nuri = "${WHERE}"\n')
        env = {**odd_encoding, "WHERE": "für.db"}
        for words in (("show", "üñí-run", "-o", "id"), ("list", "-s", "für.db", "--search", "üñí", "-o", "id")):
            done = lens.process(*words, env=env)
            assert (done.code, done.stdout) == (0, "üñí-run\n".encode()), done.stderr
        done = lens.process("config -o json", env=env)
        assert [row["value"] for row in done.json if row["key"] == "stores.é.uri"] == [str(lens.cwd / "für.db")]

    def test_answers_are_utf_8(self, bare_lens: Lens, odd_encoding: dict[str, str]) -> None:
        shop = Shop(bare_lens)
        shop.begin("billing", "one", "two", "three")
        (shop.cwd / "answer.txt").write_bytes(b"\xef\xbb\xbf" + ANSWER.encode() + b"\r\n")
        resume = "resume --app shop:registry --input-file"
        for line, given in ((f"{resume} - one", ANSWER), (f"{resume} answer.txt two", "")):
            code, out, told = piped(bare_lens, line, given, odd_encoding)
            assert (code, out) == (0, f"charged {ANSWER}\n"), told
        code, _, told = piped(bare_lens, f"{resume} - three", ANSWER.encode("cp1252"), odd_encoding)
        assert code == 2
        assert "stdin is not UTF-8" in told.replace("\0", "")
        shown = [shop.run(run_id)["status"] for run_id in ("one", "two", "three")]
        assert shown == ["completed", "completed", "paused"]

    def test_a_person_types_in_the_encoding_of_the_terminal(self, bare_lens: Lens, locales: Path) -> None:
        shop = Shop(bare_lens)
        shop.begin("billing", "one", "two")
        env = {"LC_ALL": LATIN_1, "LOCPATH": str(locales)}
        for run_id, encoding in (("one", "latin-1"), ("two", "utf-8")):
            code, shown = shop.typing(f"resume {run_id} --app shop:registry", ["Jürgen"], env, encoding)
            assert code == 0, shown
            assert bare_lens("show", run_id, "--final-output").out == '"charged Jürgen"\n'

    def test_bytes_of_the_locale_are_words_where_they_are_no_utf_8(self, lens: Lens, locales: Path) -> None:
        command = [sys.executable, "-m", "flujo_lens", "show", "-o", "id", "üñí-run".encode("latin-1")]
        env = lens.environment({"LC_ALL": LATIN_1, "LOCPATH": str(locales)})
        done = subprocess.run(command, cwd=lens.cwd, env=env, capture_output=True)
        assert (done.returncode, done.stdout) == (0, "üñí-run\n".encode())

    def test_an_escaped_id_leads_back(self, lens: Lens) -> None:
        lens.rename("fail-001", ID)
        shown = lens("list --status failed -o table", encoding="ascii").out
        escaped = ID.encode("ascii", "backslashreplace").decode()
        assert escaped in shown
        assert lens("show", escaped, "-o", "id").out == f"{ID}\n"


# --- no home

NOBODY = 54321
"""A user of whom passwd knows nothing."""


def as_nobody() -> list[str]:
    """What starts a program as that user."""
    words = ["unshare", "--user", f"--map-user={NOBODY}"]
    works = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    if not works:
        pytest.skip("needs user namespaces")
    return words


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent"])
def test_a_user_without_home_and_without_a_passwd_entry(bare_lens: Lens, home: str | None) -> None:
    bare_lens.files(NEW)
    before = tree(bare_lens.cwd)
    env = bare_lens.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    del env["HOME"], env["XDG_CACHE_HOME"]
    if home is not None:
        env["HOME"] = home

    def lens(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*as_nobody(), sys.executable, "-m", "flujo_lens", *words]
        return subprocess.run(command, cwd=bare_lens.cwd, env=env, capture_output=True)

    listed = lens("list", "-s", "states", "-o", "id", "--all")
    assert (listed.returncode, b"fail-001" in listed.stdout) == (0, True), listed.stderr
    assert tree(bare_lens.cwd) == before
    typed = lens("list", "-s", "~/states")
    if home == "/nonexistent":
        assert (typed.returncode, b"/nonexistent/states" in typed.stderr) == (5, True)
    else:
        assert (typed.returncode, b"this user has none" in typed.stderr) == (2, True)
    assert lens("delete", "fail-001", "-s", "states", "--yes").returncode == 0
    entry = json.loads((bare_lens.cwd / "states.lens-audit.ndjson").read_bytes().splitlines()[0])
    assert entry["actor"] == str(NOBODY)


def test_home_of_a_known_user_where_the_variable_is_empty(bare_lens: Lens) -> None:
    env = {"HOME": "", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "not/absolute"}
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        pytest.skip("this user has no entry in passwd")
    done = bare_lens.process("list -s ~/no-such-store-here", env=env)
    assert (done.code, f"at {home.rstrip('/')}/no-such" in done.err) == (5, True)
