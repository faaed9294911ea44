"""Stores go back and forth between the real library and us.

Needs a Python that has 0.4 of the library (see libraries.py). It works in processes of its own; it is never imported
here.

0.4 takes a database of the newest format for a damaged one and moves it aside. So with 0.4 files go both ways,
and databases from it to us; of a database of ours it is asked to decode the columns. A backend that the command
line opens does not migrate, so that the library can go on.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import rich_state
from libraries import LIBRARIES, MISSING
from programs import environment, run_python

from flujo_lens.errors import SchemaError
from flujo_lens.serialization import safe_serialize
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.views import RunFilter

T = TypeVar("T")
PYTHON = LIBRARIES.get("0.4", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason=MISSING)


HERE = Path(__file__).resolve().parent
PACKAGES = [str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
MODULES = ("flujo", "flujo.state.backends.sqlite", "flujo.state.backends.file", "flujo.utils.serialization")
"""What its processes have imported when they begin: all but ours."""
Library = Callable[..., Any]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """``library(task, store)``: what the library says when it has done a task of library_process.py."""

    def ask(task: str, store: Path, script: str = "library_process.py") -> Any:
        answer = tmp_path / "answer.json"
        variables = {"HOME": str(tmp_path), "TZ": "UTC", "PYTHONPATH": os.pathsep.join(PACKAGES)}
        done = run_python(
            HERE / script,
            task,
            store,
            answer,
            env=environment(variables),
            cwd=tmp_path,
            python=PYTHON,
            imported=MODULES,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(answer.read_text())

    return ask


def with_backend(backend: StateBackend, work: Callable[[Any], Awaitable[T]]) -> T:
    """What `work` returns, done with a backend that is closed then."""

    async def opened() -> T:
        async with backend:
            return await work(backend)

    return asyncio.run(opened())


def files(folder: Path) -> FileBackend:
    return FileBackend(folder, cache_dir=folder.parent / "cache", zone=UTC)


def database(path: Path) -> SQLiteBackend:
    return SQLiteBackend(path, zone=UTC)


async def save_all(backend: StateBackend) -> dict[str, Any]:
    """Save two rich states; return them as they are loaded."""
    context = {**rich_state.common(), **rich_state.ours()}
    await backend.save_state("one", rich_state.state("one", context))
    await backend.save_state("two", rich_state.state("two", {}, step_history=[], last_step_output=None))
    return await load_all(backend)


async def load_all(backend: StateBackend) -> dict[str, Any]:
    found = [run.run_id async for run in backend.iter_runs(RunFilter())]
    return {run_id: await backend.load_state(run_id) for run_id in found}


def alike(theirs: Any, ours: Any) -> bool:
    """Whether we tell all that the library tells; we may tell more, and times with a zone."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(name in ours and alike(theirs[name], ours[name]) for name in theirs)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(theirs) == len(ours) and all(map(alike, theirs, ours))
    return theirs == ours or (type(theirs) is str and _instant(theirs) == _instant(ours))


def _instant(value: Any) -> Any:
    """The moment of a datetime or of its text, naive ones in UTC; anything else as it is."""
    try:
        when = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def version(library: Library, folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in library("version", folder).split(".")[:2])


def test_both_serializers_leave_the_same(tmp_path: Path, library: Library) -> None:
    assert safe_serialize(rich_state.common()) == library("shapes", tmp_path)


class TestFiles:
    def test_it_reads_what_we_wrote(self, tmp_path: Path, library: Library) -> None:
        ours = with_backend(files(tmp_path / "states"), save_all)
        assert ours["one"]["pipeline_context"]["money"] == "9.90"
        assert library("read_files", tmp_path / "states") == ours

    def test_we_read_what_it_wrote(self, tmp_path: Path, library: Library) -> None:
        theirs = library("write_files", tmp_path / "states")
        ours = with_backend(files(tmp_path / "states"), load_all)
        assert sorted(ours) == sorted(theirs) == ["one", "two"]
        assert ours == theirs

    def test_we_write_what_it_writes(self, tmp_path: Path, library: Library) -> None:
        """The same state makes the same document: values, order of keys, escapes."""

        async def save(backend: StateBackend) -> None:
            await backend.save_state("one", rich_state.state("one", rich_state.common()))

        library("write_file", tmp_path / "theirs")
        with_backend(files(tmp_path / "ours"), save)
        theirs, ours = ((tmp_path / folder / "one.json").read_text() for folder in ("theirs", "ours"))
        assert ours.isascii()
        assert json.dumps(json.loads(ours)) == json.dumps(json.loads(theirs))

    def test_both_work_in_one_folder(self, tmp_path: Path, library: Library) -> None:
        folder = tmp_path / "states"
        with_backend(files(folder), save_all)
        theirs = library("change_files", folder)
        assert list(theirs) == ["two"]
        assert with_backend(files(folder), load_all) == theirs
        with_backend(files(folder), lambda backend: backend.delete_state("two"))
        assert library("read_files", folder) == {}


class TestDatabase:
    def test_we_read_what_it_wrote(self, tmp_path: Path, library: Library) -> None:
        theirs = library("write_sqlite", tmp_path / "store.db")

        async def read(backend: SQLiteBackend) -> dict[str, Any]:
            return {
                "states": await load_all(backend),
                "workflows": await backend.list_workflows(),
                "paused": await backend.list_workflows(status="paused"),
                "spans": await backend.get_spans("whole"),
                "trace": await backend.get_trace("whole"),
                "steps": await backend.list_run_steps("whole"),
                "runs": await backend.list_runs(),
            }

        ours = with_backend(database(tmp_path / "store.db"), read)
        assert alike(theirs["states"], ours["states"])
        assert sorted(ours["states"]) == ["other", "whole"]
        assert ours["spans"] == theirs["spans"]
        assert alike(theirs["trace"], ours["trace"])
        for rows in ("workflows", "paused"):
            assert {row["run_id"] for row in ours[rows]} == {row["run_id"] for row in theirs[rows]}
        told = ("step_name", "step_index", "status", "output")
        assert [[s[n] for n in told] for s in ours["steps"]] == [[s[n] for n in told] for s in theirs["steps"]]
        (run,) = (row for row in ours["runs"] if row["run_id"] == "whole")
        assert (run["pipeline_name"], run["pipeline_version"]) == ("orders", "1.0")

    def test_reading_leaves_it_to_the_library(self, tmp_path: Path, library: Library) -> None:
        theirs = library("write_sqlite", tmp_path / "store.db")
        with_backend(database(tmp_path / "store.db"), load_all)
        assert library("read_sqlite", tmp_path / "store.db") == theirs

    def test_we_leave_a_store_of_an_older_format_as_it_is(self, tmp_path: Path, library: Library) -> None:
        if version(library, tmp_path) >= (0, 6):
            pytest.skip("this version's format is ours")
        path = tmp_path / "store.db"
        theirs = library("write_sqlite", path)
        with pytest.raises(SchemaError):
            with_backend(SQLiteBackend.from_uri(str(path)), save_all)
        assert library("read_sqlite", path) == theirs

    def test_it_reads_what_we_write_into_its_store(self, tmp_path: Path, library: Library) -> None:
        if version(library, tmp_path) < (0, 6):
            pytest.skip("this version's format is older than what we write")
        path = tmp_path / "store.db"
        library("write_sqlite", path)
        ours = with_backend(database(path), save_all)
        found = library("read_sqlite", path)["states"]
        assert alike(found, ours)
        assert sorted(found) == ["one", "other", "two", "whole"]

    def test_it_decodes_the_columns_that_we_write(self, tmp_path: Path, library: Library) -> None:
        path = tmp_path / "store.db"
        ours = with_backend(database(path), save_all)
        theirs = library("columns", path)
        assert theirs["one"]["pipeline_context"]["money"] == "9.90"
        for run_id in ("one", "two"):
            decoded = {name: value for name, value in theirs[run_id].items() if value is not None}
            assert decoded == {name: ours[run_id][name] for name in decoded}


class TestRunner:
    """The library's runner, which calls whatever of the contract it knows."""

    @pytest.fixture(autouse=True)
    def _needs_our_dependencies(self) -> None:
        imports = [PYTHON, "-c", "import orjson, platformdirs"]
        if subprocess.run(imports, capture_output=True).returncode:
            pytest.skip("the library's Python has not what our backends import")

    @pytest.mark.parametrize("kind", ["sqlite", "file"])
    def test_it_runs_on_our_backends(self, tmp_path: Path, library: Library, kind: str) -> None:
        store = tmp_path / "store"
        outputs = library(kind, store, "runner_process.py")
        assert outputs == {"done": "HELLO!", "resumed": "yes!"}

        async def read(backend: StateBackend) -> dict[str, Any]:
            return {run.run_id: run.status async for run in backend.iter_runs(RunFilter())}

        statuses = with_backend(database(store) if kind == "sqlite" else files(store), read)
        assert statuses == {"done": "completed", "failed": "failed", "waiting": "paused", "resumed": "completed"}
