# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether two captures differ: medians of each pair and phase, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.capture import Capture
from analysis.pairs import label
from analysis.tables import frame_of
from dissector.errors import CannotDo

LEAST = 10
"""Values that both captures must have of something for an answer."""
LEVEL = 0.95
SLOWER, FASTER, NOT_SHOWN, TOO_FEW = "slower", "faster", "no difference shown", "too few"

_RESAMPLES = 2000
_BATCH = 4_000_000
"""Values that are resampled at once: 32 MB."""
_SEED = 1
_MOST_ALIKE = 0.99


def compare(captures: Mapping[str, Capture]) -> pd.DataFrame:
    """How the second capture differs from the first, `{"before": a, "after": b}`.

    One row for each pair of sync-points and each phase (without checkpoint 0, which is of another size), all
    connections of a capture together.  Columns: kind ("pair", "phase"), name; for each capture, by its name,
    before_n (int64) and before_median_ms; difference_ms of the medians (second minus first) with the bounds of
    its interval, difference_low_ms and difference_high_ms; ratio of the medians (second to first),
    ratio_low, ratio_high; all float64; verdict.  NaN: not known; of a median of 0 there is no ratio.

    The intervals are bootstrap percentile intervals of 95 %, from `scipy.stats.bootstrap` with a fixed seed.
    They take values to be independent, but neighbouring checkpoints are not: a slow spell makes several
    slow.  So intervals are widened by sqrt((1 + r) / (1 - r)), r being the larger one of the captures'
    autocorrelations at lag 1, if positive: as many independent values would give them.  What differs in blocks
    longer than that (one half of a run under load, the other not) is still shown too sure: compare longer runs.

    verdict: "slower" or "faster" where the interval of the difference leaves out 0; "no difference
    shown", which is no proof that there is none; "too few" where one of them has less than 10 values.  Of
    twenty rows without a difference one will seem to have one.

    Raises CannotDo if there are not two captures, or scipy is missing.
    """
    if len(captures) != 2:
        raise CannotDo(f"compare wants two captures, not {len(captures)}")
    samples = [_samples(capture) for capture in captures.values()]
    rows = [{"kind": kind, "name": name,
             **_row(list(captures), *(sample.get((kind, name), np.zeros(0)) for sample in samples))}
            for kind, name in dict.fromkeys(key for sample in samples for key in sample)]
    numbers = [f"{name}_median_ms" for name in captures] + [
        *(f"difference{bound}_ms" for bound in ("", "_low", "_high")), *(f"ratio{b}" for b in ("", "_low", "_high"))]
    return frame_of(rows, {"kind": "object", "name": "object", **dict.fromkeys((f"{n}_n" for n in captures), "int64"),
                           **dict.fromkeys(numbers, "float64"), "verdict": "object"})


def _samples(capture: Capture) -> dict[tuple[str, str], np.ndarray]:
    """ms of each pair and phase, in the order in which they happened."""
    table, pairs, phases = capture.latency(), capture.export("pairs"), capture.export("phases")
    pairs = pairs[pairs["reason"] == ""]
    names = pd.Categorical(list(map(label, pairs["from"], pairs["to"], pairs["phase"])), list(
        dict.fromkeys(map(label, table["from"], table["to"], table["phase"]))))
    phases = phases[(phases["checkpoint"] > 0).fillna(False) & phases["duration_ns"].notna()]

    def grouped(kind: str, values: pd.Series, by: Any) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        for name, mine in values.groupby(by, observed=True):
            yield (kind, str(name)), mine.to_numpy(np.float64) / 1e6

    return dict([*grouped("pair", pairs["latency_ns"], names), *grouped("phase", phases["duration_ns"],
                                                                        phases["phase"])])


def _row(names: list[str], first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, values in zip(names, (first, second), strict=True):
        row |= {f"{name}_n": len(values), f"{name}_median_ms": np.median(values) if len(values) else None}
    if not len(first) or not len(second):
        return {**row, "verdict": TOO_FEW}
    before, after = np.median(first), np.median(second)
    row["difference_ms"] = after - before
    row["ratio"] = after / before if before > 0 else None
    if min(len(first), len(second)) < LEAST:
        return {**row, "verdict": TOO_FEW}
    widening = max(1.0, *(_widening(values) for values in (first, second)))
    low, high = _interval(first, second, np.subtract, widening)
    row |= {"difference_low_ms": low, "difference_high_ms": high,
            "verdict": SLOWER if low > 0 else FASTER if high < 0 else NOT_SHOWN}
    if first.min() > 0 and second.min() > 0:
        # Of logarithms, so that an interval that is widened does not reach below 0.
        row["ratio_low"], row["ratio_high"] = np.exp(_interval(
            first, second, lambda after, before: np.log(after / before), widening))
    return row


def _interval(first: np.ndarray, second: np.ndarray, measure: Callable[[Any, Any], Any],
              widening: float) -> np.ndarray:
    """Bounds of what `measure` says of the second and the first median."""
    try:
        from scipy.stats import bootstrap
    except ImportError:
        raise CannotDo("compare needs scipy: pip install 'coloscope[report]'") from None

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return measure(np.median(b, axis=axis), np.median(a, axis=axis))

    found = bootstrap((first, second), statistic, n_resamples=_RESAMPLES, vectorized=True, method="percentile",
                      batch=max(1, _BATCH // max(len(first), len(second))), confidence_level=LEVEL, rng=_SEED)
    middle = statistic(first, second)
    return middle + (np.array(found.confidence_interval) - middle) * widening


def _widening(values: np.ndarray) -> float:
    """By how much an interval must be wider, since neighbours are alike."""
    away = values - values.mean()
    if not away.any():
        return 1.0
    alike = min(max(0.0, float(away[1:] @ away[:-1] / (away @ away))), _MOST_ALIKE)
    return float(np.sqrt((1 + alike) / (1 - alike)))
