"""``lens completion``."""

from __future__ import annotations

from typing import Annotated

import typer

from flujo_lens.cli.context import App


def completion(
    app: App,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the completion script of a shell.

    It completes commands, options, statuses, pipelines, stores, columns and run ids, newest first.

    lens completion bash > ~/.local/share/bash-completion/completions/lens
    lens completion zsh > ~/.zfunc/_lens      with fpath+=~/.zfunc before compinit
    lens completion fish > ~/.config/fish/completions/lens.fish
    """
    from flujo_lens.cli.completion import script

    app.say_masked(script(shell).splitlines())
