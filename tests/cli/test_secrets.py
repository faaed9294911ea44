"""Secrets are masked wherever they would be printed, unless --show-secrets."""

from __future__ import annotations

import json
import re

import pytest
from support import Lens

SECRETS = ("hunter2", "sk-live-1", "eyJhbGciOi", "s3cr3t", "pa:ss", "Bearer abc")
NESTED = {
    "password": "hunter2",
    "deep": {"list": [{"API_KEY": "sk-live-1", "plain": "visible"}], "token": {"inner": "eyJhbGciOi", "n": 5}},
    "token_counts": 17,
    "max_tokens": 400,
    "api_key_count": 3,
    "secret_number": 42,
    "cookie": ["s3cr3t"],
    "Authorization": "Bearer abc",
    "url": "postgresql://lens:s3cr3t@db/ops and redis://:hunter2@cache/0",
    "mail": "ana@example.com",
    "access_token": "eyJhbGciOi",
    "empty_password": "",
    "no_password": None,
    "password_set": True,
}
MESSAGE = "ValueError: cannot reach postgresql://lens:s3cr3t@db:5432/ops?x=1"
VISIBLE = "visible"


@pytest.fixture
def leaky(lens: Lens) -> Lens:
    """A store that has secrets in every place that is printed."""
    text = json.dumps(NESTED)
    history = json.dumps([{"name": "load", "success": False, "output": NESTED, "feedback": MESSAGE, "attempts": 1}])
    context = json.dumps({**NESTED, "pause_message": "use https://bot:s3cr3t@host/x ?"})
    lens.edit(
        (
            "UPDATE workflow_state SET metadata = ?, pipeline_context = ?, step_history = ?, error_message = ?, "
            "last_step_output = ? WHERE run_id IN ('fail-001', 'paused-001')",
            (text, context, history, MESSAGE, text),
        ),
        (
            "UPDATE workflow_state SET metadata = ?, background_error = ? WHERE run_id LIKE 'bgparent-001_bg%'",
            (text, MESSAGE),
        ),
        ("UPDATE spans SET attributes = ? WHERE run_id = 'fail-001'", (json.dumps({**NESTED, "feedback": MESSAGE}),)),
        ("UPDATE steps SET output = ? WHERE run_id = 'fail-001'", (text,)),
        ("UPDATE evaluations SET metadata = ?, feedback = ?", (text, MESSAGE)),
        ("UPDATE system_state SET value = ?", (text,)),
        ("INSERT INTO system_state VALUES ('crm_token', '\"eyJhbGciOi\"', '2026-11-21T00:11:11+00:00')", ()),
    )
    return lens


LINES = [
    "list --all",
    "list --all --columns run_id,metadata,error_message,pause_message",
    "show fail-001",
    "show fail-001 -v",
    "show fail-001 --state",
    "show fail-001 -v --state",
    "show fail-001 --columns step_name,output,error",
    "show fail-001 --final-output",
    "show paused-001",
    "trace fail-001",
    "spans fail-001",
    "spans fail-001 --columns name,attributes",
    "failed",
    "failed --flat",
    "waiting",
    "tasks list",
    "tasks list --columns run_id,metadata,background_error",
    "evals",
    "evals --columns run_id,metadata,feedback",
    "system list",
    "system get crm_token",
    "system get watermark:crm",
    "stats",
    "status",
]


def _leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in re.sub(r"\s", "", text) or secret in text]


@pytest.mark.parametrize("line", LINES)
def test_nothing_secret_is_printed(leaky: Lens, line: str) -> None:
    for form in ("json", "csv", "tsv", "table"):
        result = leaky(f"{line} -o {form}", tty=form == "table", width=200)
        assert result.code == 0 or "does not go with" in result.err or "is not supported" in result.err
        assert _leaks(result.out + result.err) == [], form


@pytest.mark.parametrize(
    "line", ["show fail-001 --state", "list --all", "spans fail-001", "evals", "system list", "tasks list"]
)
def test_show_secrets(leaky: Lens, line: str) -> None:
    for form in ("json",) if "--state" in line else ("json", "csv", "tsv"):
        shown = leaky(f"{line} -o {form} --show-secrets").out
        assert "hunter2" in shown
        assert "lens:s3cr3t@db" in shown
    assert "***" not in leaky(f"{line} -o json --show-secrets").out


def test_what_is_masked_and_what_is_not(leaky: Lens) -> None:
    state = leaky("show fail-001 --state -o json").json["state"]
    assert state["metadata"] == {
        "password": "***",
        "deep": {"list": [{"API_KEY": "***", "plain": VISIBLE}], "token": {"inner": "***", "n": 5}},
        "token_counts": 17,
        "max_tokens": 400,
        "api_key_count": 3,
        "secret_number": 42,
        "cookie": ["***"],
        "Authorization": "***",
        "url": "postgresql://lens:***@db/ops and redis://:***@cache/0",
        "mail": "ana@example.com",
        "access_token": "***",
        "empty_password": "",
        "no_password": None,
        "password_set": True,
    }
    assert leaky("show fail-001 -o json").json["steps"][0]["error"] == MESSAGE.replace("s3cr3t", "***")
    assert leaky("system get crm_token").json == "***"
    assert leaky("system get crm_token --show-secrets").json == "eyJhbGciOi"


def test_costs_and_tokens_are_never_masked(leaky: Lens) -> None:
    steps = leaky("show cost-001 -o json").json["steps"]
    assert [step["token_counts"] for step in steps] == [1, 456, 1]
    assert "456" in leaky("show cost-001", tty=True).out


def test_keys_of_ones_own(leaky: Lens) -> None:
    leaky.write("lens.toml", '[redact]\nkeys = ["plain", "*MAIL*", "n"]\n')
    found = leaky("show fail-001 --state -o json").json["state"]["metadata"]
    assert found["deep"]["list"] == [{"API_KEY": "***", "plain": "***"}]
    assert found["mail"] == "***"
    assert found["deep"]["token"]["n"] == 5
    assert found["password"] == "***"


def test_state_that_is_json_inside_a_text(leaky: Lens) -> None:
    """A password in a URL is found in any text, however deep it is quoted."""
    inner = json.dumps({"dsn": "x", "note": "mysql://root:s3cr3t@db/x"})
    leaky.edit(("UPDATE steps SET output = ? WHERE run_id = 'cost-001'", (json.dumps(inner),)))
    assert "s3cr3t" not in leaky("show cost-001 -o json").out


@pytest.mark.parametrize("line", ["config", "stores", "config -o json", "stores -o csv"])
def test_settings(lens: Lens, line: str) -> None:
    lens.write("lens.toml", '[stores.pg]\nuri = "postgresql://lens:hunter2@db/ops"\n')
    for tty in (True, False):
        assert "hunter2" not in lens(line, tty=tty, width=200).out
    assert "lens:***@db" in lens(line, tty=True, width=200).out


@pytest.mark.parametrize("by", ["--by meta:cookie", "--by meta:note --by meta:ssn", "--by meta:note", "--by meta:ssn"])
def test_groups_by_metadata(lens: Lens, by: str) -> None:
    metadata = json.dumps({"cookie": "hush-1", "note": "sent Bearer hush-2x to it", "ssn": "hush-3"})
    lens.edit(("UPDATE workflow_state SET metadata = ? WHERE run_id = 'fail-001'", (metadata,)))
    lens.write("lens.toml", '[redact]\nkeys = ["ssn"]\n')
    for form in ("table", "json", "ndjson", "csv", "tsv", "id"):
        shown = lens(f"stats {by} -o {form}", tty=form == "table")
        assert (shown.code, "***" in shown.out, "hush" in shown.out) == (0, True, False), (form, shown.out)
        assert "hush" in lens(f"stats {by} -o {form} --show-secrets").out


def test_the_name_of_who_changes_a_store(lens: Lens) -> None:
    assert lens("delete fail-001 --yes", env={"LENS_ACTOR": "job https://ci:hush@host/1"}).code == 0
    log = (lens.cwd / "flujo_ops.db.lens-audit.ndjson").read_text(encoding="utf-8")
    assert "hush" not in log
    assert lens("audit -o json").json[0]["actor"] == "job https://ci:***@host/1"
