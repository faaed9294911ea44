"""What ``lens audit`` prints. The log alone is read; where there is none, the store is looked at, to tell a store
without a log from no store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import audit_log
from flujo_lens.cli.output import Output
from flujo_lens.cli.sidecars import base_of, gone_path, why_nowhere
from flujo_lens.errors import LensError, NoStoreError, NotSupportedError, StoreNotFoundError
from flujo_lens.operations.audit import AuditLog, AuditReport
from flujo_lens.operations.audit_changes import AuditChange, Newest
from flujo_lens.operations.audit_head import head_path
from flujo_lens.operations.runs import LEAST_PREFIX, ambiguous
from flujo_lens.rendering import columns
from flujo_lens.rendering.text import unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.typed_times import parse_when

__all__ = ["Wanted", "audit_list", "print_verdict"]

_WHY = {
    "changed": "was changed after it was written",
    "removed": "does not follow the line before it: what stood between was removed, or that line was written anew",
    "torn": "is torn: whoever wrote it died, and a change may lack its entry",
    "no JSON": "is no entry",
    "cut": "is missing: the log was longer, and was cut off or taken away",
    "after a cut": "was written when lines before it were missing: the log was longer, and was cut off or taken away",
}


class Wanted(NamedTuple):
    """Which changes are meant."""

    run: str | None
    since: str | None
    limit: int
    all_stores: bool


class _Found(NamedTuple):
    """Changes, and what is not among them.

    Attributes:
        changes: The newest, the newest first.
        total: How many there are.
        elsewhere: How many entries are of other stores.
        unsure: How many entries do not name their runs.
        skipped: How many lines could not be read.
    """

    changes: list[AuditChange]
    total: int
    elsewhere: int
    unsure: int
    skipped: int


def audit_list(app: App, out: Output, file: Path | None, wanted: Wanted) -> None:
    """The changes, the newest first."""
    since = None if wanted.since is None else parse_when(wanted.since, app.world.now(), app.zone)
    logs = _logs(app, file, wanted)
    is_shared = file is not None or app.settings.audit_path is not None
    wanted = wanted._replace(all_stores=wanted.all_stores or not is_shared)  # a log beside a store is that store's
    found = _newest(logs, wanted, since)
    for other in _meant(app, logs, wanted.run) if not found.changes and wanted.run is not None else ():
        found = _newest(logs, wanted._replace(run=other), since)
        if found.changes:
            break
    narrowed = wanted.run is not None or since is not None or found.elsewhere
    out.show(columns.AUDIT, found.changes, "no entry matches" if narrowed else "nothing was changed by lens yet")
    _note(app, found, wanted)


def _meant(app: App, logs: Sequence[AuditLog], run: str) -> Iterator[str]:
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
        ids = {one for log in logs for entry in log.entries() for one in entry.run_ids if one.startswith(starts)}
        if run not in ids and len(ids) > 1:
            raise ambiguous(run, sorted(ids))
        yield from () if run in ids else ids


def _newest(logs: Sequence[AuditLog], wanted: Wanted, since: datetime | None) -> _Found:
    """What the logs hold, each read once and joined by itself, then merged by time."""
    made: list[AuditChange] = []
    total = elsewhere = unsure = skipped = 0
    for log in logs:
        newest = Newest(wanted.limit, since)
        for entry in log.entries(run_id=wanted.run, since=since):
            if wanted.all_stores or is_of_store(entry.store, log.store):
                newest.take(entry)
            else:
                elsewhere += 1
        made += newest.changes()
        total, unsure, skipped = total + newest.total, unsure + log.unsure, skipped + log.skipped
    made = sorted(made, key=lambda change: change.at, reverse=True) if len(logs) > 1 else made
    return _Found(made[: wanted.limit], total, elsewhere, unsure, skipped)


def is_of_store(written: str | None, meant: str | None) -> bool:
    """Whether an entry is of the store that is meant; one that names none is of the log's own."""
    from flujo_lens.config_sources import same_store

    return written is None or meant is None or written == meant or same_store(written, meant)


def _note(app: App, found: _Found, wanted: Wanted) -> None:
    if found.total > wanted.limit:
        app.note(f"the newest {wanted.limit} of {found.total:,}; more: lens audit list -n N")
    if found.elsewhere:
        app.note(f"not shown: {_entries(found.elsewhere)} of other stores; --all-stores shows them")
    if found.unsure:
        app.note(f"not shown: {_entries(found.unsure)} about too many runs to name each; this may be one of them")
    if found.skipped:
        app.note(f"unreadable: {found.skipped:,} of the lines; lens audit verify")


def print_verdict(app: App, out: Output, file: Path | None) -> bool:
    """Print whether the chain is whole; return it."""
    log = _log(app, file)
    report = log.verify()
    if out.form == "json":
        out.document({**report._asdict(), "ok": report.ok})
    else:
        app.say([_verdict(log, report)])
    if report.continues:
        app.note(f"the log before this one was moved away; its last line has the hash {report.continues}")
    if report.entries and not report.has_length:
        app.note(f"{head_path(log.path).name} is missing: lines cut from the end would not show")
    if report.torn:
        lines = ", ".join(str(number) for number in report.torn)
        app.note(f"torn, and chained over since: line {lines}; a change may lack its entry")
    return report.ok


def _verdict(log: AuditLog, report: AuditReport) -> str:
    if report.why is None:
        return f"{_entries(report.entries)}, chain whole"
    return f"line {report.line} of {log.path} {_WHY[report.why]}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


# --- the log


def _logs(app: App, file: Path | None, wanted: Wanted) -> list[AuditLog]:
    """The log that is meant; with --all-stores, those beside the other stores that settings name, too."""
    if file is not None or not wanted.all_stores or app.settings.audit_path is not None:
        return [_log(app, file)]
    found = {log.path: log for log in _logs_of_settings(app)}
    try:
        log = _log(app, file)
    except NoStoreError:
        if not app.settings.stores:
            raise
    else:
        found[log.path] = log
    return list(found.values())


def _logs_of_settings(app: App) -> Iterator[AuditLog]:
    """The logs of the stores that settings name. No store is asked."""
    for entry in app.settings.stores.values():
        base = _base_of_uri(app, entry.uri)
        if base is not None and os.path.exists((log := audit_log(app, base, None)).path):
            yield log


def _base_of_uri(app: App, uri: str) -> Path | None:
    from flujo_lens.config_sources import place_of
    from flujo_lens.state.registry import BUILT_IN, open_backend, scheme_of

    place = place_of(uri)
    if place.startswith("/"):
        return Path(place)
    try:
        return base_of(app, open_backend(uri, {})) if scheme_of(uri) in BUILT_IN else None
    except LensError:
        return None


def _log(app: App, file: Path | None) -> AuditLog:
    """The log that is meant.

    Raises:
        StoreNotFoundError: there is nothing where --audit-file says, or neither a log nor a store.
        NotSupportedError: the store has no place beside which a log could be.
    """
    if file is not None:
        return _named(app, file)

    shared = app.settings.audit_path
    if shared is not None and os.path.exists(shared):
        return audit_log(app, Path(), None)
    gone = gone_path(app)
    if gone is not None and os.path.exists((log := audit_log(app, gone, None)).path):
        return log

    async def look(backend: StateBackend) -> AuditLog:
        log = audit_log(app, _path(app, backend), None)
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


def _path(app: App, backend: StateBackend) -> Path:
    path = base_of(app, backend)
    if path is None:
        raise NotSupportedError(
            f"{why_nowhere(backend)}: there is no audit log",
            hint="--audit-file FILE reads a log elsewhere",
        )
    return path
