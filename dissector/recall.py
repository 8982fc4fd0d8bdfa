# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a record's octets again from the capture: page contents and blobs are never kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dissector.fields import padded
from dissector.headers import CAPTURED, FLAGS, LENGTH, POSITION, SEQUENCE, SIDE, SYN
from dissector.protocol import BODY_LENGTH_MAX
from dissector.reader import Reader
from dissector.record import COMPLETE, Record
from dissector.segments import SEGMENT_FRAME, STREAM, Segments, Streams
from dissector.source import Source

if TYPE_CHECKING:
    from dissector.engine import Engine


READ_MAX = padded(BODY_LENGTH_MAX)
"""Octets of a record that are read again: as many as the protocol allows."""


def read_octets(engine: Engine, record: Record) -> bytes | None:
    """Every octet of a record as it stood on the wire.

    None if they cannot be had: the source is a pipe, the capture lacks some of them, or they are
    more than `READ_MAX`.
    """
    if not record.octets_missing and not record.shifted:
        return record.octets
    # A length says nothing of what is there: no memory for octets that never came.
    if not record.first_frame or record.length > READ_MAX or record.status != COMPLETE:
        return None
    octets = np.zeros(record.length, np.uint8)
    missing = np.ones(record.length, np.bool_)
    for segments in _segments_from(engine, record.first_frame):
        data = segments.packets.data
        for offset, position, length in _pieces(engine, segments, record):
            begin, end = max(offset, 0), min(offset + length, record.length)
            if begin >= end:
                continue
            new = missing[begin:end]
            piece = data[position + begin - offset:position + end - offset]
            octets[begin:end][new] = piece[new]
            missing[begin:end] = False
        if not missing.any():
            return octets.tobytes()
        if record.frame and segments.packets.first > record.frame:
            break
    return None


def segment_in(engine: Engine, frame: int,
               near: Callable[[int, str], int]) -> tuple[int, str, int, int] | None:
    """(connection, direction, first stream offset, octets) of the payload that a frame carries;
    None if it carries none of one of our streams.  `near` gives a stream offset of a connection
    and direction that is less than 2 GiB away: sequence numbers wrap."""
    for segments in _segments_from(engine, frame):
        rows = segments.rows[segments.rows[:, SEGMENT_FRAME] == frame]
        for row in rows[rows[:, LENGTH] > 0]:
            ends = [segments.endpoint(int(row[STREAM]), i) for i in (0, 1)]
            for connection in engine.ours():
                if [engine.streams.endpoint(connection.number, i) for i in (0, 1)] == ends:
                    side = int(row[SIDE])
                    sequence = int(row[SEQUENCE]) + (1 if row[FLAGS] & SYN else 0)
                    direction = connection.direction(side)
                    about = near(connection.number, direction)
                    offset = about + signed(sequence - connection.stream.origin(side) - about)
                    return connection.number, direction, offset, int(row[LENGTH])
        if segments.packets.first + len(segments.packets) > frame:
            return None
    return None


def signed(distance: int) -> int:
    """A difference of sequence numbers, which wrap."""
    distance &= 0xFFFFFFFF
    return distance - (1 << 32) if distance >= 1 << 31 else distance


def _segments_from(engine: Engine, frame: int) -> Iterator[Segments]:
    """The segments of the capture from this frame on (or a little before)."""
    for file in engine.files:
        if file.first + file.packets <= frame or not file.seekable:
            continue
        place = next((place for place in reversed(file.places) if place[0] <= frame),
                     file.places[0])
        first, position, container = place
        with Source(file.name) as source:
            source.skip_to(position)
            streams = Streams()
            for packets in Reader(source, first, container.snapshot(), position):
                yield streams.scan(packets)


def _pieces(engine: Engine, segments: Segments, record: Record) -> Iterator[tuple[int, int, int]]:
    """(offset within the record, position in the block, octets) of what is there of it."""
    connection = engine.connections[record.connection]
    side = connection.side(record.direction)
    frames = segments.rows[:, SEGMENT_FRAME]
    last = max(record.frame, record.last_frame) or frames[-1:].max(initial=0)
    rows = segments.rows[(segments.rows[:, SIDE] == side) & (segments.rows[:, LENGTH] > 0)
                         & (frames >= record.first_frame) & (frames <= last)]
    ends = [engine.streams.endpoint(connection.number, i) for i in (0, 1)]
    streams: dict[int, bool] = {}
    for row in rows:
        number = int(row[STREAM])
        if number not in streams:
            streams[number] = [segments.endpoint(number, i) for i in (0, 1)] == ends
        if streams[number]:
            sequence = int(row[SEQUENCE]) + (1 if row[FLAGS] & SYN else 0)
            distance = signed(sequence - connection.stream.origin(side) - record.stream_offset)
            yield distance, int(row[POSITION]), int(row[CAPTURED])
