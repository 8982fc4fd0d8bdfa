# SPDX-License-Identifier: GPL-2.0-or-later
"""The Scapy layer: what it dissects, it builds again to the octet, and the engine's framing sees the
same records."""

from __future__ import annotations

import numpy as np

from dissector.framing import Framer
from dissector.protocol import DIRECTIONS
from dissector.record import COMPLETE
from dissector.scapy import XenMigration, build, dissect
from dissector.scapy.walk import OPTIONAL_RECORD
from dissector.streams import Run

_LONGEST = 4096


def check(octets: bytes) -> None:
    """Rebuilt octets equal dissected ones, from the cache and from the fields."""
    if not octets:
        return
    direction, stream = DIRECTIONS[octets[0] & 1], octets[1:1 + _LONGEST]
    packets = dissect(stream, direction)
    built = build(packets)
    assert stream.startswith(built)
    for packet in packets:
        own = bytes(packet)
        if isinstance(packet, XenMigration):
            fresh = packet.copy()
            fresh.raw_packet_cache = None
            assert bytes(fresh) == own, "built from its fields, not from a cache"
            packet.mysummary()
        packet.show(dump=True)
    if stream:
        assert bytes(XenMigration(stream)) == stream
        at = 0
        for packet, (offset, name, length) in zip(packets, _framed(direction, stream), strict=False):
            size = len(bytes(packet))
            assert (at, size) == (offset, length)
            # Raw: it is too short for its fields.
            assert not isinstance(packet, XenMigration) or packet.structure.name == name
            at += size


def _framed(direction: str, stream: bytes) -> list[tuple[int, str, int]]:
    """(offset, name, length) of what the engine's framing finds whole."""
    framer, none = Framer(direction), np.zeros(0, np.uint8)
    row = np.array([[0, len(stream), len(stream), 0, 1, 1, 0]])
    records = framer.feed(Run(row, np.zeros((0, 3), np.int64), np.frombuffer(stream, np.uint8), none))
    return [(r.stream_offset, r.structure.name if r.structure else OPTIONAL_RECORD.name, r.length)
            for r in records + framer.finish() if r.status == COMPLETE]
