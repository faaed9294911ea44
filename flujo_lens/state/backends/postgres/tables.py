"""The tables: those of the library (0.6.11), and ours.

Ours are made by a command that writes, and never refer to the library's: its application runs its whole DDL at each
start, and waits for locks on its tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_DDL = """
CREATE TABLE IF NOT EXISTS workflow_state (
  run_id text PRIMARY KEY, pipeline_id text NOT NULL, pipeline_name text NOT NULL, pipeline_version text NOT NULL,
  current_step_index integer NOT NULL, pipeline_context jsonb, last_step_output jsonb, step_history jsonb,
  status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  total_steps integer DEFAULT 0, error_message text, execution_time_ms integer, memory_usage_mb real, metadata jsonb,
  is_background_task boolean DEFAULT false, parent_run_id text, task_id text, background_error text);
CREATE TABLE IF NOT EXISTS runs (
  run_id text PRIMARY KEY, pipeline_id text NOT NULL, pipeline_name text NOT NULL, pipeline_version text NOT NULL,
  status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  execution_time_ms integer, memory_usage_mb real, total_steps integer DEFAULT 0, error_message text);
CREATE TABLE IF NOT EXISTS steps (
  id serial PRIMARY KEY, run_id text NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE, step_name text NOT NULL,
  step_index integer NOT NULL, status text NOT NULL, output jsonb, raw_response jsonb, cost_usd real,
  token_counts integer, execution_time_ms integer, created_at timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS spans (
  id serial PRIMARY KEY, run_id text NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE, span_id text NOT NULL,
  parent_span_id text, name text NOT NULL, start_time double precision NOT NULL, end_time double precision,
  status text NOT NULL, attributes jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS traces (
  run_id text PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE, trace_data jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS evaluations (
  id serial PRIMARY KEY, run_id text NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE, step_name text,
  score double precision NOT NULL, feedback text, metadata jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS system_state (
  key text PRIMARY KEY, value jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
"""
"""The library's tables, as its version 0.6.11 has them, without ``memories``, which needs an extension."""

_KINDS = {"integer": "int", "jsonb": "json", "timestamptz": "time", "boolean": "bool"}
COLUMNS: dict[str, dict[str, str]] = {
    table: {
        name: _KINDS.get(kind, kind) for name, kind in re.findall(r"(?:^|,)\s*(\w+) (\w+)", columns) if name != "id"
    }
    for table, columns in re.findall(r"EXISTS (\w+) \((.*?)\);", _DDL, re.DOTALL)
    if table != "traces"
}
"""The columns of the library that we read and write, by table, with their kind."""

TYPES = {"time": "timestamptz", "json": "jsonb", "int": "integer", "bool": "boolean", "text": "text", "real": "real"}
"""By kind of a column of states and runs, its type."""

LIBRARY_TABLES = (*COLUMNS, "traces")
_KEYED_TABLES = ("lens_claims", "lens_manifests", "lens_bindings", "lens_strips", "lens_audit", "lens_audit_head")
LENS_TABLES = (*_KEYED_TABLES, "lens_documents", "lens_schema")
VERSION = 1
"""Of our tables: what a later version of lens has made is read, and not written to."""

_CREATE = "CREATE TABLE IF NOT EXISTS "
_INDEXED = {
    "workflow_state": ("status", "pipeline_id", "parent_run_id", "created_at"),
    "runs": ("status", "pipeline_id", "created_at", "pipeline_name"),
    "steps": ("run_id", "step_index"),
    "spans": ("run_id", "parent_span_id"),
    "evaluations": ("run_id", "created_at"),
}
LIBRARY_DDL = {
    (table := part.split()[0]): _CREATE
    + part
    + "".join(
        f"CREATE INDEX IF NOT EXISTS idx_{table}_{column} ON {table} ({column});\n"
        for column in _INDEXED.get(table, ())
    )
    for part in _DDL.split(_CREATE)[1:]
}
"""By table: of those that are there nothing is run, for ``CREATE INDEX IF NOT EXISTS`` locks their tables, too."""

_KEYED = "".join(f'\n{_CREATE}{t} (key text COLLATE "C" PRIMARY KEY, value text NOT NULL);' for t in _KEYED_TABLES)
LENS_DDL = f"""{_KEYED}
CREATE TABLE IF NOT EXISTS lens_documents (
  kind text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
  document text NOT NULL, stamp text, PRIMARY KEY (run_id, kind, key));
CREATE TABLE IF NOT EXISTS lens_schema (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
INSERT INTO lens_schema (version) VALUES ({VERSION}) ON CONFLICT DO NOTHING;
"""
"""Ours. ``lens_documents`` holds what the library's columns cannot, with a digest of the row that it belongs to: if
an application has changed the row since, only the row counts. A ``stamp`` of NULL: there is no such row."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Which tables and columns there are; what is missing reads as empty.

    Attributes:
        columns: The columns by table.
        is_bytewise: Whether ids are in the order of their code points by the collation of the database, too.
    """

    columns: dict[str, frozenset[str]]
    is_bytewise: bool = False

    def has(self, *tables: str) -> bool:
        """Whether all of these tables are there."""
        return all(table in self.columns for table in tables)

    def has_column(self, table: str, column: str) -> bool:
        """Whether a table has a column."""
        return column in self.columns.get(table, ())

    @property
    def is_store(self) -> bool:
        """Whether there is anything to read runs from."""
        return self.has("workflow_state") or self.has("runs")

    @property
    def has_parents(self) -> bool:
        """Whether states name the runs that they are background tasks of."""
        return self.has_column("workflow_state", "parent_run_id")

    @cached_property
    def is_whole(self) -> bool:
        """Whether nothing is missing, ours included."""
        return self.has(*LIBRARY_TABLES, *LENS_TABLES)


def missing_ddl(shape: Shape) -> str:
    """What makes the tables that are missing; nothing is run on those of the library that are there."""
    return "".join([*(sql for table, sql in LIBRARY_DDL.items() if not shape.has(table)), LENS_DDL])
