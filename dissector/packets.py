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

from dissector.compiled import Octets, Table, Table32, WordTable, compiled, kernel
from dissector.headers import COLUMNS as HEADER_COLUMNS
from dissector.headers import NO_LINK, NO_PACKET, POSITION, WORD, Headers, _be, _le, read_headers
from dissector.octets import Block, InFile, Passing
from dissector.source import Source, SourceError
from dissector.table import KEY

BLOCK = 4 << 20
"""Octets handed on at a time; a packet or pcapng block longer than this is skipped or refused."""
SPAN = 16 << 20
"""The same where they stay in the file."""
_PIECE = 2 << 20
"""Octets of a file read at a time: their headers are read while they are still in the processor's cache.  Two, and
what there is of a packet, have room in a block."""
ROWS = 1 << 14
"""Packets handed on at a time."""
PACKET_MAX = 1 << 20
"""Longer "packets" are damage: Wireshark's own limit for the link types read here is 256 KiB.  A
length on the wire beyond it is a lie, too: what was captured counts."""
INTERFACES_MAX = 1 << 16
"""Interfaces of one section."""
TIME_MAX = (1 << 32) * 1_000_000_000
"""Stamps, in ns since the epoch, lie below: what a pcap can hold.  Others are taken for unknown."""

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


def room_for_octets() -> np.ndarray:
    """Room for the octets of a block, and for those of the one before it that belong to them."""
    return np.frombuffer(mmap.mmap(-1, 2 * BLOCK), np.uint8)


_ROW = 6 * 8, KEY * 8, WORD * HEADER_COLUMNS
"""Octets of a packet's columns, of its ends, of its headers."""


class Slot:
    """Room for the columns and headers of the packets in a block, in `memory` if there is some; `data` are its
    octets."""

    def __init__(self, memory: memoryview | None = None, data: np.ndarray | None = None) -> None:
        self.data = room_for_octets() if data is None else data
        octets = np.frombuffer(mmap.mmap(-1, self.size()) if memory is None else memory, np.uint8)
        table, ends, rows, _ = np.split(octets, np.cumsum([ROWS * size for size in _ROW]))
        self.table = table.view(np.int64).reshape(6, ROWS)
        self.headers = Headers(ends.view(np.uint64).reshape(ROWS, KEY),
                               rows.view(np.uint32).reshape(ROWS, HEADER_COLUMNS))

    def keep(self, begin: int, end: int) -> tuple[int, int]:
        """Move octets to where what follows them stands behind; their new place.  That begins at the start of a
        page, as it stands in the file: up to 31 octets behind that some processors copy at a sixth of their speed."""
        at = BLOCK - (end - begin)
        self.data[at:BLOCK] = self.data[begin:end]
        return at, BLOCK

    def shift(self, begin: int, end: int, distance: int) -> None:
        """The octets of these rows stand so far behind the place where they were found."""
        self.table[0, begin:end] += distance
        self.headers.rows[begin:end, POSITION] += int(distance)  # NumPy's, where kernels are Python

    @staticmethod
    def size() -> int:
        """Octets of memory, but for `data`."""
        return -(-ROWS * sum(_ROW) // mmap.PAGESIZE) * mmap.PAGESIZE

    def packets(self, count: int, first: int = 0, start: int = 0, container: Container | None = None,
                origin: int = 0, file: InFile | None = None) -> Packets:
        """The packets in its first rows; their octets stay in `file`, if there is one."""
        position, captured, wire, time, link, interface = self.table[:, :count]
        headers = Headers(self.headers.ends[:count], self.headers.rows[:count])
        octets: Block = self.data
        if file is not None:
            octets = Passing(file, origin, position.item(0), position.item(-1) + captured.item(-1))
        return Packets(octets, position, captured, wire, time, link, interface, headers, first, start, container,
                       origin=origin)


@compiled
def _u32(data, p, big):  # type: ignore[no-untyped-def]
    return np.int64(_be(data, p, 4) if big else _le(data, p, 4))


@compiled
def _hop_pcap(data, at, end, big, scale, link, out, n):  # type: ignore[no-untyped-def]
    """Add the packets in data[at:end] to the `n` rows there; returns (rows, next position, why)."""
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
        out[0, n] = at + 16
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
def _hop_pcapng(data, at, end, big, interfaces, first, out, n):  # type: ignore[no-untyped-def]
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
            out[0, n] = at + head
            out[1, n] = captured
            out[2, n] = max(wire, captured) if wire <= PACKET_MAX else captured
            n += 1
        elif kind in _NO_PACKETS:
            out[0, n], out[1, n], out[2, n], out[3, n] = at + 8, 0, 0, 0
            out[4, n], out[5, n] = NO_PACKET, -1
            n += 1
        at += length
    return n, at, _MORE


@kernel
def _take_pcap(data: Octets, at: int, end: int, big: bool, scale: int, link: int, out: Table, ends: WordTable,
               headers: Table32, n: int) -> tuple[int, int, int]:
    """Find the packets of a pcap, and read their headers."""
    begin = n
    n, at, why = _hop_pcap(data, at, end, big, scale, link, out, n)
    read_headers(data, out, begin, n, ends, headers)
    return n, at, why


@kernel
def _take_pcapng(data: Octets, at: int, end: int, big: bool, interfaces: Table, first: int, out: Table,
                 ends: WordTable, headers: Table32, n: int) -> tuple[int, int, int]:
    """The same for pcapng."""
    begin = n
    n, at, why = _hop_pcapng(data, at, end, big, interfaces, first, out, n)
    read_headers(data, out, begin, n, ends, headers)
    return n, at, why


class Container:
    """Finds the packets in the octets of one file; knows nothing of where they come from.

    Call `take` with a buffer; it returns packets and how far it came.  `fault` is one line if the
    rest of the file cannot be read, `skip` how many octets beyond the buffer belong to a block
    that nobody needs.
    """

    def __init__(self) -> None:
        self.kind = ""
        self.fault: str | None = None
        self.packets = 0
        self.full = False
        self.skip = 0
        self.changes = 0
        """Blocks that have changed what later ones mean."""
        self.interfaces: list[tuple[int, int]] = []
        """(link type, snap length) of each interface described so far, over all sections."""
        self._big = False
        self._scale = 1
        self._link = NO_LINK
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

    def take(self, slot: Slot, at: int, end: int, rows: int = 0) -> tuple[int, int]:
        """Add the packets of slot.data[at:end] to its first `rows`, up to `ROWS`; how many it has then, and the
        position behind the last one.  `full` tells whether there are more."""
        data, out, headers, begin = slot.data, slot.table, slot.headers, rows
        self.full = False
        if not self.kind:
            at = self._open(data, at, end)
        while self.kind and not self.fault:
            if self.kind == "pcap":
                rows, at, why = _take_pcap(data, at, end, self._big, self._scale, self._link, out,
                                          headers.ends, headers.rows, rows)
            else:
                rows, at, why = _take_pcapng(data, at, end, self._big, self._table[:self._interfaces],
                                            self._described - self._interfaces, out, headers.ends,
                                            headers.rows, rows)
            if why == _DAMAGED:
                self.fault = f"no packet stands at octet {{offset}} behind packet {self.packets + rows - begin}"
            self.full = why == _FULL
            if why != _SPECIAL:
                break
            moved = self._special(data, at, end)
            if moved == at:
                break
            at = moved
        self.packets += rows - begin
        return rows, at

    def _open(self, data: np.ndarray, at: int, end: int) -> int:
        if end - at < 24:
            return at
        head = data[at:at + 24].tobytes()
        self.changes += 1
        if head[:4] == _SHB_MAGIC:
            self.kind = "pcapng"
            return at
        if head[:4] not in _PCAP_MAGICS:
            self.fault = describe(head)
            return at
        order, self._scale = _PCAP_MAGICS[head[:4]]
        self.kind, self._big = "pcap", order == ">"
        snaplen, link = struct.unpack_from(order + "II", head, 16)
        self._link = link & 0xFFFF
        self.interfaces.append((self._link, snaplen))
        return at + 24

    def _special(self, data: np.ndarray, at: int, end: int) -> int:
        """Read one block that is no packet; the position behind it, `at` if it is not all here."""
        self.changes += 1
        head = data[at:at + 12].tobytes()
        if head[:4] == _SHB_MAGIC:
            if struct.unpack_from("<I", head, 8)[0] == _ORDER_MAGIC:
                self._big = False
            elif struct.unpack_from(">I", head, 8)[0] == _ORDER_MAGIC:
                self._big = True
            else:
                self.fault = "the section at octet {offset} has no byte-order magic"
                return at
            self._table, self._interfaces = np.zeros((16, 5), np.int64), 0
            self._dropped_before, self._dropped = self.drops, {}
        order = ">" if self._big else "<"
        kind, length = struct.unpack_from(order + "II", head)
        if length < 12 or length % 4:
            self.fault = "the pcapng block at octet {offset} has an impossible length"
            return at
        if length > BLOCK:
            if kind in (_EPB, _SPB, _OPB):
                self.fault = "the packet block at octet {offset} has an impossible length"
                return at
            self.skip = max(0, length - (end - at))
            return min(at + length, end)
        if at + length > end:
            return at
        body = data[at + 8:at + length - 4].tobytes()
        if kind == _IDB and len(body) >= 8:
            if self._interfaces == INTERFACES_MAX:
                self.fault = f"there are more than {INTERFACES_MAX} interfaces at octet {{offset}}"
                return at
            if self._interfaces == len(self._table):
                self._table = np.concatenate((self._table, np.zeros_like(self._table)))
            row = self._table[self._interfaces] = self._interface(order, body)
            if self._described == len(self.interfaces):
                self.interfaces.append((row[_LINK], row[_SNAPLEN]))
            self._described += 1
            self._interfaces += 1
        elif kind == _ISB and len(body) >= 12:
            interface = struct.unpack_from(order + "I", body)[0]
            for code, value in self._options(order, body[12:]):
                # isb_ifdrop and isb_osdrop count since the start of the capture.
                if code in (5, 7) and len(value) == 8 and interface < self._interfaces:
                    self._dropped[interface, code] = struct.unpack(order + "Q", value)[0]
        return at + length

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
        self._passing = passing
        self.container = container or Container()
        self._before = self.container.snapshot()
        self.position = position
        """Octet of the (decompressed) file up to which packets were found."""
        self._next = first
        self._origin = 0
        """Octet of the file at position 0 of the block in hand: of its first piece, if octets pass."""

    def __iter__(self) -> Generator[Packets, None, None]:
        container, at, end, are_left = self.container, BLOCK, BLOCK, False
        n: int | None = None
        while n != 0 and not container.fault:
            slot, before, start, rows = next(self._slots), self._snapshot(), self.position, 0
            if not are_left:
                at, end = slot.keep(at, end)
            self._origin = start - at
            while True:
                gone = 0
                if not are_left:  # packets, of the octets in hand
                    n = self.source.readinto(memoryview(slot.data.data)[end:min(end + _PIECE, 2 * BLOCK)])
                    if not n:
                        break
                    end, gone = end + n, min(container.skip, n)
                    container.skip -= gone
                known = rows
                rows, after = container.take(slot, at + gone, end, rows)
                are_left = container.full
                if distance := self.position - at - self._origin:
                    slot.shift(known, rows, distance)
                at, self.position = after, self.position + after - at
                is_full = self.position - start >= SPAN if self._passing else end == 2 * BLOCK
                if are_left or container.fault or is_full or (n or 0) < _PIECE or not self.source.seekable:
                    break
                if self._passing:
                    at, end = slot.keep(at, end)
            if rows or n is None:  # a moment in which nothing came
                yield self._packets(slot, rows, before, start)
        self._finish(bytes(slot.data[at:min(at + 24, end)]), end - at)

    def _snapshot(self) -> Container:
        """The container as it reads here; the same one as long as no block has changed that."""
        before, now = self._before, self.container
        if (before.changes, before.skip) != (now.changes, now.skip):
            self._before = now.snapshot()
        return self._before

    def _packets(self, slot: Slot, rows: int, before: Container, start: int) -> Packets:
        """The first rows of a slot, which this container has found from octet `start` on."""
        packets = slot.packets(rows, self._next, start, before, origin=self._origin) if rows else slot.packets(0)
        packets.drops = self.container.drops
        self._next += rows
        return packets

    def _finish(self, head: bytes, left: int) -> None:
        container, name = self.container, self.source.name
        if not container.kind:
            why = self.source.fault or container.fault or (
                describe(head) if head else "the file is empty")
            raise SourceError(f"{name}: {why}")
        if container.fault:
            container.fault = container.fault.format(offset=self.position)
        elif self.source.fault:
            container.fault = self.source.fault
        elif container.skip:
            container.fault = f"the file ends inside a block ({container.skip} octets of it are missing)"
        elif left:
            container.fault = f"the file ends inside a packet ({left} octets of it are there)"
