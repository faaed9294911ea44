"""``lens help exit-codes``."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.cli import exit_codes
from flujo_lens.cli.context import App


def lines(app: App) -> Iterator[str]:
    """The exit codes, their meanings, and the error codes of each."""
    yield "lens exits with:"
    yield ""
    errors = _error_codes()
    for code, meaning in exit_codes.MEANINGS.items():
        yield f"  {code:>3}  {meaning}"
        if code in errors:
            yield f"       {', '.join(errors[code])}"
    yield ""
    yield (
        "lens explain CODE explains an error code. A pipe that is closed early, as by head, is not an error: 0. "
        "With -o json, the error is a JSON document on stderr, with its code, message and hint. "
        "Codes and meanings do not change within a major version."
    )


def _error_codes() -> dict[int, list[str]]:
    from flujo_lens.operations.explain import explanations

    found: dict[int, list[str]] = {}
    for page in explanations():
        found.setdefault(page.exit_code, []).append(page.code)
    return found
