# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP segments, told apart by stream: the compiled pass that remembers what other packets said."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from dissector import opening
from dissector.compiled import (
    Numbers,
    OctetBuffer,
    Octets,
    OctetTables,
    Slots,
    Table,
    Table32,
    Tables,
    Words,
    WordTable,
    compiled,
    kernel,
    lend,
)
from dissector.expected import FETCHED_MAX, HOPS, NOTHING, PASSED, Expected, passes
from dissector.headers import (
    ACK,
    ACKNOWLEDGEMENT,
    BEGINNING,
    CAPTURED,
    CLOCK_BACK,
    COUNTERS,
    DEPTH,
    FIN,
    FIRST,
    FLAGS,
    LENGTH,
    POSITION,
    SEQUENCE,
    SIDE,
    STEP_BACK,
    SYN,
    TUNNELLED,
    WHY,
    WORD,
)
from dissector.octets import where
from dissector.packets import Packets
from dissector.table import KEY, fill_slots, larger, no_slots, secret_numbers, slot_of, zeros

# columns of a segment: SIDE to CAPTURED as those of its headers, and
STREAM, SEGMENT_FRAME, SEGMENT_TIME, UNSEEN, UNSEEN_OTHER = range(7, 12)
COLUMNS = 12

TURN = 1 << 16
"""In FLAGS: the octets before this segment's were the other side's, or there were none."""

_BOTH = 3

# what is known of a stream; _EXPECTED: its row in the table of what is expected of both sides, -1: none
_IGNORED, _HEARD, _SPOKE, _FOREIGN, _LAST, _SEEN, _LABEL, _EXPECTED = range(8)
# what is known of one side of it: the sequence number before its first octet (-1: unknown), flags it
# has sent in front of any octet (SYN, FIN), its octets
_BASE, _OPENING, _OCTETS = range(3)
_NEW_STREAM = (0, 0, -1, 0, 0, 0, 0, -1)
_NEW_SIDE = (-1, 0, 0)
_NO_STREAM = -1
_ROOM = 1 << 18
"""Streams for which there is room at first: what is not used takes no memory, and growing takes long."""

_PART = 1 << 14
"""Streams that are looked at together: a copy of what is remembered of all would take long."""
_SNIFFED = BEGINNING
"""Octets from the start of a side that tell, where they come at once, that it opens no stream of ours,
and what it seems to be."""


_OPENINGS, _HOPS = lend(opening.WORDS, Words), lend(HOPS, Tables)


@dataclass(slots=True)
class Segments:
    """TCP segments of one block, in capture order: an int64 matrix with a row for each.

    Columns (constants of this module): STREAM as Wireshark's tcp.stream; SEGMENT_FRAME and SEGMENT_TIME, running
    number of the packet and its time (ns since the epoch); SIDE, SEQUENCE, ACKNOWLEDGEMENT, FLAGS, POSITION, LENGTH
    and CAPTURED as in `dissector.headers.Headers`; UNSEEN and UNSEEN_OTHER, octets of this side and of the other that
    passed in front of it since the row before, in order and complete.  Streams that were found uninteresting are left
    out, and segments that nobody needs (`dissector.expected`).  `of_one`: all are of one stream.
    """

    packets: Packets
    rows: np.ndarray
    streams: Streams
    of_one: bool

    def endpoint(self, stream: int, side: int) -> str:
        """ "address:port" of one end of a stream."""
        return self.streams.endpoint(stream, side)


class Streams:
    """What is remembered between blocks: endpoints, their numbers, what they have sent.

    The numbers are Wireshark's: a new one for each new pair of endpoints, and for a SYN whose
    sequence number is not the one that the pair's stream started with (port reuse).

    `sparing`: of a stream that has carried no octet yet no rows are handed out, and `opened` tells what
    they said; nor of one that is not ours by the first octets of who speaks first, or of both sides, and
    `sniffed` gives those.

    `most`: when so many streams are remembered, half of them are forgotten, those that were silent for
    longest; none in `kept`.  One that speaks again is a new stream.  KeyError for what was forgotten.
    """

    def __init__(self, *, sparing: bool = False, most: int | None = None, kept: Collection[int] = ()) -> None:
        self.count = 0
        """Streams, with those that were forgotten."""
        self.counters = np.zeros(COUNTERS, np.int64)
        self.first_packet = np.zeros(COUNTERS, np.int64)
        room = min(_ROOM, most or _ROOM)
        self._slots = no_slots(room)
        self._keys = zeros((room, KEY), np.uint64)
        self._streams = zeros((room, len(_NEW_STREAM)), np.int64)
        self._sides = zeros((room, 2, len(_NEW_SIDE)), np.int64)
        self._expected = np.tile(NOTHING, (16, 2, 1))
        """Of the few streams of which anything is."""
        self._free = list(range(len(self._expected)))
        self._sniffed = zeros((room, 2, _SNIFFED), np.uint8)
        self._numbers = zeros((room,), np.int64)
        """Of the streams in the tables; ascending."""
        self._used = 0
        self._sparing, self._most, self._kept = sparing, most, kept
        self._last_time = lend(np.zeros(1, np.int64), Numbers)
        self._fetched = lend(np.zeros(FETCHED_MAX, np.uint8), OctetBuffer)
        # Who writes a capture must not be able to choose where its streams land in the table.
        self._secret = secret_numbers()
        self._lend()

    def octets(self, stream: int) -> tuple[int, int]:
        """Octets that each side has sent, repeated ones too."""
        one, other = self._sides[self._row(stream), :, _OCTETS].tolist()
        return one, other

    def last_ns(self, stream: int) -> int:
        """Time of the last segment with octets, of either side; 0: not known."""
        return self._streams.item(self._row(stream), _LAST)

    def silent(self, streams: np.ndarray) -> np.ndarray:
        """Which of these streams have carried no octet yet, as far as anybody looks (a mask); none that
        was forgotten."""
        rows = np.flatnonzero(np.isin(self._numbers[:self._used], streams))
        quiet = rows[(self._streams[rows, _HEARD] == 0) & (self._streams[rows, _IGNORED] == 0)]
        return np.isin(streams, self._numbers[quiet])

    def ignore(self, stream: int, label: int = 0) -> None:
        """Hand out no more rows of this stream; remember a number for it."""
        row = self._row(stream)
        self._streams[row, _IGNORED], self._streams[row, _LABEL] = True, label
        self._expect_nothing(row)

    def label(self, stream: int) -> int:
        """The number that `ignore` was given; 0: none."""
        return self._streams.item(self._row(stream), _LABEL)

    def endpoint(self, stream: int, side: int) -> str:
        """ "address:port" of one end."""
        key = [int(word) for word in self._keys[self._row(stream)]]
        high, low = key[2 * side], key[2 * side + 1]
        port = key[4] >> (16 * (1 - side)) & 0xFFFF
        if key[4] >> 32 & 1:
            return f"[{ipaddress.IPv6Address(high << 64 | low)}]:{port}"
        return f"{ipaddress.IPv4Address(low)}:{port}"

    def opened(self, stream: int, side: int) -> tuple[int, bool] | None:
        """(sequence number of the first octet, whether a FIN stood in its place) of a side whose
        SYN was left out; None: it sent none in front of the rows that were handed out."""
        row = self._row(stream)
        flags = int(self._sides[row, side, _OPENING])
        if not flags & SYN:
            return None
        return (int(self._sides[row, side, _BASE]) + 1) & 0xFFFFFFFF, bool(flags & FIN)

    def sniffed(self, stream: int) -> tuple[bytes, bytes] | None:
        """The first octets of both sides, if they have told that the stream is none of ours; empty of a
        side that has not told."""
        row = self._row(stream)
        sides = self._streams.item(row, _FOREIGN)
        if not (sides and self._streams.item(row, _IGNORED)):
            return None
        octets = self._sniffed[row].tobytes()
        return octets[:_SNIFFED] if sides & 1 else b"", octets[_SNIFFED:] if sides & 2 else b""

    def samples(self) -> list[int]:
        """Every stream, but of those that `sniffed` knows only the first of each that begin alike."""
        left: list[int] = []
        first: dict[bytes, int] = {}
        for begin in range(0, self._used, _PART):
            part = slice(begin, min(begin + _PART, self._used))
            numbers, about = self._numbers[part], self._streams[part]
            known = (about[:, _FOREIGN] != 0) & (about[:, _IGNORED] != 0)
            octets = self._sniffed[part].reshape(-1, 2 * _SNIFFED)
            again = np.append(False, known[:-1])  # as the one in front of them: to sort all takes longer
            for words in octets.view(np.uint64).T:
                again[1:] &= words[1:] == words[:-1]
            rows = np.flatnonzero(known & ~again)
            values, at = np.unique(octets[rows].view(f"V{2 * _SNIFFED}"), return_index=True)
            first = dict(zip(values.tolist(), numbers[rows[at]].tolist(), strict=True)) | first
            left += numbers[~known].tolist()
        return sorted([*left, *first.values()])

    def expect(self, stream: int, both: tuple[Expected, Expected]) -> None:
        """Let segments pass unseen that nobody needs, by what both sides send next."""
        row = self._row(stream)
        at = self._streams.item(row, _EXPECTED)
        if at < 0:
            if not self._free:
                self._free = list(range(len(self._expected), 2 * len(self._expected)))
                self._expected = np.concatenate((self._expected, np.tile(NOTHING, (len(self._free), 2, 1))))
                self._lend()
            at = self._streams[row, _EXPECTED] = self._free.pop()
        self._expected[at, :, :PASSED] = both

    def restart(self, stream: int) -> None:
        """Nobody follows it any more: how it opened says nothing of what it may still bring, which all is seen."""
        row = self._row(stream)
        self._sides[row, :, _OPENING] = 0
        self._expect_nothing(row)

    def passed(self, stream: int) -> tuple[int, int]:
        """Octets of each side that have passed unseen behind the last row, or since they were taken."""
        at = self._streams.item(self._row(stream), _EXPECTED)
        return (self._expected.item(at, 0, PASSED), self._expected.item(at, 1, PASSED)) if at >= 0 else (0, 0)

    def take_passed(self, stream: int) -> tuple[int, int]:
        """The same; they are not told again."""
        passed = self.passed(stream)
        if any(passed):
            self._expected[self._streams.item(self._row(stream), _EXPECTED), :, PASSED] = 0
        return passed

    def scan(self, packets: Packets) -> Segments:
        """The segments in `packets`, whose `streams` are filled in."""
        octets = where(packets.octets)
        rows = np.empty((len(packets), COLUMNS), np.int64)
        packets.streams = np.full(len(packets), _NO_STREAM, np.int64)
        done, filled, stretches = 0, 0, 0
        while done < len(packets):
            begin, before, part = done, self._used, rows[filled:]
            done, given, self._used, changes = _scan(
                *octets, packets.headers.ends, packets.headers.rows, packets.time, packets.first, packets.streams,
                done, part, before, *self._lent, self._last_time, self._fetched, self._sparing)
            new = self._used - before
            self._numbers[before:self._used] = np.arange(self.count, self.count + new)
            if self.count > before:  # some were forgotten
                part[:given, STREAM] = self._numbers[part[:given, STREAM]]
                told = packets.streams[begin:done]
                told[told >= 0] = self._numbers[told[told >= 0]]
            self.count += new
            filled += given
            stretches += 1 + changes
            if done < len(packets):
                self._make_room(rows[:filled, STREAM])
        return Segments(packets, rows[:filled], self, stretches <= 1)

    def _expect_nothing(self, row: int) -> None:
        at = self._streams.item(row, _EXPECTED)
        if at >= 0:
            self._expected[at], self._streams[row, _EXPECTED] = NOTHING, -1
            self._free.append(at)

    def _row(self, stream: int) -> int:
        """Where a stream is in the tables."""
        if self.count == self._used:
            return stream
        row = int(self._numbers[:self._used].searchsorted(stream))
        if row == self._used or self._numbers[row] != stream:
            raise KeyError(stream)
        return row

    def _make_room(self, wanted: np.ndarray) -> None:
        """Forget, but none of these, or else have larger tables."""
        if self._most is not None and self._used >= self._most:
            self._forget(wanted)
        if 2 * self._used > len(self._keys):
            self._keys, self._streams, self._sides, self._sniffed, self._numbers = (
                larger(table, self._used) for table in self._tables)
        self._slots = no_slots(len(self._keys))
        # Of streams with one key (port reuse) the latest is found.
        fill_slots(self._slots, self._keys, self._secret, self._used)
        self._lend()

    def _lend(self) -> None:
        """The tables as `_scan` takes them."""
        self._lent = (_OPENINGS, lend(self._slots, Slots), lend(self._keys, WordTable), lend(self._secret, Words),
                      lend(self._streams, Table), lend(self._sides, Tables), lend(self._expected, Tables), _HOPS,
                      lend(self._sniffed, OctetTables), lend(self.counters, Numbers),
                      lend(self.first_packet, Numbers))

    @property
    def _tables(self) -> tuple[np.ndarray, ...]:
        return self._keys, self._streams, self._sides, self._sniffed, self._numbers

    def _forget(self, wanted: np.ndarray) -> None:
        # Of none of them anything is expected: that is so of those in `kept` only.
        may_go = np.flatnonzero(~np.isin(self._numbers[:self._used], [*self._kept, *wanted]))
        silent = may_go[np.argsort(self._streams[may_go, _SEEN], kind="stable")]
        left = np.delete(np.arange(self._used), silent[:self._used // 2])
        self._used = len(left)
        for table in self._tables:
            table[:self._used] = table[left]


@compiled
def _begin(about, sides, sniffed, sparing):  # type: ignore[no-untyped-def]
    """Make the row of a stream that is new."""
    for i in range(len(_NEW_STREAM)):
        about[i] = _NEW_STREAM[i]
    about[_HEARD] = not sparing
    for side in range(2):
        for i in range(len(_NEW_SIDE)):
            sides[side, i] = _NEW_SIDE[i]
        for i in range(_SNIFFED):
            sniffed[side, i] = 0


@compiled
def _count(counters, first, which, packet):  # type: ignore[no-untyped-def]
    if counters[which] == 0:
        first[which] = packet
    counters[which] += 1


@compiled
def _is_foreign(openings, mine, header):  # type: ignore[no-untyped-def]
    """Whether the first octets of a side stand behind its SYN, are enough, and open no stream of ours."""
    if not mine[_OPENING] & SYN or header[CAPTURED] < _SNIFFED:
        return False
    if header[SEQUENCE] != (mine[_BASE] + 1) & 0xFFFFFFFF or header[FLAGS] & SYN:
        return False
    word, opens = np.uint64(header[FIRST]) << np.uint64(32) | np.uint64(header[FIRST + 1]), False
    for i in range(len(openings)):
        opens |= word == openings[i]
    return not opens


@compiled
def _sniff(header, sniffed):  # type: ignore[no-untyped-def]
    """Keep the first octets of a side."""
    for i in range(min(header[CAPTURED], _SNIFFED)):
        sniffed[i] = header[FIRST + i // WORD] >> 8 * (WORD - 1 - i % WORD) & 0xFF


@compiled
def _speaks_first(mine, theirs, acknowledgement):  # type: ignore[no-untyped-def]
    """Whether the other side has said nothing yet, by its SYN and what is acknowledged: who speaks first
    on a connection of ours opens it."""
    return theirs[_OPENING] & SYN and not theirs[_OCTETS] and acknowledgement == (theirs[_BASE] + 1) & 0xFFFFFFFF


@compiled
def _without_ignored(rows, filled, streams):  # type: ignore[no-untyped-def]
    """Take out the rows of streams that turned out to be ignored; how many are left."""
    kept = 0
    for i in range(filled):
        if not streams[rows[i, STREAM], _IGNORED]:
            for j in range(COLUMNS):
                rows[kept, j] = rows[i, j]
            kept += 1
    return kept


@compiled
def _says(mine, theirs, sequence, acknowledgement, flags, length):  # type: ignore[no-untyped-def]
    """Whether a segment has octets, or tells of some.  Until one does, two bits for each side tell it
    all: a port scan is a stream for each packet."""
    opening = mine[_OPENING] | flags & SYN
    says = length > 0
    if flags & (SYN | FIN):  # in its place, in front of the first octet?
        first_octet = sequence + (1 if flags & SYN else 0)
        says |= (first_octet - mine[_BASE] - 1) & 0xFFFFFFFF != 0
    if flags & ACK and theirs[_OPENING] & SYN:
        covers = (acknowledgement - theirs[_BASE] - 1) & 0xFFFFFFFF
        says |= covers > (1 if theirs[_OPENING] & FIN else 0)
    if not says:
        mine[_OPENING] = opening | (FIN if flags & FIN and opening & SYN else 0)
    return says


@kernel
def _scan(data: Octets, file: int, origin: int, ends: WordTable, headers: Table32, times: Numbers, first_packet: int,
          numbers: Numbers, done: int, rows: Table, count: int, openings: Words, slots: Slots, keys: WordTable,
          secret: Words, streams: Table, sides: Tables, expected: Tables, hops: Tables, sniffed: OctetTables,
          counters: Numbers, first: Numbers, last_time: Numbers, fetched: OctetBuffer,
          sparing: bool) -> tuple[int, int, int, int]:
    """Fill `rows` from packet `done` on; stops early when the stream tables are full.  The next packet, how many rows
    and streams there are, how often a row was of another stream than the one before."""
    turned_out_foreign, filled, block, changes = False, 0, (data, file, origin, fetched), 0
    slot, known = np.int64(0), -1
    for i in range(done, len(headers)):
        if count == len(keys):
            if turned_out_foreign:
                filled = _without_ignored(rows, filled, streams)
            return i, filled, count, changes
        time, header = times[i], headers[i]
        if time:
            if time < last_time[0]:
                _count(counters, first, CLOCK_BACK, first_packet + i)
                counters[STEP_BACK] = max(counters[STEP_BACK], last_time[0] - time)
            last_time[0] = time
        if header[DEPTH]:
            _count(counters, first, TUNNELLED, first_packet + i)
        if header[WHY]:
            _count(counters, first, header[WHY], first_packet + i)
            continue
        side, flags, length = np.int64(header[SIDE]), np.int64(header[FLAGS]), np.int64(header[LENGTH])
        sequence, acknowledgement = np.int64(header[SEQUENCE]), np.int64(header[ACKNOWLEDGEMENT])
        a, b, c, d, e = ends[i, 0], ends[i, 1], ends[i, 2], ends[i, 3], ends[i, 4]
        # Mostly it is the same connection as before.
        if known < 0 or a != ends[known, 0] or b != ends[known, 1] or c != ends[known, 2] or d != ends[known, 3] \
                or e != ends[known, 4]:
            slot = np.int64(slot_of(slots, keys, secret, a, b, c, d, e))
        known = i
        stream = np.int64(slots[slot]) - 1
        reused = stream >= 0 and flags & (SYN | ACK) == SYN and sides[stream, side, _BASE] >= 0 \
            and sides[stream, side, _BASE] != sequence
        if stream < 0 or reused:
            stream = np.int64(count)
            count += 1
            slots[slot] = stream + 1
            key = keys[stream]
            key[0], key[1], key[2], key[3], key[4] = a, b, c, d, e
            _begin(streams[stream], sides[stream], sniffed[stream], sparing)
        numbers[i] = stream
        mine, theirs = sides[stream, side], sides[stream, 1 - side]
        if mine[_BASE] < 0:
            mine[_BASE] = sequence if flags & SYN else (sequence - 1) & 0xFFFFFFFF
        if theirs[_BASE] < 0 and flags & ACK:
            theirs[_BASE] = (acknowledgement - 1) & 0xFFFFFFFF
        mine[_OCTETS] += length
        about = streams[stream]
        about[_SEEN] = time
        if length:
            about[_LAST] = time
        if length and length == mine[_OCTETS]:
            is_known = about[_IGNORED] and about[_FOREIGN]  # its answer tells more of what it is
            if is_known or _is_foreign(openings, mine, header):
                _sniff(header, sniffed[stream, side])
                about[_FOREIGN] |= 1 << side
                if not is_known and (about[_FOREIGN] == _BOTH or _speaks_first(mine, theirs, acknowledgement)):
                    about[_IGNORED] = turned_out_foreign = True
        if about[_IGNORED]:
            continue
        if not about[_HEARD]:
            if not _says(mine, theirs, sequence, acknowledgement, flags, length):
                continue
            about[_HEARD] = True
        if length and about[_SPOKE] != side:
            about[_SPOKE] = side
            flags |= TURN
        row = rows[filled]
        row[UNSEEN], row[UNSEEN_OTHER] = 0, 0
        if about[_EXPECTED] >= 0:
            ours, others = expected[about[_EXPECTED], side], expected[about[_EXPECTED], 1 - side]
            if passes(block, hops, ours, others, sequence, acknowledgement, flags, length, header[CAPTURED],
                      header[POSITION]):
                continue
            row[UNSEEN], row[UNSEEN_OTHER] = ours[PASSED], others[PASSED]
            ours[PASSED], others[PASSED] = 0, 0
        for column in range(STREAM):
            row[column] = header[column]
        row[FLAGS], row[STREAM], row[SEGMENT_FRAME], row[SEGMENT_TIME] = flags, stream, first_packet + i, time
        changes += filled > 0 and rows[filled - 1, STREAM] != stream
        filled += 1
    if turned_out_foreign:
        filled = _without_ignored(rows, filled, streams)
    return len(headers), filled, count, changes
