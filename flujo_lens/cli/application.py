"""The application with the pipelines: found by --app or the settings, imported, and kept off stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flujo_lens.cli.context import App
from flujo_lens.errors import UsageError

if TYPE_CHECKING:
    from flujo_lens.runner.application import Application


def _target_of(app: App, given: str | None) -> str:
    """The ``module:attribute`` of the option, else of the settings.

    Raises:
        UsageError: no application is configured.
    """
    target = given or app.settings.resume_app
    if not given:
        app.settings.check_trusted("resume.app")
    if target is None:
        raise UsageError(
            "no application is given",
            hint='--app myapp.pipelines:registry, or app = "myapp.pipelines:registry" under [resume] in lens.toml',
        )
    return target


def the_application(app: App, given: str | None, folder: Path | None) -> Application:
    """Import the application. From then on only lens writes to stdout.

    Args:
        given: ``--app``.
        folder: ``--app-dir``; None for the current folder.

    Raises:
        UsageError: no application is configured, or it cannot be imported.
    """
    from flujo_lens.cli.application_output import divert, spare_of
    from flujo_lens.cli.process_exit import exits_guarded
    from flujo_lens.cli.process_state import ProcessState
    from flujo_lens.runner.application import load_application

    target = _target_of(app, given)
    place = app.world.cwd / folder if folder is not None else app.world.cwd
    divert(app.world)
    state = ProcessState(spare_of(app.world))
    try:
        with exits_guarded():
            return load_application(target, place)
    finally:
        state.restore()
