"""Setting a key of the system state, and parsing its JSON value."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from flujo_lens.errors import UsageError
from flujo_lens.operations.change_report import Recorder, Report
from flujo_lens.state.backends.base import JSONObject, StateBackend, overrides

_SHOWN = 30


def parse_value(text: str) -> JSONObject:
    """Parse a JSON object.

    Raises:
        UsageError: it is not an object, or as for `parse_json`.
    """
    value = parse_json(text, hint="""quote it for the shell: lens system set KEY '{"limit": 10}'""")
    if not isinstance(value, dict):
        raise UsageError(
            f"the value is {_kind(value)}, but applications expect an object",
            hint=f"""for example: lens system set KEY '{{"value": {_short(text)}}}'""",
        )
    return value


def parse_json(text: str, hint: str = """quote it for the shell: '{"limit": 10}'""") -> Any:
    """Parse JSON.

    Raises:
        UsageError: it is not JSON (the message has the position), or has a number or text that cannot be stored.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UsageError("the value has half a surrogate pair, which cannot be stored") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"the value is not JSON: {error.msg.lower()} {_place(text, error.pos)}",
            hint=hint,
        ) from None
    except RecursionError:
        raise UsageError("the value is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"the value has a number that cannot be stored: {error}") from None


def _place(text: str, at: int) -> str:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    where = f"in line {line}, column {column}" if "\n" in text else f"at character {column}"
    near = text[at : at + _SHOWN].splitlines()
    return f"{where}, before {near[0]!r}" if near else f"{where}, at its end"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else "..."


async def stored_key(backend: StateBackend, key: str, unescaped: str) -> tuple[str, bool]:
    """The key, as given or with the escapes of tables decoded, and whether it exists."""
    if not overrides(type(backend), "read_system_state"):
        return key, await backend.get_system_state(key) is not None
    there = {entry.key for entry in await backend.read_system_state()}
    meant = key if key in there or unescaped not in there else unescaped
    return meant, meant in there


async def set_system_value(
    backend: StateBackend, key: str, value: JSONObject, record: Callable[[], Recorder] | None
) -> Report:
    """Set a key, replacing its value, after writing an audit entry without the value.

    Args:
        value: Its new value.
        record: Creates the recorder; None for a dry run.

    Raises:
        LensError: the log or the store cannot be written; nothing was changed.
    """
    if record is None:
        return Report(1, left=1, dry_run=True)
    audit_id, _ = await record().recorded({"keys": 1}, (), lambda: backend.set_system_state(key, value))
    return Report(1, 1, audit_id=audit_id)
