# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of latencies, the same in tables, reports and live windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from dissector.quantiles import PERCENTILES


def percentiles(values: np.ndarray, *shares: float) -> list[float]:
    """Percentiles by linear interpolation; NaN where n (1 - p) < 1: too few values to say."""
    ascending = np.sort(values)
    return [_percentile(ascending, share) for share in shares]


def _percentile(ascending: Sequence[float] | np.ndarray, share: float) -> float:
    n = len(ascending)
    # Rounded, because 100 * (1 - 0.99) is a little less than 1 in binary.
    if round(n * (1 - share), 9) < 1:
        return float("nan")
    # What numpy.quantile does; that takes 0.2 ms each time, and imports numpy.ma first.
    place = share * (n - 1)
    below = int(place)
    value = float(ascending[below])
    return value + (float(ascending[below + 1]) - value) * (place - below) if place > below else value


def summary(nanoseconds: Iterable[float]) -> dict[str, float]:
    """min, mean, percentiles, max and standard deviation (ddof 1), in ms; NaN: not known."""
    # Of a few values each, as thousands of connections have, NumPy takes four times as long.
    values = sorted(value / 1e6 for value in nanoseconds)
    n, nan = len(values), float("nan")
    mean = math.fsum(values) / n if n else nan
    return {
        "min_ms": values[0] if n else nan,
        "mean_ms": mean,
        **{f"{name}_ms": _percentile(values, share) for name, share in PERCENTILES.items()},
        "max_ms": values[-1] if n else nan,
        "std_ms": math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else nan,
    }
