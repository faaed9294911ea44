"""Check that the installed version of the library (``flujo``) supports a store, before it opens the file.

0.4 treats a database of 0.6 as damaged and renames it; 0.6 migrates a database of 0.4 when it opens it, and its
application fails from then on. In the same way, 0.6 refuses a context of 0.4, and 0.4 drops fields of a context of 0.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flujo_lens.errors import LibraryVersionError, NotSupportedError
from flujo_lens.state.backends.base import StateBackend

OLD, NEW = "0.4", "0.6"

_INSTALL = {
    OLD: "pip install 'flujo<0.5'",
    NEW: "pip install 'flujo>=0.6' (which needs Python 3.13 or newer)",
}
_HARM = {
    OLD: "treats such a database as damaged and renames it to *.corrupt.*",
    NEW: "migrates it on opening, after which its application would fail",
}
_OWN_RUNNER = "resume it with the application that started it, with pipelines of flujo_lens: --app MODULE:NAME"
_MIGRATE = "\nif the application now uses 0.6, run lens migrate first, which makes a backup"


def installed_version() -> str | None:
    """The version of the library in this environment; None without one."""
    try:
        return version("flujo")
    except PackageNotFoundError:
        return None


def series_of(number: str) -> str:
    """The series of the store format of a version: ``0.4`` before 0.5, else ``0.6``."""
    parts = [int(part) if part.isdigit() else 0 for part in f"{number}.0".split(".")[:2]]
    return OLD if parts < [0, 5] else NEW


async def check_store(backend: StateBackend) -> None:
    """Check that the installed library supports a store. True without a library or database.

    Raises:
        LibraryVersionError: it has another version; it has not opened the file.
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
        f"{name} is a database of flujo {theirs}, but flujo {number} is installed, which {_HARM[series_of(number)]}; "
        "the library has not opened it",
        hint=_hint(theirs) + (_MIGRATE if theirs == OLD else ""),
        installed=number,
        store=theirs,
    )


def check_context(run_id: str, state: Mapping[str, Any]) -> None:
    """Check that the installed library supports the context of a run.

    Raises:
        LibraryVersionError: the context is of another version.
    """
    number, theirs = installed_version(), _series_of_state(state)
    if number is None or theirs is None or series_of(number) == theirs:
        return
    harm = "refuses its scratchpad" if theirs == OLD else "would drop unknown fields"
    is_own = _is_own(state)
    maker = "flujo_lens.Flujo" if is_own else f"flujo {theirs}"
    raise LibraryVersionError(
        f"the context of {run_id} is of {maker}, but flujo {number} is installed, which {harm}; nothing was changed",
        hint=_OWN_RUNNER if is_own else _hint(theirs),
        run_id=run_id,
        installed=number,
        store=theirs,
    )


def _is_own(state: Mapping[str, Any]) -> bool:
    """Whether the context has the notes of the runner of this package, which 0.4 does not write."""
    context = state.get("pipeline_context")
    return isinstance(context, dict) and {"scratchpad", "status", "current_step"} <= context.keys()


def _series_of_state(state: Mapping[str, Any]) -> str | None:
    """The series that wrote a context, by its specific fields; None if unknown."""
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
