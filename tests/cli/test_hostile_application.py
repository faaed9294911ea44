"""Whatever the code of an application does, ``lens`` keeps its exit code, its output and its audit log."""

from __future__ import annotations

import json

import pytest
from pipelines import Shop
from support import Lens

APP = "--app shop:registry"

FAILING = {
    "sys.exit(0)": "SystemExit: 0",
    "raise KeyboardInterrupt('mine')": "KeyboardInterrupt: mine",
    "raise GeneratorExit": "GeneratorExit",
    "raise StopIteration(4)": "RuntimeError: coroutine raised StopIteration",
    "raise BaseExceptionGroup('g', [KeyboardInterrupt()])": "BaseExceptionGroup: g (1 sub-exception)",
    "raise asyncio.CancelledError('gone')": "CancelledError",
    "asyncio.current_task().cancel(); await asyncio.sleep(9)": "CancelledError",
    "[task.cancel() for task in asyncio.all_tasks()]; await asyncio.sleep(9)": "CancelledError",
    "sys.excepthook = threading.excepthook = None; raise ValueError('x')": "ValueError: x",
    "os._exit(0)": "SystemExit: os._exit(0)",
    "os.abort()": "SystemExit: os.abort()",
    "os.execvp('true', ['true'])": "SystemExit: os.execv(",
    "await asyncio.to_thread(os._exit, 0)": "SystemExit: os._exit(0)",
    "(lambda f: f(f))(lambda f: f(f))": "RecursionError",
    "raise type('Odd', (BaseException,), {'__str__': lambda self: 1 / 0})()": "Odd",
}
"""Bodies of a step that fails, and the beginning of the error of the run."""

COMPLETING = (
    "sys.stdout.close()",
    "os.close(1)",
    "os.close(1); os.close(2); open('taken', 'w')",
    "sys.stdout = sys.stderr = None",
    "os.dup2(os.open('/dev/null', os.O_WRONLY), 1)",
    "os.system('echo of a child'); print('of the step', flush=True)",
    "atexit.register(print, 'at the end')",
    "atexit.register(os.system, 'echo at the end')",
    "atexit.register(sys.exit, 9)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "signal.setitimer(signal.ITIMER_REAL, 0.5)",
    "os.chdir('/'); os.umask(0o777)",
    "os.environ.clear(); os.environ['COLUMNS'] = '1'",
    "locale.setlocale(locale.LC_ALL, 'C')",
    "sys.setrecursionlimit(80)",
    "os.fork() or os._exit(9)",
    "os.fork() or os.execvp('true', ['true'])",
    "asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)",
    "threading.Thread(target=time.sleep, args=(600,)).start()",
    "asyncio.get_running_loop().create_task(asyncio.sleep(600))",
)
"""Bodies of a step that returns, after it did harm to the process."""


BEGIN = """
import asyncio, sys
sys.path.insert(0, ".")
import shop
from flujo_lens import Flujo, SQLiteBackend

async def main():
    async with SQLiteBackend("runs.db") as store:
        orders = shop.load >> shop.charge
        for run_id in sys.argv[1:]:
            runs = Flujo(orders, state_backend=store, pipeline_name="orders", pipeline_version="1.0.0")
            await runs.run_async(run_id, run_id=run_id)

asyncio.run(main())
"""


@pytest.fixture
def shop(bare_lens: Lens) -> Shop:
    return Shop(bare_lens)


def harm(shop: Shop, bodies: tuple[str, ...]) -> list[str]:
    """Failed runs; tried again, the step `charge` of the n-th does what the n-th body says. Returns their ids."""
    ids = [f"run-{number}" for number in range(len(bodies))]
    shop.lens.write("bodies.json", json.dumps(bodies))
    shop.lens.write("shop.py", (shop.cwd / "shop.py").read_text().replace(
        "@step\nasync def charge(value) -> str:\n",
        "import atexit, json, locale, signal, sys, threading, time\n"
        "import __main__\n"
        "BODIES = json.load(open('bodies.json'))\n"
        "@step\nasync def charge(value) -> str:\n"
        "    if not os.path.exists('broken'):\n"
        "        number = int(value.removeprefix('RUN-'))\n"
        "        space = {**globals()}\n"
        "        exec('async def body():\\n    ' + BODIES[number], space)\n"
        "        await space['body']()\n"
        "        return 'done'\n",
    ))  # fmt: skip
    shop.lens.write("broken", "")
    shop.python(BEGIN, *ids)
    (shop.cwd / "broken").unlink()
    return ids


def test_steps_that_fail_in_odd_ways_stop_nothing_else(shop: Shop) -> None:
    """All in one process: each is a failed run, the last of the others completes, the audit entry is closed."""
    ids = harm(shop, (*FAILING, "pass"))
    done = shop.lens.process(f"retry {' '.join(ids)} {APP} --yes -o json")
    assert done.code == 6, done.err
    found = {row["run_id"]: row for row in done.json["runs"]}
    assert list(found) == ids
    for run_id, error in zip(ids, FAILING.values(), strict=False):
        assert (found[run_id]["status"], found[run_id]["error_message"][: len(error)]) == ("failed", error)
        assert shop.run(run_id)["status"] == "failed"
    assert found[ids[-1]]["status"] == "completed"
    (audit,) = shop.lens("audit", "-o", "json").json
    assert (audit["state"], audit["counts"]) == ("finished", {"failed": len(FAILING), "completed": 1})


def test_steps_that_harm_the_process_leave_the_output_whole(shop: Shop) -> None:
    """All in one process, each after the harm of those before it."""
    ids = harm(shop, COMPLETING)
    done = shop.lens.process(f"retry {' '.join(ids)} {APP} --yes -o json")
    assert done.code == 0, done.err
    assert [row["status"] for row in done.json["runs"]] == ["completed"] * len(ids)
    assert "Traceback" not in done.err
    assert shop.lens("audit", "-o", "json").json[0]["state"] == "finished"


def test_a_step_that_closes_every_file_ends_lens_and_loses_no_run(shop: Shop) -> None:
    (run_id,) = harm(shop, ("os.closerange(3, 99)",))
    done = shop.lens.process(f"retry {run_id} {APP} --yes")
    assert (done.code, done.out) == (1, "")
    assert "closed file descriptors of lens" in done.err
    assert "Traceback" not in done.err
    assert shop.run(run_id)["status"] == "running"
    assert shop.lens("audit", "-o", "json").json[0]["state"] == "failed"
    shop.lens.write("bodies.json", json.dumps(["pass"]))
    assert shop.lens.process(f"resume {run_id} {APP}").out == "done\n"


@pytest.mark.parametrize("body", [COMPLETING[1], COMPLETING[5], COMPLETING[7]])
def test_a_report_is_whole_in_every_format(shop: Shop, body: str) -> None:
    (run_id,) = harm(shop, (body,))
    done = shop.lens.process(f"retry {run_id} {APP} --yes -o id")
    assert (done.code, done.out) == (0, f"{run_id}\n")
