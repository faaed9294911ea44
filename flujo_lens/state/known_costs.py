"""The costs of ended runs, in the memory of a process that sums them up again and again."""

from __future__ import annotations

import heapq
import math
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterator

Costs = tuple[float | None, int | None]
"""Cost in US dollars and tokens; None where nothing was recorded."""

_NO_TOKENS = -(1 << 63)
_MOST_FRESH = 10_000


class KnownCosts:
    """Costs by what identifies an ended run as it is: its id, status, start and end.

    A run takes 24 bytes: its key is kept as a hash of 64 bits, which is another one in every process.
    """

    def __init__(self) -> None:
        self._keys, self._usd, self._tokens = array("q"), array("d"), array("q")
        self._fresh: dict[int, Costs] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._fresh)

    def find(self, key: Hashable) -> Costs | None:
        """The costs of a run; None if they are not known."""
        sought = hash(key)
        at = bisect_left(self._keys, sought)
        if at == len(self._keys) or self._keys[at] != sought:
            return self._fresh.get(sought)
        usd, tokens = self._usd[at], self._tokens[at]
        return None if math.isnan(usd) else usd, None if tokens == _NO_TOKENS else tokens

    def put(self, key: Hashable, costs: Costs) -> None:
        """Keep the costs of a run that are not known."""
        self._fresh[hash(key)] = costs
        if len(self._fresh) > max(_MOST_FRESH, len(self._keys) // 8):
            self._merge()

    def forget_others(self, count: int) -> None:
        """Begin anew if most of what is known is not of the `count` runs that there are: the others were deleted."""
        if len(self) > 2 * count + _MOST_FRESH:
            self._clear()

    def _clear(self) -> None:
        self._keys, self._usd, self._tokens = array("q"), array("d"), array("q")
        self._fresh = {}

    def _merge(self) -> None:
        """Sort what was added into the rest."""
        fresh = sorted((key, *_packed(costs)) for key, costs in self._fresh.items())
        known = zip(self._keys, self._usd, self._tokens, strict=True)
        keys, usd, tokens = array("q"), array("d"), array("q")
        both: Iterator[tuple[int, float, int]] = heapq.merge(known, fresh, key=lambda item: item[0])
        for key, cost, count in both:
            keys.append(key)
            usd.append(cost)
            tokens.append(count)
        self._keys, self._usd, self._tokens, self._fresh = keys, usd, tokens, {}


def _packed(costs: Costs) -> tuple[float, int]:
    usd, tokens = costs
    return math.nan if usd is None else usd, _NO_TOKENS if tokens is None else tokens
