# SPDX-License-Identifier: GPL-2.0-or-later
"""One TCP connection: is it ours, which end is primary, what do both directions say."""

from __future__ import annotations

import heapq
import itertools
import operator
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from dissector.conformance import Conformance
from dissector.direction import Direction, Unread
from dissector.expected import NOT_KNOWN, SILENT, Expected
from dissector.findings import Finding
from dissector.octets import Block
from dissector.opening import direction_of, may_open, proxy_message
from dissector.passage import Passage
from dissector.protocol import (
    BACK,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_END,
    CHECKPOINT_STATE,
    DOMAIN_HEADER,
    FORWARD,
    GUEST_TYPE,
    GUEST_TYPES,
    IMAGE_HEADER,
    LIBXC,
    LIBXL_END,
    START,
    STATES,
    TOOLSTACK_END,
    XEN_COLO,
    XEN_MAJOR,
    XEN_MINOR,
    Structure,
)
from dissector.proxy import Conversation, Message
from dissector.record import Record
from dissector.seeker import Seeker, Trial
from dissector.streams import (
    ACKS_MAX,
    COVERS,
    FRAME,
    HOLE,
    NO_ACKS,
    NO_RUN,
    OFFSET,
    SIZE,
    Desk,
    Run,
    Stream,
)
from dissector.syncpoints import UNCONFIRMED, Sync, Tracker
from dissector.turns import Turns

SNIFF = 64
"""Octets of a direction that decide whether it opens one of our streams."""

WATCHED_OCTETS = 5 << 20
"""A connection whose start was not seen is looked through for landmarks so far, and as far again behind records that
were read from one on: Xen's longest have some 4 MiB, and little of what stands between is none."""
WATCHED_LONGER = 16 << 20
"""The same where the capture lacks octets, which are not counted: landmarks may be among them; or until the side that
spoke first speaks again: the secondary lists dirty pages in 8 octets each, in one record, and the primary waits."""

SNIFFING, OURS, CONTROL, OTHER = "sniffing", "ours", "control", "other"
"""CONTROL: the control connection of a colo-proxy (`dissector.proxy`)."""
PLAIN, REMUS, COLO = "plain", "remus", "colo"

WAITING_MAX = 1 << 16
WAITING_OCTETS = 64 << 20
"""Records, and octets kept of them, that may wait: for an ACK, to be judged."""

_NEVER = 1 << 62
"""In place of a stream offset, or of a frame."""
_in_order = operator.attrgetter("frame", "stream_offset")
_CLOSED = Stream()
"""In place of the state of a stream that nobody follows any more: there may be many of them."""


@dataclass(slots=True)
class Hole:
    """Octets of one side's stream that the capture lacks; `frame` covers them with an ACK, 0: none."""

    side: int
    offset: int
    length: int
    frame: int


class Connection:
    """One TCP connection being read.

    `number` is Wireshark's tcp.stream; `role` tells whether it carries one of our streams;
    `primary_side` which of its two sides (see `dissector.segments`) is the primary.  `kind`,
    `xen_version` and `guest_type` are filled in as the stream tells them.
    """

    def __init__(self, number: int, *, contents: bool = False, desk: Desk | None = None) -> None:
        self.number = number
        self._contents = contents
        self.role = SNIFFING
        self.primary_side: int | None = None
        self.kind = ""
        self.xen_version = ""
        self.guest_type = ""
        self.prefixes = [b"", b""]
        self._begins = [0, 0]
        self.holes: list[Hole] = []
        self.hole_count = 0
        """Those included that were forgotten (`forget_before`)."""
        self.findings: list[Finding] = []
        self.stream = Stream(desk)
        self._directions: list[Direction] = []
        self._seekers: list[Seeker | None] = [None, None]
        self._turns = Turns()
        self._doubted = [0, 0]
        self._doubts: list[int] = []
        """Heap of frames behind which octets are missing or not understood."""
        self._early: list[Run | None] = [None, None]
        self._decided = [False, False]
        self._acks: list[np.ndarray] = [NO_ACKS] * 2
        self._unacked: list[list[Record]] = [[], []]
        self._unacked_lost = [0, 0]
        self._opened = False
        self._last_forward: Structure | None = None
        self._tracker = Tracker()
        self._conformance = Conformance()
        self._waiting: list[Record] = []
        self.syncs: list[Sync] = []
        """Sync-points judged since the caller last took them."""
        self.messages: list[Message] = []
        """The same of a colo-proxy's messages."""
        self._conversation: Conversation | None = None

    @property
    def start_seen(self) -> bool:
        """Whether the primary's stream was seen from its first octet."""
        return self.primary_side is not None and (self.stream.syn[self.primary_side] or (
            self._opened and not any(stretch.frame == 0 for stretch in self.unread(FORWARD))))

    def unread(self, direction: str) -> list[Unread]:
        """The stretches of this direction that were not understood."""
        return [u for d in self._directions if d.direction == direction for u in d.unread]

    def undecided(self, direction: str) -> tuple[int, bytes]:
        """(stream offset, octets) of a record that is too short in this direction to tell which it is."""
        return next((d.undecided for d in self._directions if d.direction == direction), (0, b""))

    def judged(self, side: int) -> int:
        """Stream offset in front of which no octet of this side is of a record that is still to come, but for that
        `in_hand`."""
        return self._directions[side].judged if self.role == OURS else -1 << 62

    def in_hand(self, side: int) -> Record | None:
        """The record of this side that has not come to its end, once it is known which it is."""
        return self._directions[side].in_hand

    def passed(self, direction: str) -> int:
        """Octets of this direction that have passed, those that the capture lacks included."""
        return self.stream.passed(self.side(direction))

    def direction(self, side: int) -> str:
        """Direction of what this side sends."""
        return FORWARD if side == self.primary_side else BACK

    def side(self, direction: str) -> int:
        """Which side sends this direction."""
        primary = self.primary_side or 0
        return primary if direction == FORWARD else 1 - primary

    def feed(self, rows: np.ndarray, data: Block, unseen: tuple[int, int] = (0, 0)) -> list[Record]:
        """The records that these segments complete (rows of `dissector.segments.Segments`, whose octets are in
        `data`); `unseen`: octets of each side that passed behind them."""
        runs = self.stream.feed(rows, data, unseen)
        self._turns.note(self.stream.turns)
        records = self._take(runs)
        for side, direction in enumerate(self._directions):
            direction.reach(self.stream.passed(side))
        for side in (0, 1):
            if self.role != OTHER and self.stream.waits_for_start(side) \
                    and direction_of(self._first_octets(self.stream.held(side))[0]):
                records += self._take(self.stream.start(side))
        return records

    def expected(self, side: int) -> Expected:
        """What a side of a connection that is ours sends next."""
        following, unacked = self.stream.following(side), self._unacked[side]
        found = self._directions[side].expected
        if found is None:
            found, following = Expected(), SILENT if following == SILENT else NOT_KNOWN
        awaited = ended = -1
        if unacked:
            awaited, ended = (self.stream.sequence(side, record.end) for record in (unacked[0], unacked[-1]))
        earliest = self._earliest_unacked(side)
        if following >= 0 and earliest <= (passed := self.stream.passed(side)):
            # One may have come whole that is not told yet: what follows it decides which it is.
            awaited, ended = self.stream.sequence(side, earliest), self.stream.sequence(side, passed)
        return Expected(following, found.due, found.wanted, found.where, found.big, awaited, ended)

    def skip(self, side: int, octets: int) -> None:
        """So many octets of a side passed unseen, as `expected` allowed."""
        self.stream.skip(side, octets)
        self._directions[side].reach(self.stream.passed(side))

    def tick(self, now: int) -> list[Record]:
        """Nothing has come, and it is `now` (ns): the records that waited for octets which nobody will bring."""
        return self._take(self.stream.tick(now))

    @property
    def over(self) -> bool:
        """Whether both ends have said their last, or one has cut the connection."""
        return self.stream.reset or all(self.stream.known_end(side) for side in (0, 1))

    @property
    def settled(self) -> int:
        """Running number of the first frame from which on records may still come; those in front are all known
        and judged."""
        blocked = [direction.held_from for direction in self._directions]
        if self.stream.waits:
            blocked += [self.stream.waiting_from(side) for side in (0, 1)]
        return min(filter(None, blocked), default=_NEVER)

    def forget_before(self, frame: int) -> None:
        """Holes and stretches that were not understood, all of which lies in front of a frame, are not asked for
        any more."""
        self.holes = [hole for hole in self.holes if not 0 < hole.frame < frame]
        for side, direction in enumerate(self._directions):
            unread = direction.unread
            kept = [u for u in unread[:-1] if u.frame == 0 or (u.until_frame or frame) >= frame] + unread[-1:]
            self._doubted[side] -= len(unread) - len(kept)
            direction.unread = kept

    def finish(self) -> list[Record]:
        """The capture has ended: what is still open ends here."""
        if self.role == OTHER:
            return []
        records = self._take(self.stream.finish())
        if self.role == SNIFFING:
            self._unconfirmed()
        if self._conversation:
            self._conversation.finish()
            self._take_findings(self._conversation)
        for side in (0, 1) if self.role == OURS else ():
            late = self._own(self._directions[side].finish(), side)
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
        self._conformance.finish()
        self.findings += self._conformance.findings
        return records

    # --- recognising ---------------------------------------------------------------------------

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
        records: list[Record] = []
        if self.role == SNIFFING:
            records, runs = self._sniff(runs)
        if self._conversation:
            for side, run in enumerate(runs):
                self.messages += self._conversation.feed(side, run)
            self.messages.sort(key=lambda message: message.frame)
            self._take_findings(self._conversation)
        if self.role != OURS:
            return []
        for side, run in enumerate(runs):
            if len(run.rows) or self._directions[side].seeks:
                self._note_holes(run, side)
                records += self._own(self._directions[side].feed(run, self._turns), side)
            self._acknowledge(run, side)
        records.sort(key=_in_order)
        self._waiting += records
        self._judge()
        return records

    def _sniff(self, runs: tuple[Run, Run]) -> tuple[list[Record], tuple[Run, Run]]:
        """Find out whether this connection is ours.  If so: what was read of it meanwhile, and the
        runs to go on with."""
        left = [run.behind(early) for run, early in zip(runs, self._early, strict=True)]
        for side, run in enumerate(left):
            if self._decided[side] or not len(run.rows):
                continue
            self.prefixes[side], more = self._first_octets(run)
            started = self.stream.syn[side] and run.begin == 0 and not run.rows[0, HOLE]
            direction = direction_of(self.prefixes[side], cut=not more)
            # Without a SYN, libxc's header may well have libxl's stream in front of it.
            if direction and (started or not self.prefixes[side].startswith(IMAGE_HEADER.magic)):
                return self._recognised(side if direction == FORWARD else 1 - side, left)
            # Without a SYN it may be anything whose first segment says so: these messages come alone.
            message = proxy_message(self.prefixes[side])
            if message and (started or run.rows[0, SIZE] < SNIFF):
                self.role = CONTROL
                self._conversation = Conversation(self.number, side if message.sender == TOOLSTACK_END else 1 - side)
                return [], (left[0], left[1])
            self._decided[side] = bool(direction) or not more or not may_open(self.prefixes[side])
            if self._decided[side] and not started:
                self._seekers[side] = Seeker("", Passage())
                self._begins[side] = run.begin
        primary_side = self._seek(left)
        if primary_side is not None:
            return self._recognised(primary_side, left)
        # Fewer octets than a sniff takes: what waits here is small.
        self._early = [None if decided else run.tail(0)
                       for run, decided in zip(left, self._decided, strict=True)]
        if self._is_hopeless():
            self.role, self.stream, self._seekers = OTHER, _CLOSED, [None, None]
        return [], runs

    def _is_hopeless(self, frame: int = _NEVER) -> bool:
        """Whether none of ours is to be expected here any more, by who has spoken up to a frame."""
        seekers = [seeker for seeker in self._seekers if seeker]
        if any(seeker.hopeful for seeker in seekers):
            return False
        watched = sum(seeker.fruitless if seeker else self.stream.passed(side)
                      for side, seeker in enumerate(self._seekers) if self._decided[side])
        told = self._turns.again(frame) and all(seeker.is_whole for seeker in seekers)
        return watched > (WATCHED_OCTETS if told else WATCHED_LONGER) or (all(self._decided) and not seekers)

    def _seek(self, runs: list[Run]) -> int | None:
        """Look through the sides whose start was not seen; which side is the primary, once that is
        proven."""
        proven, frame = None, _NEVER
        rests: list[tuple[int, Seeker, Run]] = []
        for side, seeker in enumerate(self._seekers):
            if seeker is None:
                continue
            self._note_holes(runs[side], side)
            front, *rest = runs[side].cut(WATCHED_OCTETS - seeker.fruitless)
            if trial := seeker.feed(front, self._turns):
                proven = _primary(side, trial)
            if rest:
                rests.append((side, seeker, rest[0]))
                frame = min(frame, int(front.rows[:, FRAME].max()))
        # Nobody wants the rest if nothing is to be expected behind what was looked through of both.
        for side, seeker, run in rests if proven is not None or not self._is_hopeless(frame) else ():
            if trial := seeker.feed(run, self._turns):
                proven = _primary(side, trial)
        for side, sought in enumerate(self._seekers):
            if sought:
                self._keep_acks(_joined(self._acks[side], runs[side].acks), side, sought.earliest_begin)
                runs[side] = NO_RUN
        return self._partners() if proven is None else proven

    def _partners(self) -> int | None:
        """The primary's side, if sync-points of both sides answer each other."""
        seen = sorted(((record.frame, record.stream_offset, side, record)
                       for side, seeker in enumerate(self._seekers) if seeker
                       for trial in seeker.quiet for record in trial.quiet), key=lambda s: s[:2])
        for (_, _, side, a), (_, _, other, b) in itertools.pairwise(seen):
            one, answer = XEN_COLO.numbered(a.control_id), XEN_COLO.numbered(b.control_id)
            if side != other and a.direction != b.direction and one and answer \
                    and answer.short_name in one.successors:
                return side if a.direction == FORWARD else other
        return None

    def _recognised(self, primary_side: int, runs: list[Run]) -> tuple[list[Record], tuple[Run, Run]]:
        self.role, self.primary_side = OURS, primary_side
        self._directions = [Direction(self.direction(side), seeker, contents=self._contents)
                            for side, seeker in enumerate(self._seekers)]
        records = []
        for side, seeker in enumerate(self._seekers):
            if seeker:
                records += self._own(self._directions[side].adopt(self._begins[side]), side)
        for hole in self.holes:
            self._report_hole(hole)
        self._seekers = [None, None]
        return records, (runs[0], runs[1])

    def _unconfirmed(self) -> None:
        """Nothing is proven: what looks like sync-points at quiet points is listed as such."""
        trials = [(side, trial) for side, seeker in enumerate(self._seekers) if seeker
                  for trial in seeker.quiet if trial.aligned]
        if not trials:
            return
        side, first = trials[0]
        self.role = OURS
        self.primary_side = _primary(side, first)
        self._directions = [Direction(self.direction(side)) for side in (0, 1)]
        for side, trial in trials:
            for record in trial.quiet:
                point = XEN_COLO.numbered(record.control_id)
                if record.direction == self.direction(side) and point:
                    self._own([record], side)
                    self.syncs.append(Sync(point, record, None, UNCONFIRMED, True))

    def _take_findings(self, conversation: Conversation) -> None:
        self.findings += conversation.findings
        conversation.findings.clear()

    # --- records -------------------------------------------------------------------------------

    def _own(self, records: list[Record], side: int) -> list[Record]:
        for record in records:
            record.connection = self.number
            self.learn(record)
            self._conformance.feed(record)
        self._unacked[side] += records
        direction = self._directions[side]
        self.findings += [replace(f, connection=self.number) for f in direction.findings]
        self.findings += self._conformance.findings
        direction.findings, self._conformance.findings = [], []
        for unread in direction.unread[self._doubted[side]:]:
            heapq.heappush(self._doubts, unread.frame)
        self._doubted[side] = len(direction.unread)
        return records

    def learn(self, record: Record) -> None:
        """Take in what a record tells about the connection."""
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
        if run.whole:
            return
        for i in np.flatnonzero(run.rows[:, HOLE]):
            row = run.rows[i]
            hole = Hole(side, int(row[OFFSET]), int(row[SIZE]), int(row[FRAME]))
            self.holes.append(hole)
            self.hole_count += 1
            behind = run.rows[i + 1:, FRAME]
            frame = hole.frame or (int(behind[0]) if len(behind) else 0)
            heapq.heappush(self._doubts, max(frame - 1, 0))
            if self.role == OURS:
                self._report_hole(hole)

    def _report_hole(self, hole: Hole) -> None:
        proof = " (an ACK proves that they passed)" if hole.frame else ""
        self.findings.append(Finding("hole", f"{hole.length} octets are missing{proof}", self.number,
                                     self.direction(hole.side), hole.frame, hole.offset))

    def _acknowledge(self, run: Run, side: int) -> None:
        """Fill in when the records of this side were acknowledged."""
        acks = _joined(self._acks[side], run.acks)
        left = self._unacked[side]
        if not left and not len(acks):
            return
        if left and len(acks):
            rows, waiting = acks.tolist(), []
            covers = [row[COVERS] for row in rows]
            for record in left:
                if (at := bisect_left(covers, record.end)) < len(rows):
                    _, record.acked_frame, record.acked_ns = rows[at]
                else:
                    waiting.append(record)
            left = waiting
        surplus = _surplus(left)
        self._unacked_lost[side] += surplus
        self._unacked[side] = left[surplus:]
        self._keep_acks(acks, side, self._earliest_unacked(side))

    def _earliest_unacked(self, side: int) -> int:
        """No record that was not acknowledged, or is still to come, ends before this stream offset."""
        unacked = self._unacked[side]
        return min(self._directions[side].earliest_end, unacked[0].end if unacked else _NEVER)

    def _keep_acks(self, acks: np.ndarray, side: int, first: int) -> None:
        """Those that records which end at stream offset `first` or behind may need."""
        if not len(acks) or acks.item(-1, COVERS) < first:
            self._acks[side] = NO_ACKS
            return
        useful = acks[acks[:, COVERS].searchsorted(first):]
        self._acks[side] = (useful[1::2] if len(useful) > ACKS_MAX else useful).copy()

    # --- sync-points ---------------------------------------------------------------------------

    def _judge(self, final: bool = False) -> None:
        """Judge, in order, what no record that is still to come can precede."""
        if self.role != OURS or not self._waiting:
            return
        ready, until = self._waiting, _NEVER if final else self.settled
        self._waiting = []
        if until < _NEVER:
            if surplus := _surplus(ready):
                until = max(until, ready[surplus - 1].frame + 1)
            self._waiting = [record for record in ready if record.frame >= until]
            ready = [record for record in ready if record.frame < until]
        ready.sort(key=_in_order)
        self._tracker.start_seen = self.start_seen
        for record in ready:
            while self._doubts and self._doubts[0] < record.frame:
                heapq.heappop(self._doubts)
                self._tracker.doubt()
            if record.frame and (sync := self._tracker.feed(record)):
                self.syncs.append(sync)
        self.findings += self._tracker.findings
        self._tracker.findings = []


def _primary(side: int, trial: Trial) -> int:
    """Which side is the primary, if what this one sends is what a trial says."""
    return side if trial.landmark.direction == FORWARD else 1 - side


def _joined(acks: np.ndarray, more: np.ndarray) -> np.ndarray:
    """ACKs of one direction: each covers more than the one in front of it."""
    if not len(acks) or not len(more):
        return acks if len(acks) else more
    both = np.concatenate((acks, more))
    if acks.item(-1, COVERS) < more.item(0, COVERS):
        return both
    return both[np.diff(np.maximum.accumulate(both[:, COVERS]), prepend=-1 << 62) > 0]


def _surplus(records: list[Record]) -> int:
    """How many of these records, the oldest, are more than may wait."""
    if sum([len(record.octets) for record in records]) <= WAITING_OCTETS:
        return max(0, len(records) - WAITING_MAX)
    kept = np.cumsum([len(record.octets) for record in reversed(records)])
    return max(len(records) - WAITING_MAX, len(records) - int(kept.searchsorted(WAITING_OCTETS)))
