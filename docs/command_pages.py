"""The commands of ``lens`` as data, read from the program itself: what man pages and the reference are made from."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flujo_lens._version import __version__  # noqa: E402
from flujo_lens.cli.app import COMMANDS, build, root, run  # noqa: E402
from flujo_lens.cli.examples import Example, parts_of  # noqa: E402
from flujo_lens.cli.topics import TOPICS  # noqa: E402
from flujo_lens.cli.world import World  # noqa: E402

__all__ = ["ROOT", "CommandPage", "Example", "Option", "command_pages", "groups", "released", "topics", "version"]

_COMMON = "Common options"
_HELP = "Show the help of the command and exit."


@dataclass(frozen=True)
class Option:
    """An option, or an argument.

    Attributes:
        names: As they are typed, the long one first; of an argument, what usage lines call it.
        value: What follows an option, such as ``FILE``; empty for a flag.
        help: A sentence.
    """

    names: tuple[str, ...]
    value: str
    help: str


@dataclass(frozen=True)
class CommandPage:
    """What the program says about one of its commands.

    Attributes:
        name: ``lens``, ``lens list``, ``lens tasks sweep``.
        panel: The group in which ``lens --help`` lists it.
        summary: The first sentence of its help.
        text: The paragraphs after it.
        examples: The lines of its help to type.
        usage: What follows the name: ``[OPTIONS] RUN``.
        arguments: Without the options.
        options: By group, in the order of the help.
        commands: Those of a group, with their summaries.
        default: The command that a group runs when none is named.
    """

    name: str
    panel: str
    summary: str
    text: tuple[str, ...]
    examples: tuple[Example, ...]
    usage: str
    arguments: tuple[Option, ...]
    options: Mapping[str, tuple[Option, ...]]
    commands: Mapping[str, str] = field(default_factory=dict)
    default: str = ""

    @property
    def slug(self) -> str:
        """The name of its files: ``lens-tasks-sweep``."""
        return self.name.replace(" ", "-")


def command_pages() -> Iterator[CommandPage]:
    """``lens`` itself, then every command; the commands of a group follow it."""
    yield _page("lens", root(), "", {name: _summary(build(name)) for name in COMMANDS})
    for name, (_, panel) in COMMANDS.items():
        built = build(name)
        members: Mapping[str, Any] = getattr(built, "commands", {})
        summaries = {f"{name} {member}": _summary(command) for member, command in members.items()}
        yield _page(f"lens {name}", built, panel, summaries)
        for member, command in members.items():
            yield _page(f"lens {name} {member}", command, panel)


def groups() -> dict[str, list[str]]:
    """The names of the commands by the group in which ``lens --help`` lists them."""
    found: dict[str, list[str]] = {}
    for name, (_, panel) in COMMANDS.items():
        found.setdefault(panel, []).append(name)
    return found


def topics(width: int) -> dict[str, str]:
    """The text of each topic of ``lens help``, in lines of at most `width` characters."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in TOPICS:
            stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
            places = {"cwd": Path(folder), "user_config_dir": Path(folder) / "user", "etc_dir": Path(folder) / "etc"}
            world = World(
                stdin=io.StringIO(), stdout=stream, stderr=stream, env={"NO_COLOR": "1"}, width=width, stdout_tty=True,
                stderr_tty=True, **places,
            )  # fmt: skip
            if run(["help", name], world):
                sys.exit(f"lens help {name} failed")
            text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
            found[name] = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    return found


def version() -> str:
    """That of the package."""
    return __version__


def released() -> str:
    """The date of the newest release in the changelog, which is that of the man pages."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## \[[\d.]+\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    return found[1] if found else "2026-11-30"


def _page(name: str, command: Any, panel: str, members: Mapping[str, str] | None = None) -> CommandPage:
    summary, text, examples = _split(command.help or "")
    options: dict[str, tuple[Option, ...]] = {}
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            group = param.rich_help_panel or "Options"
            options[group] = (*options.get(group, ()), _option(param))
    common = options.pop(_COMMON, ())
    if name == "lens" or not hasattr(command, "commands"):
        options[_COMMON] = (*common, Option(("--help", "-h"), "", _HELP))
    return CommandPage(
        name=name,
        panel=panel,
        summary=summary,
        text=tuple(text),
        examples=tuple(examples),
        usage=_usage(command, hasattr(command, "commands")),
        arguments=tuple(_argument(p) for p in command.params if p.param_type_name == "argument" and not p.hidden),
        options=options,
        commands=members or {},
        default=getattr(command, "default", "") if members and name != "lens" else "",
    )


def _summary(command: Any) -> str:
    return _split(command.help or "")[0]


def _split(help: str) -> tuple[str, list[str], list[Example]]:
    """The summary, the other paragraphs, and the lines to type."""
    paragraphs, examples = parts_of(help.replace("\\[", "["))
    summary, *text = (" ".join(paragraph.split()) for paragraph in paragraphs or [""])
    return summary, text, examples


def _usage(command: Any, is_group: bool) -> str:
    if is_group:
        return "[COMMAND] [OPTIONS] [ARGUMENTS]"
    return " ".join(["[OPTIONS]", *(_argument_usage(p) for p in command.params if p.param_type_name == "argument")])


def _argument_usage(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def _argument(param: Any) -> Option:
    return Option((param.metavar or param.name.upper(),), "", _sentence(param.help))


def _option(param: Any) -> Option:
    names = sorted((*param.opts, *param.secondary_opts), key=lambda name: not name.startswith("--"))
    return Option(tuple(names), "" if param.is_flag else param.metavar or param.name.upper(), _sentence(param.help))


def _sentence(help: str | None) -> str:
    return " ".join((help or "").replace("\\[", "[").split())
