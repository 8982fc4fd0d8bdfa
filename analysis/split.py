# SPDX-License-Identifier: GPL-2.0-or-later
"""Latencies between two ends, split: what the primary took, the network, and the secondary.

A connection is a chain of records, each written by one end.  Between two records of one end the time is that
end's, as seen there.  Where the writer changes, the record before travels first, which is the network's; from
its arrival on the time is the other end's, until it writes.  A latency is measured at the primary: a
sync-point of the secondary that begins or ends it stands for its arrival there.

In sums: let p(k) and s(k) be when record k passed the primary's and the secondary's end, and w(k) the one of
the two where it was written.  Going from record k - 1 to k at the end that writes k, that end gets
t(k) - t(k - 1), both seen there, and the network what t(k - 1) there is behind w(k - 1): 0 unless the writer
changes.  The two add up to w(k) - w(k - 1), hence over any stretch i..j to w(j) - w(i).  The network also gets
p(j) - w(j), and not p(i) - w(i), which lies before the beginning: in all p(j) - p(i), the latency at the
primary, to the nanosecond.  So between two sync-points of the secondary the network's part is by how much
the last one travelled longer than the first, and may be negative.

Each visit to the secondary goes there and comes back, so that an error of the clocks' offset cancels out."""

from __future__ import annotations

import numpy as np

PRIMARY_PART, NETWORK_PART, SECONDARY_PART = range(3)


class Split:
    """A chain of records of one connection, in the order in which they passed the primary's end.

    `by_secondary` (bool): who wrote each; `primary`, `secondary` (int64 ns of one clock; 0: not known): when it
    passed each end."""

    def __init__(self, by_secondary: np.ndarray, primary: np.ndarray, secondary: np.ndarray) -> None:
        self._home = np.where(by_secondary, primary - secondary, 0)
        """What the way to the primary takes."""
        self._lacks_home = by_secondary & (primary == 0)
        here = np.where(by_secondary, secondary, primary)
        before = np.where(by_secondary[1:], secondary[:-1], primary[:-1])
        took, travelled = here[1:] - before, before - here[:-1]
        parts = np.zeros((len(here), 3), np.int64)
        parts[1:, PRIMARY_PART] = np.where(by_secondary[1:], 0, took)
        parts[1:, SECONDARY_PART] = np.where(by_secondary[1:], took, 0)
        parts[1:, NETWORK_PART] = travelled
        lacks = np.zeros(len(here), np.int64)
        lacks[1:] = (here[1:] == 0) | (before == 0) | (here[:-1] == 0)
        # What is not known must not overflow what is.
        parts[lacks > 0] = 0
        self._parts, self._lacks = np.cumsum(parts, axis=0), np.cumsum(lacks)

    def between(self, begin: int, end: int) -> tuple[int, int, int] | None:
        """ns of the primary, the network, the secondary from one record to another; None: not known."""
        if self._lacks[end] > self._lacks[begin] or self._lacks_home[begin] or self._lacks_home[end]:
            return None
        primary, network, secondary = (self._parts[end] - self._parts[begin]).tolist()
        return primary, network + int(self._home[end] - self._home[begin]), secondary
