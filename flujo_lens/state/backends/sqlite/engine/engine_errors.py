"""What the module sqlite3 raises where a store cannot be read."""

from __future__ import annotations

import sqlite3

ENGINE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The second where a damaged page garbles what SQLite says, or the name of a column."""
