"""A check of stored runs against code: groups, contexts, and the file in which groups are kept."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flujo_lens import Flujo, InMemoryBackend, Pipeline, PipelineContext, PipelineRegistry, SQLiteBackend, Step, step
from flujo_lens.errors import InflightError, OperationFailedError, UsageError
from flujo_lens.operations.check import CheckReport, check_contexts, check_groups
from flujo_lens.operations.runs_in_flight import Inflight, collect, read_inflight, save_inflight
from flujo_lens.runner.application import Application
from flujo_lens.runner.resume_point import Source
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.claims import ResumableGroup
from flujo_lens.state.views import RunFilter

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
ALL = RunFilter()


class Order(PipelineContext):
    customer: str = "Ana"


class Numbered(PipelineContext):
    customer: int = 0


@step
async def price(order: str) -> float:
    if order == "fail":
        raise RuntimeError("no price")
    return 9.5


@step
async def charge(answer: str) -> str:
    return answer


approve = Step.human_in_the_loop("approve", message_for_user="Charge card 4111 1111?")
billing = price >> approve >> charge


def registry_of(*pipelines: tuple[str, str, Pipeline]) -> PipelineRegistry:
    made = PipelineRegistry()
    for name, version, pipeline in pipelines:
        made.register(pipeline, name, version)
    return made


def application(*pipelines: tuple[str, str, Pipeline], model: type[PipelineContext] = Order) -> Application:
    registry = registry_of(*(pipelines or (("billing", "1.0.0", billing),)))
    return Application("app:registry", Source(None, registry, "unknown", "latest"), model)


async def fill(backend: StateBackend, **contexts: Mapping[str, Any]) -> None:
    """Three runs that wait and one that failed; then a run that waits for each of `contexts`, with it in its state."""
    registry = registry_of(("billing", "1.0.0", billing))
    flujo = Flujo(registry=registry, pipeline_name="billing", state_backend=backend, context_model=Order)
    for run in ("r1", "r2", "r3", *contexts):
        await flujo.run_async("order", run_id=run)
    await flujo.run_async("fail", run_id="f1")
    for run, changed in contexts.items():
        state = await backend.load_state(run)
        assert state is not None
        await backend.save_state(run, {**state, "pipeline_context": {**state["pipeline_context"], **changed}})


def checked(what: Application, *, deep: bool = False, **contexts: Mapping[str, Any]) -> CheckReport:
    async def work() -> CheckReport:
        async with InMemoryBackend() as backend:
            await fill(backend, **contexts)
            if deep:
                return await check_contexts(backend, ALL, what)
            return check_groups(await collect(backend, ALL, "store", NOW), what)

    return asyncio.run(work())


def outline(report: CheckReport) -> list[tuple[str, str | None, str, str | None, int, str]]:
    return [(g.verdict, g.code, g.status, g.step_name, g.runs, g.sample_run_id) for g in report.groups]


# --- groups


def test_one_verdict_a_place() -> None:
    report = checked(application())
    assert outline(report) == [
        ("shape-matches", None, "paused", "approve", 3, "r1"),
        ("shape-matches", None, "failed", "price", 1, "f1"),
    ]
    assert report.unread == 4
    assert {group.verdict for group in checked(application(), deep=True).groups} == {"identical"}
    assert (report.runs, report.stranded, report.unshaped) == (4, 0, 0)


def test_the_worst_comes_first_and_says_what_could_be_done() -> None:
    renamed = Step.human_in_the_loop("confirm", message_for_user="?")
    report = checked(application(("billing", "1.1.0", price >> renamed >> charge)))
    assert [group[:5] for group in outline(report)] == [
        ("broken", "LENS-C4", "paused", "approve", 3),
        ("compatible", None, "failed", "price", 1),
    ]
    assert (report.stranded, report.runs) == (3, 4)
    remedies = report.groups[0].remedies
    assert [remedy.id for remedy in remedies] == ["alias", "keep-old-version"]
    assert all(remedy.safe for remedy in remedies)
    assert report.groups[1].remedies == ()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (application(("bilings", "1", billing)), 'this code has no pipeline "billing", did you mean bilings?'),
        (application(("orders", "1", billing)), 'this code has no pipeline "billing"'),
        (
            Application("app:flujo", Source(billing, None, "bilings", "1.0.0")),
            'this code has no pipeline "billing", did you mean bilings?',
        ),
    ],
)
def test_a_pipeline_that_the_code_does_not_have(what: Application, sentence: str) -> None:
    report = checked(what)
    assert {(group.verdict, group.code) for group in report.groups} == {("broken", "LENS-C7")}
    assert {group.differences[0].sentence for group in report.groups} == {sentence}
    assert report.stranded == report.runs == 4


def test_one_pipeline_without_a_name_answers_to_any() -> None:
    report = checked(Application("app:pipeline", Source(billing, None, "unknown", "latest"), Order))
    assert {group.verdict for group in report.groups} == {"compatible"}


def group(**more: Any) -> ResumableGroup:
    plain = ResumableGroup("billing", "1.0.0", "paused", 1, "approve", None, ("price",), 5, "r1")
    return plain._replace(**more)


def judged(*groups: ResumableGroup) -> CheckReport:
    return check_groups(Inflight(groups, {}, NOW, "store"), application())


def test_without_a_manifest_the_names_are_compared() -> None:
    report = judged(group(), group(pipeline_version="0.9.0"), group(completed=("load",)), group(step_name="confirm"))
    assert [(each.verdict, each.code) for each in report.groups] == [("unknown", "LENS-C6")] * 3 + [
        ("names-match", None)
    ]
    assert report.unshaped == 20


def test_a_manifest_that_is_lost() -> None:
    """Names of steps are not gathered for runs that have one, so that nothing can be told without reading them."""
    (found,) = judged(group(manifest="gone", completed=())).groups
    assert (found.verdict, found.code, found.step_name) == ("unknown", "LENS-C6", "approve")
    assert "manifest of the runs is missing" in found.differences[0].sentence


def test_the_next_step_is_named_even_where_the_store_does_not_tell_it() -> None:
    (found,) = judged(group(status="running", step_name=None)).groups
    assert (found.verdict, found.step_name) == ("names-match", "approve")


def test_a_failed_run_without_a_manifest_stands_behind_what_it_has_done() -> None:
    (found,) = judged(group(status="failed", step_index=3)).groups
    assert (found.verdict, found.step_name) == ("names-match", "approve")


def test_a_store_that_does_not_say_whose_runs_they_are() -> None:
    (found,) = judged(group(pipeline_name="unknown", pipeline_version="latest")).groups
    assert (found.verdict, found.code, found.remedies) == ("unknown", "LENS-C7", ())


def test_a_run_with_a_manifest_is_named_as_everywhere(tmp_path: Path) -> None:
    """Its row in ``runs`` is read only where the state does not tell."""

    async def work(*statements: str) -> list[tuple[str, str, str, int]]:
        async with SQLiteBackend(tmp_path / "store.db") as backend:
            await fill(backend)
        with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
            for statement in statements:
                db.execute(statement)
        async with SQLiteBackend(tmp_path / "store.db") as backend:
            groups = (await collect(backend, ALL, "store", NOW)).groups
        return [(each.pipeline_name, each.pipeline_version, each.status, each.runs) for each in groups]

    whole = [("billing", "1.0.0", "failed", 1), ("billing", "1.0.0", "paused", 3)]
    nameless = "UPDATE workflow_state SET pipeline_name = 'unknown', pipeline_version = 'latest'"
    ended = "UPDATE runs SET status = 'completed' WHERE run_id = 'f1'"
    no_failed_step = "UPDATE workflow_state SET step_history = '[]' WHERE run_id = 'f1'"
    assert asyncio.run(work()) == whole
    assert asyncio.run(work(nameless)) == whole
    assert asyncio.run(work(ended, no_failed_step)) == whole[1:], "it is cancelled"
    assert asyncio.run(
        work("UPDATE workflow_state SET pipeline_name = 'other', pipeline_version = '1.0.0'", "DELETE FROM runs")
    ) == [("other", "1.0.0", status, runs) for _, _, status, runs in whole]


# --- contexts


def test_contexts_are_counted_by_what_is_wrong_with_them() -> None:
    bad = {"customer": ["no", "text"]}
    report = checked(application(), deep=True, b1=bad, b2=bad, b3={"customer": None})
    assert outline(report) == [
        ("needs-migration", "LENS-C5", "paused", "approve", 3, "b1"),
        ("identical", None, "paused", "approve", 3, "r1"),
        ("identical", None, "failed", "price", 1, "f1"),
    ]
    assert "customer: Input should be a valid string" in report.groups[0].differences[0].sentence
    by_shape = checked(application(), b1=bad)
    assert by_shape.stranded == 0, "by manifests alone no context is read"
    assert "identical" not in {group.verdict for group in by_shape.groups}


def test_a_value_that_was_not_kept_is_found_by_looking_deeply() -> None:
    lost = {"scratchpad": {"clients": [1, "<unserializable: Client>"]}}
    report = checked(application(), deep=True, b1=lost, b2=lost)
    assert outline(report)[0] == ("broken", "LENS-C10", "paused", "approve", 2, "b1")
    assert "$.scratchpad.clients[1] has the placeholder" in report.groups[0].differences[0].sentence


def test_different_errors_are_different_rows() -> None:
    report = checked(application(model=Order), deep=True, b1={"customer": 7}, b2={"scratchpad": 7})
    assert [(each.code, each.runs, each.sample_run_id) for each in report.groups[:2]] == [
        ("LENS-C5", 1, "b1"),
        ("LENS-C5", 1, "b2"),
    ]


def migrating(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Application:
    registry = registry_of()
    registry.register(billing, "billing", "2.0.0", migrations={"1.0.0": function})
    return Application("app:registry", Source(None, registry, "unknown", "latest"), Numbered)


def to_number(saved: dict[str, Any]) -> dict[str, Any]:
    return {**saved, "customer": {"Ana": 1}[saved["customer"]]}


def test_migrations_are_tried() -> None:
    report = checked(migrating(to_number), deep=True, b1={"customer": "Bo"}, b2={"customer": "Cy"})
    assert outline(report) == [
        ("needs-migration", "LENS-C9", "paused", "approve", 2, "b1"),
        ("needs-migration", None, "paused", "approve", 3, "r1"),
        ("needs-migration", None, "failed", "price", 1, "f1"),
    ]
    assert {each.code for each in checked(migrating(to_number), b1={"customer": "Bo"}).groups} == {None}


def test_nothing_is_changed_by_looking_deeply() -> None:
    async def work() -> None:
        async with InMemoryBackend() as backend:
            await fill(backend)
            before = json.dumps([await backend.load_state(run) for run in ("r1", "f1")], default=str)
            await check_contexts(backend, ALL, migrating(to_number))
            assert json.dumps([await backend.load_state(run) for run in ("r1", "f1")], default=str) == before

    asyncio.run(work())


def test_progress_is_told_run_by_run() -> None:
    async def work() -> list[int]:
        told: list[int] = []
        async with InMemoryBackend() as backend:
            await fill(backend)
            await check_contexts(backend, ALL, application(), told.append)
        return told

    assert asyncio.run(work()) == [1, 2, 3, 4]


def test_the_filter_counts_for_contexts_too() -> None:
    async def work(wanted: RunFilter) -> int:
        async with InMemoryBackend() as backend:
            await fill(backend)
            return (await check_contexts(backend, wanted, application())).runs

    assert asyncio.run(work(RunFilter(statuses=frozenset({"failed"})))) == 1
    assert asyncio.run(work(RunFilter(statuses=frozenset({"completed"})))) == 0
    assert asyncio.run(work(RunFilter(search="r2"))) == 1


# --- the file


async def _collected() -> Inflight:
    async with InMemoryBackend() as backend:
        await fill(backend)
        return await collect(backend, ALL, "prod", NOW)


@pytest.fixture
def found() -> Inflight:
    return asyncio.run(_collected())


def test_the_file_says_the_same_as_the_store(found: Inflight, tmp_path: Path) -> None:
    path = tmp_path / "inflight.json"
    save_inflight(path, found)
    assert read_inflight(path) == found
    assert check_groups(read_inflight(path), application()) == checked(application())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["inflight.json"]


def test_nothing_that_a_run_has_saved_is_in_it(found: Inflight, tmp_path: Path) -> None:
    save_inflight(tmp_path / "f", found)
    text = (tmp_path / "f").read_text(encoding="ascii")
    assert not [word for word in ("Ana", "4111", "no price", "9.5") if word in text]


def test_names_that_no_text_can_hold_come_back(found: Inflight, tmp_path: Path) -> None:
    odd = found._replace(groups=(group(sample_run_id="a\udce9\x1b", completed=("漢字", "")),), manifests={})
    save_inflight(tmp_path / "f", odd)
    assert read_inflight(tmp_path / "f") == odd


def test_only_a_file_of_its_kind_is_replaced(found: Inflight, tmp_path: Path) -> None:
    path = tmp_path / "inflight.json"
    save_inflight(path, found)
    save_inflight(path, found._replace(store="other"))
    assert read_inflight(path).store == "other"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InflightError, match="exists and was not written by lens check --save; it was not replaced"):
        save_inflight(path, found)
    assert path.read_text(encoding="utf-8") == "{}"
    save_inflight(path, found, force=True)
    assert read_inflight(path) == found


def test_a_link_is_followed(found: Inflight, tmp_path: Path) -> None:
    save_inflight(tmp_path / "real", found)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_inflight(tmp_path / "link", found._replace(store="other"))
    assert (tmp_path / "link").is_symlink()
    assert read_inflight(tmp_path / "real").store == "other"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OperationFailedError, match="cannot write"):
        save_inflight(tmp_path / "circle", found)


@pytest.mark.parametrize("where", ["nowhere/inflight.json", "file/inflight.json"])
def test_a_place_that_cannot_be_written(found: Inflight, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OperationFailedError, match="cannot write"):
        save_inflight(tmp_path / where, found)
    with pytest.raises(InflightError, match="was not written by lens check"):
        save_inflight(tmp_path, found)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_was_cut_short_or_changed(found: Inflight, tmp_path: Path) -> None:
    path = tmp_path / "inflight.json"
    save_inflight(path, found)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:60], whole.replace(b'"runs": 3', b'"runs": 4'), whole.replace(b"prod", b"test")):
        path.write_bytes(data)
        with pytest.raises(InflightError, match="was changed") as caught:
            read_inflight(path)
        assert caught.value.hint is not None


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff\x00", b"[" * 100_000, b'{"lens_archive": 1}'])
def test_a_file_of_another_kind(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(InflightError, match="it was not written by lens check --save"):
        read_inflight(tmp_path / "f")


def test_a_file_of_a_newer_lens(found: Inflight, tmp_path: Path) -> None:
    path = tmp_path / "f"
    save_inflight(path, found)
    path.write_bytes(path.read_bytes().replace(b'"lens_inflight": 1', b'"lens_inflight": 2'))
    with pytest.raises(InflightError, match="it has format 2, but this lens reads format 1"):
        read_inflight(path)


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a file says, and its digest with it."""
    whole = json.loads(path.read_bytes())
    body = {name: value for name, value in whole.items() if name not in ("lens_inflight", "sha256")}
    change(body)
    digest = sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps({"lens_inflight": 1, "sha256": digest, **body}), encoding="ascii")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("groups"),
        lambda body: body.update(groups=7),
        lambda body: body.update(runs=5),
        lambda body: body.update(made_at="yesterday"),
        lambda body: body.update(made_at="2026-11-21T00:00:00"),
        lambda body: body.update(manifests={"d": 7}),
        lambda body: body["groups"][0].update(runs="3"),
        lambda body: body["groups"][0].pop("status"),
        lambda body: body["groups"][0].update(more=1),
    ],
)
def test_a_file_with_other_fields(change: Callable[[dict[str, Any]], None], found: Inflight, tmp_path: Path) -> None:
    save_inflight(tmp_path / "f", found)
    forged(tmp_path / "f", lambda body: None)
    assert read_inflight(tmp_path / "f") == found
    forged(tmp_path / "f", change)
    with pytest.raises(InflightError, match="was changed"):
        read_inflight(tmp_path / "f")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_inflight(tmp_path / "f")
    with pytest.raises(InflightError, match="Is a directory"):
        read_inflight(tmp_path)


def test_what_can_be_chosen_of_a_file(found: Inflight) -> None:
    assert found.only(RunFilter(statuses=frozenset({"failed"}))).runs == 1
    assert found.only(RunFilter(pipeline="billing", version="1.0.0")).runs == 4
    assert found.only(RunFilter(pipeline="orders")).runs == found.only(RunFilter(version="2")).runs == 0
    for more in ({"search": "r1"}, {"since": NOW}, {"error": "*"}, {"meta": (("a", "b"),)}):
        with pytest.raises(UsageError, match="only by --status, --pipeline and --version"):
            found.only(RunFilter(**more))
