"""``--time STYLE`` and ``--utc``: every screen with an instant on it shows it in the style that is asked for."""

from __future__ import annotations

import re

import pytest
from support import Lens

ISO = r"2026-1\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
LOCAL = r"2026-1\d-\d\d \d\d:\d\d:\d\d -05:00"
UTC = r"2026-1\d-\d\d \d\d:\d\d:\d\dZ"
AGE = r"\b\d+[smhdy] ago\b"

SCREENS = [
    "list -n 3",
    "status",
    "show approve-4711",
    "show ingest-nightly-0413",
    "spans payments-7731",
    "failed",
    "waiting",
    "tasks",
    "system --store real.db",
    "audit",
    "undo",
]


STYLES = {
    "--time iso": (ISO, (LOCAL, UTC, AGE)),
    "--time local": (LOCAL, (ISO, UTC, AGE)),
    "--time relative": (AGE, (ISO, LOCAL, UTC)),
    "--utc": (UTC, (ISO, LOCAL)),
}


@pytest.fixture
def demo(bare_lens: Lens) -> Lens:
    """The sample store, with something in its bin and its audit log."""
    bare_lens.store(to="real.db")
    assert bare_lens("demo flujo_ops.db").code == 0
    assert bare_lens("delete payments-7702 --yes").code == 0
    return bare_lens


def test_each_style_on_each_screen(demo: Lens) -> None:
    for screen in SCREENS:
        shown = {style: demo(f"{screen} {style}", tty=True, width=160).out for style in STYLES}
        for style, (form, others) in STYLES.items():
            assert re.search(form, shown[style]), (screen, style, shown[style])
            for other in others:
                assert not re.search(other, shown[style]), (screen, style, shown[style])


def test_without_a_style_a_run_has_both(demo: Lens) -> None:
    started = demo("show approve-4711", tty=True).lines[1]
    assert re.match(rf"started {LOCAL} \(6d ago\)", started)


def test_the_list_of_the_bin_takes_the_options_of_a_list(demo: Lens) -> None:
    (row,) = demo("undo -o json").json
    assert demo("undo --no-header --columns runs,audit_id").lines == [f"1\t{row['audit_id']}"]
    assert demo("undo -o ndjson --columns runs").lines == ['{"runs":1}']
    assert demo("undo -o csv --raw --columns audit_id").csv == [{"audit_id": row["audit_id"]}]


def test_inputs_of_steps_in_every_format(demo: Lens) -> None:
    """--show-input adds the field, as does naming it among the columns."""
    documents = demo("show payments-7731 --show-input -o json").json["steps"]
    inputs = [step["input"] for step in documents]
    assert inputs == ["invoice 4711", "invoice 4711"]
    assert [row["input"] for row in demo("show payments-7731 --show-input -o csv").csv] == inputs
    assert [row["input"] for row in demo("show payments-7731 --columns step_name,input").tsv] == inputs
    assert "input" not in demo("show payments-7731 -o json").json["steps"][0]
    assert "input" not in demo("show payments-7731 -o csv").csv[0]
