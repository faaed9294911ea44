"""Exporting runs to Parquet: three tables, for DuckDB, pandas, Spark and the like.

The rows are what ``lens list``, ``lens show`` and ``lens trace`` print, with the same names. Values of any shape
(outputs, attributes, metadata) are columns of JSON text; times are timestamps in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flujo_lens.errors import MissingExtraError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.transfer import Transferred
from flujo_lens.redaction import Redactor
from flujo_lens.serialization.exact import exact_dumps
from flujo_lens.state.backends.base import StateBackend
from flujo_lens.state.views import RunFilter, RunSummary, Span, StepRecord

TABLES: Mapping[str, Mapping[str, str]] = {
    "runs": {
        "run_id": "text", "pipeline_name": "text", "pipeline_version": "text", "status": "text", "created_at": "time",
        "updated_at": "time", "duration_ms": "float", "current_step_index": "int", "step_name": "text",
        "total_steps": "int", "error_message": "text", "pause_message": "text", "parent_run_id": "text",
        "task_id": "text", "is_background_task": "bool", "metadata": "json", "cost_usd": "float", "tokens": "int",
    },
    "steps": {
        "run_id": "text", "step_index": "int", "step_name": "text", "status": "text", "input": "json",
        "output": "json", "error": "text", "cost_usd": "float", "token_counts": "int", "duration_ms": "float",
        "attempts": "int", "created_at": "time", "model": "text",
    },
    "spans": {
        "run_id": "text", "span_id": "text", "parent_span_id": "text", "name": "text", "status": "text",
        "start_offset_ms": "float", "duration_ms": "float", "started_at": "time", "attributes": "json",
    },
}  # fmt: skip
"""The columns of each table, with their kinds."""

_ROWS = 20_000
"""Rows of a row group."""

_PAGE = 200
_OUTPUTS = ("output",)


def pyarrow() -> Any:
    """The pyarrow module, from the extra ``parquet``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow as module
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("pyarrow", "parquet") from error
    return module


def parquet_paths(path: Path, *, spans: bool = True) -> dict[str, Path]:
    """The files of the tables: ``x.runs.parquet``, ``x.steps.parquet`` and ``x.spans.parquet`` for ``x.parquet``."""
    names = [name for name in TABLES if spans or name != "spans"]
    return {name: path.with_name(f"{path.name.removesuffix('.parquet')}.{name}.parquet") for name in names}


class ParquetTables:
    """Writes rows to the files of some tables; a context manager.

    Args:
        files: Descriptors of the files by table.
        redactor: Masks secrets; None to mask nothing.
        outputs: Whether outputs of steps are written.
    """

    def __init__(self, files: Mapping[str, int], redactor: Redactor | None, *, outputs: bool = True) -> None:
        self._arrow = pyarrow()
        self._redactor, self._outputs = redactor, outputs
        self._schemas = {name: self._schema(TABLES[name]) for name in files}
        self._waiting: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
        self._writers: dict[str, Any] = {}
        self._stack = ExitStack()
        for name, file in files.items():
            sink = self._stack.enter_context(open(file, "wb", closefd=False))  # noqa: SIM115
            writer = self._arrow.parquet.ParquetWriter(sink, self._schemas[name], compression="zstd")
            self._writers[name] = self._stack.enter_context(writer)

    def __enter__(self) -> ParquetTables:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            for name in self._waiting:
                self._flush(name)
        self._stack.close()

    def _schema(self, columns: Mapping[str, str]) -> Any:
        arrow = self._arrow
        kinds = {
            "text": arrow.string(),
            "json": arrow.string(),
            "int": arrow.int64(),
            "float": arrow.float64(),
            "bool": arrow.bool_(),
            "time": arrow.timestamp("us", tz="UTC"),
        }
        return arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])

    def add(self, run: RunSummary, steps: Iterable[StepRecord], spans: Iterable[Span]) -> None:
        """Add a run."""
        self._add("runs", run._asdict())
        for step in steps:
            self._add("steps", {"run_id": run.run_id, **step._asdict()})
        if "spans" in self._writers:
            for span in _flat(spans):
                self._add("spans", {"run_id": run.run_id, **span._asdict()})

    def _add(self, table: str, row: Mapping[str, Any]) -> None:
        rows = self._waiting[table]
        rows.append({name: self._value(name, kind, row[name]) for name, kind in TABLES[table].items()})
        if len(rows) >= _ROWS:
            self._flush(table)

    def _value(self, name: str, kind: str, value: Any) -> Any:
        if value is None or (name in _OUTPUTS and not self._outputs):
            return None
        if kind == "json":
            shown = value if self._redactor is None else self._redactor.under(name, _plain(value))
            return _text(exact_dumps(_plain(shown)).decode())
        if kind == "text":
            text = str(value)
            return _text(text if self._redactor is None or name.endswith(("_id", "_name")) else self._masked(text))
        if kind == "int":
            return int(value) if -(2**63) <= value < 2**63 else None
        if kind == "time":
            return value.astimezone(UTC) if isinstance(value, datetime) else None
        return bool(value) if kind == "bool" else float(value)

    def _masked(self, text: str) -> str:
        assert self._redactor is not None
        return self._redactor.text(text)

    def _flush(self, table: str) -> None:
        rows, self._waiting[table] = self._waiting[table], []
        if rows:
            self._writers[table].write_table(self._arrow.Table.from_pylist(rows, schema=self._schemas[table]))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _text(text: str) -> str:
    """Text that is UTF-8: half of a surrogate pair, which is none, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _flat(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans with all below them, parents first."""
    waiting = list(spans)[::-1]
    while waiting:
        span = waiting.pop()
        yield span
        waiting += reversed(span.children)


async def export_parquet(
    backend: StateBackend,
    wanted: RunFilter,
    tables: ParquetTables,
    done: Transferred,
    *,
    spans: bool = True,
    stop: Stop | None = None,
    progress: Callable[[int], None] | None = None,
) -> Transferred:
    """Write the runs of a store to tables, the oldest first.

    Args:
        tables: The files.
        done: What is updated, and returned.
        spans: Whether spans are read.
        progress: Called with the number of processed runs.

    Raises:
        LensError: the store cannot be read.
    """
    async for run_id in backend.portable_ids(wanted):
        detail = await backend.read_run(run_id)
        if detail is None:
            continue  # deleted in the meantime
        found = await backend.read_spans(run_id) if spans and detail.has_spans else ()
        tables.add(detail.run, detail.steps, found)
        done.done += 1
        if done.done % _PAGE == 0:
            if progress is not None:
                progress(done.seen)
            if stop:
                break
    return done
