# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of latencies, the same in tables, reports and live windows."""

from __future__ import annotations

import math

import numpy as np

from dissector.quantiles import PERCENTILES


def percentiles(values: np.ndarray, *shares: float) -> list[float]:
    """Percentiles by linear interpolation; NaN where n (1 - p) < 1: too few values to say."""
    ascending = np.sort(values)
    return [_percentile(ascending, share) for share in shares]


def _percentile(ascending: np.ndarray, share: float) -> float:
    n = len(ascending)
    # Rounded, because 100 * (1 - 0.99) is a little less than 1 in binary.
    if round(n * (1 - share), 9) < 1:
        return float("nan")
    # What numpy.quantile does; that takes 0.2 ms each time, and imports numpy.ma first.
    place = share * (n - 1)
    below = int(place)
    value = float(ascending.item(below))
    return value + (ascending.item(below + 1) - value) * (place - below) if place > below else value


def summary(nanoseconds: np.ndarray) -> dict[str, float]:
    """min, mean, percentiles, max and standard deviation (ddof 1), in ms; NaN: not known."""
    values = np.sort(np.asarray(nanoseconds, np.float64)) / 1e6
    n = len(values)
    nan = float("nan")
    mean = float(np.add.reduce(values)) / n if n else nan
    return {
        "min_ms": values.item(0) if n else nan,
        "mean_ms": mean,
        **{f"{name}_ms": _percentile(values, share) for name, share in PERCENTILES.items()},
        "max_ms": values.item(-1) if n else nan,
        # numpy.std takes three to four times as long, and there may be thousands of connections.
        "std_ms": math.sqrt(float(np.add.reduce((values - mean) ** 2)) / (n - 1)) if n > 1 else nan,
    }
