"""``lens cancel``: what it asks, does, writes down and reports."""

from __future__ import annotations

import asyncio

import pytest
from pipelines import Shop
from support import Lens, tree

from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder

REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id"]


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


def test_a_paused_run_is_cancelled_and_its_history_stays(any_lens: Lens) -> None:
    before = any_lens("show paused-001 -o json").json
    done = any_lens("cancel paused-001 --yes --reason withdrawn -o json")
    assert (done.code, list(done.json)) == (0, REPORT)
    assert done.json | {"audit_id": ""} == dict(zip(REPORT, (1, 1, 0, 0, 0, False, ""), strict=True))
    after = any_lens("show paused-001 -o json").json
    assert after["run"]["status"] == "cancelled"
    assert after["steps"] == before["steps"]
    assert any_lens("waiting --search paused-001 -o id").lines == []
    (entry,) = any_lens("audit list -o json").json
    assert (entry["reason"], entry["run_ids"], entry["counts"]) == ("withdrawn", ["paused-001"], {"runs": 1})
    assert entry["audit_id"] == done.json["audit_id"]


def test_what_it_says(lens: Lens) -> None:
    done = lens("cancel paused-001 fail-001 resumed-001 --yes")
    assert done.out == (
        "2 runs cancelled; the history stays\n"
        "  paused-001 (paused, approvals 1.0.0)\n"
        "  fail-001 (failed, payments 1.0.0)\n"
        "resumed-001 is completed already\n"
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
