"""Help in the colours and width of the world: by itself, Typer would use those of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperCommand, TyperGroup


@contextmanager
def _as_the_world_is(command: Any, ctx: Any) -> Iterator[None]:
    """Set the colours and width of the world, and headings for the examples; leave out ranges of numbers."""
    from typer import rich_utils

    from flujo_lens.cli.examples import examples_of, with_headings

    world = ctx.obj.world
    before = rich_utils.RANGE_STRING, rich_utils.COLOR_SYSTEM, rich_utils.MAX_WIDTH
    rich_utils.RANGE_STRING = ""
    if not world.colour(None, world.is_terminal):
        rich_utils.COLOR_SYSTEM = None
    if world.is_terminal:
        rich_utils.MAX_WIDTH = world.columns
    members = getattr(command, "commands", {}).values()
    more = [example for member in members for example in examples_of(member.help or "")[:1]]
    text, command.help = command.help, with_headings(command.help or "", more)
    try:
        yield
    finally:
        command.help = text
        rich_utils.RANGE_STRING, rich_utils.COLOR_SYSTEM, rich_utils.MAX_WIDTH = before


class Command(TyperCommand):
    """A command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with _as_the_world_is(self, ctx):
            super().format_help(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the line of usage; Typer would have braces around a required argument."""
        pieces = super().collect_usage_pieces(ctx)
        return [piece[1:-1] if piece.startswith("{") and piece.endswith("}") else piece for piece in pieces]


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with _as_the_world_is(self, ctx):
            super().format_help(ctx, formatter)
