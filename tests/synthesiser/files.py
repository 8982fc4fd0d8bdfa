# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files around segments: link types, IP versions, tunnels, pcap and pcapng, compressed."""

from __future__ import annotations

import gzip
import io
import ipaddress
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from dissector.compression import zstd
from tests.synthesiser.wire import Wire

LINKTYPES = {"ethernet": 1, "vlan": 1, "qinq": 1, "sll": 113, "sll2": 276, "raw": 101, "null": 0,
             "loop": 108, "vxlan": 1, "gre": 1, "gretap": 1, "ipip": 1}
_MAC = bytes.fromhex("020000000001020000000002")


def compress_zstd(octets: bytes) -> bytes:
    """One zstd frame."""
    compressed: bytes = zstd().compress(octets)
    return compressed


def _ip(payload: int, source: str, target: str, protocol: int, fragment: int = 0) -> bytes:
    if ":" in source:
        return struct.pack("!IHBB16s16s", 0x60000000, payload, protocol, 64,
                           ipaddress.IPv6Address(source).packed,
                           ipaddress.IPv6Address(target).packed)
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + payload, 0, fragment, 64, protocol, 0,
                       ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(target).packed)


def before(link: str, inner: int, six: bool) -> bytes:
    """What stands in front of the IP packet of `inner` octets."""
    kind = struct.pack("!H", 0x86DD if six else 0x0800)
    if link in ("ethernet", "vlan", "qinq"):
        tags = {"ethernet": b"", "vlan": b"\x81\x00\x00\x05", "qinq": b"\x88\xa8\x00\x07\x81\x00\x00\x05"}
        return _MAC + tags[link] + kind
    if link == "sll":
        return b"\0\0\0\1\0\6" + _MAC[:6] + b"\0\0" + kind
    if link == "sll2":
        return kind + b"\0\0\0\0\0\2\0\1\0\6" + _MAC[:6] + b"\0\0"
    if link in ("null", "loop"):
        family = 24 if six else 2
        return struct.pack("<I" if link == "null" else ">I", family)
    if link == "raw":
        return b""
    outer = ("192.0.2.1", "192.0.2.2")
    if link == "ipip":
        return before("ethernet", 0, False) + _ip(inner, *outer, 41 if six else 4)
    if link == "gre":
        return before("ethernet", 0, False) + _ip(inner + 4, *outer, 47) + b"\0\0" + kind
    ethernet = before("ethernet", inner, six)
    if link == "gretap":
        return before("ethernet", 0, False) + _ip(len(ethernet) + inner + 4, *outer, 47) \
            + b"\0\0\x65\x58" + ethernet
    udp = struct.pack("!HHHH", 5555, 4789, 16 + len(ethernet) + inner, 0)
    return before("ethernet", 0, False) + _ip(len(udp) + 8 + len(ethernet) + inner, *outer, 17) \
        + udp + b"\x08\0\0\0\0\0\x2a\0" + ethernet


def frames(wire: Wire, link: str = "ethernet", *, ip_length: bool = True) -> Iterator[tuple[int,
                                                                                       bytes]]:
    """(time in ns, frame) of each segment, in capture order.  `ip_length` False: total length 0,
    as kernels write it under segmentation offload."""
    for row in wire.rows:
        side = int(row["side"])
        payload = wire.payload(row)
        tcp = struct.pack("!HHIIBBHHH", wire.ports[side], wire.ports[1 - side],
                          (wire.isn[side] + 1 + int(row["offset"])) & 0xFFFFFFFF,
                          (wire.isn[1 - side] + 1 + int(row["ack"])) & 0xFFFFFFFF
                          if row["flags"] & 16 else 0, 0x80, int(row["flags"]),
                          int(row["window"]) >> (0 if row["flags"] & 2 else wire.scale), 0, 0)
        # maximum segment size, window scale, selective ACKs; time stamps
        tcp += b"\2\4\5\xb4\1\3\3" + bytes([wire.scale]) + b"\1\1\4\2" if row["flags"] & 2 \
            else b"\1\1\x08\x0a" + bytes(8)
        inner = _ip(len(tcp) + len(payload), wire.ends[side], wire.ends[1 - side], 6)
        if not ip_length:
            inner = inner[:2] + b"\0\0" + inner[4:]
        packet = inner + tcp + payload
        yield int(row["time"]), before(link, len(packet), ":" in wire.ends[0]) + packet


def merged(wires: Sequence[Wire], link: str = "ethernet") -> list[tuple[int, bytes]]:
    """Frames of several connections, by time."""
    return sorted((f for wire in wires for f in frames(wire, link)), key=lambda f: f[0])


def pcap(packets: Sequence[tuple[int, bytes]], linktype: int = 1, *, order: str = "<",
         nanoseconds: bool = True, snaplen: int = 1 << 18) -> bytes:
    """A pcap file."""
    start = struct.pack(order + "IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0,
                        snaplen, linktype)
    return start + b"".join(pcap_packet(time, frame, order=order, nanoseconds=nanoseconds, snaplen=snaplen)
                            for time, frame in packets)


def pcap_packet(time: int, frame: bytes, *, order: str = "<", nanoseconds: bool = True,
                snaplen: int = 1 << 18) -> bytes:
    """A packet as it stands in a pcap file."""
    seconds, rest = divmod(time, 1_000_000_000)
    return struct.pack(order + "IIII", seconds, rest if nanoseconds else rest // 1000,
                       min(len(frame), snaplen), len(frame)) + frame[:snaplen]


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """A pcapng option."""
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def pcapng_start(linktypes: Sequence[int] = (1,), *, order: str = "<", resolution: bytes = b"\x09",
                 offset: int = 0, snaplen: int = 0) -> bytes:
    """A section header and its interfaces."""
    out = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    for linktype in linktypes:
        options = option(9, resolution, order)
        if offset:
            options += option(14, struct.pack(order + "q", offset), order)
        out += block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options
                     + option(0, b"", order), order)
    return out


def enhanced(time: int, frame: bytes, *, interface: int = 0, order: str = "<",
             wire: int | None = None) -> bytes:
    """An enhanced packet block; `time` in the interface's units."""
    return block(6, struct.pack(order + "IIIII", interface, time >> 32, time & 0xFFFFFFFF,
                                len(frame), wire or len(frame)) + frame, order)


def pcapng(packets: Sequence[tuple[int, bytes]], linktype: int = 1, *, order: str = "<",
           dropped: int | None = None) -> bytes:
    """A pcapng file with ns stamps, one interface, and its statistics if `dropped` is given."""
    out = [pcapng_start((linktype,), order=order)]
    out += [enhanced(time, frame, order=order) for time, frame in packets]
    if dropped is not None:
        out.append(block(5, struct.pack(order + "III", 0, 0, 0) + option(
            5, struct.pack(order + "Q", dropped), order) + option(0, b"", order), order))
    return b"".join(out)


def write(path: Path, wires: Wire | Sequence[Wire], link: str = "ethernet") -> Path:
    """A capture of these connections; the name's ending tells the format and the compression."""
    packets = merged([wires] if isinstance(wires, Wire) else wires, link)
    make = pcapng if ".pcapng" in path.name else pcap
    with opened(path) as out:
        out.write(make(packets, LINKTYPES[link]))
    return path


def opened(path: Path, mode: Literal["rb", "wb"] = "wb") -> io.BufferedIOBase:
    """A file that compresses and decompresses if its name says so."""
    if path.suffix == ".gz":
        return gzip.open(path, mode, compresslevel=1)
    if path.suffix == ".zst":
        return zstd().open(path, mode)
    return path.open(mode)
