"""An alias of `flujo_lens.serialization`, for the import path used in the library's documentation."""

from __future__ import annotations

from flujo_lens.serialization import *  # noqa: F403
from flujo_lens.serialization import __all__ as __all__
