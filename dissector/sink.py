# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures being written: pcap and pcapng with ns stamps, plain, gzip or zstd."""

from __future__ import annotations

import gzip
import os
import struct
from types import TracebackType
from typing import IO, Any

import numpy as np

from dissector.compiled import OctetBuffer, Octets, Table, compiled, copy_octets, kernel
from dissector.compression import zstd
from dissector.container import EPB, IDB, ISB, ORDER_MAGIC, SHB, Container
from dissector.headers import NO_PACKET
from dissector.packets import Packets

_MAGIC_NS = 0xA1B23C4D
_CUSTOM = 0xBAD
_TSRESOL, _IFDROP = 9, 5
_NANOSECONDS = 9

PACKET_OVERHEAD = 32
"""Octets that pcapng has around those of a packet, which are padded to a multiple of four."""


class Sink:
    """One capture file that is written in the format of the one that is read, or of `kind`.

    An ending .gz or .zst compresses.  Of pcapng stay interfaces (link type, snap length), packets
    with their times and lengths, and how many packets were dropped; names, comments, secrets and
    everything else do not.  A block that Wireshark counts as a frame although it is no packet
    becomes an empty one.  `private`: others may not read the file.  Raises OSError.
    """

    def __init__(self, path: str, *, kind: str = "", private: bool = False) -> None:
        self._file: IO[bytes] | Any
        self.size = 0
        """Octets written, before they are compressed."""
        self._kind = kind
        self._out = np.zeros(0, np.uint8)
        """Used again: memory that is new takes longer to fill than the rest of the work."""
        if path.endswith(".zst"):
            self._file = zstd().open(path, "wb")
        elif path.endswith(".gz"):
            self._file = gzip.GzipFile(path, "wb", compresslevel=6, mtime=0)
        else:
            self._file = open(path, "wb", opener=_open_private if private else None)  # noqa: SIM115
        self._interfaces: list[tuple[int, int]] | None = None
        self._described = 0

    def write(self, packets: Packets, stays: np.ndarray, container: Container) -> int:
        """Write those packets of a block that stay; returns how many."""
        self.describe(container)
        stays = stays & ((packets.interface >= 0) | (packets.link == NO_PACKET) & (not self._is_pcap(container)))
        columns = packets.position, packets.captured, packets.wire, packets.time, packets.interface
        table = np.stack([column[stays] for column in columns])
        need = int(table[1].sum()) + 36 * table.shape[1]
        if need > len(self._out):
            self._out = np.empty(need, np.uint8)
        end = (_pcap if self._is_pcap(container) else _pcapng)(packets.data, table, self._out)
        self._put(self._out[:end].data)
        return table.shape[1]

    def describe(self, container: Container) -> None:
        """Write the file's beginning, and the interfaces that are new; those of another capture are a section of
        their own."""
        is_new = container.interfaces is not self._interfaces
        self._interfaces = container.interfaces
        if self._is_pcap(container):
            if is_new:
                (link, snaplen), = container.interfaces
                self._put(struct.pack("<IHHiIII", _MAGIC_NS, 2, 4, 0, 0, snaplen, link))
            return
        if not self.size or (is_new and self._described):
            self._block(SHB, struct.pack("<IHHq", ORDER_MAGIC, 1, 0, -1))
            self._described = 0
        for link, snaplen in container.interfaces[self._described:]:
            self._block(IDB, struct.pack("<HHI", link, 0, snaplen)
                        + struct.pack("<HHB3xI", _TSRESOL, 1, _NANOSECONDS, 0))
        self._described = len(container.interfaces)

    def finish(self, drops: int | None) -> None:
        """The capture has ended; the capturing program has lost so many packets (None: it does not say)."""
        if self._described and drops is not None:
            self._block(ISB, struct.pack("<III", 0, 0, 0) + struct.pack("<HHQI", _IFDROP, 8, drops, 0))

    def flush(self) -> None:
        """Let others read what was written."""
        self._file.flush()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _is_pcap(self, container: Container) -> bool:
        return (self._kind or container.kind) == "pcap"

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", 12 + len(body))
        self._put(struct.pack("<I", kind) + length + body + length)

    def _put(self, octets: bytes | memoryview) -> None:
        self._file.write(octets)
        self.size += len(octets)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@compiled
def _put(out, at, value):  # type: ignore[no-untyped-def]
    for i in range(4):
        out[at + i] = value >> 8 * i & 0xFF
    return at + 4


@kernel
def _pcap(data: Octets, table: Table, out: OctetBuffer) -> int:
    """Packet records into `out`; returns the end."""
    at = 0
    for i in range(table.shape[1]):
        time = table[3, i]
        at = _put(out, at, time // 1_000_000_000)
        at = _put(out, at, time % 1_000_000_000)
        at = _put(out, at, table[1, i])
        at = _put(out, at, table[2, i])
        at = copy_octets(data, table[0, i], table[1, i], out, at)
    return at


@kernel
def _pcapng(data: Octets, table: Table, out: OctetBuffer) -> int:
    """Packet blocks into `out`; returns the end."""
    at = 0
    for i in range(table.shape[1]):
        size, time = table[1, i], table[3, i]
        is_packet = table[4, i] >= 0
        length = PACKET_OVERHEAD + (size + 3) // 4 * 4 if is_packet else 16
        at = _put(out, at, EPB if is_packet else _CUSTOM)
        at = _put(out, at, length)
        if is_packet:
            at = _put(out, at, table[4, i])
            at = _put(out, at, time >> 32)
            at = _put(out, at, time)
            at = _put(out, at, size)
            at = _put(out, at, table[2, i])
            at = copy_octets(data, table[0, i], size, out, at)
            while at % 4:
                out[at] = 0
                at += 1
        else:
            at = _put(out, at, 0)
        at = _put(out, at, length)
    return at
