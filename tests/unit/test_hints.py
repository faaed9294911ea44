"""Every error about a store says what to type or do next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flujo_lens import errors

PACKAGE = Path(errors.__file__).resolve().parent
STORE_ERRORS = {
    name
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, errors.StoreError)
}


def _made(path: Path) -> Iterator[ast.Call]:
    """The calls that make an error about a store."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in STORE_ERRORS:
            yield node


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_error_about_a_store_has_a_hint(path: Path) -> None:
    bare = [node.lineno for node in _made(path) if "hint" not in {word.arg for word in node.keywords}]
    assert not bare, f"{path}: lines {bare}"


def test_errors_about_stores_are_made_at_all() -> None:
    assert sum(1 for path in PACKAGE.rglob("*.py") for _ in _made(path)) > 10
