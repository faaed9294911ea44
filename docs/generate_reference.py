"""Writes the pages of docs/reference from the docstrings.

    python docs/generate_reference.py           # writes them
    python docs/generate_reference.py --check   # fails if one is out of date, and writes nothing

Signatures are taken from the source rather than from live objects, whose representation changes with the version of
Python: every version writes the same bytes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

CONTRACT = "StateBackend"
WIDTH = 100
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Raises \(.*\)|Example|Examples):")
ITEM = re.compile(r"(\*{0,2}\w[\w, .*]*?): (.*)", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page of the reference.

    Attributes:
        name: Of its file.
        title: Its heading.
        words: What it is about.
        names: What it describes: ``module:name``, or a module alone for its docstring.
    """

    name: str
    title: str
    words: str
    names: tuple[str, ...]


def _exported(module: str) -> tuple[str, ...]:
    return tuple(f"{module}:{name}" for name in importlib.import_module(module).__all__)


def pages() -> tuple[Page, ...]:
    """The pages, with what stands on them in order."""
    return (
        Page(
            "backends.md",
            "Backends",
            "The contract, the drivers that come with the package, and the document that they keep. "
            "Which one to take: [Choose a backend](../guides/choose-a-backend.md).",
            (
                "flujo_lens.state.backends.base:StateBackend",
                "flujo_lens.state.backends.memory:InMemoryBackend",
                "flujo_lens.state.backends.file:FileBackend",
                "flujo_lens.state.backends.sqlite:SQLiteBackend",
                "flujo_lens.state.models:WorkflowState",
            ),
        ),
        Page(
            "serialization.md",
            "Serialization",
            "The names of `flujo_lens.serialization`, which are in `flujo_lens.utils` too, and the layers below it. "
            "How they are used: [Serialization](../guides/serialization.md), "
            "[Compression and encryption](../guides/compression-and-encryption.md).",
            (
                *_exported("flujo_lens.serialization"),
                "flujo_lens.serialization.codec:StateCodec",
                "flujo_lens.serialization.envelope:Envelope",
                "flujo_lens.serialization.keys:KeyRing",
                "flujo_lens.serialization.keys:new_key",
            ),
        ),
        Page(
            "contract.md",
            "The conformance suite",
            "For authors of drivers: [Write your own backend](../guides/write-your-own-backend.md).",
            ("flujo_lens.testing.contract", *_exported("flujo_lens.testing.contract")),
        ),
    )


def render(page: Page) -> str:
    """The page as Markdown."""
    note = "<!-- Made from the docstrings by docs/generate_reference.py: change those, then run it. -->"
    blocks = [note, f"# {page.title}", page.words]
    for name in page.names:
        module, _, attribute = name.partition(":")
        found = importlib.import_module(module)
        if not attribute:
            blocks += docstring(found)
        elif inspect.isclass(getattr(found, attribute)):
            blocks += describe_class(getattr(found, attribute), module)
        else:
            blocks += describe_function(getattr(found, attribute), f"## {attribute}", f"`{module}.{attribute}`")
    return "\n\n".join(blocks) + "\n"


# --- classes and functions


def describe_class(cls: type, module: str) -> Iterator[str]:
    """A class with its constructor, its own methods, and the names of the inherited ones."""
    yield f"## {cls.__name__}"
    yield f"`{module}.{cls.__name__}`"
    node = _parsed(cls)
    assert isinstance(node, ast.ClassDef)
    constructors = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    if constructors:
        yield _fenced(_signature(constructors[0], cls.__name__))
    elif fields := _fields(node):
        yield _fenced(fields)
    yield from docstring(cls)
    yield from _inherited(cls)
    for name, member in vars(cls).items():
        if not name.startswith(("_", "test_")) and name not in ("model_config", "model_fields"):
            yield from _member(name, member)


def _member(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, property):
        yield f"### {name}"
        yield "A property."
        yield from docstring(member)
    elif isinstance(member, classmethod | staticmethod):
        yield from describe_function(member.__func__, f"### {name}", "A class method.")
    elif inspect.isfunction(member):
        abstract = getattr(member, "__isabstractmethod__", False)
        yield from describe_function(member, f"### {name}", "Abstract: every driver defines it." if abstract else "")


def describe_function(function: Any, heading: str, words: str) -> Iterator[str]:
    """A function or method: signature, then what its docstring says."""
    yield heading
    if words:
        yield words
    yield _fenced(_signature(_parsed(function), function.__name__))
    yield from docstring(function)


def _inherited(cls: type) -> Iterator[str]:
    """Which methods of the contract a driver has beside those that it describes itself; or which checks a suite has."""
    checks = [name for name in sorted(dir(cls)) if name.startswith("test_")]
    if checks:
        yield from _checks(cls)
    if CONTRACT not in [base.__name__ for base in cls.__mro__[1:]]:
        return
    base = next(base for base in cls.__mro__ if base.__name__ == CONTRACT)
    public = [name for name, member in vars(base).items() if inspect.isfunction(member) and not name.startswith("_")]
    same = [name for name in public if getattr(cls, name) is getattr(base, name)]
    others = [name for name in public if name not in same and name not in vars(cls)]
    yield f"As [{CONTRACT}](#{CONTRACT.lower()}) describes them: {_names(others)}."
    lacking = [name for name in same if "self._lacks(" in inspect.getsource(getattr(base, name))]
    yield f"Not there (`NotSupportedError`): {_names(lacking)}." if lacking else "It has every method of the contract."


def _checks(cls: type) -> Iterator[str]:
    for base in cls.__mro__[::-1]:
        found = [name for name in vars(base) if name.startswith("test_")]
        if found and cls.__name__ != "BackendContract":
            yield f"**{base.__name__}.** {(inspect.getdoc(base) or '').partition(chr(10))[0]}"
            yield "\n".join(_check(base, name) for name in found)


def _check(base: type, name: str) -> str:
    words = (vars(base)[name].__doc__ or "").strip().partition("\n")[0]
    return f"- `{name}`: {words}" if words else f"- `{name}`"


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- from the source


def _parsed(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _text(node: ast.AST) -> str:
    """The source of an expression, with the quotes that the formatter wants."""
    return ast.unparse(node).replace("'", '"')


def _fields(node: ast.ClassDef) -> str:
    """The fields of a model, a dataclass or a named tuple as they are declared."""
    fields = [_text(part) for part in node.body if isinstance(part, ast.AnnAssign)]
    return "\n".join([f"class {node.name}:", *(f"    {field}" for field in fields)]) if fields else ""


def _signature(node: Any, name: str) -> str:
    arguments: ast.arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    kind = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def " if node.name != "__init__" else ""
    end = f" -> {_text(node.returns)}" if node.returns is not None and kind else ""
    declared = list(_arguments(arguments))
    line = f"{kind}{name}({', '.join(declared)}){end}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{kind}{name}(", *(f"    {argument}," for argument in declared), f"){end}"])


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Each argument as it is declared."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
    yield from map(_argument, positional, defaults)
    if arguments.vararg is not None:
        yield f"*{_text(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    yield from map(_argument, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg is not None:
        yield f"**{_text(arguments.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return _text(argument) + (f" = {_text(default)}" if default is not None else "")


# --- docstrings


def docstring(thing: Any) -> Iterator[str]:
    """The blocks of a docstring: paragraphs, code, and its sections as lists."""
    text = inspect.cleandoc(thing.__doc__ or "")
    section, lines = "", list[str]()
    for line in [*text.split("\n"), "End:"]:
        if SECTION.fullmatch(line) or line == "End:":
            yield from _section(section, "\n".join(lines))
            section, lines = line.removesuffix(":"), []
        else:
            lines.append(line)


def _section(name: str, body: str) -> Iterator[str]:
    body = textwrap.dedent(body).strip("\n")
    if not body:
        return
    if name:
        yield f"**{name}**"
    if name.startswith("Example"):
        yield _fenced(body, "pycon")
    elif name.startswith(("Args", "Attributes", "Raises")):
        yield "\n".join(map(_item, _items(body)))
    else:
        yield from _paragraphs(body)


def _items(body: str) -> list[str]:
    """The entries of a section: each line that is not indented begins one."""
    return [" ".join(part.split()) for part in re.split(r"\n(?=\S)", body)]


def _item(text: str) -> str:
    found = ITEM.fullmatch(text)
    if found is None:
        return f"- {text}"
    names = ", ".join(f"`{name.strip()}`" for name in found[1].split(","))
    return f"- {names}: {found[2]}"


def _paragraphs(body: str) -> Iterator[str]:
    """Paragraphs; what is indented below a ``::`` is code."""
    code = list[str]()
    for block in [*re.split(r"\n\s*\n", body), ""]:
        if block.startswith("    "):
            code.append(block)
            continue
        if code:
            yield _code(textwrap.dedent("\n\n".join(code)))
            code = []
        if block:
            yield re.sub(r"::$", ":", block)


def _code(code: str) -> str:
    """A block of a docstring, with the blank lines that the formatter of the pages wants."""
    if "import " not in code:
        return _fenced(code, "text")
    return _fenced(code.replace("\n\nclass ", "\n\n\nclass "))


def _fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    stale = []
    for page in pages():
        path, text = HERE / "reference" / page.name, render(page)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if not stale or "--check" not in arguments:
        return 0
    sys.stderr.write(f"out of date: {', '.join(stale)}; write them anew: python docs/generate_reference.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
