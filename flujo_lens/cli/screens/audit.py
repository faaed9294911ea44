"""Output of ``lens audit``. Only the log is read; if there is none, the store is opened, to distinguish a store
without a log from a missing store."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import audit_log
from flujo_lens.cli.output import Output
from flujo_lens.cli.sidecars import base_of, gone_path, log_in_store, why_nowhere
from flujo_lens.errors import LensError, NoStoreError, NotSupportedError, StoreNotFoundError
from flujo_lens.operations.audit import AuditJournal, AuditLog
from flujo_lens.operations.audit_chain import AuditReport
from flujo_lens.operations.audit_changes import AuditChange, Newest
from flujo_lens.operations.runs import LEAST_PREFIX, ambiguous
from flujo_lens.rendering import columns
from flujo_lens.rendering.human import plural
from flujo_lens.rendering.text import escape_controls, unescape
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.typed_times import parse_when

_WHY = {
    "changed": "was changed after it was written",
    "removed": "does not follow the line before it: lines were removed, or that line was rewritten",
    "torn": "is incomplete: its writer was killed, and a change may have no entry",
    "no JSON": "is not an entry",
    "cut": "is missing: the log was truncated or removed",
    "after a cut": "was written after lines before it were lost: the log was truncated or removed",
}


class Wanted(NamedTuple):
    """The requested changes."""

    run: str | None
    since: str | None
    limit: int
    all_stores: bool


class _Found(NamedTuple):
    """The changes found, and counts of what is left out.

    Attributes:
        changes: The newest changes, newest first.
        total: Number of changes that match.
        elsewhere: Number of entries of other stores.
        unsure: Number of entries that do not name their runs.
        skipped: Number of unreadable lines.
    """

    changes: list[AuditChange]
    total: int
    elsewhere: int
    unsure: int
    skipped: int


def audit_list(app: App, out: Output, file: Path | None, wanted: Wanted) -> None:
    """Print the changes, newest first."""
    since = None if wanted.since is None else parse_when(wanted.since, app.world.now(), app.zone)
    logs = _logs(app, file, wanted)
    is_shared = file is not None or app.settings.audit_path is not None
    more = _again(file, wanted)
    wanted = wanted._replace(
        all_stores=wanted.all_stores or not is_shared
    )  # a log next to a store has only entries of that store
    found = _newest(logs, wanted, since)
    for other in _meant(app, logs, wanted.run) if not found.changes and wanted.run is not None else ():
        found = _newest(logs, wanted._replace(run=other), since)
        if found.changes:
            break
    narrowed = wanted.run is not None or since is not None or found.elsewhere
    out.show(columns.AUDIT, found.changes, "no entry matches" if narrowed else "no changes by lens yet")
    _note(app, found, wanted.limit, more)


def _meant(app: App, logs: Sequence[AuditLog], run: str) -> Iterator[str]:
    """Alternative readings of a run id: with the escapes of tables decoded, or as a prefix.

    Ids are looked up in the log, not in the store, since the run may be deleted. Scripts must give the whole id;
    otherwise an id without an entry would match another run by prefix.

    Raises:
        AmbiguousRunError: several runs in the log have this prefix.
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
    """Read each log once, join its entries into changes, and merge the changes by time."""
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
    """Whether an entry is of the selected store; an entry without a store is of the log's own."""
    from flujo_lens.config_sources import same_store

    return written is None or meant is None or written == meant or same_store(written, meant)


def _again(file: Path | None, wanted: Wanted) -> str:
    """The command line of this list, without its limit."""
    options = {"--run": wanted.run, "--since": wanted.since, "--audit-file": file}
    words = [
        f" {name} {shlex.quote(escape_controls(str(value)))}" for name, value in options.items() if value is not None
    ]
    return f"lens audit list{''.join(words)}{' --all-stores' if wanted.all_stores else ''}"


def _note(app: App, found: _Found, limit: int, again: str) -> None:
    if found.total > limit:
        every = app.suggest(f"{again} -n {found.total}")
        app.note(f"showing the newest {limit:,} of {found.total:,}; all: {every}")
    if found.elsewhere:
        app.note(f"not shown: {_entries(found.elsewhere)} of other stores; --all-stores shows them")
    if found.unsure:
        app.note(f"not shown: {_entries(found.unsure)} with too many runs to name, which may include this one")
    if found.skipped:
        app.note(f"unreadable: {found.skipped:,} of the lines; to check them: lens audit verify")


def print_verdict(app: App, out: Output, file: Path | None) -> bool:
    """Print whether the chain is intact; return it."""
    log = _log(app, file)
    report = log.verify()
    if out.form == "json":
        out.document({**report._asdict(), "ok": report.ok})
    else:
        app.say([_verdict(log, report)])
    if report.continues:
        app.note(f"this log continues an earlier one, whose last line has the hash {report.continues}")
    if report.entries and not report.has_length:
        app.note(f"{log.journal.end_place} is missing or unreadable, so lines removed from the end cannot be detected")
    if report.torn:
        lines = ", ".join(str(number) for number in report.torn)
        app.note(f"incomplete, with later entries after it: line {lines}; a change may have no entry")
    return report.ok


def _verdict(log: AuditLog, report: AuditReport) -> str:
    if report.why is None:
        return f"{plural(report.changes, 'change')} ({_entries(report.entries)}), chain intact"
    return f"line {report.line} of {log.journal.shown} {_WHY[report.why]}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


# --- the log


def _logs(app: App, file: Path | None, wanted: Wanted) -> list[AuditLog]:
    """The selected log; with --all-stores, also those of the other configured stores."""
    if file is not None or not wanted.all_stores or app.settings.audit_path is not None:
        return [_log(app, file)]
    found = {log.journal.shown: log for log in _logs_of_settings(app)}
    try:
        log = _log(app, file)
    except NoStoreError:
        if not app.settings.stores:
            raise
    else:
        found[log.journal.shown] = log
    return list(found.values())


def _logs_of_settings(app: App) -> Iterator[AuditLog]:
    """The logs of the configured stores, without opening those at a path; what cannot be read is noted."""
    for name, entry in app.settings.stores.items():
        try:
            place = _place_of(app.at(name), entry.uri)
            if place is not None and (log := audit_log(app.at(name), place, None)).journal.exists():
                yield log
        except LensError as error:
            app.note(f"not shown: the changes of {name}: {error.message}")


def _place_of(app: App, uri: str) -> Path | AuditJournal | None:
    """The log of a configured store; None for a driver of another package."""
    from flujo_lens.config_sources import place_of
    from flujo_lens.state.registry import BUILT_IN, open_backend, scheme_of

    place = place_of(uri)
    if place.startswith("/"):
        return Path(place)
    if scheme_of(uri) not in BUILT_IN:
        return None
    backend = open_backend(uri, {})
    return log_in_store(app, backend) or base_of(app, backend)


def _log(app: App, file: Path | None) -> AuditLog:
    """The selected log.

    Raises:
        StoreNotFoundError: --audit-file does not exist, or there is neither a log nor a store.
        NotSupportedError: the store has no path for a log.
    """
    if file is not None:
        return _named(app, file)

    shared = app.settings.audit_path
    if shared is not None and os.path.exists(shared):
        return audit_log(app, Path(), None)
    gone = gone_path(app)
    if gone is not None and (log := audit_log(app, gone, None)).journal.exists():
        return log

    async def look(backend: StateBackend) -> AuditLog:
        log = audit_log(app, log_in_store(app, backend) or _path(app, backend), None)
        if not log.journal.exists():
            await backend.read_facts()
        return log

    return app.run(look)


def _named(app: App, file: Path) -> AuditLog:
    log = audit_log(app, file, file)
    if not log.journal.exists():
        raise StoreNotFoundError(
            f"no audit log at {log.journal.shown}",
            hint="nothing was created; without --audit-file, lens reads the log next to the store",
            path=log.journal.shown,
        )
    return log


def _path(app: App, backend: StateBackend) -> Path:
    path = base_of(app, backend)
    if path is None:
        raise NotSupportedError(
            f"{why_nowhere(backend)}: no audit log",
            hint="--audit-file FILE reads a log at another path",
        )
    return path
