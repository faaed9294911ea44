"""What a process is started with, or without: locales, home folders, streams, limits. Real processes."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
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


@pytest.fixture(params=[LATIN_1, "C", *(["latin-1", GREEK, "ascii", "utf-16"] if "LENS_SOAK" in os.environ else [])])
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
        file = os.fsdecode("für.db".encode())  # whatever the locale of the tests
        (lens.cwd / "flujo_ops.db").rename(lens.cwd / file)
        lens.write("lens.toml", 'default = "é"\n[stores."é"]\nuri = "${WHERE}"\n')
        env = {**odd_encoding, "WHERE": file}
        for words in (("show", "üñí-run", "-o", "id"), ("list", "-s", "für.db", "--search", "üñí", "-o", "id")):
            done = lens.process(*words, env=env)
            assert (done.code, done.stdout) == (0, "üñí-run\n".encode()), done.stderr
        done = lens.process("config -o json", env=env)
        assert [row["value"] for row in done.json if row["key"] == "stores.é.uri"] == [str(lens.cwd / "für.db")]

    def test_names_of_files_are_utf_8_for_applications_too(self, bare_lens: Lens, odd_encoding: dict[str, str]) -> None:
        source = bare_lens.store()
        bare_lens.write(
            "application.py",
            f"""
import asyncio
from flujo_lens import open_backend

async def work():
    async with open_backend("file:///{bare_lens.cwd}/states") as states:
        await states.save_state("\\xfc", {{"run_id": "\\xfc", "status": "running"}})

asyncio.run(work())
""",
        )
        environment = bare_lens.environment(odd_encoding)
        subprocess.run([sys.executable, "application.py"], cwd=bare_lens.cwd, env=environment, check=True)
        copied = bare_lens.process(f"copy {source.name} states/ --verify --yes", env=odd_encoding)
        assert copied.code == 0, copied.err
        names = set(os.listdir(os.fsencode(bare_lens.cwd / "states")))
        assert {"ü.json".encode(), "üñí-run.json".encode()} <= names

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


@cache
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

    if home is None:
        listed = lens("list", "-s", "states", "-o", "id", "--all")
        assert (listed.returncode, b"fail-001" in listed.stdout) == (0, True), listed.stderr
        assert tree(bare_lens.cwd) == before
    typed = lens("list", "-s", "~/states")
    if home == "/nonexistent":
        assert (typed.returncode, b"/nonexistent/states" in typed.stderr) == (5, True)
    else:
        assert (typed.returncode, b"the user has no home folder" in typed.stderr) == (2, True)
    if home == "":
        return
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


# --- the current folder, and where a store is not


def test_a_current_folder_that_was_removed(lens: Lens) -> None:
    gone = lens.folder / "gone"
    store = lens.cwd / "flujo_ops.db"
    for words, code in (
        (("list", "-s", str(store), "-o", "id"), 0),
        (("delete", "fail-001", "--yes", "-s", str(store)), 0),
        (("list",), 2),
        (("list", "-s", "flujo_ops.db"), 5),
        (("check", "--save", "new.json", "-s", str(store)), 1),
    ):
        gone.mkdir()
        script = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
        command = ["sh", "-c", script, "sh", sys.executable, "-m", "flujo_lens", *words]
        done = subprocess.run(command, env=lens.environment(), capture_output=True, cwd=lens.folder)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"LENS-X1" not in done.stderr


def test_a_folder_that_may_not_be_entered(lens: Lens) -> None:
    shut = lens.cwd / "shut"
    (shut / "in").mkdir(parents=True)
    shutil.copy(lens.cwd / "flujo_ops.db", shut / "in")
    shut.chmod(0)
    try:
        for store in ("shut/in/flujo_ops.db", "sqlite:///shut/in/flujo_ops.db", f"file://{shut}/in", "shut/in"):
            for words in (["list"], ["delete", "fail-001", "--yes"]) if store == "shut/in" else (["list"],):
                command = [*as_nobody(), sys.executable, "-m", "flujo_lens", *words, "-s", store]
                done = subprocess.run(command, cwd=lens.cwd, env=lens.environment(), capture_output=True)
                assert done.returncode == 5, done.stderr
                assert b"Permission denied" in done.stderr
                assert str(shut).encode() in done.stderr
                assert b"there is no store" not in done.stderr
    finally:
        shut.chmod(0o700)


def test_a_settings_file_in_a_folder_that_may_not_be_entered(lens: Lens) -> None:
    shut = lens.cwd / "shut"
    shut.mkdir()
    lens.write("shut/lens.toml", "")
    shut.chmod(0)
    try:
        for words, env in ((["--config", "shut/lens.toml"], {}), ([], {"LENS_CONFIG": "shut/lens.toml"})):
            command = [*as_nobody(), sys.executable, "-m", "flujo_lens", "list", *words]
            done = subprocess.run(command, cwd=lens.cwd, env=lens.environment(env), capture_output=True)
            assert (done.returncode, b"Permission denied" in done.stderr) == (2, True), done.stderr
            assert b"no such file" not in done.stderr
    finally:
        shut.chmod(0o700)


def test_what_is_no_store_says_what_it_is(lens: Lens) -> None:
    (lens.cwd / "holds").mkdir()
    shutil.copy(lens.cwd / "flujo_ops.db", lens.cwd / "holds")
    shutil.copy(lens.cwd / "flujo_ops.db", lens.cwd / "holds" / "a.db")
    os.symlink("nowhere", lens.cwd / "dangling")
    os.symlink("circle", lens.cwd / "circle")
    os.mkfifo(lens.cwd / "fifo")
    for store, code, told in (
        ("holds", 5, "/holds/flujo_ops.db"),
        ("sqlite:///holds", 5, "/holds/flujo_ops.db"),
        ("dangling", 5, "it is a broken link to nowhere"),
        ("circle", 5, "Too many levels of symbolic links"),
        ("fifo", 5, "not a regular file"),
        ("sqlite:///fifo", 5, "not a regular file"),
        ("/dev/zero", 5, "not a regular file"),
        ("flujo_ops.db/x.db", 5, "flujo_ops.db is a file, not a folder"),
        ("a" * 300 + ".db", 5, "File name too long"),
        ("/", 5, "holds no workflow states"),
        ("nope", 2, "no such store"),
    ):
        for line in ("list", "prune --older-than 1d --yes", "doctor"):
            done = lens(*line.split(), "-s", store)
            assert (done.code, told in " ".join(done.err.split())) == (code, True), done.err


def test_one_odd_name_does_not_close_a_folder(file_lens: Lens) -> None:
    expected = file_lens("list --all -o id").out
    for name in ("circle", "circle.txt"):
        os.symlink(name, file_lens.cwd / "states" / name)
    os.symlink("/nowhere", file_lens.cwd / "states" / "dangling")
    os.mkfifo(file_lens.cwd / "states" / "fifo")
    listed = file_lens("list --all -o id")
    assert (listed.code, listed.out) == (0, expected)


# --- streams


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(bare_lens: Lens, redirect: str) -> None:
    shop = Shop(bare_lens, "runs")
    shop.begin("orders", "one")
    shop.begin("billing", "two")
    program = f"{sys.executable} -m flujo_lens"

    def sh(line: str) -> subprocess.CompletedProcess[bytes]:
        script = f"{program} {line} {redirect}"
        return subprocess.run(["sh", "-c", script], cwd=bare_lens.cwd, env=bare_lens.environment(), capture_output=True)

    if redirect != "<&-":
        listed = sh("list -o id")
        assert listed.returncode == 0
        assert (b"two\n" in listed.stdout) is (">&-" not in redirect.split())
    if "2>&-" in redirect:
        assert sh("list -s nope.db").returncode == 5
    done = sh("resume two --input yes --app shop:registry")
    assert (done.returncode, shop.run("two")["status"]) == (0, "completed"), done.stderr
    if "<&-" in redirect:
        shop.begin("billing", "three")
        assert sh("resume three --app shop:registry").returncode == 2
    entries = (bare_lens.cwd / "runs.lens-audit.ndjson").read_bytes().splitlines()
    assert all(json.loads(line) for line in entries)
    files = [path for path in (bare_lens.cwd / "runs").iterdir() if path.suffix == ".json"]
    assert all(json.loads(path.read_bytes()) for path in files)


def test_nothing_is_exported_to_a_closed_stdout(lens: Lens) -> None:
    script = f"{sys.executable} -m flujo_lens export - >&-"
    done = subprocess.run(["sh", "-c", script], cwd=lens.cwd, env=lens.environment(), capture_output=True)
    assert (done.returncode, b"stdout" in done.stderr, b"exported" in done.stderr) == (2, True, False), done.stderr


def test_an_empty_answer_from_a_closed_or_empty_stdin_is_none(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "one")
    for redirect in ("<&-", "< /dev/null"):
        script = f"{sys.executable} -m flujo_lens resume one --app shop:registry --input-file - {redirect}"
        done = subprocess.run(["sh", "-c", script], cwd=shop.cwd, env=bare_lens.environment(), capture_output=True)
        assert (done.returncode, b"stdin is empty" in done.stderr) == (2, True), done.stderr
    assert shop.run("one")["status"] == "paused"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
class TestFullDisk:
    """Output on a disk that is full: an error, never silence."""

    @pytest.mark.parametrize("line", ["list", "list -o json", "show fail-001 -o table", "--help", "list --count"])
    def test_of_what_is_read(self, lens: Lens, line: str) -> None:
        with open("/dev/full", "wb") as full:
            done = lens.process(line, stdout=full)
        assert done.code == 1
        told = done.stderr.splitlines()
        assert len(told) == 1
        assert b"cannot write the output: No space left" in told[0]

    @pytest.mark.parametrize("form", ["tsv", "ndjson"])
    def test_in_the_middle_of_retry(self, bare_lens: Lens, form: str) -> None:
        shop = Shop(bare_lens)
        shop.fail("one", "two", "three")
        with open("/dev/full", "wb") as full:
            done = bare_lens.process(f"retry --status failed --yes --app shop:registry -o {form}", stdout=full)
        assert done.code == 1
        assert "3 runs: 3 resumed, 0 failed again" in done.err
        assert "nothing was changed" not in done.err
        assert [shop.run(run_id)["status"] for run_id in ("one", "two", "three")] == ["completed"] * 3

    def test_of_what_was_changed(self, lens: Lens) -> None:
        with open("/dev/full", "wb") as full:
            done = lens.process("delete fail-001 --yes", stdout=full)
        assert (done.code, "nothing was changed" in done.err, "lens audit list" in done.err) == (1, False, True)
        assert lens("show fail-001").code == 3


# --- terminals


@pytest.mark.parametrize("content", [None, b"", b"hello", b"SQLite format 3\0" + b"x" * 100, "folder"])
def test_bare_lens_on_a_terminal_without_a_good_store(bare_lens: Lens, content: bytes | str | None) -> None:
    store = bare_lens.cwd / "flujo_ops.db"
    if isinstance(content, bytes):
        store.write_bytes(content)
    elif content is not None:
        store.mkdir()
    done = bare_lens(tty=True)
    assert done.code == (5 if isinstance(content, bytes) else 2)
    assert "error LENS-" in done.err
    assert "LENS-X1" not in done.err


@pytest.mark.parametrize("columns", ["0", "1", "19", "x", "-3", os.fsdecode("٣".encode()), "9" * 30])
def test_odd_widths(lens: Lens, columns: str) -> None:
    lens.env["COLUMNS"] = columns
    for line in ("list", "show paused-001", "status", "trace trace4-001", "--help", "list --help"):
        world = lens.terminal(line, env={"COLUMNS": columns, "LINES": "0"}) if line == "list" else None
        done = world or lens(line, tty=True, width=None)
        assert done.code == 0, done.err
        longest = max(map(len, done.out.split("\n")))
        assert longest > 10


# --- numbers that nothing can hold


@pytest.mark.parametrize("number", [str(2**63 - 1), str(2**63), "1" + "0" * 30])
def test_limits_beyond_64_bits(lens: Lens, number: str) -> None:
    lens.files(NEW, to="states")
    for store in ("flujo_ops.db", "states"):
        whole = lens("list", "--all", "-o", "id", "-s", store).out
        for more in ([], ["--reverse"]):
            found = lens("list", "-n", number, "-o", "id", "-s", store, *more)
            assert (found.code, sorted(found.lines)) == (0, sorted(whole.split("\n")[:-1]))
        for line in ("tasks list -n", "evals -n", "audit list -n", "trace trace4-001 --depth"):
            done = lens(*line.split(), number, "-s", store)
            assert done.code == 0, done.err
