"""The import path that the library's documents use: everything here is from `flujo_lens.serialization`."""

from __future__ import annotations

from flujo_lens.serialization import *  # noqa: F403
from flujo_lens.serialization import __all__ as __all__
