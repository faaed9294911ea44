"""Somebody's application: found by --app or the settings, imported, and kept from writing to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flujo_lens.cli.context import App
from flujo_lens.errors import UsageError

if TYPE_CHECKING:
    from flujo_lens.runner.application import Application

__all__ = ["aside", "the_application"]


def _target_of(app: App, given: str | None) -> str:
    """The ``module:attribute`` that was given, else that of the settings.

    Raises:
        UsageError: nothing says which application is meant.
    """
    target = given or app.settings.resume_app
    if not given:
        app.settings.check_trusted("resume.app")
    if target is None:
        raise UsageError(
            "which application has the pipelines?",
            hint='--app myapp.pipelines:registry, or app = "myapp.pipelines:registry" under [resume] in lens.toml',
        )
    return target


def the_application(app: App, given: str | None, folder: Path | None) -> Application:
    """Import the application that is meant.

    Args:
        app: The invocation.
        given: ``--app``.
        folder: ``--app-dir``; None for the current folder.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    from flujo_lens.runner.application import load_application

    target = _target_of(app, given)
    place = app.world.cwd / folder if folder is not None else app.world.cwd
    with aside(app):
        return load_application(target, place)


@contextmanager
def aside(app: App) -> Iterator[TextIO]:
    """What is printed in this block, by programs that it starts too, goes to stderr: stdout has the result alone.

    Yields:
        A stream that leads to stdout all the same.
    """
    stdout, stderr = app.world.stdout, app.world.stderr
    stdout.flush()
    if stdout is not sys.stdout or not _has_number(stdout):
        with redirect_stdout(stderr):
            yield stdout
        return
    kept = os.dup(stdout.fileno())
    try:
        os.dup2(stderr.fileno(), stdout.fileno())
        with (
            redirect_stdout(stderr),
            open(kept, "w", encoding=stdout.encoding, errors="backslashreplace", closefd=False) as real,
        ):
            yield real
    finally:
        stderr.flush()
        stdout.flush()
        os.dup2(kept, stdout.fileno())
        os.close(kept)


def _has_number(stream: TextIO) -> bool:
    """Whether the stream is a file of the system."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False
