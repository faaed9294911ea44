"""Secrets inside texts: found by what names them, and by forms that only secrets have.

A text may be anything that a step, a library or a person wrote: JSON in JSON, a Python literal, the repr of a model,
a URL, headers, a command line, a traceback, any of them cut short. So nothing is parsed as a whole. Each place where a
secret key may stand is looked at: which key it is, what joins it to a value, and where the value ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flujo_lens.redaction.credentials import credential_spans
from flujo_lens.redaction.keys import MASK, SecretKeys
from flujo_lens.redaction.literals import QUOTE, Span, container_spans, quoted_span
from flujo_lens.redaction.patterns import Pattern
from flujo_lens.redaction.words import header_span, is_placeholder, is_spoken, looks_secret, word_span

_LONGEST_KEY = 64
_LONGEST_WORD = 200
"""No word of a language is longer."""

_KEY_END = Pattern(r"(?P<word>[\w-]{0,64})(?P<next>[ .][\w-]{1,64})?")
_ANY_KEY = Pattern(r"[^\W\d][\w-]{0,63}")
_GAP = r"(?:\s|\\+[nrt])*"
_TYPE = r"(?:str|bytes|int|float|bool|object|[\w.]{0,60}[A-Z]\w{0,60})(?:\[[^\]=]{0,60}\])?(?:\s*\|\s*[\w.]+)*"
_JOINT = Pattern(
    rf"""(?P<close>\\*["'`])?\\*\]?
    (?P<before>{_GAP})
    (?P<sep>:\s*{_TYPE}\s*=(?=\s*[bBuUrR]?["']) | => | :=|={{1,2}} | :(?![:/]) | %3[aAdD])
    (?P<after>{_GAP})""",
    re.VERBOSE,
)
_FLAG = Pattern(r"""(?:\\*["']\s*,\s*|\\*["']?[ \t]+)(?=\S)""")
_PAIR = Pattern(r"""\\*["']\s*,\s*(?=[bu]?\\*["'])""")
_NAMED = Pattern(r"""\\*["']\s*,?\s*\\*["']?[vV]alue\\*["']?\s*[:=]\s*""")
_NAMES = Pattern(r"""(?:^|[\s{,(<])\\*["']?(?:name|key)\\*["']?\s*[:=]\s*\\*["']$""", re.IGNORECASE)
_IN_PAIR = Pattern(r"""[(\[]\s*b?\\*["']$""")
_IN_PAIRS = Pattern(r"""[(\[,]\s*[(\[]\s*b?\\*["']$""")
_PAIR_END = Pattern(r"""\\*["']\s*[)\]]""")
_ENCODED = Pattern(r"""(?:(?!%26|%23|%22)[^\s&"'<>])+""", re.IGNORECASE)
_TAG_BEFORE = Pattern(r"<(?:\w+:)?$")
_TAG = Pattern(r"(?:\s[^<>]{0,200})?>(?P<value>[^<]*)")
_CHECKED = Pattern(rf"(?:\.[\w.]+)?(?:\n|\\+n)[ ]{{2}}(?:(?!\\+n)[^\n]){{0,500}}?\[type=\w+,{_GAP}input_value={_GAP}")
"""What pydantic puts between a field's name and the value that it refused."""

_SPOKEN = Pattern(r"""[ \t]+(?:(?P<verb>is|was)[ \t]+)?(?=(?P<quote>\\*["'`])|\S)""")
_NEXT_TEXT = Pattern(r"""["'](?:\s*[,:]\s*\\*["']|\s*[\]}])""")
_NO_TEXT = Pattern(r"""[,;:\s{}\[\]()*\\]*(?:\\+[nrt])*""")
_CALL = Pattern(r"[A-Za-z_][\w.]*\(")
_PREFIX = Pattern(r"""(?:[bBuUrRfF]{1,2})?(?=\\*["'`])""")
_PROSE = Pattern(r"(?:unexpected|illegal|expected|unknown|near|next|end)\s+$", re.IGNORECASE)
_LINE_START = Pattern(r"""(?:^|[\n{,;(\[]|\\+n)[ \t]*(?:-[ \t]+)?\\*["']?$""")
_HEADERS = frozenset({"authorization", "proxy_authorization", "cookie", "set_cookie"})
_SPOKEN_OF = Pattern(r"(?:password|passwd|passphrase|pwd|api[ _-]?key)$", re.IGNORECASE)
_PERSONAL = Pattern(r"(?:password|passwd|passphrase|pwd|secret|api[ _-]?key)$", re.IGNORECASE)
_FLAG_WORDS = (
    "to is are was or and option options flag flags for in with if not instead may can must should sets takes needs "
    "names which when as from by on the a an"
)
_BEHIND_FLAGS = frozenset(_FLAG_WORDS.split())
"""Words that follow a flag in a sentence about it."""


class _Key(NamedTuple):
    """A secret key in a text, from `start` to `end`, without the quote that may open it."""

    name: str
    start: int
    end: int
    quote: str

    @property
    def header(self) -> str:
        return self.name.casefold().replace("-", "_")


class SecretTexts:
    """Masks the secrets in texts.

    Args:
        keys: Which keys name secrets.
    """

    def __init__(self, keys: SecretKeys) -> None:
        self._keys = keys

    def masked(self, text: str) -> str:
        """`text` with each secret in it as ``***``."""
        made: list[str] = []
        done = 0
        for start, end in sorted({*credential_spans(text), *self._named(text)}):
            if end <= done and done:
                continue
            if start >= done:
                made += (text[done:start], MASK)
            done = end
        return "".join((*made, text[done:])) if made else text

    # --- values that a key names

    def _named(self, text: str) -> Iterator[Span]:
        done = 0
        for start, end in self._hits(text):
            if start < done:
                continue
            key = self._key(text, start, end)
            if key is None:
                continue
            for span in _values(text, key):
                if span[0] < span[1]:
                    yield span
                done = max(done, _text_end(text, span))

    def _hits(self, text: str) -> list[Span]:
        """The places at which a secret key may stand, in their order."""
        words, lowered = self._keys.words, text.lower()
        if words is None:
            return [found.span() for found in _ANY_KEY.finditer(text)]
        if len(lowered) != len(text):
            lowered = "".join(char if len(char.lower()) != 1 else char.lower() for char in text)
        return sorted((at, at + len(word)) for word in words for at in _places(lowered, word))

    def _key(self, text: str, start: int, end: int) -> _Key | None:
        """The whole key around a word of one, or the part of it that names a secret."""
        least, hit = max(0, start - _LONGEST_KEY), start
        while start > least and (text[start - 1].isalnum() or text[start - 1] in "_-.$"):
            start -= 1
        for ending in _ends(text, end):
            for begin in _beginnings(text, start, hit):
                name = text[begin:ending].lstrip("-$.")
                if self._keys.is_secret(name):
                    quote = QUOTE.search(text, max(0, begin - 40), begin)
                    return _Key(name, ending - len(name), ending, quote.group() if quote else "")
        return None


def _places(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _ends(text: str, end: int) -> Iterator[int]:
    """Where the key may end: with its word, and with the next one (``api key``)."""
    found = _KEY_END.match(text, end)
    if found is not None:
        yield found.end("word")
        if found["next"]:
            yield found.end()


def _text_end(text: str, span: Span) -> int:
    """Where a value ends at the latest: one that was cut off may go on into the next texts of a list and their keys."""
    found = _NEXT_TEXT.search(text, *span)
    return found.start() if found else span[1]


def _beginnings(text: str, start: int, hit: int) -> Iterator[int]:
    """Where the key may begin: as far left as it goes, behind an escape (``\\n``, ``%26``), behind each dot."""
    yield start
    before = text[start - 1 : start]
    if before == "\\" and text[start] in "abfnrtv":
        yield start + 1
    if before == "%" and start + 2 <= hit:
        yield start + 2
    if before == "\\" and text[start] in "ux":
        yield from (start + n for n in (3, 5) if start + n <= hit)
    yield from (at + 1 for at in range(start, hit) if text[at] == ".")


def _values(text: str, key: _Key) -> Sequence[Span]:
    """What stands under a secret key: nothing, or the texts of its value."""
    joint = _JOINT.match(text, key.end)
    if joint is not None:
        return _joined(text, key, joint)
    for found in (_checked(text, key), _flagged(text, key), _paired(text, key), _tagged(text, key)):
        if found:
            return found
    return _spoken(text, key)


def _joined(text: str, key: _Key, joint: re.Match[str]) -> Sequence[Span]:
    at, sep = joint.end(), joint["sep"]
    if not joint["close"] and key.quote and text.startswith(key.quote, at):
        return ()  # the text around ends behind a key without a value
    found = _literal(text, at, key)
    if found:
        doubtful = sep == ":" and not joint["close"] and _PROSE.search(text[max(0, key.start - 16) : key.start])
        return () if doubtful and not looks_secret(text[slice(*found[0])]) else found
    if "\n" in joint["after"] or "\\" in joint["after"]:
        return ()
    if found is not None:  # a list or a call without texts, or a password that begins so
        span = word_span(text, at)
        return (span,) if sep == "=" and text[at] in "{[(" and looks_secret(text[slice(*span)]) else ()
    if key.header in _HEADERS and (header := header_span(text, at, key.header)) is not None:
        return (header,)
    if sep.startswith("%3"):
        return _encoded(text, at)
    is_query = key.start > 0 and text[key.start - 1] in "?&"
    span = word_span(text, at, is_query=is_query)
    return (span,) if _is_value(text, key, span, joint, is_query) else ()


def _is_value(text: str, key: _Key, span: Span, joint: re.Match[str], is_query: bool) -> bool:
    """Whether a word without quotes is a secret, and not a number, a placeholder or a part of a sentence."""
    word = text[slice(*span)]
    if is_placeholder(word):
        return False
    if not word.strip("#.,+-"):  # a number, where errors are grouped
        return False
    if word.replace(".", "").replace(",", "").lstrip("+-").isdigit():
        return len(word) >= 4 and joint["sep"] == "=" and not joint["close"] and bool(_PERSONAL.search(key.name))
    is_flag = text[max(0, key.start - 2) : key.start] == "--"
    if "=" in joint["sep"] or is_query or is_flag or looks_secret(word) or len(word) > _LONGEST_WORD:
        return True
    return not is_spoken(word) and _is_line(text, key, span)


def _is_line(text: str, key: _Key, span: Span) -> bool:
    """Whether a key and a word are all of a line, or of an entry of a list, as in YAML and in headers."""
    behind = text[span[1] : span[1] + 40].lstrip(" \t")[:2]
    if behind and behind[0] not in "\n\r,;)}]" and behind != "\\n":
        return False
    if _PERSONAL.search(key.name) or key.header in _HEADERS:
        return True
    return key.name.casefold() == "token" and _LINE_START.search(text[max(0, key.start - 40) : key.start]) is not None


def _literal(text: str, at: int, key: _Key) -> Sequence[Span] | None:
    """The texts of a quoted value, of a list, a dict or a call; None where none of these stands there."""
    prefix = _PREFIX.match(text, at)
    if prefix is not None:
        span = quoted_span(text, prefix.end())
        return () if _NO_TEXT.fullmatch(text[slice(*span)]) else (span,)
    call = _CALL.match(text, at)
    if call is not None or text[at : at + 1] in ("{", "[", "("):
        return container_spans(text, call.end() - 1 if call else at, key.quote)
    return () if text[at : at + 1] == "<" else None


def _encoded(text: str, at: int) -> Sequence[Span]:
    found = _ENCODED.match(text, at)
    return (found.span(),) if found and not is_placeholder(found.group()) else ()


def _checked(text: str, key: _Key) -> Sequence[Span]:
    found = _CHECKED.match(text, key.end)
    return (_literal(text, found.end(), key) or ()) if found else ()


def _flagged(text: str, key: _Key) -> Sequence[Span]:
    """``--password X``, also as two words of a list."""
    if text[key.start - 1 : key.start] != "-":
        return ()
    joint = _FLAG.match(text, key.end)
    if joint is None or text[joint.end()] == "-":
        return ()
    found = _literal(text, joint.end(), key) if text[joint.end()] not in "{[(<" else ()
    if found is not None:
        return found
    span = word_span(text, joint.end())
    word = text[slice(*span)]
    if is_placeholder(word) or word.casefold() in _BEHIND_FLAGS or (word.isupper() and word.isalpha()):
        return ()
    return (span,) if len(word) >= 4 or not word.isdigit() else ()


def _paired(text: str, key: _Key) -> Sequence[Span]:
    """``{"name": KEY, "value": X}``, and a header as a pair."""
    before = text[max(0, key.start - 30) : key.start]
    named = _NAMED.match(text, key.end)
    if named is not None and _NAMES.search(before):
        return _literal(text, named.end(), key) or ()
    pair = _PAIR.match(text, key.end)
    if pair is None or not _IN_PAIR.search(before):
        return ()
    found = _literal(text, pair.end(), key) or ()
    if key.header in _HEADERS or key.header.startswith("x_"):
        return found
    is_listed = found and _IN_PAIRS.search(before) and _PAIR_END.match(text, found[-1][1])
    return found if is_listed else ()


def _tagged(text: str, key: _Key) -> Sequence[Span]:
    """``<password>X</password>``."""
    found = _TAG.match(text, key.end) if _TAG_BEFORE.search(text[max(0, key.start - 20) : key.start]) else None
    return (found.span("value"),) if found and found["value"].strip() and not is_placeholder(found["value"]) else ()


def _spoken(text: str, key: _Key) -> Sequence[Span]:
    """``password is X``, ``password "X"``."""
    found = _SPOKEN.match(text, key.end) if _SPOKEN_OF.search(key.name) and not key.quote else None
    if found is None or not (found["verb"] or found["quote"]):
        return ()
    if found["quote"]:
        return _literal(text, found.end(), key) or ()
    span = word_span(text, found.end())
    return (span,) if looks_secret(text[slice(*span)]) else ()
