"""The audit log of a store on a server: in the store, the same from every machine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from servers import PostgresServer, RedisServer
from support import Lens, Result

from flujo_lens.errors import LensError
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.audit_server import AuditServer
from flujo_lens.redaction import masked_text
from flujo_lens.state.backends.core.audit_lines import AuditLines
from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.registry import open_backend

pytest.importorskip("asyncpg")
pytest.importorskip("redis")
_NUMBERS = itertools.count(1)


class Place:
    """A store on a server, and what somebody with a client of that server can do to its log."""

    def __init__(
        self, lens: Lens, uri: str, remove: Callable[[int], object], edit: Callable[[int, str], object]
    ) -> None:
        self.lens, self.uri, self.remove, self.edit = lens, uri, remove, edit
        self("init", uri)

    def __call__(self, *arguments: str, machine: str = "one") -> Result:
        env = {"XDG_STATE_HOME": str(self.lens.folder / machine), "LENS_ACTOR": machine}
        store = {} if arguments[0] == "init" else {"LENS_STORE": self.uri}
        return self.lens(*arguments, env={**env, **store})

    def log(self, actor: str = "ana") -> AuditLog:
        journal = AuditServer(lambda: open_backend(self.uri), "the server")
        return AuditLog(journal, actor=actor, host="h", now=lambda: datetime.now(UTC))

    def write(self, *runs: str) -> None:
        for run in runs:
            self.log().append(command=["lens", "cancel", run], reason=None, counts={"done": 1}, run_ids=[run])

    def lines(self) -> list[Any]:
        """The entries, through the driver."""

        async def work() -> list[tuple[int, bytes]]:
            async with open_backend(self.uri) as backend:
                assert isinstance(backend, CoreBackend)
                assert isinstance(backend.audit_lines, AuditLines)
                return list(await backend.audit_lines.read(0))

        return [json.loads(line) for _, line in asyncio.run(work())]


def _postgres(server: PostgresServer, lens: Lens) -> Iterator[Place]:
    name = f"audit{next(_NUMBERS)}"
    server.execute(f"CREATE DATABASE {name}", "SELECT 1")
    uri = server.uri.replace("/postgres?", f"/{name}?")

    def sql(statement: str) -> None:
        server.once(uri, statement, "SELECT 1")

    yield Place(
        lens, uri, lambda n: sql(f"DELETE FROM lens_audit WHERE key::int = {n}"),
        lambda n, line: sql(f"UPDATE lens_audit SET value = '{line}' WHERE key::int = {n}"),
    )  # fmt: skip
    server.execute(f"DROP DATABASE {name} WITH (FORCE)", "SELECT 1")


def _redis(server: RedisServer, lens: Lens) -> Iterator[Place]:
    prefix = f"audit{next(_NUMBERS)}:"
    key = f"{prefix}:lens:audit"
    yield Place(
        lens, f"{server.uri}?prefix={prefix}", lambda n: server.call("HDEL", key, f"{n:012d}"),
        lambda n, line: server.call("HSET", key, f"{n:012d}", line),
    )  # fmt: skip


@pytest.fixture(params=["postgres", "redis"])
def place(request: pytest.FixtureRequest, bare_lens: Lens) -> Iterator[Place]:
    """An empty store on each kind of server."""
    if request.param == "postgres":
        yield from _postgres(request.getfixturevalue("pg16"), bare_lens)
    else:
        yield from _redis(request.getfixturevalue("valkey"), bare_lens)


def test_every_machine_sees_the_same_log(place: Place) -> None:
    assert place("system", "set", "note", '{"a": 1}', machine="two").code == 0
    found = place("audit", "-o", "json", machine="three").json
    assert [(entry["actor"], entry["command"][1], entry["state"]) for entry in found] == [
        ("two", "system", "finished"), ("one", "init", "finished"),
    ]  # fmt: skip
    assert not list(place.lens.folder.rglob("*.ndjson*"))
    verdict = place("audit", "verify")
    assert (verdict.code, verdict.out) == (0, "2 changes (3 entries), chain intact\n")


def test_entries_of_many_at_once_are_one_chain(place: Place) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: place.write(*(f"r{n}-{m}" for m in range(5))), range(6)))
    report = place.log().verify()
    assert (report.ok, report.entries, report.has_length) == (True, 31, True)
    ids = [run for entry in place.lines() for run in entry["run_ids"]]
    assert sorted(ids) == sorted(f"r{n}-{m}" for n in range(6) for m in range(5))


@pytest.mark.parametrize(
    ("removed", "answer"),
    [
        ([3], "line 4 of the audit log in {} does not follow"),
        ([4], "line 4 of the audit log in {} is missing: the log was truncated"),
        ([1, 2, 3, 4], "line 1 of the audit log in {} is missing: the log was truncated"),
    ],
)
def test_removed_lines_show(place: Place, removed: Sequence[int], answer: str) -> None:
    place.write("a", "b", "c")
    for number in removed:
        place.remove(number)
    told = place("audit", "verify")
    assert (told.code, told.out.startswith(answer.format(masked_text(place.uri)))) == (1, True), told.out
    place.write("d")  # the next one continues behind what was removed
    assert place.log().verify().why == "removed"


def test_a_changed_line_shows(place: Place) -> None:
    place.write("a", "b")
    place.edit(2, json.dumps(place.lines()[1] | {"actor": "eve"}))
    assert place.log().verify().why == "changed"


def test_a_lost_end_is_found_again(place: Place) -> None:
    """Nothing is written over, should the recorded end be lost or set back."""
    place.write("a", "b")

    async def work(value: bytes | None) -> None:
        async with open_backend(place.uri) as backend:
            assert isinstance(backend, CoreBackend)
            await backend._store.write(lambda tx: tx.set("audit_head", "head", value))

    for value in (None, b'{"number": 1, "digest": ""}', b"[]"):
        asyncio.run(work(value))
        place.write("more")
    assert place.log().verify().ok
    assert len(place.lines()) == 6


def test_pages_of_the_log(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.state.backends.core.audit_lines._AT_ONCE", 2)
    place.write(*"abcdefg")
    assert [entry.run_ids for entry in place.log().entries()][1:] == [(name,) for name in "abcdefg"]
    for number in (3, 4, 5, 6):
        place.remove(number)
    assert [entry.run_ids for entry in place.log().entries()][1:] == [("a",), ("f",), ("g",)]


def test_nothing_is_changed_where_the_log_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: AuditLines, make: Callable[[str | None], bytes]) -> None:
        raise LensError("no room")

    monkeypatch.setattr(AuditLines, "append", failing)
    assert place("system", "set", "note", "1").code != 0
    assert place("system", "list", "-o", "json").json == []


def test_a_store_that_is_not_there_has_no_log(place: Place) -> None:
    other = place.uri.replace("audit", "nowhere")
    answer = place.lens("audit", env={"LENS_STORE": other})
    assert (answer.code, answer.out) == (5, ""), answer.err
