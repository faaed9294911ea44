"""The shape of a pipeline as plain JSON, kept with the runs that it started.

A manifest says what the steps are called, of which kind they are, in which order they stand, what they return, and
which fields the context has. It holds no source text, no version of a library, no module names and no time, so that
the same pipeline has the same manifest in every process.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.type_descriptions import JSONObject, Shapes

__all__ = ["FORMAT", "digest_of", "manifest_of"]

FORMAT = 1
"""The manifest's own format. A reader that does not know it takes the manifest for absent."""


def manifest_of(pipeline: Pipeline, name: str, version: str, context_model: type | None = None) -> JSONObject:
    """The manifest of a pipeline.

    Args:
        pipeline: Its steps, in order.
        name: Under which it is registered.
        version: Under which it is registered.
        context_model: The class of the context; None for a run without a model of its own.

    Returns:
        ``{"format", "pipeline", "version", "steps": [{"name", "kind", "output", "question"?, "aliases"?}], "context":
        {field: {"type", "required"}}, "types": {class: shape}}``. An output is a type in words, or None where the
        step says nothing; that of a human step is the type of the answer, and its question the text that is shown.
        `Shapes` says what stands in ``types``.
    """
    shapes = Shapes()
    return {
        "format": FORMAT,
        "pipeline": name,
        "version": version,
        "steps": [_step(step, shapes) for step in pipeline.steps],
        "context": {} if context_model is None else shapes.fields(context_model),
        "types": shapes.table,
    }


def digest_of(manifest: JSONObject) -> str:
    """SHA-256 of the manifest's canonical JSON, in hexadecimal: its key in a store."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _step(step: Step, shapes: Shapes) -> JSONObject:
    output: Any = step.output_type
    made: JSONObject = {
        "name": step.name,
        "kind": step.kind,
        "output": None if output is None else shapes.name(output),
    }
    if step.message_for_user is not None:
        made["question"] = step.message_for_user
    if step.aliases:
        made["aliases"] = sorted(step.aliases)
    return made
