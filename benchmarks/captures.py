# SPDX-License-Identifier: GPL-2.0-or-later
"""The captures that are measured.

    python -m benchmarks.captures NAME MEGABYTES FILE

writes one and prints what is in it as JSON: a process of its own, because memory that the parent of a
program had is counted as the program's.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dissector.protocol import BACK, FORWARD, XL_HEADER
from tests.synthesiser import large, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import EPOCH, Wire, lose

GUEST = Guest(memory=1024, batch=1024, dirty=830)
"""3.4 MB in each checkpoint."""
COMPRESSIBLE = Guest(memory=1024, batch=1024, dirty=830, page=stream.memory(1024))
GRO = 65_160
"""Octets in a segment that the network card or the kernel has put together."""
IPV6 = ("2001:db8::1", "2001:db8::2")
SHARE = 0.01
"""Of the segments, those that are lost, and those that come a little late."""


class Parts(NamedTuple):
    """The connections of a capture, for `large.write`."""

    opening: list[Wire]
    period: list[Wire]
    end: list[Wire] = []  # noqa: RUF012


@dataclass(frozen=True)
class Capture:
    """One capture; `ours`: it has migration streams."""

    text: str
    parts: Callable[[Guest], Parts]
    link: str = "ethernet"
    ending: str = ".pcap"
    guest: Guest = GUEST
    ours: bool = True

    def write(self, path: Path, size: int, guest: Guest | None = None) -> dict[str, Any]:
        """Write about `size` octets, of another guest if there is one; says what is in it."""
        parts = self.parts(guest or self.guest)
        written = large.write(path, parts.opening, parts.period, size, end=parts.end, link=self.link)
        opening, period, end = ([message for wire in wires for message in wire.messages] for wires in parts)
        messages = opening + period * written.copies + end if self.ours else []
        return {**written._asdict(), "file": path.stat().st_size, "records": len(messages),
                "syncs": sum(message.control_id is not None for message in messages)}


def _colo(guest: Guest, checkpoints: int = 1, trouble: Callable[[Wire], Wire] = lambda wire: wire,
          **options: Any) -> Parts:
    period = [message for number in range(checkpoints)
              for message in stream.checkpoint(replace(guest, seed=number))]
    return Parts([Wire(stream.colo(0, guest), fin=False, **options)],
                 [trouble(Wire(period, handshake=False, fin=False, **options))])


def _remus(guest: Guest) -> Parts:
    return Parts([Wire(stream.remus(1, guest), fin=False)],
                 [Wire(stream.epoch(guest), handshake=False, fin=False)])


def _plain(guest: Guest) -> Parts:
    return Parts([Wire(stream.first_pass(guest), fin=False)],
                 [Wire(stream.iteration(guest), handshake=False, fin=False)],
                 [Wire(stream.stop_and_copy(guest), handshake=False)])


def _late(wire: Wire) -> Wire:
    """Some segments are lost and come again a round-trip later, others are overtaken by their neighbours."""
    rng = np.random.default_rng(1)
    again = lose(wire, rng, SHARE, behind=80, before_ack=True)
    return lose(again, rng, SHARE, behind=4, before_ack=True)


def _lost(wire: Wire) -> Wire:
    """What the capture itself has dropped never comes again."""
    return lose(wire, np.random.default_rng(1), SHARE, again=False)


def _connections(guest: Guest, count: int = 64) -> Parts:
    """Many at the same time: a frame of each in turn."""
    # So much memory that whole periods come to as many octets as one connection has in 1.7 GB: times are compared for
    # each octet, and starting takes as long for fewer.
    opening, period = list(stream.colo(0, replace(guest, memory=guest.memory // 3))), list(stream.checkpoint(guest))
    ends: list[dict[str, Any]] = [{"ports": (40_000 + i, 7002), "start": EPOCH + 15 * i} for i in range(count)]
    return Parts([Wire(opening, fin=False, **end) for end in ends],
                 [Wire(period, handshake=False, fin=False, **end) for end in ends])


def _other(messages: list[bytes], **options: Any) -> Wire:
    # A message needs a structure: any does, these octets are none of ours.
    return Wire([Message(BACK if i % 2 else FORWARD, XL_HEADER, octets) for i, octets in enumerate(messages)],
                **options)


def _tls(guest: Guest) -> Parts:
    """One connection that is encrypted: application data in records of 16 KiB."""
    def records(kind: int, count: int, size: int) -> bytes:
        return b"".join(bytes([kind, 3, 3, *size.to_bytes(2)]) + rng.randbytes(size) for _ in range(count))

    rng = random.Random(1)
    hello = bytes.fromhex("16030100c8010000c40303") + rng.randbytes(194)
    return Parts([_other([hello, records(22, 1, 122), records(20, 1, 1)], ports=(40_000, 443), fin=False)],
                 [_other([records(23, guest.dirty // 4 + 1, 1 << 14), records(23, 1, 60)], ports=(40_000, 443),
                         handshake=False, fin=False)])


def _unknown(guest: Guest, count: int = 1) -> Parts:
    """Chance, on connections whose start the capture lacks."""
    period = [random.Random(1).randbytes(guest.dirty * stream.PAGE), b"ok"]
    return Parts([], [_other(period, handshake=False, fin=False, ports=(40_000 + i, 8080), start=EPOCH + 15 * i)
                      for i in range(count)])


def _small(guest: Guest) -> Parts:
    """Short connections: a request, 8 KB of an answer; the ports are used again and again."""
    def ends() -> Iterator[dict[str, Any]]:
        for i in range(guest.dirty):
            yield {"ports": (20_000 + i, 80), "ends": (f"10.1.{i % 200}.1", "10.0.0.2"),
                   "isn": (1000 + 77 * i, 5000 + 99 * i), "start": EPOCH + 10_000 * i}

    request = b"GET / HTTP/1.1\r\nHost: example.org\r\n" + b"Accept: text/html\r\n" * 15 + b"\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n" + random.Random(1).randbytes(8000)
    return Parts([], [_other([request, answer], **end) for end in ends()])


def _with(parts: Callable[..., Parts], **options: Any) -> Callable[[Guest], Parts]:
    return lambda guest: parts(guest, **options)


CAPTURES = {
    "colo": Capture("COLO, MTU frames", _colo),
    "gro": Capture("COLO, frames of 64 KiB", _with(_colo, mss=GRO)),
    "remus": Capture("Remus", _remus),
    "plain": Capture("one long plain migration", _plain),
    "loss": Capture("1 % lost and sent again, 1 % out of order", _with(_colo, checkpoints=16, trouble=_late)),
    "holes": Capture("1 % missing for ever", _with(_colo, checkpoints=16, trouble=_lost)),
    "connections": Capture("64 connections interleaved", _connections),
    "ipv6": Capture("IPv6", _with(_colo, ends=IPV6)),
    "vlan": Capture("VLAN", _colo, "vlan"),
    "sll2": Capture("Linux cooked capture v2", _colo, "sll2"),
    "pcapng": Capture("pcapng", _colo, ending=".pcapng"),
    "gzip": Capture("gzip, compressible memory", _colo, ending=".pcap.gz", guest=COMPRESSIBLE),
    "zstd": Capture("zstd, compressible memory", _colo, ending=".pcap.zst", guest=COMPRESSIBLE),
    "tls": Capture("other traffic: TLS, MTU frames", _tls, ours=False),
    "unknown": Capture("other traffic: chance, start not captured", _unknown, ours=False),
    "strangers": Capture("other traffic: chance, 8 connections, no start captured", _with(_unknown, count=8),
                         ours=False),
    "small": Capture("other traffic: short connections", _small, ours=False),
}


def main() -> None:
    name, megabytes, path = sys.argv[1:]
    print(json.dumps(CAPTURES[name].write(Path(path), int(megabytes) * 1_000_000)))


if __name__ == "__main__":
    main()
