# SPDX-License-Identifier: GPL-2.0-or-later
"""The Scapy layer: a packet class for every header, record and text of xl, libxl and libxc.

    from dissector.scapy import *
    stream = XlHeader(config=b"{}") / LibxlHeader() / LibxlLibxcContext() / LibxcImageHeader() \\
        / LibxcDomainHeader(type="x86_hvm", xen_major=4, xen_minor=17) \\
        / LibxcPageData(pfn=[pfn_word(7)], page_data=bytes(4096))
    stream.show()
    XlHeader(bytes(stream)) == stream

The classes are made from `dissector.protocol` when this package is imported: `XlHeader`,
`LibxlCheckpointState` (also `LibxlColoContext`), `LibxcPageData`..., and for big-endian streams the
same names with BE behind.  Lengths, counts and padding fill themselves on build; a dissected packet
keeps what it was read with (`del packet.body_length` after changing a body).

Done: dissecting, building, stacking under TCP, Scapy's `TCPSession` in both directions, whole
streams (`dissect`, `build`).  Not done here: sequence wrap, holes, gigabytes.  `TCPSession` copies
its buffer for every segment, fills gaps with zeros and stops at a sequence wrap; for such captures
use `dissector.Engine`, whose records give packets of this layer (`Record.packet`).

Needs Scapy, which nothing else here imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scapy.packet import Packet, bind_layers, split_layers

from dissector.opening import direction_of
from dissector.protocol import FORWARD, PFN, PFN_TYPE, PFN_TYPES
from dissector.scapy.packets import (  # noqa: F401 - CLASSES to packet_of: for programs
    CLASSES,
    NAMED,
    SHIFTED,
    XenMigration,
    class_name,
    packet_of,
    take,
)
from dissector.scapy.walk import Walk

globals().update(NAMED)


def pfn_word(pfn: int, kind: str = "NOTAB") -> int:
    """A PFN with its type (a name of `protocol.PFN_TYPES`), as PAGE_DATA carries it."""
    number = next(number for number, name in PFN_TYPES.items() if name == kind)
    return number << PFN_TYPE.low | pfn << PFN.low


def dissect(octets: bytes, direction: str = "") -> list[Packet]:
    """Every record of one direction's octets, as a list (a long stack would be too deep for
    Python).  `direction`: "forward" or "back"; by default the first octets tell."""
    return take(Walk(direction or direction_of(octets) or FORWARD), octets, final=True)[0]


def build(packets: Iterable[Packet]) -> bytes:
    """The octets of these packets, one behind the other."""
    return b"".join(bytes(packet) for packet in packets)


def layers(packet: Packet) -> Iterator[Packet]:
    """The packets of this protocol in a stack (TCP below or not), from the bottom up."""
    while packet:
        if isinstance(packet, XenMigration):
            yield packet
        packet = packet.payload


def bind_port(*ports: int) -> None:
    """Let Scapy take TCP payloads on these ports for this protocol."""
    from scapy.layers.inet import TCP

    for port in ports:
        bind_layers(TCP, XenMigration, sport=port)
        bind_layers(TCP, XenMigration, dport=port)


def unbind_port(*ports: int) -> None:
    """Undo `bind_port`."""
    from scapy.layers.inet import TCP

    for port in ports:
        split_layers(TCP, XenMigration, sport=port)
        split_layers(TCP, XenMigration, dport=port)


__all__ = sorted({*NAMED, "XenMigration", "bind_port", "build", "direction_of", "dissect", "layers",
                  "pfn_word", "unbind_port"})
