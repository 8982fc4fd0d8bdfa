# SPDX-License-Identifier: GPL-2.0-or-later
"""The Scapy layer: what it dissects, it builds again to the octet, and the engine's framing sees the
same records."""

from __future__ import annotations

from scapy.config import conf

from dissector.protocol import DIRECTIONS
from dissector.scapy import XenMigration, build, dissect

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
    assert conf.raw_layer
