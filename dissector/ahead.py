# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of files that a second process reads: it finds packets and reads their headers while this one frames
records, and helps where it would wait.  Octets stay in the file (`dissector.octets`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dissector.decompressed import decompress
from dissector.helper import Helper, Work, begin, begun, is_worthwhile
from dissector.idle import Idle
from dissector.source import STDIN, Source, is_compressed, reopened
from dissector.spans import NO_MORE, SLOTS, Filled, Own, read_spans

if TYPE_CHECKING:
    from dissector.blocks import Block, File
    from dissector.container import Container
    from dissector.octets import InFile
    from dissector.packets import Packets, Slot

_SHORT = "octets could not be read when they were needed: did it become shorter meanwhile, or does the disk fail?"

_IDLE = 0.04
"""Share of its time that this process must have waited, or read, for reading here to be worthwhile: it takes longer
than there, and records wait for it."""


def blocks(names: Iterable[str | os.PathLike[str] | Source],
           on_progress: Callable[[int], None] | None = None) -> Iterable[Block]:
    """The blocks of these files; an open source may stand for one.  Large files are read, compressed ones
    decompressed, by a second process, which starts at once.  Packets are valid until the next block is taken.

    Raises `dissector.SourceError`, now or when it is iterated over, for a file that cannot be read at all.
    """
    names = list(names)
    plain = [os.fspath(name) for name in names if not isinstance(name, Source)]
    work = _work(plain) if len(plain) == len(names) else None
    if work is read_spans:
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
        return read_spans
    return decompress if is_compressed(names[0]) and is_worthwhile(names[:1]) else None


class Ahead:
    """The blocks of these files (`dissector.blocks.blocks`), read by a process that starts at once; and by this one,
    when it would wait.

    Iterate over it once; `close` ends the process early.
    """

    def __init__(self, names: Sequence[str], on_progress: Callable[[int], None] | None = None) -> None:
        self._names, self._on_progress = names, on_progress
        found = begun(read_spans, names)
        if not found:
            from dissector.compiled import make_ready

            make_ready()  # the process has then what this one has
            found = Helper(read_spans, names)
        self._helper = found
        self._slots: list[Slot] = []
        self._job: tuple[int, int] | None = None
        """One that was taken, of a later file."""
        self._container: Container | None = None
        self._next = 1
        """Running number of the next packet."""

    def __iter__(self) -> Iterator[Block]:
        from dissector.octets import InFile
        from dissector.packets import Slot

        self._slots += [Slot(memory) for memory in self._helper.slots(SLOTS, Slot.size())]
        own_slot = Slot()
        try:
            for number in range(len(self._names)):
                opened, file = self._helper.next(), InFile(self._helper.next_file())
                try:
                    self._container, opened.file.first = None, self._next
                    yield opened.file
                    if opened.in_spans:
                        place = yield from self._spans(number, opened.file, file, own_slot)
                        end = yield from self._rest(opened.file, file, place)
                    else:
                        while isinstance(end := self._helper.next(), Filled):
                            yield self._packets(end, self._slots[end.slot], file)
                            self._helper.give_back(end.slot)
                    if file.is_short:
                        end.fault = end.fault or _SHORT
                finally:
                    file.close()
                yield end
        finally:
            self.close()

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._helper.close()
        self._slots.clear()  # they are of its memory

    def _spans(self, number: int, found: File, file: InFile, slot: Slot) -> Generator[Packets, None, int]:
        """The packets of a file whose spans two processes read, as far as each begins where the one in front of it
        ends; the octet behind them."""
        from dissector.container import HEAD
        from dissector.reader import SPAN

        place, own, idle = HEAD, Own(found.name, file, slot), Idle()
        if self._on_progress:
            self._on_progress(HEAD)
        while True:
            message = None
            if own.span < place // SPAN and (self._job or (self._helper.waits and idle.share > _IDLE)) \
                    and (span := self._take(number)) >= 0:
                with idle:
                    own.read(span)
            if own.span == place // SPAN:
                if own.begin != place:
                    break
                for filled in own:
                    yield self._packets(filled, slot, file)
                    place = filled.end
                continue
            with idle:
                message = self._helper.next()
            if not isinstance(message, Filled) or message.start != place:
                break
            yield self._packets(message, self._slots[message.slot], file)
            self._helper.give_back(message.slot)
            place = message.end
        while self._take(number) >= 0:  # nobody wants more of them
            pass
        while message != NO_MORE:
            if isinstance(message, Filled):
                self._helper.give_back(message.slot)
            message = self._helper.next()
        return place

    def _take(self, number: int) -> int:
        """A span of this file that nobody has begun to read; -1: there is none."""
        while job := self._job or self._helper.jobs.take():
            self._job = None
            file, span = job
            if file == number:
                return span
            if file > number:
                self._job = job
                break
        return -1

    def _packets(self, filled: Filled, slot: Slot, file: InFile) -> Packets:
        _, count, start, end, origin, change = filled
        self._container = change or self._container
        if self._on_progress:
            self._on_progress(end - start)
        first, self._next = self._next, self._next + count
        return slot.packets(count, file, first, start, self._container, origin)

    def _rest(self, found: File, file: InFile, place: int) -> Generator[Packets, None, Container]:
        """What else stands from this octet of a pcap on, mostly nothing, read here; how the container ended."""
        from dissector.reader import Reader

        with reopened(found.name, file.number) as source:
            container = self._container and self._container.snapshot()
            if container:
                container.packets = self._next - found.first
                source.skip_to(place)
            reader = Reader(source, self._next, container, place if container else 0)
            for packets in reader:
                if self._on_progress:
                    self._on_progress(reader.position - packets.start)
                self._next += len(packets)
                yield packets
            return reader.container
