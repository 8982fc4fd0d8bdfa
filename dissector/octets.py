# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of a block that stay in their file: those that somebody needs are read when they are.

Contents of pages, nearly all that passes, nobody needs.  To hand them on from one process to another takes them out
of the processor's cache: reading takes half as long again.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np

from dissector.compiled import compiled
from dissector.pread import read_at
from dissector.table import zeros

IN_MEMORY = -1
"""In place of the number of an open file."""
NO_OCTETS = np.zeros(0, np.uint8)


class InFile:
    """An open file of which octets are read; `is_short` tells whether some that were there could not be."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_short = False
        self._room = NO_OCTETS

    def room(self, count: int) -> np.ndarray:
        """Room for so many octets, from the start of a page of memory on.  The same each time: the system would have
        to clear new memory."""
        if len(self._room) < count:
            self._room = zeros((2 * count,), np.uint8)  # what is not used takes none
        return self._room[:count]

    def close(self) -> None:
        """Close the file."""
        os.close(self.number)


class Passing:
    """Octets of a block that stay in a file, of which octet `origin` has position 0; the block has those from `begin`
    to `end`.  Valid until the next block is."""

    def __init__(self, file: InFile, origin: int, begin: int, end: int) -> None:
        self.file, self.origin, self._begin, self._end = file, origin, begin, end
        self.there = end
        """Behind it nothing could be read when all was."""
        self.reads = 0
        """How often parts of it were read to be looked through (`dissector.landmarks`)."""
        self.loaded: np.ndarray | None = None
        """All of them, if they have been read."""

    def __len__(self) -> int:
        return self._end - self._begin

    def read(self, position: int, count: int) -> bytes:
        """Some octets; fewer if they are not there any more."""
        if self.loaded is not None:
            return self.loaded[position:min(position + count, self.there)].tobytes()
        try:
            octets = os.pread(self.file.number, count, self.origin + position)
        except OSError:
            octets = b""
        self.file.is_short |= len(octets) < count
        return octets

    def load(self) -> np.ndarray:
        """All octets of the block, by their position; zeros for what is not there."""
        if self.loaded is None:
            octets, begin = self.file.room(self._end), self._begin
            upto = begin
            with contextlib.suppress(OSError):
                upto += os.preadv(self.file.number, [octets[begin:].data], self.origin + begin)
            octets[upto:] = 0
            self.file.is_short |= upto < self._end
            self.loaded, self.there = octets, upto
        return self.loaded


Block = np.ndarray | Passing
"""Octets of a block by their position."""


def where(octets: Block) -> tuple[np.ndarray, int, int]:
    """What a kernel is told of them: an array of those that are there; or a file, and its octet at position 0."""
    if isinstance(octets, Passing):
        if octets.loaded is None:
            return NO_OCTETS, octets.file.number, octets.origin
        octets = octets.loaded[:octets.there]
    return octets, IN_MEMORY, 0


@compiled
def fetch(block, position, count):  # type: ignore[no-untyped-def]
    """Have `count` octets of a block (as from `where`, and room for them) in that room; whether they are there."""
    data, file, origin, room = block
    if file != IN_MEMORY:
        return read_at(file, origin + position, room, 0, count) == count
    if position + count > len(data):
        return False
    for i in range(count):
        room[i] = data[position + i]
    return True
