# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP segments of a connection, as rows that tests may drop, repeat, cut and shuffle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from dissector.protocol import BACK, DIRECTIONS, FORWARD
from tests.synthesiser.stream import Message

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
EPOCH = 1_795_000_000_000_000_000

SEGMENT = np.dtype([("time", "i8"), ("side", "i1"), ("offset", "i8"), ("length", "i8"),
                    ("ack", "i8"), ("flags", "u1"), ("window", "i8")])
"""side 0: the primary sends; offset: of the payload's first octet in its direction's stream; ack:
octets of the other direction that it acknowledges; window: octets that its sender is ready to take."""

WINDOW = 64_000


class Wire:
    """One connection: `rows` (of `SEGMENT`, in capture order) over both directions' octets.

    `split(message)` tells at which octets of a message its writer cuts it; the MSS cuts on. Every
    message goes out at its own time and is acknowledged `ack_delay` ns after its last segment.
    """

    scale = 7
    """By how many bits windows are shifted."""

    def __init__(self, messages: Iterable[Message], *, mss: int = 1448,
                 split: Callable[[Message], Iterable[int]] = lambda message: (),
                 handshake: bool = True, fin: bool = True, acks: bool = True,
                 start: int = EPOCH, gap: int = 1000, ack_delay: int = 20_000,
                 isn: tuple[int, int] = (1000, 77_000),
                 ends: tuple[str, str] = ("10.0.0.1", "10.0.0.2"),
                 ports: tuple[int, int] = (40_000, 7002)) -> None:
        self.messages = list(messages)
        self.isn, self.ends, self.ports = isn, ends, ports
        self.streams = {direction: b"".join(m.octets for m in self.messages
                                            if m.direction == direction)
                        for direction in DIRECTIONS}
        rows: list[tuple[int, int, int, int, int, int]] = []
        sent = [0, 0]
        time = start
        if handshake:
            rows += [(time, 0, -1, 0, -1, SYN), (time + gap, 1, -1, 0, 0, SYN | ACK),
                     (time + 2 * gap, 0, 0, 0, 0, ACK)]
        for message in self.messages:
            side = 0 if message.direction == FORWARD else 1
            time += max(message.delay, 3 * gap)
            cuts = sorted({0, *split(message), len(message.octets)})
            for begin, end in itertools.pairwise(cuts):
                for at in range(begin, end, mss):
                    size = min(mss, end - at)
                    rows.append((time, side, sent[side], size, sent[1 - side], ACK | PSH))
                    sent[side] += size
                    time += gap
            if acks:
                time += ack_delay
                rows.append((time, 1 - side, sent[1 - side], 0, sent[side], ACK))
        if fin:
            time += gap
            rows.append((time, 0, sent[0], 0, sent[1], FIN | ACK))
            rows.append((time + gap, 1, sent[1], 0, sent[0] + 1, FIN | ACK))
        self.rows = np.array([(*row, WINDOW) for row in rows], SEGMENT)

    def expected(self) -> list[tuple[str, int, str, int]]:
        """(direction, stream offset, full name, length) of each message, by direction and offset."""
        at = dict.fromkeys(DIRECTIONS, 0)
        found = []
        for message in self.messages:
            found.append((message.direction, at[message.direction], message.structure.full_name,
                          len(message.octets)))
            at[message.direction] += len(message.octets)
        return sorted(found)

    def payload(self, row: np.void) -> bytes:
        """The octets of one segment."""
        stream = self.streams[FORWARD if row["side"] == 0 else BACK]
        return stream[row["offset"]:row["offset"] + row["length"]]

    def data_rows(self) -> np.ndarray:
        """Indices of the segments that carry octets."""
        return np.flatnonzero(self.rows["length"] > 0)

    def keep(self, rows: np.ndarray) -> Wire:
        """The same connection with other rows; times ascend again, order is as given."""
        twin = object.__new__(Wire)
        twin.__dict__.update(self.__dict__)
        twin.rows = rows.copy()
        twin.rows["time"] = np.sort(rows["time"])
        return twin


def lose(wire: Wire, rng: np.random.Generator, share: float, again: bool = True,
         behind: int = 12, before_ack: bool = False) -> Wire:
    """Lose a share of the data segments; with `again` each comes later, up to `behind` rows on.

    `before_ack`: but before the ACK that covers it, as where the network has lost it and not the capture.
    """
    rows = wire.rows
    lost = rng.choice(wire.data_rows(), max(1, int(share * len(wire.data_rows()))), replace=False)
    order = np.arange(len(rows), dtype=float)
    if again:
        order[lost] += rng.integers(1, behind, len(lost)) + 0.5
        if before_ack:
            order[lost] = np.minimum(order[lost], _acknowledged(rows, lost) - 0.5)
        return wire.keep(rows[np.argsort(order, kind="stable")])
    return wire.keep(np.delete(rows, lost))


def _acknowledged(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Index of the first ACK that covers each of these rows."""
    found = np.empty(len(chosen), np.int64)
    for side in (0, 1):
        mine = rows["side"][chosen] == side
        acks = np.maximum.accumulate(np.where(rows["side"] == side, -1, rows["ack"]))
        found[mine] = acks.searchsorted((rows["offset"] + rows["length"])[chosen[mine]])
    return found


def repeat(wire: Wire, rng: np.random.Generator, share: float) -> Wire:
    """Repeat a share of the data segments a few rows later, with other boundaries."""
    rows = wire.rows
    chosen = rng.choice(wire.data_rows(), max(1, int(share * len(wire.data_rows()))), replace=False)
    extra = rows[chosen].copy()
    cut = np.minimum(extra["offset"], rng.integers(0, 40, len(extra)))
    extra["offset"] -= cut
    extra["length"] += cut - np.minimum(cut, rng.integers(0, 9, len(extra)))
    order = np.concatenate((np.arange(len(rows)), chosen + rng.integers(1, 9, len(chosen)) + 0.5))
    return wire.keep(np.concatenate((rows, extra))[np.argsort(order, kind="stable")])


def shuffle(wire: Wire, rng: np.random.Generator, reach: int = 4) -> Wire:
    """Let segments overtake each other by up to `reach` places, behind the handshake."""
    order = np.arange(len(wire.rows), dtype=float)
    order[3:] += rng.uniform(0, reach, len(order) - 3)
    return wire.keep(wire.rows[np.argsort(order, kind="stable")])
