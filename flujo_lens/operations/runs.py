"""Finding runs: by an id as people type it, and page by page."""

from __future__ import annotations

import base64
import shlex
from datetime import datetime

from flujo_lens.errors import AmbiguousRunError, RunNotFoundError, UsageError
from flujo_lens.state.backends.base import Position, StateBackend, overrides
from flujo_lens.state.timestamps import parse_instant
from flujo_lens.state.views import RunDetail, RunFilter

__all__ = ["LEAST_PREFIX", "ambiguous", "decode_cursor", "encode_cursor", "read_run", "resolve_run", "run_exists"]

LEAST_PREFIX = 4
MOST_CANDIDATES = 10
_NEWEST = {"@latest": frozenset[str](), "@failed": frozenset({"failed"}), "@paused": frozenset({"paused"})}


async def resolve_run(backend: StateBackend, text: str, unescaped: str | None = None) -> str:
    """The run id that `text` means: a whole id, a unique prefix, or the newest of a kind.

    A whole id always wins over a prefix.

    Args:
        backend: The store.
        text: As it was typed.
        unescaped: The same with the escapes read back that tables print; tried where `text` is no id.

    Raises:
        RunNotFoundError: no run is meant.
        AmbiguousRunError: several are; they are listed.
        UsageError: an unknown ``@`` word.
    """
    for spelling in dict.fromkeys((text, unescaped or text)):
        if await run_exists(backend, spelling):
            return spelling
    if text.startswith("@"):
        return await _newest(backend, text)
    if not overrides(type(backend), "find_run_ids"):
        raise _not_found(text, [])
    found: list[str] = []
    if len(text) >= LEAST_PREFIX:
        for prefix in (text, f"run_{text}"):
            found += await backend.find_run_ids(prefix, MOST_CANDIDATES + 1)
    if len(found) == 1:
        return found[0]
    if found:
        raise ambiguous(text, sorted(set(found)))
    raise _not_found(text, await _similar(backend, text))


async def run_exists(backend: StateBackend, run_id: str) -> bool:
    """Whether any table knows exactly this id."""
    if overrides(type(backend), "find_run_ids"):
        return run_id in await backend.find_run_ids(run_id, 1)
    return await backend.load_state(run_id) is not None


async def _newest(backend: StateBackend, word: str) -> str:
    if word not in _NEWEST:
        raise UsageError(f'there is no "{word}"', hint=f"there are: {', '.join(_NEWEST)}")
    page = await backend.query_runs(RunFilter(statuses=_NEWEST[word]), limit=1)
    if not page.items:
        kind = f"{word[1:]} run" if _NEWEST[word] else "run"
        raise RunNotFoundError(f"{word}: there is no {kind} in this store", run_id=word)
    return page.items[0].run_id


def ambiguous(text: str, found: list[str]) -> AmbiguousRunError:
    """The error for a beginning that several run ids have."""
    shown = found[:MOST_CANDIDATES]
    more = ["and more"] if len(found) > MOST_CANDIDATES else []
    return AmbiguousRunError(
        f'"{text}" is the beginning of several run ids',
        hint="\n".join(["type more of the one you mean:", *map(_indented, shown), *more]),
        run_id=text,
        candidates=shown,
    )


def _not_found(text: str, similar: list[str]) -> RunNotFoundError:
    short = f" (a prefix has {LEAST_PREFIX} or more characters)" if len(text) < LEAST_PREFIX else ""
    hint = "\n".join(["there are:", *map(_indented, similar)]) if similar else None
    return RunNotFoundError(
        f'no run "{text}" in this store{short}',
        hint=hint or f"by a part of the id: lens list --search {shlex.quote(_one_line(text))}; the newest: lens list",
        run_id=text,
    )


def _indented(run_id: str) -> str:
    """An id as one line of a hint."""
    return f"  {_one_line(run_id)}"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


async def _similar(backend: StateBackend, text: str) -> list[str]:
    """Ids that begin as `text` does, as far as any do."""
    found: list[str] = []
    low, high = LEAST_PREFIX - 2, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if some := await backend.find_run_ids(text[:middle], 5):
            low, found = middle, some
        else:
            high = middle - 1
    return found


async def read_run(backend: StateBackend, text: str, unescaped: str | None = None) -> RunDetail:
    """All about the run that `text` means (see `resolve_run`)."""
    run_id = await resolve_run(backend, text, unescaped)
    detail = await backend.read_run(run_id)
    if detail is None:
        raise _not_found(text, [])
    return detail


# --- pages


def encode_cursor(position: Position) -> str:
    """A position in a list, as text that survives any shell."""
    import orjson

    when = position[0].isoformat().replace("+00:00", "Z") if position[0] else None
    return base64.urlsafe_b64encode(orjson.dumps({"t": when, "id": position[1]})).decode().rstrip("=")


def decode_cursor(text: str) -> Position:
    """The position that `encode_cursor` made a text of.

    Raises:
        UsageError: it made none like this.
    """
    import orjson

    try:
        document = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        run_id, when = document["id"], document["t"]
    except (ValueError, KeyError, TypeError):
        raise _bad_cursor(text) from None
    instant: datetime | None = parse_instant(when) if when is not None else None
    if not isinstance(run_id, str) or (when is not None and instant is None):
        raise _bad_cursor(text)
    return instant, run_id


def _bad_cursor(text: str) -> UsageError:
    return UsageError(
        f'"{text}" is no cursor', hint="take the one that lens list printed, or leave --cursor out for the first page"
    )
