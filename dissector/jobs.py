# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs for two processes: each is done by the one that is free first."""

from __future__ import annotations

import os
import struct

_JOB = struct.Struct("=QQ")


class Jobs:
    """A queue of jobs, two numbers each, in a pipe: what one process takes is gone for the other.

    `taken`, `put`: the ends of the pipe; a process that has no `put` does not add any."""

    def __init__(self, taken: int, put: int | None = None) -> None:
        self._taken, self._put = taken, put
        for end in (taken, put):
            if end is not None:
                os.set_blocking(end, False)

    def put(self, *job: int) -> bool:
        """Add one; False: there is no room for it now."""
        assert self._put is not None
        try:
            return os.write(self._put, _JOB.pack(*job)) > 0  # so few octets at once, or none
        except BlockingIOError:
            return False

    def take(self) -> tuple[int, int] | None:
        """The next one; None: there is none now."""
        try:
            job = os.read(self._taken, _JOB.size)
        except BlockingIOError:
            return None
        return _JOB.unpack(job) if job else None

    def close(self) -> None:
        """Take none any more."""
        os.close(self._taken)
