# SPDX-License-Identifier: GPL-2.0-or-later
"""Large captures, written fast: the frames of a period are made once and then only renumbered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dissector.protocol import DIRECTIONS
from tests.synthesiser import files
from tests.synthesiser.wire import ACK, Wire

PAUSE = 1_000_000
"""ns between the last packet of a period and the first of the next."""

_HEADERS = {4: 20, 6: 40}
"""Octets of an IP header in front of TCP."""


class Written(NamedTuple):
    """What is in a large capture."""

    size: int
    """Octets, not compressed."""
    packets: int
    copies: int
    """How often the period stands there."""


def write(path: Path, opening: Sequence[Wire], period: Sequence[Wire], size: int, *, end: Sequence[Wire] = (),
          link: str = "ethernet") -> Written:
    """A capture of `opening`, then `period` as often as makes about `size` octets, at least once, then `end`.

    The same place in each of the three is the same connection, which goes on there.  The name's ending
    tells the format and the compression, as in `files.write`.
    """
    ng = ".pcapng" in path.name
    first, again, last = (Period(wires, link, ng) for wires in (opening, period, end))
    copies = max(round((size - first.size - last.size) / again.size), 1)
    parts = [first] * bool(opening) + [again] * copies + [last] * bool(end)
    done = np.zeros((max(map(len, (opening, period, end))), 2), np.int64)
    time = parts[0].begin
    with files.opened(path) as out:
        start = files.pcapng if ng else files.pcap
        written = out.write(start([], files.LINKTYPES[link]))
        for part in parts:
            out.write(part.at(time, done))
            written += part.size
            time += part.duration
            done[:len(part.lengths)] += part.lengths
    return Written(written, sum(part.packets for part in parts), copies)


class Period:
    """Packets that `at` renumbers.

    `begin` and `duration` in ns, with the pause behind it; `lengths` (connections, 2): octets of each
    stream; `size`: octets of the file, `packets` their number.
    """

    def __init__(self, wires: Sequence[Wire], link: str = "ethernet", ng: bool = False) -> None:
        make = files.enhanced if ng else files.pcap_packet
        frames = [frame for wire in wires for frame in files.frames(wire, link)]
        order = sorted(range(len(frames)), key=lambda at: frames[at][0])
        packets = [make(*frames[at]) for at in order]
        starts = np.cumsum([0, *(len(packet) for packet in packets)])
        self.packets, self.size = len(packets), int(starts[-1])
        if not packets:
            return
        self.lengths = np.array([[len(wire.streams[d]) for d in DIRECTIONS] for wire in wires])
        self._octets = np.frombuffer(bytearray().join(packets), np.uint8)

        rows = np.concatenate([wire.rows for wire in wires])[order]
        self.begin, self.duration = int(rows["time"][0]), int(np.ptp(rows["time"])) + PAUSE
        self._times = rows["time"] - self.begin
        self._wire = np.repeat(np.arange(len(wires)), [len(wire.rows) for wire in wires])[order]
        self._side = rows["side"].astype(np.int64)
        first = np.array([wire.isn for wire in wires]) + 1
        self._sequence = first[self._wire, self._side] + rows["offset"]
        self._acknowledgement = first[self._wire, 1 - self._side] + rows["ack"]
        self._acknowledging = rows["flags"] & ACK != 0

        six = ":" in wires[0].ends[0]
        tcp = starts[:-1] + (28 if ng else 16) + len(files.before(link, 0, six)) + _HEADERS[6 if six else 4]
        time = starts[:-1] + (12 if ng else 0)
        self._words = [at[:, None] + np.arange(4) for at in (time, time + 4, tcp + 4, tcp + 8)]
        self._unit = 1 << 32 if ng else 1_000_000_000

    def at(self, time: int, done: np.ndarray) -> memoryview:
        """Its octets if it begins at `time`, `done` (connections, 2) octets into its streams; they change
        with the next call."""
        high, low = np.divmod(time + self._times, self._unit)
        sequence = self._sequence + done[self._wire, self._side]
        acknowledgement = (self._acknowledgement + done[self._wire, 1 - self._side]) * self._acknowledging
        for word, values, kind in zip(self._words, (high, low, sequence, acknowledgement),
                                      ("<u4", "<u4", ">u4", ">u4"), strict=True):
            octets = (values & 0xFFFFFFFF).astype(kind).view(np.uint8)
            self._octets[word] = octets.reshape(-1, 4)
        return self._octets.data
