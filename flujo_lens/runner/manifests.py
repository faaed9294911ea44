"""Manifests: the shape of a pipeline as plain JSON, stored with its runs.

A manifest has the names, kinds, order and output types of the steps, and the fields of the context. It has no source
text, library versions, module names or times, so that the same pipeline has the same manifest in every process.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flujo_lens.runner.dsl import Pipeline, Step
from flujo_lens.runner.type_descriptions import JSONObject, Shapes
from flujo_lens.state.manifests import FORMAT


def manifest_of(pipeline: Pipeline, name: str, version: str, context_model: type | None = None) -> JSONObject:
    """The manifest of a pipeline.

    Args:
        pipeline: Its steps, in order.
        name: The registered name.
        version: The registered version.
        context_model: The class of the context; None without one.

    Returns:
        ``{"format", "pipeline", "version", "steps": [{"name", "kind", "output", "question"?, "aliases"?}], "context":
        {field: {"type", "required"}}, "types": {class: shape}}``. An output is the text of a type, or None without an
        annotation; for a human step, it is the type of the answer, and ``question`` is its text. For ``types`` see
        `Shapes`.
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
