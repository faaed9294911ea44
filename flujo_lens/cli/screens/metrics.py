"""Metrics for Prometheus: served by HTTP, or written as a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import typer

from flujo_lens.cli.context import App
from flujo_lens.cli.metrics_server import MetricsServer
from flujo_lens.cli.options import OutputOptions
from flujo_lens.cli.output_file import write_file
from flujo_lens.cli.signals import code_of, heard
from flujo_lens.errors import BusyError, LensError, OperationFailedError, UnreachableStoreError, UsageError
from flujo_lens.operations.deletion import Stop
from flujo_lens.operations.metrics import store_metrics
from flujo_lens.rendering.export.prometheus import prometheus_text
from flujo_lens.state.statistics import StoreMetrics
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.known_costs import KnownCosts

_POLL = 0.5
"""Seconds between two looks at whether a signal came."""

_LONG = 1.0
"""Seconds of reading from which no scrape waits for it, but for the first."""

_LOCAL = frozenset({"sqlite", "file"})
"""The schemes of stores that are no server."""

_READABLE = 0o644
"""The permissions of a file for node_exporter, which runs as another user."""


def _read(app: App, wanted: RunFilter, known: KnownCosts | None = None) -> StoreMetrics:
    return app.run(lambda backend: store_metrics(backend, app.world.now(), app.silent_after, wanted, known))


# --- a file


def check_metrics_options(output: OutputOptions, others: Mapping[str, object]) -> None:
    """Refuse options that do not apply to metrics.

    Raises:
        UsageError: one was given.
    """
    given = {"--json": output.json, "--columns": output.columns, "--no-header": output.no_header, **others}
    given |= {"--raw": output.raw, "--utc": output.utc, "--time": output.time}
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise UsageError(f"-o prometheus and {wrong[0]} contradict each other")


def print_metrics(app: App, wanted: RunFilter, file: str | None) -> None:
    """Print the metrics, or write them to a file, in place of the one before.

    If the store cannot be read, a file gets ``lens_up 0``, so that it is not taken for current.

    Raises:
        UsageError: node_exporter would not read a file of this name.
        StoreError: the store cannot be read.
    """
    if file is not None and not file.endswith(".prom"):
        raise UsageError(f"{file} does not end in .prom", hint="node_exporter reads only files that end in .prom")
    begun = time.monotonic()
    try:
        text = prometheus_text(app.store_name, _read(app, wanted), seconds=time.monotonic() - begun)
    except LensError as error:
        if file is not None and not isinstance(error, UsageError):
            write_file(app, file, prometheus_text(app.store_name, None), overwrite=True, mode=_READABLE)
        raise
    write_file(app, file or "-", text, overwrite=True, mode=_READABLE)


# --- a server


class CachedMetrics:
    """The metrics of a store, read again when they are older than `interval` seconds.

    At most a tenth of the time is spent on reading. Figures that took long to read are served until newer ones are
    there, which a thread reads; ``lens_read_timestamp_seconds`` has their age. Of scrapes at the same time, one reads.
    The costs of an ended run are read once.
    """

    def __init__(self, app: App, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        from flujo_lens.state.known_costs import KnownCosts

        self._app, self._interval, self._clock = app, interval, clock
        self._lock = threading.Lock()
        self._known = KnownCosts()
        self._text = b""
        self._until = float("-inf")
        self._seconds = 0.0
        self._errors = 0
        self._last_error = ""

    def check(self) -> None:
        """Look whether there is a store; one on a server may come later, which is noted.

        Raises:
            LensError: there is none, or it will never be read.
        """
        from flujo_lens.state.registry import scheme_of

        try:
            self._app.run(lambda backend: backend.query_runs(RunFilter(), limit=1))
        except (UnreachableStoreError, BusyError) as error:
            if isinstance(error, UnreachableStoreError) and scheme_of(self._app.store.uri) in _LOCAL:
                raise
            self._note(error, "; it is tried again at every scrape")

    def text(self) -> bytes:
        """The metrics; if the store cannot be read, ``lens_up 0`` and the number of errors."""
        if self._clock() < self._until:
            return self._text
        if self._text and self._seconds > _LONG:
            if self._lock.acquire(blocking=False):
                threading.Thread(target=self._read_in_thread, daemon=True).start()
            return self._text
        with self._lock:
            self._read_if_old()
            return self._text

    def _read_in_thread(self) -> None:
        try:
            self._read_if_old()
        finally:
            self._lock.release()

    def _read_if_old(self) -> None:
        begun = self._clock()
        if begun >= self._until:
            self._text = self._collect()
            self._seconds = self._clock() - begun
            self._until = self._clock() + max(self._interval, 9 * self._seconds)

    def _collect(self) -> bytes:
        begun = self._clock()
        try:
            figures = _read(self._app, RunFilter(), self._known)
        except Exception as error:  # noqa: BLE001 - a scrape must not end the server
            self._errors += 1
            self._note(error)
            return prometheus_text(self._app.store_name, None, errors=self._errors)
        self._last_error = ""
        seconds = self._clock() - begun
        return prometheus_text(self._app.store_name, figures, errors=self._errors, seconds=seconds)

    def _note(self, error: Exception, more: str = "") -> None:
        """Say on stderr what is wrong, once as long as it is the same."""
        text = error.message if isinstance(error, LensError) else f"{type(error).__name__}: {error}"
        if text != self._last_error:
            self._last_error = text
            self._app.note(f"cannot read the store: {text}{more}")


def serve_metrics(app: App, host: str, port: int, interval: float) -> None:
    """Serve the metrics until a signal ends it.

    Raises:
        StoreError: there is no store.
        OperationFailedError: the address cannot be used.
    """
    prometheus_text("", None)  # the package is there
    metrics = CachedMetrics(app, interval)
    metrics.check()
    label = app.store_name
    stop = Stop()
    try:
        server = MetricsServer((host, port), metrics.text)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OperationFailedError(
            f"cannot listen on {host} port {port}: {reason}", hint="--port sets another port; 0 takes a free one"
        ) from error
    with server, heard(stop):
        app.note(f"serving metrics of {label} on {server.url}; Ctrl-C ends it")
        server.timeout = _POLL
        while stop.signal is None:
            server.handle_request()
    raise typer.Exit(code_of(stop))
