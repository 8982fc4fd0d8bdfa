# SPDX-License-Identifier: GPL-2.0-or-later
"""Seeds for the harnesses, from the synthesiser: `python -m fuzz.corpus`."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from dissector.protocol import DIRECTIONS
from fuzz.__main__ import CORPUS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import Wire

TINY = Guest(memory=1, holes=2, dirty=0, emulator=9, page=bytes(4096))
PAGELESS = Guest(memory=0, holes=2, dirty=0, emulator=9)
KINDS: dict[str, list[Message]] = {
    "colo": list(stream.colo(1, PAGELESS)), "remus": list(stream.remus(1, TINY)),
    "plain": list(stream.plain(PAGELESS)),
    "xen418": list(stream.colo(1, Guest(memory=0, dirty=0, emulator=9, shifted=True))),
    "big": list(stream.colo(1, Guest(memory=0, dirty=0, emulator=9, order="big"))),
    "pv": list(stream.plain(Guest(memory=0, dirty=0, emulator=9, hvm=False, version=2, xl=False)))}


def captures() -> Iterator[tuple[str, bytes]]:
    """Small capture files of every kind."""
    wire = Wire(KINDS["colo"], mss=600)
    packets = list(files.frames(wire))
    yield "pcap", files.pcap(packets)
    yield "pcap_be_us", files.pcap(packets[:12], order=">", nanoseconds=False)
    yield "pcapng", files.pcapng(packets[:30], dropped=3)
    yield "pcapng_be", files.pcapng(packets[:9], order=">")
    yield "resolution", files.pcapng_start(resolution=b"\xa0", offset=5) + b"".join(
        files.enhanced(t, frame) for t, frame in packets[:9])
    yield "simple", files.pcapng_start() + b"".join(
        files.block(3, struct.pack("<I", len(frame)) + frame) for _, frame in packets[:9])
    yield "gzip", gzip.compress(files.pcap(packets[:9]), mtime=0)
    yield "zstd", files.compress_zstd(files.pcapng(packets[:9]))
    for link in files.LINKTYPES:
        yield link, files.pcap(list(files.frames(wire, link))[:8], files.LINKTYPES[link])
    six = Wire(KINDS["plain"][:5], ends=("fd00::1", "fd00::2"))
    yield "ipv6", files.pcap(list(files.frames(six)))


def segments() -> Iterator[tuple[str, bytes]]:
    """Conversations as the harness of streams writes them."""
    chance = random.Random(1)
    pack = struct.Struct("<BBhBBhI").pack
    shake = pack(2, 32, 0, 0, 0, 0, 9) + pack(18, 33, 0, 0, 0, 1, 9) + pack(16, 32, 1, 0, 0, 1, 9)
    plain = b"".join(pack(16, 32 | i & 1, 0, 40, 40, 0, 9) for i in range(12))
    yield "in_order", shake + plain + pack(17, 32, 0, 0, 0, 0, 9)
    yield "no_syn", plain
    for name, reach in (("shuffled", 99), ("far", 30_000)):
        yield name, shake + b"".join(pack(16, chance.getrandbits(6), chance.randint(-reach, reach),
                                          chance.getrandbits(8), chance.getrandbits(8),
                                          chance.randint(-reach, reach), chance.getrandbits(30))
                                     for _ in range(24))


def directions(head: bytes) -> Iterator[tuple[str, bytes]]:
    """Both directions of every kind of stream, behind what a harness reads first."""
    for kind, messages in KINDS.items():
        for side, direction in enumerate(DIRECTIONS):
            octets = b"".join(m.octets for m in messages if m.direction == direction)
            if octets:
                yield f"{kind}_{direction}", bytes((head[0] | side,)) + head[1:] + octets[:4096]


def main() -> None:
    """Write every seed."""
    seeds = {"reader": captures(), "capture": list(captures())[:8], "streams": segments(),
             "scapy_layer": directions(b"\0"), "framing": [
                 *directions(bytes(4)), *((f"hole_{n}", o) for n, o in directions(b"\2\3\1\0")),
                 *((f"cut_{n}", o) for n, o in directions(b"\4\1\x28\0"))]}
    for harness, named in seeds.items():
        folder = CORPUS / harness
        folder.mkdir(parents=True, exist_ok=True)
        for name, octets in named:
            Path(folder / name).write_bytes(octets)


if __name__ == "__main__":
    main()
