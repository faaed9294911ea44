"""Secrets in what is shown: which keys name one, and how texts and values are shown without it."""

from __future__ import annotations

from flujo_lens.redaction.keys import MASK
from flujo_lens.redaction.redactor import Redactor, masked_text

__all__ = ["MASK", "Redactor", "masked_text"]
