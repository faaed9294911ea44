"""Make big state stores that are as uneven as real ones; same arguments, same contents.

python tests/benchmarks/generate.py sqlite OUT.db --runs 1000000
python tests/benchmarks/generate.py files OUTDIR --runs 100000

The shapes are those of the 0.6.11 library. `--runs` counts runs: background tasks (1 %) come on top,
and in the SQLite store also states whose run was deleted (0.5 %). Without `--now` the newest runs are
of this moment, so give it when two stores must be the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import sqlite3
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

SECOND = 1_000_000  # times are whole microseconds since 1970
HOUR = 3600 * SECOND
DAY = 24 * HOUR
BATCH = 2000
Row = tuple[Any, ...]

SCHEMA = """
CREATE TABLE workflow_state (
    run_id TEXT PRIMARY KEY,
    pipeline_id TEXT NOT NULL,
    pipeline_name TEXT NOT NULL,
    pipeline_version TEXT NOT NULL,
    current_step_index INTEGER NOT NULL,
    pipeline_context TEXT,
    last_step_output TEXT,
    step_history TEXT,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    total_steps INTEGER DEFAULT 0,
    error_message TEXT,
    execution_time_ms INTEGER,
    memory_usage_mb REAL,
    metadata TEXT,
    is_background_task INTEGER DEFAULT 0,
    parent_run_id TEXT,
    task_id TEXT,
    background_error TEXT
);
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    pipeline_id TEXT NOT NULL,
    pipeline_name TEXT NOT NULL,
    pipeline_version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    execution_time_ms INTEGER,
    memory_usage_mb REAL,
    total_steps INTEGER DEFAULT 0,
    error_message TEXT
);
ALTER TABLE runs ADD COLUMN "end_time" TEXT;
ALTER TABLE runs ADD COLUMN "total_cost" REAL;
ALTER TABLE runs ADD COLUMN "final_context_blob" TEXT;
CREATE TABLE system_state (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE TABLE steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    step_name TEXT NOT NULL,
    step_index INTEGER NOT NULL,
    status TEXT NOT NULL,
    output TEXT,
    raw_response TEXT,
    cost_usd REAL,
    token_counts INTEGER,
    execution_time_ms INTEGER,
    created_at TEXT NOT NULL,
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);
CREATE TABLE traces (
    run_id TEXT PRIMARY KEY,
    trace_data TEXT NOT NULL,
    created_at TEXT NOT NULL,
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);
CREATE TABLE spans (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_span_id TEXT,
    name TEXT NOT NULL,
    start_time REAL NOT NULL,
    end_time REAL,
    status TEXT NOT NULL,
    attributes TEXT,
    created_at TEXT NOT NULL,
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    step_name TEXT,
    score REAL NOT NULL,
    feedback TEXT,
    metadata TEXT,
    created_at TEXT NOT NULL DEFAULT (DATETIME('now')),
    FOREIGN KEY (run_id) REFERENCES runs(run_id) ON DELETE CASCADE
);
"""
INDEXES = """
CREATE INDEX idx_steps_run_id ON steps(run_id);
CREATE INDEX idx_steps_step_index ON steps(step_index);
CREATE INDEX idx_spans_run_id ON spans(run_id);
CREATE INDEX idx_spans_parent_span ON spans(parent_span_id);
CREATE INDEX idx_evaluations_run_id ON evaluations(run_id);
CREATE INDEX idx_evaluations_created_at ON evaluations(created_at);
CREATE INDEX idx_workflow_state_status ON workflow_state(status);
CREATE INDEX idx_workflow_state_pipeline_id ON workflow_state(pipeline_id);
CREATE INDEX idx_workflow_state_parent_run_id ON workflow_state(parent_run_id);
CREATE INDEX idx_workflow_state_created_at ON workflow_state(created_at);
CREATE INDEX idx_runs_status ON runs(status);
CREATE INDEX idx_runs_pipeline_id ON runs(pipeline_id);
CREATE INDEX idx_runs_created_at ON runs(created_at);
CREATE INDEX idx_runs_pipeline_name ON runs(pipeline_name);
"""
STATE_COLUMNS = (
    *("run_id", "pipeline_id", "pipeline_name", "pipeline_version", "current_step_index"),
    *("pipeline_context", "last_step_output", "step_history", "status", "created_at", "updated_at"),
    *("total_steps", "error_message", "execution_time_ms", "memory_usage_mb", "metadata"),
    *("is_background_task", "parent_run_id", "task_id", "background_error"),
)
JSON_COLUMNS = ("pipeline_context", "last_step_output", "step_history", "metadata")
NOT_WHILE_RUNNING = ("total_steps", "error_message", "execution_time_ms", "memory_usage_mb")
INSERTS = {
    "runs": "INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at,"
    " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    "workflow_state": f"INSERT INTO workflow_state VALUES ({', '.join('?' * len(STATE_COLUMNS))})",
    "steps": "INSERT INTO steps (run_id, step_name, step_index, status, output, created_at) VALUES (?, ?, ?, ?, ?, ?)",
    "spans": "INSERT INTO spans (run_id, span_id, parent_span_id, name, start_time, end_time, status,"
    " attributes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
}

# ---------------------------------------------------------------- pipelines

# kind: type and policy in the span attributes
KINDS = {
    "tool": ("Step", "DefaultAgentStepExecutor"),
    "agent": ("Step", "DefaultAgentStepExecutor"),
    "nested": ("Step", "DefaultAgentStepExecutor"),
    "background": ("Step", "DefaultAgentStepExecutor"),
    "loop": ("LoopStep[TypeVar]", "DefaultLoopStepExecutor"),
    "parallel": ("ParallelStep[TypeVar]", "DefaultParallelStepExecutor"),
    "human": ("HumanInTheLoopStep", "DefaultHitlStepExecutor"),
}


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline: its share of all runs in percent, seconds of an agent step, share of failures."""

    name: str
    share: float
    versions: tuple[str, ...]
    pace: float
    failing: float
    steps: tuple[tuple[str, str], ...]  # name, kind
    stops: tuple[int, ...]  # the steps that can fail or be interrupted


def pipe(name: str, share: float, versions: str, pace: float, failing: float, steps: str) -> Pipeline:
    """A pipeline whose steps are written `name:kind name:kind`; a tool when there is no kind."""
    pairs = tuple((n, k or "tool") for n, _, k in (text.partition(":") for text in steps.split()))
    stops = tuple(i for i, (_, kind) in enumerate(pairs) if kind not in ("human", "background"))
    return Pipeline(name, share, tuple(versions.split()), pace, failing, pairs, stops)


CATALOG_STEPS = "load split enrich:loop images:parallel review:agent finish"
CRM_STEPS = "load diff merge:agent dedupe contacts accounts push:parallel finish"
ONBOARDING_STEPS = "load check:agent verify:human create_account greet:agent finish"
REPORT_STEPS = "load sales stock returns staff web ads merge chart text:agent check:agent mail"
PIPELINES = (
    pipe("orders", 30, "1.4.0 1.5.0 2.0.0", 0.8, 0.07, "load enrich:agent invoice_out finish"),
    pipe("invoices", 10, "3.1.0 3.2.0", 1.5, 0.10, "load extract:agent validate book finish"),
    pipe("support-triage", 9, "0.9.0 1.0.0 1.0.1 1.1.0", 2.5, 0.08, "load classify:agent route"),
    pipe("payments", 8, "1.0.0", 0.4, 0.22, "load check charge:agent notify_customer"),
    pipe("doc-summary", 7, "2.3.0 2.4.0", 9.0, 0.15, "load summarize:agent store"),
    pipe("email-reply", 6, "1.2.0 1.3.0", 4.0, 0.09, "load draft:agent polish:agent send"),
    pipe("catalog-enrich", 5, "5.0.0", 3.0, 0.06, CATALOG_STEPS),
    pipe("refunds", 4, "1.0.0 1.1.0", 1.2, 0.12, "load policy:agent decide refund"),
    pipe("research", 3.5, "0.4.0 0.5.0", 20.0, 0.19, "load plan:agent research:nested write:agent finish"),
    pipe("translation", 2.5, "1.0.0", 6.0, 0.05, "load translate:agent check:agent finish"),
    pipe("fraud-check", 2, "2.0.0 2.0.1", 0.7, 0.04, "load history score:agent rules report"),
    pipe("approvals", 2, "1.0.0 1.1.0", 1.0, 0.04, "load approve:human after_human:agent finish"),
    pipe("crm-sync", 1.5, "4.2.0", 2.0, 0.30, CRM_STEPS),
    pipe("lead-scoring", 1.2, "1.0.0", 1.5, 0.06, "load features score:agent store"),
    pipe("onboarding", 1.2, "2.0.0", 3.0, 0.08, ONBOARDING_STEPS),
    pipe("notifier", 1.1, "1.0.0", 0.3, 0.05, "load notify:background finish"),
    pipe("contract-review", 1, "0.8.0", 30.0, 0.15, "load clauses:nested risk:agent lawyer:human finish"),
    pipe("report-nightly", 0.6, "1.0.0 1.0.1", 12.0, 0.10, REPORT_STEPS),
    pipe("audit-export", 0.1, "1.0.0", 2.0, 0.35, "load collect redact:agent sign upload"),
    pipe("tax-close", 0.02, "1.0.0", 40.0, 0.20, "load ledger check:agent close"),
)

# ---------------------------------------------------------------- texts

PROMPTS = tuple(
    json.dumps(text, ensure_ascii=False)
    for text in (
        "Process item %d",
        "Process invoice %d — “quote”, ünïcode, 漢字",
        "Please answer ticket #%d [urgent] in a friendly tone",
        "Handle 'order' %d\nand keep the \"notes\" as they are",
        "Summarize document %d; at most 200 words, no [/bold] markup",
        "Check \x1b[31mcase\x1b[0m %d against the policy of 2026",
    )
)
# JSON, and the JSON of what the next step's `step_input` says about it
OUTPUTS = (
    ('"loaded: item %d, %d lines"', '"loaded: item %d, %d lines"'),
    ('{"id":%d,"ok":true,"score":%d}', "\"{'id': %d, 'ok': True, 'score': %d}\""),
    ('{"text":"reply to %d — done","pages":%d}', "\"text='reply to %d — done' pages=%d\""),
    ('["A-%d","B-%d"]', "\"['A-%d', 'B-%d']\""),
    ('{"label":"billing","ticket":%d,"price":"%d.90"}', "\"label='billing' ticket=%d price=%d.90\""),
)
QUESTIONS = (
    "Approve item %d? (yes/no)",
    "Is customer %d verified?",
    "Clause 7 of contract %d: accept, change or refuse?",
)
ANSWERS = ("yes", "yes", "yes", "no", "ok", "change")
LOOP_META = '{"iterations":3,"exit_reason":"condition","evaluated_expression":null,"evaluated_value":null}'
NOTE_LENGTHS = (0, 0, 0, 20, 20, 40, 60, 120, 400)
PROSE = (
    "The customer wrote twice and wants the goods before the end of the month. Please look at the enclosed "
    "list, compare it with the last delivery and tell the warehouse which parts are missing. "
) * 400
ERRORS = (
    "Agent execution failed with RateLimitError: 429 after {n} retries (request {h})",
    "Agent execution failed with TimeoutError: no answer within {n}.0 s",
    "Agent execution failed with ValueError: payment gateway said: 'declined' (code={n})",
    "Agent execution failed with ConnectionError: connection to 10.0.{n}.{m} refused (port 5432)",
    "Agent execution failed with ValidationError: 1 validation error for Invoice\ntotal\n  Input should be a "
    "valid decimal [type=decimal_parsing, input_value='{m},50', input_type=str]",
    "Agent execution failed with KeyError: 'customer_{m}'",
    "Agent execution failed with HTTPStatusError: Server error '503 Service Unavailable' for url "
    "'https://api.example.com/v1/items/{m}'",
    "Agent execution failed with JSONDecodeError: Expecting ',' delimiter: line {n} column {m} (char {m})",
    "Agent execution failed with RuntimeError: smtp: connection refused",
    "Agent execution failed with PermissionError: [Errno 13] Permission denied: '/data/in/{h}.pdf'",
    "Agent execution failed with ContextLengthError: {m}{n} tokens are more than the limit of 8192",
    "Agent execution failed with AuthenticationError: key ending in '{n}' was revoked",
    "Agent execution failed with OperationalError: deadlock detected, process {m} waits for {n}",
    "Agent execution failed with FileNotFoundError: [Errno 2] No such file or directory: '/data/in/{m}.csv'",
    "Agent execution failed with UsageLimitExceededError: cost ${n}.20 is over the limit of $5.00",
    "Agent execution failed with AssertionError: sum of lines {m} != total {n}",
    "Agent execution failed with UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9 in position {m}",
    "Agent execution failed with TypeError: unsupported operand type(s) for +: 'int' and 'NoneType'",
    "Agent execution failed with ZeroDivisionError: division by zero",
    "Agent execution failed with SSLError: certificate of host-{n}.example.com has expired",
    "Agent execution failed with ContentFilterError: answer {h} was withheld",
    'Agent execution failed with DuplicateError: item "A-{m}" was booked already by run {h}',
    "Agent execution failed with StaleObjectError: version {n} of object {m} is gone",
    "Agent execution failed with MemoryError: cannot allocate {m} MiB",
    "Agent execution failed with OSError: [Errno 28] No space left on device",
    "Agent execution failed with LookupError: no tariff for country 'X{n}'",
    "Agent execution failed with ModelRetry: answer had {n} of 4 sections",
    "Agent execution failed with BrokenPipeError: worker {m} went away",
    "Agent execution failed with IndexError: list index out of range ([/x] markup, row {m})",
    "Plugin 'schema-guard' refused the output: field {n} is empty — 漢字",
)
ERROR_SHARES = tuple(accumulate(1 / (rank + 1) for rank in range(len(ERRORS))))

CONTEXT = (
    '{"run_id":"%(run_id)s","initial_prompt":%(prompt)s,"import_artifacts":{"result":null,"marker":null,'
    '"counter":null,"value":null,"initial_input":null,"child_echo":null,"final_sql":null,"concept_sets":[],'
    '"cohort_definition":null,"captured":null,"captured_sp":{},"captured_prompt":null,"extras":{}},'
    '"hitl_history":%(hitl_history)s,"command_log":%(command_log)s,"conversation_history":%(talk)s,'
    '"call_count":0,"status":"%(status)s","pause_message":%(pause_message)s,"step_outputs":{%(outputs)s},'
    '"current_state":null,"next_state":null,"paused_step_input":%(paused_input)s,"user_input":%(user_input)s,'
    '"hitl_data":%(hitl_data)s,"loop_iteration_index":null,"loop_step_index":null,'
    '"loop_last_output":%(loop_last)s,"loop_resume_requires_hitl_output":false,"loop_paused_step_name":null,'
    '"granular_state":null,"tree_search_state":null,"is_background_task":%(is_task)s,"task_id":%(task_id)s,'
    '"parent_run_id":%(parent)s,"background_error":%(error)s,"background_error_category":%(category)s,'
    '"solution":null,"checklist":null,%(own)s,"_artifacts":[],"current_step":"%(step)s",'
    '"current_step_index":%(index)d}'
)
CONTEXT_DEFAULTS = {
    "hitl_history": "[]",
    "command_log": "[]",
    "talk": "[]",
    "status": "running",
    "pause_message": "null",
    "paused_input": "null",
    "user_input": "null",
    "hitl_data": "{}",
    "loop_last": "null",
    "is_task": "false",
    "task_id": "null",
    "parent": "null",
    "error": "null",
    "category": "null",
}
OWN_FIELDS = (
    '"customer":{"name":"Ana <ops>","number":%d,"joined":"2024-02-29T12:30:01.250000+00:00",'
    '"tags":["vip","eu"]},"amount":"%d.50","due":"2026-12-31","answer":null,"notes":"%s"'
)
CRASHED_CONTEXT = (
    '{"initial_prompt":%s,"pipeline_id":"unknown","pipeline_name":"unknown","pipeline_version":"latest",'
    '"run_id":"%s","status":"running","current_step":"%s"}'
)


# ---------------------------------------------------------------- one run


@dataclass(slots=True)
class Step:
    """A step that was carried out or interrupted; texts are JSON already."""

    name: str
    kind: str
    index: int
    begin: int
    end: int
    given: str
    output: str = "null"
    shown: str = '"None"'  # the output as the next step's input
    success: bool = True
    attempts: int = 1
    latency: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    feedback: str = "null"
    meta: str = "{}"
    task_id: str = ""


@dataclass(slots=True)
class Run:
    """All that is known about one run before its rows are written."""

    run_id: str
    pipeline: Pipeline
    version: str
    start: int
    number: int
    status: str = "completed"
    end: int = 0
    steps: list[Step] = field(default_factory=list)
    cut: Step | None = None  # the step that was interrupted, or waits for a person
    paused_at: int = 0
    resumed_at: int = 0
    answer: str = ""
    own: str = ""

    @property
    def prompt(self) -> str:
        """The prompt as JSON."""
        return PROMPTS[self.number % len(PROMPTS)] % self.number

    @property
    def question(self) -> str:
        """What the person is asked, as JSON."""
        return f'"{QUESTIONS[self.number % len(QUESTIONS)] % self.number}"'


class Made(NamedTuple):
    """The rows of one run, and the time that all later runs start at or after."""

    start: int
    run: Row | None
    steps: list[Row]
    spans: list[tuple[str, list[Row]]]  # time of the save, rows
    states: list[Row]


@lru_cache(maxsize=100_000)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def iso(at: int) -> str:
    """A time as the library writes it."""
    second, rest = divmod(at, SECOND)
    return f"{_second(second)}.{rest:06d}+00:00"


def quoted(text: str) -> str:
    """Any text as JSON, as the library writes it."""
    return json.dumps(text, ensure_ascii=False)


class Maker:
    """Makes runs in the order of their start, all from one stream of random numbers."""

    def __init__(self, runs: int, days: int, seed: int, now: datetime | None, *, orphans: bool) -> None:
        self.rng = random.Random(seed)
        self.now = int((now or datetime.now(UTC)).timestamp() * SECOND)
        self.span = days * DAY
        self.begin = self.now - self.span
        self.runs = runs
        self.orphans = round(runs * 0.005) if orphans else 0
        self.trouble = [self._trouble() for _ in range(days * 24 + 1)]
        self.shares = list(accumulate(p.share for p in PIPELINES))
        self.numbers: Counter[str] = Counter()

    def _trouble(self) -> float:
        """How much more often than usual runs fail in some hour."""
        return self.rng.choices((0.5, 0.8, 1.0, 1.6, 5.0), (25, 35, 25, 12, 3))[0]

    def _hour_weight(self, at: int) -> float:
        """How many runs start in an hour: more in working hours, less at the weekend."""
        moment = datetime.fromtimestamp(at // SECOND, UTC)
        weight = 1.0 if 7 <= moment.hour < 18 else 0.35 if 5 <= moment.hour < 22 else 0.1
        weekend = 0.3 if moment.weekday() >= 5 else 1.0
        return weight * weekend * math.exp(self.rng.gauss(0, 0.25))

    def _starts(self) -> list[int]:
        """Start times in order, without the last few runs, which are on at this moment."""
        hours = range(self.begin, self.now, HOUR)
        weights = [self._hour_weight(hour) for hour in hours]
        count = self.runs + self.orphans - self._recent()
        chosen = self.rng.choices(hours, weights, k=count)
        return sorted(hour + int(self.rng.random() * HOUR) for hour in chosen)

    def _recent(self) -> int:
        return min(5, self.runs // 100)

    def __iter__(self) -> Iterator[Made]:
        starts = self._starts()
        orphans = set(self.rng.sample(range(len(starts)), self.orphans))
        recent = sorted(self.now - int(self.rng.uniform(5, 240) * SECOND) for _ in range(self._recent()))
        stop = bisect_left(starts, recent[0]) if recent else len(starts)
        for index in range(stop):
            yield self._made(starts[index], None, orphan=index in orphans)
        late: list[tuple[int, str | None, bool]]
        late = [(at, None, index in orphans) for index, at in enumerate(starts[stop:], stop)]
        late += [(at, "running", False) for at in recent]
        for at, plan, orphan in sorted(late, key=itemgetter(0)):
            yield self._made(at, plan, orphan=orphan)

    def _made(self, start: int, plan: str | None, *, orphan: bool) -> Made:
        run = self._new(start)
        self._carry_out(run, plan or self._plan(run))
        run.own = self._own_fields()
        states = self._tasks(run)
        if orphan or run.status in ("running", "paused") or self.rng.random() > 0.005:
            states.append(state_row(run))
        if orphan:
            return Made(start, None, [], [], states)
        spans = [] if run.status == "running" else [(iso(run.end + 9000), self._spans(run))]
        return Made(start, self._run_row(run), step_rows(run), spans, states)

    def _new(self, start: int) -> Run:
        rng = self.rng
        pipeline = rng.choices(PIPELINES, cum_weights=self.shares)[0]
        place = (start - self.begin) / self.span + rng.gauss(0, 0.03)
        versions = pipeline.versions
        version = versions[max(0, min(len(versions) - 1, int(place * len(versions))))]
        self.numbers[pipeline.name] += 1
        number = self.numbers[pipeline.name]
        if rng.random() < 0.9:
            return Run(f"run_{rng.getrandbits(128):032x}", pipeline, version, start, number)
        return Run(f"{pipeline.name}-{number:06d}", pipeline, version, start, number)

    def _plan(self, run: Run) -> str:
        """How the run is to end, if nothing comes between."""
        dice = self.rng.random()
        if dice < 0.005:
            return "cancelled" if dice < 0.003 else "running"
        hour = max(0, (run.start - self.begin) // HOUR)
        failing = min(0.9, run.pipeline.failing * self.trouble[hour])
        return "failed" if dice < 0.005 + failing else "completed"

    def _own_fields(self) -> str:
        """The fields of the application; one run in a thousand carries a long document."""
        rng = self.rng
        length = rng.choice(NOTE_LENGTHS)
        if rng.random() < 0.001:
            length = rng.randrange(10_000, 60_000)
        bits = rng.getrandbits(28)
        return OWN_FIELDS % (bits >> 12, bits & 4095, PROSE[:length])

    def _carry_out(self, run: Run, plan: str) -> None:
        """Walk through the steps until the end, a failure, an interruption or a person."""
        stop = self.rng.choice(run.pipeline.stops) if plan != "completed" else -1
        at = run.start + 9000
        given = f'"item {run.number}"'
        for index, (name, kind) in enumerate(run.pipeline.steps):
            step = self._step(run, Step(name, kind, index, at, at, given))
            if kind == "human":
                self._ask(run, step)
                if run.status == "paused":
                    return
            elif step.end > self.now or (index == stop and plan in ("cancelled", "running")):
                self._interrupt(run, step, plan)
                return
            elif index == stop:
                self._fail(step)
            run.steps.append(step)
            at, given = step.end + 10_000, step.shown
            if not step.success:
                break
        run.status = plan
        run.end = at

    def _step(self, run: Run, step: Step) -> Step:
        """Fill in what a step took and gave."""
        rng = self.rng
        pace = 0.012 if step.kind == "tool" else run.pipeline.pace
        if step.kind in ("background", "human"):
            step.output = step.shown = step.given
            if step.kind == "background":
                self._launch(step)
            return step
        step.latency = round(pace * math.exp(rng.gauss(0, 0.8)), 9)
        step.end = step.begin + int(step.latency * SECOND) + 3000
        bits = rng.getrandbits(21)
        numbers = (bits >> 8, bits & 255)
        output, shown = OUTPUTS[(step.index + len(step.name)) % len(OUTPUTS)]
        step.output, step.shown = output % numbers, shown % numbers
        if step.kind != "tool":
            self._price(step)
        return step

    def _price(self, step: Step) -> None:
        """Tokens, cost and attempts of a step that asks a model."""
        rng = self.rng
        step.tokens = int(600 * math.exp(rng.gauss(0, 0.9)))
        step.cost = round(step.tokens * 0.0000025 * (1 + len(step.name) % 5), 6)
        if rng.random() < 0.05:
            step.attempts = rng.choice((2, 2, 2, 3))
        if step.kind == "loop":
            step.attempts = 3
            step.feedback = '"loop exited by condition"'
            step.meta = LOOP_META
        elif step.kind == "parallel":
            step.feedback = '"All 2 branches executed successfully"'
            step.meta = '{"executed_branches":["left","right"]}'

    def _launch(self, step: Step) -> None:
        step.end = step.begin + 500
        step.attempts = 0
        step.task_id = f"bg_{self.rng.getrandbits(128):032x}"
        step.feedback = f'"Launched in background (task_id={step.task_id})"'
        step.meta = f'{{"background_task_id":"{step.task_id}"}}'

    def _fail(self, step: Step) -> None:
        step.success = False
        step.output, step.shown = "null", '"None"'
        step.tokens, step.cost = 0, 0.0
        step.attempts = self.rng.choice((1, 2, 2, 3, 4))
        step.feedback = quoted(self._error())
        step.meta = '{"on_step_failure_dispatched":true}'

    def _error(self) -> str:
        rng = self.rng
        template = rng.choices(ERRORS, cum_weights=ERROR_SHARES)[0]
        n, m = rng.randrange(1, 90), rng.randrange(100, 9000)
        return template.format(n=n, m=m, h=f"{rng.getrandbits(48):012x}")

    def _ask(self, run: Run, step: Step) -> None:
        """A person answers after hours or days, or has not answered yet."""
        rng = self.rng
        run.paused_at = min(step.begin, self.now)
        wait = int(math.exp(rng.gauss(0, 1.4)) * 4 * HOUR)
        if rng.random() < 0.07 or run.paused_at + wait > self.now:
            run.status, run.cut, run.end = "paused", step, run.paused_at
            return
        run.resumed_at = step.end = run.paused_at + wait
        run.answer = rng.choice(ANSWERS)
        step.output = step.shown = f'"{run.answer}"'

    def _interrupt(self, run: Run, step: Step, plan: str) -> None:
        """Cancelled within a step, killed there, or still in it."""
        run.cut = step
        if plan == "cancelled" and step.end <= self.now:
            run.status = plan
            run.end = step.begin + (step.end - step.begin) // 2
        else:
            run.status = "running"
            run.end = run.steps[-1].end if run.steps else run.start

    def _tasks(self, run: Run) -> list[Row]:
        """The states of the background tasks that the run started."""
        return [self._task(run, step) for step in run.steps if step.task_id]

    def _task(self, run: Run, step: Step) -> Row:
        dice = self.rng.random()
        error = self._error() if dice < 0.13 else None
        end = step.end + int(math.exp(self.rng.gauss(0, 1)) * 4 * SECOND)
        running = dice > 0.98 or end > self.now
        status = "running" if running else "failed" if error else "completed"
        own = self._own_fields()
        return task_row(run, step, status, step.end if running else end, None if running else error, own)

    def _run_row(self, run: Run) -> Row:
        pipeline = run.pipeline
        names = (f"{pipeline.name}-id", pipeline.name, run.version)
        if self.rng.random() < 0.001:
            names = ("unknown", "unknown", "latest")
        status = run.status if run.status in ("failed", "running") else "completed"
        end = run.start if status == "running" else run.end + 17_000
        return run.run_id, *names, status, iso(run.start), iso(end)

    # spans

    def _uuid(self) -> str:
        text = f"{self.rng.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def _clock(self, at: int) -> float:
        """The writer's monotonic clock."""
        return 1000.0 + (at - self.begin) / SECOND

    def _spans(self, run: Run) -> list[Row]:
        root = self._uuid()
        saved = _second((run.end + 9000) // SECOND).replace("T", " ")
        rows = [self._root(run, root, saved)]
        for step in run.steps:
            span = self._uuid()
            times = (self._clock(step.begin), self._clock(step.end))
            status = "completed" if step.success else "failed"
            rows.append((run.run_id, span, root, step.name, *times, status, span_attributes(step), saved))
            if step.kind == "nested":
                rows.extend(self._inner(run, step, span, saved))
        if run.cut is not None:
            place = (self._uuid(), root, run.cut.name, self._clock(run.cut.begin), None)
            attributes = begun(run.cut, last='"flujo.cache.hit":false}')
            rows.append((run.run_id, *place, "running", attributes, saved))
        return rows

    def _root(self, run: Run, span: str, saved: str) -> Row:
        status = "failed" if run.status == "cancelled" else "paused" if run.paused_at else run.status
        begin, end = self._clock(run.start + 5000), self._clock(run.paused_at or run.end)
        attributes = (
            f'{{"flujo.input":"item {run.number}","flujo.run_id":"{run.run_id}",'
            f'"flujo.pipeline.name":"{run.pipeline.name}","flujo.pipeline.version":"{run.version}"}}'
        )
        return run.run_id, span, None, "pipeline_run", begin, end, status, attributes, saved

    def _inner(self, run: Run, step: Step, parent: str, saved: str) -> Iterator[Row]:
        """The spans of a pipeline within a step."""
        half = (step.begin + step.end) // 2
        for name, begin, end in (("search", step.begin + 900, half), ("read", half + 400, step.end - 200)):
            part = Step(name, "nested", 0, begin, end, f'"sub-{name}"', latency=(end - begin) / SECOND)
            times = (self._clock(begin), self._clock(end))
            yield run.run_id, self._uuid(), parent, name, *times, "completed", span_attributes(part), saved


def begun(step: Step, *, last: str) -> str:
    """The attributes that a span has from its begin."""
    kind, policy = KINDS[step.kind]
    background = '"flujo.is_background":true,' if step.kind == "background" else ""
    head = f'{{"flujo.step.type":"{kind}","step_input":{step.given},{background}'
    return f'{head}"flujo.step.policy":"{policy}",{last}'


def span_attributes(step: Step) -> str:
    """The attributes of a span that has ended."""
    failed = "" if step.success else f',"feedback":{step.feedback}'
    return begun(
        step,
        last=f'"flujo.cache.hit":false,"success":{"true" if step.success else "false"},'
        f'"latency_s":{step.latency!r},"flujo.budget.actual_cost_usd":{step.cost!r},'
        f'"flujo.budget.actual_tokens":{step.tokens}{failed}}}',
    )


def step_rows(run: Run) -> list[Row]:
    """The rows of `steps`: a person's step has none."""
    return [
        (run.run_id, s.name, s.index, "completed" if s.success else "failed", s.output, iso(s.end + 2000))
        for s in run.steps
        if s.kind != "human"
    ]


# ---------------------------------------------------------------- states


def state_row(run: Run) -> Row:
    """The last saved state of a run."""
    context = context_text(run)
    branch = context
    if run.status == "running":
        context = CRASHED_CONTEXT % (run.prompt, run.run_id, run.steps[-1].name if run.steps else "")
    reached = len(run.steps) * 2 if run.answer and run.status == "completed" else len(run.steps)
    last = run.steps[-1].output if run.steps and run.steps[-1].success else None
    status = "failed" if run.status == "cancelled" else run.status
    created, took = run.end, None
    if run.answer:
        created, took = run.paused_at, (run.end - run.paused_at) // 1000
    place = (run.run_id, "unknown", "unknown", "latest", reached)
    texts = (context, last, history_text(run, branch))
    return *place, *texts, status, iso(created), iso(run.end), 0, None, took, None, "{}", 0, None, None, None


def context_text(run: Run) -> str:
    """The context; while a run is on, the one that its steps carry."""
    at = run.cut or run.steps[-1]
    values: dict[str, Any] = {"run_id": run.run_id, "prompt": run.prompt, "own": run.own}
    values["outputs"] = ",".join(f'"{s.name}":{s.output}' for s in run.steps if s.success)
    values["step"], values["index"] = at.name, at.index
    if run.status == "paused":
        values |= waiting_fields(run, at)
    elif run.answer:
        values |= answered_fields(run)
    return CONTEXT % (CONTEXT_DEFAULTS | values)


def waiting_fields(run: Run, at: Step) -> dict[str, str]:
    """What a context holds while a person is asked."""
    return {
        "status": "paused",
        "pause_message": run.question,
        "talk": f'[{{"role":"assistant","content":{run.question}}}]',
        "paused_input": at.given,
        "user_input": at.given,
        "hitl_data": f'{{"last_hitl_step":"{at.name}"}}',
    }


def answered_fields(run: Run) -> dict[str, str]:
    """What a context holds after the answer."""
    question, answer, when = run.question, f'"{run.answer}"', f'"{iso(run.resumed_at)}"'
    command = (
        f'{{"turn":1,"generated_command":{{"type":"ask_human","question":{question}}},'
        f'"execution_result":{answer},"timestamp":{when}}}'
    )
    said = f'"message_to_human":{question},"human_response":{answer},"timestamp":{when}'
    return {
        "status": "completed" if run.status == "completed" else "running",
        "hitl_history": f"[{{{said}}}]",
        "command_log": f"[{command}]",
        "talk": f'[{{"role":"assistant","content":{question}}},{{"role":"user","content":{answer}}}]',
        "pause_message": question,
        "user_input": answer,
        "loop_last": command,
    }


def history_text(run: Run, branch: str) -> str:
    """The history; the first and the last step that can carry the context do so."""
    carrying = [s.index for s in run.steps if s.success and s.kind not in ("human", "background")]
    ends = (carrying[0], carrying[-1]) if carrying else ()
    return f"[{','.join(entry(s, branch if s.index in ends else 'null') for s in run.steps)}]"


def entry(step: Step, branch: str) -> str:
    """One step of the history."""
    inner = ",".join(inner_entries(step)) if step.kind == "loop" and step.success else ""
    return (
        f'{{"name":"{step.name}","output":{step.output},"success":{"true" if step.success else "false"},'
        f'"attempts":{step.attempts},"latency_s":{step.latency!r},"token_counts":{step.tokens},'
        f'"cost_usd":{step.cost!r},"feedback":{step.feedback},"branch_context":{branch},'
        f'"metadata_":{step.meta},"step_history":[{inner}]}}'
    )


def inner_entries(step: Step) -> Iterator[str]:
    """The turns of a loop."""
    for turn in range(1, 4):
        part = Step("one_item", "tool", turn, 0, 0, step.given, str(turn), latency=round(step.latency / 3, 9))
        yield entry(part, "null")


def task_row(run: Run, step: Step, status: str, saved: int, error: str | None, own: str) -> Row:
    """The state of a background task."""
    run_id, failure = f"{run.run_id}_bg_{step.task_id}", quoted(error) if error else "null"
    values = {
        "run_id": run_id,
        "prompt": run.prompt,
        "own": own,
        "outputs": f'"{run.steps[0].name}":{run.steps[0].output}',
        "is_task": "true",
        "task_id": f'"{step.task_id}"',
        "parent": f'"{run.run_id}"',
        "error": failure,
        "category": '"system"' if error else "null",
        "step": step.name,
        "index": step.index,
    }
    place = (run_id, "unknown", "unknown", "latest", int(status == "completed"))
    texts = (CONTEXT % (CONTEXT_DEFAULTS | values), None, "[]", status, iso(saved), iso(saved))
    metadata = task_metadata(run, step, failure)
    return *place, *texts, 0, None, None, None, metadata, 1, run.run_id, step.task_id, error


def task_metadata(run: Run, step: Step, failure: str) -> str:
    """The metadata of a background task; `failure` is its error as JSON."""
    reason = "" if failure == "null" else f',"background_error":{failure},"error_category":"system"'
    return (
        f'{{"is_background_task":true,"task_id":"{step.task_id}","parent_run_id":"{run.run_id}",'
        f'"step_name":"{step.name}","input_data":{step.given}{reason}}}'
    )


# ---------------------------------------------------------------- stores


class Queue:
    """Rows that wait until no run that starts later can come before them."""

    def __init__(self, key: int) -> None:
        self.rows: list[Any] = []
        self.key = itemgetter(key)

    def take(self, limit: str | None) -> list[Any]:
        """The rows before `limit`, in order of time; all of them without."""
        self.rows.sort(key=self.key)
        place = len(self.rows) if limit is None else bisect_left(self.rows, limit, key=self.key)
        ready, self.rows = self.rows[:place], self.rows[place:]
        return ready


class Filler:
    """Writes what a Maker makes to a connection, each table in the order in which the library would."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.runs: list[Row] = []
        self.states, self.steps, self.spans = Queue(10), Queue(5), Queue(0)

    def add(self, made: Made) -> None:
        if made.run is not None:
            self.runs.append(made.run)
        self.states.rows += made.states
        self.steps.rows += made.steps
        self.spans.rows += made.spans
        if len(self.runs) >= BATCH:
            self.flush(iso(made.start))

    def flush(self, limit: str | None) -> None:
        insert = self.connection.executemany
        insert(INSERTS["runs"], self.runs)
        self.runs = []
        insert(INSERTS["steps"], self.steps.take(limit))
        insert(INSERTS["spans"], [row for _, rows in self.spans.take(limit) for row in rows])
        insert(INSERTS["workflow_state"], self.states.take(limit))


def refuse(path: Path) -> Path:
    """Stop if something is in the way; else the place to build at, so that `path` is never half made."""
    part = path.with_name(f"{path.name}.part")
    for there in (path, part):
        if there.exists() or there.is_symlink():
            raise SystemExit(f"{there} exists; remove it or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    return part


@contextmanager
def no_collection() -> Iterator[None]:
    """Without looking for cycles, of which there are none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@no_collection()
def make_sqlite(path: Path, runs: int, *, days: int = 30, seed: int = 1, now: datetime | None = None) -> None:
    """Make a store of `runs` runs as the library leaves it after a clean end."""
    part = refuse(path)
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        prepare = "page_size=4096 journal_mode=OFF synchronous=OFF locking_mode=EXCLUSIVE cache_size=-400000"
        for pragma in (*prepare.split(), "user_version=1"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.executescript(f"{SCHEMA} BEGIN")
        filler = Filler(connection)
        for made in Maker(runs, days, seed, now, orphans=True):
            filler.add(made)
        filler.flush(None)
        connection.executescript(INDEXES)  # commits first
    with closing(sqlite3.connect(part)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    part.rename(path)


@no_collection()
def make_files(folder: Path, runs: int, *, days: int = 30, seed: int = 1, now: datetime | None = None) -> None:
    """Make a folder of JSON files, one for each run and background task, oldest save first."""
    part = refuse(folder)
    part.mkdir()
    queue = Queue(10)
    for made in Maker(runs, days, seed, now, orphans=False):
        queue.rows += made.states
        if len(queue.rows) >= BATCH:
            write_files(part, queue.take(iso(made.start)))
    write_files(part, queue.take(None))
    part.rename(folder)


def write_files(folder: Path, rows: list[Row]) -> None:
    """Write states as files whose time is that of the save."""
    for row in rows:
        state = file_state(row)
        target = folder / f"{state['run_id']}.json"
        target.write_text(json.dumps(state, sort_keys=True), encoding="ascii")
        saved = datetime.fromisoformat(state["updated_at"]).timestamp()
        os.utime(target, (saved, saved))


def file_state(row: Row) -> dict[str, Any]:
    """A row of workflow_state as a file holds it."""
    state: dict[str, Any] = dict(zip(STATE_COLUMNS, row, strict=True))
    for column in JSON_COLUMNS:
        state[column] = None if state[column] is None else json.loads(state[column])
    state["is_background_task"] = bool(state["is_background_task"])
    if state["status"] == "running" and not state["is_background_task"]:
        for column in NOT_WHILE_RUNNING:
            del state[column]
    return state


def aware(text: str) -> datetime:
    """A time from the command line, UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def positive(text: str) -> int:
    """A whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a big state store for measurements.")
    parser.add_argument("kind", choices=("sqlite", "files"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=positive, required=True)
    parser.add_argument("--days", type=positive, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--now", type=aware, help="the time of the newest runs (ISO; default: the clock)")
    given = parser.parse_args()
    began = time.monotonic()
    make = make_sqlite if given.kind == "sqlite" else make_files
    make(given.out, given.runs, days=given.days, seed=given.seed, now=given.now)
    print(f"{given.out}: {given.runs} runs in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
