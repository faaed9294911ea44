"""Asking before something is changed, what may be changed at all, and where it is written down."""

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
    from flujo_lens.operations.audit import AuditLog

__all__ = ["actor_of", "answer", "audit_log", "can_ask", "check_can_ask", "check_writable", "confirm"]


def check_writable(app: App, *, dry_run: bool = False) -> None:
    """See that the store that is meant may be changed, and that there is no doubt which one that is.

    Args:
        app: The invocation.
        dry_run: Whether nothing is to be changed, which every store allows.

    Raises:
        UsageError: a variable and a file name different stores, or somebody else may have written the settings.
        ReadOnlyStoreError: the settings say so.
    """
    choice = app.store
    if choice.overridden:
        raise UsageError(
            "a variable and a file name different stores; nothing was changed",
            hint="say which one is meant: --store NAME_OR_URI",
        )
    _check_settings(app, dry_run)
    if choice.readonly and not dry_run:
        name = choice.name or app.redactor.text(choice.uri)
        raise ReadOnlyStoreError(
            f"the store {name} is read-only by the settings; nothing was changed",
            hint=f"readonly = true says so: {choice.readonly_at}\n--dry-run shows what would be done",
        )


def _check_settings(app: App, dry_run: bool) -> None:
    """See that nobody else says which store is changed, and where what is deleted is kept and written down."""
    for path, why in app.settings.distrusted.items():
        if not dry_run:
            raise UsageError(
                f"the settings in {path} count here, and the file {why}; nothing was changed",
                hint=f"--config {shlex.quote(str(path))}, or LENS_CONFIG, says that this file is meant",
            )


def check_can_ask(app: App, yes: bool) -> None:
    """See that there is a terminal to ask on, unless the answer was given.

    Raises:
        UsageError: there is none. Nothing was read from stdin.
    """
    if yes or can_ask(app):
        return
    raise UsageError(
        "there is no terminal to ask on; nothing was changed",
        hint="--yes does it without asking, --dry-run shows what it would do",
    )


def can_ask(app: App) -> bool:
    """Whether there is a person who can be asked: a terminal to ask on, and one to answer on."""
    known = app.world.stderr_tty
    return app.world.stdin.isatty() and (app.world.stderr.isatty() if known is None else known)


def confirm(app: App, question: str, yes: bool, lines: Iterable[str] = ()) -> bool:
    """Whether a person says y or yes to `question`; anything else, Enter too, is a no.

    Args:
        app: The invocation; the question goes to stderr, the answer comes from the terminal.
        question: What is asked.
        yes: Whether the answer was given; nothing is told or asked then.
        lines: What a person should know before.

    Raises:
        UsageError: as `check_can_ask`.
    """
    check_can_ask(app, yes)
    if yes:
        return True
    for line in lines:
        app.tell(line)
    agreed = answer(app, f"{question} [y/N] ") in ("y", "yes")
    if not agreed:
        app.tell("nothing was changed")
    return agreed


def answer(app: App, question: str) -> str:
    """What a person types to a question, in small letters; at the end of the input nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C, which is no answer; that nothing was changed is told.
    """
    try:
        app.world.stderr.write(app.shown(question))
        app.world.stderr.flush()
        line = read_line(app.world.stdin)
    except KeyboardInterrupt:
        app.tell("\nnothing was changed")
        raise
    if not line:
        app.tell("")  # Ctrl-D leaves the cursor behind the question
    return line.strip().lower()


def audit_log(app: App, store: Path, file: Path | None) -> AuditLog:
    """The audit log of a store: where --audit-file or the settings say, else beside it."""
    import platform

    from flujo_lens.operations.audit import AuditLog

    chosen = app.world.cwd / file if file else app.settings.audit_path
    return AuditLog(
        chosen or AuditLog.path_beside(store),
        actor=actor_of(app),
        host=platform.node(),
        now=app.world.now,
        timeout=app.settings.timeout,
        store=_name_of_store(app),
        mask=_masked_always(app),
    )


def _masked_always(app: App) -> Callable[[str], str]:
    """The secrets of a log are masked whatever is shown on the screen."""
    from flujo_lens.redaction import Redactor

    return Redactor(app.settings.redact_keys).text


def _name_of_store(app: App) -> str | None:
    """The store that is meant, without passwords; None if a log is only read, and no store is named."""
    from flujo_lens.redaction import masked_text

    try:
        return masked_text(app.store.uri)
    except NoStoreError:
        return None


def actor_of(app: App) -> str:
    """Who acts: the login's name, or what LENS_ACTOR says."""
    import pwd

    given = app.world.env.get("LENS_ACTOR")
    try:
        return given or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
