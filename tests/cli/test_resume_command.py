"""``lens resume``: real processes, and a person at a terminal."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pipelines import Shop
from support import Lens, Result, tree

APP = "--app shop:registry"


@pytest.fixture(params=["runs.db", "runs"])
def any_shop(request: pytest.FixtureRequest, bare_lens: Lens) -> Shop:
    return Shop(bare_lens, request.param)


@pytest.fixture
def shop(bare_lens: Lens) -> Shop:
    return Shop(bare_lens)


def resume(shop: Shop, words: str, **more: Any) -> Result:
    return shop.lens.process(f"resume {words}", **more)


class TestAnswers:
    def test_an_answer_makes_it_go_on(self, any_shop: Shop) -> None:
        any_shop.begin("billing", "one")
        done = resume(any_shop, f"one {APP} --input yes --reason TICKET-88 -o json")
        assert done.code == 0
        fields = {"run_id": "one", "status": "completed", "output": "charged yes", "pause_message": None}
        assert done.json == {**fields, "error_message": None}
        assert any_shop.signs() == ["load", "charge"]
        (entry,), (closing,) = any_shop.entries(), any_shop.ends()
        assert closing["closes"] == entry["audit_id"]
        assert entry["run_ids"] == ["one"]
        told = ["--app=shop:registry", "--input=***", "--reason=TICKET-88"]
        assert entry["command"] == ["lens", "resume", *told, "one"]

    def test_stdout_has_the_result_alone(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        done = resume(shop, "one --app shop:made --input yes")
        assert (done.code, done.out) == (0, "charged yes\n")
        assert "charging" in done.err
        assert "made" in done.err

    def test_what_the_programs_of_a_step_print_goes_to_stderr_too(self, shop: Shop) -> None:
        shop.fail("one")
        shop.lens("fork one --from-step load")
        new = shop.lens("list --search fork -o id").lines[0]
        done = resume(shop, f"{new} {APP} -o json")
        assert done.json["output"] == "charged HELLO"
        assert "said by a child" in done.err

    @pytest.mark.parametrize(
        "answer", ["--input-json '{}'", "--input-file a.json", "--input '{}'", "--input-file a.txt", "--input-file -"]
    )
    def test_the_ways_to_give_an_object(self, shop: Shop, answer: str) -> None:
        shop.begin("forms", "one")
        text = json.dumps({"approved": True, "colour": "red"})
        for name in ("a.json", "a.txt"):
            shop.lens.write(name, text + "\n")
        with (shop.cwd / "a.txt").open() as file:
            done = resume(shop, f"one {APP} {answer.replace('{}', text)} -o json", stdin=file)
        assert done.json["output"] == "charged approved=True amount=1 colour='red' tags=[]"

    def test_the_next_question(self, shop: Shop) -> None:
        shop.begin("twice", "one")
        done = resume(shop, f"one {APP} --input yes")
        assert done.code == 0
        question = resume(shop, f"one {APP} --input yes").err.partition("--question ")[2].split()[0]
        assert done.lines == [
            "one waits at decide:",
            "    Decide [b]now[/b]",
            f"to answer: lens resume {APP} one --question {question} --input ANSWER",
        ]
        assert shop.run("one")["step_name"] == "decide"

    @pytest.mark.parametrize(
        "answer",
        ["--input nonsense", "--input-json '{\"approved\": true, \"colour\": \"blue\"}'", "--input-json '{'",
         "--input x --input-json 1", "--input-file nowhere"],
    )  # fmt: skip
    def test_an_answer_that_does_not_fit_changes_nothing(self, shop: Shop, answer: str) -> None:
        shop.begin("forms", "one")
        before = (shop.cwd / shop.store).read_bytes()
        refused = resume(shop, f"one {APP} {answer}")
        assert (refused.code, refused.out) == (2, "")
        assert shop.entries() == []
        assert (shop.cwd / shop.store).read_bytes() == before

    @pytest.mark.parametrize("given", [("--input", "f\udcfcr"), ("--input-json", '{"name": "\\ud800"}')])
    def test_an_answer_that_cannot_be_stored_is_refused(self, shop: Shop, given: tuple[str, str]) -> None:
        """It would be stored as another text."""
        shop.begin("billing", "one")
        refused = shop.lens("resume", "one", *APP.split(), *given)
        assert refused.code == 2, refused.err
        assert shop.run("one")["status"] == "paused"

    def test_without_a_terminal_it_says_what_it_waits_for(self, shop: Shop) -> None:
        shop.begin("forms", "one")
        refused = resume(shop, f"one {APP} -o json")
        assert (refused.code, refused.out) == (2, "")
        assert refused.error["pause_message"] == "Decide [b]now[/b]"
        assert "colour: red or green" in refused.error["hint"]
        assert "amount: whole number [1]" in refused.error["hint"]


class TestTerminal:
    def test_a_line(self, shop: Shop) -> None:
        shop.begin("billing", "one-and-only")
        code, shown = shop.typing(f"resume one- {APP}", ["", "yes"])
        assert code == 0
        assert "one-and-only waits at approve:\n\n    Approve invoice 4711?\n" in shown
        assert "an answer is required" in shown
        assert shown.endswith("charged yes\n")

    def test_a_form(self, shop: Shop) -> None:
        shop.begin("forms", "one")
        typed = ["maybe", "yes", "-3", "", "blue", "GREEN", '["a"]']
        code, shown = shop.typing(f"resume one {APP}", typed)
        assert code == 0
        assert "approved (yes or no): " in shown
        assert "in euros" in shown
        assert "amount (whole number) [1]: " in shown
        assert "colour (red or green): " in shown
        assert "tags (JSON list) [[]]: " in shown
        assert shown.count("amount (whole number) [1]: ") == 2, "what does not fit is asked again"
        assert shown.endswith("charged approved=True amount=1 colour='green' tags=['a']\n")

    def test_the_end_of_the_input_changes_nothing(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        code, shown = shop.typing(f"resume one {APP}", ["\x04"])
        assert (code, "nothing was changed" in shown) == (1, True)
        assert (shop.run("one")["status"], shop.entries()) == ("paused", [])

    def test_the_beginning_of_an_id_is_for_people(self, shop: Shop) -> None:
        shop.begin("billing", "one-and-only")
        assert resume(shop, f"one- {APP} --input yes").code == 3
        assert shop.typing(f"resume @paused {APP} --input yes", [])[0] == 0

    def test_a_late_answer_does_not_go_to_the_next_question(self, any_shop: Shop) -> None:
        any_shop.begin("thrice", "one")

        def typed() -> Iterator[str]:
            yield ""
            assert resume(any_shop, f"one {APP} --input first").code == 0
            yield "late"

        code, shown = any_shop.typing(f"resume one {APP}", typed())
        assert (code, 'it now waits at "decide"' in shown) == (1, True)
        assert any_shop.run("one")["step_name"] == "decide"


class TestTheStepThatWaits:
    def test_the_one_that_is_named_is_answered(self, shop: Shop) -> None:
        shop.begin("thrice", "one")
        assert resume(shop, f"one {APP} --step approve --input yes").code == 0
        refused = resume(shop, f"one {APP} --step approve --input yes -o json")
        assert (refused.code, refused.error["code"]) == (1, "LENS-F2")
        assert shop.run("one")["step_name"] == "decide"
        assert shop.entries()[0]["command"][3:5] == ["--input=***", "--step=approve"]

    @pytest.mark.parametrize("words", ["--input NO", "--input-json 1", "--step approve"])
    @pytest.mark.parametrize("end", ["completed", "cancelled", "failed"])
    def test_nobody_waits_any_more(self, shop: Shop, end: str, words: str) -> None:
        if end == "failed":
            shop.fail("late")
        else:
            shop.begin("billing", "late")
            last = f"resume late {APP} --input yes" if end == "completed" else "cancel late --yes"
            assert shop.lens.process(last).code == 0
        before = (shop.signs(), shop.run("late"), shop.entries())
        refused = resume(shop, f"late {APP} {words} -o json")
        assert (refused.code, refused.error["code"]) == (1, "LENS-F2")
        assert f"it is {end}" in refused.error["message"]
        assert (shop.signs(), shop.run("late"), shop.entries()) == before


class TestOtherStatuses:
    def test_a_failed_run_goes_on_at_the_step_that_failed(self, any_shop: Shop) -> None:
        any_shop.fail("one")
        done = resume(any_shop, f"one {APP}")
        assert (done.code, done.out) == (0, "charged HELLO\n")
        assert any_shop.signs() == ["load", "charge", "charge"]

    def test_one_that_fails_again(self, shop: Shop) -> None:
        shop.fail("one")
        shop.lens.write("broken", "")
        failed = resume(shop, f"one {APP} -o json")
        assert (failed.code, failed.json["status"]) == (1, "failed")
        assert "no such customer" in failed.json["error_message"]
        assert "one failed at charge: " in resume(shop, f"one {APP}").err

    def test_a_failed_run_takes_no_answer(self, shop: Shop) -> None:
        shop.fail("one")
        assert resume(shop, f"one {APP} --input yes").code == 1
        assert shop.signs() == ["load", "charge"]

    def test_a_completed_run_gives_its_result_and_needs_no_application(self, shop: Shop) -> None:
        shop.begin("orders", "one")
        done = resume(shop, "one")
        assert (done.code, done.out) == (0, "charged HELLO\n")
        assert "already completed" in done.err
        assert (shop.signs(), shop.entries()) == (["load", "charge"], [])

    def test_a_run_that_is_alive_elsewhere(self, shop: Shop) -> None:
        shop.fail("one")
        shop.lens.write("slow", "")
        with shop.lens.start(f"resume one {APP}", stderr=subprocess.DEVNULL) as first:
            _wait_until_held(shop, first)
            refused = resume(shop, f"one {APP} -o json")
            first.kill()
        assert (refused.code, refused.error["code"]) == (7, "LENS-B2")
        (shop.cwd / "slow").unlink()
        assert resume(shop, f"one {APP}").code == 0, "its holder is gone"

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_what_is_interrupted_is_left_failed(self, any_shop: Shop, number: int, code: int) -> None:
        any_shop.fail("one")
        slow = any_shop.lens.write("slow", "")
        with any_shop.lens.start(f"resume one {APP}", stderr=subprocess.PIPE) as process:
            _wait_until_held(any_shop, process)
            process.send_signal(number)
            told = process.communicate(timeout=60)[1].decode()
        assert process.returncode == code
        run = any_shop.run("one")
        assert (run["status"], run["error_message"]) == ("failed", "interrupted")
        assert f"lens resume {APP} one" in told
        slow.unlink()
        assert resume(any_shop, f"one {APP}").out == "charged HELLO\n"

    def test_a_run_of_the_library_that_was_saved_a_moment_ago(self, lens: Lens) -> None:
        shop = Shop(lens, "flujo_ops.db")
        lens.edit("UPDATE workflow_state SET updated_at = strftime('%Y-%m-%dT%H:%M:%f+00:00') WHERE status = 'running'")
        refused = resume(shop, f"crashed-001 {APP} -o json")
        assert (refused.code, "--force" in refused.error["hint"]) == (7, True)

    def test_no_such_run(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        assert resume(shop, f"nobody {APP}").code == 3


def _wait_until_held(shop: Shop, process: subprocess.Popen[bytes]) -> None:
    """Until ``charge`` runs for the second time."""
    for _ in range(2400):
        if shop.signs().count("charge") == 2:
            return
        assert process.poll() is None
        time.sleep(0.025)
    raise AssertionError("it did not begin")


class TestDryRun:
    def test_what_would_run_next(self, any_shop: Shop) -> None:
        any_shop.begin("billing", "waits")
        any_shop.fail("failed")
        before = tree(any_shop.cwd / any_shop.store if any_shop.store == "runs" else any_shop.cwd / "nothing")
        waits = resume(any_shop, f"waits {APP} --dry-run")
        assert waits.lines == [
            'waits waits at "approve" (step 1) of billing 1.0.0',
            "    Approve invoice 4711?",
            "identical: the pipeline is the same as when the run started",
            "nothing was changed (--dry-run)",
        ]
        failed = resume(any_shop, f"failed {APP} --dry-run -o json").json
        told = {name: failed[name] for name in ("next_step", "next_index", "verdict", "code", "has_manifest")}
        assert told == {
            "next_step": "charge",
            "next_index": 1,
            "verdict": "identical",
            "code": None,
            "has_manifest": True,
        }
        assert any_shop.entries() == []
        assert tree(any_shop.cwd / any_shop.store if any_shop.store == "runs" else any_shop.cwd / "nothing") == before

    def test_a_run_without_a_manifest(self, lens: Lens) -> None:
        shop = Shop(lens, "flujo_ops.db")
        names = {"paused-001": "load >> ask >> after_human >> finish"}
        lens.write(
            "theirs.py",
            "from flujo_lens import PipelineRegistry, step, Step\n"
            "@step\ndef load(x): ...\n@step\ndef after_human(x): ...\n@step\ndef finish(x): ...\n"
            "ask = Step.human_in_the_loop('approve')\nregistry = PipelineRegistry()\n"
            f"registry.register({names['paused-001']}, 'approvals', '1.0.0')\n",
        )
        before = tree(lens.cwd)
        found = resume(shop, "paused-001 --app theirs:registry --dry-run", env={"PYTHONDONTWRITEBYTECODE": "1"})
        assert found.lines[0] == 'paused-001 waits at "approve" (step 1) of approvals 1.0.0'
        assert found.lines[2].startswith("names-match: the run has no manifest")
        assert tree(lens.cwd) == before


class TestIncompatible:
    def edit(self, shop: Shop, old: str, new: str) -> None:
        path = shop.cwd / "shop.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def test_the_screen(self, shop: Shop) -> None:
        shop.begin("billing", "one", "two", "three")
        before = (shop.cwd / shop.store).read_bytes()
        self.edit(shop, '"approve"', '"consent"')
        refused = resume(shop, f"one {APP} --input yes")
        assert refused.code == 4
        assert refused.err.startswith(
            "error LENS-C4: StateIncompatibilityError: Cannot resume workflow due to a mismatch between the "
        )
        assert "2 other runs have this problem." in refused.err
        assert 'aliases=["approve"]' in refused.err
        told = resume(shop, f"one {APP} --input yes -o json").error
        assert (told["code"], told["others"], told["run_id"]) == ("LENS-C4", 2, "one")
        assert (shop.cwd / shop.store).read_bytes() == before
        assert shop.entries() == []

    def test_a_version_that_is_kept(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        self.edit(
            shop,
            'registry.register(load >> ask >> charge, name="billing", version="1.0.0")',
            'old = Step.human_in_the_loop("consent")\n'
            'registry.register(load >> ask >> charge, name="billing", version="0.9.0")\n'
            'registry.register(load >> old >> charge, name="billing", version="2.0.0")',
        )
        assert resume(shop, f"one {APP} --input yes").code == 4
        assert resume(shop, f"one {APP} --pipeline-version 3.0.0 --input yes").code == 2
        done = resume(shop, f"one {APP} --pipeline-version 0.9.0 --input yes")
        assert (done.code, done.out) == (0, "charged yes\n")

    def test_a_registry_does_not_tell_the_type_of_the_context(self, shop: Shop) -> None:
        text = (shop.cwd / "shop.py").read_text()
        more = (
            "from flujo_lens import PipelineContext\nclass Order(PipelineContext):\n    number: int\n"
            "own = Flujo(registry=registry, pipeline_name='billing', context_model=Order)\n"
        )
        shop.lens.write("shop.py", text + more)
        shop.python(
            "import shop\nfrom flujo_lens import Flujo, SQLiteBackend\n"
            f"flujo = Flujo(registry=shop.registry, pipeline_name='billing', context_model=shop.Order,\n"
            f"    state_backend=SQLiteBackend('{shop.store}'))\n"
            "flujo.run('x', run_id='one', initial_context_data={'number': 4711})\n"
        )
        refused = resume(shop, f"one {APP} --input yes")
        assert (refused.code, "context_model=" in refused.err) == (4, True)
        assert "shop:registry has no context model, but the run has one" in refused.err
        assert "lens resume one --app 'shop:<flujo>'" in refused.err.partition("  2  ")[0]
        assert resume(shop, "one --app shop:own --input yes").out == "charged yes\n"
        assert shop.lens("show one --state -o json").json["state"]["pipeline_context"]["number"] == 4711


class TestApplications:
    @pytest.mark.parametrize("target", ["shop:registry", "shop:flujo", "shop:single", "shop:made"])
    def test_what_it_may_be(self, shop: Shop, target: str) -> None:
        shop.begin("billing", "one")
        assert resume(shop, f"one --app {target} --input yes").out == "charged yes\n"

    def test_the_settings_name_it(self, shop: Shop) -> None:
        shop.lens.write("lens.toml", '[resume]\napp = "shop:registry"\n')
        shop.begin("billing", "one")
        assert resume(shop, "one --input yes").out == "charged yes\n"

    def test_from_another_folder(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        shop.lens.write("src/elsewhere.py", "from shop import registry\n")
        (shop.cwd / "shop.py").rename(shop.cwd / "src" / "shop.py")
        assert resume(shop, "one --app elsewhere:registry --input yes").code == 2
        assert resume(shop, "one --app elsewhere:registry --app-dir src --input yes").out == "charged yes\n"

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("nowhere:registry", "no module named nowhere"),
            ("needy:registry", "no module named acme_client, which needy imports"),
            ("loud:registry", "importing loud failed: ValueError: no settings"),
            ("leaving:registry", "importing leaving failed: SystemExit: 3"),
            ("torn:registry", "importing torn failed: SyntaxError"),
            ("shop:broken", "calling shop:broken failed: RuntimeError: no settings"),
            ("shop:wants", "cannot be called without arguments"),
            ("shop:later", "is an async function"),
            ("shop:number", "has the type int"),
            ("shop:registri", 'no attribute "registri"'),
            ("shop", "does not have the form module:attribute"),
        ],
    )
    def test_what_it_may_not_be(self, shop: Shop, target: str, words: str) -> None:
        shop.begin("billing", "one")
        shop.lens.write("needy.py", "import acme_client\n")
        shop.lens.write("loud.py", "print('here')\nraise ValueError('no settings')\n")
        shop.lens.write("leaving.py", "import sys\nsys.exit(3)\n")
        shop.lens.write("torn.py", "registry = (\n")
        refused = resume(shop, f"one --app {target} --input yes")
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err
        if "no module" in words:
            assert "python -m flujo_lens" in refused.err
        if target == "loud:registry":
            assert "loud.py, line 2" in refused.err

    def test_none_at_all(self, shop: Shop) -> None:
        shop.begin("billing", "one")
        refused = resume(shop, "one --input yes")
        assert (refused.code, "--app" in refused.err) == (2, True)
