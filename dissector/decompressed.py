# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of a compressed file, which a second process decompresses."""

from __future__ import annotations

import io
from collections.abc import Sequence

from dissector.helper import Helper, Room, begun

_PIECES, _PIECE = 64, 1 << 20
"""Decompressing goes on while this process imports what it needs: with 8 pieces a run took a twentieth longer, with
160 no less."""


class Damaged(Exception):
    """The octets end early; the message is one line that says why."""


class Decompressed(io.RawIOBase):
    """Octets of this file; `tell` gives how many of the compressed ones have been read.

    The process starts at once.  `readinto` raises Damaged behind the last octet in front of a fault.
    """

    def __init__(self, name: str) -> None:
        self._helper = begun(decompress, [name]) or Helper(decompress, [name])
        self._slots = self._helper.slots(_PIECES, _PIECE)
        self._slot, self._read = -1, 0
        self._piece = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._read

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._piece and not self._ended:
            self._take()
        count = min(len(buffer), len(self._piece))
        buffer[:count], self._piece = self._piece[:count], self._piece[count:]
        return count

    def _take(self) -> None:
        """Give back the piece in hand, and wait for the next one."""
        if self._slot >= 0:
            self._helper.give_back(self._slot)
            self._slot = -1
        message = self._helper.next()
        self._ended = message is None
        if isinstance(message, str):
            raise Damaged(message)
        if message is not None:
            self._slot, filled, self._read = message
            self._piece = self._slots[self._slot][:filled]

    def close(self) -> None:
        if not self.closed:
            self._helper.close()
            self._slots, self._piece = [], memoryview(b"")
        super().close()


def decompress(room: Room, names: Sequence[str]) -> None:
    """What the process does."""
    from dissector.source import Source

    slots, read = room.slots(_PIECES, _PIECE), 0

    def on_progress(count: int) -> None:
        nonlocal read
        read += count

    with Source(names[0], on_progress=on_progress) as source:
        for slot in room:
            filled = 0
            while filled < _PIECE and (count := source.readinto(slots[slot][filled:])):
                filled += count
            room.send((slot, filled, read))
            if filled < _PIECE:
                break
        if source.fault:
            room.send(source.fault)
