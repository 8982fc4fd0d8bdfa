# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that may be shared: what a guest works on is taken out, how it is sent stays.

The file is read twice.  First the engine finds the records; the description says of each field whose
data it is (`Field.content`), so for every record a few ranges of its stream are noted.  Then every
packet is rewritten (`dissector.rewrite`): an octet stays only if a record was made of it and a range
says so; what a retransmission repeats goes, whatever it holds.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dissector import fields, rewrite
from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.fields import BIG_ENDIAN, HEADER_SIZE
from dissector.packets import Reader
from dissector.protocol import (
    ARRAY,
    CONTENTS,
    DIRECTIONS,
    DIRTY_LIST_EXCESS,
    PAGES,
    PFN_TYPE,
    REST,
    SECRETS,
    STRINGS,
    STRUCTURES,
    TEXT,
    WIDTH,
    Field,
)
from dissector.record import Record
from dissector.rewrite import (
    ACTION,
    BEGIN,
    END,
    FIRST_OF_8,
    KEEP,
    KINDS,
    LAST_OF_8,
    NOT_UNDERSTOOD,
    RANGE_COLUMNS,
    STAND_IN,
    ZERO,
    Rewriter,
)
from dissector.sink import Sink
from dissector.source import Source

_HEADERS = KINDS
_NAMES = {rewrite.NOT_UNDERSTOOD: "not understood", rewrite.REPEATED: "repeated or stale",
          rewrite.OTHER_CONNECTIONS: "other connections",
          rewrite.NO_STREAM: "outside of TCP streams", _HEADERS: "headers and fields of records",
          **{_HEADERS + 1 + i: name for i, name in enumerate(CONTENTS)}}
_KIND = {name: _HEADERS + 1 + i for i, name in enumerate(CONTENTS)} | {"": _HEADERS}


class ScrubError(CannotDo):
    """A capture that cannot be scrubbed; the message says why."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What was done: how many `packets` of `of` are in the output, and how many octets of their payload
    were `removed` and `kept`, by kind: `protocol.CONTENTS` and others in plain words."""

    packets: int
    of: int
    removed: dict[str, int]
    kept: dict[str, int]


class Allowed:
    """Which octets of which stream may stay: ranges, gathered from the records.

    `removed` holds the contents (`protocol.CONTENTS`) that may not.  Memory: a few ranges for each
    record whose fields do not all stay.
    """

    def __init__(self, removed: Collection[str]) -> None:
        self._removed = frozenset(removed)
        self._ranges: dict[tuple[int, str], array[int]] = {}

    def add(self, record: Record) -> None:
        """The ranges of one record."""
        for begin, end, action, kind in self._pieces(record):
            self._range(record.connection, record.direction, record.stream_offset + begin,
                        record.stream_offset + end, action, kind)

    def add_undecided(self, connection: int, direction: str, offset: int, octets: bytes) -> None:
        """What the end of a stream left of a record, too little to tell which it is: as much as made
        it look like one."""
        matching = [n for s in STRUCTURES if s.magic for n in (min(len(s.magic), len(octets)),)
                    if s.magic[:n] == octets[:n]]
        known = max(matching, default=HEADER_SIZE if len(octets) >= HEADER_SIZE else 0)
        self._range(connection, direction, offset, offset + known, KEEP, _HEADERS)
        self._range(connection, direction, offset + known, offset + len(octets), ZERO, NOT_UNDERSTOOD)

    def ranges(self, connection: int, direction: str) -> np.ndarray:
        """int64 (n, 4): columns as in `dissector.rewrite`, ascending, without overlaps."""
        flat = np.array(self._ranges.get((connection, direction), ()), np.int64)
        ranges = flat.reshape(-1, RANGE_COLUMNS)
        ranges = ranges[np.argsort(ranges[:, BEGIN], kind="stable")]
        before = np.maximum.accumulate(np.concatenate((ranges[:1, BEGIN], ranges[:-1, END])))
        ranges[:, BEGIN] = np.maximum(ranges[:, BEGIN], before)
        return ranges[ranges[:, BEGIN] < ranges[:, END]]

    def _range(self, connection: int, direction: str, begin: int, end: int, action: int,
               kind: int) -> None:
        if begin >= end:
            return
        ranges = self._ranges.setdefault((connection, direction), array("q"))
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
            yield 0, at, KEEP, _HEADERS
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
            _HEADERS

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


def scrub(name: str, path: str, *, keep: Collection[str] = (), drop: Collection[str] = (),
          anonymise: bool = False, keep_others: bool = False,
          on_progress: Callable[[int], None] | None = None) -> Scrubbed:
    """Write to `path` the capture `name` without its secrets (`protocol.SECRETS`).

    `keep` and `drop` change which contents (`protocol.CONTENTS`) go; `anonymise` replaces addresses,
    the same one always by the same one; `keep_others` keeps the headers of packets that belong to no
    migration stream, which are dropped otherwise.  Raises ScrubError, SourceError.
    """
    with Source(name) as source:
        if not source.seekable:
            raise ScrubError("a capture is read twice to scrub it: name a file, not a pipe")
    if Path(path).exists() and Path(path).samefile(name):
        raise ScrubError(f"{path} is the capture itself: name another file to write")
    allowed, engine = Allowed((set(SECRETS) | set(drop)) - set(keep)), Engine()
    for event in engine.run([name], on_progress=on_progress):
        if isinstance(event, Record):
            allowed.add(event)
    if not engine.ours():
        raise ScrubError(f"{name}: nothing in it is a Xen migration stream; `coloscope connections "
                         "--all` lists what there is")
    rewriter = _rewriter(engine, allowed, keep_others, anonymise)
    count, of = 0, 0
    try:
        with Source(name, on_progress=on_progress) as source, Sink(path) as sink:
            reader = Reader(source)
            for packets in reader:
                count += sink.write(packets, rewriter.rewrite(packets), reader.container)
                of += len(packets)
            sink.finish(reader.container)
    except OSError as error:
        raise ScrubError(f"{path}: {error.strerror or error}") from None
    removed, kept = ({_NAMES[kind]: int(octets) for kind, octets in enumerate(column) if octets}
                     for column in rewriter.counts.T)
    return Scrubbed(count, of, removed, kept)


def _rewriter(engine: Engine, allowed: Allowed, keep_others: bool, anonymise: bool) -> Rewriter:
    origins, ranges = {}, {}
    for connection in engine.ours():
        number = connection.number
        for direction in DIRECTIONS:
            allowed.add_undecided(number, direction, *connection.undecided(direction))
        origins[number] = connection.stream.origin(0), connection.stream.origin(1)
        ranges[number] = (allowed.ranges(number, connection.direction(0)),
                          allowed.ranges(number, connection.direction(1)))
    return Rewriter(origins, ranges, len(CONTENTS) + 1, keep_others=keep_others, anonymise=anonymise)
