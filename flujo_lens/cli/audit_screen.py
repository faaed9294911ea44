"""What ``lens audit`` prints. The log alone is read; where there is none, the store is looked at, to tell a store
without a log from no store."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli.beside import gone_path
from flujo_lens.cli.confirm import audit_log
from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.errors import NotSupportedError, StoreNotFoundError
from flujo_lens.operations.audit import AuditEntry, AuditLog, AuditReport
from flujo_lens.operations.runs import LEAST_PREFIX, ambiguous
from flujo_lens.rendering import columns
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.typed_times import parse_when

__all__ = ["Wanted", "audit_list", "print_verdict"]

_WHY = {
    "changed": "was changed after it was written",
    "removed": "does not follow the line before it: what stood between was removed, or that line was written anew",
    "torn": "is torn: whoever wrote it died, and a change may lack its entry",
    "no JSON": "is no entry",
}


class Wanted(NamedTuple):
    """Which entries are meant."""

    run: str | None
    since: str | None
    limit: int


def audit_list(app: App, out: Output, file: Path | None, wanted: Wanted) -> None:
    """The entries, the newest first."""
    since = None if wanted.since is None else parse_when(wanted.since, app.world.now(), app.zone)
    log = _log(app, file)
    found = _newest(log, wanted, since)
    for other in _meant(app, log, wanted.run) if not found.entries and wanted.run is not None else ():
        found = _newest(log, wanted._replace(run=other), since)
        if found.entries:
            break
    narrowed = wanted.run is not None or since is not None
    out.show(columns.AUDIT, found.entries, "no entry matches" if narrowed else "nothing was changed by lens yet")
    _note(app, log, found, wanted)


def _meant(app: App, log: AuditLog, run: str) -> Iterator[str]:
    """What else the id of a run can mean: the same with the escapes of tables read back; the beginning of one.

    The log is asked, and not the store: the run may be deleted. A script must type the whole id, for one that is in
    no entry would else mean another that begins so.

    Raises:
        AmbiguousRunError: several runs in the log begin so.
    """
    if unescape(run) != run:
        yield unescape(run)
    if app.world.is_terminal and len(run) >= LEAST_PREFIX:
        starts = (run, f"run_{run}")
        ids = {one for entry in log.entries() for one in entry.run_ids if one.startswith(starts)}
        if run not in ids and len(ids) > 1:
            raise ambiguous(run, sorted(ids))
        yield from () if run in ids else ids


class _Found(NamedTuple):
    entries: list[AuditEntry]
    total: int


def _newest(log: AuditLog, wanted: Wanted, since: datetime | None) -> _Found:
    newest: deque[AuditEntry] = deque(maxlen=min(wanted.limit, sys.maxsize))
    total = 0
    for entry in log.entries(run_id=wanted.run, since=since):
        newest.appendleft(entry)
        total += 1
    return _Found(list(newest), total)


def _note(app: App, log: AuditLog, found: _Found, wanted: Wanted) -> None:
    if found.total > wanted.limit:
        app.note(f"the newest {wanted.limit} of {found.total:,}; more: lens audit list -n N")
    if log.unsure:
        app.note(f"not shown: {_entries(log.unsure)} about too many runs to name each; this may be one of them")
    if log.skipped:
        app.note(f"unreadable: {log.skipped:,} of the lines; lens audit verify")


def print_verdict(app: App, out: Output, file: Path | None) -> bool:
    """Print whether the chain is whole; return it."""
    log = _log(app, file)
    report = log.verify()
    if out.form == "json":
        out.document({**report._asdict(), "ok": report.ok})
    else:
        app.world.stdout.write(f"{_verdict(log, report)}\n")
    if report.torn:
        lines = ", ".join(str(number) for number in report.torn)
        app.note(f"torn, and chained over since: line {lines}; a change may lack its entry")
    return report.ok


def _verdict(log: AuditLog, report: AuditReport) -> str:
    if report.why is None:
        return f"{_entries(report.entries)}, chain whole"
    return f"line {report.line} of {escape_controls(str(log.path))} {_WHY[report.why]}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


# --- the log


def _log(app: App, file: Path | None) -> AuditLog:
    """The log that is meant.

    Raises:
        StoreNotFoundError: there is nothing where --audit-file says, or neither a log nor a store.
        NotSupportedError: the store has no place beside which a log could be.
    """
    if file is not None:
        return _named(app, file)

    gone = gone_path(app)
    if gone is not None and os.path.exists((log := audit_log(app, gone, None)).path):
        return log

    async def look(backend: StateBackend) -> AuditLog:
        log = audit_log(app, _path(backend), None)
        if not os.path.exists(log.path):
            await backend.read_facts()
        return log

    return app.run(look)


def _named(app: App, file: Path) -> AuditLog:
    log = audit_log(app, file, file)
    if not os.path.exists(log.path):
        raise StoreNotFoundError(
            f"there is no audit log at {log.path}",
            hint="nothing was created; without --audit-file, the log beside the store is read",
            path=str(log.path),
        )
    return log


def _path(backend: StateBackend) -> Path:
    path = getattr(backend, "path", None)
    if not isinstance(path, Path):
        raise NotSupportedError(
            f"the driver {type(backend).__qualname__} keeps its store at no path: there is no audit log beside it",
            hint="--audit-file FILE reads a log elsewhere",
        )
    return path
