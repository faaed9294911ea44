"""Prompting for the answer that a run waits for: one line, or a form with its fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import read_answer
from flujo_lens.errors import InvalidAnswerError
from flujo_lens.rendering.text import escape_controls

if TYPE_CHECKING:
    from flujo_lens.runner.answer_forms import FormField


def ask_answer(app: App, schema: Any, step: str) -> Any:
    """Prompt for an answer until it matches `schema`.

    Args:
        app: The invocation; prompts go to stderr, answers come from stdin. Both are a terminal.
        schema: The type of the answer; None accepts any line that is not empty.
        step: The step that asks.

    Raises:
        typer.Exit: the input ended before the answer. Nothing was changed.
    """
    from flujo_lens.runner.answer_forms import form_of
    from flujo_lens.runner.value_checks import checked_answer

    fields = form_of(schema)
    if not fields:
        return _line(app, "answer: ")
    while True:
        found = _filled(app, fields)
        try:
            checked_answer(found, schema, step)
        except InvalidAnswerError as error:
            app.tell(f"  {escape_controls(error.message)}; try again:")
            continue
        return found


def _filled(app: App, fields: Sequence[FormField]) -> Any:
    """The values typed into a form, without those left at their defaults."""
    values: dict[str, Any] = {}
    for field in fields:
        is_typed, value = _asked(app, field)
        if field.name is None:
            return value
        if is_typed:
            values[field.name] = value
    return values


def _asked(app: App, field: FormField) -> tuple[bool, Any]:
    """Whether a value was typed for a field, and the value."""
    if field.about:
        app.tell(f"  {escape_controls(field.about)}")
    default = "" if field.default is None else f" [{field.default}]"
    prompt = escape_controls(f"{field.name or 'answer'} ({field.kind}){default}: ")
    while True:
        text = _read(app, f"  {prompt}")
        if not text and field.default is not None:
            return False, None
        if not text:
            app.tell("  a value is required")
            continue
        try:
            return True, field.value(text)
        except ValueError as error:
            app.tell(f"  {escape_controls(str(error))}")


def _line(app: App, prompt: str) -> str:
    while not (text := _read(app, prompt)):
        app.tell("  an answer is required")
    return text


def _read(app: App, prompt: str) -> str:
    line = read_answer(app, prompt)
    if not line:
        app.tell("\nno answer; nothing was changed")
        raise typer.Exit(1)
    return line.strip()
