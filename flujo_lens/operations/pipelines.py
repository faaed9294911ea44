"""The pipelines of a store, for a name that may be misspelled."""

from __future__ import annotations

from typing import NamedTuple

from flujo_lens.errors import nearest
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter

_SAMPLE = 500
_MOST_NAMES = 5


class UnknownPipeline(NamedTuple):
    """A name that no run has.

    Attributes:
        near: The nearest name among those of the newest runs, or None.
        others: Some names of the newest runs, the newest first.
    """

    name: str
    near: str | None
    others: tuple[str, ...]


async def unknown_pipeline(backend: StateBackend, name: str) -> UnknownPipeline | None:
    """What is known instead of `name`; None if any run is of this pipeline."""
    if (await backend.query_runs(RunFilter(pipeline=name), limit=1)).items:
        return None
    newest = (await backend.query_runs(RunFilter(), limit=_SAMPLE)).items
    names = [*dict.fromkeys(run.pipeline_name for run in newest)]
    return UnknownPipeline(name, nearest(name, names), tuple(names[:_MOST_NAMES]))
