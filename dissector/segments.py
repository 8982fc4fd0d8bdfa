# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP segments of a block of packets, as columns: one compiled pass over the packet headers."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import numpy as np

from dissector.compiled import Flags, Numbers, Octets, OctetTable, Slots, Table, Words, WordTable, compiled, kernel
from dissector.packets import NO_PACKET, Packets

LINKS = {0: "BSD loopback", 1: "Ethernet", 12: "raw IP", 14: "raw IP", 101: "raw IP",
         108: "OpenBSD loopback", 113: "Linux cooked", 228: "raw IPv4", 229: "raw IPv6",
         276: "Linux cooked v2"}
"""Link types that are understood (LINKTYPE_* of the pcap and pcapng registry)."""

_NULL, _ETHERNET, _LOOP, _SLL, _SLL2 = 0, 1, 108, 113, 276
_RAW = (12, 14, 101, 228, 229)

# why a packet has no segment here, and what else is counted
(NOT_IP, NOT_TCP, FRAGMENT, CUT, UNKNOWN_LINK, TUNNELLED, OPAQUE, CLOCK_BACK, STEP_BACK
 ) = range(9)
COUNTERS = 9

# columns of a segment
(STREAM, SIDE, SEQUENCE, ACKNOWLEDGEMENT, FLAGS, POSITION, LENGTH, CAPTURED, PACKET) = range(9)
COLUMNS = 9

FIN, SYN, RST, ACK = 1, 2, 4, 16
_VXLAN_PORTS = (4789, 8472)
"""IANA's, and the one that Linux takes when none is named."""
_OPAQUE_PORTS = (2152, 4500, 4790, 6081)
"""UDP: GTP, ESP through NAT, VXLAN-GPE, Geneve."""
_OPAQUE_TYPES = (0x8847, 0x8848, 0x8864, 0x88E5)
"""Ethertypes: MPLS, PPPoE, MACsec."""
_NO_STREAM = -1


@dataclass(slots=True)
class Segments:
    """TCP segments of one block, in capture order: an int64 matrix with a row for each.

    Columns (constants of this module): STREAM as Wireshark's tcp.stream; SIDE 0 or 1, the end that
    sent it (ends are sorted by address and port); SEQUENCE, ACKNOWLEDGEMENT, FLAGS as on the wire;
    POSITION of the payload in the block, its LENGTH on the wire and the octets CAPTURED; PACKET,
    the row in `packets`.  Streams that were found uninteresting are left out.
    """

    packets: Packets
    rows: np.ndarray
    streams: Streams

    def endpoint(self, stream: int, side: int) -> str:
        """ "address:port" of one end of a stream."""
        return self.streams.endpoint(stream, side)


class Streams:
    """What the scan remembers between blocks: endpoints and their numbers.

    The numbers are Wireshark's: a new one for each new pair of endpoints, and for a SYN whose
    sequence number is not the one that the pair's stream started with (port reuse).

    `sparing`: of a stream that has carried no octet yet no rows are handed out; `opened` tells what
    they said.
    """

    def __init__(self, *, sparing: bool = False) -> None:
        self.count = 0
        self.counters = np.zeros(COUNTERS, np.int64)
        self.first_packet = np.zeros(COUNTERS, np.int64)
        self._slots = np.full(1 << 12, _NO_STREAM, np.int32)
        self._keys = np.zeros((1 << 11, 5), np.uint64)
        # per stream and side: sequence number before the first octet, -1 unknown
        self._base = np.full((1 << 11, 2), -1, np.int64)
        self.ignored = np.zeros(1 << 11, np.bool_)
        """Streams that need no rows any more."""
        self.frames = np.zeros((1 << 11, 2), np.int64)
        self.octets = np.zeros((1 << 11, 2), np.int64)
        self._last_time = np.zeros(1, np.int64)
        # flags that each side has sent in front of any octet: SYN, FIN
        self._opening = np.zeros((1 << 11, 2), np.uint8)
        self._sparing = sparing
        self._heard = np.full(1 << 11, not sparing)
        """Streams whose rows are handed out."""
        # Who writes a capture must not be able to choose where its streams land in the table.
        self._secret = secret_numbers()

    def endpoint(self, stream: int, side: int) -> str:
        """ "address:port" of one end."""
        key = [int(word) for word in self._keys[stream]]
        high, low = key[2 * side], key[2 * side + 1]
        port = key[4] >> (16 * (1 - side)) & 0xFFFF
        if key[4] >> 32 & 1:
            return f"[{ipaddress.IPv6Address(high << 64 | low)}]:{port}"
        return f"{ipaddress.IPv4Address(low)}:{port}"

    def opened(self, stream: int, side: int) -> tuple[int, bool] | None:
        """(sequence number of the first octet, whether a FIN stood in its place) of a side whose
        SYN was left out; None: it sent none in front of the rows that were handed out."""
        flags = int(self._opening[stream, side])
        if not flags & SYN:
            return None
        return (int(self._base[stream, side]) + 1) & 0xFFFFFFFF, bool(flags & FIN)

    def scan(self, packets: Packets) -> Segments:
        """The segments in `packets`."""
        rows = np.empty((len(packets), COLUMNS), np.int64)
        table = np.stack((packets.position, packets.captured, packets.wire, packets.time,
                          packets.link))
        done, filled = 0, 0
        while done < len(packets):
            done, filled, self.count = _scan(
                packets.data, table, done, rows, filled, self.count, self._slots, self._keys,
                self._secret, self._base, self._opening, self._heard, self.ignored, self.frames,
                self.octets, self.counters, self.first_packet, packets.first, self._last_time)
            if done < len(packets):
                self._grow()
        return Segments(packets, rows[:filled], self)

    def _grow(self) -> None:
        self._keys = np.concatenate((self._keys, np.zeros_like(self._keys)))
        self._base = np.concatenate((self._base, np.full_like(self._base, -1)))
        self._opening = np.concatenate((self._opening, np.zeros_like(self._opening)))
        self._heard = np.concatenate((self._heard, np.full_like(self._heard, not self._sparing)))
        self.ignored = np.concatenate((self.ignored, np.zeros_like(self.ignored)))
        self.frames = np.concatenate((self.frames, np.zeros_like(self.frames)))
        self.octets = np.concatenate((self.octets, np.zeros_like(self.octets)))
        self._slots = np.full(2 * len(self._keys), _NO_STREAM, np.int32)
        _fill_slots(self._slots, self._keys, self._secret, self.count)


def secret_numbers() -> np.ndarray:
    """What makes a table of hashes one whose collisions nobody can prepare (uint64)."""
    return np.random.default_rng().integers(1 << 64, size=10, dtype=np.uint64)


@compiled
def _half_sum(word, secret, at):  # type: ignore[no-untyped-def]
    """One word's part in a multilinear hash."""
    return (word & np.uint64(0xFFFFFFFF)) * secret[at] + (word >> np.uint64(32)) * secret[at + 1]


@compiled
def _slot(slots, keys, secret, a, b, c, d, e):  # type: ignore[no-untyped-def]
    """Where the stream with this key is, or would be, in `slots` (open addressing)."""
    h = (_half_sum(a, secret, 0) + _half_sum(b, secret, 2) + _half_sum(c, secret, 4)
         + _half_sum(d, secret, 6) + _half_sum(e, secret, 8))
    mask = np.uint64(len(slots) - 1)
    i = (h >> np.uint64(32)) & mask
    while slots[i] >= 0:
        k = keys[slots[i]]
        if k[0] == a and k[1] == b and k[2] == c and k[3] == d and k[4] == e:
            break
        i = (i + np.uint64(1)) & mask
    return i


@kernel
def _fill_slots(slots: Slots, keys: WordTable, secret: Words, count: int) -> None:
    # In order, so that of streams with one key (port reuse) the latest is found.
    for stream in range(count):
        k = keys[stream]
        slots[_slot(slots, keys, secret, k[0], k[1], k[2], k[3], k[4])] = stream


@compiled
def _be(data, p, n):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for i in range(n):
        value = value << np.uint64(8) | np.uint64(data[p + i])
    return value


@compiled
def _be16(data, p):  # type: ignore[no-untyped-def]
    return np.int64(data[p]) << 8 | np.int64(data[p + 1])


@compiled
def _network(data, link, p, end):  # type: ignore[no-untyped-def]
    """(ethertype, position of the network header) of a frame; ethertype -1: cut off, -2: unknown."""
    kind = np.int64(0 if link == NO_PACKET else -2)
    if link == _ETHERNET:
        if p + 14 > end:
            return np.int64(-1), p
        kind, p = _be16(data, p + 12), p + 14
    elif link == _SLL:
        if p + 16 > end:
            return np.int64(-1), p
        kind, p = _be16(data, p + 14), p + 16
    elif link == _SLL2:
        if p + 20 > end:
            return np.int64(-1), p
        kind, p = _be16(data, p), p + 20
    elif link == _NULL or link == _LOOP or link in _RAW:
        if link == _NULL or link == _LOOP:
            p += 4
        if p >= end:
            return np.int64(-1), p
        # The family in front of a loopback packet differs between systems; the packet tells itself.
        kind = np.int64(0x0800) if data[p] >> 4 == 4 else np.int64(0x86DD) if data[p] >> 4 == 6 \
            else np.int64(0)
    while kind == 0x8100 or kind == 0x88A8 or kind == 0x9100:
        if p + 4 > end:
            return np.int64(-1), p
        kind, p = _be16(data, p + 2), p + 4
    if kind <= 1500 and link == _ETHERNET and p + 8 <= end and _be16(data, p) == 0xAAAA:
        kind, p = _be16(data, p + 6), p + 8  # 802.3 with LLC and SNAP
    return kind, p


@compiled
def _transport(data, kind, p, end, wire_end):  # type: ignore[no-untyped-def]
    """(protocol, position, end on the wire) of what an IP packet carries; -1: cut off, -2: a
    fragment, -3: not IP."""
    if kind == 0x0800:
        if p + 20 > end:
            return np.int64(-1), p, wire_end
        total = _be16(data, p + 2)
        # 0: segmentation offload, the stack did not know the length; the frame does.
        if total:
            wire_end = min(wire_end, p + total)
        if _be16(data, p + 6) & 0x3FFF:
            return np.int64(-2), p, wire_end
        protocol, p = np.int64(data[p + 9]), p + (data[p] & 15) * 4
        if protocol == 51 and p + 8 <= end:  # authentication header
            protocol, p = np.int64(data[p]), p + (np.int64(data[p + 1]) + 2) * 4
        return protocol, p, wire_end
    if kind != 0x86DD:
        return np.int64(-3), p, wire_end
    if p + 40 > end:
        return np.int64(-1), p, wire_end
    total, protocol = _be16(data, p + 4), np.int64(data[p + 6])
    if total:
        wire_end = min(wire_end, p + 40 + total)
    p += 40
    # hop-by-hop, routing, fragment, authentication, destination options
    while protocol == 0 or protocol == 43 or protocol == 44 or protocol == 51 or protocol == 60:
        if p + 8 > end:
            return np.int64(-1), p, wire_end
        if protocol == 44 and _be16(data, p + 2) & 0xFFF9:
            return np.int64(-2), p, wire_end
        words = np.int64(data[p + 1])
        size = 8 if protocol == 44 else (words + 2) * 4 if protocol == 51 else (words + 1) * 8
        protocol, p = np.int64(data[p]), p + size
    return protocol, p, wire_end


@compiled
def _inner(data, protocol, p, end):  # type: ignore[no-untyped-def]
    """What a tunnel carries: (1 and the link type or ethertype and position of the inner packet; 0:
    no tunnel; -1: one that cannot be opened here)."""
    none = np.int64(-1)
    if protocol == 4:
        return 1, none, np.int64(0x0800), p
    if protocol == 41:
        return 1, none, np.int64(0x86DD), p
    if protocol == 50:  # ESP
        return -1, none, none, p
    if protocol == 17 and p + 16 <= end:
        port = _be16(data, p + 2)
        if port in _VXLAN_PORTS:
            return 1, np.int64(_ETHERNET), none, p + 16
        if port in _OPAQUE_PORTS:
            return -1, none, none, p
    if protocol == 47 and p + 4 <= end:  # GRE: checksum, key and sequence number are optional
        flags, kind = data[p], _be16(data, p + 2)
        p += 4 + (4 if flags & 0x80 else 0) + (4 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        if kind == 0x6558:
            return 1, np.int64(_ETHERNET), none, p
        if kind == 0x0800 or kind == 0x86DD:
            return 1, none, kind, p
        return -1, none, none, p
    return 0, none, none, p


@compiled
def _count(counters, first, which, packet):  # type: ignore[no-untyped-def]
    if counters[which] == 0:
        first[which] = packet
    counters[which] += 1


@compiled
def _find_tcp(data, link, p, end, wire_end):  # type: ignore[no-untyped-def]
    """Look for TCP in a frame: (why not, or -1; depth of tunnels; ethertype; positions of the IP
    and of the TCP header; end on the wire)."""
    kind, p = _network(data, link, p, end)
    depth = 0
    while True:
        if kind == -2:
            return UNKNOWN_LINK, depth, kind, p, p, wire_end
        if kind == -1:
            return CUT, depth, kind, p, p, wire_end
        ip = p
        protocol, p, wire_end = _transport(data, kind, p, end, wire_end)
        if protocol == 6:
            return CUT if p + 20 > end else -1, depth, kind, ip, p, wire_end
        if protocol == -1:
            return CUT, depth, kind, ip, p, wire_end
        if protocol == -2:
            return FRAGMENT, depth, kind, ip, p, wire_end
        if protocol == -3:
            return OPAQUE if kind in _OPAQUE_TYPES else NOT_IP, depth, kind, ip, p, wire_end
        tunnel, link, kind, p = _inner(data, protocol, p, end)
        if tunnel <= 0 or depth == 4:
            return OPAQUE if tunnel else NOT_TCP, depth, kind, ip, p, wire_end
        depth += 1
        if link >= 0:
            kind, p = _network(data, link, p, end)


@kernel
def _scan(data: Octets, table: Table, done: int, rows: Table, filled: int, streams: int, slots: Slots,
          keys: WordTable, secret: Words, base: Table, opening: OctetTable, heard: Flags, ignored: Flags,
          frames: Table, octets: Table, counters: Numbers, first: Numbers, first_packet: int,
          last_time: Numbers) -> tuple[int, int, int]:
    """Fill `rows` from packet `done` on; stops early when the stream tables are full."""
    for i in range(done, table.shape[1]):
        if streams == len(keys):
            return i, filled, streams
        captured, wire, time = table[1, i], table[2, i], table[3, i]
        if time:
            if time < last_time[0]:
                _count(counters, first, CLOCK_BACK, first_packet + i)
                counters[STEP_BACK] = max(counters[STEP_BACK], last_time[0] - time)
            last_time[0] = time
        end, wire_end = table[0, i] + captured, table[0, i] + wire
        why, depth, kind, ip, p, wire_end = _find_tcp(data, table[4, i], table[0, i], end, wire_end)
        if depth:
            _count(counters, first, TUNNELLED, first_packet + i)
        if why >= 0:
            _count(counters, first, why, first_packet + i)
            continue
        if kind == 0x0800:
            family, source_high, target_high = np.uint64(0), np.uint64(0), np.uint64(0)
            source_low, target_low = _be(data, ip + 12, 4), _be(data, ip + 16, 4)
        else:
            family = np.uint64(1 << 32)
            source_high, source_low = _be(data, ip + 8, 8), _be(data, ip + 16, 8)
            target_high, target_low = _be(data, ip + 24, 8), _be(data, ip + 32, 8)
        source_port, target_port = _be(data, p, 2), _be(data, p + 2, 2)
        lower = source_high < target_high or (source_high == target_high and (
            source_low < target_low or (source_low == target_low and source_port <= target_port)))
        side = 0 if lower else 1
        if not lower:
            source_high, target_high = target_high, source_high
            source_low, target_low = target_low, source_low
            source_port, target_port = target_port, source_port
        ports = family | source_port << np.uint64(16) | target_port
        slot = _slot(slots, keys, secret, source_high, source_low, target_high, target_low, ports)
        sequence = np.int64(_be(data, p + 4, 4))
        acknowledgement = np.int64(_be(data, p + 8, 4))
        flags = np.int64(data[p + 13])
        stream = np.int64(slots[slot])
        reused = stream >= 0 and flags & (SYN | ACK) == SYN and base[stream, side] >= 0 \
            and base[stream, side] != sequence
        if stream < 0 or reused:
            stream = np.int64(streams)
            streams += 1
            slots[slot] = stream
            key = keys[stream]
            key[0], key[1], key[2], key[3], key[4] = (source_high, source_low, target_high,
                                                      target_low, ports)
        if base[stream, side] < 0:
            base[stream, side] = sequence if flags & SYN else (sequence - 1) & 0xFFFFFFFF
        if base[stream, 1 - side] < 0 and flags & ACK:
            base[stream, 1 - side] = (acknowledgement - 1) & 0xFFFFFFFF
        header = (np.int64(data[p + 12]) >> 4) * 4
        length = max(wire_end - p - header, 0)
        if header < 20 or flags & RST:
            length = np.int64(0)  # a RST's text is not data of the stream (RFC 9293, 3.5.3)
        frames[stream, side] += 1
        octets[stream, side] += length
        if ignored[stream]:
            continue
        if not heard[stream]:
            # Until there are octets, or an ACK of some, two bits tell it all: a port scan is a
            # stream for each packet.
            mine, theirs = opening[stream, side], opening[stream, 1 - side]
            if flags & SYN:
                mine |= SYN
            says = length > 0
            if flags & (SYN | FIN):  # in its place, in front of the first octet?
                first_octet = sequence + (1 if flags & SYN else 0)
                says |= (first_octet - base[stream, side] - 1) & 0xFFFFFFFF != 0
            if flags & ACK and theirs & SYN:
                covers = (acknowledgement - base[stream, 1 - side] - 1) & 0xFFFFFFFF
                says |= covers > (1 if theirs & FIN else 0)
            if not says:
                opening[stream, side] = mine | (FIN if flags & FIN and mine & SYN else 0)
                continue
            heard[stream] = True
        row = rows[filled]
        row[STREAM], row[SIDE], row[SEQUENCE], row[ACKNOWLEDGEMENT] = (stream, side, sequence,
                                                                      acknowledgement)
        row[FLAGS], row[POSITION], row[LENGTH], row[PACKET] = flags, p + header, length, i
        row[CAPTURED] = min(max(end - p - header, 0), length)
        filled += 1
    return table.shape[1], filled, streams
