# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as rows of a compact NumPy array, of which `analysis.tables` makes tables."""

from __future__ import annotations

import numpy as np

from dissector.protocol import DIRECTIONS, LAYERS, STRUCTURES
from dissector.record import COMPLETE, GAP, PENDING, SNAPPED, TRUNCATED, Record

STATUSES = [COMPLETE, GAP, SNAPPED, TRUNCATED, PENDING]
NONE = -1
"""Of numbers that a record does not have."""

_DIRECTION, _LAYER, _STATUS = ({name: i for i, name in enumerate(names)}
                               for names in (DIRECTIONS, LAYERS, STATUSES))
_STRUCTURE = {id(structure): i for i, structure in enumerate(STRUCTURES)}
_CHUNK = 1024
_WAITING = 4 * _CHUNK
_OCTETS = 64 << 20
"""Octets of records that wait for their ACKs."""

_ROW = np.dtype([
    ("connection", "i4"), ("direction", "i1"), ("layer", "i1"), ("structure", "i2"),
    ("type", "i8"), ("stream_offset", "i8"), ("length", "i8"), ("body_length", "i8"),
    ("first_frame", "i8"), ("last_frame", "i8"), ("frame", "i8"), ("first_seen_ns", "i8"),
    ("last_seen_ns", "i8"), ("delivered_ns", "i8"), ("acked_ns", "i8"), ("after_gap", "?"),
    ("status", "i1"), ("control_id", "i8"), ("count", "i8"), ("pages", "i8"),
    ("first_pfn", "i8"), ("last_pfn", "i8")])


class Rows:
    """Takes a record as soon as nothing in it can change."""

    def __init__(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._open: list[Record] = []
        self._look_at = _CHUNK
        self._octets = 0

    def append(self, record: Record) -> None:
        self._open.append(record)
        self._octets += len(record.octets)
        if len(self._open) < self._look_at and self._octets < _OCTETS:
            return
        waiting = [r for r in self._open if not r.acked_ns]
        octets = sum(len(r.octets) for r in waiting)
        if len(waiting) > _WAITING or octets > _OCTETS // 2:
            waiting, octets = [], 0  # their ACKs will never come: a capture of one direction
        done = [r for r in self._open if r.acked_ns] if waiting else self._open
        self._chunks.append(rows_of(done))
        self._open, self._look_at, self._octets = waiting, len(waiting) + _CHUNK, octets

    def array(self) -> np.ndarray:
        """Every row, by connection and in the order in which the records were delivered."""
        self._chunks.append(rows_of(self._open))
        self._open = []
        rows = np.concatenate(self._chunks)
        self._chunks = [rows]
        late = np.where(rows["frame"] == 0, np.iinfo(np.int64).max, rows["frame"])
        return rows[np.lexsort((rows["stream_offset"], late, rows["connection"]))]


def rows_of(records: list[Record]) -> np.ndarray:
    """A row for each record, as they are now."""
    def number(value: int | None) -> int:
        return NONE if value is None else value

    return np.array([(
        r.connection, _DIRECTION[r.direction], _LAYER[r.layer],
        _STRUCTURE.get(id(r.structure), NONE), number(r.type), r.stream_offset, r.length,
        number(r.body_length), r.first_frame, r.last_frame, r.frame, r.first_seen_ns,
        r.last_seen_ns, r.delivered_ns, r.acked_ns, r.after_gap, _STATUS[r.status],
        number(r.control_id), number(r.count), number(r.pages),
        *(r.pfn_range or (NONE, NONE))) for r in records], _ROW)
