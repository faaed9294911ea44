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

MEANINGS: dict[int, str] = {
    OK: "Done, also if a list is empty, or if --max-duration ended the work.",
    FAILED: "The operation failed, or a check found a problem (check, doctor, audit verify, --exit-status).",
    USAGE: "Wrong usage or settings, or a question that cannot be asked: not a terminal, and no --yes.",
    NO_SUCH_RUN: "No run has this id, or several have this prefix. Nothing was changed.",
    INCOMPATIBLE: "The saved state does not fit the code. Nothing was changed.",
    STORE: "The store or file is missing, unreachable, damaged, read-only, or not a store.",
    PARTIAL: "Done in part: some of the runs failed or were skipped.",
    BUSY: "Locked, or held by a live process: the same command may work later.",
    INTERNAL: "An internal error in lens.",
    HUNG_UP: "Ended by SIGHUP, after the current batch.",
    INTERRUPTED: "Ended by Ctrl-C (SIGINT).",
    TERMINATED: "Ended by SIGTERM, after the current batch.",
}
"""Exit code -> its meaning, for the manual. The codes and meanings are part of the public interface."""

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
