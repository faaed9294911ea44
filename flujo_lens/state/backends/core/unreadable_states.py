"""What `list_states` does about a state that is there and cannot be read: one rule for all drivers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo_lens.errors import LensError


def readable(run_id: str, read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """The state that `read` returns; None also if it raises that it cannot be read, which is logged.

    One run without its key, or with a file that does not parse, hides no other. The log has a warning of the logger
    ``flujo_lens.state`` for each; `load_state` of the run raises the error itself.
    """
    try:
        return read()
    except LensError as error:
        import logging

        logging.getLogger("flujo_lens.state").warning("list_states() leaves out run %r: %s", run_id, error.message)
        return None
