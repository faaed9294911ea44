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
LONGEST_FILE, LONGEST_FUNCTION = 600, 60

ALLOWED = {
    "errors": (),
    "fs": ("fs",),
    "folders": ("errors",),
    "state.views": ("state.statistics",),
    "config": ("config_sources", "errors", "folders", "redaction", "state.timestamps", "state.typed_times"),
    "redaction": ("redaction",),
    "state.models": ("errors", "state"),
    "serialization": ("errors", "state.models", "state.views", "serialization"),
    "state.fingerprint": ("redaction",),
    "state": ("errors", "folders", "fs", "state", "serialization"),
    "operations": ("errors", "fs", "redaction", "state", "serialization", "operations"),
    "operations.stores": ("errors", "fs", "redaction", "state", "operations", "config"),
    "operations.resume": ("errors", "state", "serialization", "operations", "runner"),
    "operations.check": ("errors", "state", "serialization", "operations", "runner"),
    "runner": ("errors", "state", "serialization", "runner"),
    "rendering": (
        "errors",
        "state.views",
        "state.statistics",
        "state.fingerprint",
        "state.questions",
        "redaction",
        "rendering",
    ),
}
"""Room -> what it may import from; of two rooms that a module is in, the longer name counts."""

LIGHT = (
    "state.views",
    "state.statistics",
    "state.deletion",
    "state.timestamps",
    "state.typed_times",
    "state.traces",
    "state.fingerprint",
    "state.questions",
    "state.sorting",
    "state.stripped",
)
"""Modules of the standard library and of each other alone."""

CLI_TOPS = ("errors", "folders", "cli", "operations", "redaction", "rendering", "state.backends.base", *LIGHT)
"""What a screen may import at its top: the module itself is imported inside a command's body."""

COMMAND_TOPS = ("errors", "cli.context", "cli.options", "cli.groups", "state.views")
BACKENDS = ("base", "core")
"""What drivers share; every other module of `state.backends` is a driver's."""

PRINTING = {"print", "sys.exit", "exit", "quit", "os._exit", "typer.echo", "input"}
LARGE_FILES = {"state.backends.base"}
"""Exceptions of today: the contract with its words."""

CIRCLES = {
    frozenset({"cli.app", "cli.completion"}): "the app answers a shell before it loads; the answers list its commands",
    frozenset({"cli.context", "cli.output"}): "an App makes the Output that prints for it; the output names its type",
    frozenset({"runner.run_record", "runner.spans"}): "spans name the type of the record that they are made from",
    frozenset(
        {"serialization.building", "serialization.annotated_data"}
    ): "each builds what is nested in the other's data",
    frozenset(
        {
            "state.backends.base",
            "state.backends.core.fallback_deletion",
            "state.backends.core.fallbacks",
            "state.backends.core.rows",
            "state.resumable",
        }
    ): "the contract's defaults are in modules of their own, which call the contract",
    frozenset(
        {
            "state.backends.core.backend",
            "state.backends.core.cancelling",
            "state.backends.core.deletion",
            "state.backends.core.deletion_records",
            "state.backends.core.portable_records",
            "state.backends.core.strip",
        }
    ): "parts of one class, in modules of their own, which name its type",
    frozenset({"state.backends.sqlite.deletion.estimate", "state.backends.sqlite.deletion.plan"}): "a type of the plan",
    frozenset({"state.backends.file.restore", "state.backends.file.transaction"}): "a type of the transaction",
}
"""Modules that import each other, also inside functions or for the type checker alone, each with the reason."""


@cache
def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    """`state.backends.file` for its file; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _dotted(node: ast.AST) -> str:
    """`a.b` for that expression; "" for any other than names and their attributes."""
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _statements(body: list[ast.stmt], *, functions: bool, typing: bool = False) -> Iterator[ast.stmt]:
    """All statements that run, with those of functions and those for type checkers if wanted."""
    for node in body:
        if not typing and _is_type_checking(node):
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not functions:
            continue
        for field in ("body", "orelse", "finalbody", "handlers"):
            for child in getattr(node, field, []):
                inner = [child] if isinstance(child, ast.stmt) else child.body
                yield from _statements(inner, functions=functions, typing=typing)


@cache
def _imports(path: Path, *, functions: bool = True) -> tuple[str, ...]:
    """The modules that a file imports, in full."""
    return tuple(_imported(path, functions=functions))


def _imported(path: Path, *, functions: bool) -> Iterator[str]:
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


def test_rooms() -> None:
    wrong = []
    for path in _files():
        room = _room(_name(path))
        legal = ALLOWED[room] if room is not None else ()
        wrong += [
            f"{_name(path)}, which is in {room}, imports {name}"
            for name in _ours(path)
            if room is not None and name not in ("", "_version") and not _within(name, legal)
        ]
    assert wrong == []


def test_drivers_do_not_know_each_other() -> None:
    wrong = []
    for path in _files():
        for name in _ours(path):
            one, other = _driver(_name(path)), _driver(name)
            if one and other and one != other:
                wrong.append(f"{_name(path)} imports {name}")
    assert wrong == []


def _driver(module: str) -> str:
    """`file` for `state.backends.file.index.cache`; "" for what is no driver's."""
    where = module.split(".")
    if where[:2] != ["state", "backends"] or len(where) < 3 or where[2] in BACKENDS:
        return ""
    return where[2]


def _all_imports(path: Path) -> set[str]:
    """Our modules that a file imports anywhere: at its top, inside functions, and for type checkers."""
    nodes = [*_statements(_tree(path).body, functions=True, typing=True)]
    names = [name for node in nodes if isinstance(node, ast.ImportFrom) and node.module for name in _meant(node)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    ours = {name.removeprefix("flujo_lens.") for name in names if name.startswith("flujo_lens.")}
    return ours - {_name(path)}


def _circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[frozenset[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in graph[module]:
            if other not in number:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            at = path.index(module)
            found.append(frozenset(path[at:]))
            del path[at:]

    for module in graph:
        if module not in number:
            visit(module)
    return [circle for circle in found if len(circle) > 1]


def test_no_circle_of_imports() -> None:
    modules = {_name(path): _all_imports(path) for path in _files()}
    graph = {module: imports & modules.keys() for module, imports in modules.items()}
    circles = _circles(graph)
    assert [sorted(circle) for circle in circles if not any(circle <= known for known in CIRCLES)] == []
    gone = [sorted(known) for known in CIRCLES if not any(circle <= known for circle in circles)]
    assert gone == [], "no exceptions any more"


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert _circles(graph) == [frozenset({"a", "b", "c"})]


def test_models_are_imported_lazily() -> None:
    """One pydantic model costs more than the rest of a start."""
    heavy = ["pydantic", "flujo_lens.state.models"]
    found = {_name(p) for p in _files() if any(_within(n, heavy) for n in _imports(p, functions=False))}
    models = {"state.models", "runner.context", "runner.value_checks"}
    assert found <= {*models, "serialization.registry", "testing.contract"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").rglob("*.py")), ids=_name)
def test_the_tops_of_the_command_line(path: Path) -> None:
    allowed = COMMAND_TOPS if "commands" in path.parts else CLI_TOPS
    wrong = [name for name in _ours(path, functions=False) if name and not _within(name, allowed)]
    foreign = {name.partition(".")[0] for name in _imports(path, functions=False)} - {"flujo_lens", "typer"}
    screens = {"rich"} if "screens" in path.parts else set()
    assert wrong == []
    assert foreign - set(sys.stdlib_module_names) - screens == set()


@pytest.mark.parametrize("name", ["app", "context", "options", "groups", "help", "exit_codes", "hints", "world"])
def test_what_every_start_imports_is_little(name: str) -> None:
    legal = (
        "errors",
        "folders",
        "cli.options",
        "cli.context",
        "cli.help",
        "cli.exit_codes",
        "cli.streams",
        "cli.hints",
        "cli.world",
    )
    tops = _ours(PACKAGE / "cli" / f"{name}.py", functions=False)
    assert [top for top in tops if not _within(top, legal)] == []


def test_only_rendering_and_screens_know_rich() -> None:
    found = [path for path in _files() if any(_within(name, ["rich"]) for name in _imports(path))]
    rooms = ("rendering.", "cli.screens.")
    assert [n for n in map(_name, found) if not n.startswith(rooms) and n != "cli.output"] == []


def test_nobody_below_main_prints_or_exits() -> None:
    wrong = []
    for path in _files():
        # a child of a step ends where it comes back, and lens where an application's threads never would
        if _name(path) not in ("cli.app", "cli.application_output", "__main__", "runner.application_code"):
            calls = {_dotted(node.func) for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)}
            wrong += [f"{_name(path)}: {called}" for called in calls & PRINTING]
    assert wrong == []


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_files_are_short() -> None:
    sizes = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _files()}
    assert {name: size for name, size in sizes.items() if size >= LONGEST_FILE and name not in LARGE_FILES} == {}
    assert {name for name in LARGE_FILES if sizes.get(name, 0) < LONGEST_FILE} == set(), "no exceptions any more"


def test_functions_are_short() -> None:
    found = {f"{_name(path)}.{name}": size for path in _files() for name, size in _functions(path)}
    assert {name: size for name, size in found.items() if size >= LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("driver", ["memory", "postgres", "redis", "file"])
def test_a_driver_on_the_port_costs_hundreds_of_lines(driver: str) -> None:
    """Rules belong to the core. A figure here may only become smaller; 1,200 is what a driver should need.

    That of PostgreSQL has 800 lines of SQL for figures, deletions and lists over millions of runs.
    """
    most = {"memory": 150, "postgres": 3_300, "redis": 2_530, "file": 4_880}[driver]
    lines = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in _files()
        if _driver(_name(path)) == driver or _name(path) == f"state.backends.{driver}"
    )
    assert lines < most
