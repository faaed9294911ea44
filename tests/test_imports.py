"""Who may import whom, and how large things may get: the rules of the house, checked on the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import flujo_lens

PACKAGE = Path(flujo_lens.__file__).resolve().parent
LONGEST_FILE, LONGEST_FUNCTION = 350, 60

ALLOWED = {
    "errors": (),
    "state.views": ("state.figures",),
    "config": ("config_sources", "errors", "state.timestamps"),
    "state.models": ("errors", "state"),
    "serialization": ("errors", "state.models", "state.views", "serialization"),
    "state": ("errors", "state", "serialization"),
    "operations": ("errors", "state", "serialization", "operations"),
    "operations.stores": ("errors", "state", "operations", "config"),
    "operations.resume": ("errors", "state", "serialization", "operations", "runner"),
    "operations.check": ("errors", "state", "serialization", "operations", "runner"),
    "runner": ("errors", "state", "serialization", "runner"),
    "rendering": ("errors", "state.views", "state.figures", "state.fingerprint", "rendering"),
}
"""Room -> what it may import from; of two rooms that a module is in, the longer name counts."""

LIGHT = ("state.views", "state.figures", "state.timestamps", "state.traces", "state.fingerprint")
"""Modules of the standard library and of each other alone."""

CLI_TOPS = ("errors", "cli", "operations", "rendering", "state.backends.base", *LIGHT)
"""What a screen may import at its top: the module itself is imported inside a command's body."""

COMMAND_TOPS = ("errors", "cli.context", "cli.options", "cli.groups", "state.views")
BACKENDS = ("base", "reading", "gathering")
"""What drivers share; every other module of `state.backends` is a driver's: file and file_index are of one."""

LARGE_FILES = {"config.py", "config_sources.py", "rendering/columns.py", "state/interpret.py"}
LARGE_FUNCTIONS: set[str] = set()


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    """`state.backends.file` for its file; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _statements(body: list[ast.stmt], *, functions: bool) -> Iterator[ast.stmt]:
    """All statements that run (with those of functions, if asked), without those for type checkers."""
    for node in body:
        if _is_type_checking(node):
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not functions:
            continue
        for field in ("body", "orelse", "finalbody", "handlers"):
            for child in getattr(node, field, []):
                yield from _statements([child] if isinstance(child, ast.stmt) else child.body, functions=functions)


def _imports(path: Path, *, functions: bool = True) -> Iterator[str]:
    """The modules that a file imports, in full."""
    for node in _statements(_tree(path).body, functions=functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from _meant(node)


def _meant(node: ast.ImportFrom) -> Iterator[str]:
    """``from flujo_lens.cli import paging`` imports a module, ``from flujo_lens.errors import X`` does not."""
    module = str(node.module)
    for alias in node.names:
        inside = PACKAGE.joinpath(*module.split(".")[1:], alias.name)
        is_module = module.startswith("flujo_lens") and (inside.with_suffix(".py").exists() or inside.is_dir())
        yield f"{module}.{alias.name}" if is_module else module


def _ours(path: Path, *, functions: bool = True) -> list[str]:
    return [
        name.removeprefix("flujo_lens").removeprefix(".")
        for name in _imports(path, functions=functions)
        if name.partition(".")[0] == "flujo_lens"
    ]


def _within(module: str, rooms: tuple[str, ...] | list[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _room(module: str) -> str | None:
    rooms = [room for room in ALLOWED if _within(module, [room])]
    return max(rooms, key=len) if rooms else None


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_rooms(path: Path) -> None:
    room = _room(_name(path))
    if room is None:
        return
    wrong = [name for name in _ours(path) if name not in ("", "_version") and not _within(name, ALLOWED[room])]
    assert wrong == [], f"{_name(path)} is in {room}, which imports only {ALLOWED[room]}"


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_drivers_do_not_know_each_other(path: Path) -> None:
    where = _name(path).split(".")
    if where[:2] != ["state", "backends"] or len(where) < 3:
        return
    for name in _ours(path):
        other = name.split(".")
        if other[:2] == ["state", "backends"] and len(other) > 2:
            assert other[2] in BACKENDS or _driver(other[2]) == _driver(where[2])


def _driver(module: str) -> str:
    return module.partition("_")[0]


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_models_are_imported_lazily(path: Path) -> None:
    """One pydantic model costs more than the rest of a start."""
    if _name(path) in ("state.models", "serialization.registry", "testing.contract"):
        return
    tops = set(_imports(path, functions=False))
    assert not any(_within(name, ["pydantic", "flujo_lens.state.models"]) for name in tops)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=_name)
def test_the_tops_of_the_command_line(path: Path) -> None:
    allowed = COMMAND_TOPS if "commands" in path.parts else CLI_TOPS
    wrong = [name for name in _ours(path, functions=False) if name and not _within(name, allowed)]
    foreign = {name.partition(".")[0] for name in _imports(path, functions=False)} - {"flujo_lens", "typer"}
    screens = {"rich"} if path.stem.endswith("_screen") else set()
    assert wrong == []
    assert foreign - set(sys.stdlib_module_names) - screens == set()


@pytest.mark.parametrize("name", ["app", "context", "options", "groups", "exit_codes"])
def test_what_every_start_imports_is_little(name: str) -> None:
    tops = _ours(PACKAGE / "cli" / f"{name}.py", functions=False)
    assert [
        top for top in tops if not _within(top, ("errors", "cli.options", "cli.context", "cli.help", "cli.exit_codes"))
    ] == []


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_only_rendering_and_screens_know_rich(path: Path) -> None:
    if not any(_within(name, ["rich"]) for name in _imports(path)):
        return
    assert _name(path).startswith("rendering.") or path.stem.endswith(("_screen", "screens"))


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_nobody_below_main_prints_or_exits(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() in ("cli/app.py", "__main__.py"):
        return
    for node in ast.walk(_tree(path)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called not in ("print", "sys.exit", "exit", "quit", "os._exit", "typer.echo", "input")


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", _files(), ids=_name)
def test_sizes(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST_FILE or name in LARGE_FILES, f"{name} has {lines} lines"
    long = {f"{name}:{function}" for function, length in _functions(path) if length >= LONGEST_FUNCTION}
    assert long <= LARGE_FUNCTIONS


def test_the_exceptions_are_needed() -> None:
    sizes = {p.relative_to(PACKAGE).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in _files()}
    assert {name for name in LARGE_FILES if sizes.get(name, 0) < LONGEST_FILE} == set()
