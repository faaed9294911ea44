"""Secrets without a key: passwords in URLs, HTTP credentials, and well-known forms of secrets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import pairwise

from flujo_lens.redaction.literals import Span
from flujo_lens.redaction.patterns import Pattern
from flujo_lens.redaction.words import is_spoken, looks_secret

_SLASHES = r"(?:/|\\+/){2}"
_PORT = r"""\d{1,5}(?:[/?#,;\s"'`<>)\]}\\]|$)"""
_SCHEMES = (
    "postgres(?:ql)?|mysql|mariadb|redis|rediss|valkey|amqps?|mongodb|https?|ftps?|sftp|ssh|ldaps?|smtps?|kafka|nats|mssql|"
    "sqlserver|oracle|clickhouse|cockroachdb|snowflake|sqlite|wss?"
)
# A path that is made of a URL has one of its slashes left.
_USER = rf"""(?:{_SLASHES}|\b(?:{_SCHEMES})(?:\+\w+)?:/)[^\s/:@?#\[\]"'<>\\]*(?:@[\w.-]*)?:(?!{_PORT})"""
# A password may, wrongly, hold a "/" or an "@": what follows "//user:" is one unless it begins like a port's number.
_IN_URL = Pattern(rf"""{_USER}(?P<secret>(?:(?!://)(?:[^\s"'`]|["'](?=[\w@]))){{0,400}})@""", re.IGNORECASE)
# A password whose end, with the host, was cut off.
_CUT_URL = Pattern(
    rf"""\b(?:{_SCHEMES})(?:\+\w+)?:(?:/|\\+/){{1,2}}[^\s/:@?#\[\]"'<>\\]*:(?!{_PORT})"""
    r"""(?P<secret>[^\s/@"'`<>…,;)\]}\\]{1,400})""",
    re.IGNORECASE,
)
# A token as the user's name, with no password: https://TOKEN@host.
_LEAST_TOKEN, _LEAST_PART = 16, 12
_PARTS = Pattern(r"[A-Za-z0-9#]+")
_USER_ALONE = Pattern(rf"""{_SLASHES}(?P<secret>[\w.~%#+=-]{{{_LEAST_TOKEN},400}})@(?=[\w\[])""")
_SIGNATURE = Pattern(
    r"""[?&](?:sig|signature|x-(?:amz|goog)-(?:signature|security-token))=(?P<secret>[^\s&#"'<>]+)""", re.I
)
_BEARER = Pattern(r"""\b(?P<word>bearer)[ \t]+(?!(?:realm|error|scope|charset)=)(?P<secret>[\w.~+/=:%-]+)""", re.I)
_BASIC = Pattern(r"\bbasic[ \t]+(?P<secret>[A-Za-z0-9+/#]{4,}={0,2})(?![\w-])", re.IGNORECASE)
_CURL_USER = Pattern(r"""(?<!\S)(?:-u|--user)(?:[ \t]+|=)["']?[^\s:'"]+:(?P<secret>[^\s'"]+)""")
# In errors that are grouped, "#" stands for digits.
_SHAPES = Pattern(
    r"\bsk-(?=[\w-]{0,200}[\d#])[\w#-]{16,}"
    r"|\bgh[pousr]_[\w#]{20,}|\bgithub_pat_[\w#]{20,}|\bglpat-[\w#-]{16,}|\bxox[abeoprs]-[\w#-]{10,}"
    r"|\bhf_[A-Za-z\d#]{20,}|\bnpm_[A-Za-z\d#]{30,}|\bpypi-AgE[\w#-]{16,}|\b[rs]k_live_[\w#]{10,}"
    r"|\bSG\.[\w#-]{16,}\.[\w#-]{16,}"
    r"|\bAIza[\w#-]{30,}|\beyJ[\w#-]{8,800}\.eyJ[\w#-]{8,}(?:\.[\w#-]*)?"
)
_KEY_FILE = Pattern(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?P<secret>.*?)(?:-----END|$)", re.DOTALL)
_SPOKEN_WORDS = (
    "token tokens auth authentication authorization scheme header headers credential credentials format type only "
    "required challenge access"
)
_SPOKEN = frozenset(_SPOKEN_WORDS.split())


def credential_spans(text: str) -> Iterator[Span]:
    """The secrets without a key in a text."""
    if "/" in text and ":" in text:
        yield from (found.span("secret") for found in _IN_URL.finditer(text)) if "@" in text else ()
        yield from (found.span("secret") for found in _CUT_URL.finditer(text))
        if "@" in text:
            yield from (found.span("secret") for found in _USER_ALONE.finditer(text) if _is_token(found["secret"]))
    if "=" in text:
        yield from (found.span("secret") for found in _SIGNATURE.finditer(text))
    if "PRIVATE KEY" in text:
        yield from (found.span("secret") for found in _KEY_FILE.finditer(text))
    yield from (found.span() for found in _SHAPES.finditer(text))
    lowered = text.lower()
    if "bearer" in lowered:
        yield from (found.span("secret") for found in _BEARER.finditer(text) if _is_bearer(found))
    if "basic" in lowered:
        yield from (found.span("secret") for found in _BASIC.finditer(text) if _is_basic(found["secret"]))
    if "curl" in lowered:
        yield from (found.span("secret") for found in _CURL_USER.finditer(text) if not found["secret"].isdigit())


def _is_token(user: str) -> bool:
    """Whether the name of a user is a token: a part of it is long, and its letters and digits alternate."""
    return any(len(part := found.group()) >= _LEAST_PART and _alternations(part) > 2 for found in _PARTS.finditer(user))


def _alternations(word: str) -> int:
    """How often a digit follows a letter, or a letter a digit; in errors that are grouped, "#" stands for digits."""
    return sum(one.isalpha() != two.isalpha() for one, two in pairwise(word))


def _is_bearer(found: re.Match[str]) -> bool:
    word = found["secret"].rstrip(".:")
    if is_spoken(word) or word.casefold() in _SPOKEN:
        return False
    return found["word"] == "Bearer" or looks_secret(word) or len(word) >= 16


def _is_basic(word: str) -> bool:
    """Whether it is a name and a password in base64, also where digits are shown as ``#``."""
    if "#" in word:
        return len(word) >= 8
    try:
        return b":" in base64.b64decode(word + "=" * (-len(word) % 4), validate=True)
    except binascii.Error:
        return False
