"""A command line as the audit log keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flujo_lens.redaction import MASK, Redactor

__all__ = ["recorded"]


def recorded(words: Sequence[str], keys: Iterable[str] = ()) -> list[str]:
    """The typed words without what nobody should read later.

    Masked are the values of ``--input`` and of all options that begin so; behind ``system set``, all but options
    and the first word, which is the key as a rule; what stands under a secret key, also behind an option of that name;
    and every secret that is masked in a text.

    Args:
        words: What was typed, the program's name first.
        keys: Globs of secret keys, added to the built-in ones (``[redact] keys``).
    """
    redactor = Redactor(keys)
    told = [_one(word, before, redactor) for word, before in zip(words, ["", *words], strict=False)]
    for place in _values_set(told):
        told[place] = MASK
    return told


def _one(word: str, before: str, redactor: Redactor) -> str:
    if before.startswith("--") and "=" not in before and (_is_input(before) or redactor.is_secret(before[2:])):
        return word if word.startswith("-") and not _is_input(before) else MASK
    if _is_input(word) and "=" in word:
        return f"{word.partition('=')[0]}={MASK}"
    return _without_passwords(word, redactor)


def _is_input(word: str) -> bool:
    return word.startswith("--input")


def _values_set(words: Sequence[str]) -> list[int]:
    if "system" not in words or "set" not in words[words.index("system") :]:
        return []
    behind = words.index("set", words.index("system")) + 1
    return [place for place in range(behind, len(words)) if not words[place].startswith("-")][1:]


def _without_passwords(word: str, redactor: Redactor) -> str:
    option, equals, rest = word.partition("=") if word.startswith("-") else ("", "", word)
    key, has_value, value = rest.partition("=")
    if has_value and value and redactor.is_secret(key):
        rest = f"{key}={MASK}"
    if equals and rest and redactor.is_secret(option.lstrip("-")):
        rest = MASK
    return f"{option}{equals}{redactor.text(rest)}"
