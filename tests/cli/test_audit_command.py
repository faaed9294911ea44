"""``lens audit``: what it prints, which log it reads, and what is never written down."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from support import NOW, PACKAGE, Lens, tree

from flujo_lens.cli.audited_command import recorded
from flujo_lens.operations.audit import AuditLog

FIELDS = ["audit_id", "at", "store", "actor", "host", "command", "reason", "state", "counts", "run_ids", "error"]


def write(path: Path, *run_ids: str, hours: int = 0, reason: str | None = "disk full") -> str:
    log = AuditLog(path, actor="ana", host="ops1", now=lambda: NOW - timedelta(hours=hours))
    words = ["lens", "delete", *run_ids]
    return log.append(command=words, reason=reason, counts={"deleted": len(run_ids)}, run_ids=run_ids)


@pytest.fixture
def path(lens: Lens) -> Path:
    """The log beside the store, with three entries: 48, 24 and 2 hours old."""
    path = lens.cwd / "flujo_ops.db.lens-audit.ndjson"
    for hours, run_ids in ((48, ["a 1"]), (24, ["b"]), (2, ["a 1", "c"])):
        write(path, *run_ids, hours=hours)
    return path


def test_a_table_newest_first(lens: Lens, path: Path) -> None:
    shown = lens("audit", tty=True, width=180)
    head, *rows = shown.lines
    assert head.split() == [
        "AUDIT",
        "ID",
        "WHEN",
        "WHO",
        "HOST",
        "STORE",
        "COMMAND",
        "STATE",
        "COUNTS",
        "RUNS",
        "REASON",
    ]
    assert [row.split()[1] for row in rows] == ["2h", "1d", "2d"]
    assert "lens delete 'a 1' c" in rows[0]
    assert "2 deleted" in rows[0]


def test_the_fields(lens: Lens, path: Path) -> None:
    newest = lens("audit list -o json").json[0]
    assert list(newest) == FIELDS
    assert newest["at"] == "2026-11-21T01:11:08Z"
    assert newest["command"] == ["lens", "delete", "a 1", "c"]
    assert (newest["counts"], newest["run_ids"], newest["reason"]) == ({"deleted": 2}, ["a 1", "c"], "disk full")
    assert list(lens("audit").tsv[0]) == FIELDS
    assert [row["audit_id"] for row in lens("audit -o csv").csv] == lens("audit -o id").lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--run 'a 1'", [2, 48]),
        ("--run b", [24]),
        ("--run nothing", []),
        ("--since 25h", [2, 24]),
        ("--since 2026-11-20T22:00", []),
        ("--run 'a 1' --since 1d", [2]),
        ("-n 1", [2]),
    ],
)
def test_which(lens: Lens, path: Path, options: str, expected: list[int]) -> None:
    shown = lens(f"audit {options} --columns at -o tsv --no-header")
    times = [(NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ") for hours in expected]
    assert (shown.code, shown.lines) == (0, times)


def test_an_id_as_it_is_printed(lens: Lens) -> None:
    write(lens.cwd / "flujo_ops.db.lens-audit.ndjson", "a\nb")
    assert len(lens("audit", "--run", r"a\nb", "-o", "json").json) == 1
    assert len(lens("audit", "--run", "a\nb", "-o", "json").json) == 1


def test_what_was_cut_off_is_said(lens: Lens, path: Path) -> None:
    assert lens("audit -n 2").err == "showing the newest 2 of 3; all: lens audit list -n 3\n"
    assert lens("audit -n 3").err == ""


def test_entries_without_ids_are_said(lens: Lens, path: Path) -> None:
    write(path, *(str(number) for number in range(10_001)))
    shown = lens("audit --run b -o id")
    assert len(shown.lines) == 1
    assert "1 entry with too many runs" in shown.err


@pytest.mark.parametrize("line", ["audit", "audit verify", "audit --run a", "audit verify -o json"])
@pytest.mark.parametrize("store", ["flujo_ops.db", "sqlite:///flujo_ops.db", "states"])
def test_a_store_without_a_log(lens: Lens, line: str, store: str) -> None:
    lens.files(to="states")
    before = tree(lens.cwd)
    assert lens(f"{line} -s {store}").code == 0
    assert tree(lens.cwd) == before


def test_reading_changes_nothing(lens: Lens, path: Path) -> None:
    before = tree(lens.folder)
    assert (lens("audit").code, lens("audit verify").code) == (0, 0)
    assert tree(lens.folder) == before


def test_of_a_folder_of_files(lens: Lens) -> None:
    lens.files(to="states")
    given = write(lens.cwd / "states.lens-audit.ndjson", "a")
    assert lens("audit -s states/ -o id").lines == [given]


@pytest.mark.parametrize("store", ["nowhere.db", "sqlite:///nowhere.db", "file:///nowhere", "text.db"])
@pytest.mark.parametrize("line", ["audit", "audit verify"])
def test_no_store(lens: Lens, line: str, store: str) -> None:
    lens.write("text.db", "no store")
    assert lens(f"{line} -s {store}").code == 5


def test_the_log_is_where_it_is_said_to_be(lens: Lens, path: Path) -> None:
    other = write(lens.cwd / "other.ndjson", "z")
    assert lens("audit --audit-file other.ndjson -o id").lines == [other]
    assert lens("audit verify --audit-file other.ndjson").out == "1 change (1 entry), chain intact\n"
    third = write(lens.cwd / "third.ndjson", "z")
    lens.write("lens.toml", 'default = "flujo_ops.db"\n[audit]\npath = "third.ndjson"\n')
    assert lens("audit -o id").lines == [third]
    missing = lens("audit --audit-file nowhere.ndjson -o json")
    assert (missing.code, missing.error["code"]) == (5, "LENS-S1")


def test_a_log_needs_no_store_if_it_is_named(bare_lens: Lens) -> None:
    given = write(bare_lens.cwd / "old.ndjson", "a")
    assert bare_lens("audit --audit-file old.ndjson -o id").lines == [given]


DRIVER = """
class Backend:
    def __init__(self, uri):
        pass

    async def save_state(self, run_id, state):
        raise AssertionError("a reading command saves")

    load_state = delete_state = save_state
"""


def test_a_driver_without_a_path(lens: Lens) -> None:
    lens.write("home/elsewhere.py", DRIVER)
    lens.write("lens.toml", '[drivers]\nserver = "elsewhere:Backend"\n')
    paths = f"{PACKAGE.parent}:{lens.cwd / 'home'}"
    shown = lens.process("audit -s server://x -o json", env={"PYTHONPATH": paths})
    assert (shown.code, shown.error["code"]) == (2, "LENS-U6")
    given = write(lens.cwd / "elsewhere.ndjson", "a")
    shown = lens.process("audit -s server://x --audit-file elsewhere.ndjson -o id", env={"PYTHONPATH": paths})
    assert shown.lines == [given]


# --- verify


def test_a_whole_chain(lens: Lens, path: Path) -> None:
    shown = lens("audit verify")
    assert (shown.code, shown.out, shown.err) == (0, "3 changes (3 entries), chain intact\n", "")
    report = lens("audit verify -o json").json
    assert {name: report[name] for name in ("ok", "entries", "line", "why", "torn")} == {
        "ok": True,
        "entries": 3,
        "line": None,
        "why": None,
        "torn": [],
    }


def test_the_changes_verified_are_the_changes_listed(lens: Lens, path: Path) -> None:
    """A start and its result are two entries of one change; so is a start without a result, or one of these alone."""
    log = AuditLog(path, actor="ana", host="ops1", now=lambda: NOW)
    words = ["lens", "delete", "d"]
    for counts in ({"deleted": 1}, {}):
        begun = log.append(command=words, reason=None, counts={"deleted": 1}, run_ids=["d"], state="started")
        log.append(command=words, reason=None, counts=counts, run_ids=["d"], closes=begun)
    log.append(command=words, reason=None, counts={"deleted": 1}, run_ids=["e"], state="started")
    log.append(
        command=words, reason=None, counts={"deleted": 1}, run_ids=["f"], closes="20261101T000000000000-00000000"
    )
    assert lens("audit verify").out == "7 changes (9 entries), chain intact\n"
    assert lens("audit verify -o json").json["changes"] == len(lens("audit -o json").json) == 7


@pytest.mark.parametrize(
    ("change", "line", "why"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"disk", b"dusk"), lines[2]], 2, "changed"),
        (lambda lines: [lines[0], lines[2]], 2, "removed"),
        (lambda lines: [*lines[:2], b"hello\n", lines[2]], 3, "no JSON"),
        (lambda lines: [*lines[:2], lines[2][:100]], 3, "torn"),
    ],
)
def test_a_broken_chain(lens: Lens, path: Path, change, line: int, why: str) -> None:  # type: ignore[no-untyped-def]
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    shown = lens("audit verify", tty=True)
    assert shown.code == 1
    assert shown.out.startswith(f"line {line} of ")
    shown = lens("audit verify -o json")
    assert (shown.code, shown.json["line"], shown.json["why"], shown.json["ok"]) == (1, line, why, False)


def test_a_torn_line_that_was_chained_over_is_said(lens: Lens, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])
    path.with_name(f"{path.name}.head").unlink()  # of a writer that died there was none yet
    write(path, "d")
    shown = lens("audit verify")
    assert (shown.code, shown.out) == (0, "3 changes (3 entries), chain intact\n")
    assert "line 3" in shown.err
    assert "1 of the lines" in lens("audit").err


# --- what others wrote into it


def test_text_is_data(lens: Lens) -> None:
    path = lens.cwd / "flujo_ops.db.lens-audit.ndjson"
    write(path, "\x1b[2Jid", reason="[red]x[/red] \x1b]0;title\x07 postgres://u:hunter2@db/x")
    for form in ("", " -o csv", " -o tsv", " -o json"):
        for tty in (True, False):
            shown = lens(f"audit{form}", tty=tty, width=200)
            assert "\x1b" not in shown.out
            assert "hunter2" not in shown.out
    assert "[red]x[/red]" in lens("audit", tty=True, width=200).out


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("lens prune --older-than 30d", "lens prune --older-than 30d"),
        ("lens delete r -s postgres://u:pw@h/db", "lens delete r -s postgres://u:***@h/db"),
        ("lens delete r --store=postgres://h/db?password=pw", "lens delete r --store=postgres://h/db?password=***"),
        ("lens resume r --input pw --yes", "lens resume r --input *** --yes"),
        ("lens resume r --input=pw", "lens resume r --input=***"),
        ("lens resume r --input-json pw=1", "lens resume r --input-json ***"),
        ("lens resume r --input-file=pw", "lens resume r --input-file=***"),
        ("lens resume r --input=a=pw x", "lens resume r --input=*** x"),
        ("lens prune --meta api_key=pw --meta a=b", "lens prune --meta api_key=*** --meta a=b"),
        ("lens prune --meta=card=pw", "lens prune --meta=card=***"),
        ("lens system set KEY pw", "lens system set KEY ***"),
        ("lens system set -s prod KEY pw --reason=r", "lens system set -s prod *** *** --reason=r"),
        ("lens delete system set", "lens delete system set"),
    ],
)
def test_what_is_kept_of_a_command_line(typed: str, kept: str) -> None:
    assert recorded(typed.split(), ["card"]) == kept.split()


def test_the_log_and_the_bin_of_a_store_that_is_gone_are_told(lens: Lens) -> None:
    lens("delete fail-001 --yes")
    (lens.cwd / "flujo_ops.db").unlink()
    store = f"-s {lens.cwd}/flujo_ops.db"
    assert "fail-001" in lens(f"audit --run fail-001 -o json {store}").out
    assert lens(f"audit verify {store}").code == 0
    assert [item["runs"] for item in lens(f"undo -o json {store}").json] == [1]
    assert lens("audit -s ./nowhere.db").code == lens("undo -s ./nowhere.db").code == 5


# --- several stores, and what came of a change


SHARED = """
default = "prod"
[stores.prod]
uri = "sqlite:///prod.db"
[stores.staging]
uri = "sqlite:///staging.db"
"""


@pytest.fixture
def two(lens: Lens) -> Lens:
    """Two stores that settings name, with a change in each."""
    for name in ("prod", "staging"):
        lens.store(to=f"{name}.db")
    lens.write("lens.toml", SHARED)
    return lens


@pytest.mark.parametrize("log", ["", '[audit]\npath = "audit.ndjson"\n'])
def test_the_changes_of_the_store_that_is_meant(two: Lens, log: str) -> None:
    two.write("lens.toml", SHARED + log)
    assert two("delete plain-001 --yes -q").code == 0
    assert two("delete single-001 --yes -q -s staging").code == 0
    (prod,) = two("audit -o json").json
    (staging,) = two("audit -s staging -o json").json
    assert (prod["run_ids"], staging["run_ids"]) == (["plain-001"], ["single-001"])
    assert prod["store"].endswith("/prod.db")
    assert staging["store"].endswith("/staging.db")
    assert two("audit -s staging --run plain-001 -o json").json == []
    assert two("audit -s ./prod.db -o id").lines == [prod["audit_id"]]
    every = two("audit --all-stores -o json").json
    assert {row["audit_id"] for row in every} == {staging["audit_id"], prod["audit_id"]}
    assert ("of other stores" in two("audit").err) is bool(log)


def test_a_store_that_was_renamed_keeps_its_log(lens: Lens) -> None:
    assert lens("delete plain-001 --yes -q").code == 0
    for name in ("flujo_ops.db", "flujo_ops.db.lens-audit.ndjson"):
        (lens.cwd / name).rename(lens.cwd / name.replace("flujo_ops", "other"))
    assert [row["run_ids"] for row in lens("audit -s other.db -o json").json] == [["plain-001"]]


def test_what_was_tried_and_what_came_of_it(lens: Lens) -> None:
    assert lens("cancel paused-001 --yes --reason 'key api_key=hush-1 leaked'").code == 0
    lens.edit("CREATE TRIGGER stop BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert lens("delete plain-001 --yes").code != 0
    failed, done = lens("audit -o json").json
    assert (done["state"], done["counts"], done["run_ids"], done["error"]) == (
        "finished", {"cancelled": 1}, ["paused-001"], None,
    )  # fmt: skip
    assert done["reason"] == "key api_key=*** leaked"
    assert failed["state"] == "failed"
    assert failed["error"].startswith("LENS-")
    assert failed["counts"]["deleted"] == 0
    assert "failed: LENS-" in lens("audit", tty=True, width=180).out
    assert "hush" not in (lens.cwd / "flujo_ops.db.lens-audit.ndjson").read_text()


def test_a_cut_log(lens: Lens, path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    shown = lens("audit verify")
    assert (shown.code, shown.out.partition(" of ")[0]) == (1, "line 3")
    assert "truncated" in shown.out
    assert lens("audit verify -o json").json["why"] == "cut"


def test_a_log_of_before_is_whole_with_a_note(lens: Lens, path: Path) -> None:
    path.with_name(f"{path.name}.head").unlink()
    shown = lens("audit verify")
    assert (shown.code, shown.out) == (0, "3 changes (3 entries), chain intact\n")
    assert "lines removed from the end cannot be detected" in shown.err
