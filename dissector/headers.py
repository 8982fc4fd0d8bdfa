# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers of packets, as columns: the compiled pass that reads frames, without any memory of others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dissector.compiled import compiled
from dissector.table import KEY

LINKS = {0: "BSD loopback", 1: "Ethernet", 12: "raw IP", 14: "raw IP", 101: "raw IP",
         108: "OpenBSD loopback", 113: "Linux cooked", 228: "raw IPv4", 229: "raw IPv6",
         276: "Linux cooked v2"}
"""Link types that are understood (LINKTYPE_* of the pcap and pcapng registry)."""

NO_LINK, NO_PACKET = -1, -2
"""Link types of a packet of an interface that was never described, of a frame that is no packet."""

_NULL, _ETHERNET, _LOOP, _SLL, _SLL2 = 0, 1, 108, 113, 276
_RAW = (12, 14, 101, 228, 229)

# why a packet has no segment here, and what else is counted
(NOT_IP, NOT_TCP, FRAGMENT, CUT, UNKNOWN_LINK, TUNNELLED, OPAQUE, CLOCK_BACK, STEP_BACK
 ) = range(1, 10)
COUNTERS = 10

_VXLAN_PORTS = (4789, 8472)
"""IANA's, and the one that Linux takes when none is named."""
_OPAQUE_PORTS = (2152, 4500, 4790, 6081)
"""UDP: GTP, ESP through NAT, VXLAN-GPE, Geneve."""
_OPAQUE_TYPES = (0x8847, 0x8848, 0x8864, 0x88E5)
"""Ethertypes: MPLS, PPPoE, MACsec."""

# columns of a packet's headers
(SIDE, SEQUENCE, ACKNOWLEDGEMENT, FLAGS, POSITION, LENGTH, CAPTURED, WHY, DEPTH, FIRST) = range(10)
BEGINNING = 16
"""Octets of a payload that are with its headers."""
WORD = 4
"""Octets in a column: to hand on twice as many from one process to another takes longer."""
COLUMNS = FIRST + BEGINNING // WORD

FIN, SYN, RST, ACK = 1, 2, 4, 16
_HEADER_LENGTH = 8


def header_length(flags: np.ndarray) -> np.ndarray:
    """Octets of the TCP headers, of a column FLAGS."""
    return flags >> _HEADER_LENGTH & 0xFF


@dataclass(slots=True)
class Headers:
    """What the headers of a block's packets say: a row for each packet.

    `ends` (uint64): who talks, sorted by address and port: the address of the lower and that of the
    higher end in two words each, both ports (and a bit for IPv6) in one.  `rows` (uint32; columns are
    constants of this module): WHY it has no TCP segment here (0: it has, else nothing but DEPTH is
    filled in); DEPTH of tunnels that were opened; SIDE 0 if the lower end has sent it; SEQUENCE,
    ACKNOWLEDGEMENT as on the wire; FLAGS, and how long the TCP header is above them (`header_length`);
    POSITION of the payload in the block, its LENGTH on the wire and the octets CAPTURED; from FIRST on the
    `BEGINNING` of them, `WORD` in each column, the first one the highest, zeros behind the last.
    """

    ends: np.ndarray
    rows: np.ndarray

    @classmethod
    def empty(cls, count: int) -> Headers:
        """Room for so many packets."""
        return cls(np.empty((count, KEY), np.uint64), np.empty((count, COLUMNS), np.uint32))


@compiled
def _be(data, p, n):  # type: ignore[no-untyped-def]
    # An unsigned index cannot count from the end: LLVM then makes one load of this.
    value, at = np.uint64(0), np.uint64(p)
    for i in range(n):
        value = value << np.uint64(8) | np.uint64(data[at + np.uint64(i)])
    return value


@compiled
def _le(data, p, n):  # type: ignore[no-untyped-def]
    value, at = np.uint64(0), np.uint64(p)
    for i in range(n):
        value |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i)
    return value


@compiled
def _u32(data, p, big):  # type: ignore[no-untyped-def]
    return np.int64(_be(data, p, 4) if big else _le(data, p, 4))


@compiled
def _be16(data, p):  # type: ignore[no-untyped-def]
    return np.int64(_be(data, p, 2))


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
def _end_on_wire(data, p, wire_end):  # type: ignore[no-untyped-def]
    """Where the IPv4 packet at `p` ends on the wire, if the frame does at `wire_end`."""
    total = _be16(data, p + 2)
    # 0: segmentation offload, the stack did not know the length; the frame does.
    return min(wire_end, p + total) if total else wire_end


@compiled
def _transport(data, kind, p, end, wire_end):  # type: ignore[no-untyped-def]
    """(protocol, position, end on the wire) of what an IP packet carries; -1: cut off, -2: a
    fragment, -3: not IP."""
    if kind == 0x0800:
        if p + 20 > end:
            return np.int64(-1), p, wire_end
        wire_end = _end_on_wire(data, p, wire_end)
        if _be16(data, p + 6) & 0x3FFF:
            return np.int64(-2), p, wire_end
        protocol, p = np.int64(data[p + 9]), p + np.int64(data[p] & 15) * 4
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
def _is_usual(data, link, p, end):  # type: ignore[no-untyped-def]
    """Whether a frame is as most are: Ethernet, IPv4 without options or fragments, TCP."""
    return link == _ETHERNET and p + 54 <= end and _be(data, p + 12, 3) == 0x080045 \
        and not _be16(data, p + 20) & 0x3FFF and data[p + 23] == 6


@compiled
def _find_tcp(data, link, p, end, wire_end):  # type: ignore[no-untyped-def]
    """Look for TCP in a frame: (why not, or 0; depth of tunnels; ethertype; positions of the IP
    and of the TCP header; end on the wire)."""
    if _is_usual(data, link, p, end):  # the rest finds the same in twice the time
        return 0, 0, np.int64(0x0800), p + 14, p + 34, _end_on_wire(data, p + 14, wire_end)
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
            return CUT if p + 20 > end else 0, depth, kind, ip, p, wire_end
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


@compiled
def _word(data, p, count):  # type: ignore[no-untyped-def]
    """Octets of one column, of which `count` are there."""
    if count >= WORD:
        return _be(data, p, WORD)
    value = np.uint64(0)
    for i in range(count):
        value |= np.uint64(data[p + i]) << np.uint64(8 * (WORD - 1 - i))
    return value


@compiled
def read_headers(data, shift, position, captured, wire, link, key, row):  # type: ignore[no-untyped-def]
    """Fill in a row of both of `Headers` for the packet at this index; its position is `shift` more."""
    end = position + captured
    why, depth, kind, ip, p, wire_end = _find_tcp(data, link, position, end, position + wire)
    row[WHY], row[DEPTH] = why, depth
    if why:
        return
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
    if not lower:
        source_high, target_high = target_high, source_high
        source_low, target_low = target_low, source_low
        source_port, target_port = target_port, source_port
    key[0], key[1], key[2], key[3] = source_high, source_low, target_high, target_low
    key[4] = family | source_port << np.uint64(16) | target_port
    row[SIDE] = 0 if lower else 1
    row[SEQUENCE], row[ACKNOWLEDGEMENT] = _be(data, p + 4, 4), _be(data, p + 8, 4)
    header = (np.int64(data[p + 12]) >> 4) * 4
    flags = np.int64(data[p + 13])
    row[FLAGS] = flags | header << _HEADER_LENGTH
    length = max(wire_end - p - header, 0)
    if header < 20 or flags & RST:
        length = np.int64(0)  # a RST's text is not data of the stream (RFC 9293, 3.5.3)
    row[POSITION], row[LENGTH] = p + header + shift, length
    captured = min(max(end - p - header, 0), length)
    row[CAPTURED] = captured
    for i in range(BEGINNING // WORD):
        row[FIRST + i] = _word(data, p + header + WORD * i, captured - WORD * i)
