"""Why a server cannot be reached is said in the system's words, and the address can be typed again."""

from __future__ import annotations

import socket
import ssl

import pytest

from flujo_lens.state.backends.core.connection_errors import connection_reason
from flujo_lens.state.backends.core.server_uri import host_options
from flujo_lens.state.backends.postgres.uri import address_of
from tests.helpers.support import Lens

REFUSED = "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (OSError(REFUSED), "connection refused"),
        (FileNotFoundError(2, "No such file or directory"), "no such file or directory"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unknown host name"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "the name server does not answer"),
        (RuntimeError("Error 113 connecting to 10.0.0.1:6379."), "no route to host"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), None),
        (RuntimeError("the server closed the connection"), None),
    ],
)
def test_the_words_of_the_system(error: Exception, reason: str | None) -> None:
    assert connection_reason(error) == reason


def test_the_cause_of_a_client_error_counts() -> None:
    error = RuntimeError("cannot connect")
    error.__cause__ = ConnectionRefusedError(111, "Connect call failed")
    assert connection_reason(error) == "connection refused"


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("postgresql://u:secret@/x?host=/run/pg&schema=ops", " -h /run/pg"),
        ("postgresql:///x?host=/run/a%20b,other&port=12,13", " -h '/run/a b' -p 12"),
        ("postgresql://u:secret@db:5433,other/x", " -h db -p 5433"),
    ],
)
def test_a_shown_address_is_one_that_can_be_typed(uri: str, options: str) -> None:
    shown = address_of(uri).shown
    assert "secret" not in shown
    assert address_of(shown).place == address_of(uri.replace(":secret", "")).place
    assert host_options(shown) == options


@pytest.mark.parametrize(
    "store", ["postgresql://u@localhost:1/x", "redis://localhost:1", "redis-cluster://127.0.0.1:1"]
)
def test_nothing_listens_there(lens: Lens, store: str) -> None:
    result = lens("list", "--store", store)
    assert result.code == 5
    assert ": connection refused\n" in result.err
    assert "Errno" not in result.err
    assert "Error 111" not in result.err
