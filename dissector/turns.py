# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is to speak on a connection."""

from __future__ import annotations

import numpy as np

from dissector.segments import LENGTH, PACKET, SIDE, Segments

_KEPT = 1 << 13
"""Turns that are remembered: those of the octets that wait behind a hole, and far more."""


class Turns:
    """The frames with octets of which the octets before them were the other side's.

    While one side only has spoken, as in a capture of one direction, every frame counts as one."""

    def __init__(self) -> None:
        self._frames: dict[int, None] = {}
        self._spoke = -1
        self._first = 0
        self._both = False

    def note(self, segments: Segments, rows: np.ndarray) -> None:
        """Take segments of the connection, in capture order."""
        spoken = rows[rows[:, LENGTH] > 0]
        if not len(spoken):
            return
        turns = spoken[np.diff(spoken[:, SIDE], prepend=self._spoke) != 0]
        if self._spoke < 0:
            self._first = int(turns[0, PACKET] + segments.packets.first)
        self._both |= len(turns) > (self._spoke < 0)
        self._spoke = int(spoken[-1, SIDE])
        self._frames |= dict.fromkeys((turns[:, PACKET] + segments.packets.first).tolist())
        if len(self._frames) > 2 * _KEPT:
            self._frames = dict.fromkeys(list(self._frames)[-_KEPT:])

    def is_answer(self, frame: int) -> bool:
        """Whether the other side has surely spoken right before this frame."""
        return self._both and frame in self._frames and frame != self._first

    def __contains__(self, frame: object) -> bool:
        return not self._both or frame in self._frames
