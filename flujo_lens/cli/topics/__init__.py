"""The topics of ``lens help``: a module each, with a function ``lines(app)``."""

from __future__ import annotations

__all__ = ["ALSO", "TOPICS"]

TOPICS: dict[str, str] = {
    "exit-codes": "What the exit codes mean.",
    "formatting": "Output formats, columns, times and colors.",
    "environment": "The environment variables that lens reads.",
    "filters": "How to select runs, and how to write times.",
    "secrets": "Which values are masked, and where.",
}
"""Topic -> its summary; the text is in the module of that name, with ``_`` for ``-``."""

ALSO: dict[str, str] = {
    **dict.fromkeys(("exit-code", "exit", "exitcodes", "exit-status"), "exit-codes"),
    **dict.fromkeys(("formats", "format", "output", "json", "columns", "colors", "times"), "formatting"),
    **dict.fromkeys(("env", "variables"), "environment"),
    **dict.fromkeys(("filter", "time"), "filters"),
    **dict.fromkeys(("secret", "redaction", "redact", "masking"), "secrets"),
}
"""Other names of topics."""
