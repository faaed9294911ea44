"""Every error that lens raises on purpose.

A caller of the library catches `LensError`; the command line turns one into a message, a hint and an exit
code (`flujo_lens.cli.exit_codes`; no exit codes here). The words live with the class, and the cause is kept
(``raise ... from exc``)::

    LensError
    ├── UsageError                LENS-U1   wrong words on the command line
    │   ├── ConfigError           LENS-U2   a settings file, key, type or variable
    │   ├── UnknownValueError     LENS-U3   no such status, column, format, ...
    │   ├── TimeFormatError       LENS-U4   a time or an age that does not parse
    │   ├── UnknownStoreError     LENS-U5   no store of that name, no driver for that scheme
    │   ├── NotSupportedError     LENS-U6   this driver does not have the method that is needed
    │   ├── MissingExtraError     LENS-U7   an optional package is not installed
    │   └── NoStoreError          LENS-U8   nothing says which store is meant
    ├── RunNotFoundError          LENS-R1   no run has this id
    │   └── AmbiguousRunError     LENS-R2   several runs begin with it
    ├── StoreError                LENS-S0
    │   ├── StoreNotFoundError    LENS-S1   nothing is there
    │   ├── UnreachableStoreError LENS-S2   it cannot be opened or reached
    │   ├── NotAStoreError        LENS-S3   something is there, and it is no state store
    │   ├── CorruptStoreError     LENS-S4   it is damaged
    │   ├── ReadOnlyStoreError    LENS-S5   a write was asked of a store that must not be written
    │   ├── SchemaError           LENS-S6   written by a version that is too old or too new to write to
    │   ├── SealedStateError      LENS-S7   encrypted, and its key is missing or another
    │   └── InvalidStateError     LENS-S8   it does not fit the model that it is checked against
    ├── BusyError                 LENS-B1   locked; try later
    ├── OperationFailedError      LENS-F1   the operation failed
    └── InternalError             LENS-X1   a fault of lens itself
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

__all__ = [
    "AmbiguousRunError",
    "BusyError",
    "ConfigError",
    "CorruptStoreError",
    "InternalError",
    "InvalidStateError",
    "LensError",
    "MissingExtraError",
    "NoStoreError",
    "NotAStoreError",
    "NotSupportedError",
    "OperationFailedError",
    "ReadOnlyStoreError",
    "RunNotFoundError",
    "SchemaError",
    "SealedStateError",
    "StoreError",
    "StoreNotFoundError",
    "TimeFormatError",
    "UnknownStoreError",
    "UnknownValueError",
    "UnreachableStoreError",
    "UsageError",
    "nearest",
]


class LensError(Exception):
    """Base of all errors of this package.

    Args:
        message: One sentence: what is wrong, and why.
        hint: What to type or do next; may have several lines.
        **details: Further machine-readable facts (shown by ``-o json`` beside code, message and hint).
    """

    code: ClassVar[str] = "LENS-E0"

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = {name: value for name, value in details.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The error as ``-o json`` prints it: code, message, hint and the details."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.details}


class UsageError(LensError):
    """The command line or a parameter is wrong."""

    code = "LENS-U1"


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type, or names a variable that is not set."""

    code = "LENS-U2"


class UnknownValueError(UsageError):
    """A value that has to be one of a few is none of them."""

    code = "LENS-U3"

    @classmethod
    def of(cls, kind: str, value: str, legal: Sequence[str]) -> UnknownValueError:
        """Build the error for `value`, which is no `kind`; names the nearest of the `legal` ones."""
        near = nearest(value, legal)
        asked = f"Did you mean {near}? " if near else ""
        return cls(f'no {kind} "{value}". {asked}There are: {", ".join(legal)}', value=value)


class TimeFormatError(UsageError):
    """A time or an age that cannot be read."""

    code = "LENS-U4"


class UnknownStoreError(UsageError):
    """No store has this name, or no driver this scheme."""

    code = "LENS-U5"


class NotSupportedError(UsageError, NotImplementedError):
    """The store's driver does not have a method that the command needs."""

    code = "LENS-U6"

    @classmethod
    def of(cls, driver: type, method: str, needed_for: str | None = None) -> NotSupportedError:
        """Build the error for a `driver` class that lacks `method`."""
        why = f", which {needed_for} needs" if needed_for else ""
        return cls(
            f"the driver {driver.__module__}.{driver.__qualname__} has no {method}{why}",
            hint=f"implement {method} (see flujo_lens.state.backends.base.StateBackend); "
            "a driver with save_state, load_state and delete_state alone can `lens show RUN`",
            method=method,
        )


class MissingExtraError(UsageError):
    """An optional package is not installed."""

    code = "LENS-U7"

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Build the error for a `package` that the `extra` of this distribution brings."""
        return cls(f"the package {package} is not installed", hint=f"pip install 'flujo-lens[{extra}]'")


class NoStoreError(UsageError):
    """No option, variable or file names a store, and there is none in this folder."""

    code = "LENS-U8"


class RunNotFoundError(LensError):
    """No run has this id."""

    code = "LENS-R1"


class AmbiguousRunError(RunNotFoundError):
    """More than one run id begins with what was given."""

    code = "LENS-R2"


class StoreError(LensError):
    """Something about the store itself."""

    code = "LENS-S0"


class StoreNotFoundError(StoreError):
    """There is nothing at the store's place. Nothing was created."""

    code = "LENS-S1"


class UnreachableStoreError(StoreError):
    """The store is there, or should be, and cannot be opened or reached."""

    code = "LENS-S2"


class NotAStoreError(StoreError):
    """There is something, but no state store."""

    code = "LENS-S3"


class CorruptStoreError(StoreError):
    """The store is damaged."""

    code = "LENS-S4"


class ReadOnlyStoreError(StoreError):
    """A write was asked of a store that is read-only."""

    code = "LENS-S5"


class SchemaError(StoreError):
    """The store's schema is one that this version does not write to."""

    code = "LENS-S6"


class SealedStateError(StoreError):
    """A state is encrypted, and its key is missing, another one, or the state is not as it was written."""

    code = "LENS-S7"


class InvalidStateError(StoreError):
    """A state does not fit the model that it is checked against; nothing was saved."""

    code = "LENS-S8"


class BusyError(LensError):
    """Somebody else holds it; the same command may work later."""

    code = "LENS-B1"


class OperationFailedError(LensError):
    """The operation was understood and did not succeed."""

    code = "LENS-F1"


class InternalError(LensError):
    """A fault of lens itself: please report it."""

    code = "LENS-X1"


def nearest(value: str, legal: Iterable[str]) -> str | None:
    """The one of `legal` that looks most like `value` (case-folded), or None if none is near."""
    by_folded = {name.casefold(): name for name in legal}
    found = difflib.get_close_matches(value.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None
