"""Reading settings files, with line numbers and checks of values.

The settings themselves are in `flujo_lens.config`. This module finds and reads files, maps keys to line numbers,
replaces ``${VAR}``, checks values, and makes store URIs absolute as texts. It opens and creates no store.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.errors import ConfigError, TimeFormatError, nearest
from flujo_lens.folders import config_folder, current_folder, expand_home
from flujo_lens.redaction import masked_text

LENS_TOML = "lens.toml"
PYPROJECT = "pyproject.toml"
PYPROJECT_TABLE = ("tool", "flujo-lens")
FLUJO_TOML = "flujo.toml"
FLUJO_KEYS = (("state_uri",), ("settings", "state_uri"))


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """The environment of the settings.

    Attributes:
        env: The environment variables.
        cwd: The current folder, absolute.
        user_config_dir: The folder of the user's lens.toml; None for the platform's default.
        etc_dir: The folder of the machine's lens.toml.
    """

    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    cwd: Path = field(default_factory=current_folder)
    user_config_dir: Path | None = None
    etc_dir: Path = Path("/etc/flujo-lens")


class SourceFile(NamedTuple):
    """A settings file, or the part of it for lens.

    Attributes:
        path: The file, absolute.
        kind: "lens.toml" (also for a file given by ``--config``), "pyproject.toml" or "flujo.toml".
        data: The settings in it, as TOML gives them (of a flujo.toml: ``default``).
        text: The whole text, for line numbers.
        root: The path of `data` inside the file.
        renamed: Keys of `data` with another path in the file.
        distrust: Why a file that was not named explicitly may be written by another user ("belongs to ana"); or None.
    """

    path: Path
    kind: str
    data: Mapping[str, Any]
    text: str
    root: tuple[str, ...] = ()
    renamed: Mapping[str, tuple[str, ...]] = {}
    distrust: str | None = None

    def line(self, *key: str) -> int | None:
        """The line of `key`, counted from 1, or of its nearest table; None if not found."""
        target = self.renamed.get(key[0], (*self.root, *key))
        index = _line_index(self.text)
        if target in index:
            return index[target]
        inside = [line for place, line in index.items() if place[: len(target)] == target]
        around = [index[target[:size]] for size in range(len(target) - 1, 0, -1) if target[:size] in index]
        return next(iter(inside + around), None)

    def source(self, *key: str) -> str:
        """The source of `key` in `lens config`: "path:line", or the path and pyproject's table."""
        if self.root:
            return f"{self.path} [{'.'.join(self.root)}]"
        line = self.line(*key)
        return f"{self.path}:{line}" if line else str(self.path)

    def place(self, *key: str, cwd: Path | None = None) -> str:
        """The place of `key` in messages: "path (line 4)"; a file in `cwd` by its name alone."""
        name = self.path.name if self.path.parent == cwd else str(self.path)
        line = self.line(*key)
        return f"{name} (line {line})" if line else name

    def error(self, key: tuple[str, ...], message: str, hint: str | None = None) -> ConfigError:
        """The error at `key`: file, line, key and `message`."""
        name = ".".join(self.renamed.get(key[0], key))
        said = f"{self.place(*key)}: {name} {message}"
        return ConfigError(said, hint=hint, file=str(self.path), line=self.line(*key), key=name)


_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_NAME = rf"(?P<name>{_PART}(?:\s*\.\s*{_PART})*)"
_HEADER = rf"\s*\[{{1,2}}\s*{_NAME}\s*\]{{1,2}}\s*(?:#.*)?$"
_KEY = rf"\s*{_NAME}\s*="


@lru_cache(maxsize=8)
def _line_index(text: str) -> dict[tuple[str, ...], int]:
    """The first line of each table and key of a TOML text (best effort, as tomllib has no line numbers)."""
    index: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(_HEADER, line):
            table = _parts(header["name"])
            index.setdefault(table, number)
        elif key := re.match(_KEY, line):
            index.setdefault((*table, *_parts(key["name"])), number)
    return index


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, name))


def read_files(world: World, config: str | None, named_by: str = "--config") -> tuple[SourceFile, ...]:
    """Read the settings files, in order of precedence.

    Args:
        world: The environment.
        config: The only file to read, relative to the current folder.
        named_by: The source of `config`, for messages.

    Raises:
        ConfigError: A file cannot be read, is not UTF-8, or is not TOML; `config` does not exist.
    """
    if config is not None:
        return (_read_named(world, config, named_by),)
    user = _user_config_dir(world)
    found = [
        _met(_first(_lens_file, _upward(world.cwd, LENS_TOML)), world),
        _met(_first(_pyproject_file, _upward(world.cwd, PYPROJECT)), world),
        _met(_first(_flujo_file, _upward(world.cwd, FLUJO_TOML), only_nearest=True), world),
        _first(_lens_file, _in_folder(user) if user else iter(())),
        _first(_lens_file, _in_folder(world.etc_dir)),
    ]
    return tuple({file.path: file for file in found if file}.values())


def _met(file: SourceFile | None, world: World) -> SourceFile | None:
    """A file found by searching upward, with the reason to distrust it."""
    return file and file._replace(distrust=_distrust(file.path, world))


def _distrust(path: Path, world: World) -> str | None:
    """Why a user other than this one, root, or the caller of sudo may have written a file; or None."""
    user = os.geteuid()
    trusted = {str(user), "0", *([world.env["SUDO_UID"]] if user == 0 and world.env.get("SUDO_UID") else ())}
    try:
        link, found = os.lstat(path), os.stat(path)
    except OSError:
        return "is not accessible"
    for each in (link, found):
        if str(each.st_uid) not in trusted:
            return f"belongs to {_user_name(each.st_uid)}"
    return "is writable by all users" if found.st_mode & stat.S_IWOTH else None


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _first(
    read: Callable[[Path], SourceFile | None], paths: Iterator[Path], *, only_nearest: bool = False
) -> SourceFile | None:
    """The first of `paths` with settings for lens, or with `only_nearest`, the first path if it has any."""
    for path in paths:
        file = read(path)
        if file is not None or only_nearest:
            return file
    return None


def _upward(folder: Path, name: str) -> Iterator[Path]:
    for each in (folder, *folder.parents):
        yield from _in_folder(each, name)


def _in_folder(folder: Path, name: str = LENS_TOML) -> Iterator[Path]:
    path = folder / name
    if os.path.isfile(path):  # unlike Path.is_file, False without permission for the folder
        yield path


def _user_config_dir(world: World) -> Path | None:
    if world.user_config_dir is not None:
        return world.user_config_dir
    return config_folder(world.env)


def _read_named(world: World, config: str, named_by: str) -> SourceFile:
    path = Path(absolute_path(config, world.cwd, world.env))
    try:
        os.stat(path)
    except PermissionError as error:
        raise ConfigError(f"{named_by}: cannot access {path}: {error.strerror}", file=str(path)) from error
    except (OSError, ValueError):
        raise ConfigError(f"{named_by}: no such file: {path}", file=str(path)) from None
    readers = {PYPROJECT: _pyproject_file, FLUJO_TOML: _flujo_file}
    file = readers.get(path.name, _lens_file)(path)
    if file is None:
        wanted = "[tool.flujo-lens] table" if path.name == PYPROJECT else "state_uri"
        raise ConfigError(f"{named_by}: {path} has no {wanted}", file=str(path))
    return file


def _lens_file(path: Path) -> SourceFile:
    text = _read(path)
    return SourceFile(path, LENS_TOML, _parse(path, text), text)


def _pyproject_file(path: Path) -> SourceFile | None:
    text = _read(path)
    if PYPROJECT_TABLE[1] not in text:  # not checked, and slow to parse if long
        return None
    tool = _parse(path, text).get("tool")
    table = tool.get(PYPROJECT_TABLE[1]) if isinstance(tool, dict) else None
    return SourceFile(path, PYPROJECT, table, text, PYPROJECT_TABLE) if isinstance(table, dict) else None


def _flujo_file(path: Path) -> SourceFile | None:
    text = _read(path)
    if "state_uri" not in text:
        return None
    whole = _parse(path, text)
    for place in FLUJO_KEYS:
        value: Any = whole
        for part in place:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            if isinstance(value, str):
                value = value.replace("$$", "$$$$")  # the library does not support "$$"
            return SourceFile(path, FLUJO_TOML, {"default": value}, text, renamed={"default": place})
    return None


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", file=str(path)) from exc
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        message = f"{path} (line {line}): not UTF-8 text"
        raise ConfigError(message, hint="save the file as UTF-8", file=str(path), line=line) from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # TOMLDecodeError, or a number with thousands of digits
        at = re.search(r"at line (\d+)", str(exc))
        line = int(at[1]) if at else text.rstrip("\n").count("\n") + 1
        message = f"{path} (line {line}): not valid TOML: {exc}"
        hint = 'texts need quotes: default = "prod"'
        raise ConfigError(message, hint=hint, file=str(path), line=line) from exc


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``${VAR}`` by the variable and ``$$`` by ``$``; any other ``$`` stays.

    Raises:
        KeyError: A variable is not set; the argument is its name.
    """
    return re.sub(r"\$\$|\$\{([^}]*)\}", lambda hit: "$" if hit[0] == "$$" else env[hit[1]], text)


def absolute_path(text: str, base: Path, env: Mapping[str, str]) -> str:
    """The absolute path of `text` relative to `base`, with ``~`` replaced, without ``.`` and ``..``.

    Raises:
        ConfigError: ``~`` cannot be resolved.
    """
    return _normal(os.path.join(base, expand_home(text, env)))


def absolute_uri(text: str, base: Path, env: Mapping[str, str]) -> str:
    """Make the URI or path of a store absolute: paths and ``sqlite:///relative`` are relative to `base`.

    ``sqlite:////absolute``, ``file:///absolute`` and other schemes are unchanged; a query after ``?`` stays. Nothing
    is percent-encoded or decoded. ``file:states`` and ``sqlite:runs.db`` are relative paths.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in ("file", "sqlite") and not rest.startswith("//"):
        path, mark, query = rest.partition("?")
        return f"{scheme.lower()}://{'/' * (scheme.lower() == 'sqlite')}{absolute_path(path, base, env)}{mark}{query}"
    if "://" not in text:
        return absolute_path(text, base, env)
    scheme, _, rest = text.partition("://")
    path, mark, query = rest.partition("?")
    if scheme.lower() != "sqlite" or path in ("", "/") or path.endswith(":memory:"):
        return text
    if not path.startswith("//"):
        path = os.path.join(base, path.removeprefix("/"))
    return f"sqlite:///{_normal(path)}{mark}{query}"


def _normal(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/"))


def looks_like_path(text: str, base: Path) -> bool:
    """Whether `text`, which is neither a URI nor the name of a store, looks like a path."""
    wanted = (
        "/" in text or text.startswith((".", "~", "file:", "sqlite:")) or text.endswith((".db", ".sqlite", ".sqlite3"))
    )
    return wanted or os.path.lexists(base / text)


def same_place(one: str, other: str) -> bool:
    """Whether two absolute URIs or paths name the same store, compared as texts."""
    return place_of(one) == place_of(other)


def same_store(one: str, other: str) -> bool:
    """Whether two absolute URIs or paths name the same store, also via links or as different users of a server."""
    place, second = place_of(one), place_of(other)
    if place.startswith("/") and second.startswith("/"):
        return place == second or os.path.realpath(place) == os.path.realpath(second) or _is_same_file(place, second)
    return _without_user(place) == _without_user(second)


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _without_user(uri: str) -> str:
    return re.sub("//[^/?#]*@", "//", uri)


def place_of(uri: str) -> str:
    """The path of a store, or else its normalized URI."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    if scheme.lower() in ("sqlite", "file") and rest.startswith("/"):
        return _normal(rest.partition("?")[0])
    return re.sub("^postgres://", "postgresql://", uri)


class WrongValueError(Exception):
    """A value has the wrong type.

    Args:
        must: The rest of a sentence that starts with the key: "must be true or false, not a list".
        hint: What to write instead.
    """

    def __init__(self, must: str, hint: str | None = None) -> None:
        super().__init__(must)
        self.must = must
        self.hint = hint


def describe(value: Any) -> str:
    """A TOML value for messages, with passwords masked."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{masked_text(value)}"'
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return "a date or time"


def check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValueError(f"must be a string in quotes, not {describe(value)}")
    if not value:
        raise WrongValueError("must not be empty")
    check_printable(value)
    return value


def check_printable(text: str) -> None:
    """Refuse control characters, which no name, path or URI should have."""
    if found := re.search("[\x00-\x1f\x7f-\x9f]", text):
        hint = "in double quotes, a backslash starts an escape: double it, or use single quotes"
        raise WrongValueError(f"must not contain the control character {found[0]!a}", hint)


def check_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError(f"must be true or false, not {describe(value)}")
    return value


def check_duration(value: Any) -> timedelta:
    from flujo_lens.state.typed_times import parse_duration  # not needed for the settings of most commands

    try:
        return parse_duration(check_text(value))
    except TimeFormatError as exc:
        raise WrongValueError(f'must be a duration like "1h", not {describe(value)}', exc.hint) from exc


def check_age(value: Any) -> str:
    check_duration(value)
    return check_text(value)


def check_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongValueError(f"must be a whole number, 0 or more, not {describe(value)}")
    return value


def check_share(value: Any) -> float:
    """A share from 0 to 1, given as a percentage: "5%"."""
    text = check_text(value).strip()
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 <= share <= 1:
        raise WrongValueError(f'must be a percentage like "5%", not {describe(value)}')
    return share


def check_seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise WrongValueError(f"must be a number of seconds, 0 or more, not {describe(value)}")
    return float(value)


def check_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WrongValueError(f"must be a list of texts, not {describe(value)}", 'for example: ["*ssn*"]')
    return tuple(value)


def check_driver(value: Any) -> str:
    module, _, name = check_text(value).partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise WrongValueError(f'must be "module:Class", not {describe(value)}')
    return f"{module}:{name}"


def check_zone(value: Any) -> tzinfo:
    if check_text(value).upper() == "UTC":
        return UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(value)
    except (KeyError, ValueError, OSError) as exc:
        near = nearest(value, zoneinfo.available_timezones())
        hint = f"Did you mean {near}?" if near else 'for example: "America/Lima"'
        raise WrongValueError(f"must be a known time zone, not {describe(value)}", hint) from exc
