"""What ``lens migrate`` prints, and what it asks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli.confirm import audit_log, check_can_ask, check_writable, confirm
from flujo_lens.cli.context import App
from flujo_lens.cli.output import Output
from flujo_lens.cli.recorded import recorded
from flujo_lens.operations.migrate import Migrated, migrate
from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.state.upkeep import MigrationPlan

__all__ = ["Asked", "run_migration"]


class Asked(NamedTuple):
    """What was asked of ``lens migrate``."""

    yes: bool
    dry_run: bool
    backup: bool
    reason: str | None
    audit_file: Path | None

    def command(self, store: str | None) -> list[str]:
        """The words that were typed, in their long form."""
        switches = (("--no-backup", not self.backup), ("--yes", self.yes))
        values = (("--store", store), ("--reason", self.reason))
        told = [word for option, value in values if value is not None for word in (option, value)]
        return ["lens", "migrate", *(option for option, is_on in switches if is_on), *told]


def run_migration(app: App, out: Output, asked: Asked) -> None:
    """Show the plan; with a yes, carry it out and report."""
    check_writable(app)
    now = app.world.now()

    async def look(backend: StateBackend) -> MigrationPlan:
        return await backend.plan_migration(now)

    plan = app.run(look)
    if not plan.steps or asked.dry_run or plan.path is None:
        _report(app, out, plan, asked, None)
        return
    check_can_ask(app, asked.yes)
    if not asked.yes:
        for line in _plan_lines(plan, asked):
            app.tell(line)
    if not confirm(app, "migrate?", asked.yes):
        raise typer.Exit(1)
    log = audit_log(app, plan.path, asked.audit_file)
    words = recorded(asked.command(app.options.store), app.settings.redact_keys)

    async def work(backend: StateBackend) -> Migrated:
        return await migrate(backend, log, now, backup=asked.backup, command=words, reason=asked.reason)

    _report(app, out, plan, asked, app.run(work))


def _plan_lines(plan: MigrationPlan, asked: Asked) -> list[str]:
    keeps = f"a backup goes to {plan.backup}" if asked.backup else "no backup is made"
    lines = [
        f"{plan.path} ({human.size(plan.size_bytes)}) is of an older schema:",
        *(f"  {step}" for step in plan.steps),
        keeps,
        f"it can take {_room(plan, asked.backup)}",
        "an application of the library before 0.6 may fail on the store afterwards",
    ]
    return [escape_controls(line) for line in lines]


def _room(plan: MigrationPlan, backup: bool) -> str:
    needed, free = plan.room_needed(backup), plan.free_bytes
    enough = "" if needed <= free else ": not enough, so nothing will be changed"
    return f"{human.size(needed)} of the disk, which has {human.size(free)} free{enough}"


def _report(app: App, out: Output, plan: MigrationPlan, asked: Asked, done: Migrated | None) -> None:
    if out.form == "json":
        out.document(_document(plan, asked, done))
        return
    app.world.stdout.write("".join(f"{line}\n" for line in _lines(plan, asked, done)))


def _lines(plan: MigrationPlan, asked: Asked, done: Migrated | None) -> list[str]:
    if not plan.steps or (done and not done.migration.steps):
        return ["the schema is up to date: nothing to migrate"]
    if done is None:
        return [*_plan_lines(plan, asked), "nothing was changed (--dry-run)"]
    steps, backup = done.migration
    told = [f"migrated {plan.path}:", *(f"  {step}" for step in steps), *([f"backup: {backup}"] if backup else [])]
    return [escape_controls(line) for line in told]


def _document(plan: MigrationPlan, asked: Asked, done: Migrated | None) -> dict[str, Any]:
    steps = done.migration.steps if done else plan.steps
    backup = done.migration.backup if done else plan.backup if asked.backup else None
    return {
        "matched": len(steps),
        "done": len(steps) if done else 0,
        "skipped": 0,
        "failed": 0,
        "left": 0 if done else len(steps),
        "dry_run": asked.dry_run,
        "audit_id": done.audit_id if done else None,
        "steps": list(steps),
        "backup": str(backup) if backup else None,
    }
