"""Reading an archive of any driver as portable records, for an import into a store of another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from functools import cache
from itertools import chain
from pathlib import Path

from flujo_lens.errors import ArchiveError, CorruptArchiveError, LensError
from flujo_lens.operations.archive_compression import Limits
from flujo_lens.operations.archive_reader import Group, Survey, read_archive, runs_of
from flujo_lens.operations.export import PORTABLE
from flujo_lens.operations.transfer import Groups
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.backends.core.backend import CoreBackend
from flujo_lens.state.backends.core.record_spool import RecordSpool
from flujo_lens.state.deletion import Record
from flujo_lens.state.registry import driver_name, load_driver

_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@cache
def _driver_of(kind: str) -> type[StateBackend]:
    if kind == "memory":
        return CoreBackend
    if ":" in kind:
        return load_driver(kind)
    return load_driver(driver_name(kind, {}))


def check_convertible(path: Path, drivers: Iterable[str]) -> None:
    """Check that the records of these drivers have a portable form.

    Raises:
        ArchiveError: of one they do not.
    """
    for kind in drivers:
        if kind == PORTABLE:
            continue
        try:
            _driver_of(kind)
        except LensError as error:
            raise ArchiveError(
                f"{path} was made from a store of the driver {kind}, which cannot be loaded: {error.message}",
                hint=error.hint or "nothing was changed",
                path=str(path),
            ) from error


def _portable(kind: str, records: Iterable[Record], zone: tzinfo | None) -> Iterator[Record]:
    if kind == PORTABLE:
        yield from map(_checked, records)
        return
    yield from _driver_of(kind).portable_records(records, zone)


def _checked(record: Record) -> Record:
    """A record that came from a file: anything may have written it."""
    for name in ("state", "run"):
        if not isinstance(record.get(name), dict | None):
            raise TypeError(f"{name} is not an object")
    for name in ("steps", "spans", "evaluations"):
        rows = record.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError(f"{name} is not a list of objects")
    if "state" in record:
        record.setdefault("run", None)
    elif "run" in record:
        record["state"] = None
    return record


async def groups_in(path: Path, found: Survey, zone: tzinfo | None, limits: Limits, source: int | None) -> Groups:
    """Yield the runs of an archive, in its order; each group is the caller's to close.

    Args:
        path: The archive.
        found: Its content: of a run that it has several times, the newest is yielded.
        zone: The zone of naive times; None for what the records tell.
        limits: The limits on uncompressed sizes.
        source: A descriptor of the archive, if it has no path.

    Raises:
        CorruptArchiveError, ArchiveError: as for `ArchiveReader.groups`.
    """
    with read_archive(path, limits, source) as archive:
        for number, group in enumerate(archive.groups()):
            kind = archive.headers[-1].driver
            yield RecordSpool(_records(path, group, number, kind, found.chosen, zone))


def _records(
    path: Path,
    group: Group,
    number: int,
    kind: str,
    chosen: Mapping[tuple[str, bool], int],
    zone: tzinfo | None,
) -> Iterator[Record]:
    for key, records in runs_of(group):
        if chosen.get(key) != number or (key[1] and (key[0], False) in chosen):
            continue
        if key[1] and kind != PORTABLE:
            why = f"the archive has its state alone, which can be imported only into a store of the driver {kind}"
            yield {"run_id": key[0], "problem": why, "last": True}
            continue
        records, whole = _if_whole(records)
        if not whole:
            why = "the archive has only what was dropped or changed of it; lens undo puts that back"
            yield {"run_id": key[0], "problem": why, "last": True}
            continue
        try:
            yield from _portable(kind, records, zone)
        except _MALFORMED as error:
            raise CorruptArchiveError(
                f"the records of run {key[0]} in {path} do not have the form of records of {kind}: {error}",
                hint="was it written by a newer version? pip install -U flujo-lens",
                path=str(path),
            ) from error


def _if_whole(records: Iterable[Record]) -> tuple[Iterable[Record], bool]:
    """The records of a run, and whether they are all of it: not those of a strip or a cancellation."""
    rest = iter(records)
    first = next(rest, {})
    return chain([first], rest), not ("strip" in first or "cancelled" in first)
