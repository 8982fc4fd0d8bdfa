# SPDX-License-Identifier: GPL-2.0-or-later
"""The capture's clock, which goes on while nothing comes."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """What time it is where packets are stamped: the latest stamp, and what has passed since it was read."""

    def __init__(self, wall: Callable[[], int] = time.monotonic_ns) -> None:
        self.wall = wall
        """What measures the time that passes, in ns."""
        self._stamp = self._at = 0

    def note(self, stamp: int) -> None:
        """A packet with this time (ns since the epoch) has just been read."""
        if stamp > self._stamp:
            self._stamp, self._at = stamp, self.wall()

    @property
    def now(self) -> int:
        """ns since the epoch; 0: no packet has come yet."""
        return self._stamp + self.wall() - self._at if self._stamp else 0
