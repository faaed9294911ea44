"""The sample store: every command has something to show on it, and making it destroys nothing."""

from __future__ import annotations

import fields
import pytest
from support import Lens, tree


@pytest.fixture
def demo(bare_lens: Lens) -> Lens:
    """``lens`` beside the sample store, as the usual one."""
    assert bare_lens("demo flujo_ops.db").out == "flujo_ops.db\n"
    return bare_lens


def test_there_is_every_status(demo: Lens) -> None:
    assert {run["status"] for run in demo("list --all -o json").json} == fields.STATUSES


@pytest.mark.parametrize("tty", [True, False])
def test_every_command_shows_something(demo: Lens, tty: bool) -> None:
    words = ["list", "failed", "waiting", "tasks", "evals", "system list", "stats", "status", "spans @failed"]
    for line in [*words, "show @failed", "show @paused", "trace @failed", "trace @latest"]:
        shown = demo(line, tty=tty)
        assert shown.code == 0
        assert len(shown.lines) > 1 or line == "trace @latest", line
    assert demo("status --exit-status").code == 1


def test_every_run_can_be_shown(demo: Lens) -> None:
    for run in demo("list --all -o id").lines:
        assert demo("show", run, "-v", tty=True).code == 0
        assert demo("trace", run, tty=True).code == 0


def test_it_is_made_where_it_is_wanted(bare_lens: Lens) -> None:
    made = bare_lens("demo", tty=True)
    assert (made.code, made.out.split()[:2]) == (0, ["created", "flujo_demo.db"])
    assert list(tree(bare_lens.cwd)) == ["flujo_demo.db"]
    assert "lens status --store flujo_demo.db" in made.err
    assert bare_lens("status -s flujo_demo.db").code == 0


def test_it_overwrites_nothing(lens: Lens) -> None:
    before = tree(lens.cwd)
    for path in ("flujo_ops.db", ".", "no/such/folder.db", "/proc/x.db"):
        refused = lens("demo", path)
        assert refused.code == (1 if path.startswith("/proc") else 2)
        assert refused.out == ""
        assert "Traceback" not in refused.err
    assert tree(lens.cwd) == before


def test_its_ids_lead_back(bare_lens: Lens) -> None:
    made = bare_lens("demo 'two words.db'")
    proposed = made.err.splitlines()[0].partition("lens ")[2]
    assert bare_lens(proposed).code == 0


def test_the_sample_store_is_suggested_where_it_is(bare_lens: Lens) -> None:
    assert bare_lens("status").err.endswith("to try lens: lens demo\n")
    assert bare_lens("demo").code == 0
    assert bare_lens("status").err.endswith("to try lens: lens status --store flujo_demo.db\n")


def test_a_new_store_is_not_begun_on_a_full_disk(bare_lens: Lens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_lens.state.backends.sqlite.writes.write_connection._NEW_FILE", 1 << 62)
    refused = bare_lens("init new.db")
    assert (refused.code, "KiB free; nothing was created" in refused.err) == (1, True)
    assert not (bare_lens.cwd / "new.db").exists()


def test_a_new_store_is_created_in_no_new_folder(bare_lens: Lens) -> None:
    for line in ("init no/such.db", "init no/such/", "init sqlite:///no/such.db", "init file://{}/no/such/dir"):
        refused = bare_lens(line.format(bare_lens.cwd))
        assert (refused.code, "no such folder" in refused.err, "mkdir -p" in refused.err) == (2, True, True), line
    assert list(tree(bare_lens.cwd)) == []
    assert bare_lens("init new/").code == 0
