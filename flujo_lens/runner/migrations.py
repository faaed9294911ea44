"""Brings the saved context of a run from one version of its pipeline to the next, by an application's functions."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable

from flujo_lens.runner.application_code import as_exception, describe, end_child
from flujo_lens.runner.type_descriptions import JSONObject

__all__ = ["MigrationError", "MigrationFunction", "migrated"]

MigrationFunction = Callable[[JSONObject], JSONObject]
"""Takes a saved context as plain JSON, returns it as the next version wants it. May change what it is given."""


class MigrationError(Exception):
    """A migration that an application registered does not work.

    It stays within the runner: `flujo_lens.runner.incompatibility.migration_failed` makes the error of it that
    a user sees.
    """


def migrated(context: JSONObject, migrations: Iterable[MigrationFunction]) -> JSONObject:
    """A copy of `context`, changed by each function in turn; `context` itself stays as it is.

    Raises:
        MigrationError: a function raised, or returned something else than a dict. The cause is kept.
    """
    made, pid = copy.deepcopy(context), os.getpid()
    for function in migrations:
        name = getattr(function, "__name__", repr(function))
        try:
            made = function(made)
        except BaseException as error:
            end_child(pid, error)
            as_exception(error)
            raise MigrationError(f"the migration {name} raised {describe(error)}") from error
        end_child(pid, None)
        if not isinstance(made, dict):
            raise MigrationError(f"the migration {name} returned {type(made).__name__}, not a dict")
    return made
