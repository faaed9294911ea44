"""The user's folders, where there are any: a container or a service may have no HOME, and no entry in passwd."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from flujo_lens.errors import ConfigError

__all__ = ["cache_folder", "config_folder", "current_folder", "expand_home", "home_folder", "state_folder"]

_NAME = "flujo-lens"


def current_folder() -> Path:
    """The current folder; where that was deleted, the path that it had: an absolute --store still has to work."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.path.join("/", os.environ.get("PWD", "")))


def home_folder(env: Mapping[str, str]) -> str | None:
    """HOME if it is an absolute path, else the home of the user's entry in passwd; None if there is neither."""
    given = env.get("HOME", "")
    if os.path.isabs(given):
        return given
    try:
        import pwd

        entry = pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return None
    return entry if os.path.isabs(entry) else None


def config_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of the user's settings; None if the user has none."""
    return _user_folder(env, "XDG_CONFIG_HOME", ".config", "user_config_path")


def cache_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of the user's caches; None if the user has none."""
    return _user_folder(env, "XDG_CACHE_HOME", ".cache", "user_cache_path")


def state_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of what is kept for the user between commands; None if the user has none."""
    return _user_folder(env, "XDG_STATE_HOME", ".local/state", "user_state_path")


def _user_folder(env: Mapping[str, str], variable: str, below_home: str, elsewhere: str) -> Path | None:
    if sys.platform != "linux":
        import platformdirs

        try:
            return Path(getattr(platformdirs, elsewhere)(_NAME, appauthor=False))
        except RuntimeError:  # it finds no home
            return None
    # What platformdirs answers; to import it takes longer than all the rest.
    base = env.get(variable, "")
    if os.path.isabs(base):
        return Path(base, _NAME)
    home = home_folder(env)
    return None if home is None else Path(home, below_home, _NAME)


def expand_home(text: str, env: Mapping[str, str]) -> str:
    """`text` with ``~`` and ``~user`` at its beginning replaced, as in a shell; a user who does not exist stays.

    Raises:
        ConfigError: ``~`` stands there, and this user has no home.
    """
    if text != "~" and not text.startswith("~/"):
        return os.path.expanduser(text)
    home = home_folder(env)
    if home is None:
        raise ConfigError(
            f'"{text}" is in a home folder, and this user has none: HOME is not set, and there is no entry in passwd',
            hint="write the whole path, or set HOME",
        )
    return home + text[1:]
