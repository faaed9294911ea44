"""Shared options, declared once.

A command takes a group of options as one parameter; `command` expands it into single options for Typer, and packs
their values for the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run id, a unique prefix of 4 or more characters, or @latest, @failed, @paused.",
        show_default=False,
    ),
]

_APP, _CHANGE, _COMMON, _COPY = "Application", "Changes", "Common options", "Copies"
_FILTER, _LIMIT, _OLD, _OUTPUT, _PARTS = "Filters", "Limits", "Age", "Output", "Parts"


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


YesOption = Annotated[bool, _option(_CHANGE, "--yes", "-y", help="Do not ask for confirmation.")]

AppOption = Annotated[
    str | None,
    _option(_APP, "--app", help="The pipelines (default: the setting resume.app).", metavar="MODULE:NAME"),
]

AppDirOption = Annotated[
    Path | None, _option(_APP, "--app-dir", help="Folder to import from (default: the current one).", metavar="DIR")
]

NoBinOption = Annotated[bool, _option(_COPY, "--no-bin", help="Delete without a copy for lens undo.")]

HeldOption = Annotated[bool, _option(_CHANGE, "--force", help="Include runs held by a live process.")]

JsonOption = Annotated[bool, _option(_OUTPUT, "--json", help="Same as -o json.")]

RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run ids; - reads them from stdin.", show_default=False)
]


LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", "-n", help="Maximum number of rows (default: all).", min=1, metavar="N", show_default=False
    ),
]


class CommonOptions(NamedTuple):
    """Options of every command."""

    store: Annotated[
        str | None,
        _option(_COMMON, "--store", "-s", help="Name, URI or path of the store.", metavar="NAME_OR_URI"),
    ] = None
    config: Annotated[
        str | None, _option(_COMMON, "--config", help="Read settings only from this file.", metavar="FILE")
    ] = None
    timeout: Annotated[
        float | None,
        _option(
            _COMMON,
            "--timeout",
            help="Seconds to wait for a lock or connection (default 10).",
            metavar="SECONDS",
            min=0,
        ),
    ] = None
    color: Annotated[
        str | None, _option(_COMMON, "--color", help="Use color: auto, always or never.", metavar="WHEN")
    ] = None
    quiet: Annotated[bool, _option(_COMMON, "--quiet", "-q", help="Print no notes, and one line of a report.")] = False
    debug: Annotated[bool, _option(_COMMON, "--debug", help="Show the traceback of an error.")] = False


class FilterOptions(NamedTuple):
    """The filters: the same options, with the same meaning, in every command that selects runs."""

    status: Annotated[
        list[str] | None,
        _option(_FILTER, "--status", help="With this status; repeatable, or a,b.", metavar="STATUS"),
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
        _option(_FILTER, "--search", help="With this text in the id, pipeline, error or message.", metavar="TEXT"),
    ] = None
    error: Annotated[
        str | None, _option(_FILTER, "--error", help="With a matching error: * and ? are wildcards.", metavar="GLOB")
    ] = None
    top_level: Annotated[bool, _option(_FILTER, "--top-level", help="Exclude background tasks.")] = False


class Formats(NamedTuple):
    """Annotates the `OutputOptions` of a command that does not have all formats."""

    names: tuple[str, ...]

    def option(self) -> Any:
        """The option -o, with these formats in its help."""
        *most, last = self.names
        text = f"Format: {', '.join(most)} or {last}."
        return Annotated[str | None, _option(_OUTPUT, "--output", "-o", help=text, metavar="FORMAT")]


ColumnsOption = Annotated[
    str | None, _option(_OUTPUT, "--columns", help="Fields to print, in this order.", metavar="A,B,C")
]
NoHeaderOption = Annotated[bool, _option(_OUTPUT, "--no-header", help="Omit the header of tables, csv and tsv.")]
RawOption = Annotated[
    bool, _option(_OUTPUT, "--raw", help="In csv: no apostrophe before cells that begin with = + - @.")
]
UtcOption = Annotated[bool, _option(_OUTPUT, "--utc", help="Print times in UTC.")]
TimeOption = Annotated[
    str | None, _option(_OUTPUT, "--time", help="Times on screens: iso, relative or local.", metavar="STYLE")
]
SecretsOption = Annotated[bool, _option(_OUTPUT, "--show-secrets", help="Do not mask secrets.")]


class OutputOptions(NamedTuple):
    """How results are printed."""

    output: Annotated[
        str | None,
        _option(_OUTPUT, "--output", "-o", help="Format: table, json, ndjson, csv, tsv or id.", metavar="FORMAT"),
    ] = None
    json: JsonOption = False
    columns: ColumnsOption = None
    no_header: NoHeaderOption = False
    raw: RawOption = False
    utc: UtcOption = False
    time: TimeOption = None
    show_secrets: SecretsOption = False


class RowOptions(NamedTuple):
    """The `OutputOptions` without a format, for a command that has one among its `ChangeOptions`."""

    columns: ColumnsOption = None
    no_header: NoHeaderOption = False
    raw: RawOption = False
    utc: UtcOption = False
    time: TimeOption = None
    show_secrets: SecretsOption = False


class ChangeOptions(NamedTuple):
    """How a change is made, logged and reported."""

    dry_run: Annotated[bool, _option(_CHANGE, "--dry-run", help="Show what would be done, without doing it.")] = False
    reason: Annotated[str | None, _option(_CHANGE, "--reason", help="Reason, for the audit log.", metavar="TEXT")] = (
        None
    )
    audit_file: Annotated[
        Path | None, _option(_CHANGE, "--audit-file", help="Path of the audit log.", metavar="FILE")
    ] = None
    output: Annotated[
        str | None,
        _option(_OUTPUT, "--output", "-o", help="Format: table, json or id.", metavar="FORMAT"),
    ] = None
    json: JsonOption = False

    def words(self, store: str | None) -> list[str]:
        """The options as the audit log keeps them, in their long form."""
        values = (("--store", store), ("--reason", self.reason))
        return [f"{option}={value}" for option, value in values if value is not None]


class PartOptions(NamedTuple):
    """What of the runs is moved."""

    without: Annotated[
        list[str] | None,
        _option(_PARTS, "--without", help="Leave out state, spans or outputs; repeatable, or a,b.", metavar="PART"),
    ] = None
    redact: Annotated[bool, _option(_PARTS, "--redact", help="Mask secrets in all values.")] = False


class TransferOptions(NamedTuple):
    """How runs are written into a store that may have some of them."""

    on_conflict: Annotated[
        str | None,
        _option(
            _CHANGE,
            "--on-conflict",
            help="What to do with a run that exists and differs: fail, skip or replace.",
            metavar="ACTION",
        ),
    ] = None
    verify: Annotated[bool, _option(_CHANGE, "--verify", help="Read each run again, and compare its digest.")] = False


class PruneOptions(NamedTuple):
    """The options of ``lens prune`` beyond the filters: ages, exceptions and limits."""

    older_than: Annotated[
        str | None,
        _option(_OLD, "--older-than", help="Not updated for this long: 12h, 30d, 4w.", metavar="AGE"),
    ] = None
    days_old: Annotated[float | None, _option(_OLD, "--days-old", help="The same in days.", metavar="N")] = None
    keep_last: Annotated[
        int | None, _option(_OLD, "--keep-last", help="Keep the last N of each pipeline.", metavar="N", min=0)
    ] = None
    include_paused: Annotated[
        bool, _option(_OLD, "--include-paused", help="Also delete paused runs, which are kept by default.")
    ] = False
    orphans: Annotated[bool, _option(_OLD, "--orphans", help="Also delete rows without a run; alone, only those.")] = (
        False
    )
    strip: Annotated[
        str | None,
        _option(
            _LIMIT,
            "--strip",
            help="Drop only these parts and keep the runs: spans, outputs, state.",
            metavar="PARTS",
        ),
    ] = None
    archive: Annotated[
        str | None,
        _option(
            _COPY,
            "--archive",
            help="Archive the runs first (.ndjson, .ndjson.gz, .zst, or DIR/).",
            metavar="FILE|DIR/",
        ),
    ] = None
    no_bin: NoBinOption = False
    max_share: Annotated[
        str | None,
        _option(
            _LIMIT,
            "--max-share",
            help="Refuse to delete more than this share of all runs (default with --yes: 50%).",
            metavar="PERCENT",
        ),
    ] = None
    max_delete: Annotated[
        int | None,
        _option(_LIMIT, "--max-delete", help="Refuse to delete more runs than this.", metavar="N", min=0),
    ] = None
    max_duration: Annotated[
        str | None,
        _option(_LIMIT, "--max-duration", help="Stop after this time, at the end of a batch: 10m.", metavar="LENGTH"),
    ] = None
    batch_size: Annotated[
        int,
        _option(
            _LIMIT,
            "--batch-size",
            help="Maximum number of runs per transaction (default 100, at most 1000).",
            metavar="N",
            min=1,
            max=1000,
        ),
    ] = 100
    lock_file: Annotated[
        Path | None,
        _option(_CHANGE, "--lock-file", help="Path of the lock (default: next to the store).", metavar="FILE"),
    ] = None
    vacuum: Annotated[bool, _option(_CHANGE, "--vacuum", help="Then return free space to the disk.")] = False
    force: Annotated[
        bool, _option(_CHANGE, "--force", help="Include held runs; vacuum even if the store is in use.")
    ] = False


class AppOptions(NamedTuple):
    """Where the code that resumes runs is imported from."""

    target: AppOption = None
    app_dir: AppDirOption = None
    pipeline_version: Annotated[
        str | None,
        _option(_APP, "--pipeline-version", help="Use this version of the pipeline.", metavar="VERSION"),
    ] = None

    def words(self) -> list[str]:
        """The options as the audit log keeps them."""
        values = (("--app", self.target), ("--app-dir", self.app_dir), ("--pipeline-version", self.pipeline_version))
        return [f"{option}={value}" for option, value in values if value is not None]


def words_of(options: Any, *names: str) -> list[str]:
    """The options that were given, in their long form, as the audit log keeps them.

    Args:
        options: A named tuple whose fields have the names of options; a field may also be a group of them.
        names: Its fields; by default, all.
    """
    words: list[str] = []
    for name in names or options._fields:
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if hasattr(value, "_fields"):
            words += words_of(value)
        elif value is True:
            words.append(option)
        elif value not in (None, "") and value is not False and value != options._field_defaults.get(name):
            values = value if isinstance(value, list) else [value]
            words += [f"{option}={one:g}" if isinstance(one, float) else f"{option}={one}" for one in values]
    return words


def given(options: Any) -> dict[str, Any]:
    """The options that were given, by their names."""
    return {
        f"--{name.replace('_', '-')}": value
        for name, value in options._asdict().items()
        if value != options._field_defaults[name]
    }


_GROUPS = (
    AppOptions,
    CommonOptions,
    FilterOptions,
    OutputOptions,
    ChangeOptions,
    PartOptions,
    PruneOptions,
    RowOptions,
    TransferOptions,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command. Its first parameter is the `App`; groups of options are single parameters.

    The common options are added to every command and are handled by the `App`.
    """
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    plan = [(p.name, _group_of(hints[p.name])) for p in own]
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(q for p in own for q in _spread(p, hints[p.name])),
        *_members(CommonOptions),
    ]

    @functools.wraps(function)
    def run(*, ctx: typer.Context, **values: Any) -> None:
        app = ctx.obj.with_options(_packed(CommonOptions, values))
        function(app, **{name: _packed(group, values) if group else values[name] for name, group in plan})

    # Typer reads both; neither may refer to the function with the groups.
    del run.__wrapped__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _group_of(hint: Any) -> Any:
    """The group of options that a parameter stands for, or None."""
    plain = hint.__origin__ if isinstance(getattr(hint, "__metadata__", (None,))[0], Formats) else hint
    return plain if plain in _GROUPS else None


def _spread(parameter: inspect.Parameter, hint: Any) -> list[inspect.Parameter]:
    group = _group_of(hint)
    if group is None:
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)]
    if group is hint:
        return _members(group)
    formats = hint.__metadata__[0].option()
    return [p.replace(annotation=formats) if p.name == "output" else p for p in _members(group)]


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
