# SPDX-License-Identifier: GPL-2.0-or-later
"""Latencies of one pair over hours, in memory that stays."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Iterable

import numpy as np

from analysis.live.state import Percentiles
from analysis.statistics import percentiles

KEPT = 1 << 14
"""Latencies of the whole session that are kept: up to so many, percentiles are exact.  Then a uniform sample of
all (reservoir sampling) stands for them: what is said to be p50 lies between p49.2 and p50.8, p95 between p94.7 and
p95.3, p99 between p98.8 and p99.2, in 19 of 20 cases."""
RECENT = 1 << 13
"""Of the sliding window, the latest."""


class Latencies:
    """Of one pair, in ns."""

    def __init__(self) -> None:
        self._all = array("q")
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        self._count = 0
        self._max = 0
        self._chance = random.Random(0)

    def add(self, time: int, latency: int) -> None:
        """One that was over at `time`."""
        self._recent.append((time, latency))
        self._max = max(self._max, latency) if self._count else latency
        self._count += 1
        if len(self._all) < KEPT:
            self._all.append(latency)
        elif (place := self._chance.randrange(self._count)) < KEPT:
            self._all[place] = latency

    def window(self, since: int) -> Percentiles:
        """Those that were over behind `since`."""
        while self._recent and self._recent[0][0] <= since:
            self._recent.popleft()
        values = [latency for _, latency in self._recent]
        return _percentiles(values, len(values), max(values, default=0))

    def total(self) -> Percentiles:
        """Since the session began."""
        return _percentiles(self._all, self._count, self._max)


def _percentiles(latencies: Iterable[int], count: int, highest: int) -> Percentiles:
    values = np.fromiter(latencies, np.float64) / 1e6
    p50, p95, p99 = (None if value != value else round(value, 6) for value in percentiles(values, 0.50, 0.95, 0.99))
    return Percentiles(count, p50, p95, p99, highest / 1e6 if count else None)
