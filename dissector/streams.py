# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP streams: both directions of a connection put in order, gaps explicit.

Sans-I/O: fed with segments, gives runs of contiguous ranges.  What the capture lacks for ever is a
range of its own (a hole).  Times stay with the octets: a range carries the first frame that showed
it, so duplicates and retransmissions move nothing.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np

from dissector.compiled import Numbers, OctetBuffer, Octets, Table, Tables, compiled, copy_octets, kernel, lend
from dissector.container import PACKET_MAX
from dissector.expected import NOT_KNOWN, SILENT
from dissector.headers import ACK, ACKNOWLEDGEMENT, CAPTURED, FIN, FLAGS, LENGTH, POSITION, RST, SEQUENCE, SIDE, SYN
from dissector.octets import IN_MEMORY, NO_OCTETS, Block, Passing, where
from dissector.pread import read_at
from dissector.segments import COLUMNS, SEGMENT_FRAME, SEGMENT_TIME, TURN, UNSEEN, UNSEEN_OTHER
from dissector.table import zeros

GRACE = 3_000_000_000
"""ns for which a hole that an ACK covers may still be filled: captures on several queues show an
ACK before its data, and a lost original may yet be retransmitted."""
PATIENCE = 3 * GRACE
"""The same for a hole that no ACK covers (captures of one direction)."""
HELD_OCTETS = 32 << 20
"""Octets that may wait behind a hole (a large window on a fast link); more, and the hole is given up
although it might still be filled.  Bounds memory."""
HELD_ROWS = 1 << 14
"""Ranges that may wait: putting one among them takes time with their number."""
ACKS_MAX = 1 << 16
"""ACKs of octets not seen yet that are remembered; of more, every second is forgotten."""
START_OCTETS = 64 << 10
"""Without a SYN the first octets may have come out of order: so many are looked at before the
lowest is taken for the start."""

WINDOW = 64 << 20
"""Octets beyond the highest one seen at which the next may be: more than the windows in use.  What
is farther away is of an earlier connection on the same ports ..."""
JUMP = 3
""" ... unless so many segments follow each other there and none comes here: the capture has lost
that much."""

# columns of a range
(OFFSET, SIZE, GIVEN, PLACE, FRAME, TIME, HOLE) = range(7)
RANGE_COLUMNS = 7
# columns of an acknowledgement
(COVERS, ACK_FRAME, ACK_TIME) = range(3)

# state of one direction
(_ORIGIN, _NEXT, _HIGH, _STATE, _HELD, _HELD_OCTETS, _ACKED, _ACKS, _OUT, _END, _STALE,
 _REPEATED, _CROWDED, _FAR, _FAR_COUNT, _LAST, _LATE, _LACKING) = range(18)
_UNKNOWN, _WAITING, _RUNNING = range(3)
_NOWHERE = -(1 << 62)

_PAGE = mmap.PAGESIZE
_APART = 4096
"""Octets of a file between two ranges that are read with them."""

_NO_ROWS = np.zeros((0, COLUMNS), np.int64)
NO_ACKS = np.zeros((0, 3), np.int64)
_NO_HELD, _NO_HELD_ACKS = np.zeros((2, 0, RANGE_COLUMNS), np.int64), np.zeros((2, 0, 3), np.int64)
"""Of both sides."""


@dataclass(slots=True)
class Run:
    """Ranges of one direction, in stream order; contiguous but for octets that passed unseen (`dissector.expected`).

    `rows` (int64): OFFSET in the stream, SIZE on the wire, octets GIVEN (fewer than SIZE: cut by
    the snap length), PLACE of the octets (an index into `data`, or ~index into `kept`), FRAME and
    TIME that first showed them (of a hole: the first ACK that covers it, 0 without one), HOLE.
    `acks` (int64): what the peer acknowledged: COVERS every octet below, ACK_FRAME, ACK_TIME.
    `whole`: no range is a hole or was cut.  `in_turn`: none was shown by an earlier frame than one before it in the
    stream.
    """

    rows: np.ndarray
    acks: np.ndarray
    data: Block
    kept: np.ndarray
    whole: bool = False
    in_turn: bool = False

    @property
    def begin(self) -> int:
        """Stream offset of the first octet."""
        return self.rows.item(0, OFFSET)

    def octets(self, row: int, skip: int, count: int) -> bytes:
        """`count` octets of a range from its octet `skip` on; fewer if the capture has fewer."""
        given, place = self.rows.item(row, GIVEN), self.rows.item(row, PLACE)
        if skip >= given:
            return b""
        upto, source, begin = min(skip + count, given), self.data, place
        if place < 0:
            source, begin = self.kept, ~place
        if isinstance(source, np.ndarray):
            return source[begin + skip:begin + upto].tobytes()
        return source.read(begin + skip, upto - skip)

    def from_row(self, row: int) -> Run:
        """The ranges from `row` on, of the same block."""
        return Run(self.rows[row:], NO_ACKS, self.data, self.kept, self.whole, self.in_turn)

    def cut(self, octets: int) -> list[Run]:
        """This run; or two, if the first ranges have so many octets."""
        row = int(self.rows[:, GIVEN].cumsum().searchsorted(octets)) + 1
        if octets < 0 or row >= len(self.rows):
            return [self]
        return [Run(self.rows[:row], NO_ACKS, self.data, self.kept, self.whole, self.in_turn), self.from_row(row)]

    def tail(self, row: int) -> Run:
        """The ranges from `row` on, with octets of their own that outlive the block."""
        rows = self.rows[row:].copy()
        kept = _kept(rows, self.data, self.kept)
        whole = self.whole and bool((rows[:, GIVEN] == rows[:, SIZE]).all())  # unless the file has become shorter
        return Run(rows, NO_ACKS, NO_OCTETS, kept, whole, self.in_turn)

    def behind(self, early: Run | None) -> Run:
        """This run with the ranges of an earlier `tail` in front."""
        if early is None or not len(early.rows):
            return self
        rows = early.rows.copy()
        rows[:, PLACE] -= len(self.kept)
        return Run(np.concatenate((rows, self.rows)), self.acks, self.data,
                   np.concatenate((self.kept, early.kept)), self.whole and early.whole,
                   self.in_turn and early.in_turn)


NO_RUN = Run(np.zeros((0, RANGE_COLUMNS), np.int64), NO_ACKS, NO_OCTETS, NO_OCTETS)


class Desk:
    """Room for what a `feed` works on, which streams use one after another: to take it anew, and to find out where it
    is, takes as long as a feed of few segments."""

    def __init__(self) -> None:
        self._have(1 << 8, 1 << 7)

    def _have(self, ranges: int, segments: int) -> None:
        self.held, self.out = (zeros((2, count * ranges, RANGE_COLUMNS), np.int64) for count in (1, 2))
        self.acks, self.turns = zeros((2, segments, 3), np.int64), zeros((segments,), np.int64)
        self._lent = [lend(table, Tables) for table in (self.held, self.acks, self.out)] + [lend(self.turns, Numbers)]

    def clear(self, ranges: int, segments: int) -> None:
        """Have room for so many ranges that wait, twice as many that are handed on; and for what so many segments
        say."""
        if ranges > self.held.shape[1] or segments > len(self.turns):
            self._have(max(2 * ranges, self.held.shape[1]), max(2 * segments, len(self.turns)))

    def assemble(self, rows: np.ndarray, state: Any, final: bool, limit: int, now: int) -> tuple[int, int, int, int]:
        """Do `_assemble` here."""
        held, acks, out, turns = self._lent
        return _assemble(rows, state, held, acks, out, turns, final, limit, now)


class Stream:
    """One TCP connection being put in order.  `desk`: one that it shares with others."""

    def __init__(self, desk: Desk | None = None) -> None:
        self._desk = desk or Desk()
        self.limit = HELD_OCTETS
        """Octets that may wait behind a hole."""
        self._state = np.zeros((2, 1 + _LACKING), np.int64)
        self._state[:, _END] = -1
        self._state[:, _ACKED] = -(1 << 62)
        self._lent_state = lend(self._state, Table)
        self._held, self._acks = _NO_HELD, _NO_HELD_ACKS
        self._kept = [NO_OCTETS, NO_OCTETS]
        self.turns: list[int] = []
        """Frames of the latest segments in which a side spoke behind the other."""
        self.syn = [False, False]
        self.reset = False

    def feed(self, rows: np.ndarray, data: Block, unseen: tuple[int, int] = (0, 0)) -> tuple[Run, Run]:
        """Take these segments (rows of `dissector.segments.Segments`), in capture order, whose octets are in `data`:
        a run (maybe empty) for each side.  `unseen`: octets of each side that came behind them, in order and
        complete, and are not wanted."""
        return self._advance(rows, data, False, unseen=unseen)

    def finish(self) -> tuple[Run, Run]:
        """Nothing more will come: give up every hole."""
        if not self.waits:
            return NO_RUN, NO_RUN
        return self._advance(_NO_ROWS, NO_OCTETS, True)

    def open(self, side: int, sequence: int, ended: bool) -> None:
        """The SYN of a side was seen: its first octet has this sequence number; `ended`: so has its
        FIN.  Only in front of the first `feed`."""
        state = self._state[side]
        state[_ORIGIN], state[_NEXT], state[_STATE] = sequence, 0, _RUNNING
        state[_END] = 0 if ended else -1
        self.syn[side] = True

    def following(self, side: int) -> int:
        """Sequence number of the next octet, if nothing waits for it and no ACK covers it already (it might be the
        first one of a hole, which that ACK dates); `NOT_KNOWN` else, `SILENT` if the side has not said anything."""
        state = self._state[side].tolist()
        if state[_STATE] == _UNKNOWN:
            return SILENT
        if state[_STATE] == _WAITING or state[_HELD] or state[_ACKED] > state[_NEXT]:
            return NOT_KNOWN
        return self.sequence(side, state[_NEXT])

    def sequence(self, side: int, offset: int) -> int:
        """Sequence number of the octet at this stream offset."""
        return (self.origin(side) + offset) & 0xFFFFFFFF

    def skip(self, side: int, octets: int) -> None:
        """So many octets came in order, complete, and are not wanted: none waits."""
        _skip(self._state[side], octets)

    def tick(self, now: int) -> tuple[Run, Run]:
        """Nothing has come, and it is `now` (ns): give up the holes that have waited long enough."""
        return self._advance(_NO_ROWS, NO_OCTETS, False, now)

    @property
    def waits(self) -> bool:
        """Whether octets wait, or are known to be missing."""
        return self._held is not _NO_HELD or self._acks is not _NO_HELD_ACKS

    def start(self, side: int) -> tuple[Run, Run]:
        """The octets held at the start of a stream without SYN are its start: wait no longer."""
        if self._state[side, _STATE] == _WAITING:
            self._state[side, _NEXT] = self._held[side, 0, OFFSET]
            self._state[side, _STATE] = _RUNNING
        return self._advance(_NO_ROWS, NO_OCTETS, False)

    def waits_for_start(self, side: int) -> bool:
        """Whether octets are held because the stream's start is not known yet."""
        return self._state.item(side, _STATE) == _WAITING

    def waiting_from(self, side: int) -> int:
        """Running number of the first frame that tells of a hole which may still be filled: by its
        octets, which wait behind it, or by acknowledging octets that were not seen.  0: no hole."""
        count, acks = self._state.item(side, _HELD), self._state.item(side, _ACKS)
        if not (count or acks):
            return 0
        frames = [int(self._held[side, :count, FRAME].min())] if count else []
        if acks and not self.known_end(side):
            frames.append(int(self._acks[side, 0, ACK_FRAME]))
        return min(frames, default=0)

    def known_end(self, side: int) -> bool:
        """Whether every octet up to the FIN has been handed on."""
        return bool(0 <= self._state[side, _END] <= self._state[side, _NEXT])

    def held(self, side: int) -> Run:
        """What waits behind a hole, or for the start to be known."""
        count = int(self._state[side, _HELD])
        return Run(self._held[side, :count], self._acks[side, :0], NO_OCTETS, self._kept[side])

    def origin(self, side: int) -> int:
        """Sequence number of stream offset 0."""
        return self._state.item(side, _ORIGIN)

    def passed(self, side: int) -> int:
        """Stream offset up to which everything has been handed on."""
        return self._state.item(side, _NEXT)

    def counts(self, side: int) -> tuple[int, int]:
        """(segments that fit nowhere near the stream, repeated octets)."""
        return int(self._state[side, _STALE]), int(self._state[side, _REPEATED])

    def crowded(self, side: int) -> int:
        """Holes that were given up early because too much waited behind them."""
        return int(self._state[side, _CROWDED])

    @property
    def held_octets(self) -> int:
        """Octets that wait, of both directions."""
        return len(self._kept[0]) + len(self._kept[1])

    def _advance(self, rows: np.ndarray, data: Block, final: bool, now: int = 0,
                 unseen: tuple[int, int] = (0, 0)) -> tuple[Run, Run]:
        waiting, waiting_acks = self._held.shape[1], self._acks.shape[1]
        # A segment fills gaps between held ranges, and leaves at most one gap more than it found.
        desk = self._desk
        desk.clear(2 * waiting + 3 * len(rows) + 8, waiting_acks + len(rows) + 1)
        held, acks, out = desk.held, desk.acks, desk.out
        if waiting:
            held[:, :waiting] = self._held
        if waiting_acks:
            acks[:, :waiting_acks] = self._acks
        syn, other_syn, reset, turned = desk.assemble(rows, self._lent_state, final, self.limit, now)
        self.turns = desk.turns[:turned].tolist()
        self.syn = [self.syn[0] or bool(syn), self.syn[1] or bool(other_syn)]
        self.reset |= bool(reset)
        for side in (0, 1):
            if unseen[side]:
                self.skip(side, unseen[side])
        states = self._state.tolist()
        # Rows of their own: other streams use the desk, and a framer keeps those of its last run.
        one, other = (Run(out[side, :state[_OUT]].copy(), acks[side, :state[_ACKS]].copy(), data, self._kept[side],
                          not state[_LACKING], not state[_LATE])
                      for side, state in enumerate(states))
        self._retain(states, held, data)
        self._retain_acks(states, acks)
        return one, other

    def _retain(self, states: list[list[int]], held: np.ndarray, data: Block) -> None:
        """Copy what must outlive the block of the octets that wait."""
        most = max(states[0][_HELD], states[1][_HELD])
        if not most and self._held is _NO_HELD:  # as nearly always
            return
        self._held = held[:, :most].copy() if most else _NO_HELD
        self._kept = [_kept(self._held[side, :state[_HELD]], data, self._kept[side]) if state[_HELD] else NO_OCTETS
                      for side, state in enumerate(states)]

    def _retain_acks(self, states: list[list[int]], acks: np.ndarray) -> None:
        """The same of ACKs that holes may need."""
        left = [NO_ACKS, NO_ACKS]
        for side, state in enumerate(states):
            count = state[_ACKS]
            if not count or (state[_STATE] != _WAITING and acks.item(side, count - 1, COVERS) <= state[_NEXT]):
                continue
            useful = acks[side, :count]
            if state[_STATE] != _WAITING:  # lower octets than those seen may be the start
                useful = useful[useful[:, COVERS].searchsorted(state[_NEXT], "right"):]
            left[side] = useful[1::2] if len(useful) > ACKS_MAX else useful
        counts = [len(useful) for useful in left]
        self._state[:, _ACKS] = counts
        if not any(counts):
            self._acks = _NO_HELD_ACKS
            return
        self._acks = np.empty((2, max(counts), 3), np.int64)
        for side, useful in enumerate(left):
            self._acks[side, :len(useful)] = useful


@kernel
def _assemble(rows: Table, state: Table, held: Tables, acks: Tables, out: Tables, turns: Numbers, final: bool,
              limit: int, now: int) -> tuple[int, int, int, int]:
    """Run the segments of one connection through both directions' states, in capture order; `now`: the time
    that it is behind the last one, 0: what that one says.  Whether the one side's SYN, the other's, a RST came; how
    often a side spoke behind the other."""
    syn, other_syn, reset, turned = 0, 0, 0, 0
    for s in range(2):
        state[s, _OUT], state[s, _LACKING], state[s, _LATE] = 0, 0, 0
        _drain(state[s], held[s], out[s])
    for i in range(len(rows)):
        row = rows[i]
        side = row[SIDE]
        frame, time = row[SEGMENT_FRAME], row[SEGMENT_TIME]
        sequence, length, captured, flags = (row[SEQUENCE], row[LENGTH], row[CAPTURED], row[FLAGS])
        mine, theirs = state[side], state[1 - side]
        if row[UNSEEN] or row[UNSEEN_OTHER]:
            _skip(mine, row[UNSEEN])
            _skip(theirs, row[UNSEEN_OTHER])
        reset |= flags & RST
        if flags & TURN:
            turns[turned] = frame
            turned += 1
        if flags & SYN:
            syn |= side == 0
            other_syn |= side == 1
            sequence = (sequence + 1) & 0xFFFFFFFF
            if mine[_STATE] != _RUNNING:
                _set_origin(mine, held[side], sequence)
                _drain(mine, held[side], out[side])
        elif length and mine[_STATE] == _UNKNOWN:
            mine[_ORIGIN], mine[_STATE] = sequence, _WAITING
        if flags & ACK and theirs[_STATE] != _UNKNOWN:
            covers = _unwrap(theirs, row[ACKNOWLEDGEMENT])
            if theirs[_ACKED] < covers < max(theirs[_HIGH], theirs[_ACKED]) + WINDOW:
                n = theirs[_ACKS]
                acks[1 - side, n, COVERS] = covers
                acks[1 - side, n, ACK_FRAME], acks[1 - side, n, ACK_TIME] = frame, time
                theirs[_ACKS], theirs[_ACKED] = n + 1, covers
        if length:
            offset = _place(mine, sequence, length)
            if offset == _NOWHERE:
                mine[_STALE] += 1
            elif mine[_STATE] == _RUNNING and mine[_HELD] == 0 and offset == mine[_NEXT]:
                _emit(mine, out[side], offset, length, captured, row[POSITION], frame, time, 0)
                mine[_HIGH] = max(mine[_HIGH], offset + length)
            else:
                _hold(mine, held[side], offset, length, captured, row[POSITION], frame, time)
                _drain(mine, held[side], out[side])
        if flags & FIN and mine[_STATE] != _UNKNOWN:
            mine[_END] = _unwrap(mine, sequence) + length
        for s in range(2):
            if state[s, _HELD]:
                _give_up(state[s], held[s], acks[s], out[s], time, False, limit)
    if now:
        for s in range(2):
            _give_up(state[s], held[s], acks[s], out[s], now, False, limit)
            mine = state[s]
            if mine[_HELD] == 0 and mine[_STATE] == _RUNNING:
                ack = _first_ack(mine, acks[s], mine[_NEXT] + 1)
                if ack >= 0 and now - acks[s, ack, ACK_TIME] > GRACE:
                    _end_in_hole(mine, acks[s], out[s])
    if final:
        for s in range(2):
            _give_up(state[s], held[s], acks[s], out[s], 0, True, limit)
            _end_in_hole(state[s], acks[s], out[s])
    return syn, other_syn, reset, turned


@compiled
def _skip(mine, octets):  # type: ignore[no-untyped-def]
    """So many octets came in order, complete, and are not wanted: none waits."""
    if octets:
        mine[_NEXT] += octets
        mine[_HIGH] = max(mine[_HIGH], mine[_NEXT])
        mine[_FAR_COUNT] = 0


@compiled
def _end_in_hole(mine, acks, out):  # type: ignore[no-untyped-def]
    """What was acknowledged and never seen at all is a hole at the end."""
    end = mine[_ACKED]
    if 0 <= mine[_END] < end:
        end = mine[_END]
    elif mine[_END] < 0 and end == mine[_NEXT] + 1:
        end -= 1  # one more than the last octet seen: a FIN that the capture lacks
    if mine[_STATE] == _RUNNING and end > mine[_NEXT]:
        _emit_hole(mine, acks, out, end)


@compiled
def _unwrap(mine, number):  # type: ignore[no-untyped-def]
    """Stream offset of a sequence number: the one nearest to the highest octet seen."""
    distance = (number - mine[_ORIGIN] - mine[_HIGH]) & 0xFFFFFFFF
    if distance >= 1 << 31:
        distance -= 1 << 32
    return mine[_HIGH] + distance


@compiled
def _place(mine, sequence, length):  # type: ignore[no-untyped-def]
    """Stream offset of a segment with octets; `_NOWHERE` if it is too far from all others."""
    offset = _unwrap(mine, sequence)
    if -(1 << 30) < offset - mine[_HIGH] < WINDOW:
        mine[_FAR_COUNT] = 0
        return offset
    mine[_FAR_COUNT] = mine[_FAR_COUNT] + 1 if mine[_FAR_COUNT] and sequence == mine[_FAR] else 1
    mine[_FAR] = (sequence + length) & 0xFFFFFFFF
    if mine[_FAR_COUNT] < JUMP or mine[_STATE] != _RUNNING:
        return np.int64(_NOWHERE)
    if offset < mine[_HIGH]:
        offset += 1 << 32
    mine[_HIGH], mine[_FAR_COUNT] = offset, 0
    return offset


@compiled
def _set_origin(mine, held, sequence):  # type: ignore[no-untyped-def]
    """The SYN was seen: offset 0 is the octet behind it, also for octets that came before it."""
    shift = (mine[_ORIGIN] - sequence) & 0xFFFFFFFF
    if shift >= 1 << 31:
        shift -= 1 << 32
    kept = 0
    for i in range(mine[_HELD]):
        offset = held[i, OFFSET] + shift
        if 0 <= offset < WINDOW:
            _copy_range(held, i, kept)
            held[kept, OFFSET] = offset
            kept += 1
        else:  # not of the connection that this SYN opens
            mine[_HELD_OCTETS] -= held[i, SIZE]
            mine[_STALE] += 1
    mine[_HELD] = kept
    mine[_HIGH] = held[kept - 1, OFFSET] + held[kept - 1, SIZE] if kept else 0
    mine[_ORIGIN], mine[_NEXT], mine[_STATE] = sequence, 0, _RUNNING


@compiled
def _copy_range(held, source, target):  # type: ignore[no-untyped-def]
    for column in range(RANGE_COLUMNS):
        held[target, column] = held[source, column]


def _kept(rows: np.ndarray, data: Block, kept: np.ndarray) -> np.ndarray:
    """The octets of ranges, of the block or kept before, which are moved there."""
    if not len(rows):
        return NO_OCTETS
    octets = np.empty(int(rows[:, GIVEN].sum()), np.uint8)
    is_short = _keep(rows, *where(data), kept, near_room(data), octets)
    if isinstance(data, Passing):
        data.file.is_short |= bool(is_short)
    return octets


@kernel
def _keep(rows: Table, data: Octets, file: int, origin: int, kept: Octets, room: OctetBuffer,
          out: OctetBuffer) -> int:
    """Copy the octets of ranges to `out`; whether some were not in the file any more, which are not given then."""
    place, is_short, window = 0, False, no_window(data, file)
    for i in range(len(rows)):
        row = rows[i]
        begin, given = row[PLACE], row[GIVEN]
        if begin < 0:
            copy_octets(kept, ~begin, given, out, place)
        else:
            window = read_near(file, origin, rows, i, room, window)
            _, high, shift, _ = window
            row[GIVEN] = min(given, max(high - begin, 0))
            copy_octets(data if file == IN_MEMORY else room, begin + shift, row[GIVEN], out, place)
        is_short |= row[GIVEN] < given
        row[PLACE] = ~place
        place += row[GIVEN]
    return int(is_short)


def near_room(data: Block) -> np.ndarray:
    """Room for `read_near`, if octets of this block stay in a file.  It is little: some machines take 1 ms for each
    MiB that is used for the first time."""
    return data.file.room(PACKET_MAX + _PAGE) if isinstance(data, Passing) else NO_OCTETS


@compiled
def no_window(data, file):  # type: ignore[no-untyped-def]
    """What `read_near` is told at first."""
    return 0, len(data) if file == IN_MEMORY else 0, 0, 0


@compiled
def read_near(file, origin, rows, r, room, window):  # type: ignore[no-untyped-def]
    """Have the octets of range `r` at hand: if they stay in a file and are not in `room` yet, read them, and those
    that stand close behind them, of the next ranges, as many as there is room for.  What is there then: the positions
    of the first and behind the last, what an index is more than a position, how often was read so far."""
    low, high, _, reads = window
    place = rows[r, PLACE]
    end = place + rows[r, GIVEN]
    if file == IN_MEMORY or end == place or low <= place <= end <= high:
        return window
    for i in range(r + 1, len(rows)):
        row = rows[i]
        if row[HOLE]:
            continue
        if not (end <= row[PLACE] <= end + _APART and row[PLACE] + row[GIVEN] <= place + len(room) - _PAGE):
            break
        end = row[PLACE] + row[GIVEN]
    at = (origin + place) % _PAGE  # as in the file (`dissector.container.place_of` says why)
    return place, place + read_at(file, origin + place, room, at, end - place), at - place, reads + 1


@compiled
def _emit(mine, out, offset, size, given, place, frame, time, hole):  # type: ignore[no-untyped-def]
    row = out[mine[_OUT]]
    row[OFFSET], row[SIZE], row[GIVEN], row[PLACE] = offset, size, given, place
    row[FRAME], row[TIME], row[HOLE] = frame, time, hole
    mine[_OUT] += 1
    mine[_LACKING] |= given < size
    mine[_LATE] |= frame < mine[_LAST]
    mine[_LAST] = max(mine[_LAST], frame)
    mine[_NEXT] = offset + size


@compiled
def _hold(mine, held, offset, length, captured, position, frame, time):  # type: ignore[no-untyped-def]
    """Put the octets that are new among those that wait; the first to show an octet wins."""
    at, end = offset, offset + length
    if mine[_STATE] == _RUNNING and at < mine[_NEXT]:
        mine[_REPEATED] += min(end, mine[_NEXT]) - at
        at = mine[_NEXT]
    i, behind = 0, mine[_HELD]
    if behind and held[behind - 1, OFFSET] + held[behind - 1, SIZE] <= at:
        i = behind  # as nearly always
    while i < behind:
        middle = (i + behind) // 2
        if held[middle, OFFSET] + held[middle, SIZE] > at:
            behind = middle
        else:
            i = middle + 1
    while at < end:
        n = mine[_HELD]
        if i < n and held[i, OFFSET] <= at:
            upto = min(end, held[i, OFFSET] + held[i, SIZE])
            mine[_REPEATED] += upto - at
            at = upto
            i += 1
            continue
        size = (min(end, held[i, OFFSET]) if i < n else end) - at
        for j in range(n, i, -1):
            _copy_range(held, j - 1, j)
        skip = at - offset
        row = held[i]
        row[OFFSET], row[SIZE], row[PLACE] = at, size, position + skip
        row[GIVEN] = min(max(captured - skip, 0), size)
        row[FRAME], row[TIME], row[HOLE] = frame, time, 0
        mine[_HELD] = n + 1
        mine[_HELD_OCTETS] += size
        at += size
        i += 1
    mine[_HIGH] = max(mine[_HIGH], end)


@compiled
def _drain(mine, held, out):  # type: ignore[no-untyped-def]
    """Hand on what waits no longer."""
    if mine[_STATE] == _RUNNING:
        _forget(mine, held, _pass_on(mine, held, out, 0))


@compiled
def _pass_on(mine, held, out, i):  # type: ignore[no-untyped-def]
    """Hand on held ranges from `i` to the next hole; where that is."""
    while i < mine[_HELD] and held[i, OFFSET] == mine[_NEXT]:
        row = held[i]
        _emit(mine, out, row[OFFSET], row[SIZE], row[GIVEN], row[PLACE], row[FRAME], row[TIME], 0)
        mine[_HELD_OCTETS] -= row[SIZE]
        i += 1
    return i


@compiled
def _forget(mine, held, count):  # type: ignore[no-untyped-def]
    """Close up behind the first ranges, which have been handed on."""
    if count:
        for j in range(count, mine[_HELD]):
            _copy_range(held, j, j - count)
        mine[_HELD] -= count


@compiled
def _first_ack(mine, acks, end):  # type: ignore[no-untyped-def]
    """Row of the first ACK that covers everything below `end`; -1 without one."""
    low, high = 0, mine[_ACKS]
    while low < high:
        middle = (low + high) // 2
        if acks[middle, COVERS] >= end:
            high = middle
        else:
            low = middle + 1
    return low if low < mine[_ACKS] else -1


@compiled
def _emit_hole(mine, acks, out, end):  # type: ignore[no-untyped-def]
    """A hole up to `end`, with the first ACK that covers it."""
    i = _first_ack(mine, acks, end)
    frame, time = (acks[i, ACK_FRAME], acks[i, ACK_TIME]) if i >= 0 else (0, 0)
    _emit(mine, out, mine[_NEXT], end - mine[_NEXT], 0, 0, frame, time, 1)


@compiled
def _give_up(mine, held, acks, out, now, final, limit):  # type: ignore[no-untyped-def]
    """Declare holes lost that have waited long enough, and hand on what waited behind them.  If too
    much waits, half of it goes: one hole at a time would move all the others each time."""
    crowded = mine[_HELD_OCTETS] > limit or mine[_HELD] > HELD_ROWS
    i = 0
    while i < mine[_HELD]:
        full = crowded and (mine[_HELD_OCTETS] > limit // 2 or mine[_HELD] - i > HELD_ROWS // 2)
        if mine[_STATE] == _WAITING:
            if not (final or full or mine[_HELD_OCTETS] > START_OCTETS
                    or now - held[i, TIME] > GRACE):
                break
            mine[_NEXT], mine[_STATE] = held[i, OFFSET], _RUNNING
        else:
            ack = _first_ack(mine, acks, held[i, OFFSET])
            waited = now - acks[ack, ACK_TIME] > GRACE if ack >= 0 else now - held[i, TIME] > PATIENCE
            if not (final or full or waited):
                break
            mine[_CROWDED] += not (final or waited)
            _emit_hole(mine, acks, out, held[i, OFFSET])
        i = _pass_on(mine, held, out, i)
    _forget(mine, held, i)
