"""``lens check``: real processes, an application in a folder of its own, and one mistake of each kind."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import NEW, NOW, OLD, PACKAGE, Lens, Result, tree

from flujo_lens.operations.runs_in_flight import read_inflight, save_inflight
from flujo_lens.state.registry import open_backend

FIELDS = [
    "pipeline_name",
    "pipeline_version",
    "step_name",
    "status",
    "verdict",
    "code",
    "runs",
    "sample_run_id",
    "differences",
]
SHOP = '''
"""An application: what it runs, and what may become of that."""

import asyncio
import sys

from flujo_lens import Flujo, PipelineContext, PipelineRegistry, SQLiteBackend, Step, step

print("the shop opens")


class Order(PipelineContext):
    customer: str = "Ana"


@step
async def price(order: str) -> float:
    return 9.5


@step
async def charge(answer: str) -> str:
    return answer


def question(name: str, *aliases: str) -> Step:
    return Step.human_in_the_loop(name, message_for_user="Charge it?", aliases=list(aliases))


class Strict(PipelineContext):
    customer: str


def shop(asking: Step, version: str, name: str = "billing", model: type[PipelineContext] = Order) -> Flujo:
    made = PipelineRegistry()
    made.register(price >> asking >> charge, name=name, version=version)
    return Flujo(registry=made, pipeline_name=name, context_model=model)


same = shop(question("approve"), "1.3.0")
strict = shop(question("approve"), "1.3.0", model=Strict)
renamed = shop(question("confirm"), "1.4.0")
with_alias = shop(question("confirm", "approve"), "1.4.0")
misspelt = shop(question("approve"), "1.3.0", "biling")
names = ["billing"]
registry = PipelineRegistry()
registry.register(price >> question("approve") >> charge, name="billing", version="1.3.0")


async def main() -> None:
    async with SQLiteBackend("billing.db") as backend:
        runner = Flujo(registry=registry, pipeline_name="billing", state_backend=backend, context_model=Order)
        for run in sys.argv[1:]:
            await runner.run_async("order", run_id=run)


if __name__ == "__main__":
    asyncio.run(main())
'''


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which three runs of the application wait for a person."""
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    runs, env = ["order-1", "order-2", "order-3"], {"PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "shop.py", *runs], cwd=folder, env=env, check=True)
    return folder / "billing.db"


@pytest.fixture
def shop(bare_lens: Lens, waiting: Path) -> Lens:
    """``lens`` beside that store and its application."""
    bare_lens.write("shop.py", SHOP)
    shutil.copyfile(waiting, bare_lens.cwd / "billing.db")
    bare_lens.env["LENS_STORE"] = "billing.db"
    return bare_lens


def checked(lens: Lens, code: str, more: str = "") -> Result:
    return lens.process(f"check --app shop:{code} {more}", env={"PYTHONDONTWRITEBYTECODE": "1"})


# --- the verdict


def test_code_that_fits(shop: Lens) -> None:
    before = tree(shop.cwd)
    found = checked(shop, "same", "-o json")
    assert (found.code, [list(row) for row in found.json]) == (0, [FIELDS])
    (row,) = found.json
    assert (row["verdict"], row["code"], row["runs"], row["differences"]) == ("identical", None, 3, [])
    assert (row["pipeline_name"], row["pipeline_version"]) == ("billing", "1.3.0")
    assert (row["status"], row["step_name"], row["sample_run_id"]) == ("paused", "approve", "order-1")
    assert found.err == (
        f"the shop opens\nchecked 3 runs in 1 group of {shop.cwd}/billing.db against shop:same: all could resume\n"
    )
    assert tree(shop.cwd) == before


def test_code_that_does_not(shop: Lens) -> None:
    found = checked(shop, "renamed", "-o json")
    (row,) = found.json
    assert (found.code, row["verdict"], row["code"], row["runs"]) == (1, "broken", "LENS-C4", 3)
    assert row["differences"][0]["hinders"] is True
    assert "3 of them could not resume" in found.err
    assert checked(shop, "with_alias", "-q").code == 0
    lost = checked(shop, "misspelt", "-o json")
    assert (lost.code, lost.json[0]["verdict"], lost.json[0]["code"]) == (1, "broken", "LENS-C7")
    assert "did you mean biling?" in lost.json[0]["differences"][0]["sentence"]


def test_a_table_says_what_to_do(shop: Lens) -> None:
    shown = shop.terminal("check --app shop:renamed")
    assert shown.code == 1
    for words in (
        "LENS-C4  broken: 3 paused runs of billing 1.3.0 at approve",
        'aliases=["approve"]',
        'registry.register(old_pipeline, name="billing", version="1.3.0")',
        "lens explain LENS-C4",
        "details of one run: lens resume order-1 --app shop:renamed --dry-run",
    ):
        assert words in shown.out, words


def test_a_table_says_of_how_many_groups_it_has_no_details(shop: Lens) -> None:
    async def save() -> None:
        async with open_backend("sqlite:///billing.db", {}, timeout=10, zone=None) as backend:
            for number in range(4):
                facts = {"pipeline_name": f"gone-{number}", "pipeline_version": "1"}
                await backend.save_state(f"lost-{number}", {"status": "paused", "current_step_index": 1, **facts})

    asyncio.run(save())
    shown = shop.terminal("check --app shop:renamed")
    assert "2 more groups that could not resume: lens check --app shop:renamed -o json" in shown.out
    assert len(checked(shop, "renamed", "-o json").json) == 5


@pytest.mark.parametrize("form", ["ndjson", "csv", "tsv"])
def test_rows_in_other_formats(shop: Lens, form: str) -> None:
    found = checked(shop, "renamed", f"-o {form}")
    rows = [json.loads(line) for line in found.lines] if form == "ndjson" else getattr(found, form)
    assert [(list(row), row["code"], str(row["runs"])) for row in rows] == [(FIELDS, "LENS-C4", "3")]
    assert checked(shop, "renamed", "-o id").lines == ["order-1"]
    assert checked(shop, "renamed", "--columns verdict,runs --no-header").lines == ["broken\t3"]


def test_github(shop: Lens) -> None:
    found = checked(shop, "renamed", "-o github")
    error, last = found.lines
    assert found.code == 1
    assert error.startswith("::error title=lens check%3A broken LENS-C4::broken: 3 paused runs of billing 1.3.0")
    assert '%0A  Step.human_in_the_loop("confirm", ..., aliases=["approve"])%0A' in error
    assert last.startswith("checked 3 runs in 1 group")
    assert checked(shop, "renamed", "-o github --fail-on none").lines[0].startswith("::warning title=")
    assert checked(shop, "with_alias", "-o github").lines[0].startswith("::warning title=lens check%3A remapped::")
    assert len(checked(shop, "same", "-o github").lines) == 1


def test_junit(shop: Lens) -> None:
    suite = ElementTree.fromstring(checked(shop, "renamed", "-o junit --min-runs 4").stdout)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    group, number = suite.findall("testcase")
    assert group.get("classname") == "billing 1.3.0"
    assert str(group.get("name")).startswith("paused at approve, shape ")
    failure = group.find("failure")
    assert failure is not None
    assert failure.get("type") == "LENS-C4"
    assert 'aliases=["approve"]' in str(failure.text)
    assert number.find("failure") is not None
    well = ElementTree.fromstring(checked(shop, "same", "-o junit").stdout)[0]
    assert (well.get("tests"), well.get("failures"), well.findall(".//failure")) == ("1", "0", [])
    assert {each.get("name"): each.get("value") for each in well.iter("property")}["runs"] == "3"


def test_names_that_would_break_a_format(shop: Lens) -> None:
    odd = "a%0A\n::error::<b>&]]>,\x1b[31m"
    shop.edit(
        ("UPDATE workflow_state SET pipeline_name = ?", (odd,)),
        ("UPDATE runs SET pipeline_name = ?", (odd,)),
        store="billing.db",
    )
    lines = checked(shop, "same", "-o github").lines
    assert [line.startswith("::error title=lens check%3A broken LENS-C7::") for line in lines] == [True, False]
    assert "a%250A" in lines[0]
    assert "\x1b" not in "".join(lines)
    case = ElementTree.fromstring(checked(shop, "same", "-o junit").stdout)[0].find("testcase")
    assert case is not None
    assert case.get("classname") == "a%0A\\n::error::<b>&]]>,\\x1b[31m 1.3.0"


@pytest.mark.parametrize("code", ["same", "renamed", "with_alias", "misspelt", "strict", "registry"])
def test_a_resume_says_the_same(shop: Lens, code: str) -> None:
    (row,) = checked(shop, code, "-o json").json
    told = shop.process(f"resume order-1 --app shop:{code} --dry-run -o json")
    one = told.json if told.code == 0 else json.loads(told.err.splitlines()[-1])["error"]
    assert told.code == (0 if row["code"] is None else 4)
    assert (one["verdict"], one["differences"]) == (row["verdict"], row["differences"])
    assert row["code"] == (None if told.code == 0 else one["code"])


# --- when it fails


@pytest.mark.parametrize(
    ("code", "options", "exit_code"),
    [
        ("renamed", "--fail-on none", 0),
        ("renamed", "--fail-on unknown,needs-migration", 0),
        ("renamed", "--fail-on broken", 1),
        ("with_alias", "", 0),
        ("with_alias", "--fail-on remapped", 1),
        ("strict", "", 0),
        ("strict", "--fail-on compatible", 1),
        ("same", "--min-runs 3", 0),
        ("same", "--min-runs 4", 1),
        ("renamed", "--status failed", 0),
        ("renamed", "--status failed --min-runs 1", 1),
        ("renamed", "--pipeline orders", 0),
        ("renamed", "--search order-2", 1),
        ("renamed", "--deep", 1),
        ("same", "--deep", 0),
    ],
)
def test_the_exit_code(shop: Lens, code: str, options: str, exit_code: int) -> None:
    assert checked(shop, code, options).code == exit_code


def test_a_context_that_nobody_could_resume_with_is_found_by_reading_it(shop: Lens) -> None:
    shop.edit(
        "UPDATE workflow_state SET pipeline_context = json_set(pipeline_context, '$.customer', 7) "
        "WHERE run_id <> 'order-2'",
        store="billing.db",
    )
    for option in ("", "--deep "):
        found = checked(shop, "same", f"{option}-o json")
        assert found.code == 1
        assert [(row["verdict"], row["code"], row["runs"], row["sample_run_id"]) for row in found.json] == [
            ("needs-migration", "LENS-C5", 2, "order-1"),
            ("identical", None, 1, "order-2"),
        ]


def test_many_contexts_are_not_read_without_being_asked_for(shop: Lens) -> None:
    """Then nothing is called identical: of what was not read nobody knows."""
    many = "WITH RECURSIVE n(at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < 1000)"
    shop.edit(
        "CREATE TEMP TABLE one AS SELECT * FROM workflow_state WHERE run_id = 'order-1'",
        "CREATE TEMP TABLE more AS SELECT * FROM one WHERE 0",
        f"INSERT INTO more {many} SELECT one.* FROM one, n",
        "UPDATE more SET run_id = 'more-' || rowid",
        "UPDATE more SET pipeline_context = json_set(pipeline_context, '$.customer', 7) WHERE run_id = 'more-7'",
        "INSERT INTO workflow_state SELECT * FROM more",
        "INSERT INTO lens_run_manifests SELECT m.run_id, b.digest FROM more m, lens_run_manifests b "
        "WHERE b.run_id = 'order-1'",
        store="billing.db",
    )
    found = checked(shop, "same", "-o json")
    assert (found.code, {row["verdict"] for row in found.json}) == (0, {"shape-matches"})
    assert "the contexts of 1,003 runs were not read: their shapes match; --deep reads them" in found.err
    for form in ("github", "junit"):
        found = checked(shop, "same", f"-o {form}")
        assert "the contexts of 1,003 runs were not read" in found.err
    assert "all could resume; 1,003 contexts not read" in checked(shop, "same", "-o github").out
    found = checked(shop, "same", "--deep -o json")
    assert (found.code, found.json[0]["code"], found.json[0]["sample_run_id"]) == (1, "LENS-C5", "more-7")


@pytest.mark.parametrize(
    ("options", "code", "exit_code"),
    [
        ("-s missing.db", "LENS-S1", 5),
        ("-s shop.py", "LENS-S3", 5),
        ("--from missing.json", "LENS-T", 2),
        ("--fail-on nothing", "LENS-U3", 2),
        ("--app shop:nothing", "LENS-U9", 2),
        ("--status sleeping", "LENS-U3", 2),
        ("--from x --deep", "LENS-U1", 2),
    ],
)
def test_an_error_is_told_to_ci_too(shop: Lens, options: str, code: str, exit_code: int) -> None:
    asked = options if "--app" in options else f"--app shop:same {options}"
    found = shop.process(f"check {asked} -o junit", env={"PYTHONDONTWRITEBYTECODE": "1"})
    error = ElementTree.fromstring(found.stdout).find("testsuite/testcase/error")
    assert error is not None
    plain = shop.process(f"check {asked} -o json", env={"PYTHONDONTWRITEBYTECODE": "1"})
    told = json.loads(plain.err.splitlines()[-1])["error"]
    assert (error.get("type"), error.get("message")) == (told["code"], told["message"])
    found_by_github = shop.process(f"check {asked} -o github", env={"PYTHONDONTWRITEBYTECODE": "1"})
    (line,) = found_by_github.lines
    assert line.startswith(f"::error title=lens check%3A {told['code']}::")
    assert found.code == plain.code == found_by_github.code


def test_too_few_runs(shop: Lens) -> None:
    found = checked(shop, "same", "--pipeline orders --min-runs 1 -o github -q")
    assert found.code == 1
    assert found.lines[0].startswith("::error title=lens check::0 runs found, fewer than --min-runs 1")
    assert "0 runs found, fewer than --min-runs 1: is it the right store?" in found.err


def test_an_empty_check_says_so(shop: Lens) -> None:
    found = checked(shop, "same", "--status failed")
    assert found.code == 0
    assert "checked 0 runs against shop:same: no resumable runs" in found.err


def test_an_application_that_does_not_say_what_its_context_is(shop: Lens) -> None:
    found = checked(shop, "registry", "-o json")
    assert (found.code, found.json[0]["code"]) == (1, "LENS-C5")
    assert "shop:registry has no context model: name a Flujo with a context_model" in found.err
    assert "no context of its own" not in checked(shop, "same").err


# --- without the store


@pytest.fixture
def saved(shop: Lens) -> Lens:
    """The same, with what CI needs in a file; the store is gone."""
    assert shop.process("check --save inflight.json").code == 0
    (shop.cwd / "billing.db").unlink()
    return shop


def test_save_and_check(shop: Lens) -> None:
    found = shop.process("check --save inflight.json")
    assert (found.code, found.out, found.err) == (
        0,
        "saved the positions of 3 runs in 1 group to inflight.json\n",
        "",
    )
    path = shop.cwd / "inflight.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "Ana" not in path.read_text(encoding="ascii")
    with_store = checked(shop, "renamed", "-o json")
    (shop.cwd / "billing.db").unlink()
    from_file = checked(shop, "renamed", "--from inflight.json -o json")
    assert (from_file.code, from_file.stdout) == (1, with_store.stdout)
    assert f"3 runs in 1 group of {shop.cwd}/billing.db at 2" in from_file.err


def test_save_tells_what_it_saved(shop: Lens) -> None:
    found = shop.process("check --save inflight.json -o json --status paused")
    assert list(found.json) == ["path", "store", "made_at", "runs", "groups"]
    assert (found.json["runs"], found.json["groups"]) == (3, 1)
    assert shop.process("check --save inflight.json --min-runs 4").code == 1
    both = checked(shop, "renamed", "--save both.json -o id")
    assert (both.code, both.lines, (shop.cwd / "both.json").exists()) == (1, ["order-1"], True)


def test_save_replaces_nothing_else(shop: Lens) -> None:
    found = shop.process("check --save shop.py -o json")
    assert (found.code, found.error["code"]) == (5, "LENS-T3")
    assert (shop.cwd / "shop.py").read_text(encoding="utf-8") == SHOP
    assert shop.process("check --save inflight.json").code == shop.process("check --save inflight.json").code == 0
    assert shop.process("check --save shop.py --force").code == 0


def made_at(lens: Lens, when: datetime) -> None:
    path = lens.cwd / "inflight.json"
    save_inflight(path, read_inflight(path)._replace(made_at=when))


@pytest.mark.parametrize(
    ("age", "options", "exit_code", "words"),
    [
        (timedelta(hours=23), "--max-age 1d", 0, "all could resume"),
        (timedelta(hours=25), "--max-age 1d", 1, "inflight.json is 1d old"),
        (timedelta(hours=25), "", 0, "all could resume"),
        (timedelta(days=-3), "--max-age 1d", 1, "from the future, by 2d"),
    ],
)
def test_the_age_of_a_file(saved: Lens, age: timedelta, options: str, exit_code: int, words: str) -> None:
    made_at(saved, datetime.now(UTC) - age)
    found = checked(saved, "same", f"--from inflight.json {options}")
    assert (found.code, words in found.err) == (exit_code, True)


def test_a_file_that_is_too_old_is_told_before_the_application_is_imported(saved: Lens) -> None:
    made_at(saved, NOW - timedelta(days=3))
    found = saved("check --from inflight.json --max-age 1d --app nowhere:same -o json")
    assert (found.code, found.error["code"]) == (1, "LENS-F1")
    assert "3d old" in found.error["message"]
    assert "lens check --save inflight.json" in found.error["hint"]


def test_filters_of_a_file(saved: Lens) -> None:
    assert checked(saved, "renamed", "--from inflight.json --status failed").code == 0
    assert checked(saved, "renamed", "--from inflight.json --pipeline billing --version 1.3.0").code == 1
    found = saved("check --from inflight.json --search order --app x:y")
    assert (found.code, "only by --status, --pipeline and --version" in found.err) == (2, True)


# --- mistakes


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("check", 2, "no application to check"),
        ("check --app shop", 2, "module:attribute"),
        ("check --app shop:same -o xml", 2, 'unknown output format "xml"'),
        ("check --app shop:same --fail-on brokn", 2, "Did you mean broken?"),
        ("check --app shop:same --fail-on none,broken", 2, "cannot be combined with a verdict"),
        ("check --app shop:same --fail-on ,", 2, 'unknown verdict ","'),
        ("check --app shop:same --min-runs some", 2, "--min-runs"),
        ("check --app shop:same --max-age 1d", 2, "needs --from"),
        ("check --app shop:same --force", 2, "--force needs --save"),
        ("check --from f --max-age soon", 2, 'takes an age, not "soon"'),
        ("check --from f --max-age 0d", 2, "takes an age"),
        ("check --from f --deep", 2, "--from cannot be combined with --deep"),
        ("check --from f --save g", 2, "--from cannot be combined with --save"),
        ("check --save g --deep", 2, "--save cannot be combined with --deep"),
        ("check --from f --app shop:same", 2, "no such file: f"),
        ("check --from shop.py --app shop:same", 5, "it was not written by lens check --save"),
        ("check --save nowhere/g", 1, "cannot write nowhere/g"),
        ("check --save g --store nowhere.db", 5, "nowhere.db"),
        ("check --app shop:same --columns verdict,runz", 2, "Did you mean runs?"),
    ],
)
def test_a_mistake(shop: Lens, line: str, code: int, words: str) -> None:
    before = tree(shop.cwd)
    found = shop(line)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert tree(shop.cwd) == before
    assert "shop" not in sys.modules


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:registry", "no module named nowhere"),
        ("shop:registri", "did you mean registry?"),
        ("shop:names", "shop:names has the type list"),
        ("broken:registry", "RuntimeError: no settings"),
        ("lacking:registry", "no module named acme_lib, which lacking imports"),
        ("later:registry", "ValueError: not now"),
    ],
)
def test_an_application_that_cannot_be_had(shop: Lens, target: str, words: str) -> None:
    shop.write("broken.py", "raise RuntimeError('no settings')")
    shop.write("lacking.py", "import acme_lib")
    shop.write("later.py", "def registry():\n    raise ValueError('not now')")
    found = shop.process(f"check --app {target}")
    assert (found.code, found.out) == (2, "")
    assert words in found.err
    assert "Traceback" not in found.err


def test_the_application_of_the_settings_and_of_another_folder(shop: Lens) -> None:
    shop.write("lens.toml", '[resume]\napp = "shop:renamed"\n')
    assert shop.process("check").code == 1
    assert checked(shop, "same").code == 0
    shop.write("elsewhere/other.py", "from shop import same")
    (shop.cwd / "shop.py").rename(shop.cwd / "elsewhere" / "shop.py")
    assert shop.process("check --app other:same --app-dir elsewhere").code == 0


# --- stores of the library


@pytest.mark.parametrize("store", [NEW, OLD])
def test_stores_without_manifests(bare_lens: Lens, store: str) -> None:
    bare_lens.store(store)
    bare_lens.write(
        "app.py",
        """
from flujo_lens import PipelineRegistry, Step, step

@step
async def load(given: str) -> str:
    return given

registry = PipelineRegistry()
registry.register(load >> Step.human_in_the_loop("approve", message_for_user="?"), name="approvals", version="1.0.0")
""",
    )
    before = {path.name: path.read_bytes() for path in bare_lens.cwd.glob("flujo_ops.db*")}
    found = bare_lens.process("check --app app:registry -o json")
    rows = {row["sample_run_id"]: row for row in found.json}
    assert found.code == 1
    good = rows["paused-001"]
    assert (good["verdict"], good["step_name"], good["code"]) == ("names-match", "approve", None)
    assert {rows[run]["verdict"] for run in ("fail-001", "crashed-001")} == {"broken"}
    assert rows["paused-schema-001"]["verdict"] == "unknown"
    assert "without a manifest: checked only by version and step names" in found.err
    assert {path.name: path.read_bytes() for path in bare_lens.cwd.glob("flujo_ops.db*")} == before


def test_a_folder_of_files(bare_lens: Lens) -> None:
    bare_lens.files(NEW)
    bare_lens.write(
        "app.py",
        "from flujo_lens import Step, step\n\n\n@step\nasync def load(given: str) -> str:\n    return given\n\n\n"
        'pipeline = load >> Step.human_in_the_loop("approve", message_for_user="?")\n',
    )
    found = bare_lens.process("check --app app:pipeline --store states/ -o json")
    rows = {row["sample_run_id"]: row["verdict"] for row in found.json}
    assert (found.code, rows["paused-001"], rows["crashed-001"]) == (1, "names-match", "unknown")
    assert Path(bare_lens.cwd / "states").is_dir()
