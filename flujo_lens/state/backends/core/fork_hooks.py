"""What begins anew in a child of `os.fork`.

The child has one thread. Those of the parent that were to do its work, or to let go of its locks, are not there:
whatever waits for one of them would wait for ever.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class _Renewable(Protocol):
    def begin(self) -> None:
        """Be as new: no threads, no locks held."""


_living: WeakSet[_Renewable] = WeakSet()


def begin_anew_in_children(one: _Renewable) -> None:
    """Have ``one.begin()`` called in every child of a fork, as long as the object lives."""
    _living.add(one)


def _renew() -> None:
    for one in tuple(_living):
        one.begin()


os.register_at_fork(after_in_child=_renew)
