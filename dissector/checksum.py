# SPDX-License-Identifier: GPL-2.0-or-later
"""The internet checksum (RFC 1071) of IPv4 headers, TCP and UDP: what one is worth before its packet
is changed, and one of the same worth behind it."""

from __future__ import annotations

import numpy as np

from dissector.compiled import compiled

(RIGHT, PARTIAL, EMPTY, WRONG, UNKNOWN) = range(5)
"""What a checksum is worth.  PARTIAL: the pseudo-header's sum, left for the network card to finish;
EMPTY: zero; UNKNOWN: the capture lacks octets that it covers."""

TCP, UDP = 6, 17
_NONE = np.int64(-1)


@compiled
def _sum(data, begin, end):  # type: ignore[no-untyped-def]
    """Sum of big-endian 16-bit words; an odd last octet is the upper half of one."""
    octets, total = data[begin:end], np.uint64(0)  # of a slice, eight words are summed at a time
    for i in range(len(octets) // 2):
        total += np.uint64(octets[2 * i]) << np.uint64(8) | np.uint64(octets[2 * i + 1])
    if len(octets) % 2:
        total += np.uint64(octets[len(octets) - 1]) << np.uint64(8)
    return total


@compiled
def _folded(total):  # type: ignore[no-untyped-def]
    while total >> np.uint64(16):
        total = (total & np.uint64(0xFFFF)) + (total >> np.uint64(16))
    return np.int64(total)


@compiled
def _pseudo_header(data, kind, ip, protocol, length):  # type: ignore[no-untyped-def]
    addresses = _sum(data, ip + 12, ip + 20) if kind == 0x0800 else _sum(data, ip + 8, ip + 40)
    return addresses + np.uint64(protocol) + np.uint64(length >> 16) + np.uint64(length & 0xFFFF)


@compiled
def _extent(data, kind, ip, protocol, p, wire_end):  # type: ignore[no-untyped-def]
    """(position of the checksum, end of what it covers, sum of the pseudo-header) of a transport
    header at `p`; of an IPv4 header if `protocol` is 0.  Position -1: there is no checksum."""
    if protocol == 0:
        if kind != 0x0800:
            return _NONE, wire_end, np.uint64(0)
        return ip + 10, ip + np.int64(data[ip] & 15) * 4, np.uint64(0)
    if protocol == TCP:
        at, end = p + 16, wire_end
    elif protocol == UDP:
        length = np.int64(data[p + 4]) << 8 | np.int64(data[p + 5])
        at, end = p + 6, min(p + length, wire_end) if length >= 8 else wire_end
    else:
        return _NONE, wire_end, np.uint64(0)
    return at, end, _pseudo_header(data, kind, ip, protocol, end - p)


@compiled
def worth(data, kind, ip, protocol, p, wire_end, end):  # type: ignore[no-untyped-def]
    """What the checksum of this header is worth (RIGHT...); the capture has octets up to `end`."""
    if protocol == UDP and p + 8 > end:
        return UNKNOWN
    at, upto, pseudo = _extent(data, kind, ip, protocol, p, wire_end)
    if at < 0:
        return EMPTY
    if upto > end:
        return UNKNOWN
    value = np.int64(data[at]) << 8 | np.int64(data[at + 1])
    if protocol == UDP and value == 0:
        return EMPTY
    if _folded(pseudo + _sum(data, ip if protocol == 0 else p, upto)) == 0xFFFF:
        return RIGHT
    if value == 0:
        return EMPTY
    return PARTIAL if protocol and value == _folded(pseudo) else WRONG


@compiled
def restore(data, kind, ip, protocol, p, wire_end, end, was):  # type: ignore[no-untyped-def]
    """Write a checksum that is worth now what it was worth before.

    A wrong one is replaced by another wrong one and one that cannot be checked by zero: both would
    tell of octets that are no longer there.
    """
    if protocol == UDP and p + 8 > end:
        return
    at, upto, pseudo = _extent(data, kind, ip, protocol, p, wire_end)
    if at < 0 or at + 2 > end:
        return
    data[at], data[at + 1] = 0, 0
    if was == UNKNOWN or was == EMPTY:
        return
    if was == PARTIAL:
        value = _folded(pseudo)
    else:
        value = 0xFFFF - _folded(pseudo + _sum(data, ip if protocol == 0 else p, upto))
        if was == WRONG:
            value ^= 1 if value != 1 else 2
        elif protocol == UDP and value == 0:
            value = 0xFFFF
    data[at], data[at + 1] = value >> 8, value & 0xFF
