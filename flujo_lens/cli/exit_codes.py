"""The exit code of each class of errors."""

from __future__ import annotations

from flujo_lens import errors

OK = 0
FAILED = 1
USAGE = 2
NO_SUCH_RUN = 3
INCOMPATIBLE = 4
STORE = 5
PARTIAL = 6
BUSY = 7
INTERNAL = 70
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143

_BY_CLASS: dict[type[errors.LensError], int] = {
    errors.UsageError: USAGE,
    errors.RunNotFoundError: NO_SUCH_RUN,
    errors.IncompatibleError: INCOMPATIBLE,
    errors.StoreError: STORE,
    errors.ArchiveError: STORE,
    errors.InflightError: STORE,
    errors.BusyError: BUSY,
    errors.OperationFailedError: FAILED,
    errors.InternalError: INTERNAL,
}


def exit_code_of(error: errors.LensError) -> int:
    """The exit code of an error: that of its nearest class in the table."""
    for cls in type(error).__mro__:
        if cls in _BY_CLASS:
            return _BY_CLASS[cls]
    return FAILED
