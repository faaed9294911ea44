"""The topics of ``lens help``: a module each, with a function ``lines(app)``."""

from __future__ import annotations

__all__ = ["TOPICS"]

TOPICS: dict[str, str] = {
    "secrets": "Which values are masked, and where.",
}
"""Topic -> its summary; the text is in the module of that name."""
