"""What others may have put in the way of lens: links, folders that everybody may write in, settings, drivers, archives.

SECURITY.md names these tests. All that they plant is harmless.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cleaning import entries, rows
from support import NOW, OLD, Lens, Result, tree
from test_undo_command import ID, RUNS, everything, take

from flujo_lens.errors import ConfigError
from flujo_lens.operations.archive import ArchiveWriter
from flujo_lens.operations.archive_format import Header
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.registry import load_driver

pytestmark = pytest.mark.usefixtures("fresh_processes")

NOBODY = 54_321
Foreign = Callable[[Path], Path]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Foreign:
    """Makes a file, or a link itself, that of another user: only root can do that; else we become another one."""

    def make(path: Path) -> Path:
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        return path

    return make


def refusal(done: Result) -> dict[str, Any]:
    """The error of a command that was refused, behind the notes that came before."""
    return json.loads(done.err.splitlines()[-1])["error"]  # type: ignore[no-any-return]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that must stay as it is."""
    path = tmp_path / "victim"
    path.write_text("mine\n")
    return path


def planted(lens: Lens, name: str, victim: Path) -> Path:
    link = lens.cwd / name
    link.symlink_to(victim)
    return link


# --- links where lens writes


def test_an_audit_log_that_is_a_link_of_another_user(lens: Lens, victim: Path, foreign: Foreign) -> None:
    foreign(planted(lens, "flujo_ops.db.lens-audit.ndjson", victim))
    before = everything(lens)
    refused = lens("delete fail-001 --yes -o json")
    assert refused.code == 1
    assert "it is a symbolic link owned by" in refusal(refused)["message"]
    assert (victim.read_text(), everything(lens)) == ("mine\n", before)


def test_an_audit_log_that_is_our_own_link(lens: Lens, tmp_path: Path) -> None:
    """As an operator makes one, to have it on another disk."""
    elsewhere = tmp_path / "elsewhere.ndjson"
    elsewhere.touch(0o600)
    planted(lens, "flujo_ops.db.lens-audit.ndjson", elsewhere)
    assert lens("delete fail-001 --yes").code == 0
    assert (elsewhere.stat().st_size > 0, mode_of(elsewhere)) == (True, 0o600)


def test_a_lock_that_is_a_link(lens: Lens, victim: Path) -> None:
    link = planted(lens, "flujo_ops.db.lens-lock", victim)
    before = everything(lens)
    refused = lens("prune --older-than 1h --include-paused --max-share 100% --yes -o json")
    assert refused.code == 1
    assert "it is a symbolic link" in refusal(refused)["message"]
    assert (victim.read_text(), link.is_symlink(), everything(lens)) == ("mine\n", True, before)


def test_a_bin_that_is_a_link_of_another_user(lens: Lens, tmp_path: Path, foreign: Foreign) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    old = elsewhere / "20200101T000000000000-0a0b0c0d.ndjson.gz"  # as expired items are called
    old.write_bytes(b"mine")
    foreign(planted(lens, "flujo_ops.db.lens-bin", elsewhere))
    refused = lens("delete fail-001 --yes -o json")
    assert refused.code == 1
    assert "it is a symbolic link owned by" in refusal(refused)["message"]
    assert lens("undo -o json").code == 5
    assert lens("delete fail-001 --yes --no-bin").code == 0
    assert [one.name for one in elsewhere.iterdir()] == [old.name]


def test_a_bin_that_every_user_may_write_in(lens: Lens) -> None:
    """What is in it may be anybody's, so none of it is restored."""
    take(lens)
    folder = lens.cwd / "flujo_ops.db.lens-bin"
    before = everything(lens)
    for mode in (0o777, 0o1777):
        folder.chmod(mode)
        for line in ("undo -o json", f"undo {ID} --yes -o json"):
            refused = lens(line)
            assert (refused.code, "it is writable by all users" in refusal(refused)["message"]) == (5, True)
            assert "chmod 700" in refusal(refused)["hint"]
        assert lens("delete cancelled-001 --yes -o json").code == 1
    assert everything(lens) == before
    folder.chmod(0o700)
    assert lens(f"undo {ID} --yes").code == 0


def test_check_save_over_a_link_of_another_user(lens: Lens, tmp_path: Path, foreign: Foreign) -> None:
    target = tmp_path / "made"
    foreign(planted(lens, "inflight.json", target))
    refused = lens("check --save inflight.json --force -o json")
    assert refused.code == 1
    assert "it is a symbolic link owned by" in refusal(refused)["message"]
    assert not target.exists()


def test_a_demo_is_made_at_no_link(bare_lens: Lens, tmp_path: Path) -> None:
    planted(bare_lens, "demo.db", tmp_path / "made")
    refused = bare_lens("demo demo.db")
    assert refused.code == 2
    assert not (tmp_path / "made").exists()


def test_a_backup_is_made_at_no_link(bare_lens: Lens, victim: Path) -> None:
    """The name of migrate's backup is in its dry run; a link of that name, and of its first one, is not followed."""
    bare_lens.store(OLD)
    name = Path(bare_lens("migrate --dry-run -o json").json["backup"]).name
    planted(bare_lens, f"{name}.part", victim)
    before = rows(bare_lens.cwd / "flujo_ops.db")
    assert bare_lens("migrate --yes").code != 0
    assert (victim.read_text(), rows(bare_lens.cwd / "flujo_ops.db")) == ("mine\n", before)


def test_only_the_owner_may_read_what_lens_leaves(bare_lens: Lens) -> None:
    bare_lens.store(OLD)
    bare_lens.write("kept/.here", "")
    before = os.umask(0)
    try:
        assert bare_lens("check --save inflight.json").code == 0
        assert bare_lens("migrate --yes").code == 0
        assert bare_lens("prune --older-than 1h --max-share 100% --archive kept/ --yes").code == 0
    finally:
        os.umask(before)
    found = {path.name: mode_of(path) for path in bare_lens.cwd.iterdir()}
    (archive,) = (bare_lens.cwd / "kept").glob("*.ndjson")
    (kept,) = (bare_lens.cwd / "flujo_ops.db.lens-bin").iterdir()
    assert (mode_of(archive), mode_of(kept), found["flujo_ops.db.lens-bin"]) == (0o600, 0o600, 0o700)
    assert (found["inflight.json"], found["flujo_ops.db.lens-audit.ndjson"]) == (0o600, 0o600)
    assert {mode for name, mode in found.items() if "backup" in name} == {0o600}


# --- settings that were met on the way


def whose(lens: Lens, settings: str, foreign: Foreign) -> str:
    """lens.toml of another user; how messages name it."""
    lens.write("lens.toml", settings)
    foreign(lens.cwd / "lens.toml")
    return "lens.toml"


PLAIN = '[stores.mine]\nuri = "flujo_ops.db"\n[bin]\nkeep = "1d"\n'


def test_settings_of_another_user_are_said(lens: Lens, foreign: Foreign) -> None:
    path = whose(lens, PLAIN, foreign)
    done = lens("list -o id")
    assert done.code == 0
    assert f"{path}, which belongs to " in done.err
    assert lens("list -o id --quiet").err == ""


def test_settings_of_another_user_change_nothing_unless_they_are_named(lens: Lens, foreign: Foreign) -> None:
    path = whose(lens, PLAIN, foreign)
    before = everything(lens)
    for line in ("delete fail-001 --yes", "delete fail-001 --yes -s flujo_ops.db", "cancel paused-001 --yes"):
        refused = lens(f"{line} -o json")
        assert (refused.code, refusal(refused)["code"]) == (2, "LENS-U1")
        assert f"{path}: the file belongs to" in refusal(refused)["message"]
        assert f"{path}, or LENS_CONFIG" in refusal(refused)["hint"]
    assert everything(lens) == before
    assert lens("delete fail-001 --dry-run").code == 0
    assert lens("delete fail-001 --yes --config lens.toml").code == 0
    lens.env["LENS_CONFIG"] = "lens.toml"
    done = lens("delete plain-001 --yes")
    assert (done.code, "settings are read" in done.err) == (0, False)


def test_settings_that_every_user_may_write(lens: Lens) -> None:
    lens.write("lens.toml", PLAIN)
    (lens.cwd / "lens.toml").chmod(0o666)
    assert "which is writable by all users" in lens("list -o id").err
    assert lens("delete fail-001 --yes").code == 2
    (lens.cwd / "lens.toml").chmod(0o664)
    assert lens("delete fail-001 --yes").code == 0


def test_a_link_of_another_user_to_settings(lens: Lens, tmp_path: Path, foreign: Foreign) -> None:
    (tmp_path / "other.toml").write_text(PLAIN)
    foreign(planted(lens, "lens.toml", tmp_path / "other.toml"))
    assert "which belongs to" in lens("list -o id").err


@pytest.mark.skipif(os.getuid() != 0, reason="sudo makes root of a user")
def test_who_called_sudo_is_trusted(lens: Lens, foreign: Foreign) -> None:
    whose(lens, PLAIN, foreign)
    lens.env["SUDO_UID"] = str(NOBODY)
    assert lens("list -o id").err == ""
    lens.env["SUDO_UID"] = str(NOBODY + 1)
    assert "belongs to" in lens("list -o id").err


def test_a_driver_that_another_user_names(lens: Lens, foreign: Foreign) -> None:
    """Is not imported, though it is an installed module; any other store can be read."""
    settings = '[drivers]\nacme = "colorsys:Backend"\n[stores.x]\nuri = "acme://x"\n[stores.y]\nuri = "flujo_ops.db"\n'
    whose(lens, settings, foreign)
    sys.modules.pop("colorsys", None)
    refused = lens("list -s x -o json")
    assert (refused.code, refusal(refused)["code"]) == (2, "LENS-U2")
    assert "(drivers.acme)" in refusal(refused)["message"]
    assert lens("stores -o id").code == 0
    assert lens("list -s y -o id").code == 0
    assert "colorsys" not in sys.modules


def test_an_application_that_another_user_names(lens: Lens, foreign: Foreign) -> None:
    lens.write("planted_app.py", "import pathlib; pathlib.Path('imported').touch()\nregistry = None\n")
    whose(lens, f'{PLAIN}[resume]\napp = "planted_app:registry"\n', foreign)
    for line in ("check -o json", "resume paused-001 --input yes --dry-run -o json"):
        refused = lens(line)
        assert (refused.code, "resume.app" in refusal(refused)["message"]) == (2, True), line
    assert "planted_app" not in sys.modules


def test_variables_do_not_go_where_another_user_says(lens: Lens, foreign: Foreign) -> None:
    lens.env["TOKEN"] = "hunter2"
    uri = "postgresql://nowhere.invalid/x?application_name=${TOKEN}"
    whose(lens, f'[stores.x]\nuri = "{uri}"\n[stores.y]\nuri = "flujo_ops.db"\n', foreign)
    refused = lens("list -s x -o json")
    assert (refused.code, refusal(refused)["code"]) == (2, "LENS-U2")
    assert "uses an environment variable" in refusal(refused)["message"]
    shown = lens("config -o json")
    assert "hunter2" not in shown.out + shown.err + refused.err
    assert lens("list -s y -o id").code == 0


# --- drivers come from packages


@pytest.mark.parametrize("entry", ["", ".", "absolute"])
def test_no_driver_comes_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """However it came into the path of modules."""
    (tmp_path / "acme_planted.py").write_text("Backend = print('imported') or int\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path) if entry == "absolute" else entry, *sys.path])
    with pytest.raises(ConfigError, match="no module named acme_planted"):
        load_driver("acme_planted:Backend")
    assert "acme_planted" not in sys.modules


# --- what an archive may hold


def hostile(lens: Lens, name: str, records: list[dict[str, Any]], driver: str = "sqlite") -> None:
    """An archive whose digests are right."""
    writer = ArchiveWriter(lens.cwd / name, Header("sqlite:///x.db", driver, NOW, ID))
    writer.keep(records)
    writer.finish(complete=True)


def row(table: str = "runs", run_id: Any = "new", names: list[str] | None = None, **more: Any) -> dict[str, Any]:
    columns = [*(names or []), "run_id"]
    values = [*more.pop("values", [1] * len(columns[:-1])), run_id]
    return {"run_id": "new", "last": True, "tables": {table: {"columns": columns, "rows": [values]}}, **more}


ROWS: dict[str, dict[str, Any]] = {
    "a table of SQLite": row("sqlite_master"),
    "a table of the application": row("users"),
    "a table of ours": row("lens_claims"),
    "a name that is SQL": row("runs; DROP TABLE runs --"),
    "a column that is SQL": row(names=['x") VALUES (1); DROP TABLE runs; --']),
    "a column that is not there": row(names=["nothing"]),
    "rows of another run": row(run_id="fail-001"),
    "a list for a value": row(names=["status"], values=[["a"]]),
    "no number": row(names=["status"], values=[{"float": "x"}]),
    "a number of 300 digits": row(names=["status"], values=[{"blob": "!"}]),
    "columns that are none": {**row(), "tables": {"runs": {"columns": 1, "rows": [[1]]}}},
    "tables that are none": {**row(), "tables": {"runs": 7}},
    "rows that are too short": {**row(), "tables": {"runs": {"columns": ["status", "run_id"], "rows": [["a"]]}}},
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_no_store_has_handed_out(lens: Lens, what: str) -> None:
    """Change nothing, whatever their names are; what else is in the archive comes in."""
    path = lens.cwd / "flujo_ops.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE users (run_id TEXT, name TEXT)")
    before = rows(path)
    hostile(lens, "a.ndjson", [ROWS[what]])
    done = lens("import a.ndjson --yes -o json")
    assert (done.code, done.json["done"], done.json["failed"]) == (6, 0, 1), done.err
    assert rows(path) == before


def kept(name: str, place: str = "states", run_id: str = "new", **more: Any) -> dict[str, Any]:
    text = json.dumps({"run_id": run_id, "status": "failed"})
    return {
        "run_id": run_id,
        "last": True,
        "place": place,
        "name": name,
        "mode": 0o600,
        "modified": 0,
        "text": text,
        **more,
    }


FILES: dict[str, dict[str, Any]] = {
    "above": kept("../above.json"),
    "absolute": kept("/tmp/lens-absolute.json"),
    "a folder": kept("a/b.json"),
    "another ending": kept(".profile"),
    "another place": kept("new.json", place="/etc"),
    "a NUL": kept("a\0.json"),
    "no mode": kept("new.json", mode="x"),
    "no time": kept("new.json", modified=(1 << 63) - 1),
    "no start": kept("new.json", part=1),
    "no base64": {**kept("new.json"), "text": None, "base64": "!"},
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_no_store_has_handed_out(file_lens: Lens, what: str) -> None:
    before = tree(file_lens.cwd)
    hostile(file_lens, "a.ndjson", [FILES[what]], "file")
    done = file_lens("import a.ndjson --yes -o json")
    assert (done.code, done.json["done"], done.json["failed"]) == (6, 0, 1), done.err
    after = tree(file_lens.cwd)
    assert {name: after[name] for name in before} == before
    assert not Path("/tmp/lens-absolute.json").exists()


def test_a_file_comes_back_without_the_rights_of_its_owner(file_lens: Lens) -> None:
    hostile(file_lens, "a.ndjson", [kept("new.json", mode=0o6755)], "file")
    assert file_lens("import a.ndjson --yes").code == 0
    assert mode_of(file_lens.cwd / "states" / "new.json") == 0o755


@pytest.mark.parametrize("run_id", ["../above", "/tmp/lens-absolute", "..", ".", "a/../../b", "a\\b", "C:x", "a\n"])
def test_no_id_leads_out_of_a_folder_of_json_files(tmp_path: Path, run_id: str) -> None:
    folder = tmp_path / "inside" / "states"
    folder.mkdir(parents=True)

    async def work() -> None:
        async with FileBackend(folder) as backend:
            await backend.save_state(run_id, {"run_id": run_id, "status": "failed"})
            found = await backend.load_state(run_id)
            assert found is not None
            await backend.delete_state(run_id)

    asyncio.run(work())
    assert [path for path in tmp_path.rglob("*") if folder not in (path, *path.parents)] == [folder.parent]
    assert not Path("/tmp/lens-absolute.json").exists()


# --- the bin, when it is over


def test_what_has_expired_is_gone_whoever_looks(lens: Lens) -> None:
    """It is not listed and not restored, and the next command that writes removes it: a reading one does not."""
    take(lens)
    lens.write("lens.toml", '[bin]\nkeep = "23h"\n')
    item = next((lens.cwd / "flujo_ops.db.lens-bin").iterdir())
    before = tree(lens.cwd)
    assert lens("undo -o json").json == []
    refused = lens(f"undo {ID} --yes -o json")
    assert (refused.code, "has expired" in refusal(refused)["message"]) == (3, True)
    assert tree(lens.cwd) == before
    assert item.exists()
    assert lens("system", "set", "a", '{"b": 1}').code == 0
    assert not item.exists()
    assert not set(RUNS) & set(lens("list --all -o id").lines)


def test_a_bin_that_keeps_nothing(lens: Lens) -> None:
    lens.write("lens.toml", '[bin]\nkeep = "0s"\n')
    done = lens("delete fail-001 --dry-run -o json")
    assert done.json["undo"] is False
    assert "the bin keeps nothing" in lens("delete fail-001 --dry-run").out


def test_nothing_of_this_was_written_down_as_done(lens: Lens) -> None:
    """A run that an archive names, and that did not come, has an entry that says so."""
    hostile(lens, "a.ndjson", [ROWS["rows of another run"]])
    assert lens("import a.ndjson --yes").code == 6
    assert [entry["counts"] for entry in entries(lens)] == [{"restored": 1}]
    log = (lens.cwd / "flujo_ops.db.lens-audit.ndjson").read_bytes()
    closing_entry = json.loads(log.splitlines()[-1])
    assert closing_entry["counts"] == {"restored": 0, "failed": 1}
    assert sha256(log.splitlines()[0]).hexdigest() == closing_entry["previous"]
