"""The stores that are known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo_lens.config import Settings, StoreChoice, StoreEntry
from flujo_lens.errors import LensError
from flujo_lens.redaction import masked_text
from flujo_lens.state.backends.base import capabilities_of
from flujo_lens.state.registry import driver_name, load_driver, scheme_of

__all__ = ["known_stores"]

_CHANGING = frozenset({"delete", "undo", "claims"})
"""What a store cannot be asked for that its settings call read-only."""


def known_stores(
    settings: Settings, chosen: Callable[[], StoreChoice], show_secrets: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of name, uri, driver, capabilities, default and readonly, and what is wrong with any of them.

    Args:
        settings: The settings.
        chosen: Tells which store is meant; an error if none is.
        show_secrets: Whether passwords are kept.
    """
    problems: list[str] = []
    try:
        choice: StoreChoice | None = chosen()
    except LensError as error:
        choice = None
        problems.append(error.message)
    rows = [
        _row(entry, settings, choice is not None and choice.name == name, problems, entry.problem)
        for name, entry in settings.stores.items()
    ]
    if choice is not None and choice.name not in settings.stores:
        rows.append(_row(choice, settings, True, problems, None))
    if not show_secrets:
        rows = [{**row, "uri": masked_text(row["uri"])} for row in rows]
    return rows, problems


def _row(
    store: StoreEntry | StoreChoice, settings: Settings, default: bool, problems: list[str], problem: str | None
) -> dict[str, Any]:
    driver, capabilities = "", list[str]()
    try:
        scheme = scheme_of(store.uri)
        settings.check_trusted(f"drivers.{scheme}")
        driver = driver_name(scheme, settings.drivers)
        all_of_them = capabilities_of(load_driver(driver))
        capabilities = [name for name in all_of_them if not (store.readonly and name in _CHANGING)]
    except LensError as error:
        problem = problem or error.message
    if problem:
        problems.append(f"{store.name or store.uri}: {masked_text(problem)}")
    return {
        "name": store.name,
        "uri": store.uri,
        "driver": driver,
        "capabilities": capabilities,
        "default": default,
        "readonly": store.readonly,
    }
