"""Encoding and decoding of states for a store: serialization, layers and validation."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, Literal

import orjson

from flujo_lens.errors import RESTORE, CorruptStoreError, InvalidStateError, LensError
from flujo_lens.serialization.envelope import TAG, Envelope, KeptSealed, armour, is_sealed, open_sealed, wrap
from flujo_lens.serialization.loading import may_have_long_numbers, safe_loads
from flujo_lens.serialization.lossy import words_of
from flujo_lens.serialization.safe import safe_dumps, safe_serialize

__all__ = ["SEALED", "SEALED_FIELDS", "StateCodec"]

SEALED = "<sealed>"
"""The placeholder for a value that cannot be decrypted."""

SEALED_FIELDS = ("pipeline_context", "last_step_output", "step_history")
"""The fields of a state to which layers apply; runs are searched by the others."""

_CLEAR = "metadata"
_ESCAPE = "flujo_lens.json_escape"


class StateCodec:
    """Encodes and decodes the fields of a run; without layers, as plain JSON.

    Args:
        serializer_default: A fallback for types that are neither registered nor built in (see
            `flujo_lens.serialization.safe_dumps`).
        envelope: Compression and encryption; None for none.
        validate: True to validate states by `flujo_lens.state.models.WorkflowState` when saving and loading, or
            another pydantic model; None or False for no validation.
    """

    def __init__(
        self,
        serializer_default: Callable[[Any], Any] | None = None,
        *,
        envelope: Envelope | KeptSealed | None = None,
        validate: type[Any] | Literal[True] | None = None,
    ) -> None:
        self._default, self._envelope = serializer_default, envelope
        self._model = validate or None

    def column(self, run_id: str, field: str, value: Any) -> str | bytes | None:
        """The content of a column: JSON text, or sealed bytes if a layer applies; None for None."""
        if value is None:
            return None
        data = safe_dumps(value, self._default)
        if self._envelope is not None and field != _CLEAR:
            data = self._envelope.seal(data, run_id, field)
            if data.startswith(TAG):
                return data
        return data.decode()

    def dumps(self, value: Any) -> bytes:
        """JSON without any layer."""
        return safe_dumps(value, self._default)

    def leaf(self, run_id: str, field: str, value: Any) -> Any:
        """The value of a field in a JSON file: the value itself, or the text of its sealed bytes.

        Values are sealed if a layer applies, or they look like sealed text. `opened_leaf` is the inverse.
        """
        column = self.column(run_id, field, value) if self._envelope is not None else None
        if isinstance(column, bytes):
            return armour(column)
        return armour(wrap(self.dumps(value))) if isinstance(value, str) and is_sealed(value) else value

    def opened_leaf(self, run_id: str, field: str, leaf: Any) -> Any:
        """The inverse of `leaf`, for a parsed value.

        Raises:
            SealedStateError: it is encrypted, and the key is missing or wrong.
            CorruptStoreError: it is sealed and damaged.
        """
        return self._open(leaf, run_id, field) if isinstance(leaf, str) and is_sealed(leaf) else leaf

    def value(self, run_id: str, field: str, stored: Any) -> Any:
        """The value of a column; text that is not JSON is returned unchanged.

        Raises:
            SealedStateError: it is encrypted, and the key is missing or wrong.
            CorruptStoreError: it is sealed and damaged.
        """
        if stored.__class__ is bytes and is_sealed(stored):
            return self._open(stored, run_id, field)
        if not isinstance(stored, str | bytes):
            return stored
        try:
            found = orjson.loads(stored)
        except orjson.JSONDecodeError:
            return _lenient(stored)
        return _lenient(stored) if may_have_long_numbers(stored) else found

    def _open(self, stored: bytes | str, run_id: str, field: str) -> Any:
        data = open_sealed(stored, run_id, field, self._keys)
        if isinstance(self._envelope, KeptSealed):
            self._envelope.opened(run_id, stored)
        try:
            return safe_loads(data)
        except ValueError as error:
            message = f"{field} of run {run_id} cannot be decoded: it has no JSON"
            raise CorruptStoreError(message, hint=RESTORE, run_id=run_id) from error

    def resealed(self, run_id: str, field: str, value: Any, before: bytes | str) -> bytes | str:
        """A value in the place of a sealed one (`before`), in the same form and as closed as that was.

        The value is sealed by our layers, else by the keys of the environment: who could open `before` has them.
        """
        from flujo_lens.serialization.keys import KeyRing

        data = safe_dumps(value, self._default)
        envelope = self._envelope or Envelope(keys=KeyRing.from_environment())
        sealed = envelope.seal(data, run_id, field)
        sealed = sealed if sealed.startswith(TAG) else wrap(data)
        return armour(sealed) if isinstance(before, str) else sealed

    @property
    def _keys(self) -> Any:
        return self._envelope.keys if self._envelope is not None else None

    def document(self, run_id: str, state: dict[str, Any], *, is_stored: bool = False) -> bytes:
        """A state as a JSON file: keys sorted, ASCII, large fields sealed if a layer applies.

        With `is_stored`, the state comes from such a file, and its sealed fields are kept.
        """
        sealed = {} if is_stored else self._sealed(run_id, state)
        if sealed:
            state = {**state, **sealed}
        data = safe_dumps(state, self._default, sort_keys=True)
        return data if data.isascii() else data.decode().encode("ascii", _ESCAPE)

    def _sealed(self, run_id: str, state: dict[str, Any]) -> dict[str, Any]:
        """The fields to write sealed: to which a layer applies, or that look like sealed text."""
        leaves = {name: self.leaf(run_id, name, state.get(name)) for name in SEALED_FIELDS}
        return {name: leaf for name, leaf in leaves.items() if leaf is not state.get(name)}

    def opened(self, run_id: str, document: dict[str, Any]) -> dict[str, Any]:
        """A state with its sealed fields decoded; returned unchanged without any.

        Raises:
            SealedStateError: it is encrypted, and the key is missing or wrong.
            CorruptStoreError: it is sealed and damaged.
        """
        sealed = _sealed_fields(document)
        if not sealed:
            return document
        plain = {name: self._open(document[name], run_id, name) for name in sealed}
        return {**document, **plain}

    def shown(self, run_id: str, document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, LensError]]:
        """As `opened`, for one who looks: fields that cannot be opened are `SEALED`, and why, by their names."""
        sealed = _sealed_fields(document)
        if not sealed:
            return document, {}
        plain, errors = dict(document), dict[str, LensError]()
        for name in sealed:
            try:
                plain[name] = self._open(document[name], run_id, name)
            except LensError as error:
                plain[name], errors[name] = SEALED, error
        return plain, errors

    def check(self, state: dict[str, Any]) -> None:
        """Validate a state, if there is a model.

        Raises:
            InvalidStateError: it does not fit; the message has the first invalid field.
        """
        if self._model is None:
            return
        try:
            self._resolved().model_validate(safe_serialize(state, self._default))
        except Exception as error:  # a ValidationError, or what the model's own code raises
            where, words = _first_misfit(error)
            run_id = state.get("run_id")
            raise InvalidStateError(
                f"the state of run {run_id} does not fit {self._resolved().__name__}: {where}: {words}",
                hint="nothing was changed",
                run_id=run_id,
                field=where,
            ) from error

    def _resolved(self) -> Any:
        if self._model is True:
            from flujo_lens.state.models import WorkflowState

            return WorkflowState
        return self._model


def _sealed_fields(document: dict[str, Any]) -> list[str]:
    """The fields of a stored state that are sealed."""
    kinds = (str, bytes)
    return [name for name in SEALED_FIELDS if isinstance(value := document.get(name), kinds) and is_sealed(value)]


def _first_misfit(error: Exception) -> tuple[str, str]:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return "the state", f"{type(error).__name__}: {words_of(error)}"
    first = error.errors(include_url=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ".".join(map(str, first["loc"])) or "the state", f"{first['msg']}{more}"


def _lenient(stored: str | bytes) -> Any:
    try:
        return safe_loads(stored)
    except ValueError:
        return stored


def _escape(error: UnicodeError) -> tuple[str, int]:
    """JSON escapes for characters beyond ASCII, which in JSON occur only inside texts."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


codecs.register_error(_ESCAPE, _escape)
