"""``lens diff``: two runs side by side, and their differences by path."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import NEW, OLD, Lens, tree

from flujo_lens.operations.document_changes import changes, path_text
from flujo_lens.state.registry import open_backend

WHEN = datetime(2026, 11, 21, 3, 0, tzinfo=UTC).isoformat()
SHAPE = {"format": 1, "pipeline": "orders", "steps": [{"name": name, "kind": "step"} for name in ("load", "charge")]}
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def filled(lens: Lens, *runs: dict[str, Any]) -> None:
    """A new store with these runs: each its steps, and what its state has besides."""

    async def work() -> None:
        async with open_backend("sqlite:///flujo_ops.db", {}, timeout=10, zone=None) as backend:
            for run in runs:
                run_id, steps = run["run_id"], run.pop("steps", [])
                facts = {"pipeline_name": "orders", "pipeline_version": run.get("pipeline_version", "1")}
                await backend.save_run_start({"run_id": run_id, "status": "running", "created_at": WHEN, **facts})
                for index, (name, more) in enumerate(steps):
                    step = {"run_id": run_id, "step_index": index, "step_name": name, "status": "completed", **more}
                    await backend.save_step_result(step)
                await backend.save_state(run_id, {"status": "completed", "updated_at": WHEN, **facts, **run})

    asyncio.run(work())


def test_the_first_step_that_differs_and_all_paths(bare_lens: Lens) -> None:
    left = {"order": {"total": 12, "lines": [{"sku": "a"}, {"sku": "b"}], "gone": 1}, "me": "r-1", "flag": True}
    right = {"order": {"total": 14, "lines": [{"sku": "a"}], "a b": [1]}, "me": "r-2", "flag": 1}
    filled(
        bare_lens,
        {"run_id": "r-1", "steps": [("load", {"output": "r-1"}), ("enrich", {}), ("charge", {"output": {"n": 1}})],
         "pipeline_context": left, "metadata": {"shop": "x"}},
        {"run_id": "r-2", "steps": [("load", {"output": "r-2"}), ("mail", {}), ("charge", {"output": {"n": 2}})],
         "pipeline_context": right, "metadata": {"shop": "y"}, "pipeline_version": "2"},
    )  # fmt: skip
    before = tree(bare_lens.cwd)
    found = bare_lens("diff r-1 r-2 -o json").json
    assert (found["left"]["run_id"], found["right"]["pipeline_version"]) == ("r-1", "2")
    assert found["differs"] == ["pipeline_version", "steps", "context", "metadata"]
    assert [(step["step_name"], step["differs"]) for step in found["steps"]] == [
        ("load", []),  # each has the id of its own run
        ("enrich", ["missing"]),
        ("mail", ["missing"]),
        ("charge", ["output"]),
    ]
    assert found["first_step"] == 1
    assert [(row["path"], row["change"], row["left"], row["right"]) for row in found["context"]] == [
        ("order.total", "changed", 12, 14),
        ("order.lines[1]", "removed", {"sku": "b"}, None),
        ("order.gone", "removed", 1, None),
        ('order["a b"]', "added", None, [1]),
        ("flag", "changed", True, 1),
    ]
    assert found["metadata"] == [{"path": "shop", "change": "changed", "left": "x", "right": "y"}]
    assert found["manifest"] is None
    assert json.loads(bare_lens("diff r-1 r-2 -o ndjson").stdout) == found
    assert tree(bare_lens.cwd) == before


@pytest.mark.parametrize("width", [80, 160])
def test_the_screen(bare_lens: Lens, width: int) -> None:
    ids = ["run_0123456789abcdef0123456789abcdef", "run_fedcba9876543210fedcba9876543210"]
    long = "same " * 50
    steps = [[("load", {"output": long + end}), ("charge", {})] for end in ("one", "two")]
    contexts = [{f"key{n}": n * k for n in range(1, 31)} for k in (1, 2)]
    filled(
        bare_lens,
        {"run_id": ids[0], "steps": steps[0], "pipeline_context": contexts[0]},
        {"run_id": ids[1], "steps": steps[1], "pipeline_context": contexts[1]},
    )
    shown = bare_lens("diff", *ids, tty=True, width=width)
    assert shown.code == 0
    assert max(map(len, shown.lines[:-2])) <= width
    assert [line.split()[:2] for line in shown.lines[1:3]] == [["A", ids[0]], ["B", ids[1]]]
    marked = [line for line in shown.lines if line.startswith("→")]
    assert [line.split()[1:3] for line in marked] == [["0", "load"]]
    assert marked[0].split()[-1] == "output"
    (first,) = [line for line in shown.lines if "same one" in line]
    assert "same two" in first
    assert "and 10 more: --all shows them, -o json has them whole" in shown.lines
    assert "key30" in bare_lens("diff", *ids, "--all", tty=True, width=width).out
    assert bare_lens("diff", *ids).lines[1].split()[1] == ids[0]  # the same screen in a pipe


@pytest.mark.parametrize("width", range(60, 150, 10))
def test_figures_of_a_step_come_in_pairs(bare_lens: Lens, width: int) -> None:
    figures = {"cost_usd": 0.0125, "token_counts": 1234, "execution_time_ms": 1234.5}
    steps = [("load", figures), ("charge_the_customer", {**figures, "output": "x"})]
    filled(bare_lens, {"run_id": "r-1", "steps": steps}, {"run_id": "r-2", "steps": steps[:1]})
    shown = bare_lens("diff r-1 r-2", tty=True, width=width).lines
    (head,) = [line for line in shown if line.split()[:2] == ["#", "STEP"]]
    for figure in ("TIME", "COST", "TOKENS"):
        assert (f"{figure} A" in head) == (f"{figure} B" in head), head
    assert ("TOKENS B" in head) <= ("COST B" in head) <= ("TIME B" in head), head
    assert ("TOKENS B" in head) == (width >= 120), head


def test_secrets_are_masked_and_differ(bare_lens: Lens) -> None:
    secrets = (
        {"db": {"password": "hunter2", "url": "pg://u:pw1@h"}},
        {"db": {"password": "hunter3", "url": "pg://u:pw2@h"}},
    )
    runs = [
        {"run_id": f"r-{n}", "pipeline_context": found, "metadata": {"api_key": f"k-{n}-secret"},
         "steps": [("load", {"output": {"token": f"t-{n}-secret", "text": f"{n} [b]x[/b] password=hunter{n} \x1b"}})]}
        for n, found in enumerate(secrets, 2)
    ]  # fmt: skip
    filled(bare_lens, *runs)
    for line in ("diff r-2 r-3", "diff r-2 r-3 -o json", "diff r-2 r-3 -o ndjson"):
        done = bare_lens(line, tty=True)
        assert not [word for word in ("hunter", "pw1", "pw2", "-secret", "\x1b") if word in done.out], line
        assert "[b]x[/b]" in done.out
    found = bare_lens("diff r-2 r-3 -o json").json
    assert [(row["path"], row["left"]) for row in found["context"]] == [
        ("db.password", "***"),
        ("db.url", "pg://u:***@h"),
    ]
    assert bare_lens("diff r-2 r-3 --show-secrets -o json").json["context"][0]["left"] == "hunter2"


def test_manifests_are_compared_by_step(bare_lens: Lens) -> None:
    filled(bare_lens, {"run_id": "r-1"}, {"run_id": "r-2"})
    other = {**SHAPE, "version": "2", "steps": [{"name": "audit", "kind": "step"}, *reversed(SHAPE["steps"])]}  # type: ignore[arg-type, call-overload]

    async def bind() -> None:
        from flujo_lens.state.claims import Progress

        async with open_backend("sqlite:///flujo_ops.db", {}, timeout=10, zone=None) as backend:
            for run_id, digest, shape in (("r-1", "a" * 64, SHAPE), ("r-2", "b" * 64, other)):
                await backend.put_manifest(digest, shape)
                await backend.save_progress(Progress(run_id, manifest=digest))

    asyncio.run(bind())
    found = bare_lens("diff r-1 r-2 -o json").json
    assert (found["left"]["manifest"], found["differs"]) == ("a" * 64, ["manifest"])
    assert [(row["path"], row["change"]) for row in found["manifest"]] == [
        ("steps.audit", "added"),
        ("order[0]", "changed"),
        ("order[1]", "changed"),
    ]


def test_exit_codes_and_real_stores(lens: Lens) -> None:
    for line, code in (
        ("diff orders-v1-001 orders-v2-001", 0),
        ("diff orders-v1-001 orders-v2-001 --exit-status", 1),
        ("diff fail-001 fail-001 --exit-status", 0),
        ("diff orders- fail-001", 3),
        ("diff fail-001", 2),
        ("diff fail-001 deep-001 -o csv", 2),
        ("diff fail-001 deep-001 --columns run_id", 2),
    ):
        assert lens(line).code == code, line
    newest = lens("list --status failed -n 1 -o id").lines[0]
    assert lens("diff @failed paused-001 -o json").json["left"]["run_id"] == newest


@pytest.mark.parametrize("name", [NEW, OLD])
def test_every_run_of_a_real_store_can_be_compared(bare_lens: Lens, name: str) -> None:
    bare_lens.store(name)
    for run_id in bare_lens("list --all -o id").lines:
        found = bare_lens("diff", run_id, "deep-001", "-o", "json")
        assert (found.code, bool(found.json["differs"])) == (0, run_id != "deep-001"), run_id
        assert bare_lens("diff", run_id, "deep-001", tty=True, width=80).code == 0


# --- documents


def _applied(document: Any, found: Any) -> Any:
    """The left document after all changes."""
    for change in sorted(found, key=lambda each: each.change == "removed"):
        if not change.path:
            return change.right
        place = document
        for part in change.path[:-1]:
            place = place[part]
        last = change.path[-1]
        if change.change != "removed":
            place.insert(last, change.right) if isinstance(place, list) and last == len(place) else place.__setitem__(
                last, change.right
            )
        elif isinstance(place, dict):
            del place[last]
        else:
            del place[min(last, len(place) - 1)]
    return document


@given(NESTED, NESTED)
def test_changes_lead_from_one_document_to_the_other(left: Any, right: Any) -> None:
    found = list(changes(left, right))
    assert json.dumps(_applied(json.loads(json.dumps(left)), found), sort_keys=True) == json.dumps(
        right, sort_keys=True
    )
    assert len({path_text(change.path) for change in found}) == len(found)
    assert list(changes(left, left)) == []


def test_deep_documents() -> None:
    left: Any = 1
    right: Any = 2
    for _ in range(5000):
        left, right = {"a": [left]}, {"a": [right]}
    (change,) = changes(left, right)
    assert (len(change.path), change.left, change.right) == (10_000, 1, 2)


def test_a_run_and_itself_name_one_next_command(lens: Lens) -> None:
    same = lens("diff orders-v1-001 orders-v1-001 -o table")
    assert (same.code, same.out.count("lens show orders-v1-001 -v")) == (0, 1)


def test_the_step_that_a_run_is_at_is_not_missing_and_no_cost_is_none(bare_lens: Lens) -> None:
    """A step has no record until it ends."""
    filled(
        bare_lens,
        {"run_id": "r-1", "steps": [("load", {})], "status": "running", "current_step_index": 1,
         "pipeline_context": {"current_step": "charge"}},
        {"run_id": "r-2", "steps": [("load", {}), ("charge", {"output": 1})]},
    )  # fmt: skip
    found = bare_lens("diff r-1 r-2 -o json").json
    assert [(step["step_name"], step["differs"]) for step in found["steps"]] == [("load", []), ("charge", ["status"])]
    assert found["steps"][1]["left"]["status"] == "running"
    screen = bare_lens("diff r-1 r-2", tty=True, width=160)
    assert "only in" not in screen.out
    (figures,) = (line.split() for line in screen.lines if line.startswith("B - A"))
    assert figures[3:] == ["-", "-", "-"]


def test_show_has_the_metadata_as_the_filter_takes_it(bare_lens: Lens) -> None:
    metadata = {"shop": "north", "lines": [1, 2], "api_token": "hunter2", "note": "x" * 90}
    filled(bare_lens, {"run_id": "r-1", "metadata": metadata})
    (line,) = (line for line in bare_lens("show r-1", tty=True, width=160).lines if line.startswith("metadata "))
    assert line.startswith("metadata shop=north, lines=[1,2], api_token=***, note=xxx")
    assert "x" * 90 not in line
    assert "x" * 90 in "".join(bare_lens("show r-1 -v", tty=True, width=160).out.split())
    assert "note=" + "x" * 90 in bare_lens("show r-1").out
    assert bare_lens("list --meta shop=north -o id").lines == ["r-1"]
    assert "--meta KEY=VALUE" in bare_lens("list --search north").err


def test_show_says_that_a_run_was_redacted_and_does_not_resume_it(bare_lens: Lens) -> None:
    """Of a run whose secrets were masked, not of others of the same copy."""
    secret = {"pipeline_context": {"login": {"password": "hunter2"}}, "status": "failed", "current_step_index": 1}
    filled(bare_lens, {"run_id": "r-1", **secret}, {"run_id": "r-2", "status": "failed", "current_step_index": 1})
    assert "lens resume" in bare_lens("show r-1").out
    assert "redacted" not in bare_lens("show r-1").out
    assert bare_lens("copy flujo_ops.db copy.db --redact").code == 0
    shown = bare_lens("show r-1 -s copy.db").out
    assert "redacted: " in shown
    assert "lens resume" not in shown
    assert "redacted" not in bare_lens("show r-2 -s copy.db").out
    assert "lens resume" in bare_lens("show r-2 -s copy.db").out
