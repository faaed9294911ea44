"""Settings, their sources, and the selected store.

In order of precedence: an option, an environment variable, lens.toml (this folder, then upward),
[tool.flujo-lens] in pyproject.toml, state_uri in flujo.toml, the user's lens.toml, the machine's. Settings and
drivers are merged by key, stores by name. An invalid name or value is an error in every file read, even if another
file overrides it; an unset ``${VAR}`` is an error only if its store is used.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta, tzinfo
from os.path import isfile, islink
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flujo_lens.config_sources import (
    FLUJO_TOML,
    SourceFile,
    World,
    WrongValueError,
    absolute_path,
    absolute_uri,
    check_age,
    check_bool,
    check_count,
    check_driver,
    check_duration,
    check_printable,
    check_seconds,
    check_share,
    check_text,
    check_texts,
    check_zone,
    describe,
    expand,
    looks_like_path,
    read_files,
    same_place,
    same_store,
)
from flujo_lens.errors import ConfigError, NoStoreError, UnknownStoreError, nearest
from flujo_lens.redaction import masked_text

__all__ = [
    "Setting",
    "Settings",
    "StoreChoice",
    "StoreEntry",
    "World",
    "choose_store",
    "load_settings",
]

T = TypeVar("T")

LENS_STORE = "LENS_STORE"
FLUJO_STATE_URI = "FLUJO_STATE_URI"
LENS_CONFIG = "LENS_CONFIG"
LENS_TIMEOUT = "LENS_TIMEOUT"
USUAL_STORE = "flujo_ops.db"


class Setting(NamedTuple):
    """A row of ``lens config``: a dotted key, its effective value with passwords, and its source."""

    key: str
    value: Any
    source: str


class StoreEntry(NamedTuple):
    """A store named in a file.

    Attributes:
        name: Its name; "" for a URI in place of a name.
        uri: With variables replaced and paths absolute; as written if there is a `problem`. May hold a password.
        readonly: Whether writing commands are refused.
        source: "path:line", or the path and pyproject's table.
        base: The folder of the file, to which paths are relative.
        problem: Why the store cannot be used (an unset variable), or None.
        readonly_at: "path:line" of the read-only setting, or None.
    """

    name: str
    uri: str
    readonly: bool
    source: str
    base: Path
    problem: str | None = None
    readonly_at: str | None = None


class DefaultStore(NamedTuple):
    """The default store, and the place of that setting."""

    entry: StoreEntry
    source: str
    place: str


class Settings(NamedTuple):
    """All settings.

    Attributes:
        default_store: The name (or else the URI) of the default store, or None.
        stores: The named stores.
        drivers: ``module:Class`` by URI scheme.
        timezone: The zone of naive times; None to infer it.
        timeout: Seconds to wait for a lock or connection.
        resume_app: ``module:attribute``, or None.
        prune_older_than: An age such as "30d", or None.
        prune_archive_dir: An absolute folder, or None.
        bin_keep: How long deleted runs stay in the bin.
        bin_max_runs: Maximum number of runs of one command in the bin.
        alerts_failing_share: From which share of failed runs (0 to 1) ``lens status --exit-status`` exits with 1; None
            for any failure.
        alerts_oldest_waiting: From which age of a question; None for never.
        alerts_stale: Above which number of stale runs; None for 0.
        audit_path: An absolute file, or None for the default next to the store.
        redact_keys: Patterns of keys, added to the built-in ones.
        rows: Every setting with its source.
        files: The files read, in order of precedence.
        default: `default_store` with its source.
        distrusted: Files that were not named explicitly and may be written by other users, each with the reason.
        distrusted_code: The settings ``resume.app`` and ``drivers.SCHEME`` in such files, each with the file.
    """

    default_store: str | None
    stores: Mapping[str, StoreEntry]
    drivers: Mapping[str, str]
    silent_after: timedelta
    timezone: tzinfo | None
    timeout: float
    resume_app: str | None
    prune_older_than: str | None
    prune_archive_dir: Path | None
    bin_keep: timedelta
    bin_max_runs: int
    alerts_failing_share: float | None
    alerts_oldest_waiting: timedelta | None
    alerts_stale: int | None
    audit_path: Path | None
    redact_keys: tuple[str, ...]
    rows: tuple[Setting, ...]
    files: tuple[Path, ...]
    default: DefaultStore | None = None
    distrusted: Mapping[Path, str] = {}
    distrusted_code: Mapping[str, Path] = {}

    def check_trusted(self, key: str) -> None:
        """Check that the code named by `key` (``resume.app``, ``drivers.SCHEME``) may be imported.

        Raises:
            ConfigError: it is set in a file that another user may have written.
        """
        if (path := self.distrusted_code.get(key)) is not None:
            message = f"refusing to import code named in {path} ({key}): the file {self.distrusted[path]}"
            raise ConfigError(message, hint=_meant(path), file=str(path), key=key)


def _meant(path: Path) -> str:
    return f"if you trust the file: --config {shlex.quote(str(path))}, or {LENS_CONFIG}"


class StoreChoice(NamedTuple):
    """The selected store.

    Attributes:
        uri: A URI with a scheme, or an absolute path; may hold a password.
        name: Its name in the settings, if any.
        source: The source of the choice: "--store", a variable, "path:line", or this folder.
        readonly: Whether writing commands are refused.
        overridden: A sentence if a variable and a file name different stores, else None.
        readonly_at: "path:line" of the read-only setting, or None.
    """

    uri: str
    name: str | None
    source: str
    readonly: bool
    overridden: str | None = None
    readonly_at: str | None = None


class _Rule(NamedTuple):
    check: Callable[[Any], Any]
    default: Any = None
    shown: Any = None
    is_path: bool = False


_RULES = {
    "timeout": _Rule(check_seconds, 10.0, 10.0),
    "silent_after": _Rule(check_duration, timedelta(hours=1), "1h"),
    "timezone": _Rule(check_zone),
    "resume.app": _Rule(check_text),
    "prune.older_than": _Rule(check_age),
    "prune.archive_dir": _Rule(check_text, is_path=True),
    "bin.keep": _Rule(check_duration, timedelta(days=7), "7d"),
    "bin.max_runs": _Rule(check_count, 10000, 10000),
    "alerts.failing_share": _Rule(check_share),
    "alerts.oldest_waiting": _Rule(check_duration),
    "alerts.stale": _Rule(check_count),
    "audit.path": _Rule(check_text, is_path=True),
    "redact.keys": _Rule(check_texts, (), ()),
}
_STORE_KEYS = ("uri", "readonly")
_TABLES: dict[str, tuple[str, ...]] = {"stores": (), "drivers": ()} | {
    table: tuple(key.partition(".")[2] for key in _RULES if key.startswith(f"{table}."))
    for table in ("resume", "prune", "bin", "alerts", "audit", "redact")
}
_TOP = ("default", *(key for key in _RULES if "." not in key), *_TABLES)


class _Found(NamedTuple):
    value: Any
    shown: Any
    source: str


class _FoundStore(NamedTuple):
    entry: StoreEntry
    rows: tuple[Setting, ...]


def load_settings(world: World, *, config: str | None = None, timeout: float | None = None) -> Settings:
    """Read, check and merge all settings.

    Args:
        world: The environment and the folders.
        config: ``--config``: the only file to read.
        timeout: ``--timeout``, in seconds.

    Raises:
        ConfigError: A file, a key, a value or a variable is wrong.
    """
    if config is not None:
        files = read_files(world, config)
    else:
        files = read_files(world, world.env.get(LENS_CONFIG) or None, LENS_CONFIG)
    for file in files:
        _check_names(file)
    found = _found(files, world)
    found["timeout"] = _timeout(world, timeout) or found["timeout"]
    found_stores = _merged(files, "stores", lambda file, name, value: _entry(file, name, value, world))
    stores = {name: each.entry for name, each in found_stores.items()}
    drivers = _merged(files, "drivers", lambda file, name, value: _driver_of(file, name, value, world))
    default = next(iter(list(_defaults(files, stores, world))), None)  # all of them are checked
    return Settings(
        default_store=(default.entry.name or default.entry.uri) if default else None,
        stores=stores,
        drivers={scheme: each.value for scheme, each in drivers.items()},
        rows=tuple(_rows(world, found, found_stores, drivers, default)),
        files=tuple(file.path for file in files),
        default=default,
        distrusted={file.path: file.distrust for file in files if file.distrust},
        distrusted_code=_distrusted_code(files),
        **{key.replace(".", "_"): each.value for key, each in found.items()},
    )


def _distrusted_code(files: Sequence[SourceFile]) -> dict[str, Path]:
    """The settings that name code, in files that another user may have written."""
    first: dict[str, SourceFile] = {}
    for file in files:
        named = [f"drivers.{scheme}" for scheme in file.data.get("drivers", {})]
        for key in [*named, *(["resume.app"] if "app" in file.data.get("resume", {}) else [])]:
            first.setdefault(key, file)
    return {key: file.path for key, file in first.items() if file.distrust}


def _check_names(file: SourceFile) -> None:
    for key, value in file.data.items():
        if key not in _TOP:
            raise _unknown(file, (key,), _TOP)
        if key in _TABLES:
            _check_table(file, (key,), value, _TABLES[key])
    for name, table in file.data.get("stores", {}).items():
        _check_table(file, ("stores", name), table, _STORE_KEYS)


def _check_table(file: SourceFile, where: tuple[str, ...], value: Any, legal: Sequence[str]) -> None:
    """Raise unless `value` is a table with `legal` keys (any, if `legal` is empty)."""
    if not isinstance(value, dict):
        raise file.error(where, f"must be a table, not {describe(value)}", f"it begins [{'.'.join(where)}]")
    for key in value:
        if legal and key not in legal:
            raise _unknown(file, (*where, key), legal)


def _unknown(file: SourceFile, where: tuple[str, ...], legal: Sequence[str]) -> ConfigError:
    near = nearest(where[-1], legal)
    asked = f"Did you mean {near}? " if near else ""
    homes = [f"in [{table}]" if table else "above the first [table]" for table in _tables_of(where[-1])]
    hint = f"{where[-1]} belongs {' or '.join(homes)}" if homes else None
    return file.error(where, f"is not a setting. {asked}Settings: {', '.join(legal)}", hint)


def _tables_of(name: str) -> list[str]:
    every = ("default", *_RULES, *(f"stores.NAME.{key}" for key in _STORE_KEYS))
    return [key.rpartition(".")[0] for key in every if key.rpartition(".")[2] == name]


def _found(files: Sequence[SourceFile], world: World) -> dict[str, _Found]:
    """The settings of `_RULES`: all files are checked, the first file has precedence."""
    found = {key: _Found(rule.default, rule.shown, "default") for key, rule in _RULES.items()}
    for file in reversed(files):
        for key, rule in _RULES.items():
            table, _, name = key.rpartition(".")
            data = file.data.get(table, {}) if table else file.data
            if name in data:
                found[key] = _value(file, tuple(key.split(".")), rule, data[name], world)
    return found


def _value(file: SourceFile, where: tuple[str, ...], rule: _Rule, raw: Any, world: World) -> _Found:
    if problem := _secret_sharing(file, where, raw):
        raise problem
    try:
        text = _expanded(raw, world.env)
    except KeyError as exc:
        raise file.error(where, *_not_set(exc)) from exc
    value = _checked(file, where, rule.check, text)
    if rule.is_path:
        value = Path(absolute_path(text, file.path.parent, world.env))
        text = str(value)
    return _Found(value, text, file.source(*where))


def _secret_sharing(file: SourceFile, where: tuple[str, ...], raw: Any) -> ConfigError | None:
    """The error for variables in a file of another user, which could send them to another server."""
    texts = raw if isinstance(raw, list) else [raw]
    if file.distrust is None or not any(isinstance(text, str) and "${" in text for text in texts):
        return None
    message = f"uses an environment variable, but the file {file.distrust}"
    return file.error(where, message, _meant(file.path))


def _expanded(raw: Any, env: Mapping[str, str]) -> Any:
    if isinstance(raw, list):
        return [_expanded(item, env) for item in raw]
    return expand(raw, env) if isinstance(raw, str) else raw


def _not_set(missing: KeyError) -> tuple[str, str]:
    name = missing.args[0]
    return f"needs the variable {name}, which is not set", f"export {name}=...; for a plain ${{ write $${{"


def _checked(file: SourceFile, where: tuple[str, ...], check: Callable[[Any], T], value: Any) -> T:
    try:
        return check(value)
    except WrongValueError as exc:
        raise file.error(where, exc.must, exc.hint) from exc


def _merged(files: Sequence[SourceFile], table: str, make: Callable[[SourceFile, str, Any], T]) -> dict[str, T]:
    """The rows of `table` converted by `make`, by name: all are converted, the first file has precedence."""
    merged: dict[str, T] = {}
    for file in files:
        for name, value in file.data.get(table, {}).items():
            merged.setdefault(name, make(file, name, value))
    return merged


def _driver_of(file: SourceFile, scheme: str, value: Any, world: World) -> _Found:
    return _value(file, ("drivers", scheme), _Rule(check_driver), value, world)


def _entry(file: SourceFile, name: str, table: Mapping[str, Any], world: World) -> _FoundStore:
    where = ("stores", name)
    if "uri" not in table:
        raise file.error(where, "has no uri", 'for example: uri = "sqlite:///flujo_ops.db"')
    uri = _checked(file, (*where, "uri"), check_text, table["uri"])
    readonly = _checked(file, (*where, "readonly"), check_bool, table.get("readonly", False))
    entry = _store(file, (*where, "uri"), uri, world)
    said = file.source(*where, "readonly") if "readonly" in table else "default"
    rows = (
        Setting(f"stores.{name}.uri", entry.uri, entry.source),
        Setting(f"stores.{name}.readonly", readonly, said),
    )
    readonly_at = said if readonly else None
    entry = entry._replace(name=name, readonly=readonly, source=file.source(*where), readonly_at=readonly_at)
    return _FoundStore(entry, rows)


def _store(file: SourceFile, where: tuple[str, ...], raw: str, world: World) -> StoreEntry:
    """The store of the text `raw` at `where`; with a problem instead of an exception."""
    base, uri, problem = file.path.parent, raw, None
    if refused := _secret_sharing(file, where, raw):
        return StoreEntry("", uri, False, file.source(*where), base, refused.message)
    try:
        text = expand(raw, world.env)
        uri = absolute_uri(text, base, world.env)
        check_printable(text)
        if not text:
            uri, problem = raw, file.error(where, "is empty once its variables are replaced").message
    except WrongValueError as exc:
        uri, problem = raw, file.error(where, f"{exc.must} once its variables are replaced").message
    except KeyError as exc:
        problem = file.error(where, *_not_set(exc)).message
    return StoreEntry("", uri, False, file.source(*where), base, problem)


def _defaults(files: Sequence[SourceFile], stores: Mapping[str, StoreEntry], world: World) -> Iterator[DefaultStore]:
    """The default store of each file that has one: its `default`, or its only store."""
    for file in files:
        own: tuple[str, ...] = tuple(file.data.get("stores", {}))
        if "default" in file.data:
            where, entry = ["default"], _default_entry(file, stores, world)
        elif len(own) == 1:
            where, entry = ["stores", *own], stores[own[0]]
        else:
            continue
        yield DefaultStore(entry, file.source(*where), file.place(*where, cwd=world.cwd))


def _default_entry(file: SourceFile, stores: Mapping[str, StoreEntry], world: World) -> StoreEntry:
    where = ("default",)
    raw = _checked(file, where, check_text, file.data["default"])
    entry = _store(file, where, raw, world)
    if entry.problem or file.kind == FLUJO_TOML:
        return entry
    text = expand(raw, world.env)
    if text in stores:
        return stores[text]
    if "://" in text or looks_like_path(text, entry.base):
        return entry
    raise file.error(where, f'names "{text}": {_no_such_store(text, stores)}')


def _no_such_store(name: str, stores: Mapping[str, StoreEntry]) -> str:
    if not stores:
        return "no such store; no settings file names a store"
    near = nearest(name, stores)
    return f"no such store. {f'Did you mean {near}? ' if near else ''}Stores: {', '.join(stores)}"


def _timeout(world: World, option: float | None) -> _Found | None:
    source, raw = ("--timeout", option) if option is not None else (LENS_TIMEOUT, world.env.get(LENS_TIMEOUT))
    if raw is None or raw == "":
        return None
    value: Any = raw
    with suppress(ValueError):
        value = float(raw)
    try:
        return _Found(check_seconds(value), value, source)
    except WrongValueError as exc:
        raise ConfigError(f"{source} {exc.must}", hint=f"for example: {source}=30") from exc


def _rows(
    world: World,
    found: Mapping[str, _Found],
    stores: Mapping[str, _FoundStore],
    drivers: Mapping[str, _Found],
    default: DefaultStore | None,
) -> Iterator[Setting]:
    """Every setting, with passwords; "store" is the selected store without ``--store``."""
    yield _store_row(world, default)
    yield Setting(
        "default", *((default.entry.name or default.entry.uri, default.source) if default else (None, "default"))
    )
    for store in stores.values():
        yield from store.rows
    rest = {**found, **{f"drivers.{scheme}": each for scheme, each in drivers.items()}}
    for key, each in rest.items():
        yield Setting(key, each.shown, each.source)


def _store_row(world: World, default: DefaultStore | None) -> Setting:
    for variable in (LENS_STORE, FLUJO_STATE_URI):
        if world.env.get(variable):
            return Setting("store", world.env[variable], variable)
    if default:
        return Setting("store", default.entry.name or default.entry.uri, default.source)
    usual = _usual_store(world)
    return Setting("store", usual.uri, usual.source) if usual else Setting("store", None, "default")


def choose_store(world: World, settings: Settings, store: str | None = None, *, source: str = "--store") -> StoreChoice:
    """Select the store. It is not opened, and need not exist.

    A store given by path or URI is read-only if a file names the same store as read-only.

    Args:
        world: The environment and the folders.
        settings: The settings of the files.
        store: ``--store``: a store's name, a URI or a path.
        source: What gives `store`, for errors.

    Raises:
        UnknownStoreError: An option or a variable is not the name of a store, a URI or a path.
        ConfigError: The chosen store needs a variable that is not set.
        NoStoreError: No store is selected.
    """
    choice = _chosen(world, settings, store, source)
    if choice.name is not None or choice.readonly:
        return choice
    for entry in settings.stores.values():
        if entry.readonly and not entry.problem and same_store(choice.uri, entry.uri):
            return choice._replace(readonly=True, readonly_at=entry.readonly_at)
    return choice


def _chosen(world: World, settings: Settings, store: str | None, source: str) -> StoreChoice:
    if store is not None:
        return _named(world, settings, store, source)
    for variable in (LENS_STORE, FLUJO_STATE_URI):
        if world.env.get(variable):
            choice = _named(world, settings, world.env[variable], variable)
            return choice._replace(overridden=_conflict(choice, settings.default))
    if settings.default:
        return _of_entry(settings.default.entry, settings.default.source)
    usual = _usual_store(world)
    if usual is None:
        raise _no_store(world, settings)
    return usual


def _named(world: World, settings: Settings, text: str, source: str) -> StoreChoice:
    """The store named by an option or a variable; FLUJO_STATE_URI, which is the library's, never holds a name."""
    if source != FLUJO_STATE_URI and text in settings.stores:
        return _of_entry(settings.stores[text], source)
    if not text.strip():
        raise UnknownStoreError(f"{source} is empty", hint="name a store, a URI or a path")
    if source == FLUJO_STATE_URI or "://" in text or looks_like_path(text, world.cwd):
        return StoreChoice(absolute_uri(text, world.cwd, world.env), None, source, readonly=False)
    raise UnknownStoreError(
        f'{source} names "{text}": {_no_such_store(text, settings.stores)}',
        hint=f"a path has a slash or ends in .db{f': ./{text}' if text.isprintable() else ''}",
        value=text,
        near=nearest(text, settings.stores),
    )


def _of_entry(entry: StoreEntry, source: str) -> StoreChoice:
    if entry.problem:
        raise ConfigError(entry.problem, hint="set it, or select another store with --store; see lens stores")
    return StoreChoice(entry.uri, entry.name or None, source, entry.readonly, readonly_at=entry.readonly_at)


def _usual_store(world: World) -> StoreChoice | None:
    path = world.cwd / USUAL_STORE
    if not (isfile(path) or islink(path)):  # a broken link is an error, not an absent store
        return None
    return StoreChoice(f"sqlite:///{path}", None, f"{USUAL_STORE} in this folder", readonly=False)


def _conflict(choice: StoreChoice, default: DefaultStore | None) -> str | None:
    if default is None or (not default.entry.problem and same_place(choice.uri, default.entry.uri)):
        return None
    taken, variable = _label(choice), choice.source
    return f"{variable} names {taken}; {default.place} names {_label(default.entry)}: taking {variable}"


def _label(store: StoreEntry | StoreChoice) -> str:
    return store.name or masked_text(store.uri)


def _no_store(world: World, settings: Settings) -> NoStoreError:
    message = f"no store is selected, and {world.cwd} has no {USUAL_STORE}"
    if settings.stores:
        name = next(iter(settings.stores))
        message += f"; the files name {', '.join(settings.stores)}, but no default"
        first = f"lens --store {name} list"
    else:
        first = "lens --store sqlite:///path/to.db list"
    tried = "lens status --store flujo_demo.db" if isfile(world.cwd / "flujo_demo.db") else "lens demo"
    rest = f"or set {LENS_STORE}, or default = ... in lens.toml; to try lens: {tried}"
    return NoStoreError(message, hint=f"{first}\n{rest}")
