# SPDX-License-Identifier: GPL-2.0-or-later
"""Framing: records in the octets of one direction.

A sans-I/O state machine: fed with runs of ranges, in any cut, it gives records.  It hops from
record header to record header and never touches page contents.  Which record may come when is
`protocol.STATES`; this module only walks that table.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dissector import fields
from dissector.expected import NOWHERE, Expected, where
from dissector.fields import HEADER_SIZE, padded
from dissector.findings import Finding
from dissector.octets import NO_OCTETS
from dissector.passage import Passage
from dissector.protocol import (
    ALIGNMENT,
    BODY_LENGTH_MAX,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_STATE,
    CONTROL_ID,
    DIRTY_LIST_EXCESS,
    DOMAIN_HEADER,
    LAYERS,
    OPTIONAL,
    PAGE_DATA,
    PAGE_SHIFT,
    PAGE_SIZE,
    SENDER,
    START,
    STATES,
    State,
    Structure,
)
from dissector.record import COMPLETE, GAP, KEPT_MAX, REMEMBERED_MAX, SNAPPED, TRUNCATED, Record
from dissector.streams import FRAME, GIVEN, HOLE, NO_ACKS, OFFSET, SIZE, TIME, Run

_AT_ONCE = 64
"""Octets taken of a record's beginning at least, where they have come: the whole of most."""
_SYNC_SIZE = padded(fields.fixed_size(CHECKPOINT_STATE) or 0)


@dataclass(frozen=True, slots=True)
class Lost:
    """The place was lost at `stream_offset`; up to `frame` everything was understood.  `hole`: the
    octets that would tell what stands there are not in the capture."""

    direction: str
    stream_offset: int
    frame: int
    hole: bool


class _NeedOctets(Exception):
    """More octets of the record's beginning decide what it is."""

    def __init__(self, count: int) -> None:
        self.count = count


class _LookAhead(Exception):
    """Octets behind the record decide what it is, and have not come yet."""


class _NoRecord(Exception):
    """No record of the protocol stands here."""

    rule = "lost_place"


class _Surplus(_NoRecord):
    """Nothing may stand here: the stream has ended."""

    rule = "after_end"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of the record in hand once its beginning has been read."""

    structure: Structure | None
    layer: str
    type: int | None
    body_length: int | None
    length: int
    order: str
    behind: State
    """What the direction may carry next."""
    kept: int | None = None
    """Octets in front of page contents or a blob, or all of them; None: a count among them tells."""
    shifted: bool = False


def announced_page_size(domain_header: Record) -> int:
    """Octets of a page, as this record says; 0: it says nothing possible."""
    shift = fields.integer(DOMAIN_HEADER, PAGE_SHIFT.name, domain_header.octets, domain_header.order)
    return 1 << shift if shift is not None and shift < 32 else 0


@lru_cache(maxsize=1024)
def _breaches(structure: Structure, octets: bytes, order: str, length: int | None, count: int | None,
              pages: int | None, page_size: int) -> tuple[tuple[str, str], ...]:
    """(rule, text) of what the contents of a record breach."""
    found, name = [], structure.full_name
    if length is not None and not fields.expected_body(structure, octets, order, length, pages, page_size):
        found.append(("bad_length", f"{name} cannot have a body of {length} octets with these contents"))
    elif length is not None and fields.without_content(structure, length):
        found.append(("empty_record", f"{name} has no content (Xen 4.6 to 4.8)"))
    if reserved := fields.reserved_set(structure, octets, order, count):
        found.append(("reserved_not_zero", f"{name}: {', '.join(reserved)} must be zero"))
    if wrong := fields.illegal(structure, octets, order, count, length):
        found.append(("illegal_value", f"{name}: {', '.join(wrong)}"))
    return tuple(found)


@lru_cache(maxsize=1024)
def _headed(state: State, header: bytes, order: str) -> _Shape:
    """What a record header alone tells in this state.  Raises _NoRecord."""
    number, body_length = fields.record_header(header, order)
    structure = None
    for candidate in state.numbered(number):
        if candidate.layer == state.layer or fields.fixed_size(candidate) in (body_length, None):
            structure = candidate
            break
    layer = structure.layer if structure else state.layer
    if structure is None and not (layer and number & OPTIONAL):
        where = f"a record of {layer}" if layer else "CHECKPOINT_STATE or a dirty PFN list"
        raise _NoRecord(f"type {number:#x}, length {body_length:#x} stand where {where} must")
    if body_length > BODY_LENGTH_MAX:
        raise _NoRecord(f"a {structure.name if structure else hex(number)} of {body_length} "
                        "octets is longer than the protocol allows")
    kept: int | None = padded(body_length)
    if structure and (contents := fields.keeps(structure)):
        kept = None if fields.counts_items(structure) else fields.place(structure, contents)[0]
    return _Shape(structure, layer, number, body_length, padded(body_length), order, state.behind(structure), kept)


class Framer:
    """Finds the records of one direction.

    `feed` takes runs, `finish` ends the stream; both return records in stream order.  `findings`
    collects what is wrong (of connection -1: the caller knows which); `lost` tells where the place
    was lost.  `contents`: keep the pages of records that carry some, and every
    item of a dirty list.
    """

    def __init__(self, direction: str, *, contents: bool = False) -> None:
        self.direction = direction
        self.contents = contents
        self.findings: list[Finding] = []
        self.lost: Lost | None = None
        self.rest: Run | None = None
        """What stands from the lost place on, while the run in which it was lost is in hand."""
        self.state = STATES[START[direction]]
        self.page_size = 0
        self.offset = 0
        """Stream offset at which the record in hand starts."""
        self._started = False
        self._head = bytearray()
        self._head_ends = False
        self._need = HEADER_SIZE
        self._shape: _Shape | None = None
        self._keep = 0
        """Octets that are kept of the record in hand."""
        self._orders: dict[str, str] = {}
        self._shifted_lists = False
        self._first: tuple[int, int] = (0, 0)
        self._touched = COMPLETE
        self._padding_set = False
        self._ending = False
        self._peek: int | None = None
        self._early: Run | None = None
        self.passage = Passage()
        """Up to the octets that it still has to read."""
        self._limit = 0
        self._last_frame = 0

    @classmethod
    def found(cls, direction: str, state: str, order: str, offset: int, passage: Passage) -> Framer:
        """One that reads from a landmark on: a place in the middle of a stream.

        `passage`: up to the run that is fed next, which has the landmark at `offset`."""
        framer = cls(direction)
        framer.state, framer.offset, framer._started = STATES[state], offset, True
        framer._orders = dict.fromkeys((*LAYERS, ""), order)
        framer.passage = passage
        framer.page_size = PAGE_SIZE  # the domain header was not seen
        return framer

    @property
    def begun(self) -> int:
        """Frame that first showed the record in hand, or what made the place be lost; 0: none."""
        return self._first[0]

    @property
    def earliest_end(self) -> int:
        """No record that is still to come ends before this stream offset."""
        return self.offset + (self._shape.length if self._shape else 1)

    @property
    def undecided(self) -> bytes:
        """What has come of a record of which it is not known yet which it is."""
        return b"" if self.lost or self._shape else bytes(self._head)

    @property
    def in_hand(self) -> Record | None:
        """The record that has not come to its end, once all that is kept of it has come."""
        return self._record(self._shape) if self._shape and self._is_known else None

    @property
    def judged(self) -> int:
        """Stream offset in front of which no octet is of a record that is still to come, but for that `in_hand`."""
        if not self._started:
            return -1 << 62
        return self.offset + (self._shape.length if self._shape and self._is_known else 0)

    @property
    def _is_known(self) -> bool:
        """Whether more octets would tell nothing more of what the record in hand is."""
        return self._shape is not None and (self._head_ends or len(self._head) >= self._keep)

    @property
    def expected(self) -> Expected:
        """What the octets behind those that have come are; only `reach` needs to be told of what it does not want."""
        shape, have = self._shape, self._limit - self.offset
        if self.lost or not self._started or self._peek is not None or (shape is None and have):
            return Expected()
        if shape is None:
            due, wanted, state = 0, 0, self.state
        elif self._head_ends and len(self._head) < self._keep:
            return Expected()
        else:
            due, wanted = shape.length - have, max(0, self._keep - have)
            state = shape.behind
        # Contents that are kept are wanted of later records, too.
        row, big = (NOWHERE, False) if self.contents else where(state, set(self._orders.values()))
        return Expected(due=due, wanted=wanted, where=row, big=big)

    def reach(self, offset: int) -> None:
        """Every octet in front of this stream offset has come; those that were not fed, in order and complete."""
        self._limit = offset

    def feed(self, run: Run) -> list[Record]:
        """The records that this run completes."""
        run = run.behind(self._early)
        self._early = self.rest = None
        if self.lost or not len(run.rows):
            return []
        if not self._started:
            self._started, self.offset = True, run.begin
        self._look_at(run)
        records: list[Record] = []
        while self.lost is None and (record := self._step()):
            records.append(record)
        self._leave()
        return records

    def finish(self) -> list[Record]:
        """The stream has ended: the last record, if one was begun."""
        if self.lost or not self._started:
            return []
        self._ending = True
        records = []
        if self._early is not None:
            records = self.feed(Run(self._early.rows[:0], self._early.acks, self._early.data,
                                    self._early.kept[:0]))
        elif record := self._step():
            records = [record]
        if self.lost is None and self._head and self.state.final and not any(
                s.magic.startswith(self._head) for s in self.state.fixed):
            self._find("after_end", "octets follow the end of the stream", self._first[0], self.offset)
        elif self.lost is None and (self._head or self._shape):
            what = "a record header"
            if self._shape is not None:
                record = self._record(self._shape)
                record.status = TRUNCATED
                records.append(record)
                what = f"{record.full_name}, {self._limit - self.offset} of {record.length} octets"
            self._find("truncated", f"the stream ends inside {what}", self._first[0], self.offset)
        return records

    def _find(self, rule: str, text: str, frame: int, offset: int, of: str = "") -> None:
        self.findings.append(Finding(rule, text, direction=self.direction, frame=frame,
                                     stream_offset=offset, of=of))

    # --- one record ---------------------------------------------------------------------------

    def _step(self) -> Record | None:
        """Go on with the record in hand; it, once its last octet is here."""
        while self._shape is None:
            if not self._collect(self._need):
                return None
            try:
                self._shape = self._recognise()
            except _NeedOctets as more:
                self._need = more.count
            except _LookAhead:
                return None
            except _NoRecord as why:
                self._lose(why)
                return None
        shape = self._shape
        end = self.offset + shape.length
        if shape.body_length and shape.body_length % ALIGNMENT:
            self._look_at_padding(shape.body_length, end)
        if (len(self._head) < self._keep and not self._collect(self._keep)) or end > self._limit:
            return None
        record = self._record(shape)
        self._complete(record, end)
        self._check(record)
        self._advance(record, shape.behind)
        return record

    def _collect(self, need: int) -> bool:
        """Have `need` octets of the record's beginning, or all of them that the capture has.

        False: they have not come yet."""
        head, run = self._head, self._run
        while (have := len(head)) < need and not self._head_ends:
            at = self.offset + have
            if at >= self._limit:
                return False
            row = bisect_right(self._starts, at) - 1
            octets = run.octets(row, at - self._starts[row], max(need, _AT_ONCE) - have)
            if not have:
                rows = run.rows
                self._first = (0, 0) if rows.item(row, HOLE) else (rows.item(row, FRAME), rows.item(row, TIME))
            head += octets
            self._head_ends = not octets
        return True

    def _recognise(self) -> _Shape:
        """What the octets in hand are the beginning of, by the table of states."""
        head, state = bytes(self._head), self.state
        if state.fixed:
            candidates = [s for s in state.fixed if s.magic.startswith(head[:len(s.magic)])]
            for structure in candidates:
                if len(head) >= len(structure.magic):
                    return self._fixed(structure, head)
            if candidates:
                raise self._more(len(head) + 1)  # the next one may rule them out
        if state.final:
            raise _Surplus("octets follow the end of the stream")
        if not (state.layer or state.records):
            expected = " or ".join(s.full_name for s in state.fixed) or "nothing"
            raise _NoRecord(f"{expected} must come here and does not")
        if len(head) < HEADER_SIZE:
            raise self._more(HEADER_SIZE)
        return self._framed(head)

    def _more(self, count: int) -> Exception:
        if self._head_ends:
            return _NoRecord("the octets that would tell which record this is are not in the "
                             "capture")
        return _NeedOctets(count)

    def _fixed(self, structure: Structure, head: bytes) -> _Shape:
        """A header or a text."""
        size = sum(field.width for field in structure.fields)
        if structure.length_field:
            at, width = fields.place(structure, structure.length_field)
            if len(head) < at + width:
                raise self._more(at + width)
            order = fields.announced_order(structure, head)
            size = at + width + (fields.integer(structure, structure.length_field, head, order) or 0)
        else:
            if len(head) < size and not self._head_ends:
                raise self._more(size)
            if structure.order_field:
                self._orders[structure.layer] = fields.announced_order(structure, head)
            order = self._orders.get(structure.layer, fields.LITTLE_ENDIAN)
        self._keep = min(size, KEPT_MAX)
        return _Shape(structure, structure.layer, None, None, size, order, self.state.behind(structure))

    def _framed(self, head: bytes) -> _Shape:
        """A record with a record header."""
        state = self.state
        order = self._orders.get(state.layer) or self._orders.setdefault(
            state.layer, self._likely_order(head))
        shape = _headed(state, head[:HEADER_SIZE], order)
        structure, keep = shape.structure, shape.length if shape.kept is None else shape.kept
        if structure is not None and not state.layer:
            shape = self._check_back(structure, head, shape)
            keep = shape.length
        elif structure is not None and shape.kept is None:
            keep = self._before_contents(structure, head, shape)
        wanted = self.contents and structure in (PAGE_DATA, CHECKPOINT_DIRTY_PFN_LIST)
        self._keep = shape.length if wanted else min(keep, shape.length, KEPT_MAX)
        return shape

    @staticmethod
    def _likely_order(head: bytes) -> str:
        """Nothing announces the back channel's byte order: record numbers are small."""
        return min((fields.LITTLE_ENDIAN, fields.BIG_ENDIAN),
                   key=lambda order: fields.record_header(head, order)[0])

    def _before_contents(self, structure: Structure, head: bytes, shape: _Shape) -> int:
        """Octets of a record in front of its page contents, which a field counts."""
        array = fields.counts_items(structure)
        assert array is not None
        at, width = fields.place(structure, array.name)
        if len(head) < min(at, shape.length) and not self._head_ends:
            raise _NeedOctets(min(at, shape.length))
        count = fields.integer(structure, array.count, head, shape.order) or 0
        return min(at + count * width, shape.length)

    def _check_back(self, structure: Structure, head: bytes, shape: _Shape) -> _Shape:
        """The back channel has no header: only a well-formed record is one."""
        if structure is CHECKPOINT_STATE:
            if len(head) < _SYNC_SIZE and not self._head_ends:
                raise _NeedOctets(_SYNC_SIZE)
            if not self._is_sync(head[:_SYNC_SIZE], shape.order):
                raise _NoRecord("a CHECKPOINT_STATE with an unknown control_id or with padding "
                                "that is not zero")
        elif structure is CHECKPOINT_DIRTY_PFN_LIST:
            if (shape.body_length or 0) % 8:
                raise _NoRecord("a dirty PFN list whose length is no multiple of 8")
            if self._is_shifted(head, shape):
                length = shape.length + DIRTY_LIST_EXCESS
                return replace(shape, shifted=True, length=length)
        return shape

    @staticmethod
    @lru_cache(maxsize=256)
    def _is_sync(octets: bytes, order: str) -> bool:
        """Whether these octets can only be a CHECKPOINT_STATE; fewer than 16 may be given."""
        size = fields.fixed_size(CHECKPOINT_STATE)
        if fields.record_header(octets, order) != (CHECKPOINT_STATE.type, size):
            return False
        if len(octets) < _SYNC_SIZE:
            return True
        control_id = fields.integer(CHECKPOINT_STATE, CONTROL_ID.name, octets, order)
        return control_id in CONTROL_ID.legal and not any(
            octets[HEADER_SIZE + (size or 0):_SYNC_SIZE])

    def _is_shifted(self, head: bytes, shape: _Shape) -> bool:
        """Which of both shapes of the dirty list this is: the one that a sync-point follows."""
        behind = HEADER_SIZE + DIRTY_LIST_EXCESS
        if shape.body_length:
            if len(head) < behind and not self._head_ends and not self._ending:
                raise _NeedOctets(behind)
            if len(head) < behind or any(head[HEADER_SIZE:behind]):
                return False
        whole = min(shape.length, KEPT_MAX)
        if len(head) < whole and not self._head_ends and not self._ending:
            raise _NeedOctets(whole)
        end = self.offset + shape.length
        if self._shifted_lists and shape.body_length:
            # What is the last PFN then: the header of a sync-point contradicts the shape.
            self._shifted_lists = not self._is_sync(self._ahead(end, HEADER_SIZE), shape.order)
            return self._shifted_lists
        if self._ending and self._limit < end + _SYNC_SIZE:
            return self._limit == end + DIRTY_LIST_EXCESS and not self._is_sync(
                self._ahead(end, HEADER_SIZE), shape.order)
        octets = self._ahead(end, _SYNC_SIZE)
        plain = len(octets) == _SYNC_SIZE and self._is_sync(octets, shape.order)
        first, moved = octets[:DIRTY_LIST_EXCESS], octets[DIRTY_LIST_EXCESS:]
        possible = not plain and (shape.body_length or not any(first))
        shifted = bool(possible) and len(moved) >= HEADER_SIZE and self._is_sync(moved, shape.order)
        if shifted:
            self._shifted_lists = True
            self._find("shifted_dirty_list", "the dirty PFN lists of this connection have "
                       f"{DIRTY_LIST_EXCESS} zero octets too many in front (Xen 4.18 and later); "
                       "the PFNs shown here are right, but the primary takes the zeros for the "
                       "first PFN and the last PFN for a record header",
                       self._first[0], self.offset)
        return shifted

    def _ahead(self, at: int, count: int) -> bytes:
        """Octets beyond the record in hand, without taking them; fewer where the capture ends."""
        if at + count > self._limit and not self._ending:
            # The record's own last octet must stay, too: its times are not taken yet.
            self._peek = at - 1
            raise _LookAhead
        octets = b""
        while len(octets) < count and at + len(octets) < self._limit:
            row = self._row(at + len(octets))
            more = self._run.octets(row, at + len(octets) - self._starts[row],
                                    count - len(octets))
            if not more:
                break
            octets += more
        return octets

    def _record(self, shape: _Shape) -> Record:
        structure, order, octets = shape.structure, shape.order, bytes(self._head[:self._keep])
        if shape.shifted:
            # Kept as the specification has it; `Record.shifted` and `length` tell of the rest.
            octets = octets[:HEADER_SIZE] + octets[HEADER_SIZE + DIRTY_LIST_EXCESS:]
        record = Record(structure, self.direction, shape.layer, shape.type, self.offset,
                        shape.length, shape.body_length, order, octets, shifted=shape.shifted,
                        page_size=self.page_size)
        record.first_frame, record.first_seen_ns = self._first
        record.count_items()
        return record

    def _complete(self, record: Record, end: int) -> None:
        """Its times and its status, now that its last octet is here."""
        row, rows = self._row(end - 1), self._run.rows
        record.frame, record.delivered_ns = delivered = self.passage.delivered(row)
        # Mostly they are one and the same: of records that are kept a sixth of the memory.
        if self._first == delivered:
            record.first_frame, record.first_seen_ns = delivered
        if not rows.item(row, HOLE):
            last = rows.item(row, FRAME), rows.item(row, TIME)
            record.last_frame, record.last_seen_ns = delivered if last == delivered else last
        self._touch(end)
        record.status = self._touched
        record.after_gap = self._touched == GAP or self.passage.held_up(row)

    def _look_at_padding(self, body_length: int, end: int) -> None:
        """Padding often has a segment of its own, and stands behind contents that are not kept."""
        if end - self.offset <= len(self._head):
            self._padding_set = any(self._head[HEADER_SIZE + body_length:end - self.offset])
            return
        at = max(end - -body_length % ALIGNMENT, self._starts[0])
        while at < min(end, self._limit):
            row = self._row(at)
            upto = min(end, int(self._starts[row] + self._run.rows[row, SIZE]))
            self._padding_set |= any(self._run.octets(row, at - self._starts[row], upto - at))
            at = upto

    def _check(self, record: Record) -> None:
        structure, length = record.structure, record.body_length
        if self._padding_set:
            self._breach("padding_not_zero", f"the padding of {record.full_name} is not zero", record)
        if structure is None:
            self._breach("optional_record", f"optional record {record.name} of {record.layer}, "
                         f"{length} octets, is unknown and was skipped", record)
            return
        if SENDER[self.direction] not in structure.senders:
            self._breach("wrong_direction", f"{record.full_name} is never sent by the "
                         f"{SENDER[self.direction]}", record)
        octets = record.octets
        if len(octets) > REMEMBERED_MAX:
            octets = fields.to_judge(structure, octets, record.order, record.count or 0)
        judge = _breaches if len(octets) <= REMEMBERED_MAX else _breaches.__wrapped__
        for rule, text in judge(structure, octets, record.order, length, record.count, record.pages, self.page_size):
            self._breach(rule, text, record)

    def _breach(self, rule: str, text: str, record: Record) -> None:
        section = record.structure.section if record.structure else ""
        self._find(rule, text, record.frame, record.stream_offset, section)

    def _advance(self, record: Record, behind: State) -> None:
        """On to the next record."""
        if record.structure is DOMAIN_HEADER:
            self.page_size = announced_page_size(record)
        self._last_frame = record.frame
        self.state = behind
        self.offset += record.length
        self._head, self._head_ends, self._need = bytearray(), False, HEADER_SIZE
        self._shape, self._first, self._touched, self._peek = None, (0, 0), COMPLETE, None
        self._padding_set = False

    def _lose(self, why: _NoRecord) -> None:
        # What precedes the first octet that is not understood is sure.  A hole passed, at the latest, when it was
        # acknowledged.
        row = self._run.rows[self._row(self.offset + len(self._head))]
        first = int(row[FRAME]) if row[HOLE] and self._head_ends else self._first[0]
        self.lost = Lost(self.direction, self.offset, max(self._last_frame, first - 1), self._head_ends)
        self._find("lost_in_hole" if self._head_ends else why.rule, str(why), self._first[0], self.offset)
        self.rest = self._run.from_row(self._row(self.offset))

    # --- the run in hand ----------------------------------------------------------------------

    def _look_at(self, run: Run) -> None:
        rows = run.rows
        self._run = run
        # Behind a loss these are so many that to make a list takes a tenth of following the stream.
        self._starts = array("q", rows[:, OFFSET].tobytes())
        self._limit = rows.item(-1, OFFSET) + rows.item(-1, SIZE)
        self.passage.look_at(run)
        self._lacks: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if not run.whole:
            lacking = rows[rows[:, GIVEN] < rows[:, SIZE]]
            self._lacks = (lacking[:, OFFSET] + lacking[:, GIVEN], lacking[:, OFFSET] + lacking[:, SIZE],
                           lacking[:, HOLE] != 0)

    def _row(self, offset: int) -> int:
        return bisect_right(self._starts, offset) - 1

    def _touch(self, end: int) -> None:
        """Note what the record in hand lacks of the octets below `end` in this run."""
        if self._lacks is None:
            return
        begins, ends, holes = self._lacks
        first, last = int(ends.searchsorted(self.offset, "right")), int(begins.searchsorted(end))
        if holes[first:last].any():
            self._touched = GAP
        elif first < last and self._touched == COMPLETE:
            self._touched = SNAPPED

    def _leave(self) -> None:
        """Remember of the run what the next one needs, and let go of its octets."""
        row = len(self._run.rows)
        if self.lost:
            row = self._row(self.offset)
        elif self._peek is not None and self._peek < self._limit:
            self._touch(self._peek)
            row = self._row(self._peek)
            self._early = self._run.tail(row)
        elif self._shape is not None:
            self._touch(self._limit)
        elif self._head and not self._ending:
            # It may turn out to be no record at all; then a landmark may stand anywhere in it.
            row = self._row(self.offset)
            self._early = self._run.tail(row)
            self._head, self._head_ends = bytearray(), False
        self.passage.leave(row)
        self._run = Run(self._run.rows, NO_ACKS, NO_OCTETS, NO_OCTETS)
