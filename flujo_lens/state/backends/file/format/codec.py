"""The codec of a folder's values, made when there is something for it to do.

What is read of most folders is plain JSON, and the modules that seal and serialize cost a tenth of a start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flujo_lens.errors import LensError
    from flujo_lens.serialization.codec import StateCodec

__all__ = ["SEALED", "Codec", "is_sealed"]

SEALED = "lens1:"
"""What a sealed text begins with (`flujo_lens.serialization.envelope.ARMOUR`)."""


class Codec:
    """Seals and unseals, as `flujo_lens.serialization.codec.StateCodec` does with the same arguments."""

    def __init__(self, serializer_default: Callable[[Any], Any] | None, envelope: Any, validate: Any) -> None:
        self._default, self._envelope, self._validate = serializer_default, envelope, validate

    @cached_property
    def real(self) -> StateCodec:
        """The codec itself."""
        from flujo_lens.serialization.codec import StateCodec

        return StateCodec(self._default, envelope=self._envelope, validate=self._validate)

    def opened(self, run_id: str, state: dict[str, Any]) -> dict[str, Any]:
        """A state with what is sealed in it unsealed.

        Raises:
            SealedStateError: it is encrypted, and the key is not here.
            CorruptStoreError: what is sealed is damaged.
        """
        return self.real.opened(run_id, state) if any(map(is_sealed, state.values())) else state

    def shown(self, run_id: str, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, LensError]]:
        """A state as one who looks sees it, and why which fields of it cannot be opened."""
        return self.real.shown(run_id, state) if any(map(is_sealed, state.values())) else (state, {})

    def check(self, state: dict[str, Any]) -> None:
        """See that a state fits the model, if there is one to check against.

        Raises:
            InvalidStateError: it does not.
        """
        if self._validate:
            self.real.check(state)


def is_sealed(value: object) -> bool:
    """Whether a value of a file is sealed."""
    return isinstance(value, str) and value.startswith(SEALED)
