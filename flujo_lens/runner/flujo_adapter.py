"""Passes a run of the library (``flujo``) to the library's runner, after comparing and claiming it.

The library is not imported here: an application with one of its objects has imported it. Differences between its
versions are detected by name; 0.4 and 0.6 are supported.

The library does not check versions or shapes, has no lock, continues after a failed step, and treats a cancellation as
the end of the run. So a run is compared by step names and claimed first; a failed run is set back to the failed step;
an interrupted run is left failed, so that it can be resumed.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flujo_lens.errors import LensError, NotSupportedError, OperationFailedError, UsageError, command_line
from flujo_lens.runner import library_models
from flujo_lens.runner.dsl import HUMAN, STEP, Pipeline, Step
from flujo_lens.runner.library_version import check_context, check_store
from flujo_lens.runner.registry import PipelineRegistry
from flujo_lens.runner.resume_point import Source
from flujo_lens.runner.stored_run import Stored
from flujo_lens.state.backends.base import JSONObject, StateBackend

_MANAGERS = ("flujo.application.core.state_manager", "flujo.application.core.execution.state_manager")
_STORES = {True: ("flujo.state.backends.file", "FileBackend"), False: ("flujo.state.backends.sqlite", "SQLiteBackend")}


class _Shape(Pipeline):
    """A pipeline of the library, which may have two steps with the same name."""

    def __post_init__(self) -> None:
        return


@dataclass(frozen=True)
class Library:
    """An object of the library in an application.

    Attributes:
        found: The registry, runner, pipeline or step.
        source: The shapes of its pipelines: names, kinds and order of steps.
    """

    found: Any
    source: Source

    async def check(self, backend: StateBackend, stored: Stored, name: str, version: str) -> None:
        """Check that the library supports a run, before it opens the store and before asking for an answer.

        Raises:
            LibraryVersionError: the installed version does not support the store or the run.
            UsageError: the application does not name the context model of the run.
        """
        await check_store(backend)
        check_context(stored.run_id, stored.state)
        self._context_model(stored, self._pipeline(name, version))

    async def start(self, backend: StateBackend, stored: Stored, name: str, version: str) -> None:
        """Resume a failed or killed run to the next stop. It must be claimed and fit the code.

        Args:
            backend: The store of lens; the library opens it separately.
            name: The name of the pipeline.
            version: The version of the pipeline.
        """
        async with self._runner(backend, stored, name, version) as runner:
            if stored.status == "failed":
                await _set_back(runner.state_backend, stored, name, version)
            else:
                await _completed(runner.state_backend, stored, name, version)
            given = stored.context.get("initial_prompt")
            data = _initial(runner, stored)
            await _watched(runner, stored, lambda: _last(runner.run_async(given, run_id=stored.run_id, **data)))

    async def answer(self, backend: StateBackend, stored: Stored, name: str, version: str, answer: Any) -> None:
        """Resume a waiting run with the answer; otherwise like `start`."""
        async with self._runner(backend, stored, name, version) as runner:
            await _completed(runner.state_backend, stored, name, version)
            paused = await _paused(runner, stored.run_id)
            await _watched(runner, stored, lambda: runner.resume_async(paused, answer))

    @asynccontextmanager
    async def _runner(self, backend: StateBackend, stored: Stored, name: str, version: str) -> AsyncIterator[Any]:
        """A runner of the application or the library on the store, which is closed at the end."""
        pipeline = self._pipeline(name, version)
        model = self._context_model(stored, pipeline)
        store = _opened(backend)
        try:
            if _is_a(self.found, "Flujo"):
                runner = copy.copy(self.found)
                runner.pipeline, runner.state_backend = pipeline, store
                runner.pipeline_name, runner.pipeline_version = name, version
                runner.context_model = model
            else:
                made = importlib.import_module("flujo").Flujo
                given = {"context_model": model, "state_backend": store}
                runner = made(pipeline, pipeline_name=name, pipeline_version=version, **given)
            yield runner
        finally:
            await _closed(store)

    def _context_model(self, stored: Stored, pipeline: Any) -> Any:
        """The context model of the run: of the application, else of the pipeline's steps.

        Raises:
            UsageError: neither names one, but the context has fields that the library's default does not have.
        """
        named = getattr(self.found, "context_model", None) if _is_a(self.found, "Flujo") else None
        return named or library_models.context_model(pipeline, stored)

    def _pipeline(self, name: str, version: str) -> Any:
        registry = self.found if _is_a(self.found, "PipelineRegistry") else getattr(self.found, "registry", None)
        found = registry.get(name, version) if registry is not None else None
        if found is None:
            found = self.found.pipeline if _is_a(self.found, "Flujo") else self.found
        return found


def library_of(target: str, found: Any) -> Library:
    """The adapter for an object of the library.

    Raises:
        UsageError: the object has no pipelines.
    """
    if _is_a(found, "Flujo"):
        own = getattr(found, "pipeline", None)
        registry = None if getattr(found, "registry", None) is None else _registry(found.registry)
        name, version = found.pipeline_name or "unknown", found.pipeline_version
        return Library(found, Source(None if own is None else _shape(own), registry, name, version))
    if _is_a(found, "PipelineRegistry"):
        known = _registry(found)
        names = known.names()
        return Library(found, Source(None, known, names[0] if len(names) == 1 else "unknown", "latest"))
    if _is_a(found, "Pipeline") or _is_a(found, "Step"):
        return Library(found, Source(_shape(found), None, "unknown", "latest"))
    raise UsageError(
        f"{target} is of the type {type(found).__name__} of the library, which has no pipelines",
        hint="name a PipelineRegistry, a Flujo, a Pipeline, or a function that returns one of them",
    )


def _is_a(found: Any, name: str) -> bool:
    """Whether an object is an instance of the library's class with that name."""
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] == "flujo" for cls in type(found).__mro__)


def _registry(found: Any) -> PipelineRegistry:
    made = PipelineRegistry()
    for name, versions in found._store.items():
        for version, pipeline in versions.items():
            made.register(_shape(pipeline), name, version)
    return made


def _shape(found: Any) -> Pipeline:
    steps = found.steps if _is_a(found, "Pipeline") else [found]
    return _Shape(tuple(map(_step, steps)))


def _step(found: Any) -> Step:
    kind = HUMAN if _is_a(found, "HumanInTheLoopStep") else STEP
    schema = getattr(found, "input_schema", None) if kind == HUMAN else _inner_schema(found)
    return Step(str(found.name), kind, message_for_user=getattr(found, "message_for_user", None), input_schema=schema)


def _inner_schema(found: Any) -> Any:
    """The input schema of the only human step inside a loop; None for several or none."""
    body = getattr(found, "loop_body_pipeline", None)
    asking = [step for step in getattr(body, "steps", ()) if _is_a(step, "HumanInTheLoopStep")]
    return getattr(asking[0], "input_schema", None) if len(asking) == 1 else None


# --- the library's own store


def _opened(backend: StateBackend) -> Any:
    """The store of `backend`, opened by the library.

    Raises:
        NotSupportedError: the store is neither a file nor a folder.
    """
    path = getattr(backend, "path", None)
    if not isinstance(path, Path):
        raise NotSupportedError(
            f"the library has no driver for a store of {type(backend).__qualname__}; nothing was changed",
            hint="runs of the library can be resumed only in SQLite files and folders of JSON files",
        )
    module, name = _STORES[path.is_dir()]
    return getattr(importlib.import_module(module), name)(path)


async def _closed(store: Any) -> None:
    for name in ("shutdown", "close"):
        close = getattr(store, name, None)
        if close is not None:
            done = close()
            if asyncio.iscoroutine(done):
                await done
            return


async def _completed(store: Any, stored: Stored, name: str, version: str) -> None:
    """Add to a state what 0.6 needs but does not save during a run: the whole context, and the registered name of
    the pipeline."""
    named = {"pipeline_name": name, "pipeline_version": version}
    is_whole = stored.whole_context is stored.context
    if not is_whole or any(stored.state.get(field) != value for field, value in named.items()):
        await _changed(store, stored.run_id, pipeline_context=stored.whole_context, **named)


async def _set_back(store: Any, stored: Stored, name: str, version: str) -> None:
    """Set a failed run back to the failed step in the form that the library reads."""
    done = stored.done
    context = stored.whole_context
    idle: JSONObject = {"status": "running", "pause_message": None, "hitl_data": {}, "paused_step_input": None}
    await _changed(
        store,
        stored.run_id,
        step_history=done,
        current_step_index=len(done),
        last_step_output=done[-1].get("output") if done else None,
        status="running",
        error_message=None,
        pipeline_name=name,
        pipeline_version=version,
        pipeline_context={**context, **{name: idle[name] for name in idle if name in context}},
    )


async def _changed(store: Any, run_id: str, **fields: Any) -> None:
    state = await store.load_state(run_id)
    if state is not None:
        await store.save_state(run_id, {**state, **fields})


# --- the library's own runner


def _initial(runner: Any, stored: Stored) -> JSONObject:
    """Initial data for a context model with required fields, before the library loads the stored context."""
    model = getattr(runner, "context_model", None)
    fields = getattr(model, "model_fields", {})
    data = {name: value for name, value in stored.whole_context.items() if name in fields}
    return {"initial_context_data": data} if data else {}


async def _last(made: Any) -> Any:
    """The last item of an async iterator, or the awaited result."""
    if not hasattr(made, "__aiter__"):
        return await made
    found = None
    async for item in made:
        found = item
    return found


async def _paused(runner: Any, run_id: str) -> Any:
    """The paused result to pass to the library's runner."""
    models = importlib.import_module("flujo.domain.models")
    manager = _manager()(runner.state_backend)
    model = getattr(runner, "context_model", None) or models.PipelineContext
    if hasattr(manager, "rehydrate_pipeline_result"):
        return await manager.rehydrate_pipeline_result(run_id, model)
    context, _, _, _, _, _, history = await manager.load_workflow_state(run_id, model)
    return models.PipelineResult(step_history=history, final_pipeline_context=context)


def _manager() -> Any:
    for module in _places():
        return module.StateManager
    raise UsageError("this version of the library is not supported: no StateManager was found")


def _places() -> Iterator[Any]:
    for name in _MANAGERS:
        try:
            yield importlib.import_module(name)
        except ModuleNotFoundError:
            continue


async def _watched(runner: Any, stored: Stored, work: Callable[[], Awaitable[Any]]) -> None:
    """Run `work`; an interrupted run is left failed, where the library would mark it cancelled.

    Raises:
        OperationFailedError: the library raised.
        asyncio.CancelledError: it was interrupted.
    """
    task = asyncio.current_task()
    try:
        await work()
    except asyncio.CancelledError:
        await _interrupted(runner, stored.run_id)
        raise
    except LensError:
        raise
    except Exception as error:
        message = f"the library's runner failed on {stored.run_id}: {type(error).__name__}: {error}"
        hint = f"{command_line('show', stored.run_id)} shows its status; --debug shows the traceback"
        raise OperationFailedError(message, hint=hint, run_id=stored.run_id) from error
    if task is not None and task.cancelling():
        await _interrupted(runner, stored.run_id)
        raise asyncio.CancelledError


async def _interrupted(runner: Any, run_id: str) -> None:
    """Leave a run failed at the interrupted step, in the state and the history."""
    state = await runner.state_backend.load_state(run_id) or {}
    done = [entry for entry in state.get("step_history") or () if entry.get("success") is not False]
    steps = runner.pipeline.steps
    name = steps[len(done)].name if len(done) < len(steps) else "unknown"
    entry = {"name": name, "success": False, "attempts": 1, "feedback": "interrupted"}
    await _changed(
        runner.state_backend,
        run_id,
        step_history=[*done, entry],
        current_step_index=len(done),
        status="failed",
        error_message="interrupted",
    )
