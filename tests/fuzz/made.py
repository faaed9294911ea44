"""Worlds that a number makes: real stores, folders, archives, bins, audit logs and settings with a few things in them
that nobody expects. The same number makes the same world, whatever the machine.

Rows, values, names and schemas are changed by the engine itself; its pages are never touched.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from support import NEW, OLD, Lens

KINDS = ("sqlite", "sqlite", "sqlite", "files", "files", "archive", "bin", "audit", "settings")
"""What is odd in a world; of stores and folders there are most."""

RARE = 0.15
TEXTS = (
    "", " ", "x", "unknown", "completed", "failed", "paused", "running", "cancelled", "nonsense", "NaN", "-inf",
    "2026-11-21T00:11:08+00:00", "2026-11-20 19:11:08", "2026-13-45T99:99:99", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "12", "-1", "null", "[]", "{}", "[1]", '{"a": 1}', '"', "[" * 300, '{"a":' * 300,
    "\x00", "a\x00b", "\x1b[31m", "a\nb\tc", "\u2028", "\ud7ff\U0001f98a", "[/x][bold]", "%s{}$(x)`", "é" * 300,
    '{"is_background_task": [], "task_id": {}, "parent_run_id": 5}', '{"pause_message": [], "hitl_data": 3}',
    '[{"name": [], "success": "no", "feedback": {}, "latency_s": "x", "token_counts": [], "cost_usd": {}}, 5, null]',
    '{"step_history": 5, "branch_context": []}', "/etc/passwd", "../../x", "@latest", "-", "--yes", "run_",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 12, 255, 10**9, 10**12, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 0.0, -0.0, 0.5, 1.5, -2.5, 1e15, 1e300,
    -1e300, 5e-324, 1763683868, 1763683868.7, float("inf"), float("-inf"),
)  # fmt: skip
BLOBS = (b"", b"\x00", b"\xff\xfe\xff", b"x", b"orders-v1-001", b"{}", b"[1", b"\x28\xb5\x2f\xfd", "é".encode("utf-16"))

Change = Callable[["Chance", sqlite3.Connection], None]


class Chance(random.Random):
    """A source of odd values."""

    def text(self) -> str:
        """A text, seldom of plain letters."""
        if self.random() < RARE:
            return "".join(chr(self.choice((self.randrange(0x80), self.randrange(0xD800)))) for _ in range(9))
        return self.choice(TEXTS)

    def value(self) -> Any:
        """A value of any storage class."""
        return self.choice((lambda: None, self.text, self.text, lambda: self.choice(NUMBERS), self.blob))()

    def blob(self) -> bytes:
        """Bytes."""
        return self.choice(BLOBS)

    def json(self, depth: int = 0) -> Any:
        """A value of any JSON type."""
        simple = (lambda: None, lambda: True, lambda: False, self.text, self.text, self.number)
        nested = (
            lambda: [self.json(depth + 1) for _ in range(self.randrange(3))],
            lambda: {self.text(): self.json(depth + 1) for _ in range(self.randrange(3))},
        )
        return self.choice(simple if depth > 2 else (*simple, *nested))()

    def number(self) -> float:
        """A number that JSON has."""
        return self.choice([n for n in NUMBERS if abs(n) < 1e301])

    def some(self, most: int = 4) -> range:
        """A few times, seldom none."""
        return range(self.randint(1, most))


class Made:
    """A world, with the good runs of its store: those that nothing was done to."""

    def __init__(self, lens: Lens, seed: int) -> None:
        self.lens, self.seed, self.chance = lens, seed, Chance(seed)
        self.kind = KINDS[seed % len(KINDS)]
        self.good: set[str] = set()
        self.ids: list[str] = []
        getattr(self, f"_{self.kind}")()

    # --- stores

    def _store(self) -> Path:
        return self.lens.store(self.chance.choice((NEW, NEW, OLD)))

    def _sqlite(self) -> None:
        path = self._store()
        with closing(sqlite3.connect(path)) as db:
            self.ids = [row[0] for row in db.execute("SELECT run_id FROM runs ORDER BY 1")]
            before = _rows(db)
            for _ in self.chance.some():
                change = self.chance.choice(CHANGES)
                with suppress(sqlite3.Error):
                    change(self.chance, db)
                    db.commit()
                db.rollback()
            after = _rows(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.good = {i for i in self.ids if before.get(i) and before[i] == after.get(i)}
        self._add_odd_ids(after)

    def _add_odd_ids(self, rows: dict[str, Any]) -> None:
        self.ids = [*self.chance.sample(self.ids, 3), *[i for i in rows if i not in self.ids][:3], "@latest", "@failed"]

    # --- folders

    def _files(self) -> None:
        folder = self.lens.files(self.chance.choice((NEW, OLD)), to="flujo_ops.db")
        paths = sorted(folder.iterdir())
        spoiled = set()
        for _ in self.chance.some(6):
            path = self.chance.choice(paths)
            spoiled.add(path.name.removesuffix(".json"))
            self.chance.choice((_odd_fields, _odd_fields, _odd_fields, _odd_document, _odd_entry))(self.chance, path)
        # A task belongs to its run, and a name is another run's, too, where the document says so.
        self.ids = [*self.chance.sample([p.name.removesuffix(".json") for p in paths], 4), *sorted(spoiled), "@latest"]
        self.good = {p.name.removesuffix(".json") for p in paths if p.is_file()} - spoiled

    # --- what lies beside

    def _archive(self) -> None:
        self._store()
        self._make("prune", "--older-than", "1h", "--yes", "--max-share", "100%", "--archive", "kept.ndjson")
        self._spoil_lines(self.lens.cwd / "kept.ndjson")

    def _bin(self) -> None:
        self._store()
        self._make("prune", "--older-than", "1h", "--yes", "--max-share", "100%")
        for path in sorted((self.lens.cwd / "flujo_ops.db.lens-bin").rglob("*")):
            if path.is_file() and self.chance.random() < 0.7:
                self._spoil_lines(path)

    def _audit(self) -> None:
        self._store()
        for run_id in ("orders-v1-001", "orders-v1-002"):
            self._make("delete", run_id, "--yes")
        self._spoil_lines(self.lens.cwd / "flujo_ops.db.lens-audit.ndjson")

    def _make(self, *words: str) -> None:
        self.ids = ["orders-v1-001", "fail-001", "@latest"]
        done = self.lens(*words)
        assert done.code == 0, done.err

    def _spoil_lines(self, path: Path) -> None:
        packed = path.read_bytes()
        is_packed = packed.startswith(b"\x1f\x8b")
        lines = (gzip.decompress(packed) if is_packed else packed).split(b"\n")
        for _ in self.chance.some():
            at = self.chance.randrange(len(lines))
            lines[at] = self._spoiled(lines[at])
        text = b"\n".join(lines)
        path.write_bytes(gzip.compress(text, mtime=0) if is_packed else text)

    def _spoiled(self, line: bytes) -> bytes:
        with suppress(ValueError):
            document = json.loads(line)
            where = self.chance.choice(list(_places(document)))
            return json.dumps(_replaced(document, where, self.chance.json())).encode()
        return self.chance.choice((b"", b"{}", b"[]", b"\xff", b"null", self.chance.text().encode()))

    # --- settings

    def _settings(self) -> None:
        self._store()
        self.ids = ["orders-v1-001", "fail-001", "@latest"]
        lines = []
        for key in self.chance.sample(SETTINGS, self.chance.randint(1, 4)):
            lines.append(f"{key} = {self._toml()}")
        self.lens.write(
            self.chance.choice(("lens.toml", "lens.toml", "pyproject.toml", "flujo.toml")), "\n".join(lines)
        )

    def _toml(self) -> str:
        if self.chance.random() < 0.5:
            return json.dumps(self.chance.choice(LIKELY))
        others = (json.dumps(self.chance.text()), str(self.chance.choice(NUMBERS)))
        return self.chance.choice((*others, *TOML))


LIKELY = (
    "flujo_ops.db", "sqlite:///flujo_ops.db", "file:///tmp/none", "redis://h:x/0", "postgresql://[::1/d", "acme://x",
    "sqlite:///a%00b", "file:///%ff", "3d", "UTC", "a:b", "a.b:c", "${HOME}", "${", "$$",
)  # fmt: skip
TOML = (
    "true", "[]", "[1]", "{}", "{ a = 1 }", "1979-05-27", "07:32:00", "inf", "0x10", '["a", "*"]', "[[]]", "'x'",
    "garbage", '"\\ud800"',
)  # fmt: skip
SETTINGS = (
    "default", "silent_after", "timezone", "timeout", "stores.a.uri", "stores.a.readonly", "stores.b.uri", "stores",
    "drivers.acme", "drivers.sqlite", "drivers", "resume.app", "prune.older_than", "prune.archive_dir", "bin.keep",
    "bin.max_runs", "audit.path", "redact.keys", "tool.flujo-lens.default", "tool.flujo-lens.stores.a.uri", "state_uri",
    "tool.flujo-lens", "nonsense", "flujo.state_uri",
)  # fmt: skip


# --- changes of a database

_TABLES = (
    "workflow_state",
    "workflow_state",
    "runs",
    "runs",
    "steps",
    "spans",
    "evaluations",
    "system_state",
    "traces",
)


def _rows(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """What is stored of each run, by its id as text; an id of another class counts as spoiled."""
    found: dict[str, list[Any]] = {}
    db.text_factory = lambda stored: stored.decode(errors="replace")
    for table in ("workflow_state", "runs", "steps", "spans"):
        with suppress(sqlite3.Error):
            cursor = db.execute(f"SELECT * FROM {table}")
            names = [column[0].lower() for column in cursor.description]
            for row in cursor:
                told = dict(zip(names, row, strict=True))
                if isinstance(told.get("run_id"), str):
                    found.setdefault(told["run_id"], []).append((table, repr(sorted(told.items()))))
    return found


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _tables(db: sqlite3.Connection) -> list[str]:
    """The tables that an earlier change has left."""
    return [table for table in _TABLES if _columns(db, table)]


def _loosely(db: sqlite3.Connection, table: str) -> None:
    """Make a table anew without types, keys and constraints, so that a column takes anything."""
    columns = ", ".join(f'"{name}"' for name in _columns(db, table))
    db.execute("PRAGMA legacy_alter_table = on")
    db.execute("PRAGMA foreign_keys = off")
    db.execute(f"ALTER TABLE {table} RENAME TO strict")
    db.execute(f"CREATE TABLE {table} ({columns})")
    db.execute(f"INSERT INTO {table} SELECT {columns} FROM strict")
    db.execute("DROP TABLE strict")


def change_values(chance: Chance, db: sqlite3.Connection) -> None:
    """Values of any class in any column."""
    table = chance.choice(_tables(db))
    if chance.random() < 0.4:
        _loosely(db, table)
    for _ in chance.some(8):
        column = chance.choice(_columns(db, table))
        rows = [row[0] for row in db.execute(f"SELECT rowid FROM {table}")] or [1]
        with suppress(sqlite3.Error):
            db.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (chance.value(), chance.choice(rows)))


def change_column(chance: Chance, db: sqlite3.Connection) -> None:
    """One column of every row."""
    table = chance.choice(_tables(db))
    if chance.random() < 0.5:
        _loosely(db, table)
    column = chance.choice([name for name in _columns(db, table) if name != "run_id"])
    db.execute(f'UPDATE {table} SET "{column}" = ?', (chance.value(),))


def change_ids(chance: Chance, db: sqlite3.Connection) -> None:
    """Ids of every class, the same one in several tables or in one alone."""
    bare = chance.random() < 0.6
    tables = [t for t in ("workflow_state", "runs", "steps", "spans") if chance.random() < 0.7]
    old = chance.choice([row[0] for row in db.execute("SELECT run_id FROM runs")])
    made = chance.choice(
        ("NULL", "5", "-1", "2.5", "1e300", "x'00FF'", "x'6F'", "''", "' '", "'a' || char(0) || 'b'", "'5'",
         "CAST(x'FFFEFF' AS TEXT)", "CAST(x'F09F' AS TEXT)", "'ORDERS-V1-001'", "'../x'", "'@latest'", "char(55296)")
    )  # fmt: skip
    for table in tables:
        if bare:
            _loosely(db, table)
        with suppress(sqlite3.Error):
            db.execute(f"UPDATE {table} SET run_id = {made} WHERE run_id IS ?", (old,))


def repeat_rows(chance: Chance, db: sqlite3.Connection) -> None:
    """The same run several times in one table."""
    table = chance.choice(("workflow_state", "runs", "traces", "system_state"))
    _loosely(db, table)
    for _ in chance.some(3):
        db.execute(f"INSERT INTO {table} SELECT * FROM {table} LIMIT {chance.randint(1, 9)}")


def add_orphans(chance: Chance, db: sqlite3.Connection) -> None:
    """Rows whose run is not there, of every class."""
    db.execute("PRAGMA foreign_keys = off")
    table = chance.choice(("steps", "spans", "evaluations"))
    if chance.random() < 0.5:
        _loosely(db, table)
    for _ in chance.some(6):
        db.execute(f"CREATE TEMP TABLE one AS SELECT * FROM {table} LIMIT 1")
        for column in _columns(db, table):
            if column in ("id", "span_id", "step_run_id"):
                db.execute(f"UPDATE one SET {column} = abs(random()) % 1000000")
        db.execute("UPDATE one SET run_id = ?", (chance.value(),))
        if chance.random() < 0.3:
            db.execute("UPDATE one SET run_id = CAST(x'FFFE' AS TEXT)")
        if "created_at" in _columns(db, table):
            db.execute("UPDATE one SET created_at = ?", (chance.choice(("2020-01-01", chance.value())),))
        with suppress(sqlite3.Error):
            db.execute(f"INSERT INTO {table} SELECT * FROM one")
        db.execute("DROP TABLE one")


def drop_column(chance: Chance, db: sqlite3.Connection) -> None:
    """A column less, in a table with no constraints."""
    table = chance.choice(_tables(db))
    _loosely(db, table)
    for _ in chance.some(3):
        db.execute(f'ALTER TABLE {table} DROP COLUMN "{chance.choice(_columns(db, table))}"')


def drop_table(chance: Chance, db: sqlite3.Connection) -> None:
    """A table less."""
    db.execute("PRAGMA foreign_keys = off")
    db.execute(f"DROP TABLE {chance.choice(_TABLES)}")


def make_view(chance: Chance, db: sqlite3.Connection) -> None:
    """A view for a table."""
    table = chance.choice(_tables(db))
    db.execute("PRAGMA legacy_alter_table = on")
    db.execute(f"ALTER TABLE {table} RENAME TO hidden_{table}")
    db.execute(f"CREATE VIEW {chance.choice((table, table.title()))} AS SELECT * FROM hidden_{table}")


def drop_row_numbers(chance: Chance, db: sqlite3.Connection) -> None:
    """A table without rowids, or one whose rowid is a column."""
    table = chance.choice(_tables(db))
    names = _columns(db, table)
    key = next((name for name in ("id", "span_id", "step_run_id", "run_id", "key") if name in names), names[0])
    columns = ", ".join(f'"{n}"{" PRIMARY KEY" if n == key else ""}' for n in names)
    db.execute("PRAGMA legacy_alter_table = on")
    db.execute(f"ALTER TABLE {table} RENAME TO strict")
    db.execute(f"CREATE TABLE {table} ({columns}) WITHOUT ROWID")
    db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM strict")


def add_columns(chance: Chance, db: sqlite3.Connection) -> None:
    """Columns that nobody knows: generated, required, with names that need quoting."""
    table = chance.choice(_tables(db))
    more = ("more TEXT NOT NULL DEFAULT 'x'", "made AS (1 + 1)", '"a b""c" TEXT', "rowid TEXT", "_rowid_ INTEGER",
            "oid", "status2 TEXT CHECK (status2 <> 'x')", "must TEXT NOT NULL")  # fmt: skip
    for _ in chance.some(2):
        added = chance.choice(more)
        if "must" in added:
            columns = ", ".join(f'"{name}"' for name in _columns(db, table))
            _loosely(db, table)
            db.execute(f"ALTER TABLE {table} RENAME TO loose")
            db.execute(f"CREATE TABLE {table} ({columns}, {added})")
            db.execute(f"INSERT INTO {table} SELECT *, 'x' FROM loose")
        else:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {added}")


def add_triggers(chance: Chance, db: sqlite3.Connection) -> None:
    """Triggers that forbid, or do something else."""
    table = chance.choice(_tables(db))
    event = chance.choice(("DELETE", "UPDATE", "INSERT"))
    does = chance.choice(("SELECT RAISE(ABORT, 'no')", "SELECT RAISE(IGNORE)", f"DELETE FROM {chance.choice(_TABLES)}"))
    db.execute(f"CREATE TRIGGER t{chance.randrange(99)} BEFORE {event} ON {table} BEGIN {does}; END")


def rename_case(chance: Chance, db: sqlite3.Connection) -> None:
    """Names in other letters."""
    table = chance.choice(_tables(db))
    db.execute("PRAGMA legacy_alter_table = on")
    db.execute(f"ALTER TABLE {table} RENAME TO passing")
    db.execute(f"ALTER TABLE passing RENAME TO {table.upper()}")
    column = chance.choice(_columns(db, table))
    with suppress(sqlite3.Error):
        db.execute(f'ALTER TABLE {table} RENAME COLUMN "{column}" TO "{column.upper()}"')


def change_collation(chance: Chance, db: sqlite3.Connection) -> None:
    """Ids that are compared in another way."""
    table = chance.choice(("workflow_state", "runs", "steps", "spans"))
    names = _columns(db, table)
    kind = chance.choice(("COLLATE NOCASE", "COLLATE RTRIM", "INTEGER", "BLOB", "NUMERIC"))
    columns = ", ".join(f'"{name}" {kind if name == "run_id" else ""}' for name in names)
    db.execute("PRAGMA legacy_alter_table = on")
    db.execute(f"ALTER TABLE {table} RENAME TO strict")
    db.execute(f"CREATE TABLE {table} ({columns})")
    db.execute(f"INSERT INTO {table} SELECT * FROM strict")
    db.execute(f"CREATE INDEX other_{table} ON {table} (run_id)")


def change_version(chance: Chance, db: sqlite3.Connection) -> None:
    """Another user_version."""
    db.execute(f"PRAGMA user_version = {chance.choice((0, 1, 2, 99, -1))}")


CHANGES: tuple[Change, ...] = (
    change_values, change_values, change_values, change_values, change_column, change_column, change_ids, change_ids,
    change_ids, repeat_rows, add_orphans, add_orphans, drop_column, drop_column, drop_table, make_view,
    drop_row_numbers, add_columns, add_triggers, rename_case, change_collation, change_version,
)  # fmt: skip


# --- changes of a folder


NAMES = (
    ".json", "a\nb.json", "%.json", "%zz.json", "x" * 240 + ".json", "\x1b.json", "-.json", "x.json.tmp",
    "_granular_blobs:x.json", "A B.json", "e\u0301.json", "\xe9.json", "x.JSON",
)  # fmt: skip


def _odd_fields(chance: Chance, path: Path) -> None:
    """Fields of any JSON type."""
    with suppress(ValueError, OSError):
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            return
        for _ in chance.some(5):
            where = chance.choice([[name] for name in document] + list(_places(document))) or ["status"]
            document = _replaced(document, where, chance.json())
        path.write_text(json.dumps(document), encoding="utf-8")


def _odd_document(chance: Chance, path: Path) -> None:
    """Files that are no object, or no JSON."""
    whole = path.read_bytes() if path.is_file() else b"{}"
    made = (b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"\x00" * 9, whole[: len(whole) // 2], whole * 2,
            b"[" * 2000, b'{"a":' * 2000, b"NaN", b'{"run_id": NaN}', json.dumps(chance.json()).encode())  # fmt: skip
    with suppress(OSError):
        path.write_bytes(chance.choice(made))


def _odd_entry(chance: Chance, path: Path) -> None:
    """Entries that are no plain files, or have odd names."""
    with suppress(OSError):
        name = os.fsdecode(chance.choice(NAMES).encode())  # in UTF-8, whatever the locale
        what = chance.randrange(5)
        target = path.parent / name
        if what == 0:
            target.write_bytes(path.read_bytes())
        elif what == 1:
            target.mkdir()
        elif what == 2:
            target.symlink_to("nowhere")
        elif what == 3:
            target.symlink_to(target.name)
        else:
            (path.parent / os.fsdecode(b"\xff" + os.fsencode(name))).write_bytes(path.read_bytes())


def _places(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """The ways to all values inside a document."""
    yield list(above)
    if len(above) < 5 and isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*above, key))


def _replaced(value: Any, where: list[Any], by: Any) -> Any:
    if not where:
        return by
    inside = value
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = by
    return value
