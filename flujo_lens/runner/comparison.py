"""Compares two manifests, seen from where a run stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flujo_lens.runner.differences import Difference
from flujo_lens.runner.type_compatibility import Fit, Fitting
from flujo_lens.runner.type_descriptions import JSONObject

__all__ = ["Comparison", "is_called", "matched"]

_UNTOLD = "not annotated"


def is_called(step: JSONObject, name: str) -> bool:
    """Whether a step of a manifest has this name, or had it."""
    return bool(name == step["name"] or name in step.get("aliases", ()))


class Comparison:
    """The differences between a saved manifest and the current one, for a run that has `done` steps behind it.

    Attributes:
        waiting_index: Where the step that the run stands at is in the current pipeline; None if it is gone, or if
            every step is done.
    """

    def __init__(self, saved: JSONObject, current: JSONObject, done: int) -> None:
        self._saved, self._current, self._done = saved, current, done
        self._old: list[JSONObject] = saved["steps"]
        self._new: list[JSONObject] = current["steps"]
        self._fitting = Fitting(saved.get("types", {}), current.get("types", {}))
        self._found = matched(self._old, self._new)
        self.waiting_index = self._found[done] if done < len(self._old) else None

    def differences(self) -> list[Difference]:
        """Every difference: completed steps first, then the step where it stands, later ones, context, version."""
        found = [
            *self._completed(),
            *self._moved(),
            *self._inserted(),
            *self._waiting(),
            *self._later(),
            *self._context(),
        ]
        return [*found, *self._versions(bool(found)), *self._questions()]

    # --- steps that are done

    def _completed(self) -> Iterator[Difference]:
        for old, at in zip(self._old[: self._done], self._found, strict=False):
            if at is None:
                yield _lost(old, "completed-step-missing", "which is done, is not in this code")
                continue
            new = self._new[at]
            yield from _renamed(old, new, "step-renamed")
            if old["kind"] != new["kind"]:
                yield _of_kind(old, new, "completed-step-kind", "which is done")
            else:
                yield from self._output(old, new)

    def _output(self, old: JSONObject, new: JSONObject) -> Iterator[Difference]:
        kinds = {Fit.RENAMED: "output-renamed", Fit.UNTOLD: "output-untold", Fit.WIDER: "output-wider"}
        words = {
            Fit.RENAMED: "the output of {0} is called {2} now, was {1}; it has the same shape",
            Fit.UNTOLD: "whether the output of {0} is what it was cannot be told: it was {1}, and is {2}",
            Fit.WIDER: "the output of {0} may be more than it was: {2}, was {1}; what is saved fits",
            Fit.OTHER: "the output of {0}, which is done, is {2} now, was {1}",
        }
        fit = self._fitting.fit(old["output"], new["output"])
        if fit is not Fit.SAME:
            kind = kinds.get(fit, "completed-step-output")
            yield self._of_output(old, new, kind, words[fit])

    def _of_output(self, old: JSONObject, new: JSONObject, kind: str, words: str) -> Difference:
        """Another output; of two types that are called alike it says where they differ."""
        found = _changed(kind, old["name"], words, old["output"] or _UNTOLD, new["output"] or _UNTOLD)
        why = self._fitting.told(old["output"], new["output"])
        return replace(found, sentence=f"{found.sentence}: {why}") if why else found

    def _moved(self) -> Iterator[Difference]:
        """Completed steps that stand in another order, or behind the step where the run stands."""
        indexes = [at for at in self._found[: self._done] if at is not None]
        for old, at in zip(self._old[: self._done], self._found, strict=False):
            if at is None:
                continue
            rank = sorted(indexes).index(at)
            behind = self.waiting_index is not None and at > self.waiting_index
            if behind or rank != indexes.index(at):
                sentence = 'step "{0}", which is done, stands in another place: {2}, was {1}'
                yield _changed(
                    "completed-step-moved", old["name"], sentence, _ordinal(self._old.index(old)), _ordinal(at)
                )

    # --- what has not run

    def _inserted(self) -> Iterator[Difference]:
        """Steps that were not run although they stand before one that is done, or before where the run stands.

        A step of the saved pipeline that was still to come is none, where it now comes before the step at which
        the run stands: it runs first.
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
                    f'step "{name}" stands at a place that the run has passed: it did not run',
                )
            else:
                yield Difference(
                    "waiting-step-moved", name, None, name, f'step "{name}" comes before it now, and runs first'
                )

    def _waiting(self) -> Iterator[Difference]:
        if self._done >= len(self._old):
            return
        old, at = self._old[self._done], self.waiting_index
        if at is None:
            yield _lost(old, "waiting-step-missing", "at which the run stands, is not in this code")
            return
        new = self._new[at]
        yield from _renamed(old, new, "step-renamed")
        if old["kind"] != new["kind"]:
            yield _of_kind(old, new, "waiting-step-kind", "at which the run stands")
        elif self._fitting.fit(old["output"], new["output"]) not in (Fit.SAME, Fit.RENAMED):
            sentence = "the output of {0}, which is still to come, is {2} now, was {1}"
            yield self._of_output(old, new, "waiting-step-output", sentence)

    def _later(self) -> Iterator[Difference]:
        known = {at for at in self._found if at is not None}
        begin = max([*(at for at in self._found[: self._done + 1] if at is not None), -1])
        later = list(zip(self._old, self._found, strict=True))[self._done + 1 :]
        for old, at in later:
            yield from self._later_one(old, at)
        places = [at for _, at in later if at is not None and at > begin]
        if places != sorted(places):
            yield Difference(
                "later-step-moved", None, None, None, "steps that are still to come stand in another order"
            )
        for at, new in enumerate(self._new):
            if at not in known and at > begin:
                name = new["name"]
                yield Difference("later-step-added", name, None, name, f'step "{name}" is new, and still to come')

    def _later_one(self, old: JSONObject, at: int | None) -> Iterator[Difference]:
        if at is None:
            yield _lost(old, "later-step-removed", "which was still to come, is not in this code")
            return
        new = self._new[at]
        yield from _renamed(old, new, "later-step-renamed")
        if old["kind"] != new["kind"]:
            yield _of_kind(old, new, "later-step-changed", "which is still to come")
        elif self._fitting.fit(old["output"], new["output"]) is not Fit.SAME:
            told = "the output of {0}, still to come, is {2} now, was {1}"
            yield self._of_output(old, new, "later-step-changed", told)

    def _questions(self) -> Iterator[Difference]:
        """Texts of questions that are open or still to come; an older manifest does not have them."""
        for old, at in list(zip(self._old, self._found, strict=True))[self._done :]:
            was, now = old.get("question"), None if at is None else self._new[at].get("question")
            if was is not None and now is not None and was != now:
                told = 'the question of step "{0}" was "{1}", is "{2}" now'
                yield _changed("question-changed", old["name"], told, was, now)

    # --- context and version

    def _context(self) -> Iterator[Difference]:
        old, new = self._saved["context"], self._current["context"]
        for name in sorted(old.keys() | new.keys()):
            if name not in old:
                yield _new_field(name, new[name])
            elif name not in new:
                told = "the context had a field {0} ({1}) that this code does not have"
                yield _changed("context-field-removed", name, told, old[name]["type"], None)
            else:
                yield from self._field(name, old[name], new[name])

    def _field(self, name: str, old: JSONObject, new: JSONObject) -> Iterator[Difference]:
        fit = self._fitting.fit(old["type"], new["type"])
        if fit is Fit.OTHER:
            told = "the context's field {0} is {2} now, was {1}"
            found = _changed("context-field-retyped", name, told, old["type"], new["type"])
            why = self._fitting.told(old["type"], new["type"])
            yield replace(found, sentence=f"{found.sentence}: {why}") if why else found
        elif fit is not Fit.SAME:
            told = "the context's field {0} is {2} now, was {1}; what is saved fits, or cannot be told from it"
            yield _changed("context-field-wider", name, told, old["type"], new["type"])
        elif old["required"] != new["required"]:
            told = "the context's field {0} is {2} now, was {1}; what is saved has it"
            yield _changed("context-field-optional", name, told, _need(old), _need(new))

    def _versions(self, differs: bool) -> Iterator[Difference]:
        (old_name, old), (name, new) = _titled(self._saved), _titled(self._current)
        if old_name != name:
            yield _changed("pipeline-renamed", None, "the pipeline is called {2} now, was {1}", old_name, name)
        if old != new:
            told = "the version is {2} now, was {1}" + ("" if differs else "; nothing else has changed")
            yield _changed("version-changed", None, told, old, new)
        elif differs:
            told = "the pipeline has changed, but its version has not: it is still {1} (version not bumped)"
            yield _changed("version-not-bumped", None, told, old, new)


def matched(old: Sequence[JSONObject], new: Sequence[JSONObject]) -> list[int | None]:
    """For each saved step where it is now: by its name, else by an alias that the code or the saved step has."""
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
        told = "the context needs a field {0} ({2}) that was not saved"
        return _changed("context-field-required", name, told, None, field["type"])
    told = "the context has a new field {0} ({2}) with a default"
    return _changed("context-field-added", name, told, None, field["type"])


def _lost(old: JSONObject, kind: str, what: str) -> Difference:
    return Difference(kind, old["name"], old["name"], None, f'step "{old["name"]}", {what}')


def _renamed(old: JSONObject, new: JSONObject, kind: str) -> Iterator[Difference]:
    if old["name"] != new["name"]:
        sentence = f'step "{old["name"]}" is called "{new["name"]}" now (known by its alias)'
        yield Difference(kind, old["name"], old["name"], new["name"], sentence)


def _of_kind(old: JSONObject, new: JSONObject, kind: str, which: str) -> Difference:
    sentence = f'step "{old["name"]}", {which}, is of another kind: {new["kind"]}, was {old["kind"]}'
    return Difference(kind, old["name"], old["kind"], new["kind"], sentence)


def _changed(kind: str, step: str | None, told: str, saved: Any, current: Any) -> Difference:
    return Difference(kind, step, saved, current, told.format(step, saved, current))
