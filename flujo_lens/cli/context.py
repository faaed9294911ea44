"""The environment of one invocation: streams, terminal, clock, settings, the opened store. Injected and lazy."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from flujo_lens.cli.hints import Repeated
from flujo_lens.cli.options import CommonOptions, FilterOptions, OutputOptions
from flujo_lens.errors import LensError, OperationFailedError, UnknownValueError, UnreachableStoreError, UsageError
from flujo_lens.folders import current_folder

if TYPE_CHECKING:
    from flujo_lens.cli.output import Output
    from flujo_lens.config import Settings, StoreChoice
    from flujo_lens.redaction import Redactor
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.views import RunFilter, RunSummary

__all__ = ["App", "World", "silence"]

T = TypeVar("T")
_NARROWEST, _WIDEST = 20, 10_000
"""Minimum width of a line in cells. A terminal without a size reports 1."""

_COLOURS = ("auto", "always", "never")


def _now() -> datetime:
    return datetime.now(UTC)


def _nowhere(mode: str) -> TextIO:
    """A stream to /dev/null, for a standard stream that was closed at the start."""
    return cast("TextIO", open(os.devnull, mode, encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Send a stream whose reader is gone to /dev/null, so that Python does not report it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """The streams, clock, terminal and environment that lens uses; tests pass their own.

    Attributes:
        zone: The user's time zone; None for the machine's.
        width: Width of a line in cells; None for the terminal's.
        stdout_tty: Whether stdout is a terminal; None to detect it.
        owns_process: Whether the process ends with this invocation, so that nothing prints to stdout after it.
        diverted: The streams diverted by `flujo_lens.cli.diversion`; None until an application is imported.
    """

    stdin: TextIO = field(default_factory=lambda: sys.stdin or _nowhere("r"))
    stdout: TextIO = field(default_factory=lambda: sys.stdout or _nowhere("w"))
    stderr: TextIO = field(default_factory=lambda: sys.stderr or _nowhere("w"))
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path = field(default_factory=current_folder)
    now: Callable[[], datetime] = _now
    zone: tzinfo | None = None
    width: int | None = None
    stdout_tty: bool | None = None
    stderr_tty: bool | None = None
    user_config_dir: Path | None = None
    etc_dir: Path = Path("/etc/flujo-lens")
    owns_process: bool = False
    diverted: Any = None

    @cached_property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return self.stdout.isatty() if self.stdout_tty is None else self.stdout_tty

    @cached_property
    def columns(self) -> int:
        """Width of a line in cells; unlimited without a terminal."""
        if self.width is not None:
            return self.width
        given = self.env.get("COLUMNS", "")
        if given.isascii() and given.isdigit() and int(given[:9]) > 0:
            return min(max(int(given[:9]), _NARROWEST), _WIDEST)
        try:
            return max(os.get_terminal_size(self.stdout.fileno()).columns or 80, _NARROWEST)
        except (OSError, ValueError):
            return 80 if self.is_terminal else _WIDEST

    @cached_property
    def unicode(self) -> bool:
        """Whether the terminal can show more than ASCII."""
        return (self.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32", "utf8sig")

    def colour(self, when: str | None, terminal: bool) -> bool:
        """Whether to use colour: decided by the option, NO_COLOR, FORCE_COLOR, then whether it is a terminal."""
        if when in ("always", "never"):
            return when == "always"
        if self.env.get("NO_COLOR"):
            return False
        if self.env.get("FORCE_COLOR"):
            return True
        return terminal and self.env.get("TERM") != "dumb"


@dataclass(frozen=True, eq=False, repr=False)
class App:
    """The context of a command: the world and the common options of this invocation.

    Attributes:
        repeated: Options of this command line to repeat in suggested commands.
        shows_secrets: Whether --show-secrets was given.
    """

    world: World
    options: CommonOptions = field(default_factory=CommonOptions)
    repeated: Repeated = field(default_factory=Repeated)
    shows_secrets: bool = False

    def with_options(self, options: CommonOptions) -> App:
        """A copy with the options of a command; options given before the command apply where it has none."""
        mine = {
            name: value if value not in (None, False) else getattr(self.options, name)
            for name, value in options._asdict().items()
        }
        merged = CommonOptions(**mine)
        if merged.color is not None and merged.color not in _COLOURS:
            raise UnknownValueError.of("--color", merged.color, _COLOURS)
        return replace(self, options=merged)

    # --- settings

    @cached_property
    def _config_world(self) -> Any:
        from flujo_lens.config import World as ConfigWorld

        world = self.world
        return ConfigWorld(env=world.env, cwd=world.cwd, user_config_dir=world.user_config_dir, etc_dir=world.etc_dir)

    @cached_property
    def settings(self) -> Settings:
        """The settings from all files, variables and options."""
        from flujo_lens.config import load_settings

        found = load_settings(self._config_world, config=self.options.config, timeout=self.options.timeout)
        vars(self)["settings"] = found  # notes are masked by the settings
        for path, why in found.distrusted.items():
            self.note(f"reading settings from {path}, which {why}")
        return found

    @cached_property
    def store(self) -> StoreChoice:
        """The selected store, and the source of that choice."""
        from flujo_lens.config import choose_store

        choice = choose_store(self._config_world, self.settings, self.options.store)
        if choice.overridden:
            self.note(choice.overridden)
        return choice

    @cached_property
    def zone(self) -> tzinfo:
        """The user's time zone."""
        from flujo_lens.state.timestamps import local_zone

        return self.world.zone or local_zone()

    # --- the store

    def run(self, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        """Open the store, run `work` with it, close it, and return the result."""
        return asyncio.run(self._with_backend(work))

    def run_steps(self, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        """`run` for work that calls an application's code, isolated from lens's streams, tasks and signals."""
        from flujo_lens.cli.diversion import divert, spare_of
        from flujo_lens.cli.process_state import kept
        from flujo_lens.runner.protected_loop import drive

        divert(self.world)

        async def guarded(backend: StateBackend) -> T:
            with kept(spare_of(self.world)):
                return await work(backend)

        return drive(self._with_backend(guarded))

    async def _with_backend(self, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        from flujo_lens.state.registry import open_backend

        settings, store = self.settings, self.store
        settings.check_trusted(f"drivers.{store.uri.partition('://')[0].lower()}")
        backend = open_backend(store.uri, settings.drivers, timeout=settings.timeout, zone=settings.timezone)
        try:
            return await work(backend)
        except Exception as error:
            raise _as_lens_error(error, backend, store.uri) from error
        finally:
            await backend.shutdown()

    def wanted(self, options: FilterOptions, statuses: Callable[[], Collection[str]] | None = None) -> RunFilter:
        """The filter described by the options.

        Args:
            options: The options as given.
            statuses: Returns the stored statuses, if runs do not come from the store; called only for an unknown
                status.
        """
        from flujo_lens.cli.input.filters import run_filter

        return run_filter(options, self.world.now(), self.zone, statuses or self._stored_statuses)

    def _stored_statuses(self) -> Collection[str]:
        async def work(backend: StateBackend) -> Collection[str]:
            return await backend.read_statuses()

        return self.run(work)

    async def with_signs(self, backend: StateBackend, runs: Sequence[RunSummary]) -> list[RunSummary]:
        """The runs, the running ones with their holder and whether they are stale."""
        from flujo_lens.state.stale_runs import with_signs

        return await with_signs(backend, runs, self.world.now(), self.silent_after)

    # --- printing

    @cached_property
    def redactor(self) -> Redactor:
        """The redactor for the settings and --show-secrets; unreadable settings add no keys."""
        from flujo_lens.redaction import Redactor

        try:
            keys = self.settings.redact_keys
        except (LensError, OSError):
            keys = ()
        return Redactor(keys, show=self.shows_secrets)

    def shown(self, text: str) -> str:
        """A text for one line of a terminal, with secrets masked and control characters escaped."""
        from flujo_lens.rendering.text import escape_controls

        return escape_controls(self.redactor.text(text))

    def say(self, lines: Iterable[str]) -> None:
        """Print lines on stdout, each as `shown`."""
        self.say_masked(map(self.redactor.text, lines))

    def say_masked(self, lines: Iterable[str]) -> None:
        """Print lines whose secrets are already masked, so that a name before a text is not read as a key."""
        from flujo_lens.rendering.text import escape_controls

        self.world.stdout.write("".join(f"{escape_controls(line)}\n" for line in lines))

    def suggest(self, command: str) -> str:
        """A command to suggest, with the store and application options of this one."""
        return self.repeated.command(command)

    def output(self, options: OutputOptions, formats: tuple[str, ...] | None = None) -> Output:
        """The output for results."""
        from flujo_lens.cli.output import Output

        return Output(self, options, formats)

    def note(self, text: str) -> None:
        """Print a note on stderr, unless --quiet."""
        if not self.options.quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """Print lines on stderr, each as `shown`."""
        from flujo_lens.rendering.text import escape_controls

        self.write_error("\n".join(map(escape_controls, self.redactor.text(text).split("\n"))))

    def write_error(self, text: str) -> None:
        """Print lines on stderr unchanged, except characters outside its encoding, which are escaped."""
        stream = self.world.stderr
        encoding = stream.encoding or "utf-8"
        with suppress(OSError, ValueError):
            self.world.stdout.flush()  # keeps the order if both go to one place
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except OSError:
            silence(stream)

    @property
    def stderr_colour(self) -> bool:
        """Whether to use colour on stderr."""
        terminal = self.world.stderr.isatty() if self.world.stderr_tty is None else self.world.stderr_tty
        return self.world.colour(self.options.color, terminal)

    @property
    def silent_after(self) -> timedelta:
        """Time without activity after which a running run is stale."""
        return self.settings.silent_after


def _as_lens_error(error: Exception, backend: StateBackend, uri: str) -> Exception:
    """Turn an exception of a third-party driver into a `LensError`: of its store, or of the driver's code."""
    if isinstance(error, LensError) or type(backend).__module__.startswith("flujo_lens."):
        return error
    from flujo_lens.redaction import masked_text

    if isinstance(error, TypeError | NotImplementedError):
        return UsageError(f"the driver of {masked_text(uri)} does not support this: {error}")
    words = masked_text(f"{type(error).__name__}: {error}")
    # A client's own exception comes from its server; a KeyError or the like from the driver's code.
    if isinstance(error, OSError) or type(error).__module__ != "builtins":
        return UnreachableStoreError(
            masked_text(f"the driver of {uri} failed: {words}"), hint="--debug shows the traceback"
        )
    cls = type(backend)
    return OperationFailedError(
        f"the driver {cls.__module__}:{cls.__qualname__} failed in {_method_of(error, cls)}: {words}",
        hint="an error in the driver or in its data: --debug shows the traceback; report it to the driver's author",
    )


def _method_of(error: Exception, driver: type) -> str:
    """The method of the driver that raised an error: the first one called in its module."""
    found = error.__traceback__
    while found is not None:
        if found.tb_frame.f_globals.get("__name__") == driver.__module__:
            return found.tb_frame.f_code.co_name
        found = found.tb_next
    return "an unknown method"
