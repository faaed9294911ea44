"""What runs are sorted by, read for all runs that a filter admits, as cheaply as each figure can be."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from flujo_lens.errors import BusyError
from flujo_lens.state.backends.sqlite.engine.engine_errors import ENGINE_ERRORS
from flujo_lens.state.backends.sqlite.engine.read_connection import translate
from flujo_lens.state.backends.sqlite.engine.session import Session, as_text
from flujo_lens.state.backends.sqlite.engine.store import SqliteStore
from flujo_lens.state.backends.sqlite.reads import queries
from flujo_lens.state.backends.sqlite.reads.plain_runs import odd_runs, plain_runs
from flujo_lens.state.backends.sqlite.reads.run_selection import select
from flujo_lens.state.backends.sqlite.reads.statistics import is_plain, note_wanted
from flujo_lens.state.sorting import sort_value
from flujo_lens.state.views import RunFilter

Value = tuple[str, float | None]


def sort_values(store: SqliteStore, wanted: RunFilter, field: str) -> Generator[Value, None, None]:
    """The ids of the runs with what they are sorted by, in one read transaction of a store that is used for this alone.

    Raises:
        BusyError: no lock guards the file, and it changed on the way.
    """
    reader = store.reader
    try:
        reader.begin()
        for value in _values(store.session(), wanted, field):
            yield value
            if not reader.unchanged():
                raise BusyError(f"{store.path} was changed while it was read", hint="try again")
    except ENGINE_ERRORS as error:
        raise translate(error, store.path) from error
    finally:
        reader.close()


def _values(session: Session, wanted: RunFilter, field: str) -> Iterator[Value]:
    if field == "size":
        note_wanted(session, wanted)
        yield from ((as_text(run_id), size) for run_id, size in session.rows(queries.sizes(session.shape)))
        return
    costs = field in ("cost", "tokens")
    if (costs or field == "duration") and wanted == RunFilter() and is_plain(session.shape):
        for plain in plain_runs(session, costs=costs):
            yield as_text(plain.run_id), plain.value(field)
        for odd in odd_runs(session):
            yield odd.run_id, sort_value(odd, field)
        return
    for run in select(session, wanted, None, False, ordered=False, details=False, costs=costs):
        yield run.run_id, sort_value(run, field)
