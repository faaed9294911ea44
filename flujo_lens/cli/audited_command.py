"""Masking a command line for the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flujo_lens.redaction import MASK, Redactor


def recorded(words: Sequence[str], keys: Iterable[str] = ()) -> list[str]:
    """The words of a command line with its secrets masked.

    Masked are the values of ``--input`` and of all options with that prefix; after ``system set``, all words but
    options and the key; values of secret keys and of options named like one; and every secret that is masked in a
    text.

    Args:
        words: The command line, the program's name first.
        keys: Globs of secret keys, added to the built-in ones (``[redact] keys``).
    """
    redactor = Redactor(keys)
    masked = [_one(word, before, redactor) for word, before in zip(words, ["", *words], strict=False)]
    for place in _values_set(masked):
        masked[place] = MASK
    return masked


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
