# SPDX-License-Identifier: GPL-2.0-or-later
"""Latencies as HdrHistogram's percentile distributions, which its plotters read."""

from __future__ import annotations

import io
import re

from analysis.capture import Capture
from analysis.pairs import label
from dissector.errors import CannotDo

try:
    from hdrh.histogram import HdrHistogram
except ImportError:
    raise CannotDo("histograms need hdrhistogram: pip install 'coloscope[report]'") from None

_DIGITS = 3
_NS_PER_MS = 1_000_000


class _Nanoseconds(HdrHistogram):  # type: ignore[misc]
    """Written in ms: the library scales every number that it writes but the standard deviation."""

    def get_stddev(self) -> float:
        return float(super().get_stddev()) / _NS_PER_MS


def histograms(capture: Capture) -> dict[str, str]:
    """The percentile distribution, in ms, of each pair of each connection, by a name for its file, such as
    "0.NEW-to-SVM_SUSPENDED.hgrm".  Values have three digits.  Latencies below 0 (a clock that steps back) are
    counted as 0: a histogram begins there."""
    pairs = capture.export("pairs")
    found = {}
    for (number, phase, begin, end), mine in pairs[pairs["reason"] == ""].groupby(
            ["connection", "phase", "from", "to"], sort=False):
        latencies = mine["latency_ns"].clip(lower=0).tolist()
        histogram = _Nanoseconds(1, max(2, *latencies), _DIGITS)
        for latency in latencies:
            histogram.record_value(latency)
        out = io.BytesIO()
        histogram.output_percentile_distribution(out, _NS_PER_MS)
        name = re.sub(r"[^\w.]+", "-", label(begin, end, phase).replace("→", "to")).strip("-")
        found[f"{number}.{name}.hgrm"] = out.getvalue().decode()
    return found
