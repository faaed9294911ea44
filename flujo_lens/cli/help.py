"""Help in the colours and width of the world: by itself, Typer would use those of the process."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["Command", "Group"]


def _as_the_world_is(ctx: Any) -> None:
    from typer import rich_utils

    world = ctx.obj.world
    if not world.colour(None, world.is_terminal):
        rich_utils.COLOR_SYSTEM = None
    if world.is_terminal:
        rich_utils.MAX_WIDTH = world.columns


class Command(TyperCommand):
    """A command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _as_the_world_is(ctx)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _as_the_world_is(ctx)
        super().format_help(ctx, formatter)
