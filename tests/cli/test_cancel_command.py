"""``lens cancel``: what it asks, does, writes down and reports."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest
from cleaning import rows
from pipelines import Shop
from support import Lens, tree

from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id", "undo"]


@pytest.fixture(params=["lens", "old_lens", "file_lens"])
def any_lens(request: pytest.FixtureRequest) -> Lens:
    """Beside a store of each kind that the library left."""
    found: Lens = request.getfixturevalue(request.param)
    return found


def status(lens: Lens, run_id: str) -> str:
    return str(lens("show", run_id, "-o", "json").json["run"]["status"])


def hold(lens: Lens, run_id: str) -> None:
    """Claim a run for this process, for years."""

    async def claim() -> None:
        async with SQLiteBackend(lens.cwd / "flujo_ops.db") as backend:
            await backend.claim_run(run_id, Holder.current(), 1e8)

    asyncio.run(claim())


def test_a_cancellation_is_the_last_write_of_the_store(any_lens: Lens) -> None:
    assert any_lens("cancel paused-001 --yes").code == 0
    updated = any_lens("show paused-001 -o json").json["run"]["updated_at"]
    assert any_lens("status -o json").json["last_write_at"] == updated


def test_a_paused_run_is_cancelled_and_its_history_stays(any_lens: Lens) -> None:
    before = any_lens("show paused-001 -o json").json
    done = any_lens("cancel paused-001 --yes --reason withdrawn -o json")
    assert (done.code, list(done.json)) == (0, REPORT)
    assert done.json | {"audit_id": ""} == dict(zip(REPORT, (1, 1, 0, 0, 0, False, "", True), strict=True))
    after = any_lens("show paused-001 -o json").json
    assert after["run"]["status"] == "cancelled"
    assert after["steps"] == before["steps"]
    assert any_lens("waiting --search paused-001 -o id").lines == []
    (entry,) = any_lens("audit list -o json").json
    assert (entry["reason"], entry["run_ids"], entry["counts"]) == ("withdrawn", ["paused-001"], {"cancelled": 1})
    assert entry["audit_id"] == done.json["audit_id"]


def content(lens: Lens) -> object:
    """All that a store holds: every row, or the bytes of every file."""
    database = lens.cwd / "flujo_ops.db"
    if database.exists():
        return rows(database)
    return {path.name: path.read_bytes() for path in (lens.cwd / "states").rglob("*") if path.is_file()}


def test_an_undo_makes_the_runs_what_they_were(any_lens: Lens) -> None:
    before = content(any_lens)
    dry = any_lens("cancel paused-001 fail-001 --dry-run -o json")
    assert (dry.code, dry.json["undo"]) == (0, True)
    assert content(any_lens) == before
    done = any_lens("cancel paused-001 fail-001 crashed-001 --yes")
    audit_id = done.lines[-1].rpartition(" ")[2]
    assert (done.code, done.lines[-1]) == (0, f"To undo within 7d: lens undo {audit_id}")
    assert content(any_lens) != before
    listed = any_lens("undo -o json").json
    assert [(row["audit_id"], row["runs"], row["command"][:2]) for row in listed] == [(audit_id, 3, ["lens", "cancel"])]
    assert any_lens(f"undo {audit_id} --dry-run -o id").lines == ["paused-001", "fail-001", "crashed-001"]
    back = any_lens(f"undo {audit_id} --yes -o json")
    assert (back.code, back.json["done"], back.json["skipped"]) == (0, 3, 0)
    assert content(any_lens) == before
    assert any_lens("undo -o json").json == [], "nothing is left of it"
    assert [status(any_lens, run) for run in ("paused-001", "fail-001")] == ["paused", "failed"]


@pytest.mark.parametrize("how", ["saved", "deleted", "cancelled again"])
def test_an_undo_leaves_alone_what_has_changed_since(any_lens: Lens, how: str) -> None:
    audit_id = any_lens("cancel paused-001 fail-001 --yes -o json").json["audit_id"]
    if how == "deleted":
        assert any_lens("delete paused-001 --yes --no-bin").code == 0
    else:
        asyncio.run(_save_again(any_lens, "cancelled" if "again" in how else "running"))
    before = content(any_lens)
    done = any_lens(f"undo {audit_id} --run paused-001 --yes")
    assert (done.code, "skipped: 1 run changed since" in done.out) == (6, True)
    assert content(any_lens) == before
    rest = any_lens(f"undo {audit_id} --yes -o json")
    assert (rest.code, rest.json["done"], rest.json["existing"]) == (6, 1, ["paused-001"])
    assert status(any_lens, "fail-001") == "failed"


async def _save_again(lens: Lens, status: str) -> None:
    database = lens.cwd / "flujo_ops.db"
    if not database.exists():
        async with FileBackend(lens.cwd / "states") as files:
            state = await files.load_state("paused-001")
            assert state is not None
            await files.save_state("paused-001", {**state, "status": status, "updated_at": datetime.now(UTC)})
        return
    with closing(sqlite3.connect(database)) as db:
        now = datetime.now(UTC).isoformat()
        db.execute("UPDATE workflow_state SET status = ?, updated_at = ? WHERE run_id = 'paused-001'", (status, now))
        db.commit()


def test_a_run_can_be_cancelled_where_the_bin_cannot_be_had(lens: Lens) -> None:
    lens.write("flujo_ops.db.lens-bin", "no folder")
    done = lens("cancel paused-001 --yes -o json")
    assert (done.code, done.json["done"], done.json["undo"]) == (0, 1, False)
    assert "lens undo cannot revert this" in done.err
    assert status(lens, "paused-001") == "cancelled"


def test_what_it_says(lens: Lens) -> None:
    done = lens("cancel paused-001 fail-001 resumed-001 --yes")
    *told, last = done.out.splitlines(keepends=True)
    assert last.startswith("To undo within 7d: lens undo ")
    assert "".join(told) == (
        "2 runs cancelled; the history stays\n"
        "  paused-001 (paused, approvals 1.0.0)\n"
        "  fail-001 (failed, payments 1.0.0)\n"
        "resumed-001 is already completed\n"
    )
    assert [status(lens, run) for run in ("paused-001", "fail-001", "resumed-001")] == [
        "cancelled",
        "cancelled",
        "completed",
    ]
    again = lens("cancel paused-001 --yes -o json")
    assert (again.json["done"], again.json["skipped"], again.json["audit_id"]) == (0, 1, None)


def test_a_dry_run_changes_nothing(any_lens: Lens) -> None:
    before = tree(any_lens.cwd)
    shown = any_lens("cancel paused-001 --dry-run")
    assert (shown.code, shown.lines[0]) == (0, "1 run would be cancelled; the history stays")
    assert any_lens("cancel paused-001 --dry-run -o id").lines == ["paused-001"]
    assert tree(any_lens.cwd) == before


def test_of_several_ids_one_is_missing(lens: Lens) -> None:
    before = tree(lens.cwd)
    refused = lens("cancel paused-001 nobody --yes")
    assert refused.code == 3
    assert "nobody" in refused.err
    assert tree(lens.cwd) == before


def test_without_a_terminal_it_does_not_ask(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert lens("cancel paused-001", stdin=b"y\n").code == 2
    assert lens("cancel -", stdin=b"paused-001\n").code == 2
    assert lens("cancel paus --yes").code == 3, "the beginning of an id is for people"
    assert tree(lens.cwd) == before


def test_ids_from_stdin(lens: Lens) -> None:
    done = lens("cancel - --yes -o id", stdin=b"paused-001\n\nfail-001\n")
    assert (done.code, done.lines) == (0, ["paused-001", "fail-001"])


def test_on_a_terminal_it_asks(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "bill-1")
    code, shown = shop.typing("cancel bill", ["n"])
    assert (code, "nothing was changed" in shown) == (1, True)
    assert "bill-1 (paused, billing 1.0.0)" in shown
    assert shop.run("bill-1")["status"] == "paused"
    code, shown = shop.typing("cancel bill", ["y"])
    assert (code, "1 run cancelled" in shown) == (0, True)
    assert shop.run("bill-1")["status"] == "cancelled"


def test_what_a_living_process_holds(lens: Lens) -> None:
    hold(lens, "paused-001")
    refused = lens("cancel paused-001 fail-001 --yes -o json")
    assert (refused.code, refused.error["run_id"]) == (7, "paused-001")
    assert status(lens, "fail-001") == "failed"
    assert lens("cancel paused-001 fail-001 --yes --force").code == 0
    assert status(lens, "paused-001") == "cancelled"


def test_where_the_log_cannot_be_written_nothing_is_changed(lens: Lens) -> None:
    before = tree(lens.cwd)
    assert lens("cancel paused-001 --yes --audit-file nowhere/log").code != 0
    assert tree(lens.cwd) == before


def test_nothing_resumes_it(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "one")
    bare_lens("cancel one --yes")
    refused = bare_lens.process("resume one --app shop:registry --input yes -o json")
    assert (refused.code, refused.error["run_id"]) == (1, "one")
    assert shop.signs() == ["load"]
