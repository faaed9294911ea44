"""Reports of ``lens check`` for CI: GitHub workflow commands, and JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from flujo_lens.rendering import human
from flujo_lens.rendering.text import escape_controls

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_SHOWN = 10
"""Maximum number of errors, and of warnings, that GitHub shows per step."""

_NEEDS_A_LOOK = {"remapped", "needs-migration"}
"""Verdicts of runs that resume, but not unchanged."""


class Checked(NamedTuple):
    """The report of a check.

    Attributes:
        groups: The rows of the view ``check``.
        failing: The groups with failing verdicts.
        summary: A summary in one sentence.
        lacking: Why there are too few runs; or None.
        properties: The source of the runs, and the code.
    """

    groups: Sequence[Any]
    failing: Sequence[Any]
    summary: str
    lacking: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    mask: Callable[[str], str] = str


# --- GitHub


def github(checked: Checked) -> Iterator[str]:
    """The lines of a log: errors for failing groups, warnings for changed ones, then the summary.

    The worst come first. GitHub shows ten errors and ten warnings per step: the tenth has the number of the others,
    which are plain lines of the log.
    """
    failing = set(map(id, checked.failing))
    warned = [each for each in checked.groups if id(each) not in failing and _needs_a_look(each)]
    lacking = [("lens check", checked.lacking)] if checked.lacking else []
    yield from _annotated("error", [*lacking, *(_titled(each, checked.mask) for each in checked.failing)])
    yield from _annotated("warning", [_titled(each, checked.mask) for each in warned])
    yield escape_controls(checked.summary)


def github_error(code: str, message: str) -> Iterator[str]:
    """The line of a log for a check that failed with an error."""
    yield _command("error", f"lens check: {code}", escape_controls(message))


def _needs_a_look(group: Any) -> bool:
    return group.code is not None or group.verdict in _NEEDS_A_LOOK


def _titled(group: Any, mask: Callable[[str], str]) -> tuple[str, str]:
    return " ".join(["lens check:", group.verdict, *([group.code] if group.code else [])]), details(group, mask)


def _annotated(kind: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Commands for the first ones, plain lines for the others."""
    left = len(found) - _SHOWN
    for number, (title, text) in enumerate(found, 1):
        if number > _SHOWN:
            yield from text.split("\n")
            continue
        more = f"and {left} more, in the log of this step\n" if left > 0 and number == _SHOWN else ""
        first, newline, rest = text.partition("\n")
        yield _command(kind, title, f"{first}{newline or (chr(10) if more else '')}{more}{rest}")


def _command(kind: str, title: str, text: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# --- JUnit


def junit(checked: Checked) -> Iterator[str]:
    """A document with a test case per group, and one for the number of runs if it is too small."""
    failures = len(checked.failing) + (checked.lacking is not None)
    tests = len(checked.groups) + (checked.lacking is not None)
    counts = f'tests="{tests}" failures="{failures}" errors="0" skipped="0"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<testsuites name="lens check" {counts}>'
    yield f'  <testsuite name="lens check" {counts}>'
    yield "    <properties>"
    for name, value in checked.properties:
        yield f"      <property name={quoteattr(name)} value={_attribute(value)}/>"
    yield "    </properties>"
    failing = set(map(id, checked.failing))
    for group in checked.groups:
        yield from _case(group, id(group) in failing, checked.mask)
    if checked.lacking:
        yield '    <testcase classname="lens check" name="number of runs">'
        yield f'      <failure type="too-few" message={_attribute(checked.lacking)}/>'
        yield "    </testcase>"
    yield f"    <system-out>{_text(checked.summary)}</system-out>"
    yield "  </testsuite>"
    yield "</testsuites>"


def junit_error(code: str, message: str) -> Iterator[str]:
    """A document for a check that failed with an error: one test case."""
    counts = 'tests="1" failures="0" errors="1" skipped="0"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<testsuites name="lens check" {counts}>'
    yield f'  <testsuite name="lens check" {counts}>'
    yield '    <testcase classname="lens check" name="check">'
    yield f"      <error type={_attribute(code)} message={_attribute(message)}>{_text(message)}</error>"
    yield "    </testcase>"
    yield "  </testsuite>"
    yield "</testsuites>"


def _case(group: Any, fails: bool, mask: Callable[[str], str]) -> Iterator[str]:
    shape = f", shape {group.manifest[:8]}" if group.manifest else ""
    name = f"{group.status} at {group.step_name or 'an unknown step'}{shape}"
    classname = _attribute(f"{group.pipeline_name} {group.pipeline_version}")
    yield f"    <testcase classname={classname} name={_attribute(name)}>"
    if fails:
        kind = _attribute(group.code or group.verdict)
        yield f"      <failure type={kind} message={_attribute(summary(group))}>{_text(details(group, mask))}</failure>"
    else:
        yield f"      <system-out>{_text(details(group, mask))}</system-out>"
    yield "    </testcase>"


def _attribute(text: str) -> str:
    return quoteattr(_xml(escape_controls(text)))


def _text(text: str) -> str:
    return escape(_xml(text))


def _xml(text: str) -> str:
    """`text` with characters invalid in XML and terminal controls escaped, except newlines."""
    return _NO_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", "\n".join(map(escape_controls, text.split("\n"))))


# --- words


def summary(group: Any) -> str:
    """``broken: 12 paused runs of billing 1.3.0 at approve``."""
    where = f" at {group.step_name}" if group.step_name else ""
    runs = human.plural(group.runs, f"{group.status} run")
    return escape_controls(f"{group.verdict}: {runs} of {group.pipeline_name} {group.pipeline_version}{where}")


def details(group: Any, mask: Callable[[str], str] = str) -> str:
    """The lines of a group: differences, remedies and a sample run."""
    return "\n".join([summary(group), *_details(group, mask)])


def _details(group: Any, mask: Callable[[str], str]) -> Iterable[str]:
    for difference in group.differences:
        yield f"- {escape_controls(mask(difference.sentence))}"
    for remedy in group.remedies:
        yield f"remedy: {escape_controls(mask(remedy.title))}"
        yield from (f"  {escape_controls(line)}" for line in mask(remedy.code or remedy.consequence).split("\n"))
    yield f"sample run: {escape_controls(group.sample_run_id)}"
    if group.code:
        yield f"more: lens explain {group.code}"
