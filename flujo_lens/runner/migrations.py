"""Migrates the saved context of a run between versions of its pipeline, by functions of the application."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable

from flujo_lens.runner.application_code import as_exception, describe, end_child
from flujo_lens.runner.type_descriptions import JSONObject

MigrationFunction = Callable[[JSONObject], JSONObject]
"""Takes a saved context as plain JSON and returns it for the next version. May modify its argument."""


class MigrationError(Exception):
    """A registered migration failed.

    Internal to the runner; `flujo_lens.runner.incompatibility.migration_failed` turns it into a public error.
    """


def migrated(context: JSONObject, migrations: Iterable[MigrationFunction]) -> JSONObject:
    """Apply the functions to a copy of `context`; `context` itself is not modified.

    Raises:
        MigrationError: a function raised, or did not return a dict. The cause is kept.
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
