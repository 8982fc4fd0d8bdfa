# SPDX-License-Identifier: GPL-2.0-or-later
"""One TCP connection: is it ours, which end is primary, what do both directions say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dissector.findings import Finding
from dissector.framing import Framer
from dissector.protocol import (
    BACK,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_END,
    CHECKPOINT_STATE,
    DOMAIN_HEADER,
    FORWARD,
    GUEST_TYPE,
    GUEST_TYPES,
    LIBXC,
    LIBXL_END,
    OPENINGS,
    START,
    STATES,
    XEN_MAJOR,
    XEN_MINOR,
    Structure,
)
from dissector.record import Record
from dissector.segments import Segments
from dissector.streams import ACK_FRAME, ACK_TIME, ACKS_MAX, COVERS, HOLE, OFFSET, SIZE, Run, Stream
from dissector.syncpoints import Sync, Tracker

SNIFF = 64
"""Octets of a direction that decide whether it opens one of our streams."""

SNIFFING, OURS, OTHER = "sniffing", "ours", "other"
PLAIN, REMUS, COLO = "plain", "remus", "colo"

WAITING_MAX = 1 << 16
WAITING_OCTETS = 64 << 20
"""Records, and octets kept of them, that may wait: for an ACK, to be judged."""

_CLOSED = Stream()
"""In place of the state of a stream that nobody follows any more: there may be many of them."""


@dataclass(slots=True)
class Hole:
    """Octets of a direction that the capture lacks; `frame` covers them with an ACK, 0: none."""

    direction: str
    offset: int
    length: int
    frame: int


class Connection:
    """One TCP connection being read.

    `number` is Wireshark's tcp.stream; `role` tells whether it carries one of our streams;
    `primary_side` which of its two sides (see `dissector.segments`) is the primary.  `kind`,
    `xen_version` and `guest_type` are filled in as the stream tells them.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.role = SNIFFING
        self.primary_side: int | None = None
        self.kind = ""
        self.xen_version = ""
        self.guest_type = ""
        self.prefixes = [b"", b""]
        self.holes: list[Hole] = []
        self.findings: list[Finding] = []
        self.stream = Stream()
        self._framers: list[Framer] = []
        self._early: list[Run | None] = [None, None]
        self._decided = [False, False]
        self._acks: list[np.ndarray] = [np.zeros((0, 3), np.int64)] * 2
        self._unacked: list[list[Record]] = [[], []]
        self._unacked_lost = [0, 0]
        self._opened = False
        self._last_forward: Structure | None = None
        self._tracker = Tracker()
        self._waiting: list[Record] = []
        self.syncs: list[Sync] = []
        """Sync-points judged since the caller last took them."""

    @property
    def start_seen(self) -> bool:
        """Whether the primary's stream was seen from its first octet."""
        return self.primary_side is not None and (
            self.stream.syn[self.primary_side] or self._opened)

    def lost(self, direction: str) -> int | None:
        """Frame behind which this direction could not be read; None: it was read to its end."""
        return next((f.lost.frame for f in self._framers if f.lost and f.direction == direction),
                    None)

    def direction(self, side: int) -> str:
        """Direction of what this side sends."""
        return FORWARD if side == self.primary_side else BACK

    def side(self, direction: str) -> int:
        """Which side sends this direction."""
        primary = self.primary_side or 0
        return primary if direction == FORWARD else 1 - primary

    def feed(self, segments: Segments, rows: np.ndarray) -> list[Record]:
        """The records that these segments complete."""
        records = self._take(self.stream.feed(segments, rows))
        for side in (0, 1):
            if self.role != OTHER and self.stream.waits_for_start(side) \
                    and self._opening(self._first_octets(self.stream.held(side))[0]):
                records += self._take(self.stream.start(side))
        return records

    def finish(self) -> list[Record]:
        """The capture has ended: what is still open ends here."""
        if self.role == OTHER:
            return []
        records = self._take(self.stream.finish())
        for side in (0, 1) if self.role == OURS else ():
            late = self._own(self._framers[side].finish(), side)
            self._waiting += late
            records += late
            self._acknowledge(self.stream.held(side), side)
            if lost := self._unacked_lost[side]:
                self.findings.append(Finding(
                    "unacknowledged", f"{lost} records waited for an ACK in vain while others came",
                    self.number, self.direction(side)))
            if crowded := self.stream.crowded(side):
                self.findings.append(Finding(
                    "hole_given_up", f"{crowded} holes were given up early: too much waited behind them",
                    self.number, self.direction(side)))
            stale = self.stream.counts(side)[0]
            if stale:
                self.findings.append(Finding(
                    "stale_segments", f"{stale} segments are far outside the stream and were "
                    "left out", self.number, self.direction(side)))
        self._judge(final=True)
        return records

    # --- recognising ---------------------------------------------------------------------------

    @staticmethod
    def _opening(octets: bytes) -> str:
        """The direction that starts with these octets, "" if none does (or not yet)."""
        return next((direction for direction, magics in OPENINGS.items()
                     if any(octets.startswith(magic) for magic in magics)), "")

    @staticmethod
    def _may_open(octets: bytes) -> bool:
        return any(magic.startswith(octets[:len(magic)])
                   for magics in OPENINGS.values() for magic in magics)

    @staticmethod
    def _first_octets(run: Run) -> tuple[bytes, bool]:
        """The first octets of a run, and whether more of them may still come."""
        octets, expected = b"", None
        for i in range(len(run.rows)):
            offset, size = int(run.rows[i, OFFSET]), int(run.rows[i, SIZE])
            if expected not in (None, offset):
                return octets, False
            more = run.octets(i, 0, SNIFF - len(octets))
            octets, expected = octets + more, offset + size
            if len(octets) >= SNIFF or len(more) < size:
                return octets, False
        return octets, True

    def _take(self, runs: tuple[Run, Run]) -> list[Record]:
        if self.role == OTHER:
            return []
        if self.role == SNIFFING:
            self._sniff(runs)
            if self.role != OURS:
                return []
            early, self._early = self._early, [None, None]
            runs = tuple(run.behind(before) for run, before in zip(runs, early, strict=True))  # type: ignore[assignment]
        records: list[Record] = []
        for side, run in enumerate(runs):
            self._note_holes(run, side)
            records += self._own(self._framers[side].feed(run), side)
            self._acknowledge(run, side)
        records.sort(key=lambda record: (record.frame, record.stream_offset))
        self._waiting += records
        self._judge()
        return records

    def _sniff(self, runs: tuple[Run, Run]) -> None:
        early = list(self._early)
        for side, run in enumerate(runs):
            if self._decided[side] or not len(run.rows):
                continue
            whole = run.behind(self._early[side])
            self.prefixes[side], more = self._first_octets(whole)
            direction = self._opening(self.prefixes[side])
            if direction:
                self._recognised(side if direction == FORWARD else 1 - side)
                return
            self._decided[side] = not more or not self._may_open(self.prefixes[side])
            # Fewer octets than a sniff takes: what waits here is small.
            early[side] = None if self._decided[side] else whole.tail(0)
        self._early = early
        if all(self._decided):
            self.role, self.stream = OTHER, _CLOSED

    def _recognised(self, primary_side: int) -> None:
        self.role, self.primary_side = OURS, primary_side
        self._framers = [Framer(self.direction(side)) for side in (0, 1)]

    # --- records -------------------------------------------------------------------------------

    def _own(self, records: list[Record], side: int) -> list[Record]:
        for record in records:
            record.connection = self.number
            self._learn(record)
        self._unacked[side] += records
        framer = self._framers[side]
        self.findings += [replace(f, connection=self.number) for f in framer.findings]
        framer.findings = []
        return records

    def _learn(self, record: Record) -> None:
        structure = record.structure
        if structure is DOMAIN_HEADER:
            values = record.fields
            if XEN_MINOR.name in values:
                self.xen_version = f"{values[XEN_MAJOR.name]}.{values[XEN_MINOR.name]}"
                self.guest_type = GUEST_TYPES.get(values[GUEST_TYPE.name], "")
        if structure in (CHECKPOINT_STATE, CHECKPOINT_DIRTY_PFN_LIST):
            self.kind = COLO
        elif self.kind != COLO and record.direction == FORWARD:
            # Behind a checkpoint's end: COLO has a sync-point, Remus goes on with libxc's records.
            if self._last_forward is CHECKPOINT_END and record.layer == LIBXC:
                self.kind = REMUS
            elif structure is LIBXL_END:
                self.kind = self.kind or PLAIN
        if record.direction == FORWARD:
            self._last_forward = structure
            self._opened |= structure in STATES[START[FORWARD]].fixed

    def _note_holes(self, run: Run, side: int) -> None:
        if not len(run.rows) or not run.rows[:, HOLE].any():
            return
        for row in run.rows[run.rows[:, HOLE] != 0]:
            hole = Hole(self.direction(side), int(row[OFFSET]), int(row[SIZE]), int(row[4]))
            self.holes.append(hole)
            proof = " (an ACK proves that they passed)" if hole.frame else ""
            self.findings.append(Finding(
                "hole", f"{hole.length} octets are missing{proof}", self.number, hole.direction,
                hole.frame, hole.offset))

    def _acknowledge(self, run: Run, side: int) -> None:
        """Fill in when the records of this side were acknowledged."""
        acks = np.concatenate((self._acks[side], run.acks)) if len(run.acks) else self._acks[side]
        if len(run.acks) and len(self._acks[side]):
            acks = acks[np.concatenate(([True], np.diff(np.maximum.accumulate(acks[:, COVERS])) > 0))]
        left = []
        for record in self._unacked[side]:
            at = int(acks[:, COVERS].searchsorted(record.end)) if len(acks) else 0
            if at < len(acks):
                record.acked_frame, record.acked_ns = int(acks[at, ACK_FRAME]), int(acks[at, ACK_TIME])
            else:
                left.append(record)
        surplus = _surplus(left)
        self._unacked_lost[side] += surplus
        left = self._unacked[side] = left[surplus:]
        framer = self._framers[side]
        first = min(1 << 62 if framer.lost else framer.earliest_end, left[0].end if left else 1 << 62)
        useful = acks[acks[:, COVERS] >= first] if len(acks) else acks
        self._acks[side] = useful[1::2] if len(useful) > ACKS_MAX else useful

    # --- sync-points ---------------------------------------------------------------------------

    def _judge(self, final: bool = False) -> None:
        """Judge, in order, what no record that is still to come can precede."""
        blocked = [frame for side in (0, 1) if (frame := self.stream.waiting_from(side))]
        until = min(blocked) if blocked and not final else 1 << 62
        if surplus := _surplus(self._waiting):
            until = max(until, self._waiting[surplus - 1].frame + 1)
        ready = [r for r in self._waiting if r.frame < until]
        self._waiting = [r for r in self._waiting if r.frame >= until]
        ready.sort(key=lambda r: (r.frame, r.stream_offset))
        self._tracker.start_seen = self.start_seen
        for record in ready:
            if any(framer.lost and framer.lost.frame < record.frame for framer in self._framers):
                self._tracker.doubt()
            if record.frame and (sync := self._tracker.feed(record)):
                self.syncs.append(sync)
        self.findings += self._tracker.findings
        self._tracker.findings = []


def _surplus(records: list[Record]) -> int:
    """How many of these records, the oldest, are more than may wait."""
    if sum(len(record.octets) for record in records) <= WAITING_OCTETS:
        return max(0, len(records) - WAITING_MAX)
    kept = np.cumsum([len(record.octets) for record in reversed(records)])
    return max(len(records) - WAITING_MAX, len(records) - int(kept.searchsorted(WAITING_OCTETS)))
