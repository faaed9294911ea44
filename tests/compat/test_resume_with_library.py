"""Runs that the library began are finished by `lens resume`, inside the Python that has the library.

On each series of the library that there is (see libraries.py). That Python need not have lens installed: it imports
the package from here, and brings typer, rich, pydantic, orjson and the rest with the library.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forks import popen
from libraries import LIBRARIES, MISSING
from programs import environment, run_python

pytestmark = pytest.mark.skipif(not LIBRARIES, reason=MISSING)

HERE = Path(__file__).resolve().parent
APP = "--app library_shop:registry"
IMPORTED = ("flujo", "flujo_lens.cli.app")
"""What its processes have imported when they begin, but where a test says that they are new."""


class Done(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shop:
    """An application of the library with its store, in a folder of its own."""

    def __init__(self, cwd: Path, store: str, series: str) -> None:
        self.cwd, self.store, self.series = cwd, store, series
        shutil.copyfile(HERE / "library_shop.py", cwd / "library_shop.py")

    @property
    def _uri(self) -> str:
        return self.store if self.store.endswith(".db") else f"{self.store}/"

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """A process of the library's Python."""
        python = LIBRARIES[more.pop("series", self.series)]
        variables = {
            "HOME": str(self.cwd),
            "TZ": "America/Lima",
            "LENS_STORE": self._uri,
            "LENS_LEASE": "10m",  # a slow start of the library is not half a minute without a save
        }
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return popen(  # type: ignore[no-any-return]
            words, environment(variables), python=python, imported=IMPORTED, cwd=self.cwd, text=True, **pipes
        )

    def begin(self, pipeline: str, run_id: str) -> None:
        """Begin a run, as far as it goes."""
        with self.start("library_shop.py", self.store, pipeline, run_id) as process:
            process.communicate(timeout=240)

    def lens(self, command: str, **more: Any) -> Done:
        """Run lens to its end."""
        with self.start("-m", "flujo_lens", *shlex.split(command), **more) as process:
            out, err = process.communicate(timeout=240)
        return Done(process.returncode, out, err)

    def show(self, run_id: str) -> Any:
        """A run as lens shows it, in the Python of the tests."""
        env = environment({"HOME": str(self.cwd), "TZ": "America/Lima", "LENS_STORE": self._uri})
        return json.loads(run_python("-m", "flujo_lens", "show", run_id, "-o", "json", cwd=self.cwd, env=env).stdout)

    def touch(self, name: str) -> Path:
        """A file that decides what a step does."""
        path = self.cwd / name
        path.touch()
        return path

    def signs(self) -> list[str]:
        """The steps that ran, in order."""
        return (self.cwd / "signs").read_text().split()

    def run(self, run_id: str) -> dict[str, Any]:
        """The run as lens shows it."""
        return dict(self.show(run_id)["run"])


@pytest.fixture(params=LIBRARIES or ["none"])
def series(request: pytest.FixtureRequest) -> str:
    """A series of the library."""
    return str(request.param)


@pytest.fixture
def shop(tmp_path: Path, series: str) -> Shop:
    return Shop(tmp_path, "runs.db", series)


def test_a_paused_run_is_finished_question_by_question(shop: Shop) -> None:
    shop.begin("approvals", "one")
    would = shop.lens(f"resume one {APP} --dry-run -o json").json
    told = {name: would[name] for name in ("next_step", "verdict", "has_manifest", "pause_message")}
    assert told == {
        "next_step": "approve",
        "verdict": "names-match",
        "has_manifest": False,
        "pause_message": "Approve?",
    }
    first = shop.lens(f"resume one {APP} --input yes")
    assert (first.code, first.out.splitlines()[:2]) == (0, ["one waits at pick:", "    Pick a colour"])
    assert "charging" in first.err
    late = shop.lens(f"resume one {APP} --input yes")
    assert (late.code, "LENS-F2" in late.err) == (1, True)
    asked = f"resume one {APP} --step pick"
    assert shop.lens(f"{asked} --input nonsense").code == 2
    last = shop.lens(f'{asked} --input-json \'{{"colour": "red"}}\' -o json')
    assert (last.code, last.json["status"]) == (0, "completed")
    assert last.json["output"] == "finished colour='red' amount=1"
    assert shop.signs() == ["load", "charge", "finish"]
    steps = shop.show("one")["steps"]
    assert [step["step_name"] for step in steps] == ["load", "approve", "charge", "pick", "finish"]


@pytest.mark.usefixtures("fresh_processes")
def test_a_failed_run_goes_on_at_the_step_that_failed(shop: Shop) -> None:
    broken = shop.touch("broken")
    shop.begin("orders", "one")
    assert shop.run("one")["status"] == "failed"
    again = shop.lens("resume one --app library_shop:runner -o json")
    assert (again.code, again.json["status"]) == (1, "failed")
    broken.unlink()
    done = shop.lens("resume one --app library_shop:runner")
    assert (done.code, done.out) == (0, "finished charged loaded hello\n")
    assert shop.signs().count("load") == 1


def test_a_killed_run_goes_on(shop: Shop) -> None:
    die = shop.touch("die")
    shop.begin("orders", "one")
    die.unlink()
    assert shop.run("one")["status"] == "running"
    refused = shop.lens("resume one --app library_shop:runner")
    assert (refused.code, "--force" in refused.err) == (7, True)
    done = shop.lens("resume one --app library_shop:runner --force")
    assert (done.code, done.out) == (0, "finished charged loaded hello\n")
    assert shop.signs() == ["load", "charge", "charge", "finish"]


def test_many_are_retried(shop: Shop) -> None:
    broken = shop.touch("broken")
    for run_id in ("one", "two", "three"):
        shop.begin("orders", run_id)
    broken.unlink()
    done = shop.lens("retry --pipeline orders --app library_shop:runner --concurrency 2 --yes -o json")
    assert (done.code, done.json["done"]) == (0, 3)
    assert {row["output"] for row in done.json["runs"]} == {"finished charged loaded hello"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_interrupted_is_left_failed(shop: Shop, number: int) -> None:
    broken = shop.touch("broken")
    shop.begin("orders", "one")
    broken.unlink()
    slow = shop.touch("slow")
    with shop.start("-m", "flujo_lens", "resume", "one", "--app", "library_shop:runner") as process:
        for _ in range(2400):
            if shop.signs().count("charge") == 2:
                break
            time.sleep(0.025)
        assert shop.lens("resume one --app library_shop:runner").code == 7
        process.send_signal(number)
        process.communicate(timeout=240)
    assert process.returncode == 128 + number
    run = shop.run("one")
    assert (run["status"], run["error_message"]) == ("failed", "interrupted")
    slow.unlink()
    assert shop.lens("resume one --app library_shop:runner").out == "finished charged loaded hello\n"


def test_another_shape_is_refused_and_nothing_is_changed(shop: Shop) -> None:
    shop.begin("approvals", "one")
    code = shop.cwd / "library_shop.py"
    code.write_text(code.read_text().replace('"approve"', '"consent"'))
    before = (shop.cwd / shop.store).read_bytes()
    refused = shop.lens(f"resume one {APP} --input yes -o json")
    assert (refused.code, json.loads(refused.err)["error"]["code"]) == (4, "LENS-C6")
    assert (shop.cwd / shop.store).read_bytes() == before
    assert shop.lens(f"check {APP}").code == 1


@pytest.mark.parametrize("target", ["runner", "single"])
def test_files_which_tell_neither_name_nor_version(tmp_path: Path, target: str, series: str) -> None:
    shop = Shop(tmp_path, "runs", series)
    broken = shop.touch("broken")
    shop.begin("orders", "one")
    broken.unlink()
    assert shop.run("one")["pipeline_name"] == "unknown"
    assert shop.lens(f"resume one {APP}").code == 4, "which of the two pipelines?"
    done = shop.lens(f"resume one --app library_shop:{target}")
    if target == "single":  # a pipeline does not say what its context is
        assert (done.code, "give a Flujo with the model" in done.err) == (2, True), done.err
    else:
        assert (done.code, done.out) == (0, "finished charged loaded hello\n")


def test_what_has_no_pipelines(shop: Shop) -> None:
    shop.begin("approvals", "one")
    refused = shop.lens("resume one --app library_shop:Pick --input yes")
    assert refused.code == 2


def test_a_context_with_required_fields_is_found_from_the_steps(shop: Shop) -> None:
    """The registry does not name the model: the steps do."""
    shop.begin("priced", "one")
    assert shop.lens(f"resume one {APP} --input yes").out == "finished charged yes 4711 1.5\n"
    die = shop.touch("die")
    shop.begin("billed", "two")
    die.unlink()
    assert shop.run("two")["status"] == "running"
    done = shop.lens(f"resume two {APP} --force")
    assert (done.code, done.out) == (0, "finished charged loaded hello 4711 1.5\n")


def test_a_context_of_a_model_that_nothing_names_is_asked_for_before_the_answer(shop: Shop) -> None:
    shop.begin("orders", "one")
    shop.begin("untold", "two")
    refused = shop.lens(f"resume two {APP} --input yes")
    assert (refused.code, "number" in refused.err, "context_model" in refused.err) == (2, True, True)
    assert shop.run("two")["status"] == "paused"
    assert shop.lens("resume two --app library_shop:untold --input yes").out == "finished yes\n"


def test_a_pause_inside_of_a_loop_is_answered(shop: Shop) -> None:
    shop.begin("talks", "one")
    assert shop.lens(f"check {APP}").code == 0
    answered = shop.lens(f"resume one {APP} --input more -o json")
    # 0.4 takes any answer for what the loop returns; 0.6 asks until the loop has enough.
    assert (answered.code, answered.json["status"]) == (0, "completed" if shop.series == "0.4" else "paused")
    if shop.series == "0.6":
        shop.lens(f"resume one {APP} --question {answered.json['question']} --input stop")
    assert shop.signs() == ["load", "finish"]


def test_a_run_that_failed_again_is_retried(shop: Shop) -> None:
    """By an answer, and by a plain restart of the application, which goes on behind the step that failed."""
    broken = shop.touch("broken")
    shop.begin("orders", "one")
    shop.begin("orders", "one")
    shop.begin("approvals", "two")
    assert shop.lens(f"resume two {APP} --input yes").code == 1
    assert {run: shop.run(run)["status"] for run in ("one", "two")} == {"one": "failed", "two": "failed"}
    assert shop.lens("waiting -o json").json == []
    assert {row["run_id"] for row in shop.lens("failed --flat -o json").json} == {"one", "two"}
    broken.unlink()
    assert shop.lens("resume one --app library_shop:runner").out == "finished charged loaded hello\n"
    assert shop.lens(f"resume two {APP} -o json").json["status"] == "paused"


def test_a_fork_in_a_folder_is_read_by_the_runner(tmp_path: Path, series: str) -> None:
    shop = Shop(tmp_path, "runs", series)
    shop.begin("orders", "one")
    fork = shop.lens("fork one --from-step charge -o id").out.strip()
    times = [json.loads((tmp_path / "runs" / f"{name}.json").read_text())["updated_at"] for name in ("one", fork)]
    assert len({"+" in when for when in times}) == 1, times
    done = shop.lens(f"resume {fork} --app library_shop:runner")
    assert (done.code, done.out) == (0, "finished charged loaded hello\n")


@pytest.mark.skipif(len(LIBRARIES) < 2, reason=MISSING)
@pytest.mark.parametrize("command", ["resume one", "retry one --yes", "check", "fork one --from-step charge"])
def test_a_store_of_the_other_series_is_refused_as_it_is(shop: Shop, command: str) -> None:
    broken = shop.touch("broken")
    shop.begin("orders", "one")
    broken.unlink()
    (other,) = set(LIBRARIES) - {shop.series}
    app = "" if command.startswith("fork") else "--app library_shop:runner"
    before = (shop.cwd / shop.store).read_bytes()
    refused = shop.lens(f"{command} {app}", series=other)
    assert (refused.code, "LENS-C11" in refused.err, f"flujo {shop.series}" in refused.err) == (4, True, True)
    assert (shop.cwd / shop.store).read_bytes() == before
    assert not [path for path in shop.cwd.iterdir() if "corrupt" in path.name]
