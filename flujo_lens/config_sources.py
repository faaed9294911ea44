"""Where settings are written: the files, their lines, and the values inside them.

Nothing here knows which settings there are (that is `flujo_lens.config`). Files are found and read, places
in them get a line number for messages, ``${VAR}`` is replaced, values are checked, and store URIs are made
absolute as texts: no store is opened, nothing is created.
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
    """What settings depend on outside the program.

    Attributes:
        env: The environment variables.
        cwd: The current folder, absolute.
        user_config_dir: The folder of the user's lens.toml; None: the platform's usual one.
        etc_dir: The folder of the machine's lens.toml.
    """

    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    cwd: Path = field(default_factory=current_folder)
    user_config_dir: Path | None = None
    etc_dir: Path = Path("/etc/flujo-lens")


class SourceFile(NamedTuple):
    """One file that was read, or the part of it that is about lens.

    Attributes:
        path: The file, absolute.
        kind: Its name: "lens.toml" (also for a file named by ``--config``), "pyproject.toml" or "flujo.toml".
        data: The settings in it, as TOML gives them (of a flujo.toml: ``default``).
        text: The whole text, for line numbers.
        root: The path of `data` inside the file.
        renamed: Keys of `data` that stand elsewhere in the file, and where.
        distrust: Why somebody else may have written the file, which nobody named, as in "belongs to ana"; else None.
    """

    path: Path
    kind: str
    data: Mapping[str, Any]
    text: str
    root: tuple[str, ...] = ()
    renamed: Mapping[str, tuple[str, ...]] = {}
    distrust: str | None = None

    def line(self, *key: str) -> int | None:
        """The line of `key`, counted from 1; the nearest table's if need be; None if it is not found."""
        target = self.renamed.get(key[0], (*self.root, *key))
        index = _line_index(self.text)
        if target in index:
            return index[target]
        inside = [line for place, line in index.items() if place[: len(target)] == target]
        around = [index[target[:size]] for size in range(len(target) - 1, 0, -1) if target[:size] in index]
        return next(iter(inside + around), None)

    def source(self, *key: str) -> str:
        """Where `key` was set, as `lens config` shows it: "path:line", or the path and pyproject's table."""
        if self.root:
            return f"{self.path} [{'.'.join(self.root)}]"
        line = self.line(*key)
        return f"{self.path}:{line}" if line else str(self.path)

    def place(self, *key: str, cwd: Path | None = None) -> str:
        """Where `key` stands, as sentences say it: "path (line 4)"; a file in `cwd` by its name alone."""
        name = self.path.name if self.path.parent == cwd else str(self.path)
        line = self.line(*key)
        return f"{name} (line {line})" if line else name

    def error(self, key: tuple[str, ...], message: str, hint: str | None = None) -> ConfigError:
        """The error for what is wrong at `key`: names file and line, then the key, then says `message`."""
        name = ".".join(self.renamed.get(key[0], key))
        said = f"{self.place(*key)}: {name} {message}"
        return ConfigError(said, hint=hint, file=str(self.path), line=self.line(*key), key=name)


_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_NAME = rf"(?P<name>{_PART}(?:\s*\.\s*{_PART})*)"
_HEADER = re.compile(rf"\s*\[{{1,2}}\s*{_NAME}\s*\]{{1,2}}\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*{_NAME}\s*=")


@lru_cache(maxsize=8)
def _line_index(text: str) -> dict[tuple[str, ...], int]:
    """The line at which each table and key of a TOML text first stands (best effort: tomllib tells none)."""
    index: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            table = _parts(header["name"])
            index.setdefault(table, number)
        elif key := _KEY.match(line):
            index.setdefault((*table, *_parts(key["name"])), number)
    return index


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, name))


def read_files(world: World, config: str | None, named_by: str = "--config") -> tuple[SourceFile, ...]:
    """Read the files that hold settings, the one that counts most first.

    Args:
        world: Where to look.
        config: A file that is read in place of all others, relative to the current folder.
        named_by: What named `config`, for messages.

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
    """A file that was met on the way upward, with why it may be somebody else's."""
    return file and file._replace(distrust=_distrust(file.path, world))


def _distrust(path: Path, world: World) -> str | None:
    """Why another user than this one (or root, or who called sudo) may have written a file; None if none may have."""
    user = os.geteuid()
    trusted = {str(user), "0", *([world.env["SUDO_UID"]] if user == 0 and world.env.get("SUDO_UID") else ())}
    try:
        link, found = os.lstat(path), os.stat(path)
    except OSError:
        return "cannot be looked at"
    for each in (link, found):
        if str(each.st_uid) not in trusted:
            return f"belongs to {_user_name(each.st_uid)}"
    return "can be written by every user" if found.st_mode & stat.S_IWOTH else None


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _first(
    read: Callable[[Path], SourceFile | None], paths: Iterator[Path], *, only_nearest: bool = False
) -> SourceFile | None:
    """The first of `paths` that has something for lens, or (`only_nearest`) the first if it has."""
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
    if os.path.isfile(path):  # False, where Path.is_file raises, when the folder must not be entered
        yield path


def _user_config_dir(world: World) -> Path | None:
    if world.user_config_dir is not None:
        return world.user_config_dir
    return config_folder(world.env)


def _read_named(world: World, config: str, named_by: str) -> SourceFile:
    path = Path(absolute_path(config, world.cwd, world.env))
    if not os.path.exists(path):
        raise ConfigError(f"{named_by} names {path}, and there is no such file", file=str(path))
    readers = {PYPROJECT: _pyproject_file, FLUJO_TOML: _flujo_file}
    file = readers.get(path.name, _lens_file)(path)
    if file is None:
        wanted = "[tool.flujo-lens] table" if path.name == PYPROJECT else "state_uri"
        raise ConfigError(f"{named_by} names {path}, which has no {wanted}", file=str(path))
    return file


def _lens_file(path: Path) -> SourceFile:
    text = _read(path)
    return SourceFile(path, LENS_TOML, _parse(path, text), text)


def _pyproject_file(path: Path) -> SourceFile | None:
    text = _read(path)
    if PYPROJECT_TABLE[1] not in text:  # not ours to judge, and parsing a long one takes time
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
                value = value.replace("$$", "$$$$")  # the library that owns the file knows no "$$"
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
    except (ValueError, RecursionError) as exc:  # TOMLDecodeError, or a number of thousands of digits
        at = re.search(r"at line (\d+)", str(exc))
        line = int(at[1]) if at else text.rstrip("\n").count("\n") + 1
        message = f"{path} (line {line}): not valid TOML: {exc}"
        hint = 'texts stand in quotes: default = "prod"'
        raise ConfigError(message, hint=hint, file=str(path), line=line) from exc


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``${VAR}`` by the variable and ``$$`` by ``$``; any other ``$`` stays.

    Raises:
        KeyError: A variable is not set; its argument is the variable's name.
    """
    return re.sub(r"\$\$|\$\{([^}]*)\}", lambda hit: "$" if hit[0] == "$$" else env[hit[1]], text)


def absolute_path(text: str, base: Path, env: Mapping[str, str]) -> str:
    """The path `text`, with ``~`` replaced, absolute against the folder `base`, without ``.`` and ``..``.

    Raises:
        ConfigError: ``~`` stands for no folder.
    """
    return _normal(os.path.join(base, expand_home(text, env)))


def absolute_uri(text: str, base: Path, env: Mapping[str, str]) -> str:
    """Make a store's URI or path absolute: paths and ``sqlite:///relative`` against the folder `base`.

    ``sqlite:////absolute``, ``file:///absolute`` and every other scheme keep their meaning; what follows a
    ``?`` stays. Nothing is percent-encoded or decoded. ``file:states`` and ``sqlite:runs.db`` are relative paths.
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
    """Whether `text`, which is no URI and no store's name, is meant as a path."""
    wanted = (
        "/" in text or text.startswith((".", "~", "file:", "sqlite:")) or text.endswith((".db", ".sqlite", ".sqlite3"))
    )
    return wanted or os.path.lexists(base / text)


def same_place(one: str, other: str) -> bool:
    """Whether two absolute URIs or paths, compared as texts, name the same store."""
    return place_of(one) == place_of(other)


def same_store(one: str, other: str) -> bool:
    """Whether two absolute URIs or paths lead to the same store: by a link too, or as another user of a server."""
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
    """The path of a store that is at one, else its URI in one spelling."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    if scheme.lower() in ("sqlite", "file") and rest.startswith("/"):
        return _normal(rest.partition("?")[0])
    return re.sub("^postgres://", "postgresql://", uri)


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Read a length of time: a whole number and one of ``s m h d w``, as in ``90s 10m 2h 30d 4w``.

    Raises:
        TimeFormatError: It is written differently, or longer than 999999999 days.
    """
    found = re.fullmatch("([0-9]{1,9})([smhdw])", text.strip())
    try:
        if found:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        pass
    raise TimeFormatError(
        f'"{text}" is no length of time',
        hint="write a whole number and a unit: 90s, 10m (minutes), 2h, 30d or 4w; for months, days: 90d",
        value=text,
    )


class WrongValueError(Exception):
    """A value is of the wrong kind.

    Args:
        must: The rest of a sentence that begins with the key: "must be true or false, not a list".
        hint: What to write instead.
    """

    def __init__(self, must: str, hint: str | None = None) -> None:
        super().__init__(must)
        self.must = must
        self.hint = hint


def describe(value: Any) -> str:
    """A TOML value as messages name it; passwords in it are masked."""
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
        raise WrongValueError(f"must be a text in quotes, not {describe(value)}")
    if not value:
        raise WrongValueError("must not be empty")
    check_printable(value)
    return value


def check_printable(text: str) -> None:
    """Raise where a text has a control character: no name, path or URI is meant to."""
    if found := re.search("[\x00-\x1f\x7f-\x9f]", text):
        hint = "in double quotes a backslash begins an escape: write it twice, or use single quotes"
        raise WrongValueError(f"must not hold the control character {found[0]!a}", hint)


def check_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongValueError(f"must be true or false, not {describe(value)}")
    return value


def check_duration(value: Any) -> timedelta:
    try:
        return parse_duration(check_text(value))
    except TimeFormatError as exc:
        raise WrongValueError(f'must be a length of time like "1h", not {describe(value)}', exc.hint) from exc


def check_age(value: Any) -> str:
    check_duration(value)
    return check_text(value)


def check_count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongValueError(f"must be a whole number, 0 or more, not {describe(value)}")
    return value


def check_seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise WrongValueError(f"must be a number of seconds, 0 or more, not {describe(value)}")
    return float(value)


def check_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WrongValueError(f"must be a list of texts, not {describe(value)}", 'like this: ["*ssn*"]')
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
        hint = f"Did you mean {near}?" if near else 'it is written as in "America/Lima"'
        raise WrongValueError(f"must be a known time zone, not {describe(value)}", hint) from exc
