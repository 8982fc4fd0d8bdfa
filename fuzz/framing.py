# SPDX-License-Identifier: GPL-2.0-or-later
"""Framing: the octets of one direction, with holes and cut frames, fed in any cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from dissector.findings import RULES
from dissector.framing import Framer
from dissector.protocol import DIRECTIONS
from dissector.record import COMPLETE, TRUNCATED
from dissector.streams import RANGE_COLUMNS, Run

_FRAME = 64
"""Octets of the stream that each frame carries here."""
_LONGEST = 4096
_SINGLE = 150
_NO_ACKS = np.zeros((0, 3), np.int64)
_NONE = np.zeros(0, np.uint8)


def check(octets: bytes) -> None:
    """Records follow each other without a gap, reach nowhere beyond the stream, hold its octets,
    and are the same however the stream is cut; findings are of known rules."""
    if len(octets) < 4:
        return
    how, place, missing, offset = octets[:4]
    direction, stream = DIRECTIONS[how & 1], octets[4:4 + _LONGEST]
    rows = _rows(len(stream), how >> 1 & 3, place, missing, offset)
    whole = _fed(direction, stream, rows, [len(rows)])
    assert _fed(direction, stream, rows, [len(rows) // 2, len(rows)]) == whole
    single = np.concatenate([_split(row) for row in rows]) if len(rows) else rows
    # Octet by octet at first, then in odd pieces: a feed costs the same however small it is.
    ends = [*range(1, min(len(single), _SINGLE)), *range(_SINGLE, len(single), 29), len(single)]
    assert _fed(direction, stream, single, ends) == whole


def _rows(length: int, damage: int, place: int, missing: int, begin: int) -> np.ndarray:
    """Frames of the stream; `damage` 1: octets are missing, 2: frames are cut short."""
    rows = np.zeros((-(-length // _FRAME), RANGE_COLUMNS), np.int64)
    for i in range(len(rows)):
        size = min(_FRAME, length - i * _FRAME)
        rows[i] = begin + i * _FRAME, size, size, i * _FRAME, i + 1, 1000 + i, 0
        if damage == 1 and i == place:
            rows[i, 2:] = 0, 0, i + 3 if missing & 1 else 0, 0, 1
        elif damage == 2 and i % 4 == place % 4:
            rows[i, 2] = min(size, missing % _FRAME)
    return rows


def _split(row: np.ndarray) -> np.ndarray:
    """The same range octet by octet."""
    single = np.repeat(row[None], row[1], axis=0)
    steps = np.arange(row[1])
    single[:, 0] += steps
    single[:, 1] = 1
    single[:, 2] = steps < row[2]
    single[:, 3] += steps
    return single


def _fed(direction: str, stream: bytes, rows: np.ndarray, ends: list[int]) -> tuple[Any, ...]:
    framer, records, begin = Framer(direction), [], 0
    first = int(rows[0, 0]) if len(rows) else 0
    for end in ends:
        data = np.frombuffer(stream, np.uint8).copy()
        records += framer.feed(Run(rows[begin:end].copy(), _NO_ACKS, data, _NONE))
        data[:] = 0xEE  # the block is gone
        begin = end
    records += framer.finish()
    at = first
    for record in records:
        assert record.stream_offset == at
        assert record.length > 0
        at = record.end
        assert record.status == TRUNCATED or at <= first + len(stream)
        if record.status == COMPLETE and not record.shifted:
            begin = record.stream_offset - first
            assert stream[begin:begin + len(record.octets)] == record.octets
            assert record.frame >= record.last_frame >= record.first_frame > 0
        _ = record.fields, repr(record)
    assert all(record.status != TRUNCATED for record in records[:-1])
    for finding in framer.findings:
        assert finding.rule in RULES
        assert "\n" not in finding.text
    return ([_facts(record) for record in records],
            [(f.rule, f.text, f.frame, f.stream_offset) for f in framer.findings],
            framer.lost)


def _facts(record: Any) -> tuple[Any, ...]:
    names = (name for name in record.__slots__ if name not in ("structure", "reader"))
    return record.full_name, *(getattr(record, name) for name in names)
