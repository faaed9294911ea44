"""What somebody can do about a run that does not fit the code: only what applies, the safest first."""

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

__all__ = ["Remediation", "as_registered", "name_context", "remedies_for"]

_NEW_VERSION = "<new version>"
_OF_CONTEXT = ("migration-failed", "value-lost", "deserializer-missing", "deserializer-failed")
_OF_DESERIALIZERS = ("deserializer-missing", "deserializer-failed", "input-unreadable")


@dataclass(frozen=True)
class Remediation:
    """One thing to do.

    Attributes:
        id: Its name for programs: ``register``, ``mend-deserializer``, ``name-context``, ``alias``, ``default``,
            ``keep-old-version``, ``migrate``, ``mend-migration``, ``other-version``, ``fork``, ``new-run-id``,
            ``cancel``, ``delete``, ``prune`` or ``database-file``.
        title: What it is, in a few words.
        command: What to type, word for word but for what stands in ``<>``; None where it is done in code alone.
        safe: Whether nothing that is stored is lost, and no step runs twice.
        consequence: What becomes of the run.
        code: The lines to write in the application; None where none are needed.
    """

    id: str
    title: str
    command: str | None
    safe: bool
    consequence: str
    code: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as ``-o json`` prints them."""
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
    """The remedies for one run: those in the code first, then by the harm that they do.

    Args:
        run_id: The run.
        verdict: Why it cannot go on.
        saved: The manifest it was started with, if it is known.
        current: That of the code; None where the code has no such pipeline.
        place: Where the run stands.
        pipeline: The pipeline's name as the run has it.
        database: The name of the store's file, where it is one.
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
    told = "use a new, unique run_id: every step runs, this run stays as it is"
    yield Remediation("new-run-id", "start afresh", None, False, told)
    told = "the run will never go on; its history stays"
    yield Remediation("cancel", "give it up, keep history", command_line("cancel", run, '--reason "..."'), False, told)
    told = "state and history are gone; lens undo brings them back for a while"
    yield Remediation("delete", "remove this state", command_line("delete", run), False, told)
    told = "every state older than N days is gone"
    yield Remediation("prune", "clean up old states", "lens prune --days-old <N>", False, told)
    if database is not None:
        told = f"delete {database} as the last resort: every run in it is gone"
        yield Remediation("database-file", "the database file", None, False, told)


# --- in the code


def _literal(text: object) -> str:
    """A text as Python's source has it, in double quotes where that needs no more escapes."""
    made = repr(text)
    return f'"{made[1:-1]}"' if made[0] == "'" and '"' not in made else made


def _deserializer(case: _Case, failed: str | None, missing: str | None) -> Remediation:
    told = "nothing is lost: what was saved is there, and the run goes on where it stands"
    if missing is None:
        return Remediation("mend-deserializer", f"mend the deserializer of {failed}", _again(case), True, told)
    code = (
        "from flujo_lens.serialization import register_custom_deserializer\n"
        f"register_custom_deserializer({missing}, lambda saved: {missing}(...))"
    )
    return Remediation("register", f"say how a {missing} is made again", _again(case), True, told, code)


def _alias(case: _Case) -> Iterator[Remediation]:
    """Offered only where the run would go on with it."""
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
        yield Remediation("alias", title, _again(case), True, "the run goes on where it stands", lines)


def _renames(case: _Case) -> list[tuple[JSONObject, JSONObject]]:
    """The steps that are missing, each with the one step of the code that has taken its place."""
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
        yield Remediation("default", title, _again(case), True, "the run goes on with the default", lines)


def _field_with_default(name: str | None, kind: str | None) -> str:
    if name is None or not name.isidentifier() or keyword.iskeyword(name):
        return f"# a default for the field {_literal(name)}"
    return f"{name}: {kind} = ..."


def _keep_old(case: _Case) -> Iterator[Remediation]:
    if case.version in VERSIONLESS or case.pipeline in NAMELESS or case.verdict.code == "LENS-C10":
        return
    name, version = _literal(case.pipeline), _literal(case.version)
    lines = [f"registry.register(old_pipeline, name={name}, version={version})"]
    told, title = "the run goes on with the pipeline that it began with", "keep both versions"
    if case.current is not None and case.current["version"] == case.version:
        lines.append(f"registry.register(pipeline, name={name}, version={_literal(_NEW_VERSION)})")
        told, title = f"{told}; what has changed needs a version of its own", "two versions instead of one"
    command = command_line("resume", case.run_id, f"--pipeline-version {shlex.quote(case.version)}")
    yield Remediation("keep-old-version", title, command, True, told, "\n".join(lines))


def _migrate(case: _Case) -> Iterator[Remediation]:
    if case.verdict.code == "LENS-C9":
        told = "nothing was changed by it; when it works, the run goes on where it stands"
        yield Remediation("mend-migration", "mend the migration", _again(case), True, told)
    elif case.current is not None and (case.verdict.code == "LENS-C5" or _has_lost_of_context(case)):
        new = case.current["version"]
        bumped = _NEW_VERSION if new in (case.version, *VERSIONLESS) else new
        where = f"name={_literal(case.pipeline)}, version={_literal(bumped)}"
        code = f"registry.register(pipeline, {where}, migrations={{{_literal(case.version)}: function}})"
        told = "the function gets the saved context as a dict and returns it as this code wants it"
        yield Remediation("migrate", "bring the context up to date", _again(case), True, told, code)


def _has_lost_of_context(case: _Case) -> bool:
    return any(each.kind == "value-lost" for each in case.verdict.hindrances)


def _other_version(case: _Case) -> Iterator[Remediation]:
    """Where the run's own version is not registered, the ones that are may fit."""
    for each in case.verdict.hindrances:
        if each.kind == "not-registered" and each.current:
            version = shlex.quote(each.current.rpartition(", ")[2])
            command = command_line("resume", case.run_id, f"--pipeline-version {version} --dry-run")
            told = "says whether the run would go on with it; changes nothing"
            yield Remediation("other-version", "try a version that is registered", command, True, told)


def _again(case: _Case) -> str:
    return command_line("resume", case.run_id)


def name_context(run_id: str, target: str) -> Remediation:
    """For a run with a context of its own, where what was named of the application does not tell its type."""
    module = target.partition(":")[0]
    command = command_line("resume", run_id, f"--app {shlex.quote(f'{module}:<flujo>')}")
    told = "the run goes on with the type that it tells, if nothing else differs"
    return Remediation(
        "name-context", "name the Flujo", command, True, told, "flujo = Flujo(registry=..., context_model=...)"
    )


def as_registered(remedy: Remediation) -> Remediation:
    """The remedy where the version that the run began with is registered: then nothing has to be written for it."""
    if remedy.id != "keep-old-version":
        return remedy
    return replace(remedy, title="go on with its own version", code=None)


# --- at the store


def _fork(case: _Case) -> Iterator[Remediation]:
    step = _fork_point(case)
    if step is not None:
        command = command_line("fork", case.run_id, f"--from-step {shlex.quote(step)}")
        told = f"{step} runs again, in a new run; this one stays as it is"
        yield Remediation("fork", "go back a step", command, False, told)


def _fork_point(case: _Case) -> str | None:
    """The latest step that is done, from which on nothing of the saved run would be needed any more."""
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
