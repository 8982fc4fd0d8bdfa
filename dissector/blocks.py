# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a capture, one after the other, as blocks of packets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

from dissector.arriving import Arriving
from dissector.container import Container
from dissector.packets import Packets, Slot
from dissector.reader import Reader
from dissector.source import Source


@dataclass(slots=True)
class File:
    """One file of a capture: `first` is the running number of its first frame, `packets` their
    number, `drops` how many the capturing program lost (None: it does not say); `places` lists
    (running number, octet, container state) from which it can be read on."""

    name: str
    first: int
    seekable: bool
    kind: str = ""
    packets: int = 0
    drops: int | None = None
    missed: int = 0
    """Files of a ring in front of it that were gone before they could be read."""
    places: list[tuple[int, int, Container]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its name as text; octets that are no UTF-8 become escapes."""
        return os.fsencode(self.name).decode("utf-8", "backslashreplace")


Block = File | Packets | Container
"""Of each file: first what it is, then its packets, then the container as it ended."""


def read_blocks(names: Iterable[str | os.PathLike[str] | Source], on_progress: Callable[[int], None] | None = None
                ) -> Generator[Block, None, None]:
    """The blocks of these files, read by this process; an open source may stand for a file.  Packets are valid until
    the next block is taken."""
    first = 1
    for name in names:
        with name if isinstance(name, Source) else Source(name, on_progress=on_progress, ahead=True) as source:
            yield File(source.name, first, source.seekable)
            reader = Reader(source, first)
            for packets in reader:
                first = packets.first + len(packets)
                yield packets
            yield reader.container


def arriving_blocks(arrivals: Iterable[tuple[str, Arriving, int]]) -> Generator[Block, None, None]:
    """The same of octets that are still being written, as soon as they have come; each with its name, and how
    many files in front of it were missed.  Packets of
    length 0 say that for a moment nothing has."""
    first, slot = 1, Slot()
    for name, arriving, missed in arrivals:
        yield File(name, first, seekable=False, missed=missed)
        while not arriving.has_come():
            yield slot.packets(0)
        with Source(name, raw=arriving) as source:
            reader = Reader(source, first, slots=itertools.repeat(slot))
            for packets in reader:
                first += len(packets)
                yield packets
            yield reader.container
