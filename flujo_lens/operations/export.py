"""Exporting runs to an archive of portable records, which can be imported into any store.

The file gets its name when it is complete. The lines are those of `flujo_lens.operations.archive_format`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from flujo_lens.errors import LensError, OperationFailedError, UsageError
from flujo_lens.fs.atomic_write import sync_folder, whole_file, write_all
from flujo_lens.operations.archive_compression import Form, pack
from flujo_lens.operations.archive_format import (
    Batch,
    Chain,
    Header,
    Manifest,
    batch_line,
    exact_record_lines,
    header_line,
    manifest_line,
)
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.operations.transfer import Groups, Transferred
from flujo_lens.state.deletion import Record

PORTABLE = "portable"
"""The driver in the header of an archive that any driver can read."""

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MOST_RECORDS = 1_000

Sink = Callable[[bytes], object]


class StoppedError(Exception):
    """A signal ended an export: there is to be no file."""


class ExportWriter:
    """Writes the lines of an archive.

    Args:
        sink: Is handed the lines, some at a time.
    """

    def __init__(self, sink: Sink, header: Header) -> None:
        self._sink = sink
        self.runs = self.records = self.batches = 0
        line = header_line(header)
        self._chain = Chain(line)
        sink(line)

    def keep(self, records: Iterable[Record]) -> None:
        """Write the records of some whole runs, the parts of a very large one in several batches."""
        waiting: list[Record] = []
        for record in records:
            waiting.append(record)
            if record.get("last") is not True or len(waiting) >= _MOST_RECORDS:
                self._batch(waiting)
                waiting = []
        if waiting:
            self._batch(waiting)

    def _batch(self, records: list[Record]) -> None:
        lines = exact_record_lines(records)
        digest, runs = sha256(lines).hexdigest(), sum(record.get("last") is True for record in records)
        self.batches, self.runs, self.records = self.batches + 1, self.runs + runs, self.records + len(records)
        self._sink(lines + batch_line(Batch(self.batches, runs, len(records), digest)))
        self._chain.add(digest)

    def finish(self, *, complete: bool) -> None:
        """Write the last line."""
        manifest = Manifest(self.runs, self.records, self.batches, {}, {}, complete)
        self._sink(manifest_line(self._chain.sealed(manifest)))


async def export_runs(
    groups: Groups,
    parts: PortableParts,
    sink: Sink,
    header: Header,
    done: Transferred,
    *,
    stop: Stop | None = None,
    progress: Callable[[int], None] | None = None,
) -> Transferred:
    """Write runs to an archive.

    Args:
        parts: What of them is written.
        sink: Is handed the lines.
        done: What is updated, and returned.
        stop: When to stop early; the archive says then that it is not complete.
        progress: Called after each group with the number of processed runs.

    Raises:
        LensError: the store cannot be read; or as raised by `sink`.
    """
    writer = ExportWriter(sink, header)
    is_stopped = False
    async with aclosing(groups):  # type: ignore[type-var]
        async for group in groups:
            with group, parts.applied(group, done.lost) as runs:
                problems = {record["run_id"]: record["problem"] for record in runs if "problem" in record}
                writer.keep(record for record in runs if record["run_id"] not in problems)
            done.failed |= problems
            done.done = writer.runs
            if progress is not None:
                progress(done.seen)
            if stop and done.seen < done.matched:
                is_stopped = True
                break
    writer.finish(complete=not (is_stopped or done.failed))
    return done


# --- where the lines go


def check_export_path(path: Path, *, overwrite: bool) -> None:
    """Check that a file could be created. Creates nothing.

    Raises:
        UsageError: it exists, or its folder does not.
        OperationFailedError: its folder is not writable.
    """
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}; nothing was written", hint=f"mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; nothing was written", hint="give a file: runs.ndjson.zst")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(
            f"{path} already exists; nothing was written", hint="--overwrite replaces it, when the export is complete"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _not_written(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[int]:
    """A descriptor of a file of mode 0600, which gets its name at the end of the block; on an error nothing is left.

    Raises:
        UsageError, OperationFailedError: it cannot be created or written.
    """
    check_export_path(path, overwrite=overwrite)
    draft = path.with_name(f".{path.name[:200]}.lens-{os.getpid()}.part")
    try:
        with whole_file(path, draft, place=partial(_place, overwrite=overwrite)) as file:
            yield file
    except OSError as error:
        raise _not_written(path, error) from error


def _place(draft: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise UsageError(f"{path} was created by another process in the meantime; nothing was written")
    os.replace(draft, path)
    sync_folder(path.parent)


def packed_into(file: int, form: Form) -> Sink:
    """A sink that compresses the lines, and writes them to a descriptor."""
    return lambda lines: write_all(file, pack(form, lines))


def _not_written(path: Path, error: OSError) -> LensError:
    hint = "df -h shows the free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give another file"
    return OperationFailedError(
        f"cannot write {path}: {error.strerror or error}; no file was left", hint=hint, path=str(path)
    )
