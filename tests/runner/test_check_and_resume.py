"""A check before the deploy says what a resume says after it, edit by edit, on a store of each kind."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from test_edits import EDITS, SAVED, Code, Edit, title

from flujo_lens import FileBackend, Flujo, PipelineContext, PipelineRegistry, SQLiteBackend, StateBackend
from flujo_lens.operations.check import SHAPE_MATCHES, CheckedGroup, check_contexts, check_groups
from flujo_lens.operations.runs_in_flight import collect
from flujo_lens.runner.application import Application
from flujo_lens.runner.dsl import Pipeline
from flujo_lens.runner.incompatibility import StateIncompatibilityError
from flujo_lens.runner.resume_point import fit
from flujo_lens.runner.stored_run import load
from flujo_lens.state.views import RunFilter

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
KINDS = (SQLiteBackend, FileBackend)
Found = tuple[str, str | None, tuple[str, ...]]


def model_of(context: type) -> type[PipelineContext]:
    """The context of the table as an application has it: a model of its own."""
    own: dict[str, Any] = {
        each.name: (each.type if isinstance(each.type, type) else {"str": str, "int": int}[each.type], default)
        for each in fields(context)
        for default in [... if each.default is MISSING else each.default]
    }
    made: type[PipelineContext] = create_model("Shared", __base__=PipelineContext, **own)
    return made


def application_of(code: Code) -> Application:
    registry = PipelineRegistry()
    known = {"1.3.0": code.migrations[0]} if code.migrations else None
    registry.register(Pipeline(code.steps), "billing", code.version, migrations=known)
    flujo = Flujo(registry=registry, pipeline_name="billing", context_model=model_of(code.context))
    return Application("app:flujo", flujo.source, flujo.context_model)


async def wait(backend: StateBackend) -> None:
    """A run that waits for a person, behind two steps."""
    flujo = Flujo(
        Pipeline(SAVED.steps),
        pipeline_name="billing",
        pipeline_version="1.3.0",
        state_backend=backend,
        context_model=model_of(SAVED.context),
        initial_context_data={"customer": "Ana"},
    )
    assert (await flujo.run_async({"id": 7}, run_id="run-1")).status == "paused"


async def by_resume(backend: StateBackend, application: Application) -> Found:
    """What a resume makes of the run before it does anything."""
    stored = await load(backend, "run-1")
    assert stored is not None
    try:
        fitted = await fit(backend, application.source_for("billing"), stored, application.context_model)
    except StateIncompatibilityError as error:
        return error.verdict, error.code, tuple(each.sentence for each in error.differences)
    return fitted.verdict.kind, None, tuple(each.sentence for each in fitted.verdict.differences)


def found(group: CheckedGroup) -> Found:
    return group.verdict, group.code, tuple(each.sentence for each in group.differences)


async def both(edit: Edit, kind: type[SQLiteBackend] | type[FileBackend], folder: Path) -> list[Found]:
    """By the groups, by all that is stored, and by a resume."""
    place, application = folder / "store", application_of(edit.code)
    async with kind(place) as backend:
        await wait(backend)
    if not edit.has_manifest:
        forget(place)
    async with kind(place) as backend:
        groups = check_groups(await collect(backend, RunFilter(), "store", NOW), application)
        deep = await check_contexts(backend, RunFilter(), application)
        resumed = await by_resume(backend, application)
    (group,), (one,) = groups.groups, deep.groups
    assert (group.runs, group.sample_run_id, group.step_name, group.status) == (1, "run-1", "approve", "paused")
    if one.verdict == "identical":  # which nobody says who has not read the contexts
        assert group.verdict == SHAPE_MATCHES
        group = group._replace(verdict="identical")
    assert one == group
    assert groups.stranded == (group.code is not None)
    return [found(group), found(one), resumed]


def forget(place: Path) -> None:
    """Take the manifests out of a store, as if another library had written it."""
    if place.is_dir():
        for path in (place / ".lens-history").glob("*.ndjson"):
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(line for line in lines if b'"manifest"' not in line))
        return
    with closing(sqlite3.connect(place)) as db:
        db.execute("DROP TABLE lens_run_manifests")
        db.commit()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", EDITS, ids=title)
def test_an_edit(edit: Edit, kind: type[SQLiteBackend] | type[FileBackend], tmp_path: Path) -> None:
    outcomes = asyncio.run(both(edit, kind, tmp_path))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][:2] == (edit.verdict, None if edit.error == "-" else edit.error)
