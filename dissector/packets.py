# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of a capture file: pcap and pcapng, as columns, block by block.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from dissector.compiled import OctetBuffer, Table, Table32, WordTable, compiled, kernel
from dissector.headers import COLUMNS as HEADER_COLUMNS
from dissector.headers import NO_LINK, NO_PACKET, POSITION, WORD, Headers, _be, _le, read_headers
from dissector.octets import IN_MEMORY, NO_OCTETS, Block, InFile, Passing
from dissector.pread import read_at
from dissector.source import Source, SourceError
from dissector.table import KEY

BLOCK = 4 << 20
"""Octets handed on at a time; a packet or pcapng block longer than this is skipped or refused."""
SPAN = 24 << 20
"""The same where they stay in the file."""
_PIECE = 512 << 10
"""Octets of a file read at a time where they pass: packets are found while these are in the processor's cache."""
_PAGE = mmap.PAGESIZE
ROWS = 1 << 15
"""Packets handed on at a time."""
PACKET_MAX = 1 << 20
"""Longer "packets" are damage: Wireshark's own limit for the link types read here is 256 KiB.  A
length on the wire beyond it is a lie, too: what was captured counts."""
INTERFACES_MAX = 1 << 16
"""Interfaces of one section."""
TIME_MAX = (1 << 32) * 1_000_000_000
"""Stamps, in ns since the epoch, lie below: what a pcap can hold.  Others are taken for unknown."""

_HEAD = 24
"""Octets of a pcap's header."""
_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}
_SHB, _IDB, _OPB, _SPB, _ISB, _EPB = 0x0A0D0D0A, 1, 2, 3, 5, 6
_NO_PACKETS = (9, 0x204, 0x208, 0xBAD, 0x40000BAD)
"""Blocks without a packet that Wireshark counts as frames: journal, Sysdig, custom."""
_SHB_MAGIC = b"\x0a\x0d\x0d\x0a"
_ORDER_MAGIC = 0x1A2B3C4D

# columns of an interface
_LINK, _KIND, _FACTOR, _OFFSET, _SNAPLEN = range(5)
_MULTIPLY, _DIVIDE, _SHIFT = range(3)
_NOT_TOLD_APART = np.zeros(0, np.int64)

# why a hop kernel came back
_MORE, _SPECIAL, _DAMAGED, _FULL = range(4)


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

    def keep(self) -> None:
        """Move to where what follows stands behind, as far from the start of a page as in the file: up to 31 octets
        behind the same distance some processors copy at a sixth of their speed."""
        end = BLOCK + self.place % _PAGE
        at = end - len(self)
        self.data[at:end] = self.data[self.at:self.end]
        self.at, self.end = at, end

    def room(self, count: int) -> memoryview:
        """Room for so many that follow, or for as many as there is."""
        return memoryview(self.data.data)[self.end:self.end + count]


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
        return -(-ROWS * sum(_ROW) // _PAGE) * _PAGE

    def packets(self, count: int, octets: np.ndarray | InFile = NO_OCTETS, first: int = 0, start: int = 0,
                container: Container | None = None, origin: int = 0) -> Packets:
        """The packets in its first rows; their octets may stay in a file."""
        position, captured, wire, time, link, interface = self.table[:, :count]
        headers = Headers(self.headers.ends[:count], self.headers.rows[:count])
        block: Block = octets if isinstance(octets, np.ndarray) else Passing(
            octets, origin, position.item(0), position.item(-1) + captured.item(-1))
        return Packets(block, position, captured, wire, time, link, interface, headers, first, start, container,
                       origin=origin)


@compiled
def _u32(data, p, big):  # type: ignore[no-untyped-def]
    return np.int64(_be(data, p, 4) if big else _le(data, p, 4))


@compiled
def _hop_pcap(data, at, end, shift, big, interfaces, out, n):  # type: ignore[no-untyped-def]
    """Add the packets in data[at:end] to the `n` rows there; `shift` and its index are a packet's position.  Returns
    (rows, next index, why)."""
    link, scale = interfaces[0, _LINK], interfaces[0, _FACTOR]
    while at + 16 <= end:
        if n == out.shape[1]:
            return n, at, _FULL
        captured = _u32(data, at + 8, big)
        wire = _u32(data, at + 12, big)
        fraction = _u32(data, at + 4, big)
        if captured > PACKET_MAX:
            return n, at, _DAMAGED
        if at + 16 + captured > end:
            break
        out[0, n] = at + 16 + shift
        out[1, n] = captured
        out[2, n] = max(wire, captured) if wire <= PACKET_MAX else captured
        time = _u32(data, at, big) * 1_000_000_000 + fraction * scale
        out[3, n] = time if time < TIME_MAX else 0
        out[4, n] = link
        out[5, n] = 0
        n += 1
        at += 16 + captured
    return n, at, _MORE


@compiled
def _nanoseconds(stamp, kind, factor):  # type: ignore[no-untyped-def]
    """ns since the epoch of a stamp in an interface's units; unsigned, as stamps are.  `TIME_MAX`
    for what lies behind it."""
    billion, limit = np.uint64(1_000_000_000), np.uint64(TIME_MAX)
    if kind == _MULTIPLY:
        return np.int64(stamp * factor if stamp < limit // factor else limit)
    if kind == _DIVIDE:
        return np.int64(min(stamp // factor, limit))
    whole = stamp >> factor
    if whole >= limit // billion:
        return np.int64(limit)
    part = stamp - (whole << factor)
    # 2**33 parts of a second are finer than a nanosecond, and times a billion still fit.
    spare = factor - np.uint64(33) if factor > np.uint64(33) else np.uint64(0)
    return np.int64(whole * billion + (((part >> spare) * billion) >> (factor - spare)))


@compiled
def _hop_pcapng(data, at, end, shift, big, interfaces, first, out, n):  # type: ignore[no-untyped-def]
    """The same for pcapng, whose section describes `interfaces`, numbered from `first` on; comes back
    (_SPECIAL) at blocks that change what later ones mean."""
    while at + 12 <= end:
        if n == out.shape[1]:
            return n, at, _FULL
        kind = _u32(data, at, big)
        length = _u32(data, at + 4, big)
        if kind == _SHB or kind == _IDB or kind == _ISB:
            return n, at, _SPECIAL
        if length < 12 or length % 4:
            return n, at, _DAMAGED
        if at + length > end:
            return n, at, _SPECIAL if length > BLOCK else _MORE
        head = 0
        if kind == _EPB or kind == _OPB:
            head = 28
        elif kind == _SPB:
            head = 12
        if head:
            if length < head + 4:
                return n, at, _DAMAGED
            if kind == _SPB:
                interface, stamp = 0, np.uint64(0)  # it has none
                wire = _u32(data, at + 8, big)
                captured = min(wire, length - 16)
                if len(interfaces) and interfaces[0, _SNAPLEN]:
                    captured = min(captured, interfaces[0, _SNAPLEN])
            else:
                interface = _u32(data, at + 8, big)
                if kind == _OPB:
                    interface = interface >> 16 if big else interface & 0xFFFF
                stamp = np.uint64(_u32(data, at + 12, big) << 32 | _u32(data, at + 16, big))
                captured = _u32(data, at + 20, big)
                wire = _u32(data, at + 24, big)
            if captured > length - head - 4 or captured > PACKET_MAX:
                return n, at, _DAMAGED
            out[4, n] = NO_LINK
            out[3, n] = 0
            out[5, n] = -1
            if interface < len(interfaces):
                out[4, n] = interfaces[interface, _LINK]
                out[5, n] = first + interface
                if stamp:
                    time = _nanoseconds(stamp, interfaces[interface, _KIND],
                                        np.uint64(interfaces[interface, _FACTOR]))
                    time += interfaces[interface, _OFFSET]
                    if 0 < time < TIME_MAX:
                        out[3, n] = time
            out[0, n] = at + head + shift
            out[1, n] = captured
            out[2, n] = max(wire, captured) if wire <= PACKET_MAX else captured
            n += 1
        elif kind in _NO_PACKETS:
            out[0, n], out[1, n], out[2, n], out[3, n] = at + 8 + shift, 0, 0, 0
            out[4, n], out[5, n] = NO_PACKET, -1
            n += 1
        at += length
    return n, at, _MORE


@compiled
def _read_on(file, place, piece, data, at, end):  # type: ignore[no-untyped-def]
    """Read a piece of a file, from its octet `place` on, behind data[at:end], which moves (`InHand.keep`): where both
    begin and end then, and how much was read."""
    left, begin = end - at, len(data) // 2 + place % _PAGE
    for i in range(left):  # never towards the end: that is no further from its page's start than this
        data[begin - left + i] = data[at + i]
    count = read_at(file, place, data, begin, piece)
    return begin - left, begin + count, count


@kernel
def _take(is_pcapng: bool, big: bool, interfaces: Table, first: int, data: OctetBuffer, at: int, end: int, place: int,
          origin: int, file: int, piece: int, stop: int, out: Table, ends: WordTable, headers: Table32,
          n: int) -> tuple[int, int, int, int, int]:
    """Find the packets in data[at:end], and read their headers.  Octet `place` of the file follows, `origin` is the
    one that has position 0.  If it is an open `file`, go on with its next pieces, as far as `stop`."""
    while True:
        begin, shift = n, place - end - origin
        if is_pcapng:
            n, at, why = _hop_pcapng(data, at, end, shift, big, interfaces, first, out, n)
        else:
            n, at, why = _hop_pcap(data, at, end, shift, big, interfaces, out, n)
        read_headers(data, shift, out, begin, n, ends, headers)
        if why != _MORE or file == IN_MEMORY or place >= stop:
            return n, at, end, place, why
        at, end, count = _read_on(file, place, piece, data, at, end)
        place += count
        if not count:
            return n, at, end, place, why


class Container:
    """Finds the packets in the octets of one file (`take`).  `fault` is one line if the rest of the file cannot be
    read, `skip` how many octets behind those in hand belong to a block that nobody needs.
    """

    def __init__(self) -> None:
        self.kind = ""
        self.fault: str | None = None
        self.packets = 0
        self.skip = 0
        self.changes = 0
        """Blocks that have changed what later ones mean."""
        self.interfaces: list[tuple[int, int]] = []
        """(link type, snap length) of each interface described so far, over all sections."""
        self._big = False
        self._table = np.zeros((16, 5), np.int64)
        self._interfaces = 0
        self._described = 0
        """Rows of the table that are filled."""
        self._dropped: dict[tuple[int, int], int] = {}
        self._dropped_before: int | None = None
        """In earlier sections."""

    @property
    def drops(self) -> int | None:
        """Packets that the capturing program says it lost; None: it does not say."""
        return (self._dropped_before or 0) + sum(self._dropped.values()) if self._dropped else self._dropped_before

    def snapshot(self) -> Container:
        """A copy that can read on from the same place in the same file."""
        # Tables are shared: they only grow, and both copies write the same rows into them.
        twin = object.__new__(Container)
        twin.__dict__ |= self.__dict__
        twin._dropped = {}
        return twin

    def take(self, hand: InHand, slot: Slot, origin: int, rows: int = 0, file: int = IN_MEMORY,
             stop: int = 0) -> tuple[int, bool]:
        """Add the packets in hand to the first `rows` of the slot, up to `ROWS`: how many it has then, and whether
        there are more.  Octet `origin` of the file has position 0.  If it is an open `file`, go on with what follows
        in it, as far as octet `stop`."""
        before, why = rows, _MORE
        if not self.kind:
            self._open(hand)
        while self.kind and not self.fault and not self.skip:
            rows, hand.at, hand.end, hand.place, why = _take(
                self.kind == "pcapng", self._big, self._table[:self._interfaces], self._described - self._interfaces,
                hand.data, hand.at, hand.end, hand.place, origin, file, _PIECE, stop, slot.table, slot.headers.ends,
                slot.headers.rows, rows)
            if why == _DAMAGED:
                self.fault = f"no packet stands at octet {{offset}} behind packet {self.packets + rows - before}"
            if why != _SPECIAL or not self._special(hand):
                break
        self.packets += rows - before
        return rows, why == _FULL

    def _open(self, hand: InHand) -> None:
        if len(hand) < _HEAD:
            return
        head = hand.head(_HEAD)
        self.changes += 1
        if head[:4] == _SHB_MAGIC:
            self.kind = "pcapng"
            return
        if head[:4] not in _PCAP_MAGICS:
            self.fault = describe(head)
            return
        order, scale = _PCAP_MAGICS[head[:4]]
        self.kind, self._big = "pcap", order == ">"
        snaplen, link = struct.unpack_from(order + "II", head, 16)
        self._describe([link & 0xFFFF, _MULTIPLY, scale, 0, snaplen])
        hand.at += _HEAD

    def _special(self, hand: InHand) -> bool:
        """Read one block that is no packet; whether it is all here."""
        self.changes += 1
        head = hand.head(12)
        if head[:4] == _SHB_MAGIC:
            if struct.unpack_from("<I", head, 8)[0] == _ORDER_MAGIC:
                self._big = False
            elif struct.unpack_from(">I", head, 8)[0] == _ORDER_MAGIC:
                self._big = True
            else:
                self.fault = "the section at octet {offset} has no byte-order magic"
                return False
            self._table, self._interfaces = np.zeros((16, 5), np.int64), 0
            self._dropped_before, self._dropped = self.drops, {}
        order = ">" if self._big else "<"
        kind, length = struct.unpack_from(order + "II", head)
        if length < 12 or length % 4:
            self.fault = "the pcapng block at octet {offset} has an impossible length"
            return False
        if length > BLOCK:
            if kind in (_EPB, _SPB, _OPB):
                self.fault = "the packet block at octet {offset} has an impossible length"
                return False
            self.skip = max(0, length - len(hand))
            hand.at = min(hand.at + length, hand.end)
            return True
        if length > len(hand):
            return False
        body = hand.head(length - 4)[8:]
        if kind == _IDB and len(body) >= 8:
            if self._interfaces == INTERFACES_MAX:
                self.fault = f"there are more than {INTERFACES_MAX} interfaces at octet {{offset}}"
                return False
            self._describe(self._interface(order, body))
        elif kind == _ISB and len(body) >= 12:
            interface = struct.unpack_from(order + "I", body)[0]
            for code, value in self._options(order, body[12:]):
                # isb_ifdrop and isb_osdrop count since the start of the capture.
                if code in (5, 7) and len(value) == 8 and interface < self._interfaces:
                    self._dropped[interface, code] = struct.unpack(order + "Q", value)[0]
        hand.at += length
        return True

    def _describe(self, interface: list[int]) -> None:
        """Add a row to the interfaces of this section."""
        if self._interfaces == len(self._table):
            self._table = np.concatenate((self._table, np.zeros_like(self._table)))
        self._table[self._interfaces] = interface
        if self._described == len(self.interfaces):
            self.interfaces.append((interface[_LINK], interface[_SNAPLEN]))
        self._described += 1
        self._interfaces += 1

    @staticmethod
    def _options(order: str, octets: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(octets):
            code, length = struct.unpack_from(order + "HH", octets, at)
            if code == 0:
                return
            yield code, octets[at + 4:at + 4 + length]
            at += 4 + length + (-length) % 4

    def _interface(self, order: str, body: bytes) -> list[int]:
        link, _, snaplen = struct.unpack_from(order + "HHI", body)
        kind, factor, offset = _MULTIPLY, 1000, 0
        for code, value in self._options(order, body[8:]):
            if code == 9 and len(value) == 1:
                exponent = value[0] & 0x7F
                if value[0] & 0x80:
                    kind, factor = _SHIFT, min(exponent, 63)
                elif exponent <= 9:
                    kind, factor = _MULTIPLY, 10 ** (9 - exponent)
                else:
                    kind, factor = _DIVIDE, 10 ** min(exponent - 9, 18)
            elif code == 14 and len(value) == 8:
                offset = struct.unpack(order + "q", value)[0]
        limit = TIME_MAX // 1_000_000_000
        return [link, kind, factor, max(-limit, min(offset, limit)) * 1_000_000_000, snaplen]


def describe(head: bytes) -> str:
    """One line on a file that is no capture, from its first octets."""
    known = {b"LibxlFmt": "a libxl stream (a save file); `coloscope verify` reads it",
             b"Xen save": "a save file of xl; `coloscope verify` reads it",
             b"\xff" * 8 + b"XENF": "a libxc stream; `coloscope verify` reads it",
             b"\x37\x7f\x06\x82": "an old zstd file", b"BZh": "bzip2: decompress it first",
             b"\xfd7zXZ": "xz: decompress it first", b"PK\x03\x04": "a zip archive",
             b"\x04\x22\x4d\x18": "lz4: decompress it first", b"\x34\xcd\xb2\xa1": "a modified pcap "
             "(Kuznetzov); convert it with editcap"}
    for magic, text in known.items():
        if head.startswith(magic):
            return f"not a capture: it looks like {text}"
    if head.strip(b"\0") == b"":
        return "not a capture: it starts with zeros"
    return "not a capture: neither pcap nor pcapng (plain, gzip or zstd)"


class Reader:
    """Packets of one source, in blocks of columns, with memory that does not depend on its size.  A block
    without packets says that nothing has come for a moment (`dissector.arriving`).

    `slots`: where the packets of each block go; all have the same room for octets.  `passing`: the octets are gone
    when a block is handed on; then it has `SPAN` of them."""

    def __init__(self, source: Source, first: int = 1, container: Container | None = None,
                 position: int = 0, slots: Iterator[Slot] | None = None, passing: bool = False) -> None:
        self.source = source
        self._slots = slots or itertools.repeat(Slot())
        self._file, self._piece = (source.fileno(), _PIECE) if passing else (IN_MEMORY, BLOCK // 2)
        self.container = container or Container()
        self._before = self.container.snapshot()
        self._hand = InHand(position)
        self._next = first

    def __iter__(self) -> Generator[Packets, None, None]:
        container, hand, are_left = self.container, self._hand, False
        n: int | None = None
        while n != 0 and not container.fault:
            slot, before, start, rows = next(self._slots), self._snapshot(), hand.position, 0
            if not are_left:
                hand.keep()
            origin, stop = start - (hand.at if self._file == IN_MEMORY else 0), start + SPAN
            while True:
                if not are_left:  # packets, of the octets in hand
                    n = self.source.readinto(hand.room(self._piece))
                    if not n:
                        break
                    hand.end, hand.place = hand.end + n, hand.place + n
                    gone = min(container.skip, n)
                    container.skip, hand.at = container.skip - gone, hand.at + gone
                place = hand.place
                rows, are_left = container.take(hand, slot, origin, rows, self._file, stop)
                if hand.place > place:
                    self.source.skip_to(hand.place)
                is_full = hand.place >= stop if self._file != IN_MEMORY else hand.end == 2 * BLOCK
                if are_left or container.fault or is_full or (n or 0) < self._piece or not self.source.seekable:
                    break
                if self._file != IN_MEMORY:
                    hand.keep()
            if rows or n is None:  # a moment in which nothing came
                yield self._packets(slot, rows, before, start, origin)
        self._finish()

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
        container, name, head, left = self.container, self.source.name, self._hand.head(_HEAD), len(self._hand)
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
