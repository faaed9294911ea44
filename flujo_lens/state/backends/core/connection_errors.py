"""Why a server could not be connected to, in the words of the operating system rather than a client's."""

from __future__ import annotations

import os
import re
import socket

_NUMBER = re.compile(r"\[?Errno (-?\d+)\]?|\bError (-?\d+) connecting to\b")


def connection_reason(error: BaseException) -> str | None:
    """What kept a connection from being made, such as ``connection refused``; None if that is not known.

    An error of several addresses (asyncio's ``Multiple exceptions: ...``, which has no ``errno``) and one that a client
    made of another's text have their numbers in their text alone. If these are different, that of the first counts.
    """
    for one in (error, error.__cause__, error.__context__):
        if type(one).__module__ == "ssl":  # its numbers are those of OpenSSL
            return None
        if isinstance(one, OSError) and one.errno is not None:
            return _words(one.errno, isinstance(one, socket.gaierror))
    found = _NUMBER.search(str(error))
    if found is None:
        return None
    number = int(found[1] or found[2])
    return _words(number, number < 0)


def _words(number: int, of_resolver: bool) -> str:
    """Those for a number of `errno`, or of the resolver (which are negative on Linux, positive on macOS)."""
    if of_resolver:
        return "the name server does not answer" if number == socket.EAI_AGAIN else "unknown host name"
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
