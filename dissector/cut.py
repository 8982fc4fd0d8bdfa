# SPDX-License-Identifier: GPL-2.0-or-later
"""Cutting packets out of a capture, into a pcap that other programs open."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.packets import Packets
from dissector.reader import Reader
from dissector.segments import SEGMENT_FRAME, STREAM, Streams
from dissector.source import Source

_MAGIC_NS = 0xA1B23C4D
_SNAPLEN = 1 << 18


class CutError(CannotDo):
    """A cut that cannot be made; the message says why."""


def cut(engine: Engine, path: str, connections: set[int],
        wanted: Callable[[Packets], np.ndarray]) -> int:
    """Write the packets of these connections for which `wanted` (a mask for each block) says yes
    to a pcap with ns stamps; returns how many.  Raises CutError."""
    if not all(file.seekable for file in engine.files):
        raise CutError("a cut reads the capture twice: name a file, not a pipe")
    count, link, streams, first = 0, None, Streams(), 1
    try:
        with Path(path).open("wb") as out:
            for file in engine.files:
                with Source(file.name) as source:
                    for packets in Reader(source, first):
                        mask = _of(streams, packets, connections) & wanted(packets)
                        first = packets.first + len(packets)
                        for i in np.flatnonzero(mask):
                            if link is None:
                                link = int(packets.link[i])
                                out.write(struct.pack("<IHHiIII", _MAGIC_NS, 2, 4, 0, 0, _SNAPLEN, link))
                            if packets.link[i] != link:
                                raise CutError("these packets are of several link types, which a pcap "
                                               "cannot hold: cut one connection or one interface")
                            out.write(_packet(packets, int(i)))
                            count += 1
    except OSError as error:
        raise CutError(f"{path}: {error.strerror or error}") from None
    return count


def _of(streams: Streams, packets: Packets, connections: set[int]) -> np.ndarray:
    mask = np.zeros(len(packets), np.bool_)
    rows = streams.scan(packets).rows
    mask[rows[np.isin(rows[:, STREAM], list(connections)), SEGMENT_FRAME] - packets.first] = True
    return mask


def _packet(packets: Packets, i: int) -> bytes:
    seconds, rest = divmod(int(packets.time[i]), 1_000_000_000)
    at, size = int(packets.position[i]), int(packets.captured[i])
    return struct.pack("<IIII", seconds, rest, size, int(packets.wire[i])) \
        + packets.data[at:at + size].tobytes()
