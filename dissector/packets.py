# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of a capture file, as columns, block by block."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from dissector.headers import COLUMNS as HEADER_COLUMNS
from dissector.headers import POSITION, WORD, Headers
from dissector.octets import NO_OCTETS, Block, InFile, Passing
from dissector.table import KEY

if TYPE_CHECKING:
    from dissector.container import Container

ROWS = 20 << 10
"""Packets handed on at a time: as many as a block of frames of 1,500 octets has that stays in its file, and no more,
because some machines take 1 ms for each MiB that is used for the first time."""
_NOT_TOLD_APART = np.zeros(0, np.int64)


@dataclass(slots=True)
class Packets:
    """Packets of one block: its octets (`dissector.octets.Block`), and a row for each packet.

    position (int64, into the octets), captured and wire (int64, octets), time (int64, ns since the
    epoch, 0 unknown), link (int64, LINKTYPE_*), interface (int64, into `Container.interfaces`, -1
    none); `headers`: what stands in them.  `first` is the running number of the first row over all
    files, from 1; `start` the octet of the file from which `container` can read these packets again.
    All is valid only until the next ones are read.
    `origin` is the octet of the file that has position 0.
    """

    octets: Block
    position: np.ndarray
    captured: np.ndarray
    wire: np.ndarray
    time: np.ndarray
    link: np.ndarray
    interface: np.ndarray
    headers: Headers
    first: int = 0
    start: int = 0
    container: Container | None = None
    drops: int | None = None
    """Packets that the capturing program says it had lost, where these octets end."""
    origin: int = 0
    streams: np.ndarray = field(default_factory=lambda: _NOT_TOLD_APART)
    """int64: TCP stream of each packet, -1 none; empty until `dissector.segments` has told them apart."""

    def __len__(self) -> int:
        return len(self.position)

    @property
    def data(self) -> np.ndarray:
        """The octets as an array (uint8); those that stay in a file are all read now."""
        return self.octets.load() if isinstance(self.octets, Passing) else self.octets

    def copy(self) -> Packets:
        """The same, valid for good."""
        begin, end = int(self.position.min()), int((self.position + self.captured).max())
        headers = Headers(self.headers.ends.copy(), self.headers.rows.copy())
        headers.rows[:, POSITION] -= begin
        columns = {name: getattr(self, name).copy() for name in ("captured", "wire", "time", "link", "interface")}
        return replace(self, octets=self.data[begin:end].copy(), position=self.position - begin,
                       headers=headers, **columns)

    @property
    def nbytes(self) -> int:
        """Octets of memory that a copy takes."""
        return self.data.nbytes + self.headers.ends.nbytes + self.headers.rows.nbytes + 6 * self.position.nbytes


_ROW = 6 * 8, KEY * 8, WORD * HEADER_COLUMNS
"""Octets of a packet's columns, of its ends, of its headers."""


class Slot:
    """Room for the columns and headers of the packets in a block, in `memory` if there is some."""

    def __init__(self, memory: memoryview | None = None) -> None:
        octets = np.frombuffer(mmap.mmap(-1, self.size()) if memory is None else memory, np.uint8)
        table, ends, rows, _ = np.split(octets, np.cumsum([ROWS * size for size in _ROW]))
        self.table = table.view(np.int64).reshape(6, ROWS)
        self.headers = Headers(ends.view(np.uint64).reshape(ROWS, KEY),
                               rows.view(np.uint32).reshape(ROWS, HEADER_COLUMNS))

    @staticmethod
    def size() -> int:
        """Octets of memory."""
        return -(-ROWS * sum(_ROW) // mmap.PAGESIZE) * mmap.PAGESIZE

    def packets(self, count: int, octets: np.ndarray | InFile = NO_OCTETS, first: int = 0, start: int = 0,
                container: Container | None = None, origin: int = 0) -> Packets:
        """The packets in its first rows; their octets may stay in a file."""
        position, captured, wire, time, link, interface = self.table[:, :count]
        headers = Headers(self.headers.ends[:count], self.headers.rows[:count])
        block: Block = octets if isinstance(octets, np.ndarray) else Passing(
            octets, origin, position.item(0), position.item(-1) + captured.item(-1))
        return Packets(block, position, captured, wire, time, link, interface, headers, first, start, container,
                       origin=origin)
