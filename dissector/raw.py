# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw streams: what one side wrote, in a file of its own; no packets, no times.

What `xl save` writes, a libxl stream, a bare libxc stream, or a dump of the back channel.  Sans-I/O:
fed with blocks of octets in any cut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dissector.conformance import Conformance
from dissector.findings import Finding
from dissector.framing import Framer
from dissector.octets import NO_OCTETS
from dissector.protocol import FORWARD, SENDER, XEN_COLO
from dissector.record import Record
from dissector.streams import GIVEN, NO_ACKS, OFFSET, RANGE_COLUMNS, SIZE, Run
from dissector.syncpoints import Tracker, one_sided


class RawStream:
    """One direction of a migration stream.

    `feed` takes octets, `finish` ends the stream; both return records, whose frames and times are
    empty.  `findings` collects what is wrong (of connection -1).
    """

    def __init__(self, direction: str) -> None:
        self.direction = direction
        self.findings: list[Finding] = []
        self._framer = Framer(direction)
        self._conformance = Conformance()
        self._tracker = Tracker(one_sided(XEN_COLO, SENDER[direction]))
        self._tracker.start_seen = True
        self._size = 0

    def feed(self, octets: np.ndarray) -> list[Record]:
        """The records that these octets (uint8) complete."""
        if not len(octets):
            return []
        row = np.zeros((1, RANGE_COLUMNS), np.int64)
        row[0, OFFSET], row[0, SIZE], row[0, GIVEN] = self._size, len(octets), len(octets)
        self._size += len(octets)
        return self._judged(self._framer.feed(
            Run(row, NO_ACKS, octets, NO_OCTETS)))

    def finish(self, *, cut: bool = False) -> list[Record]:
        """The stream has ended; `cut`: what was fed is known not to be all of it."""
        records = self._judged(self._framer.finish())
        self._conformance.finish()
        self._take()
        if self.direction == FORWARD and not (cut or self._framer.lost or self._framer.state.final
                                              or self._conformance.checkpointed):
            self.findings.append(Finding(
                "no_end", f"the stream stops after {self._size} octets without its END record",
                direction=FORWARD, stream_offset=self._size))
        return records

    def _judged(self, records: list[Record]) -> list[Record]:
        for record in records:
            self._conformance.feed(record)
            self._tracker.feed(record)
        self._take()
        return records

    def _take(self) -> None:
        """Gather what the rooms have found, in the order of the stream."""
        found = self._framer.findings + self._conformance.findings + self._tracker.findings
        self.findings += sorted((replace(f, connection=-1) for f in found),
                                key=lambda f: f.stream_offset or 0)
        self._framer.findings, self._conformance.findings, self._tracker.findings = [], [], []
