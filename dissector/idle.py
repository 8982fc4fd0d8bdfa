# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of its time this process has nothing else to do."""

from __future__ import annotations

import time


class Idle:
    """Counts the time that is spent `with` it."""

    def __init__(self) -> None:
        self._begin, self._seconds = time.perf_counter(), 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._since

    @property
    def share(self) -> float:
        """Of the time since this was made."""
        return self._seconds / max(time.perf_counter() - self._begin, 1e-9)
