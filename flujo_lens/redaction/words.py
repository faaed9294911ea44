"""Values without quotes: where they end, and whether they are secrets or words of a sentence."""

from __future__ import annotations

from flujo_lens.redaction.literals import Span
from flujo_lens.redaction.patterns import Pattern

_WORD = Pattern(r"""(?:[^\s"'`<\\]|\\(?![nrtu"'`]|$)[ ]?|<(?!/)|(?<=[^\W_])["'](?=[^\W_]))+""")
_QUERY_WORD = Pattern(r"""[^\s&#"'`<>\\]+""")
_NEXT_KEY = Pattern(r"""[,;&](?=[ \t]*["']?[\w.-]+["']?[ \t]*[=:])""")
_PLACEHOLDER = Pattern(r"\*+|\.{2,}|<.*|\$\{[^}]*\}?|%\(\w+\)s|%s|\{\w*\}?|\[?(?:redacted|masked|hidden|filtered)\]?")
_NO_VALUES = frozenset(["none", "null", "nil", "true", "false", "nan", "undefined", "unset"])
_COMMON_WORDS = (
    "missing required expired invalid empty unknown unsupported wrong "
    "incorrect rejected revoked denied expected unexpected failed failure error not is are was has have must should "
    "cannot can't does doesn't string str int bytes bool float dict list tuple object optional any type field value "
    "secretstr too length unauthorized forbidden mismatch omitted set the a an and or of in to for from with"
)
_NO_SECRETS = frozenset(_COMMON_WORDS.split())
_HUMP = Pattern(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_SIGN = Pattern(r"[!@#$%^&*+=~?]")
_SCHEMES = Pattern(r"(?P<name>[A-Za-z][A-Za-z0-9-]*)[ \t]+(?=\S)")
_ONE_WORD = frozenset({"bearer", "basic", "token", "apikey", "negotiate", "ntlm", "key", "jwt", "sharedkey", "splunk"})
_MANY_WORDS = frozenset({"digest", "oauth", "hawk", "aws4-hmac-sha256", "scram-sha-256", "signature", "mac"})
_REST = Pattern(r"""(?:[^\n"'`\\]|(?<==)(?P<quote>\\*")[^"\n]*?(?P=quote)|\\(?![nrt"'`]))+""")
_CREDENTIAL = Pattern(r"""[^\s"'`,;\\<>)\]}]+""")
_COOKIES = Pattern(r"""[\w!#$%&*+.^|~-]+=[^;\s"'`\\]*(?:;[ \t]*[\w!#$%&*+.^|~-]+(?:=[^;\n"'`\\]*)?)*;?""")


def word_span(text: str, at: int, *, is_query: bool = False) -> Span:
    """The word at `at`, without the punctuation and the next key behind it.

    Args:
        at: Where it begins.
        is_query: Whether it is a value in the query of a URL, which ends at ``&`` and ``#``.
    """
    found = (_QUERY_WORD if is_query else _WORD).match(text, at)
    if found is None:
        return at, at
    word = found.group()
    following = _NEXT_KEY.search(word + text[found.end() : found.end() + 40])
    if following is not None and following.start() < len(word):
        word = word[: following.start()]
    return at, at + len(word.rstrip(">)]},;.:" if not is_query else ">)]},;."))


def is_placeholder(word: str) -> bool:
    """Whether what stands where a secret could is a variable, no value at all, or masked already."""
    return not word or word.casefold() in _NO_VALUES or _PLACEHOLDER.fullmatch(word.casefold()) is not None


def is_spoken(word: str) -> bool:
    """Whether a word behind a key and a colon belongs to a sentence about it."""
    return is_placeholder(word) or word.casefold() in _NO_SECRETS


def looks_secret(word: str) -> bool:
    """Whether a word in a sentence is no word of a language: letters and digits mixed, capitals inside, or signs."""
    if len(word) < 3 or is_spoken(word):
        return False
    letters = any(char.isalpha() for char in word)
    digits = any(char.isdigit() for char in word)
    hump = _HUMP.search(word) is not None
    return letters and (digits or hump or _SIGN.search(word) is not None)


def header_span(text: str, at: int, header: str) -> Span | None:
    """The value of an ``Authorization`` or a ``Cookie`` header at `at`; None if it does not look like one."""
    if header.endswith("cookie"):
        found = _COOKIES.match(text, at)
        return found.span() if found else None
    scheme = _SCHEMES.match(text, at)
    name = scheme["name"].casefold() if scheme else ""
    if scheme is not None and name in _MANY_WORDS:
        found = _REST.match(text, at)
        return found.span() if found else None
    if scheme is not None and name in _ONE_WORD:
        found = _CREDENTIAL.match(text, scheme.end())
        return (at, found.end()) if found and not is_spoken(found.group()) else None
    return None
