"""``lens help filters``."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions


def lines(app: App) -> Iterator[str]:
    """The filters, the commands that have them, and how times are written."""
    from flujo_lens.state.views import RUN_STATUSES

    yield "These options select runs. They mean the same in every command that has them; a run must match all of them."
    yield ""
    options = list(_options())
    width = max(len(typed) for typed, _ in options) + 2
    yield from (f"  {typed:<{width}}{about}" for typed, about in options)
    yield ""
    yield f"Statuses: {', '.join(RUN_STATUSES)}. Also those that the store has from elsewhere."
    yield ""
    yield f"Commands: {', '.join(_commands())}."
    yield ""
    yield from _RULES
    yield ""
    yield from _TIMES


def _options() -> Iterator[tuple[str, str]]:
    """Each filter as it is typed, and its help."""
    from flujo_lens.cli.app import build

    for param in build("list").params:
        if param.name in FilterOptions._fields:
            yield f"{param.opts[0]} {param.metavar or ''}".rstrip(), param.help


def _commands() -> Iterator[str]:
    """The commands that have all filters."""
    from flujo_lens.cli.app import COMMANDS, build

    for name in COMMANDS:
        built = build(name)
        for path, each in (built.commands if hasattr(built, "commands") else {"": built}).items():
            if {*FilterOptions._fields} <= {param.name for param in each.params}:
                yield f"{name} {path}".rstrip()


_RULES = (
    "--error matches the whole error: * is any text, ? one character, and [ is a plain character. Case is ignored.",
    "  lens list --error '*timeout*'        errors that contain it",
    "",
    "--search finds the text in the run id, pipeline, error and pause message. Case is ignored.",
    "",
    "--meta compares a value of the metadata as text; with several, all must match.",
    "  lens list --meta customer=4711 --meta region=eu",
)
_TIMES = (
    "Times:",
    "  90s 10m 2h 30d 4w          this long ago; m is minutes",
    "  today, yesterday           midnight, in the local time zone",
    "  2026-11-20                 a day; its first instant",
    "  2026-11-20T19:11:08-05:00  an instant; without an offset, local time",
    "",
    "--since and --until are about the start of a run, --active-since and --active-until about its last update. A run "
    "at exactly the time of --since matches, at that of --until it does not.",
)
