"""The options that commands share, declared once, and how a command takes them.

A command names a group of options as the type of one parameter; `command` spreads it into single options for
Typer and packs the values up again for the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

__all__ = ["CommonOptions", "FilterOptions", "OutputOptions", "RunArgument", "command"]

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run id, a unique prefix of 4 or more characters, or @latest, @failed, @paused.",
        show_default=False,
    ),
]

_COMMON, _FILTER, _OUTPUT = "Common options", "Which runs", "Output"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


class CommonOptions(NamedTuple):
    """What every command takes."""

    store: Annotated[
        str | None,
        _option(_COMMON, "--store", "-s", help="A store's name, URI or path.", metavar="NAME_OR_URI"),
    ] = None
    config: Annotated[
        str | None, _option(_COMMON, "--config", help="Read this file alone for settings.", metavar="FILE")
    ] = None
    timeout: Annotated[
        float | None,
        _option(_COMMON, "--timeout", help="Wait so long for a lock or a connection (10).", metavar="SECONDS", min=0),
    ] = None
    color: Annotated[str | None, _option(_COMMON, "--color", help="auto, always or never.", metavar="WHEN")] = None
    quiet: Annotated[bool, _option(_COMMON, "--quiet", "-q", help="No notes on stderr.")] = False
    debug: Annotated[bool, _option(_COMMON, "--debug", help="Show the traceback of an error.")] = False


class FilterOptions(NamedTuple):
    """Which runs are meant: the same options, with the same meaning, wherever runs are chosen."""

    status: Annotated[
        list[str] | None,
        _option(_FILTER, "--status", help="Of this status; repeatable, or a,b.", metavar="STATUS"),
    ] = None
    pipeline: Annotated[str | None, _option(_FILTER, "--pipeline", help="Of this pipeline.", metavar="NAME")] = None
    version: Annotated[
        str | None, _option(_FILTER, "--version", help="Of this pipeline version.", metavar="VERSION")
    ] = None
    since: Annotated[
        str | None, _option(_FILTER, "--since", help="Started at or after: 2h, 30d, today.", metavar="TIME")
    ] = None
    until: Annotated[str | None, _option(_FILTER, "--until", help="Started before this time.", metavar="TIME")] = None
    active_since: Annotated[
        str | None,
        _option(_FILTER, "--active-since", help="Last updated at or after this time.", metavar="TIME"),
    ] = None
    active_until: Annotated[
        str | None, _option(_FILTER, "--active-until", help="Last updated before this time.", metavar="TIME")
    ] = None
    meta: Annotated[
        list[str] | None,
        _option(_FILTER, "--meta", help="With this metadata; repeatable.", metavar="KEY=VALUE"),
    ] = None
    search: Annotated[
        str | None,
        _option(_FILTER, "--search", help="With this in id, pipeline, error or message.", metavar="TEXT"),
    ] = None
    error: Annotated[
        str | None, _option(_FILTER, "--error", help="With an error like this: * and ?.", metavar="GLOB")
    ] = None
    top_level: Annotated[bool, _option(_FILTER, "--top-level", help="No background tasks.")] = False


class OutputOptions(NamedTuple):
    """How what was found is printed."""

    output: Annotated[
        str | None,
        _option(_OUTPUT, "--output", "-o", help="table, json, ndjson, csv, tsv or id.", metavar="FORMAT"),
    ] = None
    json: Annotated[bool, _option(_OUTPUT, "--json", help="The same as -o json.")] = False
    columns: Annotated[
        str | None, _option(_OUTPUT, "--columns", help="These fields, in this order.", metavar="A,B,C")
    ] = None
    no_header: Annotated[bool, _option(_OUTPUT, "--no-header", help="No line of names above csv and tsv.")] = False
    utc: Annotated[bool, _option(_OUTPUT, "--utc", help="Times in UTC rather than local.")] = False
    time: Annotated[
        str | None, _option(_OUTPUT, "--time", help="iso, relative or local, in tables.", metavar="STYLE")
    ] = None
    show_secrets: Annotated[bool, _option(_OUTPUT, "--show-secrets", help="Do not mask secrets.")] = False


_GROUPS = (CommonOptions, FilterOptions, OutputOptions)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command: its first parameter is the `App`, groups of options are single parameters.

    The common options are added to every command, and are the application's business.
    """
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    plan = [(p.name, hints[p.name] if hints[p.name] in _GROUPS else None) for p in own]
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(q for p in own for q in _spread(p, hints[p.name])),
        *_members(CommonOptions),
    ]

    @functools.wraps(function)
    def run(*, ctx: typer.Context, **values: Any) -> None:
        app = ctx.obj.with_options(_packed(CommonOptions, values))
        function(app, **{name: _packed(group, values) if group else values[name] for name, group in plan})

    # Typer reads both, and neither may lead it back to the function with the groups.
    del run.__wrapped__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _spread(parameter: inspect.Parameter, hint: Any) -> list[inspect.Parameter]:
    if hint in _GROUPS:
        return _members(hint)
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)]


@functools.cache
def _members(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=group._field_defaults[name], annotation=hints[name]
        )
        for name in group._fields
    ]


def _packed(group: Any, values: dict[str, Any]) -> Any:
    return group(**{name: values[name] for name in group._fields})
