"""The index of a folder: what lists need of every file, so that unchanged files are not read again.

One small SQLite file a folder and time zone in the user's cache directory. A row of ``states`` and of ``histories`` is
a file; which of them count, see `flujo_lens.state.backends.file.index.state_table`. A row of ``runs`` is a run as both
tell of it together, and is derived from them: ``dirty`` has the ids of those that are to be derived again, so that a
process that dies on any line leaves no run behind that is older than its files.

Several processes use one index. Each writes some rows at a time; These writes are counted, and every row has
the number of the one that wrote it (``look``): a look at the folder leaves alone what was written since it began, which
is newer than what it has seen. A run keeps the number of the one that it came with (``born``), so that a list that is
read page by page has no runs but those that were there at its first page.

What becomes of a file that is damaged or cannot be used: `flujo_lens.state.backends.core.cache_file`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

from flujo_lens.state.backends.core.cache_file import CacheDatabase, CacheFile, Kind, Row
from flujo_lens.state.backends.file.index.history_table import HistoryRow
from flujo_lens.state.backends.file.index.joined_table import Micros, RunEntry, in_force, joined
from flujo_lens.state.backends.file.index.state_table import StateRow

Place = Literal["states", "histories"]

_CHUNK, _DERIVED = 2_000, 1_000
_COLUMNS: dict[str, tuple[str, ...]] = {
    "states": StateRow._fields,
    "histories": HistoryRow._fields,
    "runs": RunEntry._fields,
}
_RUN_ID = StateRow._fields.index("run_id")
"""Where the run is in a row of a file."""

_DIRTY = (
    f"SELECT dirty.run_id, {', '.join(f's.{name}' for name in StateRow._fields)}, "
    f"{', '.join(f'h.{name}' for name in HistoryRow._fields)} "
    f"FROM (SELECT run_id FROM dirty ORDER BY run_id LIMIT {_DERIVED}) AS dirty "
    "LEFT JOIN states AS s ON s.run_id = dirty.run_id LEFT JOIN histories AS h ON h.run_id = dirty.run_id "
    "ORDER BY dirty.run_id"
)
"""The files of some runs that are to be derived again."""

_KEYS = {"states": "name", "histories": "name", "runs": "run_id"}
_MOMENTS = ("created", "updated", "start")
_TEXTS = frozenset(
    ("name", "run_id", "status", "pipeline", "version", "parent", "root_pipeline", "root_version", *_MOMENTS)
)


class Index(CacheDatabase):
    """An open index.

    Args:
        file: The file that processes share.
        micros: Reads a time of a state.
        kind: As of `CacheDatabase`.
    """

    version = 6

    def __init__(self, file: CacheFile, micros: Micros, kind: Kind = "shared") -> None:
        self.micros = micros
        super().__init__(file, kind)

    def schema(self) -> Iterator[str]:
        yield "CREATE TABLE dirty (run_id TEXT PRIMARY KEY) WITHOUT ROWID"
        for table, columns in _COLUMNS.items():
            key, last = _KEYS[table], "born" if table == "runs" else "look"
            typed = (f"{name} TEXT PRIMARY KEY" if name == key else _typed(name, table) for name in columns)
            yield f"CREATE TABLE {table} ({', '.join(typed)}, {last} INT) WITHOUT ROWID"
        for place in ("states", "histories"):
            yield f"CREATE INDEX {place}_by_run ON {place} (run_id)"
        yield "CREATE INDEX runs_by_start ON runs (started, run_id)"
        yield "CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL"

    def stamps(self, place: Place) -> Iterator[list[Row]]:
        """The names and stamps of files, whether they are settled, and their runs, by name."""
        columns = "name, modified, changed, size, inode, settled, run_id"
        query = f"SELECT {columns} FROM {place} WHERE name > CAST(? AS TEXT) ORDER BY name LIMIT {_CHUNK}"
        last = ""
        while page := self.rows(query, (last,)):
            yield page
            last = page[-1][0]

    def put(
        self, place: Place, rows: Sequence[Row], gone: Sequence[str], before: Iterable[str | None], since: int
    ) -> None:
        """Put rows in place of those of the same files, and remove those of files that are gone.

        Args:
            place: The table.
            rows: The rows.
            gone: The names of files.
            before: The runs that these files held.
            since: The number of the look; what was written later stays.
        """
        if not rows and not gone:
            return
        ids = {*before, *(row[_RUN_ID] for row in rows)} - {None}
        with self.writing() as look:
            self.each("INSERT OR IGNORE INTO dirty VALUES (CAST(? AS TEXT))", [(run_id,) for run_id in sorted(ids)])
            self.each(_upsert(place), [(*row, look, since) for row in rows])
            self.each(f"DELETE FROM {place} WHERE name = CAST(? AS TEXT) AND look <= ?", [(n, since) for n in gone])

    def derive(self) -> None:
        """Derive the runs of the files that have changed."""
        while self.rows("SELECT 1 FROM dirty LIMIT 1"):
            with self.writing() as look:
                groups = groupby(self.rows(_DIRTY), lambda row: row[0])
                runs = {run_id: self._joined(run_id, list(rows)) for run_id, rows in groups}
                self.each(_upsert("runs"), [(*run, look) for run in runs.values() if run is not None])
                lost = [(run_id,) for run_id, run in runs.items() if run is None]
                self.each("DELETE FROM runs WHERE run_id = CAST(? AS TEXT)", lost)
                last = next(reversed(runs), "")
                self.each("DELETE FROM dirty WHERE run_id <= CAST(? AS TEXT)", [(last,)])

    def _joined(self, run_id: str, rows: Sequence[Row]) -> RunEntry | None:
        """A run by the rows of its files: one row with all, as a rule."""
        first, end = rows[0], 1 + len(StateRow._fields)
        states = {row[1]: StateRow._make(row[1:end]) for row in rows if row[1] is not None}.values()
        history = None if first[end] is None else HistoryRow._make(rows[-1][end:])
        return joined(run_id, in_force(states, self.micros), history, self.micros)


def _typed(name: str, table: str) -> str:
    if table != "runs" and name in _MOMENTS:  # a number, or a text
        return name
    return f"{name} {'TEXT' if name in _TEXTS - set(_MOMENTS) else 'INT'}"


def _upsert(table: str) -> str:
    """Put a row; of a file only if the one that is there was not written since a look."""
    key, columns = _KEYS[table], _COLUMNS[table]
    last = "born" if table == "runs" else "look"
    texts = _TEXTS - set(_MOMENTS)
    values = ", ".join("CAST(? AS TEXT)" if name in texts else "?" for name in columns)
    changed = [name for name in (*columns, *(() if table == "runs" else ("look",))) if name != key]
    update = ", ".join(f"{name} = excluded.{name}" for name in changed)
    guard = "" if table == "runs" else " WHERE look <= ?"
    return (
        f"INSERT INTO {table} ({', '.join(columns)}, {last}) VALUES ({values}, ?) "
        f"ON CONFLICT ({key}) DO UPDATE SET {update}{guard}"
    )
