"""`Application`: the pipelines of a program, loaded from ``--app module:attribute``."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flujo_lens.errors import AppNotFoundError, UsageError
from flujo_lens.runner.application_code import as_exception, describe, end_child
from flujo_lens.runner.context import PipelineContext
from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.engine import Flujo
from flujo_lens.runner.registry import PipelineRegistry, load_attribute
from flujo_lens.runner.resume_point import Source
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.interpret import NAMELESS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flujo_lens.runner.flujo_adapter import Library

_KINDS = "a Flujo, a PipelineRegistry, a Pipeline, or a function that returns one of them"


class Named(NamedTuple):
    """A pipeline under its name and version."""

    name: str
    version: str
    pipeline: Pipeline


@dataclass(frozen=True)
class Application:
    """The pipelines of an application.

    Attributes:
        target: Its ``module:attribute``.
        source: Its code: a pipeline, a registry, or both.
        context_model: The type of the context.
        lease: Seconds of a claim; None for the default.
        library: The adapter for an object of the library; None for an application of lens. Of the library's pipelines,
            only the shapes are known here.
    """

    target: str
    source: Source
    context_model: type[BaseModel] = PipelineContext
    lease: float | None = None
    library: Library | None = None

    @property
    def registry(self) -> PipelineRegistry | None:
        """The registry; None for an application with a single pipeline."""
        return self.source.registry

    def pipelines(self) -> tuple[Named, ...]:
        """All pipelines by name, oldest version first. A single pipeline may be named "unknown", "latest"."""
        source, registry = self.source, self.source.registry
        if registry is None or source.pipeline is not None:
            pipeline, version = source.for_new()
            return (Named(source.name, version, pipeline),)
        return tuple(
            Named(name, version, registry.find(name, version)[0])
            for name in registry.names()
            for version in registry.versions(name)
        )

    def pipeline(self, name: str, version: str) -> Pipeline | None:
        """The pipeline of that name and version ("latest": the newest), or None.

        A single pipeline without a name or version matches any.
        """
        source = self.source
        if source.pipeline is not None and source.name in (name, *NAMELESS) and source.version in (version, "latest"):
            return source.pipeline
        return None if source.registry is None else source.registry.get(name, version)

    def source_for(self, name: str, version: str | None = None) -> Source:
        """The code for stored runs of a pipeline.

        Args:
            name: The name in the runs; "unknown" without one.
            version: The version to use; None for the version of the runs, if it is registered.

        Raises:
            UsageError: the requested version is not registered.
        """
        source = self.source
        known = source.name if name in NAMELESS else name
        if version is None:
            if source.pipeline is not None or source.name == known:
                return source
            return Source(None, source.registry, known, "latest")
        if source.registry is not None and known not in NAMELESS:
            return Source(*_found(source.registry, known, version))
        if source.version not in (version, "latest"):
            raise UsageError(
                f"{self.target} has only version {source.version}, not {version}",
                hint="register both in a PipelineRegistry, and give that with --app",
            )
        return source._replace(version=version)

    def runner(self, backend: StateBackend, name: str, version: str | None = None) -> Flujo[Any]:
        """A runner for stored runs of a pipeline; name and version as for `source_for`."""
        source = self.source_for(name, version)
        return Flujo(
            source.pipeline,
            registry=source.registry,
            pipeline_name=source.name,
            pipeline_version=source.version,
            state_backend=backend,
            context_model=self.context_model,
            lease=self.lease,
        )


def load_application(target: str, app_dir: Path | str | None = None) -> Application:
    """Import an application.

    Args:
        target: ``module:attribute`` of a `Flujo`, a `PipelineRegistry`, a `Pipeline` or a `Step`, of lens or the
            library, or of a function without arguments that returns one.
        app_dir: An additional folder to import from; by default, the current one.

    Raises:
        UsageError: `target` is malformed, or is something else.
        AppNotFoundError: it cannot be imported, or raises on import.
    """
    found = load_attribute(target, app_dir)
    made = _application(target, found)
    if made is None and callable(found) and not inspect.isclass(found):
        made = _application(target, _called(target, found))
    if made is None:
        raise UsageError(
            f"{target} has the type {type(found).__name__}; it must be {_KINDS}, or the same of the library"
        )
    return made


def _application(target: str, found: Any) -> Application | None:
    if isinstance(found, Flujo):
        return Application(target, found.source, found.context_model, found.lease)
    if isinstance(found, Step):
        found = Pipeline.from_step(found)
    if isinstance(found, Pipeline):
        return Application(target, Source(found, None, "unknown", "latest"))
    if isinstance(found, PipelineRegistry):
        return Application(target, _source_of(found))
    if type(found).__module__.partition(".")[0] == "flujo":
        from flujo_lens.runner.flujo_adapter import library_of

        library = library_of(target, found)
        return Application(target, library.source, _any_context(), library=library)
    return None


def _any_context() -> type[BaseModel]:
    """A context model that accepts any context, since the library validates its own."""
    from pydantic import ConfigDict, create_model

    return create_model("AnyContext", __config__=ConfigDict(extra="allow"))


def _source_of(registry: PipelineRegistry) -> Source:
    names = registry.names()
    return Source(None, registry, names[0] if len(names) == 1 else "unknown", "latest")


def _found(registry: PipelineRegistry, name: str, version: str) -> tuple[Pipeline, PipelineRegistry, str, str]:
    pipeline, full = registry.find(name, version)
    return pipeline, registry, name, full


def _called(target: str, function: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{target} is an async function; --app takes only plain functions")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{target} cannot be called without arguments: {error}") from error
    pid = os.getpid()
    try:
        made = function()
    except BaseException as error:
        end_child(pid, error)
        as_exception(error)
        raise AppNotFoundError.failing(target, error, describe(error)) from error
    end_child(pid, None)
    return made
