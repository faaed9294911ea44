"""Recording and reporting a change: shared by the small writing commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flujo_lens.cli.audited_command import recorded
from flujo_lens.cli.context import App
from flujo_lens.cli.input.confirm import audit_log
from flujo_lens.cli.options import ChangeOptions, OutputOptions
from flujo_lens.cli.output import Output
from flujo_lens.cli.sidecars import bin_of, log_in_store, made_base, why_nowhere
from flujo_lens.errors import NotSupportedError
from flujo_lens.operations.change_report import Recorder
from flujo_lens.state.backends.base import StateBackend


def recorder(app: App, backend: StateBackend, words: Sequence[str], asked: ChangeOptions) -> Recorder:
    """A recorder that writes a command to the audit log of the store.

    Args:
        words: The command with its values, in its long form; secrets are masked here.
        asked: The options of the change.

    Also removes expired entries from the bin, as every writing command does.
    """
    log = log_in_store(app, backend)
    base = made_base(app, backend, for_log=log is None)
    if base is not None:
        bin_of(app, backend).expire(app.world.now())
    command = recorded(words, app.settings.redact_keys)
    place = log or base or _elsewhere(app, backend, asked)
    return Recorder(audit_log(app, place, asked.audit_file), command, asked.reason)


def _elsewhere(app: App, backend: StateBackend, asked: ChangeOptions) -> Path:
    if asked.audit_file is not None or app.settings.audit_path is not None:
        return Path()
    raise NotSupportedError(
        f"{why_nowhere(backend)}: no path for an audit log; nothing was changed",
        hint="--audit-file FILE, or path under [audit] in lens.toml, sets the path",
    )


def report_output(app: App, asked: ChangeOptions, formats: tuple[str, ...] = ("table", "json", "id")) -> Output:
    """The output of a report; a pipe gets the same lines as a terminal."""
    return app.output(OutputOptions(output=asked.output, json=asked.json), (*formats, "tsv"))


def tell(
    app: App, out: Output, document: dict[str, Any], ids: Sequence[str], lines: Sequence[str], brief: str = ""
) -> None:
    """Print a report: as one JSON document, as ids, or as text.

    Args:
        brief: The line that --quiet leaves of the text; "" for all of it.
    """
    from flujo_lens.cli.screens.deletion_text import folded

    if out.form == "json":
        out.document(document)
        return
    if out.form == "id":
        out.ids(ids)
        return
    lines = [brief] if brief and app.options.quiet else lines
    app.say(folded(map(app.shown, lines), app.world.columns))
