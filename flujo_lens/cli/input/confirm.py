"""Confirmation of a change, checks that it is allowed, and the audit log for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flujo_lens.cli.context import App
from flujo_lens.cli.streams import read_line
from flujo_lens.errors import NoStoreError, ReadOnlyStoreError, UsageError

if TYPE_CHECKING:
    from flujo_lens.operations.audit import AuditJournal, AuditLog


def check_writable(app: App, *, dry_run: bool = False) -> None:
    """Check that the selected store is writable and that the selection is unambiguous.

    Args:
        dry_run: Whether nothing will be changed, which is always allowed.

    Raises:
        UsageError: a variable and a file name different stores, or the settings may be by another user.
        ReadOnlyStoreError: the settings make the store read-only, or it is at a path that this user cannot write.
    """
    choice = app.store
    if choice.overridden:
        raise UsageError(
            "an environment variable and a file name different stores; nothing was changed",
            hint="select one: --store NAME_OR_URI",
        )
    _check_settings(app, dry_run)
    if choice.readonly and not dry_run:
        raise ReadOnlyStoreError(
            f"the settings make the store {app.store_name} read-only; nothing was changed",
            hint=f"readonly = true is set in {choice.readonly_at}\n--dry-run shows what would be done",
        )
    if not dry_run:
        _check_permissions(app)


def _check_permissions(app: App) -> None:
    """Check whether this user may write the store, before a question: at a path now, on a server when it is opened."""
    from flujo_lens.operations.store_permissions import check_may_write

    if app.store_path is None:
        app.check_server()
    else:
        check_may_write(app.store_path)


def _check_settings(app: App, dry_run: bool) -> None:
    """Check that no other user chooses the store, the bin or the audit log by settings."""
    for path, why in app.settings.distrusted.items():
        if not dry_run:
            raise UsageError(
                f"refusing to use the settings in {path}: the file {why}; nothing was changed",
                hint=f"if you trust it: --config {shlex.quote(str(path))}, or LENS_CONFIG",
            )


def check_can_ask(app: App, yes: bool, question: str) -> None:
    """Check that there is a terminal to ask on, unless --yes was given.

    Args:
        question: What would be asked; the error names it.

    Raises:
        UsageError: there is no terminal. Nothing was read from stdin.
    """
    if yes or can_ask(app):
        return
    raise UsageError(
        f'not a terminal, to ask "{question}"; nothing was changed',
        hint="to answer yes: --yes; to see what would be done: --dry-run",
    )


def can_ask(app: App) -> bool:
    """Whether questions can be asked: stdin and stderr are terminals."""
    known = app.world.stderr_tty
    return app.world.stdin.isatty() and (app.world.stderr.isatty() if known is None else known)


def confirm(app: App, question: str, yes: bool, lines: Iterable[str] = ()) -> bool:
    """Ask a question; return whether the answer was y or yes.

    Args:
        app: The invocation; the question goes to stderr, the answer comes from the terminal.
        yes: Whether --yes was given; then nothing is printed or asked.
        lines: Lines to print before the question.

    Raises:
        UsageError: as for `check_can_ask`.
    """
    check_can_ask(app, yes, question)
    if yes:
        return True
    for line in lines:
        app.tell(line)
    agreed = answer(app, f"{question} [y/N] ") in ("y", "yes")
    if not agreed:
        app.tell("nothing was changed")
    return agreed


def answer(app: App, question: str) -> str:
    """Ask a question; return the answer in lower case, "" at the end of the input.

    Raises:
        KeyboardInterrupt: as for `read_answer`.
    """
    line = read_answer(app, question)
    if not line:
        app.tell("")  # Ctrl-D leaves the cursor after the question
    return line.strip().lower()


def read_answer(app: App, prompt: str) -> str:
    """The line typed at a prompt with its end; "" at the end of the input.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a message that nothing was changed.
    """
    try:
        app.world.stderr.write(app.shown(prompt))
        app.world.stderr.flush()
        return read_line(app.world.stdin)
    except KeyboardInterrupt:
        app.tell("\nnothing was changed")
        raise


def audit_log(app: App, store: Path | AuditJournal, file: Path | None) -> AuditLog:
    """The audit log of a store: at --audit-file, at the path in the settings, or next to the store or in it.

    Args:
        store: The path of the store, or the journal in it.
        file: The value of --audit-file.
    """
    import platform

    from flujo_lens.operations.audit import AuditLog

    chosen = app.world.cwd / file if file else app.settings.audit_path
    return AuditLog(
        chosen or (AuditLog.sidecar_path(store) if isinstance(store, Path) else store),
        actor=actor_of(app),
        host=platform.node(),
        now=app.world.now,
        timeout=app.settings.timeout,
        store=_name_of_store(app),
        mask=_masked_always(app),
        lost=lambda text: app.tell(f"warning: {text}"),
    )


def _masked_always(app: App) -> Callable[[str], str]:
    """The redactor of a log, which masks secrets even with --show-secrets."""
    from flujo_lens.redaction import Redactor

    return Redactor(app.settings.redact_keys).text


def _name_of_store(app: App) -> str | None:
    """The selected store, without passwords; None if a log is only read and no store is selected."""
    from flujo_lens.redaction import masked_text

    try:
        return masked_text(app.store.uri)
    except NoStoreError:
        return None


def actor_of(app: App) -> str:
    """The actor: LENS_ACTOR, or the login name."""
    import pwd

    given = app.world.env.get("LENS_ACTOR")
    try:
        return given or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
