"""The store that a command writes to, which may not exist yet."""

from __future__ import annotations

import os
import shlex

from flujo_lens.cli.context import App
from flujo_lens.errors import UsageError

_FILES = (".db", ".sqlite", ".sqlite3")
_PATHS = ("sqlite", "file")


def at_target(app: App, text: str) -> App:
    """The invocation with a store to write to. Creates nothing.

    Args:
        text: A name, URI or path. Of a path that does not exist, the ending tells the kind of store.

    Raises:
        UsageError: it does not; or the folder that it is to be created in does not exist.
        LensError: as for `App.store`.
    """
    made = app.at(text)
    choice = made.store
    _check_folder(choice.uri)
    if "://" in choice.uri or os.path.lexists(choice.uri):
        return made
    if text.endswith("/"):
        uri = f"file://{choice.uri}"
    elif choice.uri.endswith(_FILES):
        uri = f"sqlite:///{choice.uri}"
    else:
        raise UsageError(
            f"{text} does not exist, and its name does not tell which kind of store to create; nothing was changed",
            hint=f"an SQLite file: {text}.db, or sqlite:///{text}\na folder of JSON files: {text.rstrip('/')}/",
        )
    vars(made)["store"] = choice._replace(uri=uri)
    return made


def _check_folder(uri: str) -> None:
    """Refuse a path in a folder that does not exist: a mistyped path must not make folders."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() not in _PATHS:
        return
    path = (rest.partition("?")[0].removeprefix("/") if scheme.lower() == "sqlite" else rest) if separator else uri
    folder = os.path.dirname(path.rstrip("/"))
    if folder and not os.path.isdir(folder):
        hint = f"mkdir -p {shlex.quote(folder)}"
        raise UsageError(f"no such folder: {folder}; nothing was changed", hint=hint, path=folder)
