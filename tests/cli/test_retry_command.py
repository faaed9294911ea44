"""``lens retry``: failed runs go on, one by one or several at once."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from datetime import UTC, datetime

import pytest
from pipelines import Shop
from support import Lens, Result, tree

from flujo_lens.cli.input.parsing import interval
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.retry import Pace
from flujo_lens.state.backends.sqlite import SQLiteBackend
from flujo_lens.state.claims import Holder

APP = "--app shop:registry"
REPORT = ["matched", "done", "skipped", "failed", "left", "dry_run", "audit_id", "runs"]


@pytest.fixture
def shop(bare_lens: Lens) -> Shop:
    return Shop(bare_lens)


def retry(shop: Shop, words: str) -> Result:
    return shop.lens.process(f"retry {words}")


@pytest.mark.parametrize("store", ["runs.db", "runs"])
def test_one_run_goes_on_without_a_question(bare_lens: Lens, store: str) -> None:
    shop = Shop(bare_lens, store)
    shop.fail("one")
    done = retry(shop, f"one {APP}")
    assert (done.code, done.out) == (0, "one completed\n1 run: 1 resumed, 0 failed again\n")
    assert shop.signs() == ["load", "charge", "charge"]
    steps = bare_lens(f"show one -o json --store {shop.store}").json["steps"]
    assert [step["attempts"] for step in steps] == [1, 2]  # with that before the retry
    (entry,), (closing,) = shop.entries(), shop.ends()
    assert closing["closes"] == entry["audit_id"]
    assert entry["command"] == ["lens", "retry", "--concurrency=1", "--app=shop:registry", "one"]
    assert entry["run_ids"] == ["one"]


def test_several_at_once(shop: Shop) -> None:
    ids = [f"run-{number}" for number in range(6)]
    shop.fail(*ids)
    done = retry(shop, f"{' '.join(ids)} {APP} --concurrency 3 --yes -o json")
    assert (done.code, list(done.json)) == (0, REPORT)
    assert (done.json["matched"], done.json["done"], done.json["failed"]) == (6, 6, 0)
    assert sorted(row["run_id"] for row in done.json["runs"]) == ids
    assert {row["output"] for row in done.json["runs"]} == {"charged HELLO"}
    assert shop.signs().count("load") == 6


def test_what_fails_again_does_not_stop_the_others(shop: Shop) -> None:
    shop.fail("one", "two")
    shop.begin("billing", "waits")
    shop.begin("orders", "done")
    shop.lens.edit("UPDATE workflow_state SET step_history = '[]' WHERE run_id = 'one'", store=shop.store)
    done = retry(shop, f"one two waits done {APP} --yes -o json")
    assert done.code == 6
    counts = {name: done.json[name] for name in ("matched", "done", "skipped", "failed", "left")}
    assert counts == {"matched": 4, "done": 1, "skipped": 2, "failed": 1, "left": 0}
    rows = {row["run_id"]: row for row in done.json["runs"]}
    assert rows["two"]["output"] == "charged HELLO"
    assert rows["one"]["code"].startswith("LENS-C")
    assert shop.run("one")["error_message"] == "ValueError: no such customer"


def test_all_that_fail_again(shop: Shop) -> None:
    shop.fail("one", "two")
    shop.lens.write("broken", "")
    done = retry(shop, f"one two {APP} --yes")
    assert done.code == 6
    assert done.lines[-1] == "2 runs: 0 resumed, 2 failed again"
    assert "one failed at charge: ValueError: no such customer" in done.lines


def test_rows_as_they_come(shop: Shop) -> None:
    shop.fail("one", "two")
    done = retry(shop, f"one two {APP} --yes -o ndjson")
    rows = [json.loads(line) for line in done.lines]
    assert [(row["run_id"], row["status"]) for row in rows] == [("one", "completed"), ("two", "completed")]
    shop.fail("three")
    assert retry(shop, f"three {APP} -o id").lines == ["three"]


def test_by_a_filter(shop: Shop) -> None:
    shop.fail("one", "two")
    shop.begin("billing", "waits")
    assert shop.lens(f"retry --pipeline orders {APP} --dry-run -o json").json["matched"] == 2
    assert shop.lens(f"retry --pipeline billing {APP} --dry-run -o json").json["matched"] == 0
    assert sorted(shop.lens(f"retry --error '*customer*' {APP} --dry-run -o id").lines) == ["one", "two"]
    refused = shop.lens("retry --status paused")
    assert (refused.code, "lens resume" in refused.err) == (2, True)
    done = retry(shop, f"--error '*customer*' --meta kept=yes {APP} --yes")
    assert (done.code, done.lines[-1]) == (0, "2 runs: 2 resumed, 0 failed again")
    assert retry(shop, f"--pipeline orders {APP}").out == "nothing to retry\n"


def test_more_than_one_is_asked_for(shop: Shop) -> None:
    shop.fail("one", "two")
    before = tree(shop.cwd)
    for words in (f"one two {APP}", f"--pipeline orders {APP}", f"- {APP}", APP, f"one --pipeline orders {APP}"):
        assert retry(shop, words).code == 2, words
    assert retry(shop, f"one nobody {APP} --yes").code == 3
    assert tree(shop.cwd) == before
    assert shop.typing(f"retry one two {APP}", ["n"])[0] == 1
    code, shown = shop.typing(f"retry one two {APP}", ["y"])
    assert (code, shown.splitlines()[-1]) == (0, "2 runs: 2 resumed, 0 failed again")


def test_what_cannot_be_retried_is_known_before_the_question(shop: Shop) -> None:
    """One that is not retried is named before it; without one that is, or an application, nothing is asked."""
    shop.fail("one", "two")
    code, shown = shop.typing("retry one two --app nowhere:registry", [])
    assert (code, "nowhere" in shown, "[y/N]" in shown) == (2, True, False)
    asyncio.run(_hold(shop, "two"))
    code, shown = shop.typing(f"retry one two {APP}", ["n"])
    assert code == 1
    assert "two would not be retried: LENS-B2: " in shown.partition("retry one? [y/N]")[0]
    asyncio.run(_hold(shop, "one"))
    held = tree(shop.cwd)
    code, shown = shop.typing(f"retry one two {APP}", [])
    assert (code, "[y/N]" in shown, shown.count("is held by another process")) == (6, False, 2)
    assert "2 held by other processes" in shown.splitlines()[-1]
    assert tree(shop.cwd) == held


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    shop.fail("one")
    before = tree(shop.cwd)
    assert shop.lens(f"retry one {APP} --dry-run").lines == [
        "  one (failed, orders 1.0.0)",
        "1 run would be retried; nothing was changed (--dry-run)",
    ]
    assert tree(shop.cwd) == before


def test_a_dry_run_refuses_what_the_real_run_refuses(shop: Shop) -> None:
    """No application, one that cannot be imported, a version that is not there, a run that a living process holds."""
    shop.fail("one", "two")
    before = tree(shop.cwd)
    for more in ("", "--app nowhere:registry"):
        for way in ("--dry-run", "--yes"):
            assert retry(shop, f"one two {more} {way}").code == 2, (more, way)
    assert tree(shop.cwd) == before, "nothing was written"
    asyncio.run(_hold(shop, "two"))
    dry = retry(shop, f"one two {APP} --dry-run")
    assert dry.code == 6
    assert dry.lines[0].startswith("  one (failed, ")
    assert dry.lines[1].startswith("two would not be retried: LENS-B2: ")
    assert dry.lines[-1] == "1 run would be retried, 1 refused; nothing was changed (--dry-run)"
    assert retry(shop, f"one two {APP} --dry-run -o id").lines == ["one"]
    told = retry(shop, f"one two {APP} --dry-run -o json").json
    assert (told["left"], told["failed"], [row["code"] for row in told["runs"]]) == (1, 1, [None, "LENS-B2"])
    assert retry(shop, f"one two {APP} --yes").code == 6


async def _hold(shop: Shop, run_id: str) -> None:
    async with SQLiteBackend(shop.cwd / shop.store) as backend:
        await backend.claim_run(run_id, Holder.current(), 1e8)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_stops_cleanly(shop: Shop, number: int, code: int) -> None:
    shop.fail("one", "two", "three")
    slow = shop.lens.write("slow", "")
    command = f"retry one two three {APP} --yes -o json --concurrency 2"
    with shop.lens.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        _wait_for_two(shop, process)
        process.send_signal(number)
        told = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == code
    assert (told["failed"], told["left"]) == (2, 1)
    errors = [shop.run(run)["error_message"] for run in ("one", "two", "three")]
    assert errors == ["interrupted", "interrupted", "ValueError: no such customer"]
    slow.unlink()
    assert retry(shop, f"one two three {APP} --yes").code == 0


def _wait_for_two(shop: Shop, process: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if shop.signs().count("charge") == 5:
            return
        assert process.poll() is None
        time.sleep(0.025)
    raise AssertionError("they did not begin")


def test_what_another_process_holds_has_not_failed_again(shop: Shop) -> None:
    shop.fail("one", "two")
    slow = shop.lens.write("slow", "")
    with shop.lens.start(f"resume one {APP}", stderr=subprocess.PIPE) as holder:
        while shop.signs().count("charge") < 3:  # both have failed there once
            assert holder.poll() is None
            time.sleep(0.02)
        done = retry(shop, f"one {APP} -o json")
        told = retry(shop, f"one {APP}")
        holder.kill()
    slow.unlink()
    assert (done.code, done.json["runs"][0]["code"], done.json["runs"][0]["status"]) == (6, "LENS-B2", "running")
    assert told.code == 6
    assert told.lines[-1] == "1 run: 0 resumed, 0 failed again, 1 held by other processes"
    assert told.lines[0].startswith("one is held by another process: LENS-B2: ")


def test_the_log_cannot_grow_any_more_in_the_middle(shop: Shop) -> None:
    """Every run is retried and saved; the missing result in the log is reported, and the log stays readable."""
    shop.fail("one", "two")
    log = shop.cwd / f"{shop.store}.lens-audit.ndjson"
    AuditLog(log, actor="ana", host="ops1", now=lambda: datetime.now(UTC)).append(
        command=["lens"], reason="x" * 2_000_000, counts={}, run_ids=[]
    )
    application = (shop.cwd / "shop.py").read_text()
    full = f"import resource; n = os.stat({log.name!r}).st_size; resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))"
    shop.lens.write("shop.py", application.replace('    sign("charge")', f'    {full}\n    sign("charge")'))
    done = retry(shop, f"one two {APP} --yes -o json")
    assert (done.code, done.json["done"]) == (0, 2)
    left = f'its entry {done.json["audit_id"]} stays "started"'
    assert "warning: the result of this change is not in the audit log: " in done.err
    assert "File too large" in done.err
    assert left in done.err
    assert [shop.run(run_id)["status"] for run_id in ("one", "two")] == ["completed", "completed"]
    assert shop.lens("audit", "verify").code == 0
    assert shop.lens("audit", "-o", "json").json[0]["state"] == "started"


def test_a_rate_spaces_the_starts(shop: Shop) -> None:
    """The second run of two at one an hour has not begun when the first is done, and Ctrl-C leaves it as it is."""
    shop.fail("one", "two")
    command = f"retry one two {APP} --yes -o ndjson --rate 1/h --concurrency 2"
    with shop.lens.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["run_id"] == "one"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert shop.signs().count("charge") == 3  # both had failed there before
    assert shop.run("two")["error_message"] == "ValueError: no such customer"
    (entry,), (closing,) = shop.entries(), shop.ends()
    assert "--rate=1/h" in entry["command"]
    assert closing["counts"] == {"completed": 1, "left": 1}


def test_the_starts_of_a_pace_are_evenly_spaced() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def turns() -> None:
        now = 100.0
        pace = Pace(interval("12/m"), clock=lambda: now, sleep=sleep)
        for _ in range(3):
            await pace.turn()
        now += 60  # unused time is not made up for
        await pace.turn()
        await pace.turn()

    asyncio.run(turns())
    assert slept == [0, 5, 10, 0, 5]


@pytest.mark.parametrize("rate", ["0/m", "10", "/m", "x/m", "-1/m", "1.5/m", "5/d", "10/m/h", ""])
def test_what_is_no_rate(bare_lens: Lens, rate: str) -> None:
    bare_lens.store()
    refused = bare_lens("retry", "fail-001", "--rate", rate, "--app", "shop:registry")
    assert refused.code == 2
    assert "--rate takes a number of runs per second, minute or hour" in refused.err
