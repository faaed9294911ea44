"""`PipelineRegistry`: pipelines by name and version; and loading ``module:attribute``."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flujo_lens.errors import AppNotFoundError, UnknownValueError, UsageError
from flujo_lens.runner.application_code import as_exception, describe, end_child
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.manifests import manifest_of
from flujo_lens.runner.migrations import MigrationFunction


class PipelineRegistry:
    """Pipelines by name and version.

    Keep older versions registered as long as stored runs need them: a run resumes with the version it was started with.
    """

    def __init__(self) -> None:
        self._pipelines: dict[str, dict[str, Pipeline]] = {}
        self._migrations: dict[str, dict[str, dict[str, MigrationFunction]]] = {}

    def register(
        self,
        pipeline: Pipeline | Step,
        name: str,
        version: str,
        *,
        migrations: Mapping[str, MigrationFunction] | None = None,
    ) -> None:
        """Register a pipeline. Registering the same shape again is allowed, for modules that are loaded twice.

        Args:
            pipeline: The pipeline, or a single step.
            name: Its name.
            version: Its version; numbers are compared as numbers, so that 1.10 is newer than 1.9.
            migrations: Functions that migrate a saved context to this version, by older version. They are chained
                across versions.

        Raises:
            UsageError: the name or version is empty, the version is "latest", or another pipeline has them.
        """
        if not name or not version or version == "latest":
            raise UsageError(
                f'invalid name or version of a pipeline: "{name}", "{version}"',
                hint='registry.register(pipeline, name="orders", version="1.0.0")',
            )
        made = Pipeline.from_step(pipeline) if isinstance(pipeline, Step) else pipeline
        known = self._pipelines.get(name, {}).get(version)
        if (
            known is not None
            and known is not made
            and manifest_of(known, name, version) != manifest_of(made, name, version)
        ):
            raise UsageError(
                f'another pipeline is already registered as "{name}" {version}',
                hint="register the changed pipeline under a new version; stored runs resume with their own version",
            )
        self._pipelines.setdefault(name, {})[version] = made
        self._migrations.setdefault(name, {})[version] = dict(migrations or {})

    def get(self, name: str, version: str) -> Pipeline | None:
        """The pipeline of that name and version ("latest": the newest), or None."""
        wanted = self.get_latest_version(name) if version == "latest" else version
        return None if wanted is None else self._pipelines.get(name, {}).get(wanted)

    def latest(self, name: str) -> Pipeline | None:
        """The newest pipeline of that name, or None."""
        return self.get(name, "latest")

    def get_latest(self, name: str) -> Pipeline | None:
        """An alias of `latest`, with the library's name."""
        return self.latest(name)

    def get_latest_version(self, name: str) -> str | None:
        """The newest version of that name, or None."""
        return next(reversed(self.versions(name)), None)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._pipelines))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a name, oldest first; empty if it is not registered."""
        return tuple(sorted(self._pipelines.get(name, ()), key=version_key))

    def find(self, name: str, version: str) -> tuple[Pipeline, str]:
        """The pipeline and its version ("latest" resolved).

        Raises:
            UnknownValueError: it is not registered; the message lists what is.
        """
        pipeline = self.get(name, version)
        if name not in self._pipelines:
            raise UnknownValueError.of("registered pipeline", name, self.names() or ("none",))
        if pipeline is None:
            raise UnknownValueError.of(f"version of {name}", version, self.versions(name))
        return pipeline, str(self.get_latest_version(name) if version == "latest" else version)

    def migrations(self, name: str, old: str, new: str) -> tuple[MigrationFunction, ...] | None:
        """The shortest chain of migrations of a saved context from the version `old` to `new`.

        Returns:
            None without a chain; an empty tuple if they are the same version.
        """
        edges = self._migrations.get(name, {})
        ways: dict[str, tuple[MigrationFunction, ...]] = {new: ()}
        waiting = deque([new])
        while waiting and old not in ways:
            here = waiting.popleft()
            for before, migration in edges.get(here, {}).items():
                if before not in ways:
                    ways[before] = (migration, *ways[here])
                    waiting.append(before)
        return ways.get(old)


def version_key(version: str) -> tuple[Any, ...]:
    """The sort key of versions: numbers as numbers, and 1.0.0rc1 and 1.0.0-rc1 before 1.0.0."""
    release, mark, rest = re.split(r"([-a-z+]|$)", version.lower().removeprefix("v"), maxsplit=1)
    numbers = tuple(int(part) for part in release.split(".") if part.isdigit())
    trimmed = numbers[: len(numbers) - next((i for i, n in enumerate(reversed(numbers)) if n), len(numbers))]
    tail = tuple(
        (part.isdigit(), int(part) if part.isdigit() else part) for part in re.findall(r"\d+|\D+", mark + rest)
    )
    return trimmed, mark in ("", "+"), tail, version


def load_attribute(spec: str, app_dir: Path | str | None = None) -> Any:
    """Import ``module:attribute``.

    Args:
        spec: The name; the attribute may contain dots.
        app_dir: An additional folder to import from; by default, the current one.

    Raises:
        UsageError: `spec` is malformed.
        AppNotFoundError: the module cannot be imported, or has no such attribute.
    """
    module, colon, attribute = spec.partition(":")
    if not (colon and module and attribute):
        raise UsageError(f'"{spec}" does not have the form module:attribute', hint="--app myapp.pipelines:registry")
    if "/" in module or module.startswith("."):
        raise _not_a_name(module, attribute)
    folder = str(Path(app_dir or ".").resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = _imported(module, folder)
    except AppNotFoundError as error:
        if module.endswith(".py") and os.path.isfile(os.path.join(folder, module)):
            raise _not_a_name(module, attribute) from error
        raise
    for name in attribute.split("."):
        found = _attribute(spec, found, name)
    return found


def _not_a_name(module: str, attribute: str) -> UsageError:
    """The error for the path of a file instead of the name of a module."""
    folder, name = os.path.split(module.removesuffix(".py").rstrip("/"))
    name = name.lstrip(".")
    elsewhere = f" --app-dir {shlex.quote(folder)}" if folder not in ("", ".") else ""
    return UsageError(
        f'"{module}" is not the name of a module, as in an import statement',
        hint=f"--app {shlex.quote(f'{name}:{attribute}')}{elsewhere}",
    )


def _imported(module: str, folder: str) -> Any:
    pid = os.getpid()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AppNotFoundError.without_module(module, error.name or module, folder) from error
    except BaseException as error:
        end_child(pid, error)
        as_exception(error)
        raise AppNotFoundError.failing(module, error, describe(error)) from error
    end_child(pid, None)
    return found


def _attribute(spec: str, found: Any, name: str) -> Any:
    """Get an attribute, which may be dynamic."""
    try:
        return getattr(found, name)
    except AttributeError as error:
        there = [each for each in dir(found) if not each.startswith("_")]
        raise AppNotFoundError.without_attribute(spec, name, there) from error
    except BaseException as error:
        as_exception(error)
        raise AppNotFoundError.failing(spec, error, describe(error)) from error
