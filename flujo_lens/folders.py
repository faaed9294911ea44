"""The user's folders. In a container or service, there may be no HOME and no passwd entry."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from flujo_lens.errors import ConfigError

_NAME = "flujo-lens"


def current_folder() -> Path:
    """The current folder, or its former path if it was deleted, so that an absolute --store still works."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.path.join("/", os.environ.get("PWD", "")))


def home_folder(env: Mapping[str, str]) -> str | None:
    """HOME if it is an absolute path, else the home folder in passwd, or None."""
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
    """The folder of the user's settings, or None."""
    return _user_folder(env, "XDG_CONFIG_HOME", ".config", "user_config_path")


def cache_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of the user's caches, or None."""
    return _user_folder(env, "XDG_CACHE_HOME", ".cache", "user_cache_path")


def state_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of the user's state files, or None."""
    return _user_folder(env, "XDG_STATE_HOME", ".local/state", "user_state_path")


def _user_folder(env: Mapping[str, str], variable: str, below_home: str, elsewhere: str) -> Path | None:
    if sys.platform != "linux":
        import platformdirs

        try:
            return Path(getattr(platformdirs, elsewhere)(_NAME, appauthor=False))
        except RuntimeError:  # it finds no home
            return None
    # the same as platformdirs, whose import is slow
    base = env.get(variable, "")
    if os.path.isabs(base):
        return Path(base, _NAME)
    home = home_folder(env)
    return None if home is None else Path(home, below_home, _NAME)


def expand_home(text: str, env: Mapping[str, str]) -> str:
    """Replace ``~`` and ``~user`` at the beginning of `text` as a shell does; an unknown user stays.

    Raises:
        ConfigError: ``~`` is used, but the user has no home folder.
    """
    if text != "~" and not text.startswith("~/"):
        return os.path.expanduser(text)
    home = home_folder(env)
    if home is None:
        raise ConfigError(
            f'cannot expand "{text}": the user has no home folder (HOME is not set, and there is no passwd entry)',
            hint="use an absolute path, or set HOME",
        )
    return home + text[1:]
