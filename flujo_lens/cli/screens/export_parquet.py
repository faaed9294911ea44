"""``lens export FILE.parquet``: writing the tables, and the report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flujo_lens.cli.change_output import tell
from flujo_lens.cli.context import App
from flujo_lens.cli.options import FilterOptions, OutputOptions
from flujo_lens.cli.screens.progress import Bar
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import UsageError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.export import StoppedError, check_export_path, new_file
from flujo_lens.operations.parquet import ParquetTables, export_parquet, parquet_paths, pyarrow
from flujo_lens.operations.transfer import Transferred
from flujo_lens.redaction import Redactor
from flujo_lens.rendering import human
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter


def run_parquet(
    app: App, file: Path, filters: FilterOptions, out: OutputOptions, *, without: frozenset[str], redact: bool,
    overwrite: bool,
) -> int:  # fmt: skip
    """Write the tables, and report; return the exit code."""
    if "state" in without:
        raise UsageError("--without state does not apply: the tables have no states", hint="--without spans,outputs")
    pyarrow()
    paths = parquet_paths(app.world.cwd / file, spans="spans" not in without)
    for path in paths.values():
        check_export_path(path, overwrite=overwrite)
    wanted, stop = app.wanted(filters), Stop()
    redactor = Redactor(app.settings.redact_keys) if redact else None

    async def work(backend: StateBackend) -> Transferred:
        done = Transferred(await backend.count_runs(wanted))
        with ExitStack() as files, heard(stop), Bar(app, "exporting", "runs", done.matched) as bar:
            made = {name: files.enter_context(new_file(path, overwrite=overwrite)) for name, path in paths.items()}
            with ParquetTables(made, redactor, outputs="outputs" not in without) as tables:
                await export_parquet(
                    backend, wanted, tables, done, spans="spans" in paths, stop=stop, progress=bar.update
                )
            if stop and done.done < done.matched:
                raise StoppedError
        return done

    try:
        done = app.run(work)
    except StoppedError:
        app.tell("stopped: nothing was written")
        return code_of(stop)
    _report(app, out, done, paths)
    if not done.matched:
        app.note_no_runs("no runs match" if wanted != RunFilter() else "no runs in this store", wanted)
    return code_of(stop)


def _report(app: App, out: OutputOptions, done: Transferred, paths: dict[str, Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in paths.values()}
    files = [f"{name} ({human.size(size)})" for name, size in sizes.items()]
    lines = [f"exported {human.plural(done.done, 'run')} to {', '.join(files)}"]
    document: dict[str, Any] = {
        "matched": done.matched,
        "done": done.done,
        "failed": 0,
        "left": 0,
        "files": [str(path) for path in paths.values()],
        "bytes": sum(sizes.values()),
    }
    tell(app, app.output(out, ("table", "json", "tsv")), document, (), lines)
