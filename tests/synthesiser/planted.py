# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections on a path with a known round trip, in which stalls of known kind and size are planted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dissector.protocol import FORWARD
from tests.synthesiser.stream import MS, Message
from tests.synthesiser.wire import ACK, EPOCH, PSH, SEGMENT, SYN, WINDOW, Wire

US = 1000
LOST, LOST_BEFORE, WINDOW_FULL, SMALL_WRITES, PAUSE, BURSTS, LATE = range(7)
"""Kinds of stalls: a message's last segment is lost behind the capture point and sent again; one in its middle
is lost in front of it; the receiver's window (64,000 octets) is full, and stays so; what follows its first 8
octets waits for their delayed ACK; the sender pauses in the middle; its segments go out in bursts, each behind
the ACK of the one before; the whole message comes later."""

BURST = 10


@dataclass(frozen=True)
class Stall:
    kind: int
    size: int
    """ns; of BURSTS that of each wait."""


def brisk(messages: Iterable[Message], most: int = 2 * MS, lockstep: int = 150 * MS) -> list[Message]:
    """The same messages without anything that takes long, but for the time between checkpoints."""
    return [replace(m, delay=lockstep if m.delay == 150 * MS else min(m.delay, most)) for m in messages]


def planted(messages: Iterable[Message], stalls: Mapping[int, Stall] | None = None, *, mss: int = 1448,
            to_primary: int = 10 * US, to_secondary: int = 100 * US) -> Wire:
    """A connection whose messages are delayed by `stalls` (by number of the message).

    `to_primary`, `to_secondary`: ns from the capture point to each end.  An end acknowledges at once what it
    receives."""
    base = Wire(messages, mss=mss)
    path = _Path(to_primary, to_secondary)
    path.handshake()
    for number, message in enumerate(base.messages):
        side = 0 if message.direction == FORWARD else 1
        path.time += message.delay + path.turn(side)
        stall = (stalls or {}).get(number)
        sizes = [min(mss, len(message.octets) - at) for at in range(0, len(message.octets), mss)]
        if stall is None:
            path.burst(side, sizes)
        else:
            path.stalled(side, sizes, stall)
    return base.keep(np.sort(np.array(path.rows, SEGMENT), order="time", kind="stable"))


class _Path:
    def __init__(self, to_primary: int, to_secondary: int) -> None:
        self.rows: list[tuple[int, int, int, int, int, int, int]] = []
        self.time = EPOCH
        self.sent = [0, 0]
        self._last = 0
        self._trips = (2 * to_secondary, 2 * to_primary)
        """Of each side's octets: from the capture point to the other end and back."""

    def handshake(self) -> None:
        for side, flags, ack in ((0, SYN, -1), (1, SYN | ACK, 0), (0, ACK, 0)):
            self.rows.append((self.time, side, 0 if flags == ACK else -1, 0, ack, flags, WINDOW))
            self.time += self._trips[side]

    def turn(self, side: int) -> int:
        """ns that an answer takes: what the other end said last must reach this one first."""
        turned, self._last = self._last != side, side
        return self._trips[1 - side] if turned else 0

    def burst(self, side: int, sizes: list[int], acked: bool = True) -> None:
        """Segments one behind the other; the clock goes on behind the last, not behind its ACK."""
        for size in sizes:
            self.segment(side, size)
        if acked and sizes:
            self.ack(side, self.time + self._trips[side])

    def segment(self, side: int, size: int, back: int = 0) -> None:
        self.time += US
        self.rows.append((self.time, side, self.sent[side] - back, size, self.sent[1 - side], ACK | PSH, WINDOW))
        self.sent[side] += size - back

    def ack(self, side: int, time: int, window: int = WINDOW) -> None:
        """The other end acknowledges all that this side has sent."""
        self.rows.append((time, 1 - side, self.sent[1 - side], 0, self.sent[side], ACK, window))

    def stalled(self, side: int, sizes: list[int], stall: Stall) -> None:
        trip, half = self._trips[side], len(sizes) // 2
        if stall.kind == LATE:
            self.time += stall.size
            self.burst(side, sizes)
        elif stall.kind == LOST:
            self.burst(side, sizes[:-1], acked=False)
            self.ack(side, self.time + trip)
            self.segment(side, sizes[-1])
            self.time += stall.size - US
            self.segment(side, sizes[-1], back=sizes[-1])
            self.ack(side, self.time + trip)
        elif stall.kind == LOST_BEFORE:
            self.burst(side, sizes[:half], acked=True)
            lost, self.sent[side] = self.sent[side], self.sent[side] + sizes[half]
            before = self.sent[side] - sizes[half]
            for size in sizes[half + 1:]:
                self.segment(side, size)
            self.rows.append((self.time + trip, 1 - side, self.sent[1 - side], 0, before, ACK, WINDOW))
            self.time += stall.size
            self.rows.append((self.time, side, lost, sizes[half], self.sent[1 - side], ACK | PSH, WINDOW))
            self.ack(side, self.time + trip)
        elif stall.kind == WINDOW_FULL:
            half = WINDOW // sizes[0]
            self.burst(side, sizes[:half], acked=False)
            begin = self.time
            self.ack(side, begin + trip, window=0)
            self.time = begin + stall.size - US - self._trips[1 - side]
            self.ack(side, self.time)
            self.time += self._trips[1 - side]
            self.burst(side, sizes[half:])
        elif stall.kind == SMALL_WRITES:
            first, *rest = sizes
            self.segment(side, 8)
            self.time += stall.size - US - self._trips[1 - side]
            self.ack(side, self.time)
            self.time += self._trips[1 - side]
            self.burst(side, [first - 8, *rest])
        elif stall.kind == PAUSE:
            self.burst(side, sizes[:half])
            self.time += stall.size - US
            self.burst(side, sizes[half:])
        elif stall.kind == BURSTS:
            for at in range(0, len(sizes), BURST):
                self.burst(side, sizes[at:at + BURST], acked=False)
                if at + BURST < len(sizes):
                    self.time += stall.size - US - self._trips[1 - side]
                    self.ack(side, self.time)
                    self.time += self._trips[1 - side]
            self.ack(side, self.time + trip)
