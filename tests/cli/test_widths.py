"""Every screen at 80, 120 and 160 columns: no line is wider, and the key columns are there."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len
from support import Lens

KEYS = {
    "list": ("RUN", "PIPELINE", "STATUS", "STARTED", "RateLimitError:"),
    "list --sort cost": ("RUN", "COST", "PIPELINE", "STATUS", "STARTED"),
    "failed": ("RUNS", "FIRST", "LAST", "STEP", "ERROR", "payments-7731"),
    "failed --by version": ("PIPELINE", "VERSION", "FAILED", "OF", "USUAL", "enrich", "ERROR", "payments-7731"),
    "failed --flat": ("RUN", "PIPELINE", "STATUS", "STARTED", "RateLimitError:"),
    "waiting": ("WAITS", "RUN", "PIPELINE", "STEP", "Approve invoice 4711?"),
    "stats": ("PIPELINE", "RUNS", "COMPLETED", "FAILED", "PAUSED", "RUNNING", "CANCELLED", "ERROR", "SPAN"),
    "stats --by version": ("VERSION", "RUNS", "COMPLETED", "FAILED", "PAUSED", "RUNNING", "CANCELLED"),
    "stats --by day": ("DAY", "RUNS", "COMPLETED", "FAILED", "PAUSED", "RUNNING", "CANCELLED", "BY", "█"),
    "stats --by hour": ("HOUR", "RUNS", "COMPLETED", "FAILED", "PAUSED", "RUNNING", "CANCELLED", "BY", "█"),
    "show payments-7731": ("#", "STEP", "STATUS", "TIME", "ValueError"),
    "show approve-4711": ("STEP", "STATUS", "Approve invoice 4711?"),
    "trace research-0022": ("pipeline_run", "█", "TimeoutError"),
    "spans research-0022": ("NAME", "STATUS", "TIME"),
    "tasks": ("TASK", "STATUS", "notify-311", "RuntimeError:"),
    "evals": ("RUN", "SCORE"),
    "system": ("KEY", "VALUE"),
    "config": ("KEY", "VALUE", "FROM"),
    "stores": ("NAME", "DRIVER", "list, show"),
    "status": ("failing", "stale", "waiting", "store"),
    "doctor": ("ok", "schema", "WRONG"),
    "explain": ("CODE", "EXIT", "MEANS"),
    "diff payments-7731 payments-7702": ("charge", "failed"),
}
"""Command -> words that its screen has at every width."""

MAY_BE_WIDER = re.compile(r"^( *next: | +lens | *└|.*\blens [a-z]+ )|/")
"""Lines to be copied whole: commands, and names of stores."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Lens:
    folder = tmp_path_factory.mktemp("widths")
    for name in ("w", "user", "etc", "home"):
        (folder / name).mkdir()
    return Lens(folder, {"XDG_CACHE_HOME": str(folder / "cache")})


@pytest.mark.parametrize("width", [80, 120, 160])
@pytest.mark.parametrize("command", KEYS)
def test_a_screen_has_its_key_columns(demo: Lens, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    monkeypatch.chdir(demo.cwd)
    if not (demo.cwd / "flujo_ops.db").exists():
        assert demo("demo flujo_ops.db").code == 0
    result = demo(command, tty=True, width=width)
    assert result.code in (0, 1), result.err
    words = {*result.out.split()}
    assert [key for key in KEYS[command] if key not in words and key not in result.out] == []
    wide = [line for line in result.lines if len(line) > width and not MAY_BE_WIDER.search(line)]
    assert wide == []


@pytest.mark.parametrize("width", [80, 120, 160])
def test_stats_have_every_status_that_is_not_zero(demo: Lens, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Of each pipeline, as the document has them."""
    monkeypatch.chdir(demo.cwd)
    if not (demo.cwd / "flujo_ops.db").exists():
        assert demo("demo flujo_ops.db").code == 0
    lines = demo("stats", tty=True, width=width).lines
    head = next(line for line in lines if line.startswith("PIPELINE"))
    ends = {title.group().lower(): title.end() for title in re.finditer(r"\S+", head)}
    for row in demo("stats -o json").json["by_pipeline"]:
        (line,) = (line for line in lines if line.startswith(f"{row['pipeline_name']} "))
        shown = {status: line[: ends[status]].split()[-1] for status in row["by_status"]}
        assert shown == {status: str(count) for status, count in row["by_status"].items()}


@pytest.mark.parametrize("command", ["list", "failed --by version", "stats", "show research-0021", "stores --drivers"])
def test_columns_without_room_are_named_with_the_command_that_shows_them(
    demo: Lens, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(demo.cwd)
    if not (demo.cwd / "flujo_ops.db").exists():
        assert demo("demo flujo_ops.db").code == 0
    narrow = demo(command, tty=True, width=44)
    found = re.search(r"no room for (.*?): lens (.*) \| less -S", " ".join(narrow.err.split()))
    assert found is not None, narrow.err
    whole = demo(found[2])
    assert set(found[1].split(", ")) <= set(whole.out.split())
    assert "no room" not in whole.err
    assert "no room" not in demo(f"{command} --quiet", tty=True, width=44).err
    assert "no room" not in demo(command, tty=True, width=300).err


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_change_has_its_result_and_reason(demo: Lens, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """In columns, or below the row where there is no room."""
    monkeypatch.chdir(demo.cwd)
    (demo.cwd / "flujo_ops.db.lens-audit.ndjson").unlink(missing_ok=True)
    (demo.cwd / "flujo_ops.db.lens-audit.ndjson.head").unlink(missing_ok=True)
    if not (demo.cwd / "flujo_ops.db").exists():
        assert demo("demo flujo_ops.db").code == 0
    reason = "TICKET-4711: 顧客がすべてのデータの削除を求めました, as agreed with the data protection officer"
    assert demo(f"system set watermark:crm '{{}}' --reason '{reason}'").code == 0
    shown = demo("audit", tty=True, width=width)
    assert "1 keys" in shown.out
    assert "".join(reason.split()) in "".join(shown.out.split()) or width >= 120
    assert [line for line in shown.lines if cell_len(line) > width] == []
    assert shown.out.count("TICKET-4711") == 1  # and not once more in the command
