"""`PipelineRegistry`: pipelines by name and version; and finding an application's own by ``module:attribute``."""

from __future__ import annotations

import importlib
import os
import re
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

__all__ = ["PipelineRegistry", "load_attribute", "version_key"]


class PipelineRegistry:
    """Pipelines by name and version.

    A version that stored runs began with may stay registered beside newer ones: such runs go on with it.
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
        """Register a pipeline; again, as where a module is loaded twice, as long as its shape is the same.

        Args:
            pipeline: The pipeline; a step is one of itself alone.
            name: Its name.
            version: Its version; numbers in it count as numbers, so that 1.10 is newer than 1.9.
            migrations: From which older version a saved context gets to this one, and how. Of several versions
                each leads on to the next.

        Raises:
            UsageError: the name or the version is empty, or the version is "latest"; or another pipeline has them.
        """
        if not name or not version or version == "latest":
            raise UsageError(
                f'a pipeline needs a name and a version of its own, not "{name}" and "{version}"',
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
                f'another pipeline is registered as "{name}" {version} already',
                hint="give the changed one a version of its own; stored runs go on with the one they began with",
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
        """`latest`, under the library's name for it."""
        return self.latest(name)

    def get_latest_version(self, name: str) -> str | None:
        """The newest version of that name, or None."""
        return next(reversed(self.versions(name)), None)

    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(sorted(self._pipelines))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a name, the oldest first; none if it is not registered."""
        return tuple(sorted(self._pipelines.get(name, ()), key=version_key))

    def find(self, name: str, version: str) -> tuple[Pipeline, str]:
        """The pipeline, and its version in full ("latest" is no version).

        Raises:
            UnknownValueError: there is none; says what there is.
        """
        pipeline = self.get(name, version)
        if name not in self._pipelines:
            raise UnknownValueError.of("registered pipeline", name, self.names() or ("none",))
        if pipeline is None:
            raise UnknownValueError.of(f"version of {name}", version, self.versions(name))
        return pipeline, str(self.get_latest_version(name) if version == "latest" else version)

    def migrations(self, name: str, old: str, new: str) -> tuple[MigrationFunction, ...] | None:
        """What leads a saved context from the version `old` to `new`, in order, by as few steps as may be.

        Returns:
            None if nothing does; nothing to do (an empty tuple) if they are the same.
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
    """By this versions sort: numbers as numbers, and 1.0.0rc1 and 1.0.0-rc1 before 1.0.0."""
    release, mark, rest = re.split(r"([-a-z+]|$)", version.lower().removeprefix("v"), maxsplit=1)
    numbers = tuple(int(part) for part in release.split(".") if part.isdigit())
    trimmed = numbers[: len(numbers) - next((i for i, n in enumerate(reversed(numbers)) if n), len(numbers))]
    tail = tuple(
        (part.isdigit(), int(part) if part.isdigit() else part) for part in re.findall(r"\d+|\D+", mark + rest)
    )
    return trimmed, mark in ("", "+"), tail, version


def load_attribute(spec: str, app_dir: Path | str | None = None) -> Any:
    """What an application calls ``module:attribute``.

    Args:
        spec: Its name; the attribute may have dots.
        app_dir: The folder from which it can be imported beside what is installed; the current one by default.

    Raises:
        UsageError: `spec` is no such name.
        AppNotFoundError: the module cannot be imported, or has no such attribute.
    """
    module, colon, attribute = spec.partition(":")
    if not (colon and module and attribute):
        raise UsageError(f'"{spec}" is not of the form module:attribute', hint="--app myapp.pipelines:registry")
    folder = str(Path(app_dir or ".").resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found = _imported(module, folder)
    for name in attribute.split("."):
        found = _attribute(spec, found, name)
    return found


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
    """An attribute; a module may make it when it is asked for."""
    try:
        return getattr(found, name)
    except AttributeError as error:
        there = [each for each in dir(found) if not each.startswith("_")]
        raise AppNotFoundError.without_attribute(spec, name, there) from error
    except BaseException as error:
        as_exception(error)
        raise AppNotFoundError.failing(spec, error, describe(error)) from error
