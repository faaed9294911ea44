"""Output of ``lens show``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import note_problems
from flujo_lens.cli.screens.lists import answer_command
from flujo_lens.operations.runs import read_run, steps_with_current
from flujo_lens.redaction import holds_masks
from flujo_lens.rendering import human
from flujo_lens.rendering.columns import RUN, STEP
from flujo_lens.rendering.text import escape_controls, one_line, run_command, unescape
from flujo_lens.rendering.views import View, plain_fields
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.stripped import PARTS, Stripped
from flujo_lens.state.views import GONE, INACTIVE, Pause, RunDetail, StepRecord

if TYPE_CHECKING:
    from rich.text import Text


_REDACTED = "redacted: its stored values have *** in place of secrets, and would be resumed with them"
_OF_TASKS = ("is_background_task", "parent_run_id", "task_id")
_MOST_METADATA, _LONGEST_METADATA = 8, 60
"""Entries of metadata that the screen shows without -v, and their characters."""


class ShowParts(NamedTuple):
    """The long texts to print."""

    inputs: bool
    outputs: bool
    errors: bool
    state: bool


def _read(app: App, text: str) -> tuple[RunDetail, Stripped | None]:
    """A run, and what it has lost."""

    async def work(backend: StateBackend) -> tuple[RunDetail, Stripped | None]:
        detail = await read_run(backend, text, unescape(text))
        run, *children = await app.with_signs(backend, [detail.run, *detail.children])
        note = (await backend.read_stripped([run.run_id])).get(run.run_id)
        return detail._replace(run=run, children=tuple(children)), note

    return app.read(work)


def print_final_output(app: App, out: Output, text: str) -> None:
    """Print the output of the last step as JSON; null if none is stored."""
    detail, note = _read(app, text)
    if note is not None and "outputs" in note.parts:
        app.note(stripped_line(app, note))
    out.document(detail.final_output)


def print_run(app: App, out: Output, text: str, parts: ShowParts) -> None:
    """Print a run: as a screen, a JSON document, or rows of its steps."""
    detail, note = _read(app, text)
    if out.form == "json" and out.options.columns is None:
        out.document(_document(detail, _step_view(out, parts), parts, note))
    elif out.form == "id":
        out.rows(RUN, [detail.run])
    elif out.form == "ndjson" and out.options.columns is None:
        out.line(_document(detail, _step_view(out, parts), parts, note))
    elif not out.is_table or out.options.columns is not None:
        out.show(_step_view(out, parts), detail.steps, "no steps stored")
    else:
        RunScreen(app, out, detail, parts, note).draw()
    note_problems(app, [detail.run])


def stripped_line(app: App, note: Stripped) -> str:
    """What a run lacks and why, and how what ``prune --strip`` dropped comes back."""
    undo = f"; what can be put back: {app.suggest('lens undo')}" if note.is_stripped else ""
    return f"{note.reasons()}{undo}"


def _document(detail: RunDetail, view: View, parts: ShowParts, note: Stripped | None) -> dict[str, Any]:
    pause = detail.pause
    document = {
        "run": RUN.row(detail.run),
        "steps": [view.row(step) for step in detail.steps],
        "pause": _pause(detail, pause) if pause else None,
        "children": [child.run_id for child in detail.children],
    }
    if note is not None:
        document["stripped"] = {"parts": [part for part in PARTS if part in note.parts], "at": note.at}
    return {**document, "state": detail.state} if parts.state else document


def _step_view(out: Output, parts: ShowParts) -> View:
    """The columns of steps, with their inputs if those were requested."""
    with_input = STEP._replace(fields=(*STEP.fields, *plain_fields("input")))
    asked = [name.strip() for name in (out.options.columns or "").split(",")]
    return with_input if parts.inputs or "input" in asked else STEP


def _pause(detail: RunDetail, pause: Pause) -> dict[str, Any]:
    from flujo_lens.state.questions import question_of

    return {"step": pause.step, "message": pause.message, "question": question_of(detail.run)}


class RunScreen:
    """The screen of a run."""

    def __init__(
        self, app: App, out: Output, detail: RunDetail, parts: ShowParts, note: Stripped | None = None
    ) -> None:
        self.app, self.out, self.detail, self.parts, self.note = app, out, detail, parts, note
        self.run = detail.run

    @cached_property
    def _forked(self) -> str | None:
        """The run that this one was forked from, if it has not been resumed yet."""
        from flujo_lens.state.forks import unstarted_fork_of

        return unstarted_fork_of(self.run)

    @cached_property
    def _is_redacted(self) -> bool:
        """Whether its stored values are masked, so that it would resume with these."""
        return holds_masks(self.detail.state)

    def draw(self) -> None:
        """Print the screen."""
        from rich.text import Text

        self.out.print(self.title(), *self.facts())
        if self.detail.pause is not None:
            self._draw_pause()
        if steps := self.steps():
            self.out.print(Text())
            self.out.table(STEP, steps)
        self._draw_texts()
        self._draw_children()
        if self.parts.state:
            self.out.print(Text("\nstate", style="bold"))
            self._draw_value(self.detail.state if self.detail.state is not None else "no state stored")
        self.out.print(Text())
        self.out.next(*self._next())
        self.out.note_dropped()

    def title(self) -> Text:
        """The run, its status, and its pipeline."""
        from rich.text import Text

        from flujo_lens.rendering.tables import status_text

        run = self.run
        title = Text(escape_controls(run.run_id), style="bold")
        waits = f" for {self.out.human.since(run.updated_at)}" if run.status == "paused" else ""
        parts = (
            status_text(run.status).append(waits or self._dead()),
            Text(f"{run.pipeline_name} {run.pipeline_version}"),
        )
        for part in parts:
            title.append("   ").append_text(part) if isinstance(part, Text) else None
        return Text(escape_controls(title.plain), spans=title.spans, style="")

    def _dead(self) -> str:
        """Why a running run is stale, for the title."""
        if self.run.stale == GONE:
            return " (stale: process is gone)"
        return (
            f" (stale: no activity for {human.age(self.out.human.now - self.run.updated_at)})"
            if self.run.stale == INACTIVE and self.run.updated_at is not None
            else ""
        )

    def facts(self) -> Iterator[Text]:
        """Its times, progress and cost, and what is special about it."""
        from rich.text import Text

        run, shown = self.run, self.out.human
        facts = [f"started {shown.moment(run.created_at)}"]
        if run.created_at is None:
            facts = ["no start time stored"]
        if run.duration_ms is not None:
            facts.append(f"ran {human.duration(run.duration_ms)}")
        elif run.status == "running":
            facts.append(f"last save {shown.time(run.updated_at)}")
        if run.holder is not None:
            facts.append(f"{'was ' if run.stale else ''}held by {escape_controls(run.holder)}")
        yield Text(", ".join([*facts, self._progress(), self._spent()]))
        if self.note is not None:
            yield Text(escape_controls(stripped_line(self.app, self.note)), style="yellow")
        if self._is_redacted:
            yield Text(_REDACTED, style="yellow")
        if self._own_metadata():
            yield Text(f"metadata {self._metadata()}")
        if run.is_background_task:
            yield Text(f"background task of {escape_controls(run.parent_run_id or 'an unknown run')}")
        forked = self._forked
        if forked is not None:
            command = self.app.suggest(run_command("resume", run.run_id))
            yield Text(f"forked from {escape_controls(forked)}, not started yet: {command}")
        elif run.status == "failed" and run.error_message and not any(s.error for s in self.detail.steps):
            yield Text(self._clean(run.error_message), style="red")

    def _own_metadata(self) -> dict[str, Any]:
        """The metadata, without what the screen says of a background task in words."""
        said = _OF_TASKS if self.run.is_background_task else ()
        return {key: value for key, value in self.run.metadata.items() if key not in said}

    def _metadata(self) -> str:
        """The metadata of the run, each as ``--meta`` takes it: short values, or all with -v."""
        from flujo_lens.rendering.json_text import compact

        masked = self.out.redactor.value(self._own_metadata())
        texts = [f"{key}={value if isinstance(value, str) else compact(value)}" for key, value in masked.items()]
        is_whole = self.parts.outputs or not self.out.folds
        shown = [one_line(text, 0 if is_whole else _LONGEST_METADATA) for text in texts]
        few = shown if is_whole else shown[:_MOST_METADATA]
        more = f", and {len(shown) - len(few):,} more (-v)" if len(few) < len(shown) else ""
        return f"{', '.join(few)}{more}"

    def _progress(self) -> str:
        done = sum(step.status == "completed" for step in self.detail.steps)
        total = f" of {self.run.total_steps}" if self.run.total_steps else ""
        return f"{human.plural(done, 'step')} done{total}" if not total else f"{done}{total} steps done"

    def _spent(self) -> str:
        costs = [step.cost_usd for step in self.detail.steps if step.cost_usd]
        tokens = sum(step.token_counts or 0 for step in self.detail.steps)
        cost = f"cost {human.money(sum(costs))}" if costs else "no cost recorded"
        return f"{cost}, {human.plural(tokens, 'token')}" if tokens else cost

    def _draw_pause(self) -> None:
        from rich.text import Text

        pause = self.detail.pause
        assert pause is not None
        step = f' at step "{one_line(pause.step)}"' if pause.step else ""
        message = self._clean(pause.message, lines=True) if pause.message else "(no message)"
        self.out.print(Text(f"\nwaits{step} for a person:\n"))
        self.out.indented(message, 4, "cyan")

    def steps(self) -> list[StepRecord]:
        """The executed steps and the current one, which has no record yet."""
        return steps_with_current(self.detail)

    def _draw_texts(self) -> None:
        from rich.text import Text

        for step in self.detail.steps:
            wanted = (
                ("input", step.input, self.parts.inputs),
                ("output", step.output, self.parts.outputs),
                ("error", step.error, self.parts.errors),
            )
            for name, value, asked in wanted:
                if asked and value is not None:
                    self.out.print(Text(f"\n{one_line(step.step_name)} {name}", style="bold"))
                    self._draw_value(value)

    def _draw_value(self, value: Any) -> None:
        if isinstance(value, str):
            text = self._clean(value, lines=True)
        else:
            from flujo_lens.rendering.json_text import document

            text = b"".join(document(self.out.redactor.value(value))).decode().rstrip()
        self.out.indented(text, 2)

    def _draw_children(self) -> None:
        from rich.text import Text

        from flujo_lens.rendering.columns import TASK

        if self.detail.children:
            self.out.print(Text(f"\n{human.plural(len(self.detail.children), 'background task')}", style="bold"))
            self.out.table(TASK, [child._replace(parent_run_id=None) for child in self.detail.children])

    def _clean(self, text: str, *, lines: bool = False) -> str:
        cleaned = self.out.redactor.text(text)
        return "\n".join(map(escape_controls, cleaned.splitlines())) if lines else one_line(cleaned)

    def _can_resume(self) -> bool:
        run = self.run
        return (
            (run.status in ("paused", "failed") or run.stale is not None)
            and not run.is_background_task
            and self.detail.state is not None
            and (self.note is None or self.note.can_resume)
            and not self._is_redacted
        )

    def _next(self) -> Iterator[str]:
        run_id = self.run.run_id
        if self._can_resume():
            yield answer_command(self.run) if self.run.status == "paused" else run_command("resume", run_id)
        if self.detail.has_spans:
            yield run_command("trace", run_id)
        if not (self.parts.inputs and self.parts.outputs and self.parts.errors):
            yield run_command("show", run_id, "-v")
        if not self.parts.state and self.detail.state is not None:
            yield run_command("show", run_id, "--state")
        if self.run.parent_run_id:
            yield run_command("show", self.run.parent_run_id)
        if self.run.status == "failed" and self._forked is None:
            yield "lens failed"
