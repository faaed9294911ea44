"""The HTTP server of ``lens metrics serve``: ``/metrics`` and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from flujo_lens.rendering.export.prometheus import CONTENT_TYPE

_PLAIN = "text/plain; charset=utf-8"
_SILENT_CLIENT = 10.0
"""Seconds after which a client that sends nothing is left."""


class MetricsServer(ThreadingHTTPServer):
    """Answers ``GET /metrics`` with what `text` returns.

    Args:
        address: Host and port; port 0 is a free one.
        text: Returns the metrics; called in the thread of the request.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], text: Callable[[], bytes]) -> None:
        self.text = text
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the name of the host, which can take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    server_version, sys_version = "lens", ""
    timeout: ClassVar[float] = _SILENT_CLIENT

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.text(), CONTENT_TYPE)
        elif path == "/":
            self._answer(HTTPStatus.OK, b"lens: the metrics are at /metrics\n", _PLAIN)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found; the metrics are at /metrics\n", _PLAIN)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
