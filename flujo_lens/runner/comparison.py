"""Compares two manifests, from the position of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flujo_lens.runner.differences import Difference
from flujo_lens.runner.type_compatibility import Fit, Fitting
from flujo_lens.runner.type_descriptions import JSONObject

_NOT_ANNOTATED = "not annotated"


def is_called(step: JSONObject, name: str) -> bool:
    """Whether a step of a manifest has this name, or had it."""
    return bool(name == step["name"] or name in step.get("aliases", ()))


class Comparison:
    """The differences between a saved manifest and the current one, for a run with `done` finished steps.

    Attributes:
        waiting_index: The index of the run's current step in the current pipeline; None if it is missing, or every
            step is finished.
    """

    def __init__(self, saved: JSONObject, current: JSONObject, done: int) -> None:
        self._saved, self._current, self._done = saved, current, done
        self._old: list[JSONObject] = saved["steps"]
        self._new: list[JSONObject] = current["steps"]
        self._fitting = Fitting(saved.get("types", {}), current.get("types", {}))
        self._found = matched(self._old, self._new)
        self.waiting_index = self._found[done] if done < len(self._old) else None

    def differences(self) -> list[Difference]:
        """All differences: of completed steps, the current step, later steps, context and version."""
        found = [
            *self._completed(),
            *self._moved(),
            *self._inserted(),
            *self._waiting(),
            *self._later(),
            *self._context(),
        ]
        return [*found, *self._versions(bool(found)), *self._questions()]

    # --- completed steps

    def _completed(self) -> Iterator[Difference]:
        for old, at in zip(self._old[: self._done], self._found, strict=False):
            if at is None:
                yield _lost(old, "completed-step-missing", "which is completed, is not in this code")
                continue
            new = self._new[at]
            yield from _renamed(old, new, "step-renamed")
            if old["kind"] != new["kind"]:
                yield _of_kind(old, new, "completed-step-kind", "which is completed")
            else:
                yield from self._output(old, new)

    def _output(self, old: JSONObject, new: JSONObject) -> Iterator[Difference]:
        kinds = {Fit.RENAMED: "output-renamed", Fit.UNKNOWN: "output-untold", Fit.WIDER: "output-wider"}
        words = {
            Fit.RENAMED: "the output of {0} is now {2}, was {1}, with the same shape",
            Fit.UNKNOWN: "the output of {0} cannot be compared: it was {1}, and is now {2}",
            Fit.WIDER: "the output of {0} is now wider: {2}, was {1}; the saved one fits",
            Fit.OTHER: "the output of {0}, which is completed, is now {2}, was {1}",
        }
        fit = self._fitting.fit(old["output"], new["output"])
        if fit is not Fit.SAME:
            kind = kinds.get(fit, "completed-step-output")
            yield self._of_output(old, new, kind, words[fit])

    def _of_output(self, old: JSONObject, new: JSONObject, kind: str, words: str) -> Difference:
        """A changed output; for two types of the same name, with the difference."""
        found = _changed(kind, old["name"], words, old["output"] or _NOT_ANNOTATED, new["output"] or _NOT_ANNOTATED)
        why = self._fitting.difference(old["output"], new["output"])
        return replace(found, sentence=f"{found.sentence}: {why}") if why else found

    def _moved(self) -> Iterator[Difference]:
        """Completed steps in another order, or after the current step."""
        indexes = [at for at in self._found[: self._done] if at is not None]
        for old, at in zip(self._old[: self._done], self._found, strict=False):
            if at is None:
                continue
            rank = sorted(indexes).index(at)
            behind = self.waiting_index is not None and at > self.waiting_index
            if behind or rank != indexes.index(at):
                sentence = 'step "{0}", which is completed, is now in another position: {2}, was {1}'
                yield _changed(
                    "completed-step-moved", old["name"], sentence, _ordinal(self._old.index(old)), _ordinal(at)
                )

    # --- steps that have not run

    def _inserted(self) -> Iterator[Difference]:
        """Steps that have not run although they are before a completed one, or before the current one.

        A pending step of the saved pipeline that is now before the current one is not included: it runs first.
        """
        done = {at for at in self._found[: self._done] if at is not None}
        known = {at for at in self._found if at is not None}
        last = max(done, default=-1)
        until = last if self.waiting_index is None else max(last, self.waiting_index)
        for at in range(until):
            took_the_place = at < self._done and self._found[at] is None
            if at in done or at == self.waiting_index or took_the_place:
                continue
            name = self._new[at]["name"]
            if at < last or at not in known:
                yield Difference(
                    "step-inserted",
                    name,
                    None,
                    name,
                    f'step "{name}" is in a position that the run has passed: it did not run',
                )
            else:
                yield Difference(
                    "waiting-step-moved", name, None, name, f'step "{name}" is now before it, and runs first'
                )

    def _waiting(self) -> Iterator[Difference]:
        if self._done >= len(self._old):
            return
        old, at = self._old[self._done], self.waiting_index
        if at is None:
            yield _lost(old, "waiting-step-missing", "the current step, is not in this code")
            return
        new = self._new[at]
        yield from _renamed(old, new, "step-renamed")
        if old["kind"] != new["kind"]:
            yield _of_kind(old, new, "waiting-step-kind", "the current step")
        elif self._fitting.fit(old["output"], new["output"]) not in (Fit.SAME, Fit.RENAMED):
            sentence = "the output of {0}, which has not run, is now {2}, was {1}"
            yield self._of_output(old, new, "waiting-step-output", sentence)

    def _later(self) -> Iterator[Difference]:
        known = {at for at in self._found if at is not None}
        begin = max([*(at for at in self._found[: self._done + 1] if at is not None), -1])
        later = list(zip(self._old, self._found, strict=True))[self._done + 1 :]
        for old, at in later:
            yield from self._later_one(old, at)
        places = [at for _, at in later if at is not None and at > begin]
        if places != sorted(places):
            yield Difference("later-step-moved", None, None, None, "steps that have not run are in another order")
        for at, new in enumerate(self._new):
            if at not in known and at > begin:
                name = new["name"]
                yield Difference("later-step-added", name, None, name, f'step "{name}" is new, and has not run')

    def _later_one(self, old: JSONObject, at: int | None) -> Iterator[Difference]:
        if at is None:
            yield _lost(old, "later-step-removed", "which has not run, is not in this code")
            return
        new = self._new[at]
        yield from _renamed(old, new, "later-step-renamed")
        if old["kind"] != new["kind"]:
            yield _of_kind(old, new, "later-step-changed", "which has not run")
        elif self._fitting.fit(old["output"], new["output"]) is not Fit.SAME:
            template = "the output of {0}, which has not run, is now {2}, was {1}"
            yield self._of_output(old, new, "later-step-changed", template)

    def _questions(self) -> Iterator[Difference]:
        """Changed texts of current and later questions; older manifests do not have them."""
        for old, at in list(zip(self._old, self._found, strict=True))[self._done :]:
            was, now = old.get("question"), None if at is None else self._new[at].get("question")
            if was is not None and now is not None and was != now:
                template = 'the question of step "{0}" is now "{2}", was "{1}"'
                yield _changed("question-changed", old["name"], template, was, now)

    # --- context and version

    def _context(self) -> Iterator[Difference]:
        old, new = self._saved["context"], self._current["context"]
        for name in sorted(old.keys() | new.keys()):
            if name not in old:
                yield _new_field(name, new[name])
            elif name not in new:
                template = "the context has a saved field {0} ({1}) that this code does not have"
                yield _changed("context-field-removed", name, template, old[name]["type"], None)
            else:
                yield from self._field(name, old[name], new[name])

    def _field(self, name: str, old: JSONObject, new: JSONObject) -> Iterator[Difference]:
        fit = self._fitting.fit(old["type"], new["type"])
        if fit is Fit.OTHER:
            template = "the field {0} of the context is now {2}, was {1}"
            found = _changed("context-field-retyped", name, template, old["type"], new["type"])
            why = self._fitting.difference(old["type"], new["type"])
            yield replace(found, sentence=f"{found.sentence}: {why}") if why else found
        elif fit is not Fit.SAME:
            template = "the field {0} of the context is now {2}, was {1}; the saved value fits, or cannot be checked"
            yield _changed("context-field-wider", name, template, old["type"], new["type"])
        elif old["required"] != new["required"]:
            template = "the field {0} of the context is now {2}, was {1}; the saved context has it"
            yield _changed("context-field-optional", name, template, _need(old), _need(new))

    def _versions(self, differs: bool) -> Iterator[Difference]:
        (old_name, old), (name, new) = _titled(self._saved), _titled(self._current)
        if old_name != name:
            yield _changed("pipeline-renamed", None, "the pipeline is now named {2}, was {1}", old_name, name)
        if old != new:
            template = "the version is now {2}, was {1}" + ("" if differs else "; nothing else has changed")
            yield _changed("version-changed", None, template, old, new)
        elif differs:
            template = "the pipeline has changed, but its version is still {1} (version not bumped)"
            yield _changed("version-not-bumped", None, template, old, new)


def matched(old: Sequence[JSONObject], new: Sequence[JSONObject]) -> list[int | None]:
    """The index of each saved step in the current pipeline: by name, else by an alias in the code or the saved step."""
    found: list[int | None] = [None] * len(old)
    left = dict(enumerate(new))
    rules: tuple[Callable[[JSONObject, JSONObject], bool], ...] = (
        lambda one, other: bool(one["name"] == other["name"]),
        lambda one, other: is_called(other, one["name"]),
        lambda one, other: is_called(one, other["name"]),
    )
    for rule in rules:
        for position, one in enumerate(old):
            at = next((at for at, other in left.items() if rule(one, other)), None)
            if found[position] is None and at is not None:
                found[position] = at
                del left[at]
    return found


def _titled(manifest: JSONObject) -> tuple[Any, Any]:
    return manifest["pipeline"], manifest["version"]


def _need(field: JSONObject) -> str:
    return "required" if field["required"] else "optional"


def _ordinal(index: int) -> str:
    return f"step {index}"


def _new_field(name: str, field: JSONObject) -> Difference:
    if field["required"]:
        template = "the context requires a field {0} ({2}) that was not saved"
        return _changed("context-field-required", name, template, None, field["type"])
    template = "the context has a new field {0} ({2}) with a default"
    return _changed("context-field-added", name, template, None, field["type"])


def _lost(old: JSONObject, kind: str, what: str) -> Difference:
    return Difference(kind, old["name"], old["name"], None, f'step "{old["name"]}", {what}')


def _renamed(old: JSONObject, new: JSONObject, kind: str) -> Iterator[Difference]:
    if old["name"] != new["name"]:
        sentence = f'step "{old["name"]}" is now named "{new["name"]}" (found by its alias)'
        yield Difference(kind, old["name"], old["name"], new["name"], sentence)


def _of_kind(old: JSONObject, new: JSONObject, kind: str, which: str) -> Difference:
    sentence = f'step "{old["name"]}", {which}, is now of another kind: {new["kind"]}, was {old["kind"]}'
    return Difference(kind, old["name"], old["kind"], new["kind"], sentence)


def _changed(kind: str, step: str | None, template: str, saved: Any, current: Any) -> Difference:
    return Difference(kind, step, saved, current, template.format(step, saved, current))
