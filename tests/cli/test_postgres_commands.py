"""The commands on a store of the library's on a real PostgreSQL server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer
from support import DATA, Lens, Result

pytest.importorskip("asyncpg")
DUMP = (DATA / "flujo-0.6.11-postgres" / "dump.sql").read_text(encoding="utf-8")
_NUMBERS = itertools.count(1)
_TIMES = {
    "workflow_state": ("created_at", "updated_at"),
    "runs": ("created_at", "updated_at"),
    "steps": ("created_at",),
    "spans": ("created_at",),
    "evaluations": ("created_at",),
}


class Store:
    """A database with a store, and ``lens`` that means it."""

    def __init__(self, server: PostgresServer, lens: Lens, name: str) -> None:
        self.server, self.lens, self.name = server, lens, name
        self.uri = server.uri.replace("/postgres?", f"/{name}?")
        self.env = {"LENS_STORE": self.uri, "XDG_STATE_HOME": str(lens.folder / "state")}

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Result:
        return self.lens(*arguments, env={**self.env, **(env or {})}, **more)

    def sql(self, *statements: str) -> Any:
        """Run statements in the database."""
        return self.server.once(self.uri, *statements)

    def everything(self, *ids: str) -> Any:
        """What the reading commands tell of the store, and of these runs, or all of them."""
        runs = self("list --all -o json").json
        known = [run["run_id"] for run in runs if run["run_id"] in ids or not ids]
        shown = {run_id: self("show", run_id, "--state", "-o", "json").json for run_id in known}
        return runs, shown, self("evals -o json").json, self("stats -o json").json

    @property
    def folder(self) -> Path:
        """Where its bin is."""
        (found,) = (self.lens.folder / "state" / "flujo-lens").iterdir()
        return found


@pytest.fixture(scope="module")
def template(pg16: PostgresServer) -> str:
    """A database with the library's runs, as they would be two months later."""
    pg16.execute("DROP DATABASE IF EXISTS old_runs", "CREATE DATABASE old_runs", "SELECT 1")
    uri = pg16.uri.replace("/postgres?", "/old_runs?")
    pg16.once(uri, DUMP, "SELECT 1")
    earlier = [
        f"UPDATE {table} SET " + ", ".join(f"{name} = {name} - interval '60 days'" for name in names)
        for table, names in _TIMES.items()
    ]
    pg16.once(uri, *earlier, "SELECT 1")
    return "old_runs"


@pytest.fixture
def store(pg16: PostgresServer, template: str, bare_lens: Lens) -> Iterator[Store]:
    """A copy of it."""
    yield from _database(pg16, bare_lens, f"TEMPLATE {template}")


@pytest.fixture
def empty(pg16: PostgresServer, bare_lens: Lens) -> Iterator[Store]:
    """A database without tables."""
    yield from _database(pg16, bare_lens, "")


def _database(server: PostgresServer, lens: Lens, options: str) -> Iterator[Store]:
    name = f"db{next(_NUMBERS)}"
    server.execute(f"CREATE DATABASE {name} {options}", "SELECT 1")
    yield Store(server, lens, name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)", "SELECT 1")


# --- reading


def test_the_reading_commands(store: Store) -> None:
    runs = store("list --all -o json").json
    assert len(runs) == 29
    by_status = store("stats -o json").json["by_status"]
    assert by_status == {"completed": 18, "running": 4, "paused": 4, "failed": 2, "cancelled": 1}
    assert store("list --count").out.split()[-1] == "29"
    for status, count in by_status.items():
        found = store("list", "--status", status, "-o", "json").json
        assert len(found) == count
        assert found == [run for run in runs if run["status"] == status]
        assert store("list", "--status", status, "--count").out.split()[-1] == str(count)
    assert {run["run_id"] for run in store("waiting -o json").json} >= {"paused-001", "resumed-001"}
    assert store("trace trace4-001 -o json").json[0]["name"] == "pipeline_run"
    assert store("status -o json").code == 0


def test_a_filter_of_times_and_an_unknown_status(store: Store) -> None:
    runs = store("list --all -o json").json
    border = runs[10]["created_at"]
    assert store("list", "--since", border, "-o", "json").json == runs[:11]
    assert store("list", "--until", border, "-o", "json").json == runs[11:]
    assert store("list", "--since", border, "--count").out.split()[-1] == "11"
    answer = store("list --status faled")
    assert (answer.code, "failed" in answer.err) == (2, True)


def test_groups_by_error_have_every_failed_run(store: Store, empty: Store) -> None:
    assert store("copy", str(DATA / "flujo-0.6.11" / "flujo_ops.db"), empty.uri, "--yes").code == 0
    whole = empty("stats -o json").json
    found = empty("stats --by error -o json").json
    assert (found["total"], found["by_status"]) == (whole["total"], whole["by_status"])
    of_file = empty("stats", "--by", "error", "-o", "json", "-s", str(DATA / "flujo-0.6.11" / "flujo_ops.db")).json
    assert found["by_status"] == of_file["by_status"]
    assert len(found["groups"]) == len(of_file["groups"])


def test_pages_by_status(store: Store) -> None:
    whole = [run["run_id"] for run in store("list --status completed -o json").json]
    found, cursor = [], ""
    for _ in range(4):
        page = store(f"list --status completed -n 5 -o id {cursor}")
        found += page.lines
        cursor = "--cursor " + page.err.rpartition("--cursor ")[2].split()[0] if "--cursor" in page.err else ""
    assert found == whole


# --- changing


def test_prune_and_undo_give_the_same_back(store: Store) -> None:
    before = store.everything()
    dry = store("prune --older-than 2d --include-paused --max-share 100% --dry-run -o json").json
    assert not (store.lens.folder / "state").exists()
    done = store("prune --older-than 2d --include-paused --max-share 100% --yes -o json").json
    assert (done["done"], done["undo"]) == (dry["matched"], True)
    assert store.sql("SELECT count(*) FROM runs")[0][0] < 3
    assert [path.name for path in store.folder.iterdir()] == ["store.lens-bin"]
    assert store.folder.stat().st_mode & 0o777 == 0o700
    back = store("undo", done["audit_id"], "--yes", "-o", "json")
    assert (back.code, back.json["done"]) == (0, done["done"])
    assert store.everything() == before
    told = store("audit -o json").json
    assert [entry["command"][1] for entry in told if entry["state"] == "finished"] == ["undo", "prune"]
    assert store("audit verify").code == 0


def test_an_archive_goes_into_another_database(store: Store, empty: Store) -> None:
    before = store.everything()
    done = store("prune --older-than 2d --include-paused --max-share 100% --yes --archive old.ndjson --no-bin -o json")
    assert done.code == 0, done.err
    assert empty("migrate --yes").code == 0
    back = empty("import old.ndjson --yes -o json")
    assert (back.code, back.json["done"]) == (0, done.json["done"])
    gone = {run["run_id"] for run in empty("list --all -o json").json}
    runs, shown, _, _ = empty.everything()
    assert runs == [run for run in before[0] if run["run_id"] in gone]
    assert shown == {run_id: document for run_id, document in before[1].items() if run_id in gone}


def test_delete_and_cancel_can_be_taken_back(store: Store) -> None:
    ids = ("fail-001", "crashed-001", "paused-001", "single-001")
    before = store.everything(*ids)
    for command in ("delete fail-001 --yes", "cancel crashed-001 --yes", "delete paused-001 --state-only --yes"):
        done = store(f"{command} -o json")
        assert done.code == 0, done.err
        assert store.everything(*ids) != before
        assert store("undo", done.json["audit_id"], "--yes").code == 0
        assert store.everything(*ids) == before


def test_the_log_elsewhere(store: Store) -> None:
    assert store("cancel crashed-001 --yes --audit-file here.ndjson").code == 0
    entries = [json.loads(line) for line in (store.lens.cwd / "here.ndjson").read_text().splitlines()]
    assert entries[-1]["run_ids"] == ["crashed-001"]


def test_without_a_home_there_is_no_bin(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.cli.sidecars.state_folder", lambda env: None)
    answer = store("cancel crashed-001 --yes")
    assert (answer.code, "no home folder" in answer.err, "cannot revert" in answer.err) == (0, True, True)
    answer = store("delete crashed-001 --yes")
    assert (answer.code, "--no-bin" in answer.err) == (1, True)
    assert store("delete crashed-001 --yes --no-bin").code == 0
    assert [entry["command"][1] for entry in store("audit -o json").json] == ["delete", "cancel"]


# --- care


def test_what_doctor_finds(store: Store) -> None:
    found = {row["check"]: row for row in store("doctor -o json").json}
    assert (found["schema"]["ok"], found["rows without a run"]["ok"]) == (True, True)
    assert found["history without a state"]["count"] == 1
    assert found["states without a run"]["count"] == 0
    # What the library's own clean-up leaves; foreign keys that were dropped; a table that its migration forgets.
    store.sql(
        "DELETE FROM workflow_state WHERE run_id LIKE 'orders%'",
        "ALTER TABLE steps DROP CONSTRAINT steps_run_id_fkey",
        "DELETE FROM runs WHERE run_id = 'orders-v1-001'",
        "DROP TABLE system_state",
        "ALTER TABLE runs DROP COLUMN total_steps",
        "SELECT 1",
    )
    answer = store("doctor -o json")
    found = {row["check"]: row for row in answer.json}
    assert answer.code == 1
    assert found["history without a state"]["count"] == 5
    assert (found["rows without a run"]["ok"], found["rows without a run"]["count"]) == (False, 3)
    assert "runs.total_steps" in found["schema"]["detail"]
    assert store("show orders-v1-002").code == 0


def test_doctor_names_the_tables_whose_rows_go_with_a_run(store: Store) -> None:
    def found() -> Any:
        return {row["check"]: row for row in store("doctor -o json").json}["foreign keys"]

    assert (found()["ok"], found()["count"]) == (True, 0), "the library's own tables are not named"
    store.sql(
        "CREATE SCHEMA app",
        "CREATE TABLE app.notes (run text REFERENCES runs ON DELETE CASCADE, x text REFERENCES runs ON DELETE CASCADE)",
        "CREATE TABLE bills (run text REFERENCES workflow_state ON DELETE SET NULL)",
        "CREATE TABLE kept (run text REFERENCES runs)",
        "INSERT INTO app.notes VALUES ('crashed-001')",
        "INSERT INTO bills VALUES ('crashed-001')",
        "SELECT 1",
    )
    assert (found()["ok"], found()["count"]) == (True, 2)
    assert "rows of app.notes, bills that" in found()["detail"]
    deleted = store("delete crashed-001 --yes -o json").json
    assert store("undo", deleted["audit_id"], "--yes").code == 0
    assert store("show crashed-001").code == 0
    left = "SELECT (SELECT count(*) FROM app.notes) || ' ' || (SELECT count(run) FROM bills)"
    assert "0 0" in str(store.sql(left)), "what is said is so"


def test_doctor_sees_who_waits_and_what_lasts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr("flujo_lens.state.backends.postgres.maintenance.LONG_TRANSACTION", timedelta(microseconds=1))
    with store.server.transaction(store.uri, "LOCK TABLE system_state"):
        found = {row["check"]: row for row in store("doctor -o json").json}
    assert not found["long transactions"]["ok"]
    assert "pg_terminate_backend" in found["long transactions"]["fix"]


def test_migrate_makes_what_is_missing(empty: Store) -> None:
    assert empty("list").code == 5
    dry = empty("migrate --dry-run -o json").json
    assert "make the table workflow_state" in dry["steps"]
    assert empty.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")[0][0] == 0
    assert empty("migrate").code == 2
    done = empty("migrate --yes -o json").json
    assert done["done"] == len(dry["steps"]) == 15
    assert empty("list -o json").json == []
    assert "is current" in empty("migrate --yes").out


def test_the_sql_of_a_migration_does_what_the_migration_does(store: Store, empty: Store) -> None:
    for one in (store, empty):
        script = one("migrate --print-sql")
        assert (script.code, script.err) == (0, "")
        assert ("CREATE TABLE IF NOT EXISTS runs" in script.out) == (one is empty)
        before = one.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        one.sql(script.out, "SELECT 1")
        assert one.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") != before
        assert "is current" in one("migrate --yes").out
        assert one("migrate --print-sql").out == ""
    refused = empty.lens("migrate --print-sql", env={"LENS_STORE": str(empty.lens.store())})
    assert (refused.code, "PostgreSQL" in refused.err) == (2, True)


def test_tables_of_a_later_version_are_read_and_not_written_to(empty: Store) -> None:
    assert empty("migrate --yes").code == 0
    empty.sql("INSERT INTO lens_schema (version) VALUES (999)", "SELECT 1")
    assert empty("list -o json").json == []
    refused = empty("system set key '{}'")
    assert (refused.code, "update flujo-lens" in refused.err) == (5, True)


def test_optimize_makes_indexes(store: Store) -> None:
    assert "lens optimize" in str(store("doctor -o json").json)
    dry = store("optimize --dry-run").out
    assert "lens_runs_updated on runs(updated_at)" in dry
    done = store("optimize --vacuum --yes -o json")
    assert done.code == 0, done.err
    assert len(done.json["indexes"]) == 6
    valid = "SELECT count(*) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indisvalid AND relname ~ "
    assert store.sql(valid + "'^lens_(runs|state)_'")[0][0] == 6
    assert store("optimize --yes -o json").json["indexes"] == []


def test_an_index_that_has_to_wait_too_long_is_not_left_half_made(store: Store) -> None:
    with store.server.transaction(store.uri, "UPDATE runs SET status = status"):
        answer = store("optimize --yes --timeout 0.3")
    assert answer.code == 7
    assert store.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid")[0][0] == 0
    assert store("optimize --yes").code == 0


# --- what goes wrong


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:1"])
def test_a_server_that_is_away(bare_lens: Lens, host: str) -> None:
    answer = bare_lens(f"list -s postgresql://u:hush@{host}/db --timeout 2")
    assert (answer.code, "hush" in answer.err, f"u:***@{host}" in answer.err) == (5, False, True)


def test_a_server_that_does_not_answer(bare_lens: Lens) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        answer = bare_lens(f"list -s postgresql://u:hush@127.0.0.1:{port}/db?sslmode=disable --timeout 0.5 -o json")
    assert answer.code == 5
    assert "it does not answer" in answer.error["message"]


def test_no_such_database_and_no_such_user(store: Store) -> None:
    for uri, said in (
        (store.uri.replace(store.name, "nowhere"), 'database "nowhere" does not exist'),
        (store.uri.replace("//postgres:", "//nobody:hush"), 'role "nobody" does not exist'),
        (store.uri + "&schema=nowhere", "no tables of a state store"),
    ):
        answer = store("list", "-s", uri)
        assert (answer.code, said in answer.err, "hush" in answer.err) == (5, True, False)


def test_a_wrong_password(store: Store) -> None:
    store.sql("CREATE ROLE guarded LOGIN PASSWORD 'right'", "SELECT 1")
    with store.server.password_for("guarded"):
        uri = store.uri.replace("//postgres:@", "//guarded:wrong@")
        answer = store("list", "-s", uri)
        assert (answer.code, "wrong" in answer.err.replace("password", "")) == (5, False)
        assert "check the user and the password" in answer.err
    store.sql("DROP ROLE guarded", "SELECT 1")


def test_a_role_that_may_only_read(store: Store) -> None:
    store.sql("CREATE ROLE watcher LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO watcher", "SELECT 1")
    uri = store.uri.replace("//postgres:@", "//watcher@")
    assert len(store("list", "-o", "json", "-s", uri).json) == 29
    assert store("doctor", "-s", uri).code in (0, 1)
    answer = store("cancel", "crashed-001", "--yes", "-s", uri)
    assert (answer.code, "the role watcher may only read its tables" in answer.err) == (5, True)
    assert len(store("list --status running -o json").json) == 4
    store.sql("DROP OWNED BY watcher", "DROP ROLE watcher", "SELECT 1")


def test_a_role_that_may_not_read_all_tables(store: Store) -> None:
    store.sql("CREATE ROLE clerk LOGIN", "GRANT SELECT ON runs, workflow_state TO clerk", "SELECT 1")
    answer = store("list", "-s", store.uri.replace("//postgres:@", "//clerk@"))
    assert (answer.code, "is not readable: permission denied" in answer.err) == (5, True)
    assert "GRANT SELECT" in answer.err
    assert "nothing was changed" not in answer.err
    store.sql("DROP OWNED BY clerk", "DROP ROLE clerk", "SELECT 1")


def test_a_role_that_is_set_to_read_only_does_not_write(store: Store) -> None:
    may = "GRANT ALL ON ALL TABLES IN SCHEMA public TO careful"
    store.sql("CREATE ROLE careful LOGIN SUPERUSER", may, "SELECT 1")
    store.sql("ALTER ROLE careful SET default_transaction_read_only = on", "SELECT 1")
    uri, before = store.uri.replace("//postgres:@", "//careful@"), store.everything()
    for command in ("cancel crashed-001 --yes", "delete fail-001 --yes", "migrate --yes", "system set a {}"):
        answer = store(f"{command} -s '{uri}'")
        assert (answer.code, "default_transaction_read_only is on" in answer.err) == (5, True), answer.err
    assert len(store("list", "-o", "json", "-s", uri).json) == 29
    assert store.everything() == before
    store.sql("DROP OWNED BY careful", "DROP ROLE careful", "SELECT 1")


_ASKING = ("delete fail-001", "prune --older-than 30d", "cancel crashed-001", "copy {db} {uri}")


def test_a_role_that_may_only_read_is_not_asked(store: Store) -> None:
    """What is typed is never read; a dry run needs no more than reading."""
    store.sql("CREATE ROLE viewer LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO viewer", "SELECT 1")
    uri, before = store.uri.replace("//postgres:@", "//viewer@"), store.everything()
    db = store.lens.store()
    for command in (words.format(db=db, uri=f"'{uri}'") for words in _ASKING):
        answer = store(command, env={"LENS_STORE": uri}, tty=True, typed="y\n")
        said = " ".join(answer.err.split())
        assert (answer.code, "the role viewer may only read its tables; nothing was changed" in said) == (5, True), said
        assert "[y/N]" not in said, said
    assert store(f"delete fail-001 --dry-run -s '{uri}'").code == 0
    assert store.everything() == before
    store.sql("GRANT DELETE ON runs TO viewer", "SELECT 1")
    assert "may only read" not in store(f"delete fail-001 --yes -s '{uri}'").err
    store.sql("DROP OWNED BY viewer", "DROP ROLE viewer", "SELECT 1")


_SETTINGS = ("datestyle = 'SQL, DMY'", "datestyle = 'German'", "extra_float_digits = -15")
_READ_OTHERWISE = ("standard_conforming_strings = off", "timezone = 'Asia/Kolkata'", "bytea_output = 'escape'")


@pytest.mark.parametrize("setting", [*_SETTINGS, *_READ_OTHERWISE])
def test_settings_of_the_database_change_nothing(store: Store, setting: str) -> None:
    assert store("system", "set", "a", '{"x": -0.0, "y": 1e300, "z": "a\\u0000b"}').code == 0
    store.sql("UPDATE steps SET cost_usd = 0.1234567", "SELECT 1")
    before = (*store.everything(), store("system -o json").json)
    store.sql(f"ALTER DATABASE {store.name} SET {setting}", "SELECT 1")
    assert (*store.everything(), store("system -o json").json) == before


def test_a_time_that_no_calendar_has_stops_nothing(store: Store) -> None:
    columns = "run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at"
    for run_id, when in (("early", "0044-03-15 00:00:00 BC"), ("late", "12026-03-04 05:06:07")):
        values = f"'{run_id}', pipeline_id, pipeline_name, pipeline_version, status, '{when}', '{when}'"
        some = "FROM runs WHERE run_id = 'fail-001'"
        store.sql(f"INSERT INTO runs ({columns}) SELECT {values} {some}", "SELECT 1")
    assert store("status -o json").json["last_write_at"] < "2027"
    assert store("migrate --yes").code == 0
    assert store("delete late --yes").code == 0
    assert store("prune --older-than 2d --yes --max-share 100% -o json").json["kept"]["unknown_age"] == 1
    assert store("optimize --yes").code == 0


# --- triggers and foreign keys


def _keeps(store: Store, what: str, table: str) -> None:
    body = "CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    trigger = f"CREATE OR REPLACE TRIGGER keep BEFORE {what} ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
    store.sql(body, trigger, "SELECT 1")


@pytest.mark.parametrize(
    ("what", "table", "command"),
    [
        ("DELETE", "workflow_state", "delete fail-001 --yes"),
        ("DELETE", "steps", "prune --older-than 2d --yes --max-share 100%"),
        ("UPDATE", "workflow_state", "cancel crashed-001 --yes"),
        ("UPDATE", "workflow_state", "prune --older-than 2d --strip state --yes --max-share 100%"),
        ("INSERT", "system_state", "system set a {}"),
    ],
)
def test_a_row_that_a_trigger_keeps_is_not_reported_as_changed(
    store: Store, what: str, table: str, command: str
) -> None:
    assert store("migrate --yes").code == 0
    _keeps(store, what, table)
    before = store.everything()
    answer = store(command)
    assert (answer.code, "a trigger" in answer.err, "nothing was changed" in answer.err) == (1, True, True), answer.err
    assert store.everything() == before
    store.sql(f"DROP TRIGGER keep ON {table}", "SELECT 1")
    assert store(command).code == 0


@pytest.mark.parametrize("table", ["workflow_state", "steps", "spans"])
def test_what_a_trigger_keeps_from_being_restored_is_told(store: Store, table: str) -> None:
    before = store.everything()
    done = store("delete fail-001 --yes -o json").json
    _keeps(store, "INSERT", table)
    answer = store("undo", done["audit_id"], "--yes")
    assert (answer.code in (1, 6), "a trigger" in answer.err) == (True, True), answer.err
    assert store("show fail-001").code == 3
    store.sql(f"DROP TRIGGER keep ON {table}", "SELECT 1")
    assert store("undo", done["audit_id"], "--yes").code == 0
    assert store.everything() == before


def test_rows_of_others_that_refer_to_a_run_keep_it(store: Store) -> None:
    store.sql("CREATE TABLE bills (run_id text REFERENCES runs)", "INSERT INTO bills VALUES ('fail-001')", "SELECT 1")
    answer = store("delete fail-001 --yes")
    assert (answer.code, '"bills"' in answer.err, "\\n" in answer.err) == (1, True, False)
    assert store("show fail-001").code == 0


def test_a_lock_that_another_holds(store: Store) -> None:
    with store.server.transaction(store.uri, "SELECT * FROM workflow_state FOR UPDATE"):
        answer = store("delete fail-001 --yes --timeout 0.3")
        assert (answer.code, "skipped 1" in answer.out + answer.err) == (6, True)
        assert store("show fail-001").code == 0  # readers wait for nobody
    assert store("delete fail-001 --yes").code == 0


def test_a_nul_is_kept_or_refused(store: Store) -> None:
    assert store("system", "set", "a", '{"x": "a\\u0000b"}').code == 0
    assert store("system get a -o json").json["value"] == {"x": "a\0b"}
    assert store("show", "no\0thing").code == 3


def test_stores_tells_the_driver(store: Store) -> None:
    (row,) = store("stores -o json").json
    assert row["driver"] == "flujo_lens.state.backends.postgres:PostgresBackend"
    assert {"list", "show", "trace", "delete", "undo"} <= set(row["capabilities"])
