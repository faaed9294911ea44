"""``lens export``: writing the file, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flujo_lens.cli import exit_codes
from flujo_lens.cli.audited_command import recorded
from flujo_lens.cli.change_output import tell
from flujo_lens.cli.context import App
from flujo_lens.cli.input.contradictions import refuse_combination
from flujo_lens.cli.options import FilterOptions, OutputOptions, PartOptions, words_of
from flujo_lens.cli.screens.copy import left_out, note_lost, portable_parts
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import UsageError
from flujo_lens.operations.archive_compression import form_of
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.export import (
    PORTABLE,
    Sink,
    StoppedError,
    check_export_path,
    export_runs,
    new_file,
    packed_into,
)
from flujo_lens.operations.portable_parts import PortableParts
from flujo_lens.operations.transfer import Transferred, groups_of
from flujo_lens.redaction import masked_text
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter

STDOUT = "-"
_SUFFIXES = "lens export writes .ndjson, .ndjson.gz, .ndjson.zst and .parquet files; - is stdout"


class ExportArguments(NamedTuple):
    """Arguments of ``lens export``."""

    file: Path
    filters: FilterOptions
    parts: PartOptions
    overwrite: bool
    output: str | None
    json: bool

    def words(self, store: str | None) -> list[str]:
        """The command line with long options."""
        options = [*words_of(self, "filters", "parts"), *([f"--store={store}"] if store else [])]
        return ["lens", "export", str(self.file), *options]


def run_export(app: App, asked: ExportArguments) -> int:
    """Write the runs to a file or to stdout, and report; return the exit code."""
    parts = portable_parts(app, None, left_out(asked.parts), redact=asked.parts.redact)
    if asked.file.name.endswith(".parquet"):
        from flujo_lens.cli.screens.export_parquet import run_parquet

        return run_parquet(
            app, asked.file, asked.filters, OutputOptions(output=asked.output, json=asked.json),
            without=left_out(asked.parts), redact=asked.parts.redact, overwrite=asked.overwrite,
        )  # fmt: skip
    if str(asked.file) == STDOUT:
        return _to_stdout(app, asked, parts)
    path = app.world.cwd / asked.file
    form = form_of(path, _SUFFIXES)
    check_export_path(path, overwrite=asked.overwrite)
    wanted = app.wanted(asked.filters)
    try:
        with new_file(path, overwrite=asked.overwrite) as file:
            done, code = _exported(app, asked, parts, wanted, packed_into(file, form))
            if code:
                raise StoppedError
    except StoppedError:
        app.tell(f"stopped: {asked.file} was not written")
        return code
    out = app.output(OutputOptions(output=asked.output, json=asked.json), ("table", "json", "tsv"))
    size = path.stat().st_size
    lines = [f"exported {human.plural(done.done, 'run')} to {asked.file} ({human.size(size)})", *_left(done)]
    document = _document(done) | {"file": str(path), "bytes": size}
    tell(app, out, document, (), ["; ".join(lines)] if app.options.quiet else lines)
    note_lost(app, done)
    _note_none(app, wanted, done)
    return exit_codes.PARTIAL if done.failed else exit_codes.OK


def _to_stdout(app: App, asked: ExportArguments, parts: PortableParts) -> int:
    given = {"--output": asked.output, "--json": asked.json, "--overwrite": asked.overwrite}
    refuse_combination("-", given, "stdout has the runs, and the report goes to stderr")
    if app.world.is_terminal:
        raise UsageError(
            "refusing to write an archive to a terminal", hint="lens export FILE, or pipe it: lens export - | zstd > F"
        )
    if app.world.stdout_is_closed:
        raise UsageError("cannot export to stdout: it is closed", hint="lens export FILE writes a file")
    stdout = app.world.stdout
    stdout.flush()
    wanted = app.wanted(asked.filters)
    done, code = _exported(app, asked, parts, wanted, stdout.buffer.write)
    stdout.buffer.flush()
    for line in (f"exported {human.plural(done.done, 'run')}", *_left(done)):
        app.note(line)
    note_lost(app, done)
    _note_none(app, wanted, done)
    return code or (exit_codes.PARTIAL if done.failed else exit_codes.OK)


def _exported(
    app: App, asked: ExportArguments, parts: PortableParts, wanted: RunFilter, sink: Sink
) -> tuple[Transferred, int]:
    command = recorded(asked.words(app.options.store), app.settings.redact_keys)
    stop = Stop()

    async def work(backend: StateBackend) -> Transferred:
        done = Transferred(await backend.count_runs(wanted))
        header = Header(masked_text(app.store.uri), PORTABLE, app.world.now(), "", tuple(command))
        with heard(stop), Bar(app, "exporting", "runs", done.matched) as bar:
            groups = groups_of(backend, wanted)
            return await export_runs(groups, parts, sink, header, done, stop=stop, progress=bar.update)

    return app.run(work), code_of(stop)


def _note_none(app: App, wanted: RunFilter, done: Transferred) -> None:
    """Print that nothing was exported, and what may be wrong with the filter."""
    if not done.matched:
        app.note_no_runs("no runs match" if wanted != RunFilter() else "no runs in this store", wanted)


def _left(done: Transferred) -> list[str]:
    left = max(0, done.matched - done.seen)
    failed = [f"failed: {human.plural(len(done.failed), 'run')}"] if done.failed else []
    return [*failed, *([f"stopped: {human.plural(left, 'run')} left out"] if left else [])]


def _document(done: Transferred) -> dict[str, object]:
    document = done.document()
    names = ("matched", "done", "failed", "left", "lost", "errors")
    return {name: document[name] for name in names}
