# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of latencies, the same in tables, reports and live windows."""

from __future__ import annotations

import numpy as np

from dissector.quantiles import PERCENTILES


def percentiles(values: np.ndarray, *shares: float) -> list[float]:
    """Percentiles by linear interpolation; NaN where n (1 - p) < 1: too few values to say."""
    n = len(values)
    # Rounded, because 100 * (1 - 0.99) is a little less than 1 in binary.
    known = [bool(n) and round(n * (1 - p), 9) >= 1 for p in shares]
    if not any(known):
        return [float("nan")] * len(shares)
    # What numpy.quantile does; that takes 0.2 ms each time, and imports numpy.ma first.
    found = np.interp(np.array(shares) * (n - 1), np.arange(n), np.sort(values))
    return np.where(known, found, np.nan).tolist()


def summary(nanoseconds: np.ndarray) -> dict[str, float]:
    """min, mean, percentiles, max and standard deviation (ddof 1), in ms; NaN: not known."""
    values = np.sort(np.asarray(nanoseconds, np.float64)) / 1e6
    n = len(values)
    nan = float("nan")
    return {
        "min_ms": values.item(0) if n else nan,
        "mean_ms": float(values.mean()) if n else nan,
        **{f"{name}_ms": value for name, value in zip(
            PERCENTILES, percentiles(values, *PERCENTILES.values()), strict=True)},
        "max_ms": values.item(-1) if n else nan,
        "std_ms": float(values.std(ddof=1)) if n > 1 else nan,
    }
