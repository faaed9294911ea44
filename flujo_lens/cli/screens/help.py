"""Output of ``lens help``: a topic, the help of a command, or the lists of both."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from flujo_lens.cli.context import App
from flujo_lens.errors import UsageError, nearest


def print_help(app: App, words: Sequence[str]) -> int:
    """Print the help for a topic or command; return the exit code.

    Raises:
        UsageError: there is no such topic and no such command.
    """
    from flujo_lens.cli.app import COMMANDS, run
    from flujo_lens.cli.topics import ALSO, TOPICS

    if not words:
        code = run(["--help"], app.world)
        _list_topics(app)
        return code
    name = words[0].lower()
    name = name if words[0] in COMMANDS else ALSO.get(name, name)
    if name in TOPICS and len(words) == 1:
        _print_topic(app, name)
        return 0
    if words[0] not in COMMANDS:
        near = nearest(name, [*TOPICS, *COMMANDS])
        raise UsageError(
            f'unknown topic or command "{" ".join(words)}".' + (f" Did you mean {near}?" if near else ""),
            hint=f"topics: {', '.join(TOPICS)}; lens help lists the commands",
        )
    return run([*words, "--help"], app.world)


def _list_topics(app: App) -> None:
    from flujo_lens.cli.topics import TOPICS

    width = max(map(len, TOPICS)) + 2
    app.say(["Topics (lens help TOPIC):", *(f"  {name:<{width}}{about}" for name, about in TOPICS.items())])


def _print_topic(app: App, name: str) -> None:
    from flujo_lens.cli.topics.layout import WIDEST, laid_out

    module = importlib.import_module(f"flujo_lens.cli.topics.{name.replace('-', '_')}")
    app.say_masked(laid_out(module.lines(app), app.world.columns if app.world.is_terminal else WIDEST))
