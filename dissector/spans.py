# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans of a file: two processes read them, each the next one that nobody has begun.

Neither knows where the span in front of its own ends: where a packet begins, those behind it tell.  That is a guess,
which holds if the span in front ends there, as who takes the packets finds out.  If it does not hold, or if nothing
tells, one process reads the rest of the file.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dissector.helper import Room
from dissector.source import Source, SourceError, reopened

if TYPE_CHECKING:  # the process starts in front of all that these need
    from dissector.blocks import File
    from dissector.container import Container
    from dissector.octets import InFile
    from dissector.packets import Packets, Slot
    from dissector.reader import Reader

SLOTS = 8
"""Of the process that only reads.  Records come in bursts: reading goes on meanwhile.  All are filled until this
process has started, so that peaks of memory do not depend on how long it takes."""
NO_MORE = "no more"
"""What the process says when all spans of a file have been begun."""


class Opened(NamedTuple):
    """What the process tells first of each file; the open file comes with it.  `in_spans`: then what it has filled of
    the spans that it reads, and `NO_MORE`; else of the whole file, and how the container ended."""

    file: File
    in_spans: bool


class Filled(NamedTuple):
    """Packets in a slot: how many, between which octets of the file, which of its octets has position 0, and the
    container if that has changed."""

    slot: int
    rows: int
    start: int
    end: int
    origin: int
    container: Container | None


def read_spans(room: Room, names: Sequence[str]) -> None:
    """What the process does."""
    from dissector.blocks import File
    from dissector.packets import Slot
    from dissector.reader import SPAN, Reader

    container: Container | None = None
    slots, current, filled = [Slot(memory) for memory in room.slots(SLOTS, Slot.size())], 0, True

    def free() -> Iterator[Slot]:
        nonlocal current, filled
        numbers = iter(room)
        while True:
            if filled:  # a file may end without having used its last one
                current, filled = next(numbers), False
            yield slots[current]

    def send(blocks: Iterator[Packets]) -> None:
        nonlocal container, filled
        for block in blocks:
            change = block.container if block.container is not container else None
            room.send(Filled(current, len(block), block.start, reader.position, block.origin, change))
            container, filled = block.container, True

    for number, name in enumerate(names):
        with Source(name) as source:
            if source.compression or not source.seekable:
                raise SourceError(f"{name}: it has just become another file; try again")
            reader, container = Reader(source, slots=free(), passing=True), None
            in_spans = reader.open() == "pcap"
            room.send(Opened(File(source.name, 1, source.seekable), in_spans))
            room.send_file(source.fileno())
            if not in_spans:
                send(iter(reader))
                room.send(reader.container)
                continue
            spans = deque(range(-(-source.size // SPAN)))
            while True:
                while spans and room.jobs.put(number, spans[0]):
                    spans.popleft()
                file, span = room.jobs.take() or (number, -1)
                if file == number:  # not left over from one in front of it
                    if span < 0 or not reader.go(span * SPAN):
                        break
                    send(reader.upto((span + 1) * SPAN))
            room.send(NO_MORE)


class Own:
    """What this process reads of a file: of a span the first packets at once, the others as those are taken.

    `span`: which one, -1: none; `begin`: where its first packet begins, -1: that is not to be found out."""

    def __init__(self, name: str, file: InFile, slot: Slot) -> None:
        self._name, self._file, self._slot = name, file, slot
        self._blocks: Iterator[Packets] = iter(())
        self._filled: Filled | None = None
        self.span = self.begin = -1

    @functools.cached_property
    def _reader(self) -> Reader:
        from dissector.reader import Reader

        reader = Reader(reopened(self._name, self._file.number), slots=itertools.repeat(self._slot), passing=True)
        reader.open()
        return reader

    def read(self, span: int) -> None:
        """Read this one."""
        from dissector.reader import SPAN

        self.span, self.begin = span, -1
        if self._reader.go(span * SPAN):
            self.begin = self._reader.position
            self._blocks = self._reader.upto((span + 1) * SPAN)
            self._fill()

    def _fill(self) -> None:
        """Fill the slot, if more packets are in the span."""
        self._filled = None
        for block in itertools.islice(self._blocks, 1):
            self._filled = Filled(0, len(block), block.start, self._reader.position, block.origin, block.container)

    def __iter__(self) -> Iterator[Filled]:
        """What it fills the slot with; then it has none."""
        while self._filled:
            yield self._filled
            self._fill()
        self.span = -1
