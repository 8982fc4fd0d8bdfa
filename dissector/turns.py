# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose turn it is to speak on a connection."""

from __future__ import annotations

_KEPT = 1 << 13
"""Turns that are remembered: those of the octets that wait behind a hole, and far more."""


class Turns:
    """The frames with octets of which the octets before them were the other side's.

    While one side only has spoken, as in a capture of one direction, every frame counts as one."""

    def __init__(self) -> None:
        self._frames: dict[int, None] = {}
        self._earliest: list[int] = []
        """The first three."""

    @property
    def _both(self) -> bool:
        return len(self._frames) > 1

    def again(self, frame: int) -> bool:
        """Whether the side that spoke first has spoken again, behind the other, up to this frame."""
        return len(self._earliest) > 2 and self._earliest[2] <= frame

    def note(self, frames: list[int]) -> None:
        """Take the next ones."""
        self._earliest += frames[:3 - len(self._earliest)]
        self._frames |= dict.fromkeys(frames)
        if len(self._frames) > 2 * _KEPT:
            self._frames = dict.fromkeys(list(self._frames)[-_KEPT:])

    def is_answer(self, frame: int) -> bool:
        """Whether the other side has surely spoken right before this frame."""
        return self._both and frame in self._frames and frame != self._earliest[0]

    def __contains__(self, frame: object) -> bool:
        return not self._both or frame in self._frames
