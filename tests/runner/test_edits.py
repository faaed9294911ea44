"""What becomes of a waiting run when its pipeline is edited: one row an edit, and the guide has the same table."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_lens import FileBackend, Flujo, PipelineRegistry, SQLiteBackend, StateBackend, StateIncompatibilityError
from flujo_lens.runner.dsl import Pipeline, Step, step
from flujo_lens.runner.manifests import manifest_of
from flujo_lens.runner.results import PipelineResult
from flujo_lens.runner.verdicts import Place, Verdict, assess

GUIDE = Path(__file__).resolve().parent.parent.parent / "docs" / "guides" / "deploying.md"
PLACE = Place("paused", 2, "approve", ("validate", "enrich"), "1.3.0")
"""The run waits for a person, behind two steps that are done."""


@dataclass
class Invoice:
    total: float


@dataclass
class Bill:
    total: float


@dataclass
class InvoiceWithNote:
    total: float
    note: str = ""


@dataclass
class Context:
    customer: str


@dataclass
class ContextWithNote:
    customer: str
    note: str = ""


@dataclass
class ContextWithCountry:
    customer: str
    country: str


@dataclass
class ContextWithNumber:
    customer: int


@dataclass
class EmptyContext:
    pass


InvoiceWithNote.__qualname__ = "Invoice"


@step
def validate(order: dict[str, Any]) -> bool:
    return True


@step
def enrich(valid: bool) -> Invoice:
    return Invoice(1.0)


approve = Step.human_in_the_loop("approve", "Approve it?", bool)


@step
def charge(approved: bool) -> str:
    return "charged"


@step
def notify(receipt: str) -> None:
    return None


@step
def audit(anything: Any) -> None:
    return None


@step(name="validate")
def validate_differently(order: dict[str, Any]) -> bool:
    return len(order) > 1


class Code(NamedTuple):
    """An application: its pipeline, and what it is registered with."""

    steps: tuple[Step, ...] = (validate, enrich, approve, charge, notify)
    version: str = "1.4.0"
    context: type = Context
    migrations: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()


SAVED = Code(version="1.3.0")


class Edit(NamedTuple):
    """A row: what was done, and what is said about it."""

    edit: str
    code: Code
    verdict: str
    error: str = "-"
    note: str = ""
    place: Place = PLACE
    has_manifest: bool = True


def named(what: Step, name: str, *aliases: str) -> Step:
    return replace(what, name=name, aliases=aliases)


def returning(kind: Any) -> Step:
    def body(valid: bool) -> Any:
        raise NotImplementedError

    body.__annotations__["return"] = kind
    return Step("enrich", function=body)


EDITS = [
    Edit("nothing", SAVED, "identical"),
    Edit(
        "the body of a step, its retries or its timeout",
        SAVED._replace(steps=(replace(validate_differently, retries=3, timeout=9.0), *SAVED.steps[1:])),
        "identical",
    ),
    Edit("the version alone", Code(), "compatible", note="nothing else has changed"),
    Edit("a step added behind the waiting one", Code((*SAVED.steps, audit)), "compatible", note="has not run"),
    Edit("a step removed behind the waiting one", Code(SAVED.steps[:4]), "compatible"),
    Edit("a step renamed behind the waiting one", Code((*SAVED.steps[:3], named(charge, "pay"), notify)), "compatible"),
    Edit("steps reordered behind the waiting one", Code((*SAVED.steps[:3], notify, charge)), "compatible"),
    Edit(
        "the same, and the version not bumped",
        Code((*SAVED.steps[:3], notify, charge), "1.3.0"),
        "compatible",
        note="version not bumped",
    ),
    Edit(
        "the type of the answer that is waited for",
        Code((validate, enrich, replace(approve, input_schema=str), charge, notify)),
        "compatible",
        note="has not run",
    ),
    Edit(
        "the output class of a completed step renamed, with the same fields",
        Code((validate, returning(Bill), approve, charge, notify)),
        "compatible",
        note="with the same shape",
    ),
    Edit(
        "the output class of a completed step got a field with a default",
        Code((validate, returning(InvoiceWithNote), approve, charge, notify)),
        "compatible",
        note="the saved one fits",
    ),
    Edit(
        "the waiting step renamed, with an alias",
        Code((validate, enrich, named(approve, "confirm", "approve"), charge, notify)),
        "remapped",
        note="found by its alias",
    ),
    Edit(
        "a completed step renamed, with an alias",
        Code((named(validate, "check", "validate"), *SAVED.steps[1:])),
        "remapped",
        note="found by its alias",
    ),
    Edit(
        "a step that was behind the waiting one moved before it",
        Code((validate, enrich, charge, approve, notify)),
        "remapped",
        note="runs first",
    ),
    Edit(
        "a completed step renamed, without an alias",
        Code((named(validate, "check"), *SAVED.steps[1:])),
        "broken",
        "LENS-C1",
    ),
    Edit("a completed step removed", Code(SAVED.steps[1:]), "broken", "LENS-C1"),
    Edit("completed steps reordered", Code((enrich, validate, *SAVED.steps[2:])), "broken", "LENS-C1"),
    Edit(
        "a completed step moved behind the waiting one",
        Code((validate, approve, enrich, charge, notify)),
        "broken",
        "LENS-C1",
    ),
    Edit(
        "a completed step of another kind",
        Code((validate, Step.human_in_the_loop("enrich", None, Invoice), approve, charge, notify)),
        "broken",
        "LENS-C1",
    ),
    Edit(
        "the output type of a completed step",
        Code((validate, returning(list[Invoice]), approve, charge, notify)),
        "broken",
        "LENS-C2",
    ),
    Edit(
        "a new step before the waiting one",
        Code((validate, enrich, audit, approve, charge, notify)),
        "broken",
        "LENS-C3",
    ),
    Edit("a new step before a completed one", Code((audit, *SAVED.steps)), "broken", "LENS-C3"),
    Edit("the waiting step removed", Code((validate, enrich, charge, notify)), "broken", "LENS-C4"),
    Edit(
        "the waiting step renamed, without an alias",
        Code((validate, enrich, named(approve, "confirm"), charge, notify)),
        "broken",
        "LENS-C4",
    ),
    Edit(
        "the waiting step of another kind",
        Code((validate, enrich, named(audit, "approve"), charge, notify)),
        "broken",
        "LENS-C8",
    ),
    Edit(
        "a field of the context added, with a default",
        Code(context=ContextWithNote),
        "compatible",
        note="with a default",
    ),
    Edit("a field of the context added, without one", Code(context=ContextWithCountry), "needs-migration", "LENS-C5"),
    Edit("a field of the context removed", Code(context=EmptyContext), "needs-migration", "LENS-C5"),
    Edit("a field of the context of another type", Code(context=ContextWithNumber), "needs-migration", "LENS-C5"),
    Edit(
        "the same, and a migration is registered",
        Code(context=ContextWithNumber, migrations=(lambda saved: {**saved, "customer": 1},)),
        "needs-migration",
    ),
    Edit("nothing, and the store has no manifest", SAVED, "names-match", has_manifest=False),
    Edit("the version, and the store has no manifest", Code(), "unknown", "LENS-C6", has_manifest=False),
    Edit(
        "a completed step renamed, and the store has no manifest",
        SAVED._replace(steps=(named(validate, "check"), *SAVED.steps[1:])),
        "unknown",
        "LENS-C6",
        has_manifest=False,
    ),
]


def title(edit: Edit) -> str:
    return edit.edit.replace(" ", "-")


TITLES = [title(edit) for edit in EDITS]


def manifest(code: Code) -> dict[str, Any]:
    return manifest_of(Pipeline(code.steps), "billing", code.version, code.context)


def judge(code: Code, place: Place = PLACE, *, saved: Code | None = SAVED) -> Verdict:
    old = None if saved is None else manifest(saved)
    return assess(old, manifest(code), place, migrations=code.migrations)


@pytest.mark.parametrize("edit", EDITS, ids=TITLES)
def test_an_edit(edit: Edit) -> None:
    verdict = judge(edit.code, saved=SAVED if edit.has_manifest else None)
    assert (verdict.kind, verdict.code or "-") == (edit.verdict, edit.error)
    assert verdict.can_resume == (edit.error == "-")
    assert verdict.next_index == (2 if verdict.can_resume else None)
    assert edit.note in "\n".join(verdict.notes)
    assert all(each.code == edit.error for each in verdict.hindrances)
    assert bool(verdict.hindrances) != verdict.can_resume


@pytest.mark.parametrize("edit", EDITS, ids=TITLES)
def test_rolling_the_code_back_makes_it_fit_again(edit: Edit) -> None:
    """The saved manifest is judged anew each time: nothing is remembered of the code between."""
    assert judge(SAVED, saved=SAVED if edit.has_manifest else None).can_resume


def test_where_a_moved_step_is_found() -> None:
    verdict = judge(Code((validate, enrich, charge, approve, notify)))
    assert (verdict.next_index, verdict.waiting_index) == (2, 3)
    assert [each.step for each in verdict.differences if each.kind == "waiting-step-moved"] == ["charge"]


def test_migrations_are_handed_on_only_where_they_are_needed() -> None:
    migration = lambda saved: saved  # noqa: E731
    assert judge(Code(context=ContextWithCountry, migrations=(migration,))).migrations == (migration,)
    assert judge(Code(migrations=(migration,))).migrations == ()
    broken = judge(Code(SAVED.steps[1:], context=ContextWithCountry, migrations=(migration,)))
    assert (broken.kind, broken.code, broken.migrations) == ("broken", "LENS-C1", ())


def test_an_alias_that_the_code_of_then_had_counts_when_the_code_goes_back() -> None:
    saved = Code((validate, enrich, named(approve, "confirm", "approve"), charge, notify))
    assert judge(SAVED, replace(PLACE, waiting="confirm"), saved=saved).kind == "remapped"


def test_a_run_that_has_not_begun() -> None:
    place = Place("running", 0)
    assert judge(SAVED, place).next_index == 0
    assert judge(Code((validate, notify)), place).kind == "compatible"
    assert judge(Code((audit, *SAVED.steps)), place).code == "LENS-C3"
    assert judge(Code((enrich, approve)), place).code == "LENS-C4"


def test_a_run_that_did_all_its_steps_goes_on_behind_them() -> None:
    names = tuple(each.name for each in SAVED.steps)
    verdict = judge(Code((*SAVED.steps, audit)), Place("running", 5, None, names))
    assert (verdict.kind, verdict.next_index, verdict.waiting_index) == ("compatible", 5, None)


STEPS = st.lists(
    st.sampled_from([*SAVED.steps, audit, named(charge, "pay"), named(approve, "confirm", "approve")]),
    min_size=1,
    max_size=7,
    unique_by=lambda each: frozenset({each.name, *each.aliases} & {"approve"} or {each.name}),
)


@given(STEPS, st.integers(0, 5))
def test_no_step_is_left_out_and_none_runs_twice(steps: list[Step], done: int) -> None:
    """Whatever became of the pipeline: a run goes on only if exactly what it did stands before its next step."""
    names = tuple(each.name for each in SAVED.steps)
    verdict = judge(Code(tuple(steps)), Place("failed", done, None, names[:done]))
    if verdict.next_index is not None:
        before = steps[: verdict.next_index]
        assert len(before) == done
        assert all(name in (each.name, *each.aliases) for each, name in zip(before, names, strict=False))
    if verdict.waiting_index is not None and verdict.next_index is not None:
        waiting = steps[verdict.waiting_index]
        assert names[done] in (waiting.name, *waiting.aliases)
        first = steps[verdict.next_index : verdict.waiting_index]
        assert all({each.name, *each.aliases} & set(names[done + 1 :]) for each in first)


# --- the index is never trusted alone


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, index=1),
        replace(PLACE, index=3),
        replace(PLACE, index=6),
        replace(PLACE, index=-1),
        replace(PLACE, waiting="charge"),
        replace(PLACE, completed=("validate",)),
        replace(PLACE, completed=("enrich", "validate")),
    ],
)
@pytest.mark.parametrize("saved", [SAVED, None], ids=["manifest", "names"])
def test_an_index_that_the_rest_contradicts(place: Place, saved: Code | None) -> None:
    if saved is None and place.index > len(place.completed) and place.waiting == PLACE.waiting:
        place = replace(place, waiting="charge")
    verdict = judge(SAVED, place, saved=saved)
    assert (verdict.kind, verdict.code, verdict.next_index) == ("unknown", "LENS-C6", None)
    assert {each.kind for each in verdict.differences} <= {"place-unclear", "names-differ"}


@pytest.mark.parametrize("index", [3, 4, 6])
def test_of_a_run_that_was_resumed_the_library_counts_steps_twice(index: int) -> None:
    verdict = judge(SAVED, replace(PLACE, index=index), saved=None)
    assert (verdict.kind, verdict.next_index, verdict.waiting_index) == ("names-match", 2, 2)


def test_names_that_were_not_read_are_taken_from_the_manifest() -> None:
    """A check by manifests alone reads no history."""
    assert judge(SAVED, Place("paused", 2)).kind == "identical"
    assert judge(SAVED, Place("paused", 2), saved=None).code == "LENS-C6"


def test_a_manifest_of_another_format_is_none() -> None:
    for unreadable in ({**manifest(SAVED), "format": 2}, {"format": 1}, {}):
        assert assess(unreadable, manifest(SAVED), PLACE).kind == "names-match"


# --- words


@pytest.mark.parametrize("edit", EDITS, ids=TITLES)
def test_every_difference_says_it_in_a_sentence(edit: Edit) -> None:
    for each in judge(edit.code, saved=SAVED if edit.has_manifest else None).differences:
        assert re.match(r"[a-z]", each.sentence), each.sentence
        assert not each.sentence.endswith("."), each.sentence
        assert "None" not in each.sentence, each.sentence
        assert all(word in each.sentence for word in (each.saved, each.current) if each.code and word), each.sentence


def test_the_guide_has_the_same_table() -> None:
    rows = re.findall(r"^\| (.+?) \| (\S+) \| (\S+) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[1:] == [(edit.edit, edit.verdict, edit.error) for edit in EDITS]


# --- through a store


async def resumed(code: Code, backend: StateBackend) -> PipelineResult[Any]:
    registry = PipelineRegistry()
    registry.register(Pipeline(code.steps), name="billing", version=code.version)
    answer = "yes" if any(step.input_schema is str for step in code.steps) else True
    return await Flujo(registry=registry, pipeline_name="billing", state_backend=backend).resume_async("run-1", answer)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


async def through_a_store(edit: Edit, kind: type[SQLiteBackend] | type[FileBackend], folder: Path) -> None:
    place = folder / "store"
    async with kind(place) as backend:
        first = Flujo(Pipeline(SAVED.steps), pipeline_name="billing", pipeline_version="1.3.0", state_backend=backend)
        assert (await first.run_async({"id": 7}, run_id="run-1")).status == "paused"
    before = contents(folder)
    if edit.error != "-":
        async with kind(place) as backend:
            with pytest.raises(StateIncompatibilityError) as caught:
                await resumed(edit.code, backend)
        assert caught.value.code == edit.error
        assert contents(folder) == before
    async with kind(place) as backend:
        done = await resumed(SAVED if edit.error != "-" else edit.code, backend)
    assert done.status == "completed"


@pytest.mark.parametrize("kind", [SQLiteBackend, FileBackend])
@pytest.mark.parametrize(
    "edit", [edit for edit in EDITS if edit.has_manifest and edit.code.context is Context], ids=title
)
def test_a_refused_resume_changes_no_byte_and_the_old_code_goes_on(
    edit: Edit, kind: type[SQLiteBackend] | type[FileBackend], tmp_path: Path
) -> None:
    asyncio.run(through_a_store(edit, kind, tmp_path))
