"""Errors of the command line's parser, in the words of lens."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from flujo_lens.errors import UsageError, nearest
from flujo_lens.state.views import RUN_STATUSES

_TAKE_NO_RUN = ("status", "list", "failed", "waiting", "stats")
_SHARED = ("--all", "--by", "--count", "--cursor", "--dry-run", "--limit", "--reverse", "--search", "--sort", "--yes")
"""Options of several commands: where one is missing, it is no misspelling of another."""

_KINDS = {"int range": "whole number", "integer": "whole number", "float range": "number", "float": "number"}
_RANGES = (
    (re.compile(r"(\S+) is not in the range x>=(\S+)"), r"must be \2 or more, not \1"),
    (re.compile(r"(\S+) is not in the range x<=(\S+)"), r"must be \2 or less, not \1"),
    (re.compile(r"(\S+) is not in the range x>(\S+)"), r"must be more than \2, not \1"),
    (re.compile(r"(\S+) is not in the range (\S+)<=x<=(\S+)"), r"must be from \2 to \3, not \1"),
    (re.compile(r"^Option '--export' requires 2 arguments"), "--export takes a format and a file"),
    (re.compile(r"^Option '(--[\w-]+)' requires (\d+) arguments"), r"\1 takes \2 values"),
)
TRACE_ENDINGS = {"html": "html", "svg": "svg", "chrome": "json", "otlp": "json", "mermaid": "mmd"}
"""The formats of ``trace --export``, with the usual endings of their files."""

_NAMES_OF_OPTION = re.compile(r"^(Invalid value for) '(--[\w-]+)'(?: / '-\w')?")


def usage_error(error: Any, arguments: Sequence[str], commands: Collection[str]) -> UsageError:
    """The error for an exception of Typer."""
    hint = _hint(error, arguments, commands)
    if not hasattr(error, "possibilities"):
        return UsageError(_sentence(error), hint=hint)
    near = _near_option(error, arguments)
    said = f"unknown option {error.option_name}." + (f" Did you mean {near}?" if near else "")
    return UsageError(said, hint=hint, value=error.option_name, near=near)


def _text(error: Any) -> str:
    return str(error.format_message() if hasattr(error, "format_message") else error)


def _sentence(error: Any) -> str:
    message = _NAMES_OF_OPTION.sub(r"\1 \2", _text(error).strip().rstrip("."))
    for found, words in _RANGES:
        message = found.sub(words, message)
    for kind, name in _KINDS.items():
        message = message.replace(f"is not a valid {kind}", f"is not a {name}")
    return message[:1].lower() + message[1:]


def _near_option(error: Any, arguments: Sequence[str]) -> str | None:
    """The nearest option, with a placeholder if it needs a value and none was typed."""
    params = {name: param for param in error.ctx.command.params for name in param.opts} if error.ctx else {}
    typed = error.option_name
    if typed in _SHARED:
        return None  # typed as it is meant, of another command
    if "--status" in params and typed in arguments and typed.removeprefix("--") in RUN_STATUSES:
        return f"--status {typed.removeprefix('--')}"
    near = nearest(typed, [*params, "--help"])
    param = params.get(near or "")
    if near is None or param is None or param.is_flag or param.count or typed not in arguments:
        return near
    following = [*arguments[arguments.index(typed) + 1 :], "--"][0]
    return near if not following.startswith("-") else f"{near} {param.metavar or 'VALUE'}"


def _hint(error: Any, arguments: Sequence[str], commands: Collection[str]) -> str:
    """The help of the command, and how to name a run where its id is missing or not accepted."""
    named = next((word for word in arguments if word in commands), "")
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else f"lens {named}".rstrip()
    text = _text(error)
    if "issing argument 'RUN'" in text and named == "diff":
        left = next((word for word in arguments[arguments.index(named) + 1 :] if not word.startswith("-")), "run-1")
        right = "run-2" if left in ("@latest", "run-1") else "@latest"
        return f"name two runs by ids from lens list: {path} {shlex.quote(left)} {right}\n{path} --help"
    if "'--export' requires" in text:
        return f"{_export(path, arguments)}\n{path} --help"
    if "issing argument 'RUN'" in text:
        return f"name a run by an id from lens list, or the newest: {path} @latest\n{path} --help"
    if "unexpected extra argument" in text and named in _TAKE_NO_RUN:
        extra = shlex.quote(text.partition("(s) (")[2].rstrip(")"))
        return f"one run: lens show {extra}; part of an id: lens list --search {extra}\n{path} --help"
    if path != "lens" and getattr(error, "option_name", None) in ("--yes", "-y"):
        return f"{path.removeprefix('lens ')} does not ask: omit {error.option_name}\n{path} --help"
    if "unexpected extra argument" in text and named == "prune":
        return f"{_older_than(text, arguments)}{path} --help"
    return f"{path} --help"


def _older_than(text: str, arguments: Sequence[str]) -> str:
    """The command line of ``prune`` with ``--older-than`` before an age that was typed without it."""
    age = text.partition("(s) (")[2].rstrip(")")
    if not re.fullmatch(r"\d+[smhdw]", age) or arguments.count(age) != 1 or "--older-than" in arguments:
        return ""
    at = arguments.index(age)
    return shlex.join(["lens", *arguments[:at], "--older-than", *arguments[at:]]) + "\n"


def _export(path: str, arguments: Sequence[str]) -> str:
    """The command line with both values, the format as typed, and a name for the file."""
    at = arguments.index("--export") if "--export" in arguments else len(arguments)
    given = [*arguments[at + 1 :], ""][0]
    form = given if given in TRACE_ENDINGS else "html"
    words = list(arguments[:at]) if len(arguments[:at]) > 1 else [*path.split()[1:], "@latest"]
    return shlex.join(["lens", *words, "--export", form, f"trace.{TRACE_ENDINGS[form]}"])
