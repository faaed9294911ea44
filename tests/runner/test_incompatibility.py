"""`StateIncompatibilityError`: its words, its remedies, and that each remedy does what it says."""

from __future__ import annotations

import ast
import json
import pickle
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from test_edits import (
    EDITS,
    PLACE,
    SAVED,
    TITLES,
    Code,
    Context,
    ContextWithCountry,
    ContextWithNumber,
    Edit,
    approve,
    audit,
    charge,
    enrich,
    judge,
    manifest,
    named,
    notify,
    returning,
    validate,
)

from flujo_lens import errors
from flujo_lens.cli.exit_codes import exit_code_of
from flujo_lens.runner.differences import CODES, Difference
from flujo_lens.runner.dsl import Pipeline
from flujo_lens.runner.incompatibility import (
    OPENING,
    StateIncompatibilityError,
    migration_failed,
    not_registered,
)
from flujo_lens.runner.manifests import manifest_of
from flujo_lens.runner.migrations import MigrationError, migrated
from flujo_lens.runner.type_compatibility import Fitting
from flujo_lens.runner.type_descriptions import JSONObject
from flujo_lens.runner.verdicts import Place, Verdict, assess

REFUSED = [edit for edit in EDITS if edit.error != "-"]
SAFEST_FIRST = [
    "alias",
    "default",
    "keep-old-version",
    "migrate",
    "mend-migration",
    "other-version",
    "fork",
    "new-run-id",
    "cancel",
    "delete",
    "prune",
    "database-file",
]

every_refusal = pytest.mark.parametrize("edit", REFUSED, ids=lambda edit: edit.edit.replace(" ", "-"))


def refused(edit: Edit, run_id: str = "paused-001", **facts: Any) -> StateIncompatibilityError:
    saved = SAVED if edit.has_manifest else None
    return refusal(edit.code, run_id, saved=saved, **facts)


def refusal(
    code: Code, run_id: str = "paused-001", *, saved: Code | None = SAVED, place: Place = PLACE, **facts: Any
) -> StateIncompatibilityError:
    old = None if saved is None else manifest(saved)
    verdict = judge(code, place, saved=saved)
    return StateIncompatibilityError(
        run_id, verdict, saved=old, current=manifest(code), place=place, pipeline="billing", **facts
    )


def ids(error: StateIncompatibilityError) -> list[str]:
    return [remedy.id for remedy in error.remediations]


def remedy_of(error: StateIncompatibilityError, name: str) -> Any:
    return next(remedy for remedy in error.remediations if remedy.id == name)


# --- the error


@every_refusal
def test_an_error(edit: Edit) -> None:
    error = refused(edit)
    assert isinstance(error, errors.LensError)
    assert exit_code_of(error) == 4
    assert (error.code, error.run_id) == (edit.error, "paused-001")
    assert str(error) == error.message
    first, second, *rest = error.message.split("\n")
    assert first == OPENING
    assert second.startswith("run paused-001 ")
    assert second.endswith(". Nothing was changed: it is still paused.")
    assert rest[-1] == f"More: lens explain {edit.error}" == f"More: {error.hint}"
    assert error.current == manifest(edit.code)
    assert error.differences[0].code == edit.error
    assert f"  - {error.differences[0].sentence}" in rest


@every_refusal
def test_it_is_plain_json_and_can_be_sent_to_another_process(edit: Edit) -> None:
    error = refused(edit, others=14, saved_at=datetime(2026, 11, 19, tzinfo=UTC))
    plain = error.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["others"], plain["saved_at"]) == (14, "2026-11-19T00:00:00+00:00")
    assert [each["hinders"] for each in plain["differences"]] == sorted(
        (each["hinders"] for each in plain["differences"]), reverse=True
    )
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.to_dict(), str(back)) == (type(error), plain, str(error))


@every_refusal
def test_the_remedies_come_safest_first(edit: Edit) -> None:
    found = ids(refused(edit, database="flujo_ops.db"))
    assert found == sorted(found, key=SAFEST_FIRST.index)
    assert found[-5:] == ["new-run-id", "cancel", "delete", "prune", "database-file"]
    assert "keep-old-version" in found
    safe = [remedy.safe for remedy in refused(edit).remediations]
    assert safe == sorted(safe, reverse=True)


LOST = Verdict("broken", "LENS-C10", (Difference("input-lost", "charge", "<unserializable: Client>", None, ""),), None)


def test_every_code_can_be_raised() -> None:
    raised = {edit.error for edit in REFUSED} | {not_registered("r", PLACE, "billing", ()).code}
    failed = migration_failed("r", "no", saved=manifest(SAVED), current=manifest(Code()), place=PLACE)
    lost = StateIncompatibilityError("r", LOST, saved=manifest(SAVED), current=manifest(Code()), place=PLACE)
    assert raised | {failed.code, lost.code} == set(CODES.values()) == {f"LENS-C{n}" for n in range(1, 11)}


def test_a_run_that_can_go_on_is_no_error() -> None:
    with pytest.raises(ValueError, match="can resume: compatible"):
        refusal(Code())


# --- the remedies


def test_an_alias_is_offered_where_it_helps_and_does() -> None:
    remedy = remedy_of(refusal(Code((validate, enrich, named(approve, "confirm"), charge, notify))), "alias")
    assert remedy.code == 'Step.human_in_the_loop("confirm", ..., aliases=["approve"])'
    assert remedy.command == "lens resume paused-001"
    assert judge(Code((validate, enrich, named(approve, "confirm", "approve"), charge, notify))).kind == "remapped"
    two = refusal(Code((named(validate, "check"), enrich, named(approve, "confirm"), charge, notify)))
    assert remedy_of(two, "alias").code.split("\n")[0] == '@step(name="check", aliases=["validate"])'


@pytest.mark.parametrize(
    "steps",
    [
        (validate, enrich, charge, notify),
        (validate, enrich, named(charge, "confirm"), notify),
        (validate, enrich, named(replace(approve, input_schema=int), "confirm"), charge, notify),
        (named(validate, "check"), returning(int), approve, charge, notify),
        (named(validate, "check"), audit, enrich, approve, charge, notify),
    ],
)
def test_no_alias_where_it_would_not_help(steps: Any) -> None:
    assert "alias" not in ids(refusal(Code(steps)))


def test_a_default_is_offered_for_new_fields_alone() -> None:
    assert remedy_of(refusal(Code(context=ContextWithCountry)), "default").code == "country: str = ..."
    assert "default" not in ids(refusal(Code(context=ContextWithNumber)))


def test_the_old_version_beside_the_new() -> None:
    steps = (validate, enrich, charge, notify)
    remedy = remedy_of(refusal(Code(steps)), "keep-old-version")
    assert remedy.code == 'registry.register(old_pipeline, name="billing", version="1.3.0")'
    assert remedy.command == "lens resume paused-001 --pipeline-version 1.3.0"
    assert judge(SAVED).can_resume
    not_bumped = remedy_of(refusal(Code(steps, "1.3.0")), "keep-old-version")
    assert not_bumped.code.endswith('registry.register(pipeline, name="billing", version="<new version>")')


def test_a_migration_for_a_context() -> None:
    remedy = remedy_of(refusal(Code(context=ContextWithNumber)), "migrate")
    assert remedy.code == (
        'registry.register(pipeline, name="billing", version="1.4.0", migrations={"1.3.0": function})'
    )
    assert (
        'version="<new version>"'
        in remedy_of(refusal(Code(context=ContextWithNumber, version="1.3.0")), "migrate").code
    )


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (Code((validate, enrich, charge, notify)), "enrich"),
        (Code((validate, returning(int), approve, charge, notify)), "enrich"),
        (Code((validate, enrich, audit, approve, charge)), "enrich"),
        (Code((validate, approve, enrich, charge, notify)), "validate"),
        (Code((named(validate, "check"), enrich, approve)), None),
        (Code((audit, validate, enrich, approve)), None),
        (Code(context=ContextWithCountry), None),
    ],
)
def test_where_a_fork_begins(code: Code, step: str | None) -> None:
    found = [remedy.command for remedy in refusal(code).remediations if remedy.id == "fork"]
    assert found == ([] if step is None else [f"lens fork paused-001 --from-step {step}"])


def test_the_database_file_only_where_there_is_one() -> None:
    assert "database-file" not in ids(refused(REFUSED[0]))
    assert "flujo_ops.db" in remedy_of(refused(REFUSED[0], database="flujo_ops.db"), "database-file").consequence


@pytest.mark.parametrize("run_id", ["plain", "with space", "it's", "$(rm -rf /)", "-x", "--all", "a\nb", "ü"])
def test_commands_can_be_copied(run_id: str) -> None:
    for remedy in refusal(Code((validate, enrich, charge)), run_id).remediations:
        if remedy.command and "prune" not in remedy.command:
            words = shlex.split(remedy.command)
            assert run_id in words
            assert not run_id.startswith("-") or words[-2:] == ["--", run_id]


ODD_NAMES = [
    *['say "hi"', "it's", "a\nb\tc", "back\\slash\\", "漢字 😀", "\u202e\x1b[31m", "{0} %s"],
    *['\'"""\'', "\\N{DASH}", "#"],
]


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_the_code_of_a_remedy_is_python_whatever_the_names(odd: str) -> None:
    """It calls what it is meant to call, with the names as they are."""
    old = Pipeline((validate, enrich, replace(approve, name=odd), charge))
    saved = manifest_of(old, odd, f"{odd} 1", ContextWithCountry)
    place = Place("paused", 2, odd, ("validate", "enrich"), f"{odd} 1")
    for now, model in ((f"{odd} now", ContextWithCountry), (odd, ContextWithNumber)):
        current = manifest_of(Pipeline((validate, enrich, replace(approve, name=now), charge)), odd, f"{odd} 2", model)
        verdict = assess(saved, current, place)
        error = StateIncompatibilityError("r", verdict, saved=saved, current=current, place=place)
        found = {remedy.id: remedy.code for remedy in error.remediations if remedy.code}
        assert found
        calls = [ast.parse(line.removeprefix("@")).body[0] for code in found.values() for line in code.split("\n")]
        texts = {each.value for call in calls for each in ast.walk(call) if isinstance(each, ast.Constant)}
        assert texts - {...} <= {odd, f"{odd} now", f"{odd} 1", f"{odd} 2", "<new version>"}
        assert {odd, f"{odd} 1"} <= texts


# --- what is not in the registry, and migrations that fail


def test_a_version_that_is_not_registered() -> None:
    error = not_registered("r1", PLACE, "billing", ("1.2.0", "1.4.0"))
    assert (error.code, error.version, error.completed, error.waiting) == (
        "LENS-C7",
        "1.3.0",
        PLACE.completed,
        "approve",
    )
    assert 'this code has no version 1.3.0 of "billing", only 1.2.0, 1.4.0' in error.message
    assert remedy_of(error, "other-version").command == "lens resume r1 --pipeline-version 1.4.0 --dry-run"
    unknown = not_registered("r1", PLACE, "billing", ())
    assert 'this code has no pipeline "billing"' in unknown.message
    assert "other-version" not in ids(unknown)


def test_migrations_work_on_a_copy() -> None:
    saved = {"inner": {"n": 1}}

    def first(context: dict[str, Any]) -> dict[str, Any]:
        context["inner"]["n"] += 1
        return context

    assert migrated(saved, [first, first]) == {"inner": {"n": 3}}
    assert saved == {"inner": {"n": 1}}


def test_a_migration_that_fails() -> None:
    def raising(context: dict[str, Any]) -> dict[str, Any]:
        return {"total": context["sum"]}

    with pytest.raises(MigrationError, match="the migration raising raised KeyError: 'sum'") as caught:
        migrated({}, [raising])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(MigrationError, match="returned NoneType, not a dict"):
        migrated({}, [lambda context: None])  # type: ignore[arg-type,return-value]
    error = migration_failed("r1", caught.value, saved=manifest(SAVED), current=manifest(Code()), place=PLACE)
    assert (error.code, error.verdict) == ("LENS-C9", "needs-migration")
    assert "the migration raising raised KeyError" in error.message
    assert ids(error)[:2] == ["mend-migration", "keep-old-version"]
    assert "fork" not in ids(error)


def test_context_is_compared_by_its_fields() -> None:
    assert manifest(SAVED)["context"] == {"customer": {"type": "str", "required": True}}
    assert Context.__name__ not in json.dumps(manifest(SAVED)["context"])
    assert len(TITLES) >= 20


def test_types_of_one_name_are_told_apart_by_a_field() -> None:
    def shape(**fields: str) -> JSONObject:
        told = {name: {"type": kind, "required": True} for name, kind in fields.items()}
        return {"kind": "model", "fields": told}

    def told(old: JSONObject, new: JSONObject, kind: str = "list[Decision]") -> str:
        return Fitting({"Decision": old}, {"Decision": new}).difference(kind, kind)

    assert told(shape(limit="int"), shape(limit="str")) == "its field limit is now str, was int"
    assert told(shape(a="int"), shape()) == "Decision no longer has the field a (int)"
    assert told(shape(), shape(a="int")) == "Decision has a new field a (int)"
    tree = {"child": "Decision | None"}
    assert told(shape(**tree, limit="int"), shape(**tree, limit="str")) == "its field limit is now str, was int"
    assert told(shape(a="int"), shape(a="int")) == ""
    assert Fitting({}, {}).difference("int", "str") == ""
    saved, current = manifest(SAVED), manifest(Code())
    for each, kind in ((saved, "int"), (current, "str")):
        each["steps"][0]["output"], each["types"] = "Decision", {"Decision": shape(limit=kind)}
    found = assess(saved, current, PLACE).differences
    assert any(each.sentence.endswith(": its field limit is now str, was int") for each in found)


def test_no_version_called_latest_is_advised() -> None:
    change = {"version": "latest"}
    current = {**manifest(Code()), **change, "context": {"needed": {"type": "str", "required": True}}}
    saved = manifest(SAVED)
    error = StateIncompatibilityError("r1", assess(saved, current, PLACE), saved=saved, current=current, place=PLACE)
    assert "latest" not in remedy_of(error, "migrate").code


def test_a_version_that_is_registered_has_not_to_be_registered() -> None:
    current = {**manifest(Code()), "version": "9.0.0", "steps": []}
    saved = manifest(SAVED)
    error = StateIncompatibilityError("r1", assess(saved, current, PLACE), saved=saved, current=current, place=PLACE)
    error.of_application("m:registry", tells_context=True, has_version=True)
    assert remedy_of(error, "keep-old-version").code is None
    assert "registry.register(old_pipeline" not in error.message


def test_a_failed_run_stands_at_a_step() -> None:
    saved, current = manifest(SAVED), manifest(Code())
    at = current["steps"].pop(PLACE.index)["name"]
    assert at
    for status, word in (("failed", "stands"), ("paused", "waits")):
        place = replace(PLACE, status=status)
        error = StateIncompatibilityError(
            "r1", assess(saved, current, place), saved=saved, current=current, place=place
        )
        assert f"run r1 {word} at a step" in error.reason
