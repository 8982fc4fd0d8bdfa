# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of neighbouring sync-points, and the wholes that they add up to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from dissector.protocol import XEN_COLO
from dissector.syncpoints import OK, Sync

CHECKPOINT, FIRST_BOOT = "checkpoint", "first_boot"
HOLE, NO_TIME = "hole", "no_time"
"""Reasons why neighbours are no pair: octets are missing between them; their frames have no time."""

COLUMNS = {
    "connection": "int64", "checkpoint": "Int64", "phase": "object", "from": "object", "to": "object",
    **dict.fromkeys(("from_frame", "to_frame", "from_delivered_ns", "to_delivered_ns", "latency_ns"), "Int64"),
    "reason": "object"}

OPENS, CLOSES = XEN_COLO.opens_checkpoint, XEN_COLO.closes_checkpoint
TRANSITIONS = XEN_COLO.transitions()
USUAL = {point.short_name: point.successors[0] for point in XEN_COLO.sync_points}
_BEFORE = {to: name for name, to in USUAL.items()}
WHOLES = ((OPENS, CLOSES), (OPENS, OPENS))


def label(name: str, to: str, phase: str = CHECKPOINT) -> str:
    """A pair for eyes."""
    return f"{name} → {to}" + " (first boot)" * (phase == FIRST_BOOT)


def in_order(syncs: Iterable[Sync]) -> list[Sync]:
    """By connection, and in the order in which they passed the capture point."""
    return sorted(syncs, key=lambda s: (s.record.connection, s.record.frame, s.record.stream_offset))


def pair_rows(syncs: Iterable[Sync]) -> Iterator[dict[str, Any]]:
    """The rows of `analysis.tables.pairs`, without what has no value."""
    for _, points in itertools.groupby(in_order(syncs), key=lambda sync: sync.record.connection):
        pairing = Pairing()
        for point in points:
            yield from pairing.feed(point)


class Pairing:
    """Makes the pairs of one connection; fed with its sync-points in their order."""

    def __init__(self) -> None:
        self.previous: Sync | None = None
        self.opened: Sync | None = None
        """The latest sync-point that opened a checkpoint."""
        self.broken = ""
        """Why what it opened cannot be measured as a whole."""

    def feed(self, b: Sync) -> Iterator[dict[str, Any]]:
        """The rows that this sync-point ends."""
        a, self.previous = self.previous, b
        if a is not None:
            yield from self._between(a, b)
        if b.point.short_name == OPENS:
            self.opened, self.broken = b, "" if b.status == OK else b.status

    def _between(self, a: Sync, b: Sync) -> Iterator[dict[str, Any]]:
        reason = _reason(a, b)
        name, to = a.point.short_name, b.point.short_name
        if (name, to) in TRANSITIONS:
            yield _row(a, b, name, to, reason)
        else:
            for pair in dict.fromkeys(((name, USUAL[name]), (_BEFORE[to], to))):
                yield _row(a, None, *pair, reason)
        self.broken = self.broken or reason
        if self.opened is not None and to in (CLOSES, OPENS):
            yield _row(self.opened, b, OPENS, to, self.broken)


def _reason(a: Sync, b: Sync) -> str:
    if b.doubt:
        return HOLE
    for point in (a, b):
        if point.status != OK:
            return point.status
    return "" if a.record.delivered_ns and b.record.delivered_ns else NO_TIME


def _row(a: Sync, b: Sync | None, name: str, to: str, reason: str) -> dict[str, Any]:
    first_boot = a.checkpoint == 0 and (name, to) == (_BEFORE[CLOSES], CLOSES)
    row = {"connection": a.record.connection, "checkpoint": a.checkpoint,
           "phase": FIRST_BOOT if first_boot else CHECKPOINT, "from": name, "to": to, "reason": reason}
    if b is not None:
        begin, end = a.record.delivered_ns or None, b.record.delivered_ns or None
        row |= {"from_frame": a.record.frame or None, "to_frame": b.record.frame or None,
                "from_delivered_ns": begin, "to_delivered_ns": end}
        if begin is not None and end is not None:
            row["latency_ns"] = end - begin
    return row
