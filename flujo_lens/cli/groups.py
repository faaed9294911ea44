"""Commands with sub-commands, such as ``lens tasks list``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer

from flujo_lens.cli.help import Command, Group
from flujo_lens.cli.options import command
from flujo_lens.errors import UsageError, nearest

_CONTEXT = {"help_option_names": ["--help", "-h"]}


class _DefaultGroup(Group):
    """A group with a default command, so that ``lens tasks --parent X`` lists; without one, bare it prints its help."""

    default: str | None = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.default is None:
            args = args or ["--help"]
        elif not args or (args[0].startswith("-") and args[0] not in ("--help", "-h")):
            args = [self.default, *args]
        return list(super().parse_args(ctx, args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            near = nearest(args[0], self.commands)
            asked = f" Did you mean {near}?" if near else ""
            raise UsageError(
                f'unknown command "{args[0]}" for {ctx.command_path}.{asked} Commands: {", ".join(self.commands)}',
                hint=f"{ctx.command_path} --help",
                value=args[0],
                near=near,
            )
        return super().resolve_command(ctx, args)


def make_group(help: str, commands: Mapping[str, Callable[..., None]], default: str | None = None) -> typer.Typer:
    """A group of commands.

    Args:
        commands: The functions by name.
        default: The command that runs if none is named; by default, the help is printed.
    """
    cls = type("Group", (_DefaultGroup,), {"default": default})
    made = typer.Typer(cls=cls, add_completion=False, help=help, context_settings=_CONTEXT, rich_markup_mode="rich")
    for name, function in commands.items():
        made.command(name, cls=Command, context_settings=_CONTEXT)(command(function))
    if len(commands) == 1:
        made.callback()(_nothing)
    return made


def _nothing() -> None:
    """A callback, without which Typer would turn a group of one command into that command."""
