"""Whether the installed version of the library (``flujo``) may open a store: asked before it sees the file.

0.4 takes a database of 0.6 for a damaged one and renames it; 0.6 migrates one of 0.4 at the first open, without
asking, and the application that owns it fails from then on. The same in small: 0.6 refuses a context of 0.4, and 0.4
drops what only a context of 0.6 has.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flujo_lens.errors import LibraryVersionError, NotSupportedError
from flujo_lens.state.backends.base import StateBackend

__all__ = ["check_context", "check_store", "installed_version", "series_of"]

OLD, NEW = "0.4", "0.6"

_INSTALL = {
    OLD: "pip install 'flujo<0.5'",
    NEW: "pip install 'flujo>=0.6' (which needs Python 3.13 or newer)",
}
_HARM = {
    OLD: "takes such a database for a damaged one and renames it to *.corrupt.*",
    NEW: "migrates it at the first open, and the application that owns it would fail from then on",
}
_MIGRATE = "\nif the application has moved to 0.6: lens migrate first, which makes a backup"


def installed_version() -> str | None:
    """The version of the library in this environment; None without one."""
    try:
        return version("flujo")
    except PackageNotFoundError:
        return None


def series_of(number: str) -> str:
    """The series whose stores a version has: ``0.4`` for all before 0.5, ``0.6`` for all others."""
    parts = [int(part) if part.isdigit() else 0 for part in f"{number}.0".split(".")[:2]]
    return OLD if parts < [0, 5] else NEW


async def check_store(backend: StateBackend) -> None:
    """See that the installed library may open a store. Without a library, or with no database, it may.

    Raises:
        LibraryVersionError: it is of another version; it has not seen the file.
    """
    number = installed_version()
    try:
        theirs = (await backend.read_facts()).get("library")
    except NotSupportedError:
        return
    if number is None or theirs is None or series_of(number) == theirs:
        return
    path = getattr(backend, "path", None)
    name = path.name if isinstance(path, Path) else "the store"
    raise LibraryVersionError(
        f"{name} is a database of flujo {theirs}, and flujo {number} is installed, which {_HARM[series_of(number)]}: "
        "it was not opened by it",
        hint=_hint(theirs) + (_MIGRATE if theirs == OLD else ""),
        installed=number,
        store=theirs,
    )


def check_context(run_id: str, state: Mapping[str, Any]) -> None:
    """See that the installed library can read the context of a run.

    Raises:
        LibraryVersionError: it is one of another version.
    """
    number, theirs = installed_version(), _series_of_state(state)
    if number is None or theirs is None or series_of(number) == theirs:
        return
    harm = "refuses its scratchpad" if theirs == OLD else "would drop what it does not know"
    raise LibraryVersionError(
        f"the context of {run_id} is of flujo {theirs}, and flujo {number} is installed, which {harm}; "
        "nothing was changed",
        hint=_hint(theirs),
        run_id=run_id,
        installed=number,
        store=theirs,
    )


def _series_of_state(state: Mapping[str, Any]) -> str | None:
    """The series that wrote a context: by what only one of them has in it; None if nothing tells."""
    context = state.get("pipeline_context")
    context = context if isinstance(context, dict) else {}
    if "scratchpad" in context:
        return OLD
    return NEW if {"hitl_data", "import_artifacts"} <= context.keys() else None


def _hint(series: str) -> str:
    return (
        f"in the application's environment: {_INSTALL[series]},\n"
        "then run lens there: /path/to/venv/bin/python -m flujo_lens ..."
    )
