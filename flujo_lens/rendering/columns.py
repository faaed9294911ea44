"""The columns of each view, from which all formats are made.

`fields` are the public names, in the order of the machine formats. `table` has the default columns of tables, which
can combine several fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flujo_lens.rendering import human
from flujo_lens.rendering.human import Human
from flujo_lens.rendering.views import Field, Shown, View, human_value, plain_fields
from flujo_lens.state.fingerprint import plain_error
from flujo_lens.state.questions import question_of
from flujo_lens.state.views import GONE

# --- runs


def _pipeline(run: Any, _: Human) -> str:
    return f"{run.pipeline_name} {run.pipeline_version}"


def _progress(run: Any, _: Human) -> str:
    """``2/4``; the index can exceed the total after a resume, and the total may be unknown."""
    if run.status == "completed":
        return f"{run.total_steps}/{run.total_steps}" if run.total_steps else "-"
    if run.current_step_index is None:
        return "-"
    if not run.total_steps:
        return str(run.current_step_index)
    return f"{min(run.current_step_index, run.total_steps)}/{run.total_steps}"


def _status(run: Any, _: Human) -> str:
    return "stale" if run.stale else str(run.status)


def _run_note(run: Any, shown: Human) -> str:
    """A note on a run in one line: its question, error or tasks."""
    if run.stale is not None:
        return _stale_note(run, shown)
    if run.status == "paused":
        return _at_step(run, shown.mask(run.pause_message or ""))
    if run.error_message:
        return _at_step(run, shown.mask(plain_error(run.error_message)))
    if run.tasks:
        return _tasks(run.tasks)
    if run.problems:
        return shown.mask("; ".join(run.problems))
    if run.is_background_task and run.parent_run_id:
        return f"task of {run.parent_run_id}"
    return f"last seen at {run.step_name}" if run.step_name and run.status == "running" else ""


def _at_step(run: Any, text: str) -> str:
    return ": ".join(part for part in (run.step_name, text) if part)


def _stale_note(run: Any, shown: Human) -> str:
    where = f", at {run.step_name}" if run.step_name else ""
    if run.stale != GONE:
        return f"no activity for {human.age(shown.now - run.updated_at)}{where}"
    return f"process is gone{f' ({run.holder})' if run.holder else ''}{where}"


def _tasks(tasks: Mapping[str, int]) -> str:
    notable = [f"{n} {status}" for status, n in tasks.items() if status != "completed"]
    return ", ".join([human.plural(sum(tasks.values()), "background task"), *notable])


_RUN_FIELDS = plain_fields(
    "run_id",
    "pipeline_name",
    "pipeline_version",
    "status",
    "created_at",
    "updated_at",
    "duration_ms",
    "current_step_index",
    "step_name",
    "total_steps",
    "error_message",
    "pause_message",
    "parent_run_id",
    "task_id",
    "is_background_task",
    "metadata",
)
_SIGN = plain_fields("holder", "stale")
"""The holder of a running run, and why it is stale; null for other runs."""
_COST = plain_fields("cost_usd", "tokens")

RUN = View(
    name="run",
    fields=(*_RUN_FIELDS, *_SIGN, *_COST),
    table=(
        Shown("RUN", lambda run, _: run.run_id, 100, "id"),
        Shown("PIPELINE", _pipeline, 70, "name"),
        Shown("STATUS", _status, 90, "status"),
        Shown("STARTED", lambda run, shown: shown.time(run.created_at), 60, times="keep"),
        Shown("TIME", lambda run, _: human.duration(run.duration_ms), 30, "right"),
        Shown("STEP", _progress, 20, "right"),
        Shown("NOTE", _run_note, 80, "fold", masks=True, lines=2, below="", below_need=45),
    ),
    id="run_id",
)


def _asks(run: Any, _: Human) -> str:
    return run.pause_message or "(no message stored)"


WAITING = View(
    name="waiting",
    fields=(*RUN.fields, Field("question", question_of)),
    table=(
        Shown("WAITS", lambda run, shown: shown.since(run.updated_at), 80),
        Shown("SINCE", lambda run, shown: shown.time(run.updated_at), times="add"),
        Shown("RUN", lambda run, _: run.run_id, 100, "id"),
        Shown("PIPELINE", _pipeline, 50, "name"),
        Shown("STEP", lambda run, _: run.step_name or "-", 40, masks=True),
        Shown("ASKS", _asks, 90, "fold", below="", below_need=30),
    ),
    id="run_id",
)


def _task_error(run: Any, _: Human) -> str:
    return plain_error(run.background_error or run.error_message or "")


TASK = View(
    name="task",
    fields=(*_RUN_FIELDS, *plain_fields("background_error"), *_SIGN, *_COST),
    table=(
        Shown("TASK", lambda run, _: run.run_id, 100, "id"),
        Shown("STATUS", _status, 90, "status"),
        Shown("STEP", lambda run, _: run.metadata.get("step_name") or run.step_name or "-", 60),
        Shown("LAST SAVE", lambda run, shown: shown.time(run.updated_at), 50, times="keep"),
        Shown("PARENT", lambda run, _: run.parent_run_id or "-", 40, below="parent: "),
        Shown("ERROR", _task_error, 80, "fold", below="", below_need=35),
    ),
    id="run_id",
)

# --- parts of a run

STEP = View(
    name="step",
    fields=plain_fields(
        "step_index",
        "step_name",
        "status",
        "output",
        "error",
        "cost_usd",
        "token_counts",
        "duration_ms",
        "attempts",
        "created_at",
    ),
    table=(
        Shown("#", lambda step, _: "-" if step.step_index is None else str(step.step_index), 80, "right"),
        Shown("STEP", lambda step, _: step.step_name, 100, "id"),
        Shown("STATUS", lambda step, _: step.status, 90, "status"),
        Shown("TIME", lambda step, _: human.duration(step.duration_ms), 70, "right"),
        Shown("COST", lambda step, _: human.money(step.cost_usd), 40, "amount"),
        Shown("TOKENS", lambda step, _: human.count(step.token_counts), 30, "right"),
        Shown("TRIES", lambda step, _: human.count(step.attempts), 20, "right"),
        Shown("", lambda step, _: plain_error(step.error or ""), 85, "fold", below="", below_need=15),
    ),
    id="step_name",
)

SPAN = View(
    name="span",
    fields=plain_fields(
        "span_id",
        "parent_span_id",
        "name",
        "status",
        "start_offset_ms",
        "duration_ms",
        "started_at",
        "attributes",
    ),
    table=(
        Shown("SPAN", lambda span, _: span.span_id, 60, "id"),
        Shown("NAME", lambda span, _: span.name, 100),
        Shown("STATUS", lambda span, _: span.status, 90, "status"),
        Shown("STARTED", lambda span, shown: shown.time(span.started_at), times="add"),
        Shown("OFFSET", lambda span, _: human.duration(span.start_offset_ms), 50, "right"),
        Shown("TIME", lambda span, _: human.duration(span.duration_ms), 80, "right"),
        Shown("ERROR", lambda span, _: _span_error(span), 70, "fold", below="", below_need=45),
    ),
    id="span_id",
)


def _span_error(span: Any) -> str:
    feedback = span.attributes.get("feedback")
    return plain_error(str(feedback)) if feedback and span.status == "failed" else ""


# --- groups and counts

FAILURE = View(
    name="failure",
    fields=plain_fields("error", "count", "first_at", "last_at", "step_name", "sample_run_id"),
    table=(
        Shown("RUNS", lambda group, _: human.count(group.count), 100, "right"),
        Shown("FIRST", lambda group, shown: shown.time(group.first_at), 30),
        Shown("LAST", lambda group, shown: shown.time(group.last_at), 70, times="keep"),
        Shown("STEP", lambda group, _: group.step_name or "-", 60),
        Shown("ERROR", lambda group, _: group.error, 100, "fold"),
        Shown("EXAMPLE", lambda group, _: group.sample_run_id, 80, "id", below="example: ", below_need=25),
    ),
    id="sample_run_id",
)


_COST_COLUMNS = (
    Shown("COST", lambda stats, _: human.money(stats.cost_usd), 75, "amount"),
    Shown("TOKENS", lambda stats, _: human.count(stats.tokens or None), 35, "right"),
)


def status_count(status: str) -> Callable[[Any, Human], str]:
    return lambda stats, _: human.count(stats.by_status.get(status)) if stats.by_status.get(status) else "-"


def _length(which: str) -> Callable[[Any, Human], str]:
    def shown(stats: Any, _: Human) -> str:
        value, lengths = getattr(stats.duration_ms, which), stats.duration_ms
        about = "~" if which != "avg" and value is not None and not lengths.exact else ""
        return f"{about}{human.duration(value)}"

    return shown


def _durations(item: Any) -> dict[str, Any]:
    lengths = item.duration_ms
    known = {"avg": lengths.avg, "p50": lengths.p50, "p95": lengths.p95, "p99": lengths.p99}
    return {**known, "exact": lengths.exact, "waiting_included": lengths.counts_waiting}


_LENGTH_COLUMNS = tuple(
    Shown(which.upper(), _length(which), need, "right")
    for which, need in (("avg", 50), ("p50", 70), ("p95", 65), ("p99", 45))
)
STATUS_NEEDS = {"completed": 90, "failed": 90, "paused": 90, "running": 90, "cancelled": 90}


def counted_columns(what: str) -> tuple[Shown, ...]:
    """The columns of counts, durations and costs; `what` is the title of the total."""
    return (
        Shown(what, lambda stats, _: human.count(stats.total), 95, "right"),
        *(Shown(status.upper(), status_count(status), need, "right") for status, need in STATUS_NEEDS.items()),
        *_LENGTH_COLUMNS,
        *_COST_COLUMNS,
    )


def counted_fields() -> tuple[Field, ...]:
    """The public fields of counts, durations and costs."""
    return (*plain_fields("total", "by_status"), Field("duration_ms", _durations), *_COST)


PIPELINE = View(
    name="pipeline",
    fields=(*plain_fields("pipeline_name"), *counted_fields()),
    table=(Shown("PIPELINE", lambda stats, _: stats.pipeline_name, 100, "id"), *counted_columns("RUNS")),
    id="pipeline_name",
)

SPAN_NAME = View(
    name="span name",
    fields=(*plain_fields("name", "count", "failed"), Field("duration_ms", _durations)),
    table=(
        Shown("SPAN", lambda stats, _: stats.name, 100, "id"),
        Shown("COUNT", lambda stats, _: human.count(stats.count), 95, "right"),
        Shown("FAILED", lambda stats, _: human.count(stats.failed) if stats.failed else "-", 90, "right"),
        *_LENGTH_COLUMNS,
    ),
    id="name",
)


def _rows(view: View, name: str) -> Field:
    return Field(name, lambda item: [view.row(part) for part in getattr(item, name)])


STATS = View(
    name="stats",
    fields=(
        *plain_fields("total", "by_status"),
        _rows(PIPELINE, "by_pipeline"),
        _rows(FAILURE, "failures"),
        _rows(SPAN_NAME, "spans"),
        Field("window", lambda stats: {"since": stats.since, "until": stats.until}),
        *_COST,
    ),
    table=(),
    id="",
)

STATUS = View(
    name="status",
    fields=(
        *plain_fields("store", "last_write_at"),
        _rows(FAILURE, "failing"),
        _rows(RUN, "silent"),
        Field(
            "waiting",
            lambda status: {
                "count": status.waiting_count,
                "oldest_at": status.oldest_waiting.updated_at if status.oldest_waiting else None,
            },
        ),
        *plain_fields("size_bytes", "runs", "since", "failed_since", "started_since"),
    ),
    table=(),
    id="",
)

# --- the rest

EVALUATION = View(
    name="evaluation",
    fields=plain_fields("run_id", "step_name", "score", "feedback", "metadata", "created_at"),
    table=(
        Shown("RUN", lambda found, _: found.run_id, 100, "id"),
        Shown("STEP", lambda found, _: found.step_name or "-", 60),
        Shown("SCORE", lambda found, _: "-" if found.score is None else f"{found.score:g}", 95, "right"),
        Shown("WHEN", lambda found, shown: shown.time(found.created_at), 50, times="keep"),
        Shown("FEEDBACK", lambda found, _: found.feedback or "", 80, "fold", below="", below_need=40),
    ),
    id="run_id",
)

SYSTEM = View(
    name="system",
    fields=plain_fields("key", "value", "updated_at"),
    table=(
        Shown("KEY", lambda entry, _: entry.key, 100, "id"),
        Shown("UPDATED", lambda entry, shown: shown.time(entry.updated_at), 50, times="keep"),
        Shown("VALUE", lambda entry, shown: human_value(entry.value, "value", shown), 90, "fold"),
    ),
    id="key",
)


def _typed(entry: Any, _: Human) -> str:
    import shlex

    return shlex.join(entry.command)


def _came_to(change: Any, _: Human) -> str:
    """The state of a change, and the error that ended it."""
    return f"{change.state}: {change.error}" if change.error else str(change.state)


def _done(change: Any, _: Human) -> str:
    """The command of a change without its reason, which has a column of its own."""
    import shlex

    return shlex.join(word for word in change.command if not word.startswith("--reason="))


def _counts(change: Any, _: Human) -> str:
    """The counts of a change; those that are zero only if all are."""
    counts = {what: n for what, n in change.counts.items() if n} or dict(list(change.counts.items())[:1])
    return ", ".join(f"{n:,} {what}" for what, n in counts.items())


AUDIT = View(
    name="audit",
    fields=plain_fields(
        "audit_id", "at", "store", "actor", "host", "command", "reason", "state", "counts", "run_ids", "error"
    ),
    table=(
        Shown("AUDIT ID", lambda entry, _: entry.audit_id, 100, "id"),
        Shown("WHEN", lambda entry, shown: shown.time(entry.at), 95),
        Shown("WHO", lambda entry, _: entry.actor, 80),
        Shown("HOST", lambda entry, _: entry.host, 40),
        Shown("STORE", lambda entry, _: entry.store or "-", 30, "fold"),
        Shown("COMMAND", _done, 90, "fold"),
        Shown("STATE", _came_to, 85),
        Shown("COUNTS", _counts, 70, pair="result", below=""),
        Shown("RUNS", lambda entry, _: human.count(entry.run_count), 50, "right"),
        Shown("REASON", lambda entry, _: entry.reason or "", 70, "fold", pair="result", below="reason: "),
    ),
    id="audit_id",
)

BIN = View(
    name="bin",
    fields=plain_fields("audit_id", "made_at", "command", "runs", "until", "size_bytes"),
    table=(
        Shown("AUDIT ID", lambda item, _: item.audit_id, 100, "id"),
        Shown("WHEN", lambda item, shown: shown.time(item.made_at), 95),
        Shown("COMMAND", _typed, 90, "fold"),
        Shown("RUNS", lambda item, _: human.count(item.runs), 95, "right"),
        Shown("EXPIRES", lambda item, shown: shown.time(item.until), 80),
        Shown("SIZE", lambda item, _: human.size(item.size_bytes), 40, "right"),
    ),
    id="audit_id",
)

CONFIG = View(
    name="setting",
    fields=plain_fields("key", "value", "source"),
    table=(
        Shown("KEY", lambda row, _: row.key, 100, "id"),
        Shown("VALUE", lambda row, shown: human_value(row.value, row.key, shown), 95, "fold"),
        Shown("FROM", lambda row, _: row.source, 90, "fold"),
    ),
    id="key",
)


def _short_driver(driver: str) -> str:
    """A driver of our own by the last part of its module."""
    return driver.removeprefix(_OWN_DRIVERS).partition(":")[0] if driver.startswith(_OWN_DRIVERS) else driver


_OWN_DRIVERS = "flujo_lens.state.backends."

STORE = View(
    name="store",
    fields=plain_fields("name", "uri", "driver", "capabilities", "default", "readonly"),
    table=(
        Shown("NAME", lambda row, _: row["name"] or "-", 100, "id"),
        Shown("", lambda row, _: " ".join(word for word in ("default", "readonly") if row[word]), 60, "fold"),
        Shown("DRIVER", lambda row, _: _short_driver(row["driver"]), 70, "fold"),
        Shown("CAN", lambda row, _: ", ".join(row["capabilities"]) or "-", 40, "fold", below="can: "),
        Shown("URI", lambda row, _: row["uri"], 90, "id"),
    ),
    id="name",
)

DRIVER = View(
    name="driver",
    fields=plain_fields("scheme", "driver", "source", "package", "version", "available", "capabilities", "problem"),
    table=(
        Shown("SCHEME", lambda row, _: f"{row['scheme']}://", 100, "id"),
        Shown("SOURCE", lambda row, _: row["source"], 60, "fold"),
        Shown("PACKAGE", lambda row, _: " ".join(filter(None, (row["package"], row["version"]))) or "-", 80, "fold"),
        Shown("CAN", lambda row, _: row["problem"] or ", ".join(row["capabilities"]) or "-", 90, "fold"),
        Shown("DRIVER", lambda row, _: row["driver"], 50, "fold"),
    ),
    id="scheme",
)

EXPLANATION = View(
    name="explanation",
    fields=plain_fields("code", "title", "exit_code"),
    table=(
        Shown("CODE", lambda page, _: page.code, 100, "id"),
        Shown("EXIT", lambda page, _: str(page.exit_code), 60, "right"),
        Shown("MEANS", lambda page, _: page.title, 90, "fold"),
    ),
    id="code",
)

PAGE = EXPLANATION._replace(name="page", fields=(*EXPLANATION.fields, *plain_fields("text")))

FINDING = View(
    name="finding",
    fields=plain_fields("check", "ok", "count", "detail", "fix"),
    table=(
        Shown("CHECK", lambda row, _: row.check, 100, "name"),
        Shown("", lambda row, _: "ok" if row.ok else "WRONG", 100),
        Shown("COUNT", lambda row, _: human.count(row.count), 95, "right"),
        Shown("DETAILS", lambda row, _: row.detail, 95, "fold"),
        Shown("FIX", lambda row, _: row.fix or "", 90, "fold"),
    ),
    id="check",
)


def _differing(group: Any, _: Human) -> str:
    """The most important difference: one that prevents resuming, else the first note."""
    sentences = [each.sentence for each in group.differences if group.code is None or each.code is not None]
    sentences = sentences or [each.sentence for each in group.differences]
    if not sentences:
        return ""
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    return f"{f'{group.code}: ' if group.code else ''}{sentences[0]}{more}"


CHECK = View(
    name="check",
    fields=(
        *plain_fields(
            "pipeline_name", "pipeline_version", "step_name", "status", "verdict", "code", "runs", "sample_run_id"
        ),
        Field("differences", lambda group: [each.to_dict() for each in group.differences]),
    ),
    table=(
        Shown("VERDICT", lambda group, _: group.verdict, 100),
        Shown("RUNS", lambda group, _: human.count(group.runs), 100, "right"),
        Shown("PIPELINE", _pipeline, 80, "name"),
        Shown("STATUS", lambda group, _: group.status, 60, "status"),
        Shown("STEP", lambda group, _: group.step_name or "-", 85, "name"),
        Shown("WHAT DIFFERS", _differing, 90, "fold"),
        Shown("EXAMPLE", lambda group, _: group.sample_run_id, 70, "id", below="example: ", below_need=50),
    ),
    id="sample_run_id",
)
