# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the place in a stream whose beginning was not seen, or in which it was lost.

Every candidate (`dissector.landmarks`) is tried: a framer reads on from it.  What it reads is held
back until it is proven, and forgotten when it contradicts itself, so that a stream which happens to
lie in a guest's memory is not taken for the one on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dissector.findings import NOTE, Finding
from dissector.framing import Framer
from dissector.landmarks import Landmark, landmarks
from dissector.passage import Passage
from dissector.protocol import BACK, CHECKPOINT_STATE, FORWARD, PAUSES, STATES, SYNC_LANDMARKS
from dissector.record import Record
from dissector.streams import FRAME, GIVEN, HOLE, OFFSET, TIME, Run
from dissector.turns import Turns

CHAIN = 3
"""Valid records in a row that prove each other, with a pause of their writer behind one of them."""
CHAIN_OCTETS = 64 << 20
"""Or without a pause, if they are so much: a plain migration pauses only at its end."""
PLANTED_OCTETS = 64 << 10
"""Or so much, if a hole ends them: a stream that lies in a guest's memory is hardly longer, since it
lies there in pages."""
TRIALS = 64
"""Candidates that are tried at the same time; of more, those that have come least far are dropped."""
SYNCS_A_FRAME = 2
"""A frame brings no more sync-points: SVM_RESUMED may ride along with SVM_READY, then the other side
must speak."""
WRITES = 4
"""A sync-point and what rides with it are written in pieces of so many octets, or a multiple.  One in
the other byte order would seem to stand 3 octets beside it, in the padding."""

IDLE = 20_000_000
"""ns of silence behind which the primary begins a record: writers pause between records, not inside."""

_TOLERATED = ("shifted_dirty_list", "lost_place", "lost_in_hole")


@dataclass(slots=True, eq=False)
class Trial:
    """A reading from a candidate on.  `aligned`: the candidate stands at the start of a segment;
    `idle`: there, after a silence or when the other side had spoken.

    Where it contradicts itself it forgets what it has read and reads on: behind a stream that lies in
    a page the true one goes on.
    """

    landmark: Landmark
    framer: Framer
    aligned: bool
    idle: bool
    records: list[Record] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    quiet: list[Record] = field(default_factory=list)
    """Sync-points that came when the other side had spoken last."""
    paused: bool = False
    """A record behind which the primary waits was the last of its frame."""
    read: list[Record] = field(default_factory=list)
    """What the latest run brought, forgotten or not."""
    _last: Record | None = None

    @property
    def offset(self) -> int:
        """Stream offset of what it may prove."""
        return self.records[0].stream_offset if self.records else self.framer.offset

    @property
    def dead(self) -> bool:
        return self.framer.lost is not None

    def advance(self, run: Run, turns: Turns) -> None:
        """Read on; find out whether this can be a stream of ours."""
        self.read = self.framer.feed(run)
        self.findings += self.framer.findings
        faulty = {f.stream_offset for f in self.framer.findings if f.rule not in _TOLERATED
                  and (f.severity != NOTE or f.rule == "optional_record")}
        self.framer.findings = []
        for record in self.read:
            self._follow(record.first_frame)
            quiet = record.structure is CHECKPOINT_STATE and self._is_quiet(record, turns)
            self.quiet += [record] if quiet else []
            self.records.append(record)
            self._last = record
            if record.stream_offset in faulty or self._crowded() or (
                    record.structure is CHECKPOINT_STATE and not quiet):
                self._forget()
        if self.framer.begun:
            self._follow(self.framer.begun)

    def _is_quiet(self, record: Record, turns: Turns) -> bool:
        if record.direction == BACK:
            return True  # no pages there
        begins = self._last.last_frame != record.first_frame if self._last else self.aligned
        return begins and record.first_frame in turns

    def _follow(self, frame: int) -> None:
        """Something begins in `frame`: what of the record in front of it?"""
        last, lost = self._last, self.framer.lost
        if last is None:
            return
        if last.last_frame != frame:
            self.paused |= last.direction == FORWARD and last.structure in PAUSES and last in self.records
        elif last.structure is CHECKPOINT_STATE and last.direction == FORWARD:
            self._forget()  # the other side must answer first
        elif lost and not lost.hole and last in self.quiet:
            self.quiet.remove(last)

    def _crowded(self) -> bool:
        recent = self.records[-SYNCS_A_FRAME - 1:]
        return len(recent) > SYNCS_A_FRAME and recent[0].frame == recent[-1].frame and all(
            record.structure is CHECKPOINT_STATE for record in recent)

    def _forget(self) -> None:
        self.records, self.quiet, self.paused = [], [], False

    def proven(self, final: bool = False) -> bool:
        """Whether its first record stands where one must, or its records prove each other."""
        if self.idle and self.records and self.records[0].stream_offset == self.landmark.offset:
            return self.framer.lost is None or self.framer.lost.hole
        if len(self.records) < CHAIN:
            return False
        span = self.records[-1].end - self.offset
        if lost := self.framer.lost:
            return lost.hole and span >= PLANTED_OCTETS
        return final or self.paused or self.landmark.direction == BACK or span >= CHAIN_OCTETS


class Seeker:
    """Looks for the place in one direction of a connection.

    `direction`: which it is, "" if that is not known either.  `feed` takes runs and returns a trial
    that is proven, if one is; what stands behind it is then its framer's.  `passage`: up to the
    first of these runs.
    """

    def __init__(self, direction: str, passage: Passage, begin: int | None = None) -> None:
        self.direction = direction
        self.trials: list[Trial] = []
        self.quiet: list[Trial] = []
        """With a quiet sync-point, dead ones too: the other direction may prove them."""
        self.fruitless = 0
        """Octets that were looked through since one of the trials read a record and kept it."""
        self.is_whole = True
        """Whether the capture has had every octet so far."""
        self._passage = passage
        self._begin = begin
        self._early: Run | None = None
        self._tried: set[tuple[int, str]] = set()
        """Stream offset and layer of records of trials: a trial from there on would read the same."""

    def know(self, direction: str) -> None:
        """The direction is known now."""
        self.direction = direction
        self.trials = [t for t in self.trials if t.landmark.direction == direction]
        self.quiet = [t for t in self.quiet if t.landmark.direction == direction]

    @property
    def hopeful(self) -> bool:
        """Whether anything that was found may yet be proven."""
        return bool(self.quiet or self.trials)

    @property
    def held_from(self) -> int:
        """Frame of the first record that is held back; 0: none is."""
        return min((t.records[0].frame for t in self.trials if t.records), default=0)

    @property
    def earliest_begin(self) -> int:
        """No record that may still be proven begins before this stream offset."""
        offsets = [t.offset for t in (*self.trials, *self.quiet)]
        return min(offsets + ([] if self._begin is None else [self._begin]), default=-1 << 62)

    def feed(self, run: Run, turns: Turns) -> Trial | None:
        """Look through a run."""
        self.fruitless += int(run.rows[:, GIVEN].sum())
        self.is_whole &= run.whole
        for trial in self.trials:
            self._advance(trial, run, turns)
        run = run.behind(self._early)
        if not len(run.rows):
            return self._proven()
        self._begin = run.begin if self._begin is None else self._begin
        starts = run.rows[:, OFFSET]
        while (proven := self._proven()) is None:
            found, self._begin = landmarks(run, self._begin)
            if not found:
                break  # at the end
            for landmark in found:
                into = landmark.offset - int(starts[starts.searchsorted(landmark.offset, "right") - 1])
                if landmark.sync and into % WRITES:
                    continue
                self._try(landmark, run, not into, turns)
        self._bury(proven)
        if proven and self.direction:
            return proven  # whose framer goes on
        self._passage.look_at(run)
        row = int(run.rows[:, OFFSET].searchsorted(self._begin, "right")) - 1
        self._passage.leave(row)
        self._early = run.tail(row)
        return proven

    def finish(self) -> Trial | None:
        """The stream has ended: the trial that has come farthest, if it has not failed."""
        left = [t for t in self.trials if t.proven(final=True)]
        return max(left, key=lambda t: t.records[-1].end - t.offset, default=None)

    def _try(self, landmark: Landmark, run: Run, aligned: bool, turns: Turns) -> None:
        layer = STATES[landmark.state].layer
        if self.direction not in ("", landmark.direction) or (landmark.offset, layer) in self._tried:
            return
        trial = Trial(landmark, Framer.found(landmark.direction, landmark.state, landmark.order,
                                             landmark.offset, self._passage.copy()),
                      aligned, aligned and not landmark.sync and self._is_idle(landmark, run, turns))
        self._advance(trial, run, turns)
        if not trial.dead or trial.quiet or trial.proven():
            self.trials.append(trial)

    @staticmethod
    def _is_idle(landmark: Landmark, run: Run, turns: Turns) -> bool:
        row = int(run.rows[:, OFFSET].searchsorted(landmark.offset))
        silence = run.rows[row, TIME] - run.rows[row - 1, TIME] if row and not run.rows[row - 1, HOLE] else 0
        return bool(silence >= IDLE) or turns.is_answer(int(run.rows[row, FRAME]))

    def _advance(self, trial: Trial, run: Run, turns: Turns) -> None:
        trial.advance(run, turns)
        if trial.read and trial.records:
            self.fruitless = 0
        self._tried.update((record.stream_offset, self._layer_of(record)) for record in trial.read)

    @staticmethod
    def _layer_of(record: Record) -> str:
        """Layer of the state in which a trial from this record on would begin."""
        if record.structure is CHECKPOINT_STATE:
            return STATES[SYNC_LANDMARKS[record.direction]].layer
        return record.layer

    def _proven(self) -> Trial | None:
        return next((t for t in self.trials if t.proven() or (self.direction and t.quiet)), None)

    def _bury(self, proven: Trial | None) -> None:
        """Keep what may still be proven, and nothing of the run."""
        for trial in self.trials:
            if trial is not proven:
                trial.framer.rest = None
        self._tried = {tried for tried in self._tried if tried[0] >= (self._begin or 0)}
        self.quiet += [t for t in self.trials if t.quiet and t not in self.quiet]
        self.quiet = self.quiet[-TRIALS:]
        alive = [t for t in self.trials if not t.dead]
        alive.sort(key=lambda t: (t is proven, len(t.records)), reverse=True)
        self.trials = sorted(alive[:TRIALS], key=lambda t: t.offset)
