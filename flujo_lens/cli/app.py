"""The root of the command line, and `main`: the one place that prints errors and exits."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer

from flujo_lens.cli import exit_codes
from flujo_lens.cli.context import App
from flujo_lens.cli.help import Command, Group
from flujo_lens.cli.hints import Repeated
from flujo_lens.cli.options import CommonOptions, command
from flujo_lens.cli.streams import escape_what_cannot_be_shown, fill_closed_numbers, in_utf8_mode, words_as_typed
from flujo_lens.cli.world import World, silence
from flujo_lens.errors import (
    ApplicationExitError,
    IncompatibleError,
    InternalError,
    LensError,
    OperationFailedError,
    UsageError,
)

LOOK, RUN, CLEAN, CARE = "Inspect runs", "Resume and cancel", "Clean up", "Maintain the store"
MOVE, ALSO, SET_UP = "Move runs", "Tasks, scores, system state", "Setup"

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("status:status", LOOK),
    "list": ("list:list_runs", LOOK),
    "show": ("show:show", LOOK),
    "trace": ("trace:trace", LOOK),
    "spans": ("trace:spans", LOOK),
    "stats": ("stats:stats", LOOK),
    "failed": ("failed:failed", LOOK),
    "waiting": ("waiting:waiting", LOOK),
    "watch": ("watch:watch", LOOK),
    "diff": ("diff:diff", LOOK),
    "check": ("check:check", RUN),
    "resume": ("resume:resume", RUN),
    "retry": ("retry:retry", RUN),
    "fork": ("fork:fork", RUN),
    "cancel": ("cancel:cancel", RUN),
    "delete": ("delete:delete", CLEAN),
    "prune": ("prune:prune", CLEAN),
    "undo": ("undo:undo", CLEAN),
    "copy": ("copy:copy", MOVE),
    "export": ("export:export", MOVE),
    "import": ("import_:import_archive", MOVE),
    "init": ("init:init", MOVE),
    "doctor": ("doctor:doctor", CARE),
    "migrate": ("migrate:migrate", CARE),
    "optimize": ("optimize:optimize", CARE),
    "audit": ("audit", CARE),
    "metrics": ("metrics", CARE),
    "tasks": ("tasks", ALSO),
    "evals": ("evals:evals", ALSO),
    "system": ("system", ALSO),
    "stores": ("stores:stores", SET_UP),
    "config": ("config:config", SET_UP),
    "explain": ("explain:explain", SET_UP),
    "demo": ("demo:demo", SET_UP),
    "completion": ("completion:completion", SET_UP),
    "help": ("help:show_help", SET_UP),
}
"""Command -> (module below `flujo_lens.cli.commands`, with the function or, for a group, none; help panel)."""

_CHANGING = {
    "resume", "retry", "fork", "cancel", "delete", "prune", "undo", "import", "copy", "init", "migrate", "optimize",
    "doctor", "tasks", "system", "demo",
}  # fmt: skip
"""Commands that change something: after an internal error, what they did is not known."""
_ONLY_WITH = {"doctor": "--fix", "tasks": "sweep", "system": "set"}
"""The word with which a command changes something that else only reads."""

_CONTEXT = {"help_option_names": ["--help", "-h"]}


class LazyGroup(Group):
    """Builds a command when it is requested: building one takes Typer 1.6 ms."""

    _lists = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._lists:
            return _listed(cmd_name)
        return build(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._lists = True  # the help of each command is enough
        try:
            super().format_help(ctx, formatter)
        finally:
            self._lists = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from flujo_lens.cli.synonyms import unknown_command

            raise unknown_command(ctx.obj, args, COMMANDS)
        return super().resolve_command(ctx, args)


def _listed(name: str) -> Any:
    """The command `name` with its help and panel alone, which is far cheaper than `build`."""
    target, panel = COMMANDS[name]
    module_name, _, function = target.partition(":")
    module = importlib.import_module(f"flujo_lens.cli.commands.{module_name}")
    help = getattr(module, function).__doc__ if function else module.group.info.help
    return Command(name, help=help, rich_help_panel=panel)


@cache
def build(name: str) -> Any:
    """Import and build the command `name`."""
    target, panel = COMMANDS[name]
    module_name, _, function = target.partition(":")
    module = importlib.import_module(f"flujo_lens.cli.commands.{module_name}")
    if not function:
        group = typer.main.get_command(module.group)
        group.name = name
        group.rich_help_panel = panel  # type: ignore[attr-defined]
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    register = single.command(name, cls=Command, context_settings=_CONTEXT, rich_help_panel=panel)
    register(command(getattr(module, function)))
    return typer.main.get_command(single)


def _show_version(value: bool) -> None:
    if value:
        from flujo_lens._version import __version__

        typer.echo(f"lens {__version__}")
        raise typer.Exit


@cache
def root() -> Any:
    """Return the command ``lens`` itself."""
    app = typer.Typer(
        cls=LazyGroup,
        add_completion=False,
        invoke_without_command=True,
        context_settings=_CONTEXT,
        rich_markup_mode="rich",
        help="Look into, repair and clean up the state stores of durable workflows.",
        epilog="To try it: lens demo, then lens status --store flujo_demo.db\n\n"
        "Topics: lens help exit-codes, formatting, environment, filters or secrets",
    )
    app.callback()(_callback())
    return typer.main.get_command(app)


def _callback() -> Any:
    def root(
        app: App,
        version: Annotated[
            bool,
            typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
        ] = False,
    ) -> None:
        """Look into, repair and clean up the state stores of durable workflows."""

    wrapped = command(root)

    def callback(*, ctx: typer.Context, **values: Any) -> None:
        wrapped(ctx=ctx, **values)
        common = {k: v for k, v in values.items() if k != "version"}
        ctx.obj = ctx.obj.with_options(type(ctx.obj.options)(**common))
        if ctx.invoked_subcommand is None:
            _without_command(ctx)

    callback.__signature__ = wrapped.__signature__  # type: ignore[attr-defined]
    callback.__annotations__ = wrapped.__annotations__
    callback.__doc__ = root.__doc__
    return callback


def _without_command(ctx: typer.Context) -> None:
    """Bare ``lens``: the status on a terminal, help elsewhere."""
    if ctx.obj.world.is_terminal:
        ctx.invoke(build("status").callback, **_defaults(build("status"), ctx))
    else:
        typer.echo(ctx.get_help())


def _defaults(built: Any, ctx: typer.Context) -> dict[str, Any]:
    return {p.name: p.get_default(ctx) for p in built.params if p.name and p.expose_value}


# --- errors


def run(arguments: Sequence[str], world: World) -> int:
    """Run a command line and return its exit code. Errors are printed on the world's stderr."""
    escape_what_cannot_be_shown(world.stdout, world.stderr)
    arguments = list(arguments)
    if arguments[:1] == ["__complete"]:
        from flujo_lens.cli.completion import print_candidates

        print_candidates(arguments[1:], world)
        return exit_codes.OK
    app = App(world, repeated=Repeated.of(arguments), shows_secrets="--show-secrets" in arguments)
    try:
        code = root().main(args=arguments, prog_name="lens", standalone_mode=False, obj=app)
        world.stdout.flush()
        if (note := app.repeated.password_note()) and not {"--quiet", "-q"} & {*arguments}:
            app.tell(note)
        return int(code or exit_codes.OK)
    except BrokenPipeError:
        silence(world.stdout)
        return exit_codes.OK
    except SystemExit as left:
        if not isinstance(left.__context__, BrokenPipeError):
            return _tell(app, _stray(left), arguments)
        silence(world.stdout)  # Typer exits with 1 on a closed pipe
        return exit_codes.OK
    except (KeyboardInterrupt, typer.Abort):
        return exit_codes.INTERRUPTED
    except typer.TyperException as error:
        from flujo_lens.cli.usage_errors import usage_error

        return _tell(app, usage_error(error, arguments, COMMANDS), arguments)
    except LensError as error:
        return _tell(app, error, arguments)
    except Exception as error:  # noqa: BLE001 - anything that gets here is an internal error
        fault = _fault(error, arguments)
        fault.__cause__ = error
        return _tell(app, fault, arguments)
    except BaseException as error:  # noqa: BLE001 - other BaseExceptions come from an application
        return _tell(app, _stray(error), arguments)
    finally:
        if world.diverted is not None:
            from flujo_lens.cli.application_output import undo

            undo(world)


def _stray(error: BaseException) -> LensError:
    from flujo_lens.runner.application_code import describe

    fault = ApplicationExitError.of(describe(error))
    fault.__cause__ = error
    return fault


def _changes(arguments: Sequence[str]) -> bool:
    """Whether a command line may have changed something."""
    command = next((word for word in arguments if word in COMMANDS), "")
    return command in _CHANGING and "--dry-run" not in arguments and _ONLY_WITH.get(command, command) in arguments


def _fault(error: Exception, arguments: Sequence[str]) -> LensError:
    typed = next((argument for argument in arguments if not _is_text(argument)), None)
    if isinstance(error, UnicodeEncodeError) and typed is not None:
        return UsageError(f"argument {typed!a} is not UTF-8", hint="arguments must be UTF-8 text")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        hint = "the command itself continued: lens audit list shows what was changed" if _changes(arguments) else None
        return OperationFailedError(f"cannot write the output: {error.strerror}", hint=hint)
    done = "nothing was changed"
    if _changes(arguments):
        done = "lens audit list shows what was changed before the error"
    return InternalError(
        f"internal error in lens: {type(error).__name__}: {error}",
        hint=f"{done}; please report this with the output of the same command and --debug",
    )


def _is_text(argument: str) -> bool:
    """False for an argument with bytes outside the locale's encoding: they arrive as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in argument)


def _tell(app: App, error: LensError, arguments: list[str]) -> int:
    _flush_what_came_before(app.world)
    app = _as_asked(app, arguments)
    if "--debug" in arguments:
        import traceback

        app.tell("".join(traceback.format_exception(error)).rstrip())
    if _wants_json(arguments):
        from flujo_lens.rendering.json_text import compact

        said = app.repeated.error(error.to_dict())
        document = app.redactor.value({**said, "hint": "\n".join(_hints(app, error, arguments)) or None})
        typed = {
            name: app.redactor.text(value) if isinstance(value, str) else value for name, value in document.items()
        }
        app.write_error(compact({"error": typed}))
    else:
        app.write_error(_for_people(app, error, arguments))
    return exit_codes.exit_code_of(error)


def _as_asked(app: App, arguments: list[str]) -> App:
    """The app with --color and --config of a command line that could not be parsed."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    asked = [two if one == "--color" else one.removeprefix("--color=") for one, two in pairs if "--color" in one]
    when = asked[-1] if asked else None
    app = app.with_options(CommonOptions(config=dict(app.repeated.options).get("--config")))
    return app.with_options(CommonOptions(color=when)) if when in ("auto", "always", "never") else app


def _flush_what_came_before(world: World) -> None:
    try:
        world.stdout.flush()
    except OSError:
        silence(world.stdout)


def _hints(app: App, error: LensError, arguments: Sequence[str]) -> list[str]:
    """The lines of the hint, after the corrected command line unless it has a secret."""
    from flujo_lens.cli.corrected_line import corrected_line
    from flujo_lens.cli.input.confirm import can_ask

    line = corrected_line(error, arguments, app.world.cwd)
    lines = [line] if line and app.redactor.text(line) == line else []
    hint = app.repeated.prose(error.hint or "")
    if not can_ask(app):
        hint = re.sub(r"\blens (migrate|optimize)(?![^\n`]*(--dry-run|--yes))", r"lens \1 --yes", hint)
    return [*lines, *hint.splitlines()]


def _for_people(app: App, error: LensError, arguments: Sequence[str]) -> str:
    if isinstance(error, IncompatibleError) and "remediations" in error.to_dict():
        from flujo_lens.cli.screens.incompatible import incompatible_text

        return incompatible_text(app, error)
    word = "\x1b[1;31merror\x1b[0m" if app.stderr_colour else "error"
    lines = [f"{word} {error.code}: {app.shown(error.message)}"]
    hint = app.redactor.text("\n".join(_hints(app, error, arguments)))  # whole: a secret's name may be a line before
    lines += [f"  {app.shown(line)}" for line in [*hint.splitlines(), app.repeated.password_note()] if line]
    return "\n".join(_fitting(app, lines))


def _fitting(app: App, lines: list[str]) -> list[str]:
    """On a terminal, lines folded to its width, except commands, which stay whole to be copied."""
    if not app.world.stderr.isatty() and not app.world.stderr_tty:
        return lines
    from flujo_lens.cli.screens.deletion_text import folded

    whole = ("  lens ", "  --")
    return [
        part for line in lines for part in ([line] if line.startswith(whole) else folded([line], app.world.columns))
    ]


def _wants_json(arguments: list[str]) -> bool:
    """Whether JSON output was requested, even in a command line that could not be parsed."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    return any(
        one in ("--json", "-ojson", "-o=json", "--output=json") or (one in ("-o", "--output") and two == "json")
        for one, two in pairs
    )


def _last_words() -> int:
    """Report that even the report of an error failed, as after code of an application that replaced built-ins."""
    os.write(2, b"error LENS-X1: internal error in lens, which could not be printed\n  --debug shows the traceback\n")
    return exit_codes.INTERNAL


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program ``lens``."""
    gc.set_threshold(50_000, 20, 20)  # as in `flujo_lens.__main__`, for those who call this function
    fill_closed_numbers()
    in_utf8_mode()
    world = World(owns_process=True)
    sys.stderr = sys.stderr or world.stderr  # if it was closed: Typer wraps it when the reader of stdout is gone
    arguments = words_as_typed(sys.argv[1:]) if arguments is None else list(arguments)
    try:
        code = run(arguments, world)
    except BaseException:
        if "--debug" in arguments:
            raise
        code = _last_words()
    if code == exit_codes.INTERRUPTED:  # another Ctrl-C during shutdown would kill it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _flush_what_came_before(world)
    if world.diverted is not None:
        from flujo_lens.cli.application_output import leave

        leave(world, code)
    sys.exit(code)
