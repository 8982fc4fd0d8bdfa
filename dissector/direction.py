# SPDX-License-Identifier: GPL-2.0-or-later
"""One direction of a connection: framed while its place is known, sought while it is not."""

from __future__ import annotations

from dataclasses import dataclass

from dissector.expected import Expected
from dissector.findings import Finding
from dissector.framing import Framer
from dissector.record import Record
from dissector.seeker import Seeker, Trial
from dissector.streams import Run
from dissector.turns import Turns


@dataclass(slots=True)
class Unread:
    """A stretch of a direction that was not understood: octets from stream offset `begin` to `end`
    (None: to the last), behind `frame` and up to `until_frame` (None: to the last)."""

    direction: str
    begin: int
    frame: int
    end: int | None = None
    until_frame: int | None = None


class Direction:
    """Reads one direction.

    `feed` takes runs, `finish` ends the stream; both return records in stream order.  `findings`
    collects what is wrong (of connection -1: the caller knows which), `unread` what was not
    understood.  With a `seeker` the place is not known at first.  `contents`: records of pages keep
    them (not those that were read while the place was sought).
    """

    def __init__(self, direction: str, seeker: Seeker | None = None, *, contents: bool = False) -> None:
        self.direction = direction
        self._contents = contents
        self.findings: list[Finding] = []
        self.unread: list[Unread] = []
        self._framer = None if seeker else Framer(direction, contents=contents)
        self._seeker = seeker

    @property
    def seeks(self) -> bool:
        """Whether its place is not known."""
        return self._framer is None

    @property
    def held_from(self) -> int:
        """Frame of the first record that is held back until it is proven; 0: none is."""
        return self._seeker.held_from if self._seeker else 0

    @property
    def earliest_end(self) -> int:
        """No record that is still to come ends before this stream offset."""
        if self._framer:
            return self._framer.earliest_end
        assert self._seeker is not None
        return self._seeker.earliest_begin

    @property
    def in_hand(self) -> Record | None:
        """The record that has not come to its end, once it is known which it is."""
        return self._framer.in_hand if self._framer else None

    @property
    def judged(self) -> int:
        """Stream offset in front of which no octet is of a record that is still to come, but for that `in_hand`."""
        if self._framer:
            return self._framer.judged
        assert self._seeker is not None
        return self._seeker.earliest_begin

    @property
    def undecided(self) -> tuple[int, bytes]:
        """(stream offset, octets) of a record that is too short to tell which it is."""
        return (self._framer.offset, self._framer.undecided) if self._framer else (0, b"")

    @property
    def expected(self) -> Expected | None:
        """What the octets behind those that have come are, but for sequence numbers; None: it looks at every one."""
        return self._framer.expected if self._framer else None

    def reach(self, offset: int) -> None:
        """Every octet in front of this stream offset has come; those that were not fed, as `expected` allowed."""
        if self._framer and not self._framer.lost:
            self._framer.reach(offset)

    def feed(self, run: Run, turns: Turns) -> list[Record]:
        """The records that this run completes."""
        records: list[Record] = []
        while True:
            if self._framer:
                records += self._framer.feed(run)
                self._take_findings(self._framer)
            elif self._seeker and (trial := self._seeker.feed(run, turns)):
                records += self._accept(trial)
            if self._framer is None or self._framer.lost is None:
                return records
            run = self._lose(self._framer)

    def finish(self) -> list[Record]:
        """The stream has ended."""
        records = []
        if self._seeker and (trial := self._seeker.finish()):
            records = self._accept(trial)
        if self._framer:
            records += self._framer.finish()
            self._take_findings(self._framer)
        return records

    def adopt(self, begin: int) -> list[Record]:
        """What the seeker has read, now that the direction is proven; the capture has octets from
        stream offset `begin` on."""
        seeker = self._seeker
        assert seeker is not None
        seeker.know(self.direction)
        self.unread.append(Unread(self.direction, begin, 0))
        records: list[Record] = []
        for trial in sorted({*seeker.quiet, *seeker.trials}, key=lambda t: t.offset):
            if trial.records and (trial.quiet or trial.proven()) and trial.offset >= begin:
                records += self._accept(trial)
                begin = records[-1].end
                if trial.framer.lost is None:
                    return records
                self._note_loss(trial.framer)
        # Only dead ones: what they leave is looked through already.
        seeker.quiet = []
        self._framer, self._seeker = None, seeker
        return records

    def _accept(self, trial: Trial) -> list[Record]:
        first = trial.records[0]
        stretch = self.unread[-1]
        stretch.end, stretch.until_frame = first.stream_offset, first.first_frame
        if octets := first.stream_offset - stretch.begin:
            what = "goes on" if stretch.frame else "begins"
            self.findings.append(Finding(
                "found_place", f"reading {what} at {first.full_name}; {octets} octets before it are not read",
                direction=self.direction, frame=first.first_frame, stream_offset=first.stream_offset))
        self.findings += [f for f in trial.findings if (f.stream_offset or 0) >= first.stream_offset]
        self._framer, self._seeker = trial.framer, None
        self._framer.contents = self._contents
        return trial.records

    def _lose(self, framer: Framer) -> Run:
        """Look for the place from now on; what there is to be looked through."""
        assert framer.lost is not None
        assert framer.rest is not None
        self._note_loss(framer)
        self._framer, self._seeker = None, Seeker(self.direction, framer.passage, framer.lost.stream_offset + 1)
        return framer.rest

    def _note_loss(self, framer: Framer) -> None:
        assert framer.lost is not None
        self.unread.append(Unread(self.direction, framer.lost.stream_offset, framer.lost.frame))

    def _take_findings(self, framer: Framer) -> None:
        self.findings += framer.findings
        framer.findings = []
