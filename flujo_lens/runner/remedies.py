"""Remedies for a run that does not fit the code: those that apply, safest first."""

from __future__ import annotations

import keyword
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flujo_lens.errors import command_line
from flujo_lens.runner.comparison import matched
from flujo_lens.runner.type_compatibility import Fit, Fitting
from flujo_lens.runner.type_descriptions import JSONObject
from flujo_lens.runner.verdicts import Place, Verdict, assess
from flujo_lens.state.interpret import NAMELESS, VERSIONLESS

_NEW_VERSION = "<new version>"
_OF_CONTEXT = ("migration-failed", "value-lost", "deserializer-missing", "deserializer-failed")
_OF_DESERIALIZERS = ("deserializer-missing", "deserializer-failed", "input-unreadable")


@dataclass(frozen=True)
class Remediation:
    """A remedy.

    Attributes:
        id: Its name for programs: ``register``, ``mend-deserializer``, ``name-context``, ``alias``, ``default``,
            ``keep-old-version``, ``migrate``, ``mend-migration``, ``other-version``, ``fork``, ``new-run-id``,
            ``cancel``, ``delete``, ``prune`` or ``database-file``.
        command: The command to type, with placeholders in ``<>``; None if only code changes.
        safe: Whether no stored data is lost and no step runs twice.
        consequence: The effect on the run.
        code: The code to add to the application; None without any.
    """

    id: str
    title: str
    command: str | None
    safe: bool
    consequence: str
    code: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields for ``-o json``."""
        return asdict(self)


@dataclass(frozen=True)
class _Case:
    run_id: str
    verdict: Verdict
    saved: JSONObject | None
    current: JSONObject | None
    place: Place
    pipeline: str
    version: str | None


def remedies_for(
    run_id: str,
    verdict: Verdict,
    saved: JSONObject | None,
    current: JSONObject | None,
    place: Place,
    *,
    pipeline: str,
    database: str | None = None,
) -> tuple[Remediation, ...]:
    """The remedies for a run: changes of code first, then by the data they lose.

    Args:
        saved: The manifest of the run, if known.
        current: The manifest of the code; None if it has no such pipeline.
        place: The position of the run.
        pipeline: The name of the pipeline in the run.
        database: The file name of the store, if it is a file.
    """
    version = saved["version"] if saved else place.version
    case = _Case(run_id, verdict, saved, current, place, pipeline, version)
    return (*_in_code(case), *_at_the_store(case, database))


def _in_code(case: _Case) -> Iterator[Remediation]:
    deserializers = [each for each in case.verdict.hindrances if each.kind in _OF_DESERIALIZERS]
    if deserializers:
        yield from (_deserializer(case, each.saved, each.current) for each in deserializers)
        return
    yield from _alias(case)
    yield from _default(case)
    in_the_context = (_migrate, _keep_old) if case.verdict.code == "LENS-C9" else (_keep_old, _migrate)
    for remedies in in_the_context:
        yield from remedies(case)
    yield from _other_version(case)


def _at_the_store(case: _Case, database: str | None) -> Iterator[Remediation]:
    run = case.run_id
    yield from _fork(case)
    consequence = "use a new, unique run_id: every step runs; this run does not change"
    yield Remediation("new-run-id", "start afresh", None, False, consequence)
    consequence = "the run cannot be resumed; its history stays"
    yield Remediation(
        "cancel", "give it up, keep history", command_line("cancel", run, '--reason "..."'), False, consequence
    )
    consequence = "deletes state and history; lens undo can restore them"
    yield Remediation("delete", "remove this state", command_line("delete", run), False, consequence)
    consequence = "lists runs not updated for 90 days, except paused and live ones; without --dry-run, deletes them"
    yield Remediation("prune", "clean up old states", "lens prune --days-old 90 --dry-run", False, consequence)
    if database is not None:
        consequence = f"last resort, after a copy: all runs of {database} are lost"
        yield Remediation("database-file", "the database file", None, False, consequence)


# --- in the code


def _literal(text: object) -> str:
    """A text as a Python literal, in double quotes if that needs no more escapes."""
    made = repr(text)
    return f'"{made[1:-1]}"' if made[0] == "'" and '"' not in made else made


def _deserializer(case: _Case, failed: str | None, missing: str | None) -> Remediation:
    consequence = "no data is lost; the run resumes at its position"
    if missing is None:
        return Remediation("mend-deserializer", f"fix the deserializer of {failed}", _again(case), True, consequence)
    code = (
        "from flujo_lens.serialization import register_custom_deserializer\n"
        f"register_custom_deserializer({missing}, lambda saved: {missing}(...))"
    )
    return Remediation("register", f"register a deserializer for {missing}", _again(case), True, consequence, code)


def _alias(case: _Case) -> Iterator[Remediation]:
    """Offered only if the run would resume with it."""
    pairs = _renames(case)
    if not pairs or case.saved is None or case.current is None:
        return
    names = {new["name"]: old["name"] for old, new in pairs}
    steps = [
        {**step, "aliases": [*step.get("aliases", ()), names[step["name"]]]} if step["name"] in names else step
        for step in case.current["steps"]
    ]
    if assess(case.saved, {**case.current, "steps": steps}, case.place).can_resume:
        lines = "\n".join(_with_alias(old, new) for old, new in pairs)
        title = "the step was renamed" if len(pairs) == 1 else "the steps were renamed"
        yield Remediation("alias", title, _again(case), True, "the run resumes at its position", lines)


def _renames(case: _Case) -> list[tuple[JSONObject, JSONObject]]:
    """The missing steps, each with the step of the code in its place."""
    if case.saved is None or case.current is None:
        return []
    old, new = case.saved["steps"], case.current["steps"]
    fitting = Fitting(case.saved.get("types", {}), case.current.get("types", {}))
    found = matched(old, new)
    free = {at: step for at, step in enumerate(new) if at not in found}
    pairs = []
    for index, step in enumerate(old[: case.place.index + 1]):
        if found[index] is None:
            like = [at for at, other in free.items() if _is_like(step, other, fitting)]
            at = index if index in like else like[0] if len(like) == 1 else None
            if at is None:
                return []
            pairs.append((step, free.pop(at)))
    return pairs


def _is_like(old: JSONObject, new: JSONObject, fitting: Fitting) -> bool:
    same = (Fit.SAME, Fit.RENAMED)
    return bool(old["kind"] == new["kind"]) and fitting.fit(old["output"], new["output"]) in same


def _with_alias(old: JSONObject, new: JSONObject) -> str:
    name, alias = _literal(new["name"]), _literal(old["name"])
    if new["kind"] == "human":
        return f"Step.human_in_the_loop({name}, ..., aliases=[{alias}])"
    return f"@step(name={name}, aliases=[{alias}])"


def _default(case: _Case) -> Iterator[Remediation]:
    hindrances = case.verdict.hindrances
    if hindrances and all(each.kind == "context-field-required" for each in hindrances):
        lines = "\n".join(_field_with_default(each.step, each.current) for each in hindrances)
        title = "give the new field a default" if len(hindrances) == 1 else "give the new fields defaults"
        yield Remediation("default", title, _again(case), True, "the run resumes with the default", lines)


def _field_with_default(name: str | None, kind: str | None) -> str:
    if name is None or not name.isidentifier() or keyword.iskeyword(name):
        return f"# a default for the field {_literal(name)}"
    return f"{name}: {kind} = ..."


def _keep_old(case: _Case) -> Iterator[Remediation]:
    if case.version in VERSIONLESS or case.pipeline in NAMELESS or case.verdict.code == "LENS-C10":
        return
    name, version = _literal(case.pipeline), _literal(case.version)
    lines = [f"registry.register(old_pipeline, name={name}, version={version})"]
    consequence, title = "the run resumes with the pipeline that it was started with", "keep both versions"
    if case.current is not None and case.current["version"] == case.version:
        lines.append(f"registry.register(pipeline, name={name}, version={_literal(_NEW_VERSION)})")
        consequence, title = (
            f"{consequence}; the changed pipeline needs a new version",
            "two versions instead of one",
        )
    command = command_line("resume", case.run_id, f"--pipeline-version {shlex.quote(case.version)}")
    yield Remediation("keep-old-version", title, command, True, consequence, "\n".join(lines))


def _migrate(case: _Case) -> Iterator[Remediation]:
    if case.verdict.code == "LENS-C9":
        consequence = "it has changed nothing; when fixed, the run resumes at its position"
        yield Remediation("mend-migration", "fix the migration", _again(case), True, consequence)
    elif case.current is not None and (case.verdict.code == "LENS-C5" or _has_lost_of_context(case)):
        new = case.current["version"]
        bumped = _NEW_VERSION if new in (case.version, *VERSIONLESS) else new
        where = f"name={_literal(case.pipeline)}, version={_literal(bumped)}"
        code = f"registry.register(pipeline, {where}, migrations={{{_literal(case.version)}: function}})"
        consequence = "the function gets the saved context as a dict and returns it for this code"
        yield Remediation("migrate", "migrate the context", _again(case), True, consequence, code)


def _has_lost_of_context(case: _Case) -> bool:
    return any(each.kind == "value-lost" for each in case.verdict.hindrances)


def _other_version(case: _Case) -> Iterator[Remediation]:
    """If the version of the run is not registered, a registered one may fit."""
    for each in case.verdict.hindrances:
        if each.kind == "not-registered" and each.current:
            version = shlex.quote(each.current.rpartition(", ")[2])
            command = command_line("resume", case.run_id, f"--pipeline-version {version} --dry-run")
            consequence = "shows whether the run would resume with it; changes nothing"
            yield Remediation("other-version", "try a registered version", command, True, consequence)


def _again(case: _Case) -> str:
    return command_line("resume", case.run_id)


def name_context(run_id: str, target: str) -> Remediation:
    """For a run with a context model that the application does not name."""
    module = target.partition(":")[0]
    command = command_line("resume", run_id, f"--app {shlex.quote(f'{module}:<flujo>')}")
    consequence = "the run resumes with its context model, if nothing else differs"
    return Remediation(
        "name-context", "name the Flujo", command, True, consequence, "flujo = Flujo(registry=..., context_model=...)"
    )


def as_registered(remedy: Remediation) -> Remediation:
    """The remedy without code, if the version that the run was started with is registered."""
    if remedy.id != "keep-old-version":
        return remedy
    return replace(remedy, title="resume with its own version", code=None)


# --- at the store


def _fork(case: _Case) -> Iterator[Remediation]:
    step = _fork_point(case)
    if step is not None:
        command = command_line("fork", case.run_id, f"--from-step {shlex.quote(step)}")
        consequence = f"{step} runs again, in a new run; this run does not change"
        yield Remediation("fork", "go back a step", command, False, consequence)


def _fork_point(case: _Case) -> str | None:
    """The latest completed step after which no saved data of the run would be needed."""
    kinds = {each.kind for each in case.verdict.hindrances}
    is_of_context = any(kind.startswith("context-") or kind in _OF_CONTEXT for kind in kinds)
    if case.saved is None or case.current is None or is_of_context:
        return None
    old: Sequence[JSONObject] = case.saved["steps"][: case.place.index]
    new: Sequence[JSONObject] = case.current["steps"]
    fitting = Fitting(case.saved.get("types", {}), case.current.get("types", {}))
    found, good = matched(case.saved["steps"], new), 0
    while good < len(old) and found[good] == good and old[good]["kind"] == new[good]["kind"]:
        if fitting.fit(old[good]["output"], new[good]["output"]) is Fit.OTHER:
            break
        good += 1
    if good < len(old) and found[good] == good:
        return str(old[good]["name"])
    return str(old[good - 1]["name"]) if good else None
