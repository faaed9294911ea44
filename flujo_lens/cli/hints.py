"""Suggested commands: they repeat the store and application options of the current command line.

Without them, the suggested command would read or change another store. Settings and environment variables apply to
both commands and are not repeated.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flujo_lens.cli.options import FilterOptions

_WITH_CODE = ("check", "resume", "retry")
_LOOKS = ("status", "list", "show", "trace", "spans", "stats", "failed", "waiting", "watch", "diff", "evals", "doctor")
_CHANGES = ("fork", "cancel", "delete", "prune", "undo", "export", "import", "migrate", "optimize")
_GROUPS = ("tasks", "system", "audit")

_ALONE = "|".join((*_WITH_CODE, *_LOOKS, *_CHANGES))
_COMMAND = rf"\blens (?P<name>{_ALONE}|(?:{'|'.join(_GROUPS)}) [a-z]+)(?![\w-])"
_NAMES = {"--store": "--store", "-s": "--store", "--config": "--config", "--app": "--app", "--app-dir": "--app-dir"}
_OF_CODE = ("--app", "--app-dir")


@dataclass(frozen=True)
class Repeated:
    """The options of this command line to repeat: pairs of a name and a value, each name once.

    Attributes:
        typed: The whole command line.
        passwordless: The stores whose passwords were left out of a suggested command.
    """

    options: tuple[tuple[str, str], ...] = ()
    typed: tuple[str, ...] = ()
    passwordless: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Repeated:
        """The options to repeat of a command line; of a repeated option, the last one."""
        given = dict(_given(arguments))
        return cls(
            tuple((name, given[name]) for name in dict.fromkeys(_NAMES.values()) if name in given), tuple(arguments)
        )

    def command(self, text: str) -> str:
        """A command line that starts with ``lens``, with the options inserted after the command's name."""
        return re.sub(_COMMAND, self._with_options, text, count=1) if text.startswith("lens ") else text

    def whole(self, *more: str) -> str:
        """The command line as it was typed, without passwords, and with `more` options."""
        words, end = list(self.typed), self.typed.index("--") if "--" in self.typed else len(self.typed)
        return " ".join(["lens", *(shlex.quote(self._value(word)) for word in [*words[:end], *more, *words[end:]])])

    def prose(self, text: str) -> str:
        """A text with the options inserted into its command lines."""
        return re.sub(_COMMAND, self._with_options, text) if self.options else text

    def error(self, document: dict[str, Any]) -> dict[str, Any]:
        """An error as `LensError.to_dict` gives it, with the options in its hint and in the commands of its remedies.

        Only messages with remedies contain commands.
        """
        made = {**document, "hint": self.prose(document["hint"]) if document.get("hint") else document.get("hint")}
        if "remediations" in document:
            made["message"] = self.prose(document["message"])
            made["remediations"] = [self._remedy(remedy) for remedy in document["remediations"]]
        return made

    def _remedy(self, remedy: dict[str, Any]) -> dict[str, Any]:
        return {**remedy, "command": self.command(remedy["command"]) if remedy["command"] else None}

    def _with_options(self, found: re.Match[str]) -> str:
        there = found.string[found.end() :].partition("\n")[0].replace(" -s ", " --store ")
        takes_code = found["name"] in _WITH_CODE and "--save" not in there  # --save needs no code
        words = [
            f"{name} {shlex.quote(self._value(value))}"
            for name, value in self.options
            if (takes_code or name not in _OF_CODE) and f"{name} " not in there
        ]
        return " ".join([found[0], *words])

    def _value(self, value: str) -> str:
        """The value of an option, without a password."""
        shown = _shown(_without_password(value))
        if shown != _shown(value):
            self.passwordless.add(shown)
        return shown

    def password_note(self) -> str | None:
        """How the suggested commands get the password that was left out of them; None if none was."""
        for uri in self.passwordless:
            if uri.lower().startswith(("postgres:", "postgresql:")):
                return "the commands leave out the password: set PGPASSWORD, or use ~/.pgpass"
            return "the commands leave out the password: name the store under [stores] in lens.toml, with ${VARIABLE}"
        return None


def _without_password(value: str) -> str:
    """A URI without its password; any other value as it is."""
    scheme, mark, rest = value.partition("://")
    if not mark:
        return value
    login, at, hosts = rest.rpartition("@")
    user = login.partition(":")[0]
    rest = f"{user}{at if user else ''}{hosts}"
    place, query, options = rest.partition("?")
    kept = "&".join(one for one in options.split("&") if not one.lower().startswith("password="))
    return f"{scheme}://{place}{query if kept else ''}{kept}"


def lacks_application(command: str) -> bool:
    """Whether a command line needs an application of which it names none."""
    name = command.split(" ", 2)[1:2]
    return name in [[one] for one in _WITH_CODE] and "--app " not in command and "--save" not in command


def with_placeholder(command: str) -> str:
    """A command line with ``--app MODULE:NAME`` after its other options."""
    words = shlex.split(command)
    end = words.index("--") if "--" in words else len(words)
    return shlex.join([*words[:end], "--app", "MODULE:NAME", *words[end:]])


def with_filters(command: str, filters: FilterOptions, *, without: Sequence[str] = ()) -> str:
    """A command line with the filters of this one, except those in `without`."""
    words = [
        f"--{name.replace('_', '-')}" if one is True else f"--{name.replace('_', '-')} {shlex.quote(_shown(one))}"
        for name, value in filters._asdict().items()
        if value and name not in without
        for one in (value if isinstance(value, list) else [value])
    ]
    return " ".join([command, *words])


def _shown(value: str) -> str:
    """A value without a password, since the output may end up in a log."""
    from flujo_lens.redaction import masked_text
    from flujo_lens.rendering.text import escape_controls

    return escape_controls(masked_text(value))


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options and their values, in order, up to ``--``."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            return
        name, is_joined, value = word.partition("=")
        if name in _NAMES and is_joined and name != "-s":
            yield _NAMES[name], value
        elif word in _NAMES:
            yield from ((_NAMES[word], value) for value in [next(words, "")] if value)
        elif word.startswith("-s") and len(word) > 2 and not word.startswith("--"):
            yield "--store", word[2:]
