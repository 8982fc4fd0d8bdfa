# SPDX-License-Identifier: GPL-2.0-or-later
"""What TCP itself did on a connection: every segment, ACK and window, for those who explain waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from dissector.headers import ACK, ACKNOWLEDGEMENT, FLAGS, LENGTH, POSITION, SEQUENCE, SIDE, SYN, header_length
from dissector.recall import signed
from dissector.segments import SEGMENT_FRAME, SEGMENT_TIME, Segments

NEW, RETRANSMISSION, LATE = "new", "retransmission", "late"
"""What a segment's octets are: beyond all others; some were seen before; in front of others, and seen for
the first time (the original was lost before the capture point, or the network changed the order)."""
KINDS = (NEW, RETRANSMISSION, LATE)
NO_KIND = -1
NOT_KNOWN = -1
"""A window whose scale was not seen; an acknowledgement that is none."""

SEGMENT = np.dtype([
    ("frame", "i8"), ("time_ns", "i8"), ("side", "i1"), ("stream_offset", "i8"), ("length", "i4"),
    ("acknowledges", "i8"), ("window", "i8"), ("flags", "u1"), ("kind", "i1"), ("needless", "?")])
"""Columns of `Trace.of`."""

_KEPT = np.dtype([
    ("frame", "i8"), ("time_ns", "i8"), ("side", "i1"), ("sequence", "u4"), ("length", "i4"),
    ("acknowledgement", "u4"), ("window", "i4"), ("flags", "u1")])

_HOLES_MAX = 1 << 10
"""Holes of a side that may still be filled; the oldest ones never will be."""

# TCP options (RFC 9293, 7323, 2018)
_END, _NOTHING, _WINDOW_SCALE, _SACK = 0, 1, 3, 5
_SCALE_MAX = 14


class Trace:
    """Segments of the connections that may be ours: some 35 octets of memory for each."""

    def __init__(self) -> None:
        self._kept: dict[int, list[np.ndarray]] = defaultdict(list)
        self._scales: dict[int, list[int | None]] = {}
        """Of each side the shift of its window; -1: its SYN offers none, None: the SYN was not seen."""
        self._twice: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        """(side that sent them, sequence number of the first, behind the last) of octets that the other side
        reports to have received twice."""

    def take(self, connection: int, segments: Segments, rows: np.ndarray) -> None:
        """Keep these segments of a connection."""
        packets = segments.packets
        at = rows[:, POSITION] - header_length(rows[:, FLAGS])
        kept = np.empty(len(rows), _KEPT)
        kept["frame"] = rows[:, SEGMENT_FRAME]
        kept["time_ns"] = rows[:, SEGMENT_TIME]
        kept["side"], kept["length"] = rows[:, SIDE], rows[:, LENGTH]
        kept["sequence"], kept["acknowledgement"] = rows[:, SEQUENCE], rows[:, ACKNOWLEDGEMENT]
        kept["flags"] = rows[:, FLAGS] & 0xFF
        kept["window"] = packets.data[at + 14].astype(np.int32) << 8 | packets.data[at + 15]
        self._kept[connection].append(kept)
        for row, begin in zip(rows[kept["flags"] & SYN != 0], at[kept["flags"] & SYN != 0], strict=True):
            packet = int(row[SEGMENT_FRAME]) - packets.first
            end = min(int(row[POSITION]), int(packets.position[packet] + packets.captured[packet]))
            scales = self._scales.setdefault(connection, [None, None])
            scales[row[SIDE]] = _scale(packets.data[begin + 20:end].tobytes())

        # Longer than with time stamps alone: there may be selective ACKs.
        for i in np.flatnonzero((header_length(rows[:, FLAGS]) > 32) & (kept["flags"] & SYN == 0)).tolist():
            options = packets.data[at[i] + 20:min(rows[i, POSITION], len(packets.data))].tobytes()
            if block := _received_twice(options, int(rows[i, ACKNOWLEDGEMENT])):
                self._twice[connection].append((1 - int(rows[i, SIDE]), *block))

    def leave(self, connection: int) -> None:
        """A connection is none of ours."""
        self._twice.pop(connection, None)
        self._kept.pop(connection, None)
        self._scales.pop(connection, None)

    def of(self, connection: int, origins: tuple[int, int]) -> np.ndarray:
        """The segments of a connection in capture order (`SEGMENT`), all that have octets, ACKs or news of
        a window.

        `origins`: sequence number of each side's stream offset 0.  `stream_offset` is that of the first
        octet, `acknowledges` the offset in the other side's stream up to which all is acknowledged
        (`NOT_KNOWN` without ACK), `window` the octets that the sender of the segment would take
        (`NOT_KNOWN`: the scale was not seen, and it is not 0), `kind` an index into `KINDS`; `needless`: it
        was sent again, and the receiver says that it had the octets already (D-SACK, RFC 2883).
        """
        parts = self._kept.get(connection)
        kept = np.concatenate(parts) if parts else np.zeros(0, _KEPT)
        out = np.zeros(len(kept), SEGMENT)
        for name in ("frame", "time_ns", "side", "length", "flags"):
            out[name] = kept[name]
        out["kind"], out["acknowledges"], out["window"] = NO_KIND, NOT_KNOWN, NOT_KNOWN
        for side in (0, 1):
            mine = kept["side"] == side
            sequences = kept["sequence"][mine].astype(np.int64) + (kept["flags"][mine] & SYN != 0)
            out["stream_offset"][mine] = _unwrapped(sequences, origins[side])
            answers = mine & (kept["flags"] & ACK != 0)
            out["acknowledges"][answers] = _unwrapped(
                kept["acknowledgement"][answers].astype(np.int64), origins[1 - side])
            octets = np.flatnonzero(mine & (kept["length"] > 0))
            out["kind"][octets] = _kinds(out["stream_offset"][octets], out["length"][octets])
            reported = {begin for of, begin, _ in self._twice.get(connection, ()) if of == side}
            again = octets[out["kind"][octets] == KINDS.index(RETRANSMISSION)]
            out["needless"][again] = [int(number) in reported for number in kept["sequence"][again]]
        scales = self._scales.get(connection, [None, None])
        if -1 in scales:  # one of them will not have it: none has
            scales = [0, 0]
        for side, scale in enumerate(scales):
            syn = kept["flags"] & SYN != 0
            mine = (kept["side"] == side) & (kept["flags"] & ACK != 0)
            out["window"][mine & syn] = kept["window"][mine & syn]
            if scale is not None and None not in scales:
                out["window"][mine & ~syn] = kept["window"][mine & ~syn].astype(np.int64) << scale
            else:
                out["window"][mine & ~syn & (kept["window"] == 0)] = 0
        return out


def _scale(options: bytes) -> int:
    """The window scale that a SYN offers; -1: none."""
    offers = (min(value[0], _SCALE_MAX) for kind, value in _options(options) if kind == _WINDOW_SCALE and value)
    return next(offers, -1)


def _received_twice(options: bytes, acknowledgement: int) -> tuple[int, int] | None:
    """The octets that a selective ACK reports a second time: its first block, if that lies below what is
    acknowledged at all, or inside the second block."""
    for kind, value in _options(options):
        if kind != _SACK or len(value) < 8:
            continue
        numbers = [int.from_bytes(value[i:i + 4], "big") for i in range(0, len(value) - 3, 4)]
        begin, end = numbers[:2]
        below = signed(acknowledgement - begin) > 0
        inside = len(numbers) >= 4 and signed(begin - numbers[2]) >= 0 and signed(numbers[3] - end) >= 0
        if below or inside:
            return begin, end
    return None


def _options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of TCP options."""
    at = 0
    while at < len(octets) and octets[at] != _END:
        if octets[at] == _NOTHING:
            at += 1
            continue
        if at + 2 > len(octets) or octets[at + 1] < 2:
            return
        yield octets[at], octets[at + 2:at + octets[at + 1]]
        at += octets[at + 1]


def _unwrapped(numbers: np.ndarray, origin: int) -> np.ndarray:
    """Stream offsets of sequence numbers, each less than 2 GiB from the one before it."""
    if not len(numbers):
        return numbers
    steps = np.diff(numbers, prepend=origin) & 0xFFFFFFFF
    steps[steps >= 1 << 31] -= 1 << 32
    return np.cumsum(steps)


def _kinds(offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """What the octets of each segment of one side are (indices into `KINDS`)."""
    found = np.full(len(offsets), KINDS.index(NEW), np.int8)
    if not len(offsets):
        return found
    ends = offsets + lengths
    high = np.concatenate((offsets[:1], np.maximum.accumulate(ends)[:-1]))
    holes: list[tuple[int, int]] = []
    for i in np.flatnonzero(offsets != high):
        begin, end = int(offsets[i]), int(ends[i])
        if begin > high[i]:
            holes = [*holes[1 - _HOLES_MAX:], (int(high[i]), begin)]
            continue
        missing = [(a, b) for a, b in holes if a < end and begin < b]
        lacked = sum(min(b, end) - max(a, begin) for a, b in missing)
        found[i] = KINDS.index(LATE if lacked == end - begin else RETRANSMISSION)
        for a, b in missing:
            holes.remove((a, b))
            holes += [(x, y) for x, y in ((a, begin), (end, b)) if x < y]
    return found
