"""What ``lens help TOPIC`` tells: a module a topic, with a function ``lines(app)``."""

from __future__ import annotations

__all__ = ["TOPICS"]

TOPICS: dict[str, str] = {
    "secrets": "Which values are masked, and where.",
}
"""Topic -> its line in the list; its text is in the module of that name, which is imported when it is asked for."""
