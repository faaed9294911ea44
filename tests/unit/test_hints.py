"""Every error about a store says what to type or do next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from flujo_lens import errors

PACKAGE = Path(errors.__file__).resolve().parent
STORE_ERRORS = {
    name
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, errors.StoreError)
}


def _made(path: Path) -> Iterator[ast.Call]:
    """The calls that make an error about a store."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in STORE_ERRORS):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in STORE_ERRORS:
            yield node


def test_an_error_about_a_store_has_a_hint() -> None:
    made = [(path, call) for path in sorted(PACKAGE.rglob("*.py")) for call in _made(path)]
    assert len(made) > 10
    bare = [f"{path}:{call.lineno}" for path, call in made if "hint" not in {word.arg for word in call.keywords}]
    assert not bare
