"""The Pythons that have the real library, one a series; environments.sh makes them.

``LENS_FLUJO_PYTHON`` and ``LENS_FLUJO_06_PYTHON`` name them; else they are looked for where ``make test`` puts them.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LIBRARIES", "MISSING"]

_MADE = Path(__file__).resolve().parent.parent.parent / ".compat"
_NAMED = {"0.4": os.environ.get("LENS_FLUJO_PYTHON"), "0.6": os.environ.get("LENS_FLUJO_06_PYTHON")}

LIBRARIES = {
    series: named or str(_MADE / series / "bin" / "python")
    for series, named in _NAMED.items()
    if named or (_MADE / series / ".installed").exists()
}
"""The Python by series, of those that are there."""

MISSING = "tests/compat/environments.sh makes the environments of the real library"
