# SPDX-License-Identifier: GPL-2.0-or-later
"""When octets had passed the capture point: each together with everything before it."""

from __future__ import annotations

import numpy as np

from dissector.streams import FRAME, HOLE, TIME, Run

_NEVER = np.iinfo(np.int64).max


class Passage:
    """The running maximum over the frames of one direction's ranges, run by run.

    A hole passes with the first ACK that covers it; one that no ACK covers holds nothing up.  Octets that passed
    unseen (`dissector.expected`) had frames in front of those of the next range.
    """

    def __init__(self) -> None:
        self._passed: tuple[int, int] = (0, 0)
        """Frame and time after which every octet before the run in hand has passed."""
        self._seen = 0
        """The same, of octets that the capture has: holes move nothing."""
        self._gap = 0
        """Frame at which the latest hole stopped blocking; `_NEVER` without an ACK."""

    def copy(self) -> Passage:
        twin = Passage()
        twin._passed, twin._seen, twin._gap = self._passed, self._seen, self._gap
        return twin

    def look_at(self, run: Run) -> None:
        """Take a run in hand."""
        self._rows = run.rows
        self._in_turn = run.in_turn and run.whole and not self._gap
        if self._in_turn:  # as nearly always
            return
        frames = run.rows[:, FRAME]
        upto = np.maximum.accumulate(frames)
        self._passed_upto = np.maximum(upto, self._passed[0])
        self._gap_upto: np.ndarray | None = None
        if self._gap or not run.whole:
            holes = run.rows[:, HOLE] != 0
            upto = np.maximum.accumulate(np.where(holes, 0, frames))
            gaps = np.where(holes, np.where(frames == 0, _NEVER, frames), 0)
            self._gap_upto = np.maximum(np.maximum.accumulate(gaps), self._gap)
        self._seen_upto = upto
        """But for what was seen before this run."""

    def delivered(self, row: int) -> tuple[int, int]:
        """Frame and time after which everything up to the end of this row had passed."""
        if self._in_turn:
            return self._rows.item(row, FRAME), self._rows.item(row, TIME)
        frame = self._passed_upto.item(row)
        if frame == self._passed[0]:
            return self._passed
        # It is nearly always this row that showed it first, and a search takes ten times as long.
        if row and self._passed_upto.item(row - 1) == frame:
            row = int(self._passed_upto.searchsorted(frame))
        return frame, self._rows.item(row, TIME)

    def held_up(self, row: int) -> bool:
        """Whether it was a hole that this row waited for."""
        if self._in_turn or self._gap_upto is None:
            return False
        return self._gap_upto.item(row) > max(self._seen_upto.item(row), self._seen)

    def leave(self, row: int) -> None:
        """Let go of the run in hand; its rows from `row` on will come again."""
        if not row:
            return
        self._passed = self.delivered(row - 1)
        if self._in_turn:
            self._seen = self._passed[0]
            return
        self._seen = max(self._seen_upto.item(row - 1), self._seen)
        if self._gap_upto is not None:
            self._gap = self._gap_upto.item(row - 1)
