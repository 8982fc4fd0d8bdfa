# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as JSON lines."""

from __future__ import annotations

import json
import os

from analysis.live.events import Event


class Lines:
    """Writes each event to a file descriptor at once, as one line.  Raises OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, event: Event) -> None:
        line = memoryview((json.dumps(event) + "\n").encode())
        while line:
            line = line[os.write(self._descriptor, line):]
