"""Every error that lens raises on purpose.

A caller of the library catches `LensError`; the command line turns one into a message, a hint and an exit
code (`flujo_lens.cli.exit_codes`; no exit codes here). The words live with the class, and the cause is kept
(``raise ... from exc``)::

    LensError                     LENS-E0
    ├── UsageError                LENS-U1   wrong words on the command line
    │   ├── ConfigError           LENS-U2   a settings file, key, type or variable
    │   ├── UnknownValueError     LENS-U3   no such status, column, format, ...
    │   ├── TimeFormatError       LENS-U4   a time or an age that does not parse
    │   ├── UnknownStoreError     LENS-U5   no store of that name, no driver for that scheme
    │   ├── NotSupportedError     LENS-U6   this driver does not have the method that is needed
    │   ├── MissingExtraError     LENS-U7   an optional package is not installed
    │   ├── NoStoreError          LENS-U8   nothing says which store is meant
    │   ├── AppNotFoundError      LENS-U9   the application of ``module:attribute`` cannot be imported
    │   └── InvalidAnswerError    LENS-A1   an answer does not fit what the human step asks for
    ├── RunNotFoundError          LENS-R1   no run has this id
    │   └── AmbiguousRunError     LENS-R2   several runs begin with it
    ├── IncompatibleError         LENS-C0   a saved state does not fit the code; LENS-C1 to LENS-C10 say how
    │   └── LibraryVersionError   LENS-C11  the installed library is of another version than the store
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
    │   ├── RunHeldError          LENS-B2   another process works on the run
    │   └── LostClaimError        LENS-B3   another process has taken the run over
    ├── OperationFailedError      LENS-F1   the operation failed
    │   ├── NotWaitingError       LENS-F2   an answer to a run that does not wait for this one
    │   └── ApplicationExitError  LENS-F1   an application's code would have ended the program
    ├── ArchiveError              LENS-T1   a file is no archive of runs that can be read here
    │   └── CorruptArchiveError   LENS-T2   an archive was changed after it was written
    ├── InflightError             LENS-T3   a file is none of ``lens check --save``, or not as it was written
    └── InternalError             LENS-X1   a fault of lens itself
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "AmbiguousRunError",
    "AppNotFoundError",
    "ApplicationExitError",
    "ArchiveError",
    "BusyError",
    "ConfigError",
    "CorruptArchiveError",
    "CorruptStoreError",
    "IncompatibleError",
    "InflightError",
    "InternalError",
    "InvalidAnswerError",
    "InvalidStateError",
    "LensError",
    "LibraryVersionError",
    "LostClaimError",
    "MissingExtraError",
    "NoStoreError",
    "NotAStoreError",
    "NotSupportedError",
    "NotWaitingError",
    "OperationFailedError",
    "ReadOnlyStoreError",
    "RunHeldError",
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
    "command_line",
    "nearest",
]


NAME_ANOTHER = "`lens stores` lists the known stores, `lens config` says who named this one; --store names another"
"""The hint where what was named is no store."""

RESTORE = "`lens show RUN` shows what there is of it; restore it from a backup, or `lens delete RUN`"
"""The hint where a state is damaged."""


class LensError(Exception):
    """Base of all errors of this package.

    Args:
        message: One sentence: what is wrong, and why.
        hint: What to type or do next; may have several lines.
        **details: Further machine-readable facts (shown by ``-o json`` beside code, message and hint).
    """

    code: str = "LENS-E0"

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


class AppNotFoundError(UsageError):
    """The application that ``module:attribute`` names cannot be imported, or has no such attribute."""

    code = "LENS-U9"

    @classmethod
    def without_module(cls, wanted: str, missing: str, folder: str) -> AppNotFoundError:
        """Build the error for the module `wanted`: itself or one that it imports is `missing`."""
        via = "" if missing == wanted else f", which {wanted} imports"
        return cls(
            f"there is no module {missing}{via}",
            hint=f"it was looked for among the installed packages and in {folder} (another: --app-dir DIR); "
            "in the application's own environment: /path/to/venv/bin/python -m flujo_lens ...",
            module=missing,
        )

    @classmethod
    def without_attribute(cls, spec: str, attribute: str, there: Sequence[str]) -> AppNotFoundError:
        """Build the error for ``module:attribute`` whose module has others, but not this `attribute`."""
        near = nearest(attribute, there)
        return cls(f'{spec}: there is no "{attribute}"', hint=f"did you mean {near}?" if near else None)

    @classmethod
    def failing(cls, module: str, error: BaseException, told: str) -> AppNotFoundError:
        """Build the error for a `module` that raised `error` when it was imported, or a function when it was called.

        `told` is the error in words.
        """
        import traceback

        stack = traceback.extract_tb(error.__traceback__)
        place: tuple[str, int | None] = (stack[-1].filename, stack[-1].lineno) if stack else (module, None)
        if isinstance(error, SyntaxError):
            place = error.filename or "", error.lineno
        words = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else told
        return cls(
            f"importing {module} failed: {words}",
            hint=f"in {place[0]}, line {place[1]}; --debug shows the whole traceback",
            module=module,
        )


class InvalidAnswerError(UsageError):
    """A person's answer does not fit the input schema of the step that asked; nothing was changed."""

    code = "LENS-A1"


class RunNotFoundError(LensError):
    """No run has this id."""

    code = "LENS-R1"


class AmbiguousRunError(RunNotFoundError):
    """More than one run id begins with what was given."""

    code = "LENS-R2"


class IncompatibleError(LensError):
    """A saved state does not fit the code that should go on with it. Nothing was changed.

    What is raised is `flujo_lens.runner.incompatibility.StateIncompatibilityError`, with a code of its own for each
    way in which it does not fit.
    """

    code = "LENS-C0"


class LibraryVersionError(IncompatibleError):
    """The installed version of the library is none that may open the store, or go on with the run."""

    code = "LENS-C11"


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


class RunHeldError(BusyError):
    """Another process works on the run."""

    code = "LENS-B2"

    @classmethod
    def of(cls, run_id: str, holder: str, beat_at: str, ends_at: str, pid: int | None = None) -> RunHeldError:
        """Build the error for a run that `holder` has; both times are ISO 8601 texts.

        `pid` is its process, if that is one of this machine and known to live: then the lease ends nothing.
        """
        until = f"if that process is dead, the run is free after {ends_at}"
        if pid is not None:
            until = f"that process is alive on this machine, and the run is free when it ends (kill {pid} ends it)"
        return cls(
            f"{run_id} is held by {holder}, which gave its last sign at {beat_at}",
            hint=f"wait until it is done; {until}",
            run_id=run_id,
            holder=holder,
            beat_at=beat_at,
            ends_at=ends_at,
        )


class LostClaimError(BusyError):
    """The process that worked on the run has lost it to another; what it would have saved was not saved."""

    code = "LENS-B3"

    @classmethod
    def of(cls, run_id: str, holder: str | None) -> LostClaimError:
        """Build the error for a run that `holder` has now; None if nobody has."""
        whose = f"{holder} has taken it over" if holder else "it was released or deleted"
        return cls(
            f"{run_id} is not held by this process any more: {whose}; nothing was saved",
            hint="a lease that is longer than any pause of the process keeps the run: LENS_LEASE=5m",
            run_id=run_id,
            holder=holder,
        )


class OperationFailedError(LensError):
    """The operation was understood and did not succeed."""

    code = "LENS-F1"


class NotWaitingError(OperationFailedError):
    """An answer was given to a run that does not wait for one, or waits for another; nothing was changed."""

    code = "LENS-F2"

    @classmethod
    def of(cls, run_id: str, found: str, question: str | None = None, step: str | None = None) -> NotWaitingError:
        """Build the error for a run that stands as `found` says; `question` is the token of what it asks at `step`."""
        hint = command_line("show", run_id)
        if question is not None:
            answer = command_line("resume", run_id, f"--question {question} --input ANSWER")
            hint += f"\n{answer} answers what it asks now"
        return cls(
            f"{run_id} does not wait for this answer: {found}",
            hint=hint,
            run_id=run_id,
            question=question,
            step=step,
        )


class ApplicationExitError(OperationFailedError):
    """An application's code raised what ends a program or a task, as `SystemExit` and `CancelledError` do."""

    @classmethod
    def of(cls, told: str) -> ApplicationExitError:
        """Build the error for an exception that is `told` in words."""
        return cls(
            f"the application's code gave up: {told}",
            hint="code that lens calls reports a failure by an exception, never by sys.exit; --debug shows where",
        )


class ArchiveError(LensError):
    """A file is no archive of runs, or one that this version, or this store, cannot take."""

    code = "LENS-T1"

    @classmethod
    def unreadable(cls, path: object, why: str, hint: str = "nothing was changed") -> ArchiveError:
        """Build the error for a file that cannot be read, and `why`."""
        return cls(f"cannot read the archive {path}: {why}", hint=hint, path=str(path))

    @classmethod
    def no_archive(cls, path: object, why: str, hint: str | None = None) -> ArchiveError:
        """Build the error for a file that is something else, and `why`."""
        made_by = "nothing was changed; archives are made by lens prune --archive FILE"
        return cls(f"{path} is no archive of runs: {why}", hint=hint or made_by, path=str(path))

    @classmethod
    def cut_off(cls, path: object, why: str) -> ArchiveError:
        """Build the error for a file of which not even the first line is there."""
        hint = "nothing was changed; get it again from where it came: its size there and here should be the same"
        return cls(f"the archive {path} is cut off: {why}", hint=hint, path=str(path))

    @classmethod
    def too_large(cls, path: object, why: str, option: str) -> ArchiveError:
        """Build the error for a file that takes more than the limit which `option` sets."""
        hint = (
            f"is it what it should be? then allow more: lens import FILE {option} SIZE, as in 20G; nothing was changed"
        )
        return cls(f"the archive {path} is too large: {why}", hint=hint, path=str(path), option=option)


class CorruptArchiveError(ArchiveError):
    """An archive is not as it was written."""

    code = "LENS-T2"

    @classmethod
    def at(cls, path: object, line: int, why: str, whole: int, rescue: str | None) -> CorruptArchiveError:
        """Build the error for the `line` that does not fit; the lines up to `whole` do, and `rescue` imports them."""
        lines = f"the lines up to {whole} are whole, and can be imported"
        hint = f"{lines}: {rescue}" if rescue else "nothing before it is whole: get another copy; nothing was changed"
        return cls(f"line {line} of the archive {path} {why}", hint=hint, path=str(path), line=line, whole=whole)


class InflightError(LensError):
    """A file is none of ``lens check --save``, or not as it was written."""

    code = "LENS-T3"

    @classmethod
    def unreadable(cls, path: object, why: str, hint: str | None = None) -> InflightError:
        """Build the error for the file at `path`, and `why` nothing can be told from it."""
        again = "save it anew where the store is: lens check --save inflight.json"
        return cls(f"cannot check what {path} holds: {why}", hint=hint or again, path=str(path))

    @classmethod
    def in_the_way(cls, path: object) -> InflightError:
        """Build the error for a `path` at which there is something else."""
        return cls(f"{path} is something else, and was not replaced", hint="another name, or --force", path=str(path))


class InternalError(LensError):
    """A fault of lens itself: please report it."""

    code = "LENS-X1"


def command_line(command: str, run_id: str, options: str = "") -> str:
    """A command line of ours about a run, to be typed as it stands: ``lens show run_7 --state``.

    The id is quoted for a shell. One that looks like an option stands behind ``--``.
    """
    import shlex

    quoted = shlex.quote(run_id)
    words = [command, options, "--", quoted] if run_id.startswith("-") else [command, quoted, options]
    return " ".join(["lens", *filter(None, words)])


def nearest(value: str, legal: Iterable[str]) -> str | None:
    """The one of `legal` that looks most like `value` (case-folded), or None if none is near."""
    by_folded = {name.casefold(): name for name in legal}
    found = difflib.get_close_matches(value.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None
