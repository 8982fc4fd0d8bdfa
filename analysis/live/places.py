# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the frames of a ring of files are."""

from __future__ import annotations

import bisect
from collections import deque

from analysis.live.events import Event
from dissector.blocks import File

_FILES = 1 << 10
"""Files that are remembered: far more than those whose packets may still be told of."""
_FRAME, _FILE = "frame", "file"


class Places:
    """The files that have come so far; it finds frames in them by their running numbers."""

    def __init__(self) -> None:
        self._files: deque[tuple[int, str]] = deque(maxlen=_FILES)
        """(running number of its first frame, name) of each."""

    def add(self, file: File) -> None:
        """The next file begins."""
        self._files.append((file.first, file.text))

    def of(self, event: Event) -> Event:
        """The event with frame numbers as each file counts them, and in front of each the name of the file, as in
        the tables of several files."""
        placed: Event = {}
        for name, value in event.items():
            if name.endswith(_FRAME):
                placed[name.removesuffix(_FRAME) + _FILE], value = self._find(value)
            placed[name] = value
        return placed

    def _find(self, frame: int | None) -> tuple[str | None, int | None]:
        if frame is None:
            return None, None
        at = bisect.bisect_right(self._files, frame, key=lambda file: file[0]) - 1
        first, name = self._files[max(at, 0)]
        return name, frame - first + 1
