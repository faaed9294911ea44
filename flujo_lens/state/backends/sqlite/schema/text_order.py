"""Whether a column of times can be walked by its index, and from which text to which.

An index sorts texts. That is the order of the instants only where all texts have one form; the ends of the
index tell whether they do (the library's versions changed the form, and the text of an old form sorts before
or after all of the new one's within the same day).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from flujo_lens.state.timestamps import parse_instant

_FORM = r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?"
_UTC_ZONES = ("Z", "+00:00", "+0000", "")
_DAY = timedelta(hours=24 + 14 + 1)
_SECOND = timedelta(seconds=1)
_FOLD = timedelta(hours=2)


class TextOrder(NamedTuple):
    """How the texts of one column relate to instants.

    Attributes:
        zone: Zone of naive texts, and in which bounds are written.
        slack: By how much a text may be older (or younger) than one that sorts behind it.
        exact: Whether bounds can be written to the second; else whole days are taken.
    """

    zone: tzinfo
    slack: timedelta
    exact: bool

    def at_most(self, when: datetime) -> str:
        """A text that sorts behind every text of an instant up to `when`."""
        return self._text(when, _SECOND + self.slack, timedelta(days=1))

    def at_least(self, when: datetime) -> str:
        """A text that sorts before every text of an instant from `when` on."""
        return self._text(when, -_SECOND - self.slack, timedelta(0))

    def _text(self, when: datetime, margin: timedelta, whole: timedelta) -> str:
        try:
            moved = (when + margin).astimezone(self.zone)
            return moved.isoformat()[:19] if self.exact else (moved + whole).isoformat()[:10]
        except (OverflowError, ValueError):
            return ":" if margin > timedelta(0) else "0"


def text_order(first: object, last: object, naive: tzinfo) -> TextOrder:
    """The order of a column from its first and last text (those that begin with a date).

    Args:
        first: The least text.
        last: The greatest.
        naive: The zone of texts without one.
    """
    forms = {_form(first), _form(last)}
    if len(forms) != 1:
        return TextOrder(UTC, _DAY, exact=False)
    separator, zone = forms.pop() or ("", "?")
    if separator != "T" or zone not in _UTC_ZONES:
        return TextOrder(UTC, _DAY, exact=False)
    if zone == "Z":
        return TextOrder(UTC, _SECOND, exact=True)
    fixed = zone != "" or naive is UTC or isinstance(naive.utcoffset(None), timedelta)
    slack = timedelta(0) if fixed else max(_FOLD, getattr(naive, "slack", _FOLD))
    return TextOrder(naive if zone == "" else UTC, slack, exact=True)


def _form(text: object) -> tuple[str, str] | None:
    match = re.fullmatch(_FORM, text) if isinstance(text, str) and parse_instant(text) else None
    return (match.group(1), match.group(2) or "") if match else None
