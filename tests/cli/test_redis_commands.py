"""The commands on a real Redis server: the same JSON as on SQLite, what changes runs, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from pipelines import Shop
from servers import RedisServer, redis_server, valkey_program
from support import Lens, Result

from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.redis import RedisBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.views import RunFilter
from flujo_lens.testing.harness import Harness

pytest.importorskip("redis")
_NUMBERS = itertools.count(1)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
READING = (
    "list --all", "list --status failed", "list --status paused,running", "list --pipeline orders", "list --since 30d",
    "list --limit 3", "list --top-level", "failed --since 999d", "failed --flat --since 999d", "waiting", "stats",
    "stats --since 999d", "tasks list", "evals", "system list", "list --search e",
)  # fmt: skip


class _Samples(Harness):
    """The runs of the conformance suite."""

    _now = NOW

    async def new_backend(self) -> StateBackend:
        raise NotImplementedError

    def fill(self, backend: StateBackend) -> None:
        async def run() -> None:
            async with backend:
                await self._fill(backend)

        asyncio.run(run())


class Store:
    """A prefix of a server, and ``lens`` that means it."""

    def __init__(self, server: RedisServer, lens: Lens) -> None:
        self.server, self.lens = server, lens
        self.prefix = f"t{next(_NUMBERS)}:"
        self.uri = f"{server.uri}?prefix={self.prefix}"
        self.env = {"LENS_STORE": self.uri, "XDG_STATE_HOME": str(lens.folder / "state")}

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Result:
        return self.lens(*arguments, env={**self.env, **(env or {})}, **more)

    def use(self, work: Callable[[RedisBackend], Awaitable[Any]], more: str = "") -> Any:
        """Do something with a backend."""

        async def run() -> Any:
            async with RedisBackend(self.uri + more) as backend:
                return await work(backend)

        return asyncio.run(run())

    def dump(self, prefix: str | None = None) -> dict[str, Any]:
        """All keys under the prefix as the server serializes them, without those of transactions and the log."""
        names = sorted(self.server.call("KEYS", f"{self.prefix if prefix is None else prefix}*"))
        names = [name for name in names if ":lens:tx:" not in name and ":lens:audit" not in name]
        kinds = self.server.calls([("TYPE", name) for name in names])
        commands: dict[str, tuple[Any, ...]] = {
            "string": ("GET",), "list": ("LRANGE", 0, -1), "hash": ("HGETALL",), "set": ("SMEMBERS",),
            "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        }  # fmt: skip
        asked = [(commands[kind][0], name, *commands[kind][1:]) for name, kind in zip(names, kinds, strict=True)]
        values = [sorted(value) if isinstance(value, set) else value for value in self.server.calls(asked)]
        return {name: (kind, repr(value)) for name, kind, value in zip(names, kinds, values, strict=True)}

    def everything(self) -> Any:
        """All that the store tells of its runs."""

        async def work(backend: RedisBackend) -> Any:
            ids = [run.run_id async for run in backend.iter_runs(RunFilter())]
            details = [await backend.read_run(run_id) for run_id in ids]
            states = [await backend.load_state(run_id) for run_id in ids]
            spans = [await backend.get_spans(run_id) for run_id in ids]
            return details, states, spans, await backend.list_evaluations(), await backend.read_claims()

        return self.use(work)


@pytest.fixture
def empty(valkey: RedisServer, bare_lens: Lens) -> Store:
    """A prefix without keys."""
    return Store(valkey, bare_lens)


@pytest.fixture
def store(empty: Store) -> Store:
    """The samples of the conformance suite."""
    _Samples().fill(RedisBackend(empty.uri))
    return empty


# --- reading


def _told(result: Result) -> Any:
    """A document without the times of this test's own saves."""
    text = json.dumps(result.json) if result.stdout.strip() else result.err

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            own = ("store", "size_bytes") + (("created_at",) if "score" in value else ())
            own += ("updated_at",) if "key" in value else ()
            if "pipeline_context" in value:  # a row of a table has all its columns
                own += tuple(name for name, part in value.items() if part is None)
            return {name: plain(part) for name, part in value.items() if name not in own}
        return [plain(part) for part in value] if isinstance(value, list) else value

    return result.code, plain(json.loads(text)) if result.stdout.strip() else text


def test_every_reading_command_tells_what_it_tells_of_sqlite(store: Store) -> None:
    path = store.lens.cwd / "same.db"
    _Samples().fill(SQLiteBackend(path))
    before = store.dump()
    ids = [sample.run_id for sample in _Samples().samples if sample.run_id]
    shows = [f"show {run_id!r} --state" for run_id in ids[::2]]
    traces = [f"trace {run_id!r}" for run_id in ids[::3]]
    for command in (*READING, *shows, *traces, "status"):
        ours = store(f"{command} -o json")
        assert _told(ours) == _told(store(f"{command} -o json -s {path}")), command
        assert ours.code == 0, (command, ours.err)
    assert store.dump() == before


def test_pages_are_joined_without_a_gap(store: Store) -> None:
    for filters in ("", "--status completed,failed"):
        whole = store(f"list --all {filters} -o id").lines
        found, cursor = [], ""
        while cursor is not None:
            page = store(f"list -n 3 {filters} -o id {cursor}")
            found += page.lines
            cursor = "--cursor " + page.err.rpartition("--cursor ")[2].split()[0] if "--cursor" in page.err else None  # type: ignore[assignment]
        assert found == whole
        assert store(f"list {filters} --count").out.split()[-1] == str(len(whole))


def test_a_store_that_is_not_there(empty: Store) -> None:
    for command in ("list", "show x", "status", "stats", "doctor", "delete x --yes", "prune --older-than 2d --yes"):
        answer = empty(command)
        assert (answer.code, "no runs that lens has saved" in answer.err) == (5, True), (command, answer.err)
    assert empty.dump() == {}


# --- changing


def test_what_changes_runs_can_be_taken_back(store: Store) -> None:
    before, keys = store.everything(), store.dump()
    running = store("list --status running -o id").lines[0]
    for command in (
        "delete order-1 --yes",
        f"cancel {running!r} --yes",
        "prune --older-than 2d --include-paused --max-share 100% --yes",
    ):
        done = store(f"{command} -o json")
        assert (done.code, done.json["done"] > 0) == (0, True), (command, done.err)
        assert store.everything() != before
        back = store("undo", done.json["audit_id"], "--yes", "-o", "json")
        assert (back.code, back.json["done"]) == (0, done.json["done"]), back.err
        assert store.everything() == before
        assert _comparable(store.dump()) == _comparable(keys)
    assert store("audit verify").code == 0


def _comparable(keys: dict[str, Any]) -> dict[str, Any]:
    """Without what only grows: sets of names, numbers of spans, and texts whose spelling may change."""
    return {
        name: kind if kind in ("string", "hash") else (kind, value)
        for name, (kind, value) in keys.items()
        if not name.endswith((":parents", ":statuses"))
    }


def test_runs_resume_and_are_retried(empty: Store) -> None:
    shop = Shop(empty.lens, empty.uri)
    empty.lens.env["XDG_STATE_HOME"] = empty.env["XDG_STATE_HOME"]
    shop.begin("billing", "waits")
    shop.fail("one", "two", "three")
    app = "--app shop:registry"
    dry = empty.lens.process(f"retry one {app} --dry-run -o json").json
    assert (dry["dry_run"], dry["left"]) == (True, 1)
    done = empty.lens.process(f"retry one two {app} --concurrency 2 --yes -o json")
    assert (done.code, done.json["done"]) == (0, 2), done.err
    assert {row["output"] for row in done.json["runs"]} == {"charged HELLO"}
    assert empty("show one -o json").json["run"]["status"] == "completed"
    answered = empty.lens.process(f"resume waits {app} --input yes -o json")
    assert (answered.code, answered.json["status"]) == (0, "completed"), answered.err
    assert empty.lens.process(f"resume three {app} -o json").json["status"] == "completed"
    assert shop.signs().count("load") == 4
    assert empty.use(lambda backend: backend.read_claims()) == {}
    assert [entry["command"][1] for entry in empty("audit -o json").json] == ["resume", "resume", "retry"]


def test_a_stripped_run_is_not_resumed_until_it_is_whole_again(empty: Store) -> None:
    shop = Shop(empty.lens, empty.uri)
    empty.lens.env["XDG_STATE_HOME"] = empty.env["XDG_STATE_HOME"]
    shop.fail("one")
    done = empty("prune --keep-last 0 --strip outputs,state --max-share 100% --yes --json", env={})
    assert (done.code, done.json["stripped"]) == (0, 1), done.err
    refused = empty.lens.process("resume one --app shop:registry")
    assert (refused.code, "LENS-F3" in refused.err) == (1, True)
    assert empty("undo", done.json["audit_id"], "--yes").code == 0
    assert empty.lens.process("resume one --app shop:registry -o json").json["status"] == "completed"


def test_a_deleted_run_leaves_no_key(store: Store) -> None:
    runs = store("list --all -o id").lines
    assert store("delete", *runs, "--yes", "--no-bin").code == 0
    left = store.dump()
    own = f"{store.prefix}:lens:"
    # The evaluations of an id without a run, system state, and names.
    names = {f"{own}{name}" for name in ("made", "statuses", "parents", "system", "evaluated", "changes")}
    assert {name for name in left if name not in names and ":evaluation:" not in name} == set()


# --- states that another program wrote


@pytest.fixture
def plain(empty: Store) -> Store:
    """States as a backend of a few lines writes them, beside keys that are none."""
    for number, status in enumerate(("running", "completed", "failed", "paused")):
        state = {
            "run_id": f"r[{number}]*", "pipeline_name": "orders", "pipeline_version": "1.0.0", "status": status,
            "current_step_index": number, "pipeline_context": {"n": number, "big": 2**60, "deep": [[1.5]]},
            "created_at": f"2026-11-0{number + 1}T00:00:00Z", "updated_at": f"2026-11-0{number + 1}T01:00:00Z",
        }  # fmt: skip
        empty.server.call("SET", f"{empty.prefix}r[{number}]*", json.dumps(state))
    empty.server.calls([("SET", f"{empty.prefix}counter", 7), ("LPUSH", f"{empty.prefix}queue", 1)])
    return empty


def test_a_plain_layout_is_read_and_not_written(plain: Store) -> None:
    before, uri = plain.dump(), f"{plain.uri}&layout=plain"
    assert plain("list", "-o", "id", "-s", uri).lines == ["r[3]*", "r[2]*", "r[1]*", "r[0]*"]
    assert plain("list", "-n", "2", "-o", "id", "-s", uri).lines == ["r[3]*", "r[2]*"]
    assert plain("show", "r[1]*", "-o", "json", "-s", uri).json["run"]["status"] == "completed"
    assert plain("list", "--status", "failed", "--count", "-s", uri).out.split()[-1] == "1"
    assert plain("status", "-o", "json", "-s", uri).json["runs"] == 4
    assert plain("stats", "-o", "json", "-s", uri).json["total"] == 4
    for command in ("cancel r[0]* --yes", "delete r[0]* --yes", "prune --older-than 2d --max-share 100% --yes"):
        answer = plain(*command.split(), "-s", uri)
        assert (answer.code, "lens migrate" in answer.err) == (5, True), answer.err
    assert plain.dump() == before


def test_migrate_makes_the_index(plain: Store) -> None:
    states = plain.dump()
    assert plain("list").code == 5
    dry = plain("migrate --dry-run -o json").json
    assert dry["steps"] == ["put 4 states into the index"]
    assert plain.dump() == states
    assert plain("migrate", "--yes", "-s", f"{plain.uri}&layout=plain").code == 0
    assert plain("list -o id").lines == ["r[3]*", "r[2]*", "r[1]*", "r[0]*"]
    assert {name: value for name, value in plain.dump().items() if ":lens:" not in name} == states
    assert "nothing to migrate" in plain("migrate --yes").out


def test_doctor_finds_what_the_index_lacks_and_mends_it(plain: Store) -> None:
    assert plain("migrate --yes").code == 0
    assert {row["ok"] for row in plain("doctor -o json").json if "index" in row["check"]} == {True}
    # The other program goes on: one run is new, one has ended, one is gone.
    old = json.loads(plain.server.call("GET", f"{plain.prefix}r[0]*"))
    plain.server.call("SET", f"{plain.prefix}new", json.dumps({**old, "run_id": "new"}))
    plain.server.call("SET", f"{plain.prefix}r[0]*", json.dumps({**old, "status": "completed"}))
    plain.server.call("DEL", f"{plain.prefix}r[2]*")
    plain.server.call("SET", f"{plain.prefix}r[3]*", "{'status': 'no JSON'}")
    assert plain("list -o id --status running").lines == []
    assert plain("show new -o json").json["run"]["run_id"] == "new"
    before = plain.dump()
    found = {row["check"]: row for row in plain("doctor -o json").json}
    assert (found["states without an index"]["count"], found["index without runs"]["count"]) == (2, 1)
    assert plain.dump() == before
    assert plain("doctor --fix --yes").code in (0, 1)
    found = {row["check"]: row for row in plain("doctor -o json").json}
    assert (found["states without an index"]["ok"], found["index without runs"]["ok"]) == (True, True)
    assert set(plain("list -o id --status running,completed").lines) == {"new", "r[0]*", "r[1]*"}
    assert plain("list -o json --status unreadable").json[0]["run_id"] == "r[3]*"
    assert plain("show", "r[3]*").code == 0


@pytest.mark.parametrize("more", ["b:", "2"])
def test_a_store_whose_prefix_begins_with_anothers_is_not_its(store: Store, more: str) -> None:
    prefix, outer = f"{store.prefix}{more}", store.everything()
    inner = store.uri.replace(store.prefix, prefix)
    assert store("copy", store.uri, inner, "--yes").code == 0
    runs, kept = store("list --all -o json", env={"LENS_STORE": inner}).json, store.dump(prefix)
    assert {row["ok"] for row in store("doctor -o json").json if "index" in row["check"]} == {True}
    assert store("doctor --fix --yes").code in (0, 1)
    assert store.everything() == outer
    assert store("prune --older-than 1d --include-paused --yes --max-share 100%").code == 0
    assert store.dump(prefix) == kept
    assert store("list --all -o json", env={"LENS_STORE": inner}).json == runs


# --- runs that expire


def test_finished_runs_expire_and_leave_the_index(empty: Store) -> None:
    async def save(backend: RedisBackend) -> None:
        for run_id, status in (("done", "completed"), ("broken", "failed"), ("goes", "running")):
            await backend.save_run_start({"run_id": run_id})
            await backend.save_step_result({"run_id": run_id, "step_name": "s", "step_index": 0})
            await backend.save_state(run_id, {"status": status, "pipeline_name": "p"})
        await backend.persist_evaluation("done", 1.0)

    empty.use(save, "&ttl=1h")
    own = f"{empty.prefix}:lens:"
    kept = [f"{empty.prefix}done", *(f"{own}{kind}:done" for kind in ("run", "step", "evaluation"))]
    assert all(0 < empty.server.call("TTL", name) <= 3600 for name in kept)
    assert empty.server.call("TTL", f"{empty.prefix}broken") == -1
    # A run that goes on is kept again, with all of it, also by a client that sets no time.
    empty.use(lambda b: b.save_state("done", {"status": "running", "pipeline_name": "p"}))
    assert {empty.server.call("TTL", name) for name in kept} == {-1}
    empty.use(save, "&ttl=1h")
    _expire(empty, "done", kept)
    before = empty.dump()
    assert set(empty("list -o id").lines) == {"broken", "goes"}
    assert empty("list --count").out.split()[-1] == "2"
    assert empty("list --status completed --count").out.split()[-1] == "0"
    assert empty("show done").code == 3
    assert empty.dump() == before
    empty.use(lambda b: b.save_state("goes", {"status": "running", "pipeline_name": "p"}), "&ttl=1h")
    assert not [name for name, value in empty.dump().items() if "done" in str(value)]


def _expire(store: Store, run_id: str, names: list[str]) -> None:
    """Let an hour pass for the keys of a run."""
    own = f"{store.prefix}:lens:"
    store.server.calls([("DEL", *names), ("ZADD", f"{own}expires", 1, run_id)])


# --- what goes wrong


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:1", "nowhere.invalid"])
def test_a_server_that_is_away(bare_lens: Lens, host: str) -> None:
    answer = bare_lens(f"list -s redis://u:hush@{host}/0 --timeout 2")
    assert (answer.code, "hush" in answer.err, f"u:***@{host}" in answer.err) == (5, False, True), answer.err
    assert "redis-cli" in answer.err


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis-cluster"])
def test_a_server_that_does_not_answer(bare_lens: Lens, scheme: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        answer = bare_lens(f"list -s {scheme}://127.0.0.1:{deaf.getsockname()[1]} --timeout 0.3 -o json")
    assert (answer.code, "does not answer" in answer.error["message"]) == (5, True), answer.err


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("redis://h/x", "the number of a database"),
        ("redis://h:0x/0", "a port is not a number"),
        ("redis://h/0?prefx=a", "did you mean ?prefix=?"),
        ("redis://h/0?layout=odd", "plain or index"),
        ("redis://h/0?ttl=30", "an age"),
        ("redis://h/0?ssl_ca_certs=x", "rediss://"),
        ("rediss://h/0?ssl_cert_reqs=maybe", "required"),
        ("redis-cluster://h?prefix=ops:", "names no hash slot"),
        ("redis-cluster://h/1", "database 0"),
        ("redis+unix://h/x", "no socket"),
    ],
)
def test_a_uri_that_cannot_be_meant(bare_lens: Lens, uri: str, said: str) -> None:
    answer = bare_lens("list", "-s", uri)
    assert (answer.code, said in answer.err.replace("\n  ", " ")) == (2, True), answer.err


@pytest.fixture
def own_server(bare_lens: Lens) -> Iterator[Store]:
    """A server whose settings a test may change."""
    with redis_server(valkey_program(), tcp=True, dbfilename="here") as server:
        store = Store(server, bare_lens)
        _Samples().fill(RedisBackend(store.uri))
        yield store


def _fails(answer: Result, said: str, hint: str, code: int = 5) -> None:
    assert answer.code == code, answer.err
    text = " ".join(answer.err.split())
    assert said in text, text
    assert hint in text, text
    assert "hush" not in text


def test_answers_of_the_server_that_are_errors(own_server: Store) -> None:
    store, server = own_server, own_server.server
    save, runs = "system set k {}", len(store("list --all -o id").lines)
    # Another program's keys.
    server.call("RPUSH", f"{store.prefix}other", 1)
    _fails(store("show other"), "another type", "?prefix=NAME:")
    other = f"{server.uri}?prefix=q:"
    server.calls([("SADD", "q::lens:index", "x"), ("SET", "q::lens:made", 1)])
    _fails(store(*save.split(), "-s", other), "q::lens:index", "?prefix=NAME:")
    assert sorted(server.call("KEYS", "q:*")) == ["q::lens:index", "q::lens:made"]
    # Out of memory: nothing is written, reading and deleting go on.
    server.call("CONFIG", "SET", "maxmemory", "1")
    _fails(store(save), "no memory left", "lens prune")
    assert len(store("list --all -o id").lines) == runs
    deleted = store("delete order-1 --yes --no-bin --audit-file log.ndjson -o json")
    assert (deleted.code, deleted.json["done"]) == (0, 1), deleted.err
    server.call("CONFIG", "SET", "maxmemory", "0")
    # A replica.
    server.call("REPLICAOF", "127.0.0.1", "1")
    _fails(store(save), "read-only replica", "redis-cli role")
    asked = store("delete order-2", tty=True, typed="y\n")
    _fails(asked, "read-only replica", "redis-cli role")
    assert "[y/N]" not in asked.err
    assert len(store("list --all -o id").lines) == runs - 1
    found = {row["check"]: row["ok"] for row in store("doctor -o json").json}
    assert found["replication"] is False
    server.call("REPLICAOF", "NO", "ONE")
    # Writes that wait for replicas.
    server.call("CONFIG", "SET", "min-replicas-to-write", "1")
    _fails(store(save), "without its replicas", "redis-cli info replication")
    server.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert store(save).code == 0
    # A node of a cluster that is none.
    _fails(store("list", "-s", f"redis-cluster://127.0.0.1:{server.port}"), "no node of a cluster", "redis://")


def test_a_server_that_cannot_write_to_its_disk(own_server: Store) -> None:
    server = own_server.server
    (server.folder / "here").mkdir()  # a snapshot cannot take its place
    server.call("CONFIG", "SET", "save", "3600 1")
    server.call("BGSAVE")
    while server.call("INFO", "persistence")["rdb_bgsave_in_progress"]:
        pass
    _fails(own_server("system set k {}"), "cannot save to its disk", "redis-cli info persistence")
    found = {row["check"]: row["ok"] for row in own_server("doctor -o json").json}
    assert found["persistence"] is False
    assert own_server("list").code == 0


def test_a_server_that_reads_its_data_and_one_in_a_script(bare_lens: Lens) -> None:
    slow = {"key_load_delay": "1500", "loading_process_events_interval_bytes": "1024"}
    with redis_server(valkey_program(), busy_reply_threshold="10", **slow) as server:
        store = Store(server, bare_lens)
        store.use(lambda b: b.save_state("r", {"status": "running"}))
        server.calls([("SET", f"other:{number}", "x" * 100) for number in range(400)])
        server.call("SAVE")
        server.kill()
        server.start(waits=False)
        answers = [store("list")]
        while answers[-1].code:
            assert answers[-1].code == 5, answers[-1].err
            answers.append(store("list"))
        loading = [answer for answer in answers if "is loading its data from disk" in answer.err]
        assert loading, [answer.err for answer in answers]
        _fails(loading[0], "is loading its data", "redis-cli info persistence")

        with ThreadPoolExecutor(1) as thread:
            script = thread.submit(_endless, server)
            answer = store("list -o id")
            while not answer.code:
                answer = store("list -o id")
            server.call("SCRIPT", "KILL")
            script.result()
        _fails(answer, "runs a script", "script kill", code=7)


def _endless(server: RedisServer) -> None:
    import redis

    with contextlib.suppress(redis.ResponseError):
        server.call("EVAL", "while true do end", 0)


def test_logins(own_server: Store) -> None:
    store, server = own_server, own_server.server
    tcp = f"{server.tcp}?prefix={store.prefix}"
    server.call(
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">hush",
        f"~{store.prefix}*",
        "+@read",
        "+@connection",
        "+@transaction",
        "+info",
    )
    server.call("ACL", "SETUSER", "nobody", "on", ">hush", "~x", "-@all", "+@connection")
    reader = tcp.replace("//", "//reader:hush@")
    assert len(store("list", "--all", "-o", "id", "-s", reader).lines) == len(store("list --all -o id").lines)
    assert store("show", "order-1", "-s", reader).code == 0
    assert store("doctor", "-s", reader).code in (0, 1)
    _fails(store("delete", "order-1", "--yes", "-s", reader), "does not permit it", "+@write")
    for command in ("delete order-1", "prune --older-than 1d", "cancel order-2"):  # before they ask
        answer = store(f"{command} -s '{reader}'", tty=True, typed="y\n")
        _fails(answer, "does not permit it", "+@write")
        assert "[y/N]" not in answer.err
    writer = ("ACL", "SETUSER", "writer", "on", ">hush", f"~{store.prefix}*", "+@read", "+@write", "+@connection")
    server.call(*writer, "+@transaction", "-@scripting")

    async def save() -> None:
        async with RedisBackend(tcp.replace("//", "//writer:hush@")) as backend:
            for number in range(3):
                await backend.save_state("written", {"status": "running", "pipeline_context": {"n": number}})

    asyncio.run(save())
    assert store("show written --state -o json").json["state"]["pipeline_context"] == {"n": 2}
    _fails(store("list", "-s", tcp.replace("//", "//nobody:hush@")), "does not permit it", "+@read")
    _fails(store("list", "-s", tcp.replace("//", "//reader:hushhush@")), "refuses the login", "user and the password")
    server.call("ACL", "SETUSER", "default", "off")
    _fails(store("list", "-s", tcp), "refuses the login", "user and the password")


def test_stores_tells_the_driver(store: Store) -> None:
    (row,) = store("stores -o json").json
    assert row["driver"] == "flujo_lens.state.backends.redis:RedisBackend"
    assert {"list", "show", "trace", "delete", "undo"} <= set(row["capabilities"])
