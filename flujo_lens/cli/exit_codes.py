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
    OK: "done, even if the list is empty, or if --max-duration ended the work",
    FAILED: "the operation failed, or a check found a problem",
    USAGE: "invalid arguments or settings, or a question that cannot be asked: no terminal, and no --yes",
    NO_SUCH_RUN: "no such run, or an ambiguous id; nothing was changed",
    INCOMPATIBLE: "a saved run does not fit the code; nothing was changed",
    STORE: "the store is missing, not a store, unreachable, read-only or damaged; or a file is not an archive of runs",
    PARTIAL: "partly done: some runs failed, or were skipped",
    BUSY: "busy: another process holds the store or the run; try again later",
    INTERNAL: "an internal error in lens (--debug shows the traceback)",
    HUNG_UP: "the terminal was closed (SIGHUP): like 143",
    INTERRUPTED: "interrupted (Ctrl-C)",
    TERMINATED: "terminated (SIGTERM), after finishing the current batch",
}
"""Exit code -> its meaning, as in the README. Both are a public interface."""

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
