"""What a shell offers to complete a command line with: the scripts, and the candidates that they ask for.

A script calls ``lens __complete SHELL WORDS...`` with the words behind ``lens`` up to the one under the cursor, which
may be empty, and gets a line for each candidate: the value, a tab, and a help text. A line ``:files`` says that the
shell knows better. Nothing is written to stderr, a store is only read, and whatever goes wrong offers nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flujo_lens.cli.context import App
from flujo_lens.cli.options import CommonOptions
from flujo_lens.cli.world import World
from flujo_lens.errors import UnknownValueError

if TYPE_CHECKING:
    from flujo_lens.state.backends.base import StateBackend
    from flujo_lens.state.views import RunSummary

SHELLS = {"bash": "lens.bash", "zsh": "_lens", "fish": "lens.fish"}
"""Each shell, and the name that the file of its script has."""

_SECONDS = 1.0
"""How long a store may take."""
_MOST = 100
_FILES = (":files", "")

Candidate = tuple[str, str]

_FORMATS = {
    "table": "for people",
    "tsv": "tab-separated, with a header",
    "csv": "comma-separated, with a header",
    "json": "one document",
    "ndjson": "one JSON object a line",
    "id": "ids alone",
}
_CHOICES: dict[str, Sequence[str]] = {
    "--color": ("auto", "always", "never"),
    "--time": ("iso", "relative", "local"),
    "--fail-on": ("incompatible", "unknown", "none"),
    "--export": ("html", "svg", "chrome", "otlp", "mermaid"),
    "--on-conflict": ("fail", "skip", "replace"),
    "--strip": ("spans", "outputs", "state"),
    "--without": ("state", "spans", "outputs"),
}
_STATUSES_OF = {
    "resume": ("paused", "failed", "running"),
    "retry": ("failed",),
    "cancel": ("paused", "running", "failed"),
}
"""The statuses of runs that a command can do something with; of others all are offered."""

_VIEWS = {
    "list": "RUN", "waiting": "WAITING", "spans": "SPAN", "tasks": "TASK", "evals": "EVALUATION", "stores": "STORE",
    "audit": "AUDIT", "system": "SYSTEM", "config": "CONFIG", "doctor": "FINDING",
}  # fmt: skip


def script(shell: str) -> str:
    """The completion script of a shell.

    Raises:
        UnknownValueError: there is none for it.
    """
    if shell not in SHELLS:
        raise UnknownValueError.of("shell", shell, list(SHELLS))
    return (files("flujo_lens") / "data" / "completions" / SHELLS[shell]).read_text(encoding="utf-8")


def print_candidates(words: Sequence[str], world: World) -> None:
    """Print what fits the last word; the first is the shell, in whose way the others are quoted."""
    try:
        shell, *typed = words
        plain = typed[:-1] if shell == "fish" else list(map(_unquoted, typed[:-1]))
        current = _unquoted(typed[-1]) if typed else ""
        found = [each for each in _fitting([*plain, current], world, shell) if _is_plain(each[0])]
        world.stdout.write("".join(f"{value}\t{' '.join(about.split())}\n" for value, about in found))
        world.stdout.flush()
    except Exception:  # noqa: BLE001 - a person is typing: no error is of use
        return


def _unquoted(word: str) -> str:
    """A word as the program would get it; one that is still being typed may lack its closing quote."""
    for closing in ("", "'", '"'):
        try:
            return "".join(shlex.split(word + closing)) if word else ""
        except ValueError:
            continue
    return word.rstrip("\\")


def _is_plain(value: str) -> bool:
    return value.isprintable() and bool(value)


def _fitting(words: Sequence[str], world: World, shell: str) -> list[Candidate]:
    found = list(_Line(words, world, shell).candidates())
    if found and found[0] == _FILES:
        return found
    current = words[-1]
    return [(value, about) for value, about in found if value.startswith(current)]


class _Line:
    """A command line up to the cursor."""

    def __init__(self, words: Sequence[str], world: World, shell: str) -> None:
        self.before, self.current, self._world, self._shell = list(words[:-1]), words[-1], world, shell
        self.options: dict[str, str] = {}
        self.command: Any = None
        self.path: list[str] = []
        self.arguments: list[str] = []
        self.pending: str | None = None
        self._read()

    def _read(self) -> None:
        from flujo_lens.cli.app import COMMANDS, build, root

        known = _takes_value(root())
        for word in self.before:
            if self.pending is not None:
                self.options[self.pending] = word
                self.pending = "FILE" if self.pending == "--export" else None
            elif word.startswith("-") and len(word) > 1:
                name, separator, value = word.partition("=")
                if separator:
                    self.options[name] = value
                elif name in known:
                    self.pending = name
            elif self.command is None and word in COMMANDS:
                self.command, self.path = build(word), [word]
                known |= _takes_value(self.command)
            elif word in getattr(self.command, "commands", {}):
                self.command = self.command.commands[word]
                self.path.append(word)
                known |= _takes_value(self.command)
            else:
                self.arguments.append(word)

    def candidates(self) -> Iterator[Candidate]:
        if self.pending is not None:
            yield from self._values(self.pending)
        elif self.current.startswith("--") and "=" in self.current:
            name = self.current.partition("=")[0]
            yield from ((f"{name}={value}", about) for value, about in self._values(name) if value != ":files")
        elif self.current.startswith("-"):
            yield from self._options()
        elif self.command is None or getattr(self.command, "commands", None):
            yield from self._commands()
            if self.command is not None:
                yield from self._argument()
        else:
            yield from self._argument()

    def _commands(self) -> Iterator[Candidate]:
        from flujo_lens.cli.app import COMMANDS, build

        if self.command is None:
            for name in COMMANDS:
                if name.startswith(self.current):
                    yield name, "" if self._shell == "bash" else _help_of(build(name))
        else:
            yield from ((name, _help_of(each)) for name, each in self.command.commands.items())

    def _options(self) -> Iterator[Candidate]:
        from flujo_lens.cli.app import root

        for param in (self.command or root()).params:
            for name in [*getattr(param, "opts", ()), *getattr(param, "secondary_opts", ())]:
                if name.startswith("--"):
                    yield name, getattr(param, "help", None) or ""
        yield "--help", "Show the help of the command."

    def _argument(self) -> Iterator[Candidate]:
        places = [param for param in getattr(self.command, "params", ()) if param.param_type_name == "argument"]
        if not places:
            return
        place = places[min(len(self.arguments), len(places) - 1)]
        if len(self.arguments) >= len(places) and place.nargs != -1:
            return
        metavar = (place.metavar or place.name or "").strip("[].").upper()
        yield from self._values(metavar)

    def _values(self, what: str) -> Iterable[Candidate]:
        """Values of an option, or of an argument by its metavar."""
        makers: dict[str, Callable[[], Iterable[Candidate]]] = {
            "--status": self._statuses, "--pipeline": self._pipelines, "--version": self._versions,
            "--store": self._stores, "-s": self._stores, "--output": _FORMATS.items, "-o": _FORMATS.items,
            "--columns": self._columns, "RUN": self._runs, "CODE": _codes, "SHELL": _shells, "AUDIT_ID": self._kept,
            "TOPIC|COMMAND": self._topics, "--run": self._runs, "FROM": self._stores, "TO": self._stores,
            "URI": self._stores, "--by": self._groups, "--sort": self._orders, "--from-step": self._steps,
        }  # fmt: skip
        if what in makers:
            return makers[what]()
        if what in _CHOICES:
            return [(value, "") for value in _CHOICES[what]]
        if what in ("FILE", "PATH", "--file", "--archive", "--config", "--app-dir", "--input-file", "--save", "--from"):
            return [_FILES]
        return []

    # --- what is in the store

    def _look(self, work: Callable[[StateBackend], Any]) -> Any:
        options = CommonOptions(
            store=self.options.get("--store", self.options.get("-s")),
            config=self.options.get("--config"),
            timeout=_SECONDS,
            quiet=True,
        )
        return App(self._world).with_options(options).read(work)

    def _runs(self) -> Iterable[Candidate]:
        from flujo_lens.rendering import human
        from flujo_lens.state.views import RunFilter

        statuses = frozenset(_STATUSES_OF.get(self.path[0] if self.path else "", ()))
        if self.current.startswith("@"):
            return [
                ("@latest", "the newest run"),
                ("@failed", "the newest that failed"),
                ("@paused", "the newest that waits"),
            ]

        async def work(backend: StateBackend) -> Sequence[RunSummary]:
            if not self.current:
                return (await backend.query_runs(RunFilter(statuses=statuses), limit=_MOST)).items
            ids = await backend.find_run_ids(self.current, _MOST)
            return [run for run in await backend.read_summaries(ids) if not statuses or run.status in statuses]

        now = self._world.now()
        found = sorted(self._look(work), key=lambda run: str(run.created_at or ""), reverse=True)
        return [
            (run.run_id, f"{run.status}, {human.age(now - run.created_at)} ago" if run.created_at else run.status)
            for run in found
            if run.run_id not in self.before
        ]

    def _statuses(self) -> Iterable[Candidate]:
        from flujo_lens.state.views import RUN_STATUSES

        begun, comma, _ = self.current.rpartition(",")
        try:
            found = [*RUN_STATUSES, *sorted({*self._look(lambda backend: backend.read_statuses())} - {*RUN_STATUSES})]
        except Exception:  # noqa: BLE001 - the five that are always there do without a store
            found = [*RUN_STATUSES]
        return [(f"{begun}{comma}{status}", "") for status in found]

    def _newest(self) -> Sequence[RunSummary]:
        from flujo_lens.state.views import RunFilter

        async def work(backend: StateBackend) -> Sequence[RunSummary]:
            wanted = RunFilter(pipeline=self.options.get("--pipeline"))
            return (await backend.query_runs(wanted, limit=5 * _MOST)).items

        found: Sequence[RunSummary] = self._look(work)
        return found

    def _of_newest(self, field: str) -> Iterable[Candidate]:
        """The values that a field of the newest runs has."""
        return [(value, "") for value in dict.fromkeys(getattr(run, field) for run in self._newest())]

    def _pipelines(self) -> Iterable[Candidate]:
        return self._of_newest("pipeline_name")

    def _versions(self) -> Iterable[Candidate]:
        return self._of_newest("pipeline_version")

    def _stores(self) -> Iterable[Candidate]:
        from flujo_lens.redaction import masked_text

        found = App(self._world).settings.stores
        fitting = [(name, masked_text(entry.uri)) for name, entry in found.items() if name.startswith(self.current)]
        return fitting or [_FILES]

    def _kept(self) -> Iterable[Candidate]:
        from flujo_lens.cli.sidecars import bin_of
        from flujo_lens.rendering import human

        async def work(backend: StateBackend) -> Any:
            return bin_of(App(self._world), backend).items()

        return [(item.audit_id, human.plural(item.runs, "run")) for item in self._look(work)]

    def _columns(self) -> Iterable[Candidate]:
        from flujo_lens.rendering import columns
        from flujo_lens.rendering.sorted_runs import run_view

        view = getattr(columns, _VIEWS.get(self.path[0] if self.path else "", "RUN"))
        if self.path == ["list"] and self.options.get("--sort", "").startswith("size"):
            view = run_view("size")
        begun, comma, _ = self.current.rpartition(",")
        taken = set(begun.split(","))
        return [(f"{begun}{comma}{field.name}", "") for field in view.fields if field.name not in taken]

    def _groups(self) -> Iterable[Candidate]:
        """What ``--by`` takes; behind ``meta:``, the keys of the newest runs."""
        from flujo_lens.state.groups import DIMENSIONS, META

        if self.path == ["failed"]:
            return [("version", ""), ("hour", "")]
        if not self.current.partition("=")[2].startswith(META) and not self.current.startswith(META):
            return [(name, "") for name in (*DIMENSIONS, META)]
        return [(f"{META}{key}", "") for key in sorted({key for run in self._newest() for key in run.metadata})]

    def _orders(self) -> Iterable[Candidate]:
        """What ``--sort`` takes; a direction once its colon is typed."""
        from flujo_lens.operations.stats import FIGURES
        from flujo_lens.state.sorting import DIRECTIONS, SORT_FIELDS

        fields = (*FIGURES, *(self._grouped_by() or ["pipeline"])) if self.path == ["stats"] else SORT_FIELDS
        if ":" not in self.current or self.current.startswith("meta:"):
            return [(name, "") for name in fields]
        return [(f"{name}:{way}", "") for name in fields for way in DIRECTIONS]

    def _grouped_by(self) -> list[str]:
        """The values of ``--by`` before the cursor."""
        behind = [after for word, after in pairwise(self.before) if word == "--by"]
        return [*behind, *(word.removeprefix("--by=") for word in self.before if word.startswith("--by="))]

    def _steps(self) -> Iterable[Candidate]:
        """The steps that the run of ``lens fork`` can start again from."""
        from flujo_lens.operations.fork import steps_to_fork_from
        from flujo_lens.operations.runs import read_run

        if not self.arguments:
            return []

        async def work(backend: StateBackend) -> Sequence[str]:
            return steps_to_fork_from(await read_run(backend, self.arguments[0]))

        return [(step, "") for step in self._look(work)]

    def _topics(self) -> Iterable[Candidate]:
        from flujo_lens.cli.app import COMMANDS
        from flujo_lens.cli.topics import TOPICS

        return [*TOPICS.items(), *((name, "") for name in COMMANDS)]


def _shells() -> Iterable[Candidate]:
    return [(shell, "") for shell in SHELLS]


def _codes() -> Iterable[Candidate]:
    from flujo_lens.operations.explain import explanations

    return [(page.code, page.title) for page in explanations()]


def _takes_value(command: Any) -> set[str]:
    """The names of the options of a command that are followed by a value."""
    return {
        name
        for param in command.params
        if param.param_type_name == "option" and not param.is_flag and not getattr(param, "count", False)
        for name in param.opts
    }


def _help_of(command: Any) -> str:
    return (command.help or "").strip().partition("\n")[0]
