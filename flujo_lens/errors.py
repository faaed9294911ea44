"""The exceptions of lens.

Callers of the library catch `LensError`; the command line turns it into a message, a hint and an exit code
(`flujo_lens.cli.exit_codes`). Messages are built by class methods; the cause is kept (``raise ... from exc``)::

    LensError                     LENS-E0
    ├── UsageError                LENS-U1   invalid arguments
    │   ├── ConfigError           LENS-U2   an invalid settings file, key, value or variable
    │   ├── UnknownValueError     LENS-U3   an unknown status, column, format, ...
    │   ├── TimeFormatError       LENS-U4   an invalid time or age
    │   ├── UnknownStoreError     LENS-U5   an unknown store, or a scheme without a driver
    │   ├── NotSupportedError     LENS-U6   a method that the driver does not have
    │   ├── MissingExtraError     LENS-U7   an optional package is not installed
    │   ├── NoStoreError          LENS-U8   no store is selected
    │   ├── AppNotFoundError      LENS-U9   the application of ``module:attribute`` cannot be imported
    │   └── InvalidAnswerError    LENS-A1   an answer does not match the schema of the human step
    ├── RunNotFoundError          LENS-R1   no run has this id
    │   └── AmbiguousRunError     LENS-R2   several runs have this prefix
    ├── IncompatibleError         LENS-C0   a saved state does not fit the code; LENS-C1 to LENS-C10 say how
    │   └── LibraryVersionError   LENS-C11  the installed library does not support the store
    ├── StoreError                LENS-S0
    │   ├── StoreNotFoundError    LENS-S1   the store does not exist
    │   ├── UnreachableStoreError LENS-S2   the store cannot be opened or reached
    │   ├── NotAStoreError        LENS-S3   the path or server has no state store
    │   ├── CorruptStoreError     LENS-S4   the store is damaged
    │   ├── ReadOnlyStoreError    LENS-S5   a write to a read-only store
    │   ├── SchemaError           LENS-S6   a schema that is too old or too new to write to
    │   ├── SealedStateError      LENS-S7   an encrypted state without its key
    │   └── InvalidStateError     LENS-S8   a state that does not fit its model
    ├── BusyError                 LENS-B1   the store is locked; try again later
    │   ├── RunHeldError          LENS-B2   another process holds the run
    │   └── LostClaimError        LENS-B3   another process has taken the run over
    ├── OperationFailedError      LENS-F1   the operation failed
    │   ├── NotWaitingError       LENS-F2   an answer to a run that does not wait for it
    │   └── ApplicationExitError  LENS-F1   an application's code tried to end the program
    ├── ArchiveError              LENS-T1   a file is not a readable archive of runs
    │   └── CorruptArchiveError   LENS-T2   an archive was changed after it was written
    ├── InflightError             LENS-T3   a file was not written by ``lens check --save``, or was changed
    └── InternalError             LENS-X1   an internal error in lens
"""

from __future__ import annotations

import os
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
    "StrippedRunError",
    "TimeFormatError",
    "UnknownStoreError",
    "UnknownValueError",
    "UnreachableStoreError",
    "UsageError",
    "command_line",
    "install_command",
    "nearest",
]


_PACKAGE = os.path.join(os.path.dirname(__file__), "")

NAME_ANOTHER = (
    "`lens stores` lists the configured stores, `lens config` shows which setting names this one; --store names another"
)
"""The hint if the selected path or URI is not a store."""

RESTORE = "`lens show RUN` shows what is left of it; restore it from a backup, or `lens delete RUN`"
"""The hint for a damaged state."""


class LensError(Exception):
    """Base of all errors of this package.

    Args:
        message: One sentence: the problem and its reason.
        hint: What to type or do next; may have several lines.
        **details: Further fields for ``-o json``.
    """

    code: str = "LENS-E0"

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = {name: value for name, value in details.items() if value is not None}

    @property
    def without_claim(self) -> str:
        """The message without the claim that nothing was changed, for a write after other changes."""
        return self.message.removesuffix("; nothing was changed")

    def reworded(self, message: str) -> LensError:
        """The same error with another message."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.args, made.message = (message,), message
        return made

    def to_dict(self) -> dict[str, Any]:
        """The error for ``-o json``: code, message, hint and details."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.details}


class UsageError(LensError):
    """The command line or a parameter is wrong."""

    code = "LENS-U1"


class ConfigError(UsageError):
    """A setting is unknown, has the wrong type, or uses an unset variable."""

    code = "LENS-U2"


class UnknownValueError(UsageError):
    """A value is not one of the legal ones."""

    code = "LENS-U3"

    @classmethod
    def of(cls, kind: str, value: str, legal: Sequence[str], near: str | None = None) -> UnknownValueError:
        """Build the error for an unknown `value` of a `kind`; the message names the nearest of the `legal` ones.

        `near` is the nearest one, if it is not that of `nearest`.
        """
        near = near or nearest(value, legal)
        asked = f"Did you mean {near}? " if near else ""
        return cls(f'unknown {kind} "{value}". {asked}Valid: {", ".join(legal)}', value=value, near=near)


class TimeFormatError(UsageError):
    """A time or an age cannot be parsed."""

    code = "LENS-U4"


class UnknownStoreError(UsageError):
    """No store has this name, or no driver has this scheme."""

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
            "with only save_state, load_state and delete_state, `lens show RUN` works",
            method=method,
        )


class MissingExtraError(UsageError):
    """An optional package is not installed."""

    code = "LENS-U7"

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Build the error for a `package` that the `extra` installs."""
        return cls(f"the package {package} is not installed", hint=install_command(extra, package))


class NoStoreError(UsageError):
    """No option, variable or file names a store, and this folder has none."""

    code = "LENS-U8"


class AppNotFoundError(UsageError):
    """The application ``module:attribute`` cannot be imported, or does not exist."""

    code = "LENS-U9"

    @classmethod
    def without_module(cls, wanted: str, missing: str, folder: str) -> AppNotFoundError:
        """Build the error for the module `wanted`: itself or one that it imports is `missing`."""
        via = "" if missing == wanted else f", which {wanted} imports"
        return cls(
            f"no module named {missing}{via}",
            hint=f"searched the installed packages and {folder} (--app-dir DIR sets another folder); "
            "to use the application's environment: /path/to/venv/bin/python -m flujo_lens ...",
            module=missing,
        )

    @classmethod
    def without_attribute(cls, spec: str, attribute: str, there: Sequence[str]) -> AppNotFoundError:
        """Build the error for ``module:attribute`` without such an attribute."""
        near = nearest(attribute, there)
        return cls(f'{spec}: no attribute "{attribute}"', hint=f"did you mean {near}?" if near else None)

    @classmethod
    def failing(cls, module: str, error: BaseException, description: str) -> AppNotFoundError:
        """Build the error for a `module` that raised `error` on import, or a function when called.

        `description` is the error as text.
        """
        import traceback

        frames = list(traceback.extract_tb(error.__traceback__))
        stack = [frame for frame in frames if not frame.filename.startswith((_PACKAGE, "<frozen "))] or frames
        place: tuple[str, int | None] = (stack[-1].filename, stack[-1].lineno) if stack else (module, None)
        if isinstance(error, SyntaxError):
            place = error.filename or "", error.lineno
        words = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else description
        return cls(
            f"{'calling' if ':' in module else 'importing'} {module} failed: {words}",
            hint=f"in {place[0]}, line {place[1]}; --debug shows the traceback",
            module=module,
        )


class InvalidAnswerError(UsageError):
    """An answer does not match the input schema of the step; nothing was changed."""

    code = "LENS-A1"


class RunNotFoundError(LensError):
    """No run has this id."""

    code = "LENS-R1"


class AmbiguousRunError(RunNotFoundError):
    """Several run ids have the given prefix."""

    code = "LENS-R2"


class IncompatibleError(LensError):
    """A saved state does not fit the code. Nothing was changed.

    Raised as `flujo_lens.runner.incompatibility.StateIncompatibilityError`, which has a code for each kind of
    incompatibility.
    """

    code = "LENS-C0"


class LibraryVersionError(IncompatibleError):
    """The installed version of the library does not support the store or the run."""

    code = "LENS-C11"


class StoreError(LensError):
    """A problem with the store itself."""

    code = "LENS-S0"


class StoreNotFoundError(StoreError):
    """The store does not exist. Nothing was created."""

    code = "LENS-S1"


class UnreachableStoreError(StoreError):
    """The store cannot be opened or reached."""

    code = "LENS-S2"


class NotAStoreError(StoreError):
    """The path or server has no state store."""

    code = "LENS-S3"


class CorruptStoreError(StoreError):
    """The store is damaged."""

    code = "LENS-S4"


class ReadOnlyStoreError(StoreError):
    """A write to a read-only store."""

    code = "LENS-S5"


class SchemaError(StoreError):
    """This version does not write to the schema of the store."""

    code = "LENS-S6"


class SealedStateError(StoreError):
    """A state is encrypted, and its key is missing or wrong, or the state was changed."""

    code = "LENS-S7"


class InvalidStateError(StoreError):
    """A state does not fit its model; nothing was saved."""

    code = "LENS-S8"


class BusyError(LensError):
    """The store or run is locked; the same command may work later."""

    code = "LENS-B1"


class RunHeldError(BusyError):
    """Another process holds the run."""

    code = "LENS-B2"

    @classmethod
    def of(cls, run_id: str, holder: str, beat_at: str, ends_at: str, pid: int | None = None) -> RunHeldError:
        """Build the error for a run held by `holder`; both times are ISO 8601 texts.

        `pid` is the id of its process, if it is alive on this machine: then the claim does not expire.
        """
        until = f"if that process is gone, the claim expires at {ends_at}"
        if pid is not None:
            until = f"that process is alive on this machine; the claim ends with it (kill {pid})"
        return cls(
            f"{run_id} is held by {holder}, last heartbeat at {beat_at}",
            hint=f"wait for it to finish; {until}",
            run_id=run_id,
            holder=holder,
            beat_at=beat_at,
            ends_at=ends_at,
        )


class LostClaimError(BusyError):
    """The process has lost its claim on the run; its last save was refused."""

    code = "LENS-B3"

    @classmethod
    def of(cls, run_id: str, holder: str | None) -> LostClaimError:
        """Build the error for a run now held by `holder`, or free if None."""
        whose = f"{holder} has taken it over" if holder else "it was released or deleted"
        return cls(
            f"this process no longer holds {run_id}: {whose}; nothing was saved",
            hint="if the process can pause for long, use a longer lease: LENS_LEASE=5m",
            run_id=run_id,
            holder=holder,
        )


class OperationFailedError(LensError):
    """The operation failed."""

    code = "LENS-F1"


class NotWaitingError(OperationFailedError):
    """An answer was given to a run that does not wait for it; nothing was changed."""

    code = "LENS-F2"

    @classmethod
    def of(cls, run_id: str, found: str, question: str | None = None, step: str | None = None) -> NotWaitingError:
        """Build the error; `found` describes the run, `question` is the token of its current question at `step`."""
        hint = command_line("show", run_id)
        if question is not None:
            answer = command_line("resume", run_id, f"--question {question} --input ANSWER")
            hint += f"\nto answer its current question: {answer}"
        return cls(
            f"{run_id} does not wait for this answer: {found}",
            hint=hint,
            run_id=run_id,
            question=question,
            step=step,
        )


class StrippedRunError(OperationFailedError):
    """A run lacks what it would be resumed from, by ``prune --strip`` or a copy; nothing was changed."""

    code = "LENS-F3"

    @classmethod
    def of(cls, run_id: str, parts: Sequence[str], reasons: str, *, can_undo: bool) -> StrippedRunError:
        """Build the error; `parts` are missing for these reasons, some of them by a strip if `can_undo`."""
        return cls(
            f"{run_id} cannot be resumed: {reasons}; nothing was changed",
            hint="lens undo lists what can be put back" if can_undo else "resume it in the store that it came from",
            run_id=run_id,
            stripped=list(parts),
        )


class ApplicationExitError(OperationFailedError):
    """An application's code raised an exception that ends a program or task, such as `SystemExit`."""

    @classmethod
    def of(cls, description: str) -> ApplicationExitError:
        """Build the error for an exception with this description."""
        return cls(
            f"the application's code tried to exit: {description}",
            hint="code called by lens must raise an exception, not call sys.exit; --debug shows the traceback",
        )


class ArchiveError(LensError):
    """A file is not an archive of runs, or is not supported by this version or this store."""

    code = "LENS-T1"

    @classmethod
    def unreadable(cls, path: object, why: str, hint: str = "nothing was changed") -> ArchiveError:
        """Build the error for a file that cannot be read."""
        return cls(f"cannot read the archive {path}: {why}", hint=hint, path=str(path))

    @classmethod
    def no_archive(cls, path: object, why: str, hint: str | None = None) -> ArchiveError:
        """Build the error for a file that is not an archive."""
        made_by = "nothing was changed; lens export FILE writes archives, as does lens prune --archive FILE"
        return cls(f"{path} is not an archive of runs: {why}", hint=hint or made_by, path=str(path))

    @classmethod
    def cut_off(cls, path: object, why: str) -> ArchiveError:
        """Build the error for a file truncated before the end of its first line."""
        hint = "nothing was changed; copy the file again, and compare its size with that of the original"
        return cls(f"the archive {path} is truncated: {why}", hint=hint, path=str(path))

    @classmethod
    def too_large(cls, path: object, why: str, option: str) -> ArchiveError:
        """Build the error for a file that exceeds the limit set by `option`."""
        hint = f"nothing was changed; if you trust the file: lens import FILE {option} SIZE (for example 20G)"
        return cls(f"the archive {path} is too large: {why}", hint=hint, path=str(path), option=option)


class CorruptArchiveError(ArchiveError):
    """An archive was changed after it was written."""

    code = "LENS-T2"

    @classmethod
    def at(cls, path: object, line: int, why: str, whole: int, rescue: str | None) -> CorruptArchiveError:
        """Build the error for an invalid `line`; the lines up to `whole` are valid, and `rescue` imports them."""
        lines = f"the lines up to {whole} are valid and can be imported"
        hint = f"{lines}: {rescue}" if rescue else "no lines before it are valid: get another copy; nothing was changed"
        return cls(f"line {line} of the archive {path} {why}", hint=hint, path=str(path), line=line, whole=whole)


class InflightError(LensError):
    """A file was not written by ``lens check --save``, or was changed."""

    code = "LENS-T3"

    @classmethod
    def unreadable(cls, path: object, why: str, hint: str | None = None) -> InflightError:
        """Build the error for an unusable file."""
        again = "save it again with access to the store: lens check --save inflight.json"
        return cls(f"cannot check the runs in {path}: {why}", hint=hint or again, path=str(path))

    @classmethod
    def in_the_way(cls, path: object) -> InflightError:
        """Build the error for a `path` at which another file exists."""
        return cls(
            f"{path} exists and was not written by lens check --save; it was not replaced",
            hint="use another name, or --force",
            path=str(path),
        )


class InternalError(LensError):
    """An internal error in lens: please report it."""

    code = "LENS-X1"


def command_line(command: str, run_id: str, options: str = "") -> str:
    """A command line for a run: ``lens show run_7 --state``.

    The id is quoted for a shell. An id that looks like an option is placed after ``--``.
    """
    import shlex

    quoted = shlex.quote(run_id)
    words = [command, options, "--", quoted] if run_id.startswith("-") else [command, quoted, options]
    return " ".join(["lens", *filter(None, words)])


def install_command(extra: str, package: str) -> str:
    """The command that installs the packages of an extra into the environment of this process.

    It names the packages, so that it also works for an installation from a clone or a wheel. `package` is used if the
    metadata of this package do not name them.
    """
    import shlex
    import sys
    from importlib.util import find_spec

    needed = shlex.join(_packages_of(extra) or [package])
    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):
        return f"pipx inject {shlex.quote(os.path.basename(sys.prefix))} {needed}"
    if os.path.exists(os.path.join(sys.prefix, "uv-receipt.toml")) or find_spec("pip") is None:
        return f"uv pip install --python {shlex.quote(sys.executable)} {needed}"
    return f"{shlex.quote(sys.executable)} -m pip install {needed}"


def _packages_of(extra: str) -> list[str]:
    """The requirements of an extra, as pip takes them: ``asyncpg>=0.29``."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        found = [line.partition(";") for line in requires("flujo-lens") or ()]
    except PackageNotFoundError:
        return []
    return [
        needed.strip()
        for needed, _, marker in found
        if marker.strip() in (f"extra == '{extra}'", f'extra == "{extra}"')
    ]


def nearest(value: str, legal: Iterable[str]) -> str | None:
    """The closest match for `value` in `legal` (ignoring case and leading dashes), or None if none is close.

    Close is what is at most two typing errors, and at most a third of the length, away; or a beginning of the other,
    of at least three characters.
    """
    import difflib

    word = value.casefold().lstrip("-")
    by_folded = {folded: name for name in legal if _is_close(word, folded := name.casefold().lstrip("-"))}
    found = difflib.get_close_matches(word, by_folded, n=1, cutoff=0.0)
    return by_folded[found[0]] if found else None


def _is_close(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(short) >= 3 and long.startswith(short):
        return True
    most = min(2, len(long) // 3)
    return len(long) - len(short) <= most and _typing_errors(one, other) <= most


def _typing_errors(one: str, other: str) -> int:
    """The Damerau-Levenshtein distance: characters added, left out, replaced, or swapped with the next one."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, char in enumerate(one, 1):
        two_before, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != wanted))
            if i > 1 and j > 1 and (char, one[i - 2]) == (other[j - 2], wanted):
                least = min(least, two_before[j - 2] + 1)
            row.append(least)
    return row[-1]
