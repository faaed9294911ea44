"""``lens init``: creating a store, and the report."""

from __future__ import annotations

from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable
from flujo_lens.cli.input.target_store import at_target
from flujo_lens.cli.options import ChangeOptions
from flujo_lens.errors import UsageError
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.new_store import create_store
from flujo_lens.operations.transfer import Target, look_at
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend


def run_init(app: App, uri: str, change: ChangeOptions) -> None:
    """Create a store unless it exists, and report."""
    if app.options.store is not None:
        raise UsageError("lens init names the store: --store does not apply", hint=f"lens init {app.options.store}")
    app = at_target(app, uri)
    check_writable(app, dry_run=change.dry_run)
    out = report_output(app, change, ("table", "json"))
    shown = app.shown(uri)

    async def work(backend: StateBackend) -> tuple[Target, str | None]:
        found = await look_at(backend)
        if found.exists or change.dry_run:
            return found, None
        await create_store(backend)
        writer = recorder(app, backend, ["lens", "init", uri, *change.words(None)], change)
        entry = writer.log.append(command=writer.command, reason=writer.reason, counts={"created": 1}, run_ids=())
        return found, entry

    found, audit_id = app.run(work)
    if found.exists:
        lines = [f"{shown} is a store already, with {human.plural(found.runs, 'run')}"]
    elif change.dry_run:
        lines = [f"would create {shown}", "nothing was changed (--dry-run)"]
    else:
        lines = [f"created {shown}"]
    is_new = not found.exists
    report = Report(1, int(is_new and not change.dry_run), int(found.exists), 0, int(is_new and change.dry_run))
    document = report.document() | {"dry_run": change.dry_run, "audit_id": audit_id, "runs": found.runs}
    tell(app, out, document, (), lines)
