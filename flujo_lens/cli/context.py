"""The context of one command: its world, options, settings and opened store, all lazy."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta, tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flujo_lens.cli.hints import Repeated, lacks_application, with_placeholder
from flujo_lens.cli.options import CommonOptions, FilterOptions, OutputOptions
from flujo_lens.cli.world import World, silence
from flujo_lens.errors import (
    LensError,
    OperationFailedError,
    StoreNotFoundError,
    UnknownStoreError,
    UnknownValueError,
    UnreachableStoreError,
    UsageError,
)

if TYPE_CHECKING:
    from flujo_lens.cli.output import Output
    from flujo_lens.config import Settings, StoreChoice
    from flujo_lens.redaction import Redactor
    from flujo_lens.serialization.envelope import KeptSealed
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.views import RunFilter, RunSummary

T = TypeVar("T")
_COLOURS = ("auto", "always", "never")


@dataclass(frozen=True, eq=False, repr=False)
class App:
    """The context of a command: the world and the common options of this invocation.

    Attributes:
        repeated: Options of this command line to repeat in suggested commands.
        shows_secrets: Whether --show-secrets was given.
        store_from: What names the store, for errors.
    """

    world: World
    options: CommonOptions = field(default_factory=CommonOptions)
    repeated: Repeated = field(default_factory=Repeated)
    shows_secrets: bool = False
    store_from: str = "--store"

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

        try:
            choice = choose_store(self._config_world, self.settings, self.options.store, source=self.store_from)
        except UnknownStoreError as error:
            raise _with_near_path(error, self.world.cwd) from None
        if choice.overridden:
            self.note(choice.overridden)
        return choice

    @property
    def store_name(self) -> str:
        """The name of the selected store in the settings, or its URI without passwords."""
        return self.store.name or self.redactor.text(self.store.uri)

    @property
    def store_path(self) -> Path | None:
        """The path of the selected store; None for a server."""
        from flujo_lens.config_sources import place_of

        place = place_of(self.store.uri)
        return Path(place) if place.startswith("/") else None

    @cached_property
    def zone(self) -> tzinfo:
        """The user's time zone."""
        from flujo_lens.state.timestamps import local_zone

        return self.world.zone or local_zone()

    # --- the store

    def run(self, work: Callable[[StateBackend], Awaitable[T]], *, keeps_sealed: bool = False) -> T:
        """Open the store, run `work` with it, close it, and return the result.

        Args:
            keeps_sealed: Whether `work` saves states, which stay encrypted if they were.
        """
        import asyncio  # here: help and completion need no event loop

        return asyncio.run(self._with_backend(work, keeps_sealed=keeps_sealed))

    def read(self, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        """`run` for work that awaits nothing but the store's reading methods.

        Of a driver that needs no event loop, none is made: its import takes a tenth of the time of a short command.
        """
        backend = self.opened()
        if vars(type(backend)).get("needs_loop", True):
            import asyncio

            return asyncio.run(self._closed_after(backend, work))
        try:
            self._closed_after(backend, work).send(None)
        except StopIteration as done:
            return cast("T", done.value)
        raise RuntimeError(f"{type(backend).__name__} suspended outside of an event loop")

    def run_steps(self, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        """`run` for work that calls an application's code, isolated from lens's streams, tasks and signals."""
        from flujo_lens.cli.application_output import divert, spare_of
        from flujo_lens.cli.process_state import kept
        from flujo_lens.runner.protected_loop import drive

        divert(self.world)

        async def guarded(backend: StateBackend) -> T:
            with kept(spare_of(self.world)):
                return await work(backend)

        return drive(self._with_backend(guarded, keeps_sealed=True))

    def run_with(self, other: App, work: Callable[[StateBackend, StateBackend], Awaitable[T]]) -> T:
        """`run` with two stores: this one and that of `other`."""
        import asyncio

        return asyncio.run(self._with_backend(lambda one: other._with_backend(lambda two: work(one, two))))

    def at(self, store: str) -> App:
        """The same invocation with another store, which an argument names."""
        made = replace(self, options=self.options._replace(store=store), store_from="the store argument")
        vars(made)["settings"] = self.settings  # whose notes are printed once
        return made

    async def _with_backend(self, work: Callable[[StateBackend], Awaitable[T]], *, keeps_sealed: bool = False) -> T:
        return await self._closed_after(self.opened(self._envelope() if keeps_sealed else None), work)

    def _envelope(self) -> KeptSealed | None:
        """What keeps encrypted states encrypted, where the environment has keys."""
        if not (self.world.env.get("LENS_KEY") or self.world.env.get("LENS_KEY_FILE")):
            return None
        from flujo_lens.serialization.envelope import KeptSealed
        from flujo_lens.serialization.keys import KeyRing

        ring = KeyRing.from_environment(self.world.env)
        return None if ring is None else KeptSealed(ring)

    def opened(self, envelope: KeptSealed | None = None) -> StateBackend:
        """The selected store's backend, which the caller shuts down."""
        from flujo_lens.state.registry import open_backend

        settings, store = self.settings, self.store
        settings.check_trusted(f"drivers.{store.uri.partition('://')[0].lower()}")
        try:
            return open_backend(
                store.uri, settings.drivers, timeout=settings.timeout, zone=settings.timezone, envelope=envelope
            )
        except StoreNotFoundError as error:
            error.hint = self._with_setting(error.hint)
            raise

    def check_server(self) -> None:
        """Check, when the store is opened next, that its server takes writes from this user; before a question."""
        vars(self)["_must_be_writable"] = True

    async def _closed_after(self, backend: StateBackend, work: Callable[[StateBackend], Awaitable[T]]) -> T:
        try:
            if vars(self).pop("_must_be_writable", False) and (check := getattr(backend, "check_write", None)):
                await check()
            return await work(backend)
        except Exception as error:
            found = _as_lens_error(error, backend, self.store.uri)
            if isinstance(found, StoreNotFoundError | UnreachableStoreError):
                found.hint = self._with_setting(found.hint)
            raise found from error
        finally:
            await backend.shutdown()

    def _with_setting(self, hint: str | None) -> str | None:
        """The hint of an error about the store, after the setting that names the store."""
        entry = self.settings.stores.get(self.store.name or "")
        named = None if entry is None else f'it is the store "{entry.name}" of {entry.source}'
        return "\n".join(filter(None, (named, hint))) or None

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
        return self.read(lambda backend: backend.read_statuses())

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
        """A command to suggest, with the store and application options of this one.

        If neither the options nor the settings name an application that the command needs, it gets a placeholder.
        """
        made = self.repeated.command(command)
        return with_placeholder(made) if lacks_application(made) and self.settings.resume_app is None else made

    def output(
        self, options: OutputOptions, formats: tuple[str, ...] | None = None, *, is_document: bool = False
    ) -> Output:
        """The output for results: of a list, or of a document, which a pipe gets as the text of its screen."""
        from flujo_lens.cli.output import Output

        return Output(self, options, formats, is_document=is_document)

    def note(self, text: str) -> None:
        """Print a note on stderr, unless --quiet."""
        if not self.options.quiet:
            self.tell(text)

    def note_no_runs(self, text: str, wanted: RunFilter) -> None:
        """Print on stderr that no runs match, and what may be wrong with the filter."""
        if not self.options.quiet:
            from flujo_lens.cli.empty_result import reasons

            self.tell("\n".join([text, *reasons(self.run, wanted)]))

    def tell(self, text: str) -> None:
        """Print lines on stderr, each as `shown`; on a terminal folded, but those with a command, to copy them."""
        from flujo_lens.rendering.text import escape_controls

        lines = [escape_controls(line) for line in self.redactor.text(text).split("\n")]
        self.write_error("\n".join(part for line in lines for part in self._fitting(line)))

    def _fitting(self, line: str) -> list[str]:
        if len(line) <= self.world.columns or "lens " in line or not self.stderr_is_terminal:
            return [line]
        from flujo_lens.cli.screens.deletion_text import folded

        return folded([line], self.world.columns)

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
            if self.world.diverted is not None:  # the application closed the private duplicate of stderr
                with suppress(OSError):
                    os.write(2, text.encode(encoding, "backslashreplace") + b"\n")

    @property
    def stderr_colour(self) -> bool:
        """Whether to use colour on stderr."""
        return self.world.colour(self.options.color, self.stderr_is_terminal)

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether stderr is a terminal."""
        return self.world.stderr.isatty() if self.world.stderr_tty is None else self.world.stderr_tty

    @property
    def silent_after(self) -> timedelta:
        """Time without activity after which a running run is stale."""
        return self.settings.silent_after


def _with_near_path(error: UnknownStoreError, cwd: Path) -> LensError:
    """The error for an unknown name, which may be the misspelled one of a store in the current folder."""
    from flujo_lens.state.unreachable_paths import near_store

    typed = error.details.get("value")
    near = near_store(str(cwd / typed)) if typed and "near" not in error.details else None
    if near is None:
        return error
    found = error.reworded(f"{error.message}; did you mean {os.path.basename(near)}?")
    found.details = {**error.details, "near": os.path.basename(near)}
    return found


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
