# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: from capture files to records, sync-points and findings, in one pass.

    capture -> packets -> segments -> streams -> records -> sync-points
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from dissector import headers as hd
from dissector.ahead import blocks
from dissector.blocks import Block, File
from dissector.connection import CONTROL, OTHER, OURS, Connection
from dissector.container import Container
from dissector.findings import Finding, Findings
from dissector.headers import LINKS, NO_PACKET
from dissector.packets import Packets
from dissector.protocol import DIRECTIONS
from dissector.proxy import Message
from dissector.recall import read_octets
from dissector.recognise import KINDS, seems
from dissector.record import Record
from dissector.segments import STREAM, Segments, Streams
from dissector.source import Source
from dissector.streams import HELD_OCTETS, Desk
from dissector.syncpoints import Sync
from dissector.trace import Trace

UNDECIDED_MAX = 1 << 14
"""Connections that have not told yet what they are; the one that was silent for longest is left."""
OURS_MAX = 1 << 12
"""Connections with one of our streams, or a colo-proxy's, that are followed; further ones are left."""
HELD_MAX = 256 << 20
"""Octets of all connections that may wait behind holes."""

_REST_OF_RULES = (
    (hd.CUT, "cut_headers", "{count} frames are cut off inside their headers"),
    (hd.FRAGMENT, "ip_fragment", "{count} IP fragments were left out"),
    (hd.TUNNELLED, "tunnelled", "{count} packets travel in a tunnel"),
    (hd.OPAQUE, "opaque_tunnel", "{count} packets travel in an encapsulation that is not opened"),
)


def _by_stream(segments: Segments) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of each stream, in their order."""
    rows = segments.rows
    if not len(rows):
        return
    if segments.of_one:
        yield rows.item(0, STREAM), rows
        return
    numbers = rows[:, STREAM]
    order = np.argsort(numbers, kind="stable")
    rows, numbers = rows[order], numbers[order]
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
    for begin, end in itertools.pairwise(bounds):
        yield numbers.item(begin), rows[begin:end]


class Engine:
    """Reads captures.  Iterate over `run` for events, in the order in which they are known; look
    at `connections`, `files` and `findings` while or after.

    `connections` are those that carry one of our streams, and those that have not told; `seems`
    says of every one what it seems to be.

    Memory: the state of the connections followed (`OURS_MAX`, `UNDECIDED_MAX`), what `Streams` remembers of
    every one, findings and one entry for each block of a file; records are handed out, not kept.
    """

    def __init__(self, *, segments: bool = False, contents: bool = False, most: int | None = None) -> None:
        """`segments`: keep those of connections that may be ours (`trace`).  `contents`: `Record.octets` of
        PAGE_DATA hold the pages, too, and those of dirty lists every PFN.  `most`: TCP streams that are
        remembered (`Streams`)."""
        self.files: list[File] = []
        self.findings = Findings()
        self.connections: dict[int, Connection] = {}
        self.trace = Trace() if segments else None
        self._contents, self._desk = contents, Desk()
        self.streams = Streams(sparing=not segments, most=most, kept=self.connections)
        self._undecided: dict[int, Connection] = {}
        """In the order in which they were heard of last."""
        self._ours = 0
        self._left = 0
        self._held = 0
        self.first_ns = 0
        self._links: set[int] = set()

    def run(self, names: Iterable[str | os.PathLike[str] | Source], *,
            on_progress: Callable[[int], None] | None = None) -> Iterator[Record | Sync | Message]:
        """Events of these files, which are one capture (a ring), in this order.  An open source
        may stand for a file.

        Raises `dissector.SourceError` if a file cannot be read at all.
        """
        yield from self.read(blocks(names, on_progress))

    def read(self, found: Iterable[Block]) -> Iterator[Record | Sync | Message]:
        """Events of these blocks, which are a whole capture."""
        for block in found:
            yield from self.take(block)
        yield from self.finish()

    def take(self, block: Block) -> Iterator[Record | Sync | Message]:
        """Events of the next block."""
        if isinstance(block, File):
            self.files.append(block)
            if block.missed:
                self.findings.append(Finding("missed_files", f"{block.text}: {block.missed} files in front of it "
                                             "were gone before they could be read"))
        elif isinstance(block, Packets):
            yield from self._packets(block, self.files[-1])
        else:
            self._end_of_file(self.files[-1], block)

    def tick(self, now: int) -> Iterator[Record | Sync | Message]:
        """For a moment nothing has come, and by the capture's clock it is `now` (ns): what waits for octets
        that nobody will bring waits no longer."""
        for connection in self.connections.values():
            if connection.stream.waits:
                events = list(self._advance(connection, functools.partial(connection.tick, now)))
                self._expect(connection)
                yield from events

    def retire(self, number: int) -> Iterator[Record | Sync | Message]:
        """A connection is over: its last events.  Nothing of it is remembered; if it should speak again, that is
        a late start."""
        connection = self.connections[number]
        yield from self._advance(connection, connection.finish)
        self._held -= connection.stream.held_octets
        self._undecided.pop(number, None)
        self._ours -= connection.role in (OURS, CONTROL)
        self.streams.restart(number)
        del self.connections[number]

    def finish(self) -> Iterator[Record | Sync | Message]:
        """The capture has ended."""
        for connection in self.connections.values():
            yield from self._advance(connection, connection.finish)
        self._report()

    def _advance(self, connection: Connection, step: Callable[[], list[Record]]) -> Iterator[Record | Sync | Message]:
        """Events of a step that brings no segments."""
        self._catch_up(connection)
        self._held -= connection.stream.held_octets
        records = step()
        self._held += connection.stream.held_octets
        yield from self._own(records)
        yield from self._take(connection)

    def read_octets(self, record: Record) -> bytes | None:
        """Every octet of a record, page contents and blobs too (`dissector.recall`)."""
        return read_octets(self, record)

    def file_frame(self, frame: int) -> tuple[str, int]:
        """(file name, frame number in that file) of a running frame number."""
        at = bisect.bisect_right([file.first for file in self.files], frame) - 1
        file = self.files[max(at, 0)]
        return file.name, frame - file.first + 1

    def ours(self) -> list[Connection]:
        """The connections that carry one of our streams."""
        return [c for c in self.connections.values() if c.role == OURS]

    def passed(self, connection: Connection) -> dict[str, int]:
        """Octets that have passed, by direction, those included that nobody looks at (`Streams.expect`)."""
        unseen = self.streams.passed(connection.number)
        return {direction: connection.passed(direction) + unseen[connection.side(direction)]
                for direction in DIRECTIONS}

    def seems(self, number: int) -> str:
        """What a connection that is none of ours seems to be (`dissector.recognise`)."""
        if connection := self.connections.get(number):
            return seems(tuple(connection.prefixes))  # type: ignore[arg-type]
        if octets := self.streams.sniffed(number):
            return seems(octets)
        return KINDS[self.streams.label(number)]

    def segments(self, connection: Connection) -> np.ndarray:
        """Its TCP segments (`Trace.of`); ValueError if they were not kept."""
        if self.trace is None:
            raise ValueError("segments are kept where they are asked for: segments=True")
        one, other = (connection.stream.origin(side) for side in (0, 1))
        return self.trace.of(connection.number, (one, other))

    def ends(self, connection: Connection) -> tuple[str, str]:
        """ "address:port" of the primary and of the secondary."""
        primary, secondary = (self.streams.endpoint(connection.number, connection.side(direction))
                              for direction in DIRECTIONS)
        return primary, secondary

    def _packets(self, packets: Packets, file: File) -> list[Record | Sync | Message]:
        events: list[Record | Sync | Message] = []
        if not len(packets):
            return events
        file.packets += len(packets)
        file.drops = packets.drops
        if packets.container is not None and file.seekable:
            file.places.append((packets.first, packets.start, packets.container))
        if not self.first_ns and packets.time.any():
            self.first_ns = int(packets.time[packets.time > 0][0])
        unknown = self.streams.counters[hd.UNKNOWN_LINK]
        segments = self.streams.scan(packets)
        if self.streams.counters[hd.UNKNOWN_LINK] > unknown:
            self._links |= set(np.unique(packets.link).tolist()) - {*LINKS, NO_PACKET}
        for number, mine in _by_stream(segments):
            connection = self.connections.get(number) or self._open(number)
            records = self._feed(connection, segments, mine)
            if self._keeps(connection):
                events += self._own(records)
                events += self._take(connection)
            else:
                self._leave(connection)
        return events

    def _open(self, number: int) -> Connection:
        """Follow a connection that has its first octets."""
        connection = self.connections[number] = Connection(number, contents=self._contents, desk=self._desk)
        for side in (0, 1):
            if opened := self.streams.opened(number, side):
                connection.stream.open(side, *opened)
        self._undecided[number] = connection
        return connection

    def _feed(self, connection: Connection, segments: Segments, rows: np.ndarray) -> list[Record]:
        """The more octets wait behind holes, the fewer may wait on."""
        stream = connection.stream
        self._held -= stream.held_octets
        stream.limit = min(HELD_OCTETS, (HELD_MAX - self._held) // 4)
        records = connection.feed(rows, segments.packets.octets, self.streams.take_passed(connection.number))
        self._held += connection.stream.held_octets
        if self.trace is not None:
            self.trace.take(connection.number, segments, rows)
        self._expect(connection)
        return records

    def _expect(self, connection: Connection) -> None:
        """Let pass unseen from now on what the connection does not need; segments that are kept are all seen."""
        if connection.role == OURS and self.trace is None:
            self.streams.expect(connection.number, (connection.expected(0), connection.expected(1)))

    def _catch_up(self, connection: Connection) -> None:
        """Tell a connection of the octets that passed unseen."""
        for side, octets in enumerate(self.streams.take_passed(connection.number)):
            if octets:
                connection.skip(side, octets)

    def _keeps(self, connection: Connection) -> bool:
        """Whether a connection is followed: not one that is none of ours, nor one too many."""
        undecided = self._undecided.pop(connection.number, None)
        if connection.role == OTHER:
            return False
        if undecided is None:
            return True
        if connection.role in (OURS, CONTROL):
            self._ours += 1
            self._left += self._ours > OURS_MAX
            return self._ours <= OURS_MAX
        self._undecided[connection.number] = connection
        if len(self._undecided) > UNDECIDED_MAX:
            self._left += 1
            self._leave(self._undecided.pop(next(iter(self._undecided))))
        return True

    def _leave(self, connection: Connection) -> None:
        number = connection.number
        self.streams.ignore(number, KINDS.index(seems(tuple(connection.prefixes))))  # type: ignore[arg-type]
        if self.trace is not None:
            self.trace.leave(number)
        self._held -= connection.stream.held_octets
        del self.connections[number]

    def _own(self, records: list[Record]) -> list[Record]:
        reader = self.read_octets
        for record in records:
            record.reader = reader
        return records

    def _take(self, connection: Connection) -> list[Sync | Message]:
        told: list[Sync | Message] = [*connection.syncs, *connection.messages]
        connection.syncs, connection.messages = [], []
        self.findings.add(connection.findings)
        connection.findings = []
        return told

    def _end_of_file(self, file: File, container: Container) -> None:
        file.kind, file.drops = container.kind, container.drops
        if container.fault:
            self.findings.append(Finding("damaged_file", f"{file.text}: {container.fault}"))
        if container.drops:
            self.findings.append(Finding(
                "capture_drops", f"{file.text}: the capturing program dropped {container.drops} "
                "packets"))

    def _report(self) -> None:
        """Findings that are counted over the whole capture."""
        self.findings.say_what_was_left_out()
        if self._left:
            self.findings.append(Finding(
                "too_many_connections", f"{self._left} connections were left: more than {OURS_MAX} carry a "
                f"migration stream, or more than {UNDECIDED_MAX} had not told yet what they carry"))
        counters, first = self.streams.counters, self.streams.first_packet
        for which, rule, text in _REST_OF_RULES:
            if counters[which]:
                self.findings.append(Finding(rule, text.format(count=counters[which]),
                                             frame=int(first[which])))
        if counters[hd.UNKNOWN_LINK]:
            links = ", ".join(str(link) for link in sorted(self._links))
            self.findings.append(Finding(
                "unknown_link", f"{counters[hd.UNKNOWN_LINK]} frames have a link type that is not "
                f"understood (LINKTYPE {links}); understood are "
                + ", ".join(sorted(set(LINKS.values()))), frame=int(first[hd.UNKNOWN_LINK])))
        if counters[hd.CLOCK_BACK]:
            self.findings.append(Finding(
                "clock_back", f"the clock steps back {counters[hd.CLOCK_BACK]} times, by "
                f"{counters[hd.STEP_BACK] / 1e3:.0f} µs at most",
                frame=int(first[hd.CLOCK_BACK])))
