"""Output of ``lens diff``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flujo_lens.cli.context import App
from flujo_lens.cli.input.contradictions import refuse_combination
from flujo_lens.cli.output import Output
from flujo_lens.cli.paging import note_problems
from flujo_lens.operations.diff import RunDiff, Side, StepPair, compare, read_side
from flujo_lens.operations.document_changes import Change, path_text
from flujo_lens.rendering import human
from flujo_lens.rendering.columns import RUN, STEP
from flujo_lens.rendering.diff import CHANGES, SIDES, STEP_PAIRS, ChangeRow, SideRow, StepRow
from flujo_lens.rendering.text import one_line, run_command, unescape
from flujo_lens.state.backends.base import StateBackend

FEW = 20
"""Differences of each kind that the screen shows without --all."""

_LONGEST_VALUE, _BEFORE = 100, 20
"""Characters of a value that a terminal shows, and those before the first that differs."""

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_SIDES = (("added", "left"), ("removed", "right"))
_MASKED = "***"


def print_diff(app: App, out: Output, left: str, right: str, *, show_all: bool) -> bool:
    """Print how two runs differ; return whether they do."""
    refuse_combination("lens diff", {"--columns": out.options.columns}, "it prints a screen, or -o json")

    async def work(backend: StateBackend) -> RunDiff:
        return compare(*[await read_side(backend, text, unescape(text)) for text in (left, right)])

    found = app.run(work)
    if out.is_table:
        _Screen(app, out, found, show_all).draw()
    elif out.form == "json":
        out.document(_document(out, found))
    else:
        out.line(_document(out, found))
    note_problems(app, [found.left.run, found.right.run])
    return bool(found.differs)


# --- values


class _Masked:
    """Two documents with their secrets masked, to look up the values of differences in.

    A difference between secrets is one, so documents are compared before they are masked.
    """

    def __init__(self, out: Output, left: Any, right: Any) -> None:
        self._left, self._right = out.redactor.value(left), out.redactor.value(right)

    def row(self, change: Change) -> dict[str, Any]:
        """A difference as JSON has it."""
        left = None if change.change == "added" else _at(self._left, change.path)
        right = None if change.change == "removed" else _at(self._right, change.path)
        return {"path": path_text(change.path), "change": change.change, "left": left, "right": right}


def _at(value: Any, path: Sequence[str | int]) -> Any:
    """The value at a path of a masked document; what is not there any more is masked."""
    for part in path:
        if isinstance(value, str) or (isinstance(value, Mapping) and part not in value):
            return _MASKED
        value = value[part]
    return value


# --- JSON


def _document(out: Output, found: RunDiff) -> dict[str, Any]:
    return {
        "left": _side(found.left),
        "right": _side(found.right),
        "differs": list(found.differs),
        "first_step": found.first,
        "steps": [_pair(pair) for pair in found.steps],
        "context": _rows(_contexts(out, found), found.context),
        "metadata": _rows(_metadata(out, found), found.metadata),
        "manifest": _rows(_Masked(out, *found.shapes), found.manifest),
    }


def _side(side: Side) -> dict[str, Any]:
    return {**RUN.row(side.run), "manifest": side.manifest_digest}


def _pair(pair: StepPair) -> dict[str, Any]:
    steps = {
        side: None if step is None else STEP.row(step) for side, step in zip(("left", "right"), pair, strict=False)
    }
    return {"step_name": pair.step_name, **steps, "differs": list(pair.differs)}


def _rows(masked: _Masked, changes: Sequence[Change] | None) -> list[dict[str, Any]] | None:
    return None if changes is None else [masked.row(change) for change in changes]


def _contexts(out: Output, found: RunDiff) -> _Masked:
    return _Masked(out, found.left.context, found.right.context)


def _metadata(out: Output, found: RunDiff) -> _Masked:
    return _Masked(out, found.left.run.metadata, found.right.run.metadata)


# --- the screen


class _Screen:
    """The screen: both runs, their steps side by side, and the differences by path."""

    def __init__(self, app: App, out: Output, found: RunDiff, show_all: bool) -> None:
        self.app, self.out, self.found, self.show_all = app, out, found, show_all

    def draw(self) -> None:
        """Print the screen."""
        from rich.text import Text

        found, out = self.found, self.out
        out.table(SIDES, list(_sides(found)))
        same = "no differences, apart from times, costs and tokens"
        out.print(Text(f"\ndiffers: {', '.join(found.differs)}" if found.differs else f"\n{same}", style="bold"))
        if found.steps:
            out.print(Text())
            mark = "→" if self.app.world.unicode else ">"
            rows = [StepRow(mark if at == found.first else "", pair) for at, pair in enumerate(found.steps)]
            out.table(STEP_PAIRS, rows)
        self._draw_first()
        without = " and ".join(side for side, run in zip("AB", found[:2], strict=True) if run.detail.state is None)
        self._draw_changes("context", _contexts(out, found), found.context, f"no state stored of {without}")
        self._draw_changes("metadata", _metadata(out, found), found.metadata, "")
        without = " and ".join(side for side, run in zip("AB", found[:2], strict=True) if run.manifest is None)
        shapes = _Masked(out, *found.shapes)
        self._draw_changes("manifest", shapes, found.manifest, f"no manifest stored of {without}")
        out.print(Text())
        out.next(*dict.fromkeys(run_command("show", side.run.run_id, "-v") for side in found[:2]))
        out.note_dropped()

    def _draw_first(self) -> None:
        """The first steps that differ, in detail."""
        from rich.text import Text

        if self.found.first is None:
            return
        pair = self.found.steps[self.found.first]
        if pair.left is None or pair.right is None:
            return
        rows: list[ChangeRow] = []
        for name in pair.differs:
            one, two = getattr(pair.left, name), getattr(pair.right, name)
            masked = _Masked(self.out, {name: one}, {name: two})
            rows += [self._row(masked, change) for change in self.found.changes({name: one}, {name: two})]
        self.out.print(Text(f"\nfirst difference: step {one_line(pair.step_name)}", style="bold"))
        self._table(rows)

    def _draw_changes(self, name: str, masked: _Masked, changes: Sequence[Change] | None, none: str) -> None:
        from rich.text import Text

        if changes is None:
            self.out.print(Text(f"\n{name}: not compared, {none}"))
        elif changes:
            self.out.print(Text(f"\n{name}: {human.plural(len(changes), 'difference')}", style="bold"))
            shown = changes if self.show_all else changes[:FEW]
            self._table([self._row(masked, change) for change in shown], len(changes) - len(shown))

    def _row(self, masked: _Masked, change: Change) -> ChangeRow:
        row = masked.row(change)
        left, right = (None if change.change == gone else row[side] for gone, side in _SIDES)
        values = _shown(left, right) if self.out.folds else (_text(left), _text(right))
        return ChangeRow(_SIGNS[change.change], self.out.redactor.text(row["path"]), *values)

    def _table(self, rows: Sequence[ChangeRow], hidden: int = 0) -> None:
        from rich.text import Text

        shown = rows if self.show_all else rows[:FEW]
        self.out.table(CHANGES, shown)
        more = len(rows) - len(shown) + hidden
        if more:
            self.out.print(Text(f"and {more:,} more: --all shows them, -o json has them whole"))


def _shown(left: Any, right: Any) -> tuple[str, str]:
    """Two values in a line each; of large ones, the part in which they begin to differ."""
    one, two = _text(left), _text(right)
    start = _same_beginning(one, two) - _BEFORE
    if start > 0 and max(len(one), len(two)) > _LONGEST_VALUE:
        one, two = f"…{one[start:]}", f"…{two[start:]}"
    return one_line(one, _LONGEST_VALUE), one_line(two, _LONGEST_VALUE)


def _same_beginning(one: str, two: str) -> int:
    """How many characters two texts begin with alike."""
    for at, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return at
    return min(len(one), len(two))


def _text(value: Any) -> str:
    from flujo_lens.rendering.json_text import compact

    return "-" if value is None else value if isinstance(value, str) else compact(value)


def _sides(found: RunDiff) -> Iterator[SideRow]:
    left, right = found.left.run, found.right.run
    for label, run in (("A", left), ("B", right)):
        yield SideRow(label, run, human.duration(run.duration_ms), human.money(run.cost_usd), human.count(run.tokens))
    yield SideRow(
        "B - A",
        None,
        _more(left.duration_ms, right.duration_ms, human.duration),
        _more(left.cost_usd, right.cost_usd, human.money),
        _more(left.tokens, right.tokens, human.count),
    )


def _more(left: float | None, right: float | None, form: Any) -> str:
    """How much more the second has, with a sign."""
    if left is None or right is None:
        return "-"
    if left == right:
        return "-" if form(left) == "-" else "same"
    return f"{'-' if right < left else '+'}{form(abs(right - left))}"
