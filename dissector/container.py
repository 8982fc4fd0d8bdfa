# SPDX-License-Identifier: GPL-2.0-or-later
"""pcap and pcapng: where the packets stand in the octets of a file.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dissector.compiled import OctetBuffer, Octets, Table, Table32, WordTable, compiled, copy_octets, kernel
from dissector.headers import NO_LINK, NO_PACKET, _u32, read_headers
from dissector.octets import IN_MEMORY
from dissector.pread import read_at

if TYPE_CHECKING:
    from dissector.packets import Slot
    from dissector.reader import InHand

BLOCK = 4 << 20
"""A pcapng block longer than this is skipped, or refused if it has a packet."""
_PAGE = mmap.PAGESIZE
_REST = 64 << 10
"""Octets read at a time to complete the last packet of a span."""
PACKET_MAX = 1 << 20
"""Longer "packets" are damage: Wireshark's own limit for the link types read here is 256 KiB.  A
length on the wire beyond it is a lie, too: what was captured counts."""
FRAME_MAX = 1 << 18
"""Those that are."""
INTERFACES_MAX = 1 << 16
"""Interfaces of one section."""
TIME_MAX = (1 << 32) * 1_000_000_000
"""Stamps, in ns since the epoch, lie below: what a pcap can hold.  Others are taken for unknown."""

HEAD = 24
"""Octets of a pcap's header."""
NEVER = 1 << 62
"""In place of an octet of a file: behind all of them."""
_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}
SHB, IDB, OPB, SPB, ISB, EPB = 0x0A0D0D0A, 1, 2, 3, 5, 6
_NO_PACKETS = (9, 0x204, 0x208, 0xBAD, 0x40000BAD)
"""Blocks without a packet that Wireshark counts as frames: journal, Sysdig, custom."""
_SHB_MAGIC = b"\x0a\x0d\x0d\x0a"
ORDER_MAGIC = 0x1A2B3C4D

# columns of an interface
_LINK, _KIND, _FACTOR, _OFFSET, _SNAPLEN = range(5)
_MULTIPLY, _DIVIDE, _SHIFT = range(3)

# why a hop kernel came back
_MORE, _SPECIAL, _DAMAGED, _FULL = range(4)


@compiled
def _add(data, at, shift, captured, wire, time, link, interface, out, ends, headers, n):  # type: ignore[no-untyped-def]
    """Fill in row `n` for the packet at this index, and that of its headers: a processor reads those while it waits
    for the next packet's length."""
    wire = max(wire, captured) if wire <= PACKET_MAX else captured
    out[0, n], out[1, n], out[2, n] = at + shift, captured, wire
    out[3, n], out[4, n], out[5, n] = time, link, interface
    read_headers(data, shift, at, captured, wire, link, ends[np.uint64(n)], headers[np.uint64(n)])


@compiled
def _hop_pcap(data, at, end, stop, shift, big, interfaces, out, ends, headers, n):  # type: ignore[no-untyped-def]
    """Add the packets in data[at:end] that begin in front of `stop` to the `n` rows there; a packet's position is its
    index and `shift`.  Returns (rows, next index, why)."""
    link, scale = interfaces[0, _LINK], interfaces[0, _FACTOR]
    while at < stop and at + 16 <= end:
        if n == out.shape[1]:
            return n, at, _FULL
        captured = _u32(data, at + 8, big)
        wire = _u32(data, at + 12, big)
        fraction = _u32(data, at + 4, big)
        if captured > PACKET_MAX:
            return n, at, _DAMAGED
        if at + 16 + captured > end:
            break
        time = _u32(data, at, big) * 1_000_000_000 + fraction * scale
        _add(data, at + 16, shift, captured, wire, time if time < TIME_MAX else 0, link, 0, out, ends, headers, n)
        n += 1
        at += 16 + captured
    return n, at, _MORE


@kernel
def _find(big: bool, fractions: int, data: Octets, at: int, end: int) -> int:
    """The first index from which packets of a pcap follow each other to the end of these octets; -1: there is none,
    or too much looks like one.  A second has so many `fractions`."""
    steps = end - at
    for start in range(at, end - 16):
        p = start
        while p + 16 <= end:
            steps -= 1
            if steps < 0:
                return -1
            captured, wire = _u32(data, p + 8, big), _u32(data, p + 12, big)
            if not 0 < captured <= min(wire, FRAME_MAX) or wire > PACKET_MAX or _u32(data, p + 4, big) >= fractions:
                break
            p += 16 + captured
        else:
            return start
    return -1


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
def _hop_pcapng(data, at, end, shift, big, interfaces, first, out, ends, headers, n):  # type: ignore[no-untyped-def]
    """The same for pcapng, whose section describes `interfaces`, numbered from `first` on; comes back
    (_SPECIAL) at blocks that change what later ones mean."""
    while at + 12 <= end:
        if n == out.shape[1]:
            return n, at, _FULL
        kind = _u32(data, at, big)
        length = _u32(data, at + 4, big)
        if kind == SHB or kind == IDB or kind == ISB:
            return n, at, _SPECIAL
        if length < 12 or length % 4:
            return n, at, _DAMAGED
        if at + length > end:
            return n, at, _SPECIAL if length > BLOCK else _MORE
        head = 0
        if kind == EPB or kind == OPB:
            head = 28
        elif kind == SPB:
            head = 12
        if head:
            if length < head + 4:
                return n, at, _DAMAGED
            if kind == SPB:
                interface, stamp = 0, np.uint64(0)  # it has none
                wire = _u32(data, at + 8, big)
                captured = min(wire, length - 16)
                if len(interfaces) and interfaces[0, _SNAPLEN]:
                    captured = min(captured, interfaces[0, _SNAPLEN])
            else:
                interface = _u32(data, at + 8, big)
                if kind == OPB:
                    interface = interface >> 16 if big else interface & 0xFFFF
                stamp = np.uint64(_u32(data, at + 12, big) << 32 | _u32(data, at + 16, big))
                captured = _u32(data, at + 20, big)
                wire = _u32(data, at + 24, big)
            if captured > length - head - 4 or captured > PACKET_MAX:
                return n, at, _DAMAGED
            time, link, number = np.int64(0), np.int64(NO_LINK), np.int64(-1)
            if interface < len(interfaces):
                link, number = interfaces[interface, _LINK], first + interface
                if stamp:
                    time = _nanoseconds(stamp, interfaces[interface, _KIND],
                                        np.uint64(interfaces[interface, _FACTOR]))
                    time += interfaces[interface, _OFFSET]
            if not 0 < time < TIME_MAX:
                time = np.int64(0)
            _add(data, at + head, shift, captured, wire, time, link, number, out, ends, headers, n)
            n += 1
        elif kind in _NO_PACKETS:
            _add(data, at + 8, shift, 0, 0, 0, NO_PACKET, -1, out, ends, headers, n)
            n += 1
        at += length
    return n, at, _MORE


@compiled
def place_of(data, place):  # type: ignore[no-untyped-def]
    """Where octet `place` of a file, and what follows it, is read to: in the middle of `data`, as far from the start
    of a page as in the file.  Up to 31 octets behind that some processors copy at a sixth of their speed."""
    return len(data) // 2 + place % _PAGE


@compiled
def _read_on(file, place, piece, stop, data, at, end):  # type: ignore[no-untyped-def]
    """Read a piece of a file, from its octet `place` on, behind data[at:end], which moves: where both begin and end
    then, and how much was read.  Behind octet `stop` little is wanted."""
    begin = place_of(data, place)
    distance = end - begin
    if distance:  # whole pages: each moves to where it was not
        for i in range(at, end, _PAGE):
            copy_octets(data, i, min(_PAGE, end - i), data, i - distance)
    count = read_at(file, place, data, begin, min(piece, max(stop - place, _REST), len(data) - begin))
    return at - distance, begin + count, count


@kernel
def _take(is_pcapng: bool, big: bool, interfaces: Table, first: int, data: OctetBuffer, at: int, end: int, place: int,
          origin: int, file: int, piece: int, stop: int, out: Table, ends: WordTable, headers: Table32,
          n: int) -> tuple[int, int, int, int, int]:
    """Find the packets in data[at:end], and read their headers.  Octet `place` of the file follows, `origin` is the
    one that has position 0.  If it is an open `file`, go on with its next pieces, until a packet begins at octet
    `stop` or behind."""
    while True:
        shift = place - end - origin
        if is_pcapng:
            n, at, why = _hop_pcapng(data, at, end, shift, big, interfaces, first, out, ends, headers, n)
        else:
            n, at, why = _hop_pcap(data, at, end, stop - place + end, shift, big, interfaces, out, ends, headers, n)
        if why != _MORE or file == IN_MEMORY or place - end + at >= stop:
            return n, at, end, place, why
        at, end, count = _read_on(file, place, piece, stop, data, at, end)
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

    def take(self, hand: InHand, slot: Slot, origin: int, rows: int = 0, file: int = IN_MEMORY, piece: int = 0,
             stop: int = NEVER) -> tuple[int, bool]:
        """Add the packets in hand to the first `rows` of the slot, as far as it has room: how many it has then, and
        whether there are more.  Octet `origin` of the file has position 0.  If it is an open `file`, go on with what
        follows in it, in pieces of so many octets, until a packet begins at octet `stop` or behind."""
        before, why = rows, _MORE
        if not self.kind:
            self.open(hand)
        while self.kind and not self.fault and not self.skip:
            rows, hand.at, hand.end, hand.place, why = _take(
                self.kind == "pcapng", self._big, self._table[:self._interfaces], self._described - self._interfaces,
                hand.data, hand.at, hand.end, hand.place, origin, file, piece, stop, slot.table, slot.headers.ends,
                slot.headers.rows, rows)
            if why == _DAMAGED:
                self.fault = f"no packet stands at octet {{offset}} behind packet {self.packets + rows - before}"
            if why != _SPECIAL or not self._special(hand):
                break
        self.packets += rows - before
        return rows, why == _FULL

    def find(self, hand: InHand) -> bool:
        """Go on, in a pcap, with the first packet in hand that the ones behind it tell; whether there is one."""
        scale = self._table.item(0, _FACTOR)
        at = _find(self._big, 1_000_000_000 // scale, hand.data, hand.at, hand.end)
        hand.at = max(at, hand.at)
        return at >= 0

    def open(self, hand: InHand) -> None:
        """Find out what this is, from its first octets, if they are in hand."""
        if len(hand) < HEAD:
            return
        head = hand.head(HEAD)
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
        hand.at += HEAD

    def _special(self, hand: InHand) -> bool:
        """Read one block that is no packet; whether it is all here."""
        self.changes += 1
        head = hand.head(12)
        if head[:4] == _SHB_MAGIC:
            if struct.unpack_from("<I", head, 8)[0] == ORDER_MAGIC:
                self._big = False
            elif struct.unpack_from(">I", head, 8)[0] == ORDER_MAGIC:
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
            if kind in (EPB, SPB, OPB):
                self.fault = "the packet block at octet {offset} has an impossible length"
                return False
            self.skip = max(0, length - len(hand))
            hand.at = min(hand.at + length, hand.end)
            return True
        if length > len(hand):
            return False
        body = hand.head(length - 4)[8:]
        if kind == IDB and len(body) >= 8:
            if self._interfaces == INTERFACES_MAX:
                self.fault = f"there are more than {INTERFACES_MAX} interfaces at octet {{offset}}"
                return False
            self._describe(self._interface(order, body))
        elif kind == ISB and len(body) >= 12:
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
    from dissector.opening import structure_of  # here: nothing else that finds packets needs the protocol

    if structure := structure_of(head, cut=True):
        return (f"not a capture: it looks like a save file or a dumped stream ({structure.full_name}); `coloscope "
                "verify` reads it")
    known = {b"\x37\x7f\x06\x82": "an old zstd file", b"BZh": "bzip2: decompress it first",
             b"\xfd7zXZ": "xz: decompress it first", b"PK\x03\x04": "a zip archive",
             b"\x04\x22\x4d\x18": "lz4: decompress it first", b"\x34\xcd\xb2\xa1": "a modified pcap "
             "(Kuznetzov); convert it with editcap"}
    for magic, text in known.items():
        if head.startswith(magic):
            return f"not a capture: it looks like {text}"
    if head.strip(b"\0") == b"":
        return "not a capture: it starts with zeros"
    return "not a capture: neither pcap nor pcapng (plain, gzip or zstd)"
