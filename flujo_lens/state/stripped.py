"""What ``prune --strip`` drops of a run, or a copy leaves out, and what stays: the rules for all drivers.

A run can lose its parts one by one: its ``spans`` (and its trace), its ``outputs`` (the outputs, inputs and raw
responses of its steps), its ``state`` (the context, also that of each step). Its row stays, and so does the row of each
step, with status, times, cost, tokens, attempts and error: what `flujo_lens.state.interpret` reads of a run is the same
before and after. That parts were dropped or left out, and when, is noted next to the run (`Stripped`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flujo_lens.errors import StrippedRunError
from flujo_lens.state.timestamps import parse_instant

JSONObject = dict[str, Any]

PARTS = ("spans", "outputs", "state")
"""The parts that can be dropped."""

OPEN_SPAN = "end_time IS NULL AND parent_span_id IS NOT NULL"
"""A span that tells at which step a run is; it stays, unless the run is completed. In SQL."""

_RESUMED_FROM = frozenset({"outputs", "state"})
"""The parts without which a run cannot be resumed."""

_STATE_FIELDS = frozenset(
    {
        *("run_id", "pipeline_id", "pipeline_name", "pipeline_version", "current_step_index", "total_steps", "status"),
        *("created_at", "updated_at", "error_message", "execution_time_ms", "memory_usage_mb", "metadata"),
        *("is_background_task", "parent_run_id", "task_id", "background_error", "lens_filled", "step_history"),
    }
)
"""Fields of a state that stay (of the step history, what `light_history` leaves)."""

_ENTRY_FIELDS = frozenset(
    {"name", "success", "feedback", "attempts", "latency_s", "cost_usd", "token_counts", "status", "step_index"}
)
"""Fields of an entry of the step history that stay."""

STEP_FIELDS = frozenset(
    {
        *("id", "step_run_id", "run_id", "step_name", "step_index", "status", "created_at", "start_time", "end_time"),
        *("cost_usd", "cost", "token_counts", "tokens", "execution_time_ms", "duration_ms", "error", "error_blob"),
    }
)
"""Fields and columns of a step that stay; of both vocabularies."""

_CONTEXT_FIELDS = ("current_step", "loop_paused_step_name", "loop_resume_requires_hitl_output", "pause_message")
_NESTED_FIELDS = (("hitl_data", "last_hitl_step"), ("scratchpad", "pause_message"))
"""What of a context tells where a run stands."""

_RUN_HEAVY = frozenset({"final_context", "final_context_blob"})


class Stripped(NamedTuple):
    """The note of what a run has lost.

    Attributes:
        parts: When each of its missing parts was dropped, or left out.
        updated: The last update of the run as it is listed. After a save it is another one, and the note is void.
        age: The last update by which it was chosen (see `flujo_lens.state.backends.core.selection.last_sign`).
        steps: How many rows of steps it had.
        is_whole: Whether the last strip came to its end; else the next one finishes it.
        left_out: Of its missing parts, those that it never had in this store: a copy or an export left them out.
    """

    parts: Mapping[str, datetime]
    updated: datetime | None = None
    age: datetime | None = None
    steps: int = 0
    is_whole: bool = True
    left_out: frozenset[str] = frozenset()

    @property
    def at(self) -> datetime:
        """When the last part was dropped, or left out."""
        return max(self.parts.values())

    @property
    def is_stripped(self) -> bool:
        """Whether ``prune --strip`` dropped a part, so that it may be put back."""
        return not self.left_out >= self.parts.keys()

    def reasons(self, parts: Collection[str] = PARTS) -> str:
        """Why parts are missing, and since when, as a clause: ``copied without spans at ...``."""
        copied = [part for part in PARTS if part in parts and part in self.left_out]
        stripped = [part for part in PARTS if part in parts and part in self.parts.keys() - self.left_out]
        clauses = [f"copied without {_listed(copied)} at {self._when(copied)}"] if copied else []
        clauses += [f"prune --strip dropped its {_listed(stripped)} at {self._when(stripped)}"] if stripped else []
        return "; ".join(clauses)

    def _when(self, parts: Collection[str]) -> str:
        return f"{max(self.parts[part] for part in parts):%Y-%m-%d %H:%M:%SZ}"

    @property
    def can_resume(self) -> bool:
        """Whether the run has all that it resumes from."""
        return not _RESUMED_FROM & self.parts.keys()

    def is_of(self, updated: datetime | None) -> bool:
        """Whether the run with this last update, as it is listed, is still the one that was stripped."""
        return self.updated == updated

    def covers(self, parts: Collection[str], age: datetime | None) -> bool:
        """Whether a run with this age has nothing left of some parts."""
        return self.is_whole and self.age == age and self.parts.keys() >= set(parts)

    def to_dict(self) -> JSONObject:
        """A form for JSON."""
        times = {"updated": self.updated, "age": self.age}
        return {
            "parts": {part: at.isoformat() for part, at in self.parts.items()},
            **{name: None if when is None else when.isoformat() for name, when in times.items()},
            "steps": self.steps,
            "whole": self.is_whole,
            **({"left_out": sorted(self.left_out)} if self.left_out else {}),
        }

    @classmethod
    def from_dict(cls, found: Any) -> Stripped | None:
        """The note of `to_dict`; None if it is none."""
        given = found.get("parts") if isinstance(found, dict) else None
        if not isinstance(given, dict):
            return None
        times = {part: parse_instant(at) for part, at in given.items() if part in PARTS}
        parts = {part: at for part, at in times.items() if at is not None}
        if not parts:
            return None
        updated, age = parse_instant(found.get("updated")), parse_instant(found.get("age"))
        noted = found.get("left_out")
        left_out = frozenset(part for part in parts if isinstance(noted, list) and part in noted)
        return cls(parts, updated, age, int(found.get("steps") or 0), found.get("whole") is not False, left_out)

    @classmethod
    def earlier(cls, note: Stripped | None, updated: datetime | None) -> Stripped:
        """What a run with this last update had lost before, by its note; nothing if the note is void."""
        return note if note is not None and note.is_of(updated) else cls({})


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def check_whole(run_id: str, notes: Mapping[str, Stripped]) -> None:
    """Check that a run has what it is resumed from, by the notes of `StateBackend.read_stripped`.

    Raises:
        StrippedRunError: its outputs or its state were dropped or left out.
    """
    note = notes.get(run_id)
    if note is not None and not note.can_resume:
        parts = [part for part in PARTS if part in note.parts.keys() & _RESUMED_FROM]
        raise StrippedRunError.of(run_id, parts, note.reasons(parts), can_undo=not note.left_out >= set(parts))


# --- without some parts


def _is_kept(name: str, parts: Collection[str], light: Collection[str], outputs: Collection[str] = ()) -> bool:
    """Whether a field stays: one that is heavy belongs to the state, but for those of the outputs."""
    return name in light or ("outputs" if name in outputs else "state") not in parts


def light_state(state: Mapping[str, Any], parts: Collection[str]) -> JSONObject:
    """A state without some parts."""
    kept = {
        name: value
        for name, value in state.items()
        if name == "pipeline_context" or _is_kept(name, parts, _STATE_FIELDS, ("last_step_output",))
    }
    if "state" in parts and "pipeline_context" in kept:
        kept["pipeline_context"] = light_context(kept["pipeline_context"])
    if "step_history" in kept:
        kept["step_history"] = light_history(kept["step_history"], parts)
    return kept


def light_context(context: Any) -> Any:
    """A context without all but what tells where its run stands."""
    if not isinstance(context, Mapping):
        return context
    kept = {name: context[name] for name in _CONTEXT_FIELDS if name in context}
    for name, inner in _NESTED_FIELDS:
        if name in context:
            nested = context[name]
            has_inner = isinstance(nested, Mapping) and inner in nested
            kept[name] = {inner: nested[inner]} if has_inner else {} if isinstance(nested, Mapping) else nested
    return kept


def light_history(history: Any, parts: Collection[str]) -> Any:
    """A step history without some parts: each entry stays, with its figures."""
    if not isinstance(history, list):
        return history
    return [_light_entry(entry, parts) for entry in history]


def _light_entry(entry: Any, parts: Collection[str]) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {name: value for name, value in entry.items() if _is_kept(name, parts, _ENTRY_FIELDS, _outputs_of(entry))}


def _outputs_of(entry: Mapping[str, Any]) -> Collection[str]:
    return entry.keys() - {"branch_context"}


def light_run(run: Mapping[str, Any], parts: Collection[str]) -> JSONObject:
    """Metadata of a run without some parts."""
    return {name: value for name, value in run.items() if name not in _RUN_HEAVY or "state" not in parts}


def light_spans(spans: Sequence[Mapping[str, Any]], status: str) -> list[Mapping[str, Any]]:
    """The spans of a run with this status that stay: those that tell at which step it is."""
    if status == "completed":
        return []
    return [span for span in spans if span.get("end_time") is None and span.get("parent_span_id") is not None]


def light_step(step: Mapping[str, Any], parts: Collection[str]) -> JSONObject:
    """One execution of a step without some parts."""
    return {name: value for name, value in step.items() if name in STEP_FIELDS or "outputs" not in parts}


# --- with some parts again


def whole_state(light: Mapping[str, Any], whole: Mapping[str, Any], parts: Collection[str]) -> JSONObject:
    """A state with some parts of what it was."""

    def is_back(name: str) -> bool:
        is_heavy = name == "pipeline_context" or name not in _STATE_FIELDS
        return is_heavy and not _is_kept(name, parts, (), ("last_step_output",))

    back = {**light, **{name: value for name, value in whole.items() if is_back(name)}}
    if "step_history" in back and "step_history" in whole:
        back["step_history"] = whole_history(back["step_history"], whole["step_history"], parts)
    return back


def whole_history(light: Any, whole: Any, parts: Collection[str]) -> Any:
    """A step history with some parts of what it was."""
    if not (isinstance(light, list) and isinstance(whole, list) and len(light) == len(whole)):
        return light
    return [_whole_entry(entry, before, parts) for entry, before in zip(light, whole, strict=True)]


def _whole_entry(light: Any, whole: Any, parts: Collection[str]) -> Any:
    if not (isinstance(light, Mapping) and isinstance(whole, Mapping)):
        return light
    outputs = _outputs_of(whole)
    back = {name for name in whole if not _is_kept(name, parts, _ENTRY_FIELDS, outputs)}
    merged = {name: whole[name] if name in back else light[name] for name in whole if name in back or name in light}
    return merged | {name: value for name, value in light.items() if name not in merged}
