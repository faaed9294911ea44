"""Masking of secrets in output: by keys, and in texts and values."""

from __future__ import annotations

from flujo_lens.redaction.keys import MASK, holds_masks
from flujo_lens.redaction.redactor import Redactor, masked_text

__all__ = ["MASK", "Redactor", "holds_masks", "masked_text"]
