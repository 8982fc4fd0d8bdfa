# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP: segments of one connection, in any order, of any length, with any acknowledgement."""

from __future__ import annotations

import itertools
import struct

import numpy as np

from dissector.headers import CAPTURED, FLAGS, LENGTH, POSITION, SEQUENCE, SIDE, SYN
from dissector.segments import COLUMNS, SEGMENT_TIME
from dissector.streams import FRAME, GIVEN, HOLE, OFFSET, SIZE, TIME, Run, Stream

_SEGMENT = struct.Struct("<BBhBBhI")
_DATA = np.random.default_rng(1).integers(0, 256, 1 << 12, np.uint8)
_SHIFT = (0, 8, 16, 20)
"""Distances in sequence space: by octets, and by far."""

Row = tuple[int, int, int, int, int, int, bytes]


def check(octets: bytes) -> None:
    """Ranges are contiguous, every octet is the one that the named frame carried there, and whole
    is halves is one by one."""
    rows = _segments(octets)
    whole = _fed(rows, [len(rows)])
    assert _fed(rows, [len(rows) // 2, len(rows)]) == whole
    assert _fed(rows, list(range(1, len(rows) + 1))) == whole


def _segments(octets: bytes) -> np.ndarray:
    rows = np.zeros((len(octets) // _SEGMENT.size, COLUMNS), np.int64)
    now, at = 1, [0xFFFFFF00, 77]
    for i, (flags, how, ahead, length, captured, ack, delay) in enumerate(
            _SEGMENT.iter_unpack(octets[:len(rows) * _SEGMENT.size])):
        side = how & 1
        sequence = (at[side] + (ahead << _SHIFT[how >> 1 & 3])) & 0xFFFFFFFF
        acknowledgement = (at[1 - side] + (ack << _SHIFT[how >> 3 & 3])) & 0xFFFFFFFF
        if how & 32:
            at[side] = (sequence + length) & 0xFFFFFFFF
        now += delay
        rows[i] = (side, sequence, acknowledgement, flags & 23, (i * 37) % 2048, length,
                   min(captured, length), 0, 1 + i, now, 0, 0)
    return rows


def _fed(rows: np.ndarray, ends: list[int]) -> tuple[list[Row], ...]:
    stream, begin = Stream(), 0
    found: tuple[list[Row], ...] = ([], [])
    for end in ends:
        data = _DATA.copy()
        _take(stream, stream.feed(rows[begin:end].copy(), data), rows, found)
        data[:] = 0xEE  # the block is gone
        begin = end
    _take(stream, stream.finish(), rows, found)
    for ranges in found:
        for before, after in itertools.pairwise(ranges):
            assert before[0] + before[1] == after[0], "ranges are contiguous"
    return tuple(_joined(ranges) for ranges in found)


def _take(stream: Stream, runs: tuple[Run, Run], rows: np.ndarray, found: tuple[list[Row], ...]) -> None:
    for side, run in enumerate(runs):
        assert (np.diff(run.acks[:, 0]) > 0).all(), "acknowledgements ascend"
        for i, row in enumerate(run.rows):
            offset, size, given = int(row[OFFSET]), int(row[SIZE]), int(row[GIVEN])
            octets = run.octets(i, 0, size)
            assert size > 0
            assert len(octets) == given <= size
            if row[HOLE]:
                assert given == 0
            else:
                segment = rows[int(row[FRAME]) - 1]
                assert segment[SIDE] == side
                assert row[TIME] == segment[SEGMENT_TIME]
                start = int(segment[SEQUENCE]) + (1 if segment[FLAGS] & SYN else 0)
                skip = (stream.origin(side) + offset - start) & 0xFFFFFFFF
                assert skip + size <= segment[LENGTH]
                assert given == min(max(int(segment[CAPTURED]) - skip, 0), size)
                assert octets == _DATA[int(segment[POSITION]) + skip:][:given].tobytes()
            found[side].append((offset, size, given, int(row[FRAME]), int(row[TIME]), int(row[HOLE]),
                                octets))


def _joined(ranges: list[Row]) -> list[Row]:
    """Holes that touch are one hole: where a feed ends must not show."""
    joined: list[Row] = []
    for row in ranges:
        if joined and row[5] and joined[-1][5] and row[3:5] == joined[-1][3:5]:
            joined[-1] = (joined[-1][0], joined[-1][1] + row[1], *row[2:])
        else:
            joined.append(row)
    return joined
