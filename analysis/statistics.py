# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of latencies, the same in tables, reports and live windows."""

from __future__ import annotations

import numpy as np

from dissector.quantiles import PERCENTILES


def percentiles(values: np.ndarray, *shares: float) -> list[float]:
    """Percentiles by linear interpolation; NaN where n (1 - p) < 1: too few values to say."""
    n = len(values)
    # Rounded, because 100 * (1 - 0.99) is a little less than 1 in binary.
    known = [p for p in shares if n and round(n * (1 - p), 9) >= 1]
    found = dict(zip(known, np.quantile(values, known).tolist(), strict=True)) if known else {}
    return [found.get(p, float("nan")) for p in shares]


def summary(nanoseconds: np.ndarray) -> dict[str, float]:
    """min, mean, percentiles, max and standard deviation (ddof 1), in ms; NaN: not known."""
    values = np.asarray(nanoseconds, np.float64) / 1e6
    n = len(values)
    nan = float("nan")
    return {
        "min_ms": float(values.min()) if n else nan,
        "mean_ms": float(values.mean()) if n else nan,
        **{f"{name}_ms": value for name, value in zip(
            PERCENTILES, percentiles(values, *PERCENTILES.values()), strict=True)},
        "max_ms": float(values.max()) if n else nan,
        "std_ms": float(values.std(ddof=1)) if n > 1 else nan,
    }
