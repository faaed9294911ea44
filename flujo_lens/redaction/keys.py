"""Which keys name a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

MASK = "***"

BUILT_IN_KEYS = (
    "*password*",
    "*passwd*",
    "pwd",
    "*_pwd",
    "*passphrase*",
    "*secret*",
    "*api?key*",
    "*apikey*",
    "*private?key",
    "*access?key",
    "*account?key",
    "*credential",
    "*credentials",
    "token",
    "*_token",
    "authorization",
    "*_authorization",
    "cookie",
    "cookies",
    "*_cookie",
    "*_cookies",
    "*dsn*",
)
"""Globs of keys whose values are secrets; ``lens help secrets`` lists them."""

_NO_SECRET = r"(?:.*_)?(?:secretar(?:y|ies|iat)|passwordless)(?:_.*)?"
"""Keys that the globs match and that name something else."""

_HUMP = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
_WORD = r"[^\W_]+"


class SecretKeys:
    """The globs of secret keys, compared with whole keys.

    A key is compared case-folded as it is, and with its words joined by underscores: ``accessToken``,
    ``Access-Token`` and ``access token`` are also ``access_token``. ``meta:`` before a key is
    that of ``lens stats --by meta:KEY``.

    Args:
        more: Globs (``*``, ``?``) added to the built-in ones.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        self.globs: tuple[str, ...] = (*BUILT_IN_KEYS, *more)
        self.is_secret = lru_cache(maxsize=2048)(self._is_secret)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?!{_NO_SECRET}\Z)(?:{'|'.join(map(_regex, self.globs))})", re.DOTALL)

    def _is_secret(self, key: str) -> bool:
        key = key.removeprefix("meta:")
        forms = {key.casefold(), _joined(key)}
        return any(self._pattern.fullmatch(form) is not None for form in forms)

    @cached_property
    def words(self) -> tuple[str, ...] | None:
        """Texts in small letters of which one stands in every secret key; None if there are none such."""
        longest = {max(re.findall(_WORD, glob.casefold()), key=len, default="") for glob in self.globs}
        if "" in longest:
            return None
        return tuple(sorted(word for word in longest if not any(other in word for other in longest - {word})))


def _regex(glob: str) -> str:
    return re.escape(glob.casefold()).replace(r"\*", ".*").replace(r"\?", ".")


def _joined(key: str) -> str:
    return re.sub(r"[-. ]", "_", re.sub(_HUMP, "_", key)).casefold()


def holds_masks(value: Any) -> bool:
    """Whether a JSON-like value has a masked value in it, as ``lens copy --redact`` leaves it."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            if found == MASK or f":{MASK}@" in found:
                return True
        elif isinstance(found, Mapping):
            waiting += found.values()
        elif isinstance(found, list | tuple):
            waiting += found
    return False
