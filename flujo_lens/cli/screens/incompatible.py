"""The error for a saved state that does not fit the code, on stderr."""

from __future__ import annotations

import io

from flujo_lens.cli.context import App
from flujo_lens.errors import IncompatibleError
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.incompatibility import incompatibility
from flujo_lens.rendering.tables import make_console


def incompatible_text(app: App, error: IncompatibleError) -> str:
    """The error in the width of the terminal, without trailing spaces."""
    world, text = app.world, io.StringIO()
    console = make_console(text, width=world.columns, colour=app.stderr_colour, unicode=world.unicode)
    shown = Human(world.now(), app.zone)
    document = app.redactor.value(app.repeated.error(error.to_dict()))
    console.print(
        incompatibility(document, shown, world.columns, unicode=world.unicode, folds=app.stderr_is_terminal), crop=False
    )
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
