"""The configured stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flujo_lens.config import Settings, StoreChoice, StoreEntry
from flujo_lens.errors import LensError, MissingExtraError
from flujo_lens.redaction import masked_text
from flujo_lens.state.backends.base import capabilities_of
from flujo_lens.state.registry import BUILT_IN, ENTRY_POINTS, driver_name, load_driver, scheme_of

_CHANGING = frozenset({"delete", "undo", "claims"})
"""Capabilities that a store marked read-only does not have."""


def known_stores(
    settings: Settings, chosen: Callable[[], StoreChoice], show_secrets: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of name, uri, driver, capabilities, default and readonly, and the problems with them.

    Args:
        chosen: Returns the selected store; raises if there is none.
        show_secrets: Whether to show passwords.
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


def known_drivers(settings: Settings) -> list[dict[str, Any]]:
    """Rows of scheme, driver, source, package, version, available, capabilities and problem, by scheme.

    A driver that cannot be imported has the reason, or the command that installs what it needs, as its ``problem``;
    the others are listed all the same. Of several drivers for a scheme the one that counts is listed.

    Args:
        settings: The settings, whose ``[drivers]`` come first.
    """
    rows: dict[str, dict[str, Any]] = {}
    for scheme, driver, source, package, version in _drivers(settings):
        if scheme not in rows:
            problem, capabilities = _tried(settings, scheme, driver)
            rows[scheme] = {
                "scheme": scheme,
                "driver": driver,
                "source": source,
                "package": package,
                "version": version,
                "available": problem is None,
                "capabilities": capabilities,
                "problem": problem,
            }
    return [rows[scheme] for scheme in sorted(rows)]


def _drivers(settings: Settings) -> Iterator[tuple[str, str, str, str | None, str | None]]:
    """Scheme, driver, source, package and version; those that come first count."""
    from importlib.metadata import entry_points, packages_distributions, version

    from flujo_lens._version import __version__

    for scheme, driver in settings.drivers.items():
        package = next(iter(packages_distributions().get(driver.partition(".")[0].partition(":")[0], [])), None)
        yield scheme, driver, "settings", package, None if package is None else version(package)
    for scheme, driver in BUILT_IN.items():
        yield scheme, driver, "built in", "flujo-lens", __version__
    for point in entry_points(group=ENTRY_POINTS):
        name, its_version = (None, None) if point.dist is None else (point.dist.name, point.dist.version)
        yield point.name, point.value, "installed", name, its_version


def _tried(settings: Settings, scheme: str, driver: str) -> tuple[str | None, list[str]]:
    try:
        if scheme in settings.drivers:
            settings.check_trusted(f"drivers.{scheme}")
        return None, list(capabilities_of(load_driver(driver)))
    except MissingExtraError as error:
        return f"{error.message}: {error.hint}", []
    except LensError as error:
        return error.message, []
