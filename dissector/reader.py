# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the packets of one file, block by block."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Generator, Iterator

import numpy as np

from dissector.container import BLOCK, HEAD, NEVER, Container, describe, place_of
from dissector.octets import IN_MEMORY
from dissector.packets import Packets, Slot
from dissector.source import Source, SourceError

SPAN = 24 << 20
"""Octets of a block if they stay in the file; else there are as many as came at a time, at most some `BLOCK`."""
PIECE = 768 << 10
"""Octets of a file read at a time where they pass: packets are found while these are in the processor's cache."""


class InHand:
    """Octets of a file that were read and wait for their turn: data[at:end], behind which octet `place` follows."""

    def __init__(self, place: int) -> None:
        self.data = np.frombuffer(mmap.mmap(-1, 2 * BLOCK), np.uint8)
        self.at = self.end = BLOCK
        self.place = place

    def __len__(self) -> int:
        return self.end - self.at

    @property
    def position(self) -> int:
        """The octet of the file that stands at data[at]."""
        return self.place - len(self)

    def head(self, count: int) -> bytes:
        """The first of them; fewer if there are no more."""
        return self.data[self.at:min(self.at + count, self.end)].tobytes()

    def take(self, count: int) -> None:
        """So many octets were read behind them."""
        self.end, self.place = self.end + count, self.place + count

    def drop(self, place: int) -> None:
        """Have none; octet `place` follows."""
        self.place = place
        self.at = self.end = place_of(self.data, place)

    def keep(self) -> None:
        """Move to where there is room behind."""
        end = place_of(self.data, self.place)
        at = end - len(self)
        self.data[at:end] = self.data[self.at:self.end]
        self.at, self.end = at, end

    def room(self, count: int) -> memoryview:
        """Room for so many that follow, or for as many as there is."""
        return memoryview(self.data.data)[self.end:self.end + count]


class Reader:
    """Packets of one source, in blocks of columns, with memory that does not depend on its size.  A block
    without packets says that nothing has come for a moment (`dissector.arriving`).

    `slots`: where the packets of each block go.  `passing`: of a plain file, whose octets are gone when a block is
    handed on; then it has `SPAN` of them."""

    def __init__(self, source: Source, first: int = 1, container: Container | None = None,
                 position: int = 0, slots: Iterator[Slot] | None = None, passing: bool = False) -> None:
        self.source = source
        self._slots = slots or itertools.repeat(Slot())
        self._file, self._piece = (source.fileno(), PIECE) if passing else (IN_MEMORY, BLOCK // 2)
        self.container = container or Container()
        self._before = self.container.snapshot()
        self._hand = InHand(position)
        self._next = first

    def __iter__(self) -> Generator[Packets, None, None]:
        yield from self._blocks(NEVER)
        self._finish()

    @property
    def position(self) -> int:
        """The octet of the file that is the first behind the packets that were handed on."""
        return self._hand.position

    def open(self) -> str:
        """What the file is, in front of anything else (`Container.kind`)."""
        while len(self._hand) < HEAD and (n := self.source.readinto(self._hand.room(HEAD - len(self._hand)))):
            self._hand.take(n)
        self.container.open(self._hand)
        return self.container.kind

    def go(self, begin: int) -> bool:
        """Go on with the first packet of a pcap at octet `begin` or behind; False: what stands there does not tell
        where it begins."""
        if not begin:
            return True  # it has been opened
        self.source.skip_to(begin)
        self._hand.drop(begin)
        if n := self.source.readinto(self._hand.room(self._piece)):
            self._hand.take(n)
        return self.container.find(self._hand)

    def upto(self, end: int) -> Generator[Packets, None, None]:
        """The packets that follow, and begin in front of octet `end`."""
        return self._blocks(end, are_left=True)

    def _blocks(self, end: int, are_left: bool = False) -> Generator[Packets, None, None]:
        """`are_left`: whether octets in hand were not looked at."""
        container, hand, passes = self.container, self._hand, self._file != IN_MEMORY
        n: int | None = -1
        while n != 0 and not container.fault and hand.position < end:
            slot, before, start, rows = next(self._slots), self._snapshot(), hand.position, 0
            if not are_left:
                hand.keep()
            origin, stop = (start, min(start + SPAN, end)) if passes else (start - hand.at, NEVER)
            while True:
                if not are_left:  # packets, of the octets in hand
                    n = self.source.readinto(hand.room(self._piece))
                    if not n:
                        break
                    hand.take(n)
                    gone = min(container.skip, n)
                    container.skip, hand.at = container.skip - gone, hand.at + gone
                place = hand.place
                rows, are_left = container.take(hand, slot, origin, rows, self._file, self._piece, stop)
                if hand.place > place:
                    self.source.skip_to(hand.place)
                is_full = hand.position >= stop if passes else hand.end == len(hand.data)
                if are_left or container.fault or is_full or (n or 0) < self._piece or not self.source.seekable:
                    break
                if passes:
                    hand.keep()
            if rows or n is None:  # a moment in which nothing came
                yield self._packets(slot, rows, before, start, origin)

    def _snapshot(self) -> Container:
        """The container as it reads here; the same one as long as no block has changed that."""
        before, now = self._before, self.container
        if (before.changes, before.skip) != (now.changes, now.skip):
            self._before = now.snapshot()
        return self._before

    def _packets(self, slot: Slot, rows: int, before: Container, start: int, origin: int) -> Packets:
        """The first rows of a slot, which this container has found from octet `start` on."""
        packets = slot.packets(rows, self._hand.data, self._next, start, before, origin) if rows else slot.packets(0)
        packets.drops = self.container.drops
        self._next += rows
        return packets

    def _finish(self) -> None:
        container, name, head, left = self.container, self.source.name, self._hand.head(HEAD), len(self._hand)
        if not container.kind:
            why = self.source.fault or container.fault or (
                describe(head) if head else "the file is empty")
            raise SourceError(f"{name}: {why}")
        if container.fault:
            container.fault = container.fault.format(offset=self._hand.position)
        elif self.source.fault:
            container.fault = self.source.fault
        elif container.skip:
            container.fault = f"the file ends inside a block ({container.skip} octets of it are missing)"
        elif left:
            container.fault = f"the file ends inside a packet ({left} octets of it are there)"
