"""The notes of a command whose filters match no runs: what may be wrong with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flujo_lens.errors import LensError
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.operations.pipelines import UnknownPipeline


_SEARCHED = "--search looks in ids, pipelines, errors and questions; for metadata: --meta KEY=VALUE"


def reasons(run: Callable[[Callable[[StateBackend], Awaitable[Any]]], Any], wanted: RunFilter) -> Iterator[str]:
    """Sentences on a pipeline that no run has, an error without wildcards, and what a search does not look in.

    Args:
        run: Opens the store for a function of it.
        wanted: The filter that no run matches.
    """
    if wanted.pipeline is not None:
        with suppress(LensError):  # a driver may have no such list
            unknown = run(lambda backend: _unknown(backend, str(wanted.pipeline)))
            yield from [pipeline_note(unknown)] if unknown is not None else []
    if wanted.error is not None and not {*wanted.error} & {*"*?"}:
        from flujo_lens.rendering.text import quoted

        yield f"--error matches the whole error; for a part of it: --error {quoted(f'*{wanted.error}*')}"
    if wanted.search is not None:
        yield _SEARCHED


async def _unknown(backend: StateBackend, pipeline: str) -> UnknownPipeline | None:
    from flujo_lens.operations.pipelines import unknown_pipeline

    return await unknown_pipeline(backend, pipeline)


def pipeline_note(unknown: UnknownPipeline) -> str:
    """A sentence on a pipeline that no run has, with the nearest name or those of the newest runs."""
    from flujo_lens.rendering.text import escape_controls

    names = f"did you mean {unknown.near}?" if unknown.near else f"the newest runs are of {', '.join(unknown.others)}"
    more = f"; {names}" if unknown.near or unknown.others else ""
    return escape_controls(f'no run is of the pipeline "{unknown.name}"{more}')
