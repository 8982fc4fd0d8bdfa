# SPDX-License-Identifier: GPL-2.0-or-later
"""One run, captured at several points of the way between both hosts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tests.synthesiser.stream import MS, Message
from tests.synthesiser.wire import ACK, SEGMENT, Wire

HOST = 20_000
"""ns that a host takes to acknowledge."""


@dataclass(frozen=True)
class Path:
    """The way between both hosts: ns that each direction takes, and at most `jitter` more."""

    forward: int = 2 * MS
    back: int = 3 * MS
    jitter: int = 0

    @property
    def longest(self) -> int:
        return max(self.forward, self.back) + self.jitter

    def run(self, messages: Iterable[Message], **options: object) -> Wire:
        """A run over this way: `rows` have the times at which segments leave their hosts.  Nobody answers
        what has not arrived."""
        sent: list[Message] = []
        for message in messages:
            turns = sent and sent[-1].direction != message.direction
            sent.append(replace(message, delay=message.delay + self.longest) if turns else message)
        wire = Wire(sent, ack_delay=self.longest + HOST, **options)  # type: ignore[arg-type]
        shake = 2 * (self.longest + HOST)
        wire.rows["time"][0] -= shake
        wire.rows["time"][1] -= shake // 2
        for side, way in ((1, self.forward), (0, self.back)):
            acks = (wire.rows["length"] == 0) & (wire.rows["side"] == side) & (wire.rows["flags"] == ACK)
            acks[:3] = False
            wire.rows["time"][acks] -= self.longest - self.jitter - way
        return wire

    def seen(self, wire: Wire, share: float, seed: int = 1) -> Wire:
        """The run as it passes a point: 0 at the primary, 1 at the secondary."""
        rows = wire.rows.copy()
        rng = np.random.default_rng(seed)
        late = rng.integers(0, self.jitter + 1, len(rows))
        for side, way in ((0, self.forward), (1, self.back)):
            mine = rows["side"] == side
            left = np.maximum.accumulate(rows["time"][mine])
            arrived = np.maximum.accumulate(left + way + late[mine])
            gone = share if side == 0 else 1 - share
            rows["time"][mine] = left + (gone * (arrived - left)).astype(np.int64)
        return with_rows(wire, rows[np.argsort(rows["time"], kind="stable")])


def with_rows(wire: Wire, rows: np.ndarray) -> Wire:
    """The same connection with these rows and their times."""
    twin = object.__new__(Wire)
    twin.__dict__.update(wire.__dict__)
    twin.rows = rows.astype(SEGMENT)
    return twin


def clocked(wire: Wire, offset: int, drift: float) -> Wire:
    """What a host writes whose clock is `offset` ns ahead at the first segment and gains `drift` from there."""
    rows = wire.rows.copy()
    since = rows["time"] - rows["time"][0]
    rows["time"] += offset + (since * drift).astype(np.int64)
    return with_rows(wire, rows)
