"""Serialization of arbitrary values to JSON, and back.

`safe_dumps` and `safe_serialize` never fail: a value that cannot be represented is replaced by a placeholder and
reported. `register_custom_serializer` and `register_custom_deserializer` add types of an application.
`flujo_lens.serialization.envelope` adds compression and encryption.
"""

from __future__ import annotations

from flujo_lens.serialization.loading import safe_deserialize, safe_loads
from flujo_lens.serialization.lossy import LossyValue, lost_in
from flujo_lens.serialization.registry import (
    lookup_custom_deserializer,
    lookup_custom_serializer,
    register_custom_deserializer,
    register_custom_serializer,
    reset_custom_serializer_registry,
    scoped_registry,
)
from flujo_lens.serialization.safe import PlainList, safe_dumps, safe_serialize, serializer_default

__all__ = [
    "LossyValue",
    "PlainList",
    "lookup_custom_deserializer",
    "lookup_custom_serializer",
    "lost_in",
    "register_custom_deserializer",
    "register_custom_serializer",
    "reset_custom_serializer_registry",
    "safe_deserialize",
    "safe_dumps",
    "safe_loads",
    "safe_serialize",
    "scoped_registry",
    "serializer_default",
]
