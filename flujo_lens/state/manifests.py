"""The form of a stored manifest, which a program other than this version of lens may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""The format that this version writes; see `flujo_lens.runner.manifests.manifest_of`. Any other counts as missing."""


def is_readable(manifest: Mapping[str, Any]) -> bool:
    """Whether a stored manifest has the supported format, and values of the right types in all its places."""
    return (
        manifest.get("format") == FORMAT
        and isinstance(manifest.get("pipeline"), str)
        and isinstance(manifest.get("version"), str)
        and isinstance(manifest.get("steps"), list)
        and all(map(_is_step, manifest["steps"]))
        and _is_fields(manifest.get("context"))
        and isinstance(manifest.get("types"), dict)
        and all(map(_is_shape, manifest["types"].values()))
    )


def _is_step(step: Any) -> bool:
    if not isinstance(step, dict) or not isinstance(step.get("name"), str) or not isinstance(step.get("kind"), str):
        return False
    aliases = step.get("aliases", [])
    is_text = all(step.get(name) is None or isinstance(step[name], str) for name in ("output", "question"))
    return is_text and "output" in step and isinstance(aliases, list) and all(isinstance(each, str) for each in aliases)


def _is_fields(fields: Any) -> bool:
    return isinstance(fields, dict) and all(
        isinstance(field, dict) and isinstance(field.get("type"), str) and isinstance(field.get("required"), bool)
        for field in fields.values()
    )


def _is_shape(shape: Any) -> bool:
    """Whether it describes a class: an enumeration, or one with fields; an empty one is of a class without them."""
    if not isinstance(shape, dict) or not shape:
        return shape == {}
    kind = shape.get("kind")
    return (
        isinstance(shape.get("members"), dict)
        if kind == "enum"
        else isinstance(kind, str) and _is_fields(shape.get("fields"))
    )
