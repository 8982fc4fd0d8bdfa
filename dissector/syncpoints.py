# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync-points: which records are, and whether they come in their order."""

from __future__ import annotations

from dataclasses import dataclass

from dissector.findings import Finding
from dissector.protocol import FORWARD, SENDER, XEN_COLO, Dialect, SyncPoint
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


class Tracker:
    """Judges the sync-points of one connection; fed with its records in the order in which they
    passed the capture point, from both directions."""

    def __init__(self, start_seen: bool, dialect: Dialect = XEN_COLO) -> None:
        self.dialect = dialect
        self.findings: list[Finding] = []
        self._points = {point.control_id: point for point in dialect.sync_points}
        self._legal: tuple[str, ...] = dialect.first
        self._previous = "the start of the stream"
        self._doubt = not start_seen
        self._inside = False
        self._checkpoint: int | None = 0 if start_seen else None

    def doubt(self) -> None:
        """Octets are missing here: what comes next cannot be judged."""
        self._doubt = True

    def feed(self, record: Record) -> Sync | None:
        """The sync-point that this record is, if it is one."""
        if record.status == GAP:
            self._doubt = True
        if record.direction == FORWARD and record.structure in self.dialect.inside:
            self._inside = record.structure is self.dialect.inside[0]
        point = self._points.get(record.control_id)  # type: ignore[arg-type]
        if point is None:
            return None
        status = self._judge(point, record)
        if point.short_name == self.dialect.opens_checkpoint and status != WRONG_SENDER:
            self._checkpoint = 1 if self._checkpoint is None else self._checkpoint + 1
        sync = Sync(point, record, self._checkpoint, status, self._doubt)
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
            OUT_OF_ORDER: f"{point.name} follows {self._previous}; "
                          f"{' or '.join(self._legal)} must",
            INSIDE_CHECKPOINT: f"{point.name} passes between {begin.full_name} and "
                               f"{end.full_name}",
        }[status]
        self.findings.append(Finding(status, text, record.connection, record.direction,
                                     record.frame, record.stream_offset))
