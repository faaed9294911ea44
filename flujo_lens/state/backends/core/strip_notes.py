"""The notes of what runs have lost, as keys and values of the port."""

from __future__ import annotations

from collections.abc import Mapping

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.stripped import Stripped


def notes_in(values: Mapping[str, bytes]) -> dict[str, Stripped]:
    """The notes out of the values of the space ``strip``; those that cannot be read are left out."""
    found = {}
    for run_id, value in values.items():
        try:
            note = Stripped.from_dict(safe_loads(value))
        except (ValueError, TypeError):
            continue
        if note is not None:
            found[run_id] = note
    return found


def note_bytes(note: Stripped) -> bytes:
    """A note as a value."""
    return safe_dumps(note.to_dict())
