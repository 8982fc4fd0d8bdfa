# SPDX-License-Identifier: GPL-2.0-or-later
"""Silences of a sender, and what the packets around each of them prove about it.

A silence is the time between two segments with octets of one direction.  What may stand in its way:

- octets that were lost: the segment that ends it brings octets that should have passed before, and the
  receiver does not say that it had them (`RETRANSMISSION`);
- the receiver's window: the segment that ends it did not fit into what the receiver had offered, and
  follows an acknowledgement that offers more (`RECEIVE_WINDOW`);
- Nagle's algorithm (RFC 896): the rest of a record that was begun, less than a full segment, follows at
  once the acknowledgement of everything in front of it (`NAGLE`);
- the network's round trip: several segments were under way, and the one that ends it follows at once an
  acknowledgement of some of them (`ROUND_TRIP`); or a receiver that took much longer for this acknowledgement
  than the round trip (`LATE_ACK`);
- the sender itself, which had nothing to send: everything was acknowledged and there was room, or what came
  in between did not end it (`IDLE`).

Of others the packets do not tell what they were for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dissector.headers import SYN
from dissector.trace import KINDS, NEW, NOT_KNOWN
from dissector.trace import RETRANSMISSION as SENT_AGAIN

RETRANSMISSION, RECEIVE_WINDOW, NAGLE, LATE_ACK, ROUND_TRIP, IDLE = (
    "retransmission", "receive_window", "nagle", "late_ack", "round_trip", "idle")

LEAST = 1_000_000
"""ns; shorter silences are not looked at: a busy machine makes them."""
REACTION = 1_000_000
"""ns that a sender takes, beyond the round trip towards it, to answer an acknowledgement."""
FULL = 1400
"""Octets of a segment that Nagle's algorithm does not hold back: MTU 1500 leaves 1440 to 1460.  A longer one
was joined by offloading."""
LATE = 1_000_000
"""ns beyond twice the least round trip behind which an acknowledgement is late."""
SEVERAL = 2 * FULL
"""Octets under way that a congestion window may stop; fewer it does not, but behind a time-out."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One silence, or a part of it: what it was for, from `begin` to `end` (ns) and `frame` to `to_frame`;
    `side` was silent."""

    cause: str
    begin: int
    end: int
    frame: int
    to_frame: int
    side: int
    stream_offset: int
    """Of the first octet that passed behind it."""


def round_trip(segments: np.ndarray, side: int) -> int | None:
    """The least time (ns) from a segment with octets, or a SYN, towards this side, until this side's first
    acknowledgement of it; None: there is none."""
    sent = segments[(segments["side"] != side) & ((segments["length"] > 0) | (segments["flags"] & SYN != 0))
                    & (segments["time_ns"] > 0)]
    answers = segments[(segments["side"] == side) & (segments["acknowledges"] != NOT_KNOWN)
                       & (segments["time_ns"] > 0)]
    if not len(sent) or not len(answers):
        return None
    covers = np.maximum.accumulate(answers["acknowledges"])
    # What was sent again tells nothing: which of both is acknowledged?
    clean = sent[(sent["kind"] == KINDS.index(NEW)) | (sent["length"] == 0)]
    first = covers.searchsorted(clean["stream_offset"] + clean["length"])
    known = first < len(answers)
    times = answers["time_ns"][first[known]] - clean["time_ns"][known]
    times = times[(answers["frame"][first[known]] > clean["frame"][known]) & (times >= 0)]
    return int(times.min()) if len(times) else None


def waits(segments: np.ndarray, side: int, starts: np.ndarray, trips: Sequence[int]) -> list[Wait]:
    """What this side's silences were for, in the order of time; they do not overlap.

    `segments` of one connection (`dissector.trace.SEGMENT`); `starts`: stream offsets at which a record of
    this side begins, ascending; `trips`: the least round trip (ns) towards each side, 0: not known.
    """
    segments = segments[segments["time_ns"] > 0]
    mine = np.flatnonzero((segments["side"] == side) & (segments["length"] > 0))
    theirs = np.flatnonzero((segments["side"] != side) & (segments["acknowledges"] != NOT_KNOWN))
    if len(mine) < 2:
        return []
    sender = _Sender(segments, mine, theirs, starts, side, trips)
    times = segments["time_ns"][mine]
    return [wait for i in np.flatnonzero(np.diff(times) >= LEAST).tolist() for wait in sender.silence(i)]


class _Sender:
    """One direction of a connection, and what the other side answers."""

    def __init__(self, segments: np.ndarray, mine: np.ndarray, theirs: np.ndarray, starts: np.ndarray,
                 side: int, trips: Sequence[int]) -> None:
        self.side, self.starts = side, starts
        self.reaction = trips[side] + REACTION
        self.late = 2 * trips[1 - side] + LATE
        own, answers = segments[mine], segments[theirs]
        self.frame, self.time, self.kind = own["frame"], own["time_ns"], own["kind"]
        self.offset, self.length = own["stream_offset"], own["length"].astype(np.int64)
        self.high = np.maximum.accumulate(self.offset + self.length)
        self.missing, self.needless = _missing_since(own), own["needless"]
        self.answer_time = answers["time_ns"]
        self.covers = np.maximum.accumulate(answers["acknowledges"])
        window = answers["window"]
        self.window_known = window != NOT_KNOWN
        self.edge = np.where(window == NOT_KNOWN, np.iinfo(np.int64).max, answers["acknowledges"] + window)
        self.answered = theirs.searchsorted(mine)
        """Of each segment how many answers had passed before it."""

    def silence(self, i: int) -> Iterator[Wait]:
        """What the silence behind segment `i` was for."""
        begin, end = int(self.time[i]), int(self.time[i + 1])
        before, behind = int(self.answered[i]), int(self.answered[i + 1])
        if not before:  # the capture has one direction only
            return
        if self.kind[i + 1] != KINDS.index(NEW):
            since = int(self.missing[i + 1])
            if self.covers[behind - 1] >= self.offset[i + 1] + self.length[i + 1]:  # a probe of the peer
                yield self._wait(IDLE, begin, end, i)
            elif since and not self.needless[i + 1]:
                yield self._wait(RETRANSMISSION, max(begin, since), end, i)
            return
        if self.offset[i + 1] != self.high[i]:  # something passed that the capture lacks: it was no silence
            return
        if opened := self._opened(i, before, behind):
            at = int(self.answer_time[opened])
            at_once = end - at <= self.reaction
            yield self._wait(RECEIVE_WINDOW, begin, end if at_once else at, i)
            if not at_once:
                yield self._wait(IDLE, at, end, i)
            return
        progress = self._progress(before, behind)
        under_way = self.high[i] - self.covers[before - 1]
        if not under_way or progress is None:
            answered = behind > before and end - int(self.answer_time[behind - 1]) <= self.reaction
            if self.window_known[before - 1] or not answered:  # else that answer may have made room
                yield self._wait(IDLE, begin, end, i)
        elif end - int(self.answer_time[progress]) > self.reaction:
            yield self._wait(IDLE, int(self.answer_time[progress]), end, i)
        elif self._is_rest(i, progress):
            yield self._wait(NAGLE, begin, end, i)
        elif under_way >= SEVERAL:
            yield self._wait(LATE_ACK if self._is_late(progress, i) else ROUND_TRIP, begin, end, i)

    def _wait(self, cause: str, begin: int, end: int, i: int) -> Wait:
        return Wait(cause, begin, end, int(self.frame[i]), int(self.frame[i + 1]), self.side,
                    int(self.offset[i + 1]))

    def _opened(self, i: int, before: int, behind: int) -> int | None:
        """The answer that made room for the segment that ends the silence; None: there was room all the time,
        or no answer made it."""
        wanted = self.offset[i + 1] + min(int(self.length[i + 1]), FULL)
        closed = np.flatnonzero(self.edge[before - 1:behind] < wanted)
        if not len(closed) or before + int(closed[-1]) >= behind:
            return None
        return before + int(closed[-1])

    def _progress(self, before: int, behind: int) -> int | None:
        """The last answer in the silence that acknowledges more than those before it."""
        for a in range(behind - 1, before - 1, -1):
            if a == 0 or self.covers[a] > self.covers[a - 1]:
                return a
        return None

    def _is_late(self, progress: int, i: int) -> bool:
        """Whether an answer came long after the last octet that it acknowledges."""
        sent = min(int(self.high.searchsorted(self.covers[progress])), i)
        return int(self.answer_time[progress]) - int(self.time[sent]) > self.late

    def _is_rest(self, i: int, progress: int) -> bool:
        """Whether the silence lay inside a record, was ended by the acknowledgement of everything in front
        of it, and less than a full segment came then."""
        begin = int(self.offset[i + 1])
        at = int(self.starts.searchsorted(begin))
        inside = at > 0 and (at == len(self.starts) or self.starts[at] != begin)
        return inside and self.high[i] == begin and self.covers[progress] >= begin and self.length[i + 1] < FULL


def _missing_since(own: np.ndarray) -> np.ndarray:
    """Of each segment that brings octets not for the first time or late: since when (ns) they were missing:
    when they passed first, or when something passed that stands behind them; 0 of all others."""
    since = np.zeros(len(own), np.int64)
    new = np.flatnonzero(own["kind"] == KINDS.index(NEW))
    offsets, times = own["stream_offset"][new], own["time_ns"][new]
    for i in np.flatnonzero(own["kind"] != KINDS.index(NEW)):
        offset = own["stream_offset"][i]
        at = int(offsets.searchsorted(offset, "right")) - (own["kind"][i] == KINDS.index(SENT_AGAIN))
        if 0 <= at < len(times):
            since[i] = min(times[at], own["time_ns"][i])
    return since
