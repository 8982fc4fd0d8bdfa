# SPDX-License-Identifier: GPL-2.0-or-later
"""How far two clocks are apart, from packets that both have stamped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dissector.errors import CannotDo

_BINS = 4096
"""Stretches of time of which the fastest packet of each direction is looked at: the others say less."""
_NS = 1_000_000_000
_PPM = 1_000_000


class ClockError(CannotDo):
    """Clocks that cannot be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The second clock, by the first one: at `at_ns` it is `offset_ns` ahead, and it gains `drift_ppm`.

    `offset_min_ns` to `offset_max_ns` and `drift_min_ppm` to `drift_max_ppm` hold whatever the packets' delays
    were: none arrives before it leaves, in either direction.  The estimate is the line that leaves both
    directions the same least delay.  `delay_ns` is that delay; `packets` were compared.  `uneven_ns` is by how
    much no line fits: clocks that were set or slewed meanwhile (0: one fits)."""

    at_ns: int
    offset_ns: int
    offset_min_ns: int
    offset_max_ns: int
    drift_ppm: float
    drift_min_ppm: float
    drift_max_ppm: float
    delay_ns: int
    packets: int
    uneven_ns: int

    def first(self, second: np.ndarray) -> np.ndarray:
        """Times of the second clock as the first one would have it (int64 ns)."""
        since = second - self.at_ns - self.offset_ns
        gained = self.drift_ppm / _PPM
        by_first: np.ndarray = self.at_ns + since - np.rint(since * (gained / (1 + gained))).astype(np.int64)
        return by_first


def compare(there: np.ndarray, back: np.ndarray) -> Clock:
    """The clock of the second capture, by that of the first.

    `there` and `back` (int64 ns, two columns: stamped by the first, by the second clock) are packets that
    passed the first capture and then the second, and the other way.  For each of the former, second - first is
    the clocks' difference and a delay; for each of the latter the difference less a delay.  So the difference,
    a straight line over time, lies below all of the former and above all of the latter.  Raises ClockError if
    packets of one direction are missing, or they all are of one moment."""
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise ClockError("two captures of one run are compared with scipy: pip install 'coloscope[pair]'") from None

    if not len(there) or not len(back):
        raise ClockError("the captures do not have packets of both directions in common")
    both = np.concatenate((there, back))
    begin, end = int(both[:, 0].min()), int(both[:, 0].max())
    if begin == end:
        raise ClockError("the captures have only one moment in common")
    at, half = begin + (end - begin) // 2, (end - begin) / 2
    base = int(np.median(both[:, 1] - both[:, 0]))
    # Both stamps may be rounded down.
    grain = 1000 if not (both % 1000).any() else 1
    x, limit, sign = [], [], []
    for packets, which in ((_fastest(there, 1), 1), (_fastest(back, -1), -1)):
        x.append((packets[:, 0] - at) / half)
        limit.append(which * (packets[:, 1] - packets[:, 0] - base) + grain)
        sign.append(np.full(len(packets), which))
    signs, limits, xs = np.concatenate(sign), np.concatenate(limit).astype(float), np.concatenate(x)
    # In units in which the solver's tolerances mean nothing.
    unit = max(float(np.abs(limits).max()), 1.0)
    fits = np.column_stack((signs, signs * xs, np.ones(len(xs))))

    def best(offset: float, drift: float, delay: float, least: float | None) -> np.ndarray:
        """(offset, gain over half of the time, delay) of the line that makes the weighted sum smallest."""
        found = linprog([offset, drift, delay], A_ub=fits, b_ub=limits / unit, bounds=[(None, None), (None, None), (
            least, least)] if least is not None else [(None, None)] * 3)
        if not found.success:
            return np.full(3, np.nan)
        solved: np.ndarray = found.x * unit
        return solved

    middle = best(0, 0, -1, None)
    uneven = max(0.0, -float(middle[2]))
    slack = min(0.0, float(middle[2])) / unit * (1 + 1e-9)
    offsets = [best(which, 0, 0, slack)[0] for which in (1, -1)]
    drifts = [best(0, which, 0, slack)[1] / half * _PPM for which in (1, -1)]
    return Clock(at, base + round(middle[0]), base + int(np.floor(offsets[0])), base + int(np.ceil(offsets[1])),
                 float(middle[1]) / half * _PPM, float(drifts[0]), float(drifts[1]),
                 round(max(0.0, float(middle[2]))), len(both), round(uneven))


def _fastest(packets: np.ndarray, which: int) -> np.ndarray:
    """The packet with the least delay of each stretch of time."""
    bins = (packets[:, 0] - packets[:, 0].min()) * _BINS // (int(np.ptp(packets[:, 0])) + 1)
    late = which * (packets[:, 1] - packets[:, 0])
    order = np.lexsort((late, bins))
    first = np.diff(bins[order], prepend=-1) > 0
    chosen: np.ndarray = packets[order[first]]
    return chosen


def row(clock: Clock) -> dict[str, Any]:
    """A clock as a row of `analysis.two_ends.TwoEnds.clocks`."""
    return {name.replace("_ns", "_ms") if name != "at_ns" else name:
            getattr(clock, name) / 1e6 if name.endswith("_ns") and name != "at_ns" else getattr(clock, name)
            for name in Clock.__slots__}
