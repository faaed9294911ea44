"""URIs of servers that were written wrongly: an error of the settings, which repeats no password."""

from __future__ import annotations

import pytest

from flujo_lens.errors import ConfigError
from flujo_lens.state.registry import open_backend

pytest.importorskip("asyncpg")
pytest.importorskip("redis")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "redis", "rediss", "redis-cluster"])
@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        ("ana:it'sHUSH2x9//@h1,h2:5432/0", "password"),
        ("ana:HUSH#x@h/0", "password"),
        ("ana:HUSH?x@h/0", "password"),
        ("ana:HUSH/x@h:1/0", "password"),
        ("ana:p@HUSH/x@h/0", "password"),
        ("ana:1234/HUSH@h/0", "password"),
        ("ana:HUSH[x@h/0", "brackets"),
        ("ana:HUSH]x@h/0", "brackets"),
        ("ana:x@[::1/0", "brackets"),
        ("ana:x@h:HUSH/0", "port"),
        ("ana:HUSH@h:99999/0", "port"),
        ("ana:HUSH@h,h:x/0", "port"),
    ],
)
def test_what_cannot_be_read_is_not_repeated(scheme: str, rest: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer) as told:
        open_backend(f"{scheme}://{rest}")
    assert "HUSH" not in f"{told.value} {told.value.hint}"


@pytest.mark.parametrize("hosts", ["h", "h:1", "h1,h2:5432", "[::1]", "[::1]:99,h", "10.0.0.1:65535", ""])
def test_hosts_that_are_right(hosts: str) -> None:
    open_backend(f"postgresql://ana:a%2Fb%40c@{hosts}/ops")
    open_backend(f"redis://ana:a%2Fb%40c@{hosts.split(',')[0]}/0")


def test_a_port_among_the_options() -> None:
    with pytest.raises(ConfigError) as told:
        open_backend("postgresql://h/ops?port=HUSH")
    assert "HUSH" not in str(told.value)


def test_a_socket_with_an_at() -> None:
    open_backend("redis+unix:///run/redis@1.sock")
    open_backend("postgresql:///ops?host=/run/pg@1")
