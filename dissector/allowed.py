# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stay of a stream: the description says of each field whose data it is (`Field.content`), so a
record makes a few ranges of its stream."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator

import numpy as np

from dissector import fields
from dissector.fields import BIG_ENDIAN, HEADER_SIZE
from dissector.protocol import (
    ARRAY,
    CONTENTS,
    DIRTY_LIST_EXCESS,
    PAGES,
    PFN_TYPE,
    REST,
    STRINGS,
    STRUCTURES,
    TEXT,
    WIDTH,
    Field,
)
from dissector.record import Record

# columns of a range
(BEGIN, END, ACTION, KIND) = range(4)
RANGE_COLUMNS = 4

# what becomes of the octets in a range
(KEEP, ZERO, STAND_IN, FIRST_OF_8, LAST_OF_8) = range(5)
"""As they are; zero; all but zeros become `rewrite.FILL`; of each eight only the first or the last stays."""

NOT_UNDERSTOOD, REPEATED, OTHER_CONNECTIONS, NO_STREAM, HEADERS = range(5)
"""Kinds of octets: those in no range, and headers and fields of records; behind them the contents."""
KINDS = HEADERS + 1 + len(CONTENTS)
_KIND = {name: HEADERS + 1 + i for i, name in enumerate(CONTENTS)} | {"": HEADERS}


class Allowed:
    """Which octets of one direction may stay: ranges, gathered from the records.

    `removed` holds the contents (`protocol.CONTENTS`) that may not.  Memory: a few ranges for each
    record whose fields do not all stay, until they are forgotten.
    """

    def __init__(self, removed: Collection[str]) -> None:
        self._removed = frozenset(removed)
        self._ranges = array("q")
        self._table: np.ndarray | None = None

    def add(self, record: Record) -> None:
        """The ranges of one record; of one that was added before, as far as it had come, none."""
        for begin, end, action, kind in self._pieces(record):
            self._range(record.stream_offset + begin, record.stream_offset + end, action, kind)

    def add_undecided(self, offset: int, octets: bytes) -> None:
        """What the end of a stream left of a record, too little to tell which it is: as much as made
        it look like one."""
        matching = [n for s in STRUCTURES if s.magic for n in (min(len(s.magic), len(octets)),)
                    if s.magic[:n] == octets[:n]]
        known = max(matching, default=HEADER_SIZE if len(octets) >= HEADER_SIZE else 0)
        self._range(offset, offset + known, KEEP, HEADERS)
        self._range(offset + known, offset + len(octets), ZERO, NOT_UNDERSTOOD)

    def between(self, begin: int, end: int) -> np.ndarray:
        """int64 (n, 4): the ranges that reach into these octets; columns BEGIN to KIND, ascending, without
        overlaps."""
        table = self._sorted()
        return table[table[:, END].searchsorted(begin, "right"):table[:, BEGIN].searchsorted(end)]

    def forget(self, before: int) -> None:
        """Nobody will ask for octets in front of this stream offset."""
        table = self._sorted()
        self._table = table[table[:, END].searchsorted(before, "right"):]
        self._ranges = array("q", self._table.tobytes())

    def __len__(self) -> int:
        return len(self._ranges) // RANGE_COLUMNS

    def _sorted(self) -> np.ndarray:
        if self._table is None:
            ranges = np.array(self._ranges, np.int64).reshape(-1, RANGE_COLUMNS)
            ranges = ranges[np.argsort(ranges[:, BEGIN], kind="stable")]
            before = np.maximum.accumulate(np.concatenate((ranges[:1, BEGIN], ranges[:-1, END])))
            ranges[:, BEGIN] = np.maximum(ranges[:, BEGIN], before)
            self._table = ranges[ranges[:, BEGIN] < ranges[:, END]]
        return self._table

    def _range(self, begin: int, end: int, action: int, kind: int) -> None:
        if begin >= end:
            return
        ranges, self._table = self._ranges, None
        if len(ranges) and ranges[-RANGE_COLUMNS + END] == begin and action in (KEEP, ZERO) \
                and (ranges[ACTION - RANGE_COLUMNS], ranges[-1]) == (action, kind):
            ranges[-RANGE_COLUMNS + END] = end
        else:
            ranges.extend((begin, end, action, kind))

    def _pieces(self, record: Record) -> Iterator[tuple[int, int, int, int]]:
        """(begin, end, action, kind) of the octets of a record."""
        structure, at, excess = record.structure, 0, DIRTY_LIST_EXCESS if record.shifted else 0
        end = record.length
        if record.body_length is not None:
            at = HEADER_SIZE + excess
            end = at + record.body_length
            yield 0, at, KEEP, HEADERS
        understood = _agrees(record)
        for field in structure.fields if structure else ():
            upto = min(at + _size(field, record, end - at), end)
            action, kind = self._of(field, record, understood)
            if action == STAND_IN and _zero(record, at - excess, upto - excess):
                action = KEEP
            yield at, upto, action, kind
            at = upto
        yield at, end, ZERO, NOT_UNDERSTOOD
        # Whatever padding holds but zeros is nobody's business: only that it is there.
        yield end, record.length, KEEP if _zero(record, end - excess, record.length - excess) else STAND_IN, \
            HEADERS

    def _of(self, field: Field, record: Record, understood: bool) -> tuple[int, int]:
        """(action, kind) of a field."""
        content = field.content or next((item.content for item in field.items if item.content), "")
        kind = _KIND[content]
        if content in self._removed:
            if field.type in (TEXT, STRINGS):
                return STAND_IN, kind
            if any(PFN_TYPE in item.bits for item in field.items):
                # What type a page is tells whether it follows.
                return (FIRST_OF_8 if record.order == BIG_ENDIAN else LAST_OF_8), kind
            return ZERO, kind
        if field.type not in WIDTH and not understood:
            return ZERO, NOT_UNDERSTOOD
        return (STAND_IN if field.reserved else KEEP), kind


def _zero(record: Record, begin: int, end: int) -> bool:
    """Whether these octets of a record are known to be zero."""
    return len(record.octets) >= end and not any(record.octets[begin:end])


def _agrees(record: Record) -> bool:
    """Whether the length of a record and what it says of its contents fit each other.  If not, nobody
    knows where its page contents begin: only integers of it stay, and its number of pages may change."""
    structure = record.structure
    if structure is None or record.body_length is None:
        return structure is not None
    kinds = {field.type for field in structure.fields}
    if (ARRAY in kinds and record.count is None) or (PAGES in kinds and record.pages is None):
        return record.body_length == 0
    return fields.expected_body(structure, record.octets, record.order, record.body_length,
                                record.pages, record.page_size)


def _size(field: Field, record: Record, rest: int) -> int:
    """Octets of a field; `rest` are left of the body."""
    if field.type == ARRAY:
        return rest if field.count == REST else (record.count or 0) * field.width
    if isinstance(field.size, str):
        assert record.structure is not None
        size = fields.integer(record.structure, field.size, record.octets, record.order)
        return rest if size is None else size
    return field.width or rest
