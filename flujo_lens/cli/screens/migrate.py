"""``lens migrate``: question, change and report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flujo_lens.cli.change_output import recorder, report_output, tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import check_writable, confirm
from flujo_lens.cli.input.contradictions import refuse_combination
from flujo_lens.cli.options import ChangeOptions, words_of
from flujo_lens.errors import UsageError
from flujo_lens.operations.change_report import Report
from flujo_lens.operations.migrate import Migrated, migrate
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend

if TYPE_CHECKING:
    from flujo_lens.state.maintenance import MigrationPlan


class MigrateArguments(NamedTuple):
    """Arguments of ``lens migrate``."""

    no_backup: bool
    yes: bool
    print_sql: bool = False
    force: bool = False

    @property
    def backup(self) -> bool:
        """Whether a backup is made."""
        return not self.no_backup


def run_migration(app: App, asked: MigrateArguments, change: ChangeOptions) -> None:
    """Print the plan, ask, execute it and report."""
    if asked.print_sql:
        _print_sql(app, change, asked.force)
        return
    check_writable(app, dry_run=change.dry_run)
    out, now = report_output(app, change, ("table", "json")), app.world.now()
    plan, done = app.run(lambda backend: backend.plan_migration(now)), None
    if plan.steps and plan.store is not None and not change.dry_run:
        if not confirm(app, f"migrate {app.shown(app.store_name)}?", asked.yes, _plan_lines(plan, asked)):
            raise typer.Exit(1)

        async def work(backend: StateBackend) -> Migrated:
            words = ["lens", "migrate", *words_of(asked, "no_backup", "force", "yes"), *change.words(app.options.store)]
            return await migrate(
                backend, recorder(app, backend, words, change), now, backup=asked.backup, force=asked.force
            )

        done = app.run(work)
    tell(app, out, _document(plan, asked, change.dry_run, done), (), _lines(plan, asked, done), _brief(plan, done))


def _print_sql(app: App, change: ChangeOptions, force: bool) -> None:
    """Print the migration as a script.

    Raises:
        UsageError: the store has none.
    """
    refuse_combination("--print-sql", {"--output": change.output, "--json": change.json, "--force": force})
    now = app.world.now()
    sql = app.run(lambda backend: backend.plan_migration(now)).sql
    if sql is None:
        raise UsageError(
            "--print-sql is for stores on PostgreSQL", hint="lens migrate --dry-run lists the steps of a migration"
        )
    app.world.stdout.write(sql)
    if not sql:
        app.note("nothing to migrate: the schema is current")


def _plan_lines(plan: MigrationPlan, asked: MigrateArguments) -> list[str]:
    if plan.place is not None:
        return [
            f"{plan.place} is missing {plan.lacks}:",
            *(f"  {step}" for step in plan.steps),
            f"nothing else is changed; no backup is made (use {plan.copied_by})",
        ]
    return [
        f"{plan.path} ({human.size(plan.size_bytes)}) has an older schema:",
        *(f"  {step}" for step in plan.steps),
        f"backup: {plan.backup}" if asked.backup else "no backup",
        *["--force: what other processes save during the backup is not in it"] * (asked.force and asked.backup),
        f"needs up to {_room(plan, asked.backup)}",
        "applications with the library before 0.6 may fail on the migrated store",
    ]


def _room(plan: MigrationPlan, backup: bool) -> str:
    needed, free = plan.room_needed(backup), plan.free_bytes
    enough = "" if needed <= free else ": not enough, so the migration will fail"
    return f"{human.size(needed)} of the disk, which has {human.size(free)} free{enough}"


def _lines(plan: MigrationPlan, asked: MigrateArguments, done: Migrated | None) -> list[str]:
    if not plan.steps or (done and not done.migration.steps):
        return ["nothing to migrate: the schema is current"]
    if done is None:
        return [*_plan_lines(plan, asked), "nothing was changed (--dry-run)"]
    steps, copy = done.migration
    return [f"migrated {plan.store}:", *(f"  {step}" for step in steps), *([f"backup: {copy}"] if copy else [])]


def _brief(plan: MigrationPlan, done: Migrated | None) -> str:
    """What --quiet leaves of a migration."""
    if done is None or not done.migration.steps:
        return ""
    return f"migrated {plan.store}{f', backup: {done.migration.backup}' if done.migration.backup else ''}"


def _document(plan: MigrationPlan, asked: MigrateArguments, dry_run: bool, done: Migrated | None) -> dict[str, Any]:
    steps = done.migration.steps if done else plan.steps
    backup = done.migration.backup if done else plan.backup if asked.backup else None
    report = Report(
        len(steps),
        done=len(steps) if done else 0,
        left=0 if done else len(steps),
        dry_run=dry_run,
        audit_id=done.audit_id if done else None,
    )
    return {**report.document(), "steps": list(steps), "backup": str(backup) if backup else None}
