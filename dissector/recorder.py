# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that is recorded while it comes, without its secrets (`protocol.SECRETS`), in one pass.

Whether an octet may stay is known when the record that it belongs to is; so blocks of packets are held
until that is known of all their octets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from dissector.connection import OURS, SNIFFING, Connection
from dissector.engine import Engine
from dissector.packets import Packets
from dissector.protocol import SECRETS
from dissector.record import Record
from dissector.rewrite import Followed, Rewriter, Taken
from dissector.ring import RingWriter

HELD_MAX = 64 << 20
"""Octets of memory for packets that are held; of more, the oldest are written, with what is not known of them
filled."""
PATIENCE = 30_000_000_000
"""ns for which packets are held because some are of connections that have not told yet what they carry; those are
written then, with their payload filled."""
_RANGES = 1 << 8
"""Ranges of one direction for which it is not worth while to look for some to forget."""


@dataclass(slots=True, eq=False)
class _Held:
    """A block that is held, and since when; `untold`: the connections of its packets of which it is not known what
    they carry."""

    packets: Packets
    taken: Taken
    since: int
    drops: int | None
    untold: np.ndarray


class Recorder:
    """Records what an engine takes: wants every record that it makes (`learn`), then the block (`take`), and to be
    told when time passes (`advance`).  Times are of a clock that only goes forward, in ns; `drops` are packets that
    the capturing program has lost so far, None: it does not say.

    Memory: packets that are held (`HELD_MAX`), what may stay of them, and the number of each connection of ours.
    Raises RecordingError.
    """

    def __init__(self, engine: Engine, ring: RingWriter) -> None:
        self._engine, self._ring = engine, ring
        self._rewriter = Rewriter(SECRETS)
        self._held: deque[_Held] = deque()
        self._octets = 0
        self._ours: set[int] = set()
        self._room: dict[tuple[int, int], int] = {}
        """Of ranges, by number and side, behind which it is worth while to look for some to forget."""

    def learn(self, record: Record) -> None:
        """A record that the engine has made."""
        self._follow(self._engine.connections[record.connection]).learn(record)

    def take(self, packets: Packets, drops: int | None, now: int) -> None:
        """A block that the engine has taken."""
        if not len(packets):
            return
        own = packets.copy()
        numbers = np.unique(own.streams)
        for number in numbers.tolist():
            connection = self._engine.connections.get(number)
            if connection and connection.role in (OURS, SNIFFING):
                self._follow(connection)
        self._held.append(_Held(own, self._rewriter.take(own), now, drops, numbers[numbers >= 0]))
        self._octets += own.nbytes
        self.advance(now)

    def advance(self, now: int) -> None:
        """Write what need not be held any longer."""
        for number, followed in list(self._rewriter.followed.items()):
            if self._engine.connections.get(number) is not followed.connection:
                self._leave(followed)
            elif followed.connection.role == OURS:
                self._ours.add(number)
                followed.catch_up()
        while self._held and (self._octets > HELD_MAX or self._is_told(self._held[0], now)):
            self._write(self._untold(self._held[0].untold).tolist())
        self._forget()

    def finish(self, drops: int | None) -> None:
        """The engine has finished."""
        if self._ring.is_closed:
            return
        for followed in list(self._rewriter.followed.values()):
            self._leave(followed)
        while self._held:
            self._write([])
        self._ring.finish(drops)

    def _follow(self, connection: Connection) -> Followed:
        return self._rewriter.follow(connection, self._engine.streams)

    def _leave(self, followed: Followed) -> None:
        """Nothing more is learnt of a connection."""
        number = followed.connection.number
        if followed.connection.role == OURS:
            self._ours.add(number)
        followed.end()
        del self._rewriter.followed[number]
        for side in (0, 1):
            self._room.pop((number, side), None)

    def _is_told(self, held: _Held, now: int) -> bool:
        """Whether it is known what becomes of all octets of a block; of some it may not be known for ever."""
        held.untold = self._untold(held.untold)
        if len(held.untold) and now - held.since < PATIENCE:
            return False
        return all(part.is_judged for part in held.taken.parts
                   if part.followed.connection.number not in held.untold)

    def _untold(self, numbers: np.ndarray) -> np.ndarray:
        """Those of these connections that have not told what they carry."""
        untold = self._engine.streams.silent(numbers)
        for i in np.flatnonzero(~untold).tolist():
            connection = self._engine.connections.get(int(numbers[i]))
            untold[i] = connection is not None and connection.role == SNIFFING
        return numbers[untold]

    def _write(self, untold: list[int]) -> None:
        """The oldest block; the packets of `untold` connections stay, too."""
        held = self._held.popleft()
        self._octets -= held.packets.nbytes
        stays = self._rewriter.rewrite(held.packets, held.taken, [*self._ours, *untold])
        self._ring.write(held.packets, stays, held.drops)

    def _forget(self) -> None:
        """What may stay of octets that were written is not asked for again."""
        for number, followed in self._rewriter.followed.items():
            for side, allowed in enumerate(followed.allowed):
                if len(allowed) > self._room.get((number, side), _RANGES):
                    begins = [part.begin + part.moved for held in self._held for part in held.taken.parts
                              if part.followed is followed and part.side == side]
                    allowed.forget(min([followed.passed(side), *begins]))
                    self._room[number, side] = 2 * len(allowed) + _RANGES
