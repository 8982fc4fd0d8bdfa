# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of files that a second process reads: it finds packets and reads their headers while this one frames
records.  Octets stay in the file (`dissector.octets`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dissector.decompressed import decompress
from dissector.helper import Helper, Room, Work, begin, begun, is_worthwhile
from dissector.source import STDIN, Source, SourceError, is_compressed

if TYPE_CHECKING:
    from dissector.blocks import Block
    from dissector.container import Container
    from dissector.octets import InFile

_SHORT = "octets could not be read when they were needed: did it become shorter meanwhile, or does the disk fail?"

SLOTS = 8
"""Records come in bursts: reading goes on meanwhile.  All are filled until this process has started, so that peaks of
memory do not depend on how long it takes."""


def blocks(names: Iterable[str | os.PathLike[str] | Source],
           on_progress: Callable[[int], None] | None = None) -> Iterable[Block]:
    """The blocks of these files; an open source may stand for one.  Large files are read, compressed ones
    decompressed, by a second process, which starts at once.  Packets are valid until the next block is taken.

    Raises `dissector.SourceError`, now or when it is iterated over, for a file that cannot be read at all.
    """
    names = list(names)
    plain = [os.fspath(name) for name in names if not isinstance(name, Source)]
    work = _work(plain) if len(plain) == len(names) else None
    if work is _read:
        with contextlib.suppress(OSError):  # reading here is slower, but possible
            return Ahead(plain, on_progress)
    elif work is decompress:
        names[0] = Source(plain[0], on_progress=on_progress, ahead=True)
    from dissector.blocks import read_blocks

    return read_blocks(names, on_progress)


def expect(names: Sequence[str]) -> None:
    """Let the second process begin with files that `blocks` is going to be asked for, if it is: what it needs is
    imported by then."""
    if work := _work(names):
        with contextlib.suppress(OSError):
            begin(work, names[:1] if work is decompress else names)


def _work(names: Sequence[str]) -> Work | None:
    """What a second process does at once where these files are read: with all of them; or it decompresses the first
    one."""
    if STDIN in names or not is_worthwhile(names):
        return None
    if not any(map(is_compressed, names)):
        return _read
    return decompress if is_compressed(names[0]) and is_worthwhile(names[:1]) else None


class Ahead:
    """The blocks of these files (`dissector.blocks.blocks`), read by a process that starts at once.

    Iterate over it once; `close` ends the process early.
    """

    def __init__(self, names: Sequence[str], on_progress: Callable[[int], None] | None = None) -> None:
        self._on_progress = on_progress
        found = begun(_read, names)
        if not found:
            from dissector.compiled import make_ready

            make_ready()  # the process has then what this one has
            found = Helper(_read, names)
        self._helper = found

    def __iter__(self) -> Iterator[Block]:
        from dissector.blocks import File
        from dissector.octets import NO_OCTETS, InFile
        from dissector.packets import Slot

        slots = [Slot(memory) for memory in self._helper.slots(SLOTS, Slot.size())]
        container: Container | None = None
        file: InFile | None = None
        try:
            while (message := self._helper.next()) is not None:
                if isinstance(message, File):
                    file = InFile(self._helper.next_file())
                elif isinstance(message, tuple):
                    slot, count, first, start, origin, octets, change = message
                    container = change or container
                    if self._on_progress:
                        self._on_progress(octets)
                    yield slots[slot].packets(count, file or NO_OCTETS, first, start, container, origin)
                    self._helper.give_back(slot)
                    continue
                elif file:  # as the container ended
                    if file.is_short:
                        message.fault = message.fault or _SHORT
                    file.close()
                    file = None
                yield message
        finally:
            if file:
                file.close()
            self.close()

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._helper.close()


def _read(room: Room, names: Sequence[str]) -> None:
    """What the process does.  Of packets it tells in which slot they are, their number, the running number of the
    first one, where they begin in the file, which octet of that stands at position 0, octets read since it told last,
    and the container if that has changed."""
    from dissector.blocks import read_blocks
    from dissector.packets import Packets, Slot

    slots, octets, current, filled = [Slot(memory) for memory in room.slots(SLOTS, Slot.size())], 0, 0, True
    container = None

    def on_progress(count: int) -> None:
        nonlocal octets
        octets += count

    def opened() -> Iterator[Source]:
        for name in names:
            source = Source(name, on_progress=on_progress)
            if source.compression or not source.seekable:
                raise SourceError(f"{name}: it has just become another file; try again")
            room.send_file(source.fileno())
            yield source

    def free() -> Iterator[Slot]:
        nonlocal current, filled
        numbers = iter(room)
        while True:
            if filled:  # a file may end without having used its last one
                current, filled = next(numbers), False
            yield slots[current]

    for block in read_blocks(opened(), slots=free()):
        if not isinstance(block, Packets):
            room.send(block)
            continue
        change = block.container if block.container is not container else None
        room.send((current, len(block), block.first, block.start, block.origin, octets, change))
        container, octets, filled = block.container, 0, True
