# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of a block that stay in their file: those that somebody needs are read when they are.

Contents of pages, nearly all that passes, nobody needs.  To hand them on from one process to another takes them out
of the processor's cache: reading takes twice as long.
"""

from __future__ import annotations

import os

import numpy as np

from dissector.compiled import OctetBuffer, Table, compiled, kernel
from dissector.headers import CAPTURED, POSITION
from dissector.pread import read_at

IN_MEMORY = -1
"""In place of the number of an open file."""
_APART = 256
"""Octets between two payloads that are worth a call of their own; headers are fewer."""


class InFile:
    """An open file of which octets are read; `is_short` tells whether some that were there could not be."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_short = False

    def read(self, at: int, count: int) -> np.ndarray:
        """The octets from octet `at` of the file on (uint8); fewer if they are not there."""
        octets = np.empty(count, np.uint8)
        found = octets[:_read(self.number, at, octets)]
        self.is_short |= len(found) < count
        return found

    def gather(self, rows: np.ndarray, origin: int) -> np.ndarray:
        """The payloads of these rows (as in `dissector.headers.Headers`), whose positions count from octet `origin`
        of the file on; from now on they count in what is returned (uint8).  Of what is not there nothing was
        captured."""
        there = np.flatnonzero(rows[:, CAPTURED])
        if not len(there):
            return np.empty(0, np.uint8)
        begin, last = rows.item(there.item(0), POSITION), there.item(-1)
        octets = np.empty(rows.item(last, POSITION) + rows.item(last, CAPTURED) - begin, np.uint8)
        self.is_short |= bool(_gather(self.number, origin, rows, octets))
        return octets

    def close(self) -> None:
        """Close the file."""
        os.close(self.number)


@compiled
def fetch(block, position, count):  # type: ignore[no-untyped-def]
    """Have `count` octets of a block, from a position on, in its last array; whether they are there.  `block`: octets
    in memory; a file (or `IN_MEMORY`), and which of its octets stands at position 0; the array."""
    data, file, origin, found = block
    if file != IN_MEMORY:
        return read_at(file, origin + position, found, 0, count) == count
    for i in range(count):
        found[i] = data[position + i]
    return True


@kernel
def _read(file: int, at: int, octets: OctetBuffer) -> int:
    return read_at(file, at, octets, 0, len(octets))


@kernel
def _gather(file: int, origin: int, rows: Table, octets: OctetBuffer) -> int:
    """Whether some were not there.  What stands side by side, but for headers, is read together.

    Payloads stand one behind the other, each within its packet.  The position of an empty one says nothing: headers
    that lie, or are cut off, put it anywhere."""
    short, first, place = 0, 0, np.int64(0)
    while first < len(rows):
        if rows[first, CAPTURED] == 0:
            rows[first, POSITION] = 0
            first += 1
            continue
        begin, behind = rows[first, POSITION], first + 1
        end = begin + rows[first, CAPTURED]
        while behind < len(rows) and (rows[behind, CAPTURED] == 0 or rows[behind, POSITION] - end <= _APART):
            if rows[behind, CAPTURED]:
                end = rows[behind, POSITION] + rows[behind, CAPTURED]
            behind += 1
        count = read_at(file, origin + begin, octets, place, min(end - begin, len(octets) - place))
        for i in range(first, behind):
            at = rows[i, POSITION] - begin if rows[i, CAPTURED] else 0
            if at + rows[i, CAPTURED] > count:
                short, rows[i, CAPTURED] = 1, max(count - at, 0)
            rows[i, POSITION] = place + at
        place, first = place + end - begin, behind
    return short
