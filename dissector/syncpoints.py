# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync-points: which records are, and whether they come in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dissector.findings import Finding
from dissector.protocol import CHECKPOINT_STATE, FORWARD, SENDER, XEN_COLO, Dialect, SyncPoint
from dissector.record import GAP, Record

OK, WRONG_SENDER, OUT_OF_ORDER = "ok", "wrong_sender", "out_of_order"
INSIDE_CHECKPOINT, UNKNOWN_ORDER, UNCONFIRMED = "inside_checkpoint", "unknown_order", "unconfirmed"
"""Statuses of a sync-point.  `unknown_order`: the first behind a hole or a late start; no
violation."""

_VIOLATIONS = (WRONG_SENDER, OUT_OF_ORDER, INSIDE_CHECKPOINT)


@dataclass(slots=True, eq=False)
class Sync:
    """One sync-point of a connection: its record, number of its checkpoint (None before the first
    if the stream's start was not seen), status; `doubt` tells that a hole or a lost place lies
    between it and the one before."""

    point: SyncPoint
    record: Record
    checkpoint: int | None
    status: str
    doubt: bool


def one_sided(dialect: Dialect, sender: str) -> Dialect:
    """The same as it reads where only this side's sync-points can be seen."""
    def seen(names: tuple[str, ...]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for name in names:
            point = dialect.named(name)
            found |= dict.fromkeys((name,) if point.sender == sender else seen(point.successors))
        return tuple(found)

    points = tuple(replace(point, successors=seen(point.successors)) for point in dialect.sync_points)
    return replace(dialect, sync_points=points, first=seen(dialect.first))


class Tracker:
    """Judges the sync-points of one connection; fed with its records in the order in which they
    passed the capture point, from both directions.

    `start_seen` may be set until the first sync-point comes: whether the stream was seen from its
    first octet."""

    def __init__(self, dialect: Dialect = XEN_COLO) -> None:
        self.dialect = dialect
        self.start_seen = False
        self.findings: list[Finding] = []
        self._points = {point.control_id: point for point in dialect.sync_points}
        self._opens = dialect.named(dialect.opens_checkpoint)
        self._legal: tuple[str, ...] = dialect.first
        self._previous = ""
        self._doubt = False
        self._inside = False
        self._opened = 0

    def doubt(self) -> None:
        """Octets are missing here: what comes next cannot be judged."""
        self._doubt, self._inside = True, False

    def feed(self, record: Record) -> Sync | None:
        """The sync-point that this record is, if it is one."""
        if record.status == GAP:
            self.doubt()
        if record.direction == FORWARD and record.structure in self.dialect.inside:
            self._inside = record.structure is self.dialect.inside[0]
        if record.structure is not CHECKPOINT_STATE:
            return None
        control_id = record.control_id
        point = None if control_id is None else self._points.get(control_id)
        if point is None:
            # Its octets are missing.  The primary sends one kind only.
            self._doubt = True
            self._opened += record.direction == FORWARD
            return None
        self._doubt |= not self._previous and not self.start_seen
        status = self._judge(point, record)
        if point is self._opens and status != WRONG_SENDER:
            self._opened += 1
        number = self._opened if self.start_seen or self._opened else None
        sync = Sync(point, record, number, status, self._doubt)
        if status in _VIOLATIONS:
            self._report(status, point, record)
        if status != WRONG_SENDER:
            self._legal, self._previous = point.successors, point.name
        self._doubt = False
        return sync

    def _judge(self, point: SyncPoint, record: Record) -> str:
        if SENDER[record.direction] != point.sender:
            return WRONG_SENDER
        if self._inside and not self._doubt:
            return INSIDE_CHECKPOINT
        if self._doubt:
            return UNKNOWN_ORDER
        return OK if point.short_name in self._legal else OUT_OF_ORDER

    def _report(self, status: str, point: SyncPoint, record: Record) -> None:
        begin, end = self.dialect.inside
        text = {
            WRONG_SENDER: f"{point.name} comes from the {SENDER[record.direction]}; only the "
                          f"{point.sender} sends it",
            OUT_OF_ORDER: f"{point.name} follows {self._previous or 'the start of the stream'}; "
                          f"{' or '.join(self._legal)} must",
            INSIDE_CHECKPOINT: f"{point.name} passes between {begin.full_name} and "
                               f"{end.full_name}",
        }[status]
        self.findings.append(Finding(status, text, record.connection, record.direction,
                                     record.frame, record.stream_offset))
