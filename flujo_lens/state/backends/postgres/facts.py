"""What `flujo_lens.state.interpret` tells of a run, as columns: for figures, counts and deletions over many runs.

A run of which columns do not tell everything is ``odd``, and its documents are read. These are runs without a name,
paused ones that may have failed, those with times that no calendar has, and those whose state is stored as a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flujo_lens.state.backends.postgres.queries import FIRST, LAST
from flujo_lens.state.backends.postgres.tables import COLUMNS, TYPES, Shape
from flujo_lens.state.filtering import statuses_stored
from flujo_lens.state.views import UNREADABLE, RunFilter

_NAMELESS = "('', 'unknown')"
_OF_BOTH = ("pipeline_name", "pipeline_version", "status", "created_at", "updated_at", "execution_time_ms")
_TIMES = ("f.r_created_at", "f.r_updated_at", "f.s_created_at", "f.s_updated_at")
_KNOWN = f"CASE WHEN {{0}} BETWEEN '{FIRST}' AND '{LAST}' THEN {{0}} END"
"""A time, if it is one of Python's calendar: the client raises for all rows if one is not."""

_NUMBER = "CASE WHEN jsonb_typeof({0}) = 'number' AND abs(({0})::float8) < 1e18 THEN ({0})::float8 END"
_WHOLE = f"CASE WHEN {_NUMBER} = trunc(({{0}})::float8) THEN ({{0}})::float8 END"


def _tokens(value: str) -> str:
    """Tokens as of `flujo_lens.state.costs.tokens_of`: a number, or counts by kind."""
    totals = ", ".join(_WHOLE.format(f"({value} -> '{key}')") for key in ("total", "total_tokens", "token_counts"))
    by_kind = f"coalesce({totals}, (SELECT sum({_WHOLE.format('v.value')}) FROM jsonb_each({value}) AS v))"
    return f"CASE jsonb_typeof({value}) WHEN 'number' THEN {_WHOLE.format(value)} WHEN 'object' THEN {by_kind} END"


_SUMS = f"""(SELECT ARRAY[sum({_NUMBER.format("c")}), sum({_tokens("k")})] FROM
  (SELECT e -> 'cost_usd' AS c, e -> 'token_counts' AS k FROM jsonb_array_elements(s.history) AS e OFFSET 0) AS x)"""
_PLAIN_SUMS = """(SELECT ARRAY[CASE WHEN abs(c) < 1e18 THEN c ELSE 1 / (c - c) END, CASE WHEN trunc(k) = k THEN k
  ELSE 1 / (k - k) END] FROM (SELECT sum(nullif(e -> 'cost_usd', 'null')::float8) AS c,
  sum(nullif(e -> 'token_counts', 'null')::float8) AS k FROM jsonb_array_elements(s.history) AS e) AS x)"""
"""In half the time; an error if they are anything but numbers, and tokens anything but whole ones."""

_BUSY = f"""(SELECT sum({_NUMBER.format("l")}) FROM
  (SELECT e -> 'latency_s' AS l FROM jsonb_array_elements(s.history) AS e OFFSET 0) AS x)"""
_FAILURE = """'[{"success": false}]'"""
_LAST_FAILURE = "jsonb_path_query_array(s.history, 'strict $[*] ? (@.success == false)') -> -1"
_STEPS = """(SELECT {what} FROM (SELECT DISTINCT ON (step_index, step_name) c, k FROM (
  SELECT t.id, t.step_index, t.step_name, {cost} AS c, {tokens} AS k
  FROM steps t {join} WHERE t.run_id = f.run_id OFFSET 0) AS own ORDER BY step_index, step_name, id DESC) AS last)"""

_DOCUMENT = r"CASE WHEN position('\u0000' IN d.document) = 0 THEN d.document::json END"
_STRANGE = r"""coalesce(position('\u0000' IN d.document) + position('"start_time":' IN d.document) > 0, false)"""
_DAY = "((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
_ZONED = f"f.document ->> '{{0}}' ~ '^[12][0-9]{{{{3}}}}-{_DAY}T{_CLOCK}(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9])$'"
"""Whether a text is a time that can be cast without an error."""

_DIFFERS = f"""CASE WHEN {_ZONED} THEN (f.document ->> '{{0}}')::timestamptz <> f.r_{{0}}
  ELSE f.document ->> '{{0}}' IS NOT NULL END"""
_END = f"CASE WHEN {_ZONED.format('end_time')} THEN (f.document ->> 'end_time')::timestamptz END"
_TOTAL_COST = """CASE WHEN abs((f.document ->> 'total_cost')::numeric) < 1e18
  THEN (f.document ->> 'total_cost')::float8 END"""
_RUN_MS = """coalesce(CASE WHEN abs((f.document ->> 'execution_time_ms')::numeric) < 1e18
  THEN (f.document ->> 'execution_time_ms')::float8 END, f.r_execution_time_ms)"""

_NEEDY = "(coalesce(f.s_status, 'running') IN ('running', 'paused', 'failed') OR coalesce(f.r_status, '') = 'failed')"
"""Where `RunReader` looks for costs in the steps."""

_ERROR = """coalesce(nullif(f.s_error_message, ''), nullif(f.r_error_message, ''), nullif(f.task_error, ''),
  nullif(f.metadata ->> 'background_error', ''), nullif(f.failing ->> 'feedback', ''))"""
_UNCLEAR = f"""(f.task OR {_ERROR} IS NULL OR coalesce(f.failing ->> 'name', '') = ''
  OR coalesce(jsonb_typeof(f.failing -> 'name') <> 'string', false)
  OR coalesce(jsonb_typeof(f.failing -> 'feedback') NOT IN ('string', 'null'), false)
  OR coalesce(jsonb_typeof(f.metadata -> 'background_error') NOT IN ('string', 'null'), false))"""


class Facts:
    """A query over runs, and its parameters.

    The columns of a run: ``run_id, name, version, status, started, updated, ms, waits, usd, tokens, task,
    parent, error, step, unclear`` (whether it takes more to tell error and step of a failed run), ``odd``.

    Args:
        shape: Which tables and columns there are.
        wanted: The filter; what asks for more than columns tell is not looked at.
        ids: Only these runs.
        costs: Whether ``usd`` and ``tokens`` are asked for; else they are NULL. With ``"plain"`` it is an error of the
            query if one in a history is not a plain number.
        errors: Whether ``error`` and ``step`` are.
    """

    def __init__(
        self,
        shape: Shape,
        wanted: RunFilter,
        *,
        ids: Sequence[str] | None = None,
        costs: bool | str = False,
        errors: bool = False,
    ) -> None:
        self._shape, self._wanted = shape, wanted
        self._costs, self._errors = costs, errors
        self.values: list[Any] = []
        self._ids = None if ids is None else self.given(list(ids), "text[]")
        since, until = (None if t is None else self.given(t, "timestamptz") for t in (wanted.since, wanted.until))
        self._begun = [f"{{0}} {how} {when}" for how, when in ((">=", since), ("<", until)) if when is not None]
        self._runs = f"(SELECT {self._told()} FROM ({self._rows()}) AS f OFFSET 0) AS run"

    def given(self, value: Any, kind: str) -> str:
        """A parameter."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def select(self, what: str, rest: str = "", *, odd: bool | None = False, join: str = "") -> str:
        """The runs that columns tell of and the filter admits; or the `odd` ones, of which it may admit fewer.

        None: both.
        """
        which = "odd" if odd else f"NOT odd{self._admitted(self._wanted)}"
        return (
            f"SELECT {what} FROM {self._runs} {join} WHERE {which if odd is not None else f'(odd OR {which})'} {rest}"
        )

    def admits(self, wanted: RunFilter) -> str:
        """Whether another filter admits a run, as a column."""
        begun = (("started >=", wanted.since), ("started <", wanted.until))
        asked = "".join(f" AND {limit} {self.given(t, 'timestamptz')}" for limit, t in begun if t is not None)
        return f"coalesce(true{asked}{self._admitted(wanted)}, false)"

    def _admitted(self, wanted: RunFilter) -> str:
        equal = {"name": wanted.pipeline, "version": wanted.version, "parent": wanted.parent}
        asked = [f"{column} = {self.given(value, 'text')}" for column, value in equal.items() if value is not None]
        if wanted.statuses:
            asked.append(f"status = ANY({self.given(list(wanted.statuses), 'text[]')})")
        limits = (("updated >=", wanted.active_since), ("updated <", wanted.active_until))
        asked += [f"{limit} {self.given(when, 'timestamptz')}" for limit, when in limits if when is not None]
        asked += ["NOT task"] * wanted.top_level + ["task"] * wanted.tasks_only
        return "".join(f" AND {one}" for one in asked)

    # --- rows of both tables

    def _rows(self) -> str:
        """The runs with their states, and the states without a run; asked for by status, the states come first."""
        runs, states = self._side("runs", "r"), self._side("workflow_state", "s")
        if runs is None or states is None:
            return self._branch(runs or states or "", "s" if runs is None else "r")
        few = None if self._ids is not None else statuses_stored(self._wanted)
        if few is not None:
            in_state, in_run = (f"{self.given(list(statuses), 'text[]')}" for statuses in few)
            alone = "NOT EXISTS (SELECT FROM workflow_state x WHERE x.run_id = r.run_id)"
            both = f"{states} LEFT JOIN {runs} ON r.run_id = s.run_id"
            return (
                self._branch(both, "sr", f"s.status = ANY({in_state})")
                + f" UNION ALL {self._branch(runs, 'r', alone, f'r.status = ANY({in_run})')}"
            )
        if self._ids is None and not self._begun:
            return self._branch(f"{runs} FULL JOIN {states} ON s.run_id = r.run_id", "rs")
        alone = "NOT EXISTS (SELECT FROM runs x WHERE x.run_id = s.run_id)"
        both = self._branch(f"{runs} LEFT JOIN {states} ON s.run_id = r.run_id", "rs")
        return f"{both} UNION ALL {self._branch(states, 's', alone)}"

    def _side(self, table: str, alias: str) -> str | None:
        """The rows of one table. Where it is the second of a join, this is computed before they are joined."""
        if not self._shape.has(table):
            return None
        columns = {name: self._column(table, name) for name in (*_OF_BOTH, "error_message")}
        has_documents = self._shape.has("lens_documents")
        if alias == "r":
            columns |= {"document": _DOCUMENT, "is_kept": _STRANGE} if has_documents else _NOT_KEPT
        else:
            columns |= self._of_state() | {"is_kept": "d.run_id IS NOT NULL" if has_documents else "false"}
        kind, stamp = ("run", " AND d.stamp IS NOT DISTINCT FROM md5(t::text)") if alias == "r" else ("state", "")
        on = f"d.kind = '{kind}' AND d.run_id = t.run_id AND d.key = ''{stamp}"
        join = f"LEFT JOIN lens_documents d ON {on}" if has_documents else ""
        return f"(SELECT t.run_id, {_listed(columns)} FROM {table} t {join}) AS {alias}"

    def _of_state(self) -> dict[str, str]:
        names = ("background_error", "metadata", "step_history", "is_background_task", "parent_run_id", "status")
        error, metadata, history, task, parent, status = (self._column("workflow_state", name) for name in names)
        return {
            "history": history,
            "metadata": metadata,
            "task_error": error,
            "task": f"coalesce({task}, false)",
            "parent": f"coalesce(nullif({parent}, ''), {metadata} ->> 'parent_run_id')",
            "no_list": f"coalesce(jsonb_typeof({history}) NOT IN ('array', 'null'), false)",
            "failed": f"CASE WHEN {status} = 'failed' THEN coalesce({history} @> {_FAILURE}, false) END",
        }

    def _column(self, table: str, name: str) -> str:
        there = name in self._shape.columns.get(table, frozenset[str]())
        return f"t.{name}" if there else f"NULL::{TYPES[COLUMNS[table][name]]}"

    def _branch(self, source: str, sides: str, *conditions: str) -> str:
        """One kind of rows. OFFSET 0 keeps what is dear to compute from being computed at each mention."""
        found = list(conditions)
        if self._ids is not None:
            found.append(f"{sides[0]}.run_id = ANY({self._ids})")
        start = "coalesce(r.created_at, s.created_at)" if sides == "sr" else f"{sides[0]}.created_at"
        found += [limit.format(start) for limit in self._begun]
        where = f"WHERE {' AND '.join(found)}" if found else ""
        return f"(SELECT {self._columns(sides)} FROM {source} {where} OFFSET 0)"

    def _columns(self, sides: str) -> str:
        def of(alias: str, name: str, otherwise: str = "") -> str:
            return f"{alias}.{name}" if alias in sides else otherwise or f"NULL::{_kind_of(name)}"

        both = [(alias, name) for alias in "rs" for name in (*_OF_BOTH, "error_message")]
        is_list = "jsonb_typeof(s.history) = 'array'"
        sums = _PLAIN_SUMS if self._costs == "plain" else _SUMS
        alone = "r.run_id IS NULL" if "r" in sides else "true"
        doubtful = of("s", "status") + " = 'failed' AND " + of("r", "status") + " = 'completed'"
        return _listed(
            {
                "run_id": "coalesce(r.run_id, s.run_id)" if len(sides) == 2 else f"{sides}.run_id",
                "has_run": "r.run_id IS NOT NULL" if "r" in sides else "false",
                **{f"{alias}_{name}": of(alias, name) for alias, name in both},
                "document": of("r", "document", "NULL::json"),
                "is_kept": " OR ".join(f"coalesce({alias}.is_kept, false)" for alias in sides),
                "task": f"coalesce({of('s', 'task', 'false')}, false)",
                "parent": of("s", "parent", "NULL::text"),
                "no_list": f"coalesce({of('s', 'no_list', 'false')}, false)",
                "is_cancelled": f"CASE WHEN {doubtful} THEN NOT ({self._failed()}) ELSE false END"
                if len(sides) == 2
                else "false",
                "sums": f"CASE WHEN {is_list} THEN {sums} END" if "s" in sides and self._costs else "NULL::float8[]",
                "busy": f"CASE WHEN {is_list} AND {alone} THEN {_BUSY} END" if "s" in sides else "NULL::float8",
                "failing": _LAST_FAILURE if "s" in sides and self._errors else "NULL::jsonb",
                "task_error": of("s", "task_error", "NULL::text"),
                "metadata": of("s", "metadata", "NULL::jsonb") if self._errors else "NULL::jsonb",
            }
        )

    def _failed(self) -> str:
        if not self._shape.has("steps"):
            return "s.failed"
        step = "SELECT true FROM steps t WHERE t.run_id = s.run_id AND t.status = 'failed' LIMIT 1"
        return f"s.failed OR ({step}) IS NOT NULL"  # EXISTS would be hashed: all steps, for few runs

    # --- what they tell

    def _told(self) -> str:
        end = f"coalesce({_END}, f.r_updated_at)"
        elapsed = f"CASE WHEN {end} >= f.r_created_at THEN date_part('epoch', {end} - f.r_created_at) * 1000 END"
        lasts = f"coalesce(f.s_status, f.r_status) IN ('running', '{UNREADABLE}')"
        spent = "coalesce(f.s_execution_time_ms, round(f.busy * 1e6) / 1e3)"
        taken = f"CASE WHEN f.has_run THEN coalesce({_RUN_MS}, {elapsed}) ELSE {spent} END"
        named = f"coalesce(f.r_pipeline_name, '') NOT IN {_NAMELESS}"
        version = f"CASE WHEN {named} THEN f.r_pipeline_version ELSE f.s_pipeline_version END"
        return _listed(
            {
                "run_id": "f.run_id",
                "name": f"CASE WHEN {named} THEN f.r_pipeline_name ELSE f.s_pipeline_name END",
                "version": f"coalesce(nullif({version}, ''), 'latest')",
                "status": "CASE WHEN f.is_cancelled THEN 'cancelled' ELSE coalesce(f.s_status, f.r_status) END",
                "started": _KNOWN.format("coalesce(f.r_created_at, f.s_created_at)"),
                "updated": _KNOWN.format(f"greatest({', '.join(_TIMES)}, {_END})"),
                "ms": f"CASE WHEN NOT {lasts} THEN {taken} END",
                "waits": f"f.has_run AND {_RUN_MS} IS NULL AND NOT {lasts}",
                **self._costs_told(),
                "task": "f.task",
                "parent": "f.parent",
                "error": _ERROR if self._errors else "NULL::text",
                "step": "f.failing ->> 'name'",
                "unclear": _UNCLEAR if self._errors else "false",
                "odd": self._odd(named),
            }
        )

    def _costs_told(self) -> dict[str, str]:
        """Cost and tokens: by the history, else by the steps where the core looks for them, else by the run."""
        if not self._costs:
            return {"usd": "NULL::float8", "tokens": "NULL::float8"}
        usd, tokens = _TOTAL_COST, "NULL::float8"
        if self._shape.has("steps"):
            of_steps = self._of_steps("sum(c) FILTER (WHERE abs(c) < 1e18)")
            usd = f"CASE WHEN {_NEEDY} THEN coalesce({of_steps}, {usd}) ELSE {usd} END"
            tokens = f"CASE WHEN {_NEEDY} THEN {self._of_steps('sum(k)::float8')} END"
        usd = f"CASE WHEN f.sums[1] IS NOT NULL THEN f.sums[1] ELSE {usd} END"
        tokens = f"CASE WHEN f.sums[2] IS NOT NULL THEN f.sums[2] ELSE {tokens} END"
        return {"usd": f"round(({usd}) * 1e9) / 1e9", "tokens": tokens}

    def _of_steps(self, what: str) -> str:
        """What the steps of a run have in sum, each as it was done last."""
        cost, tokens, join = "t.cost_usd::text::float8", "t.token_counts", ""
        if self._shape.has("lens_documents"):
            given = "d.document::json -> '{0}'"
            number, kinds = given.format("cost_usd"), f"({given.format('token_counts')})::text::jsonb"
            exact = f"CASE json_typeof({number}) WHEN 'number' THEN ({number})::text::float8 END"
            cost, tokens = (
                f"CASE WHEN d.document IS NULL THEN {stored} ELSE {of} END"
                for stored, of in ((cost, exact), (tokens, _tokens(kinds)))
            )
            on = "d.kind = 'step' AND d.run_id = t.run_id AND d.key = t.id::text AND d.stamp = md5(t::text)"
            join = f"LEFT JOIN lens_documents d ON {on}"
        return _STEPS.format(what=what, cost=cost, tokens=tokens, join=join)

    def _odd(self, named: str) -> str:
        odd = [
            "f.is_kept",
            f"NOT ({named} OR coalesce(f.s_pipeline_name, '') NOT IN {_NAMELESS})",
            "f.s_status = 'paused' AND coalesce(f.r_status, 'failed') = 'failed'",
            "coalesce(f.s_status, f.r_status, '') = ''",
            "f.no_list",
            *[f"{time} NOT BETWEEN '{FIRST}' AND '{LAST}'" for time in _TIMES],
            *[_DIFFERS.format(name) for name in ("created_at", "updated_at")],
            f"NOT {_ZONED.format('end_time')}",
        ]
        return f"coalesce({' OR '.join(f'({one})' for one in odd)}, false)"


_NOT_KEPT = {"document": "NULL::json", "is_kept": "false"}


def _listed(columns: dict[str, str]) -> str:
    return ", ".join(f"{sql} AS {name}" for name, sql in columns.items())


def _kind_of(name: str) -> str:
    return TYPES[COLUMNS["workflow_state"][name]]
