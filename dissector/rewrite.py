# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets rewritten in place: of each stay the headers that are understood, and of its payload what
the stream took from this very packet, where that may stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from dissector.allowed import (
    ACTION,
    BEGIN,
    END,
    FIRST_OF_8,
    KIND,
    KINDS,
    LAST_OF_8,
    NO_STREAM,
    NOT_UNDERSTOOD,
    OTHER_CONNECTIONS,
    RANGE_COLUMNS,
    REPEATED,
    STAND_IN,
    ZERO,
    Allowed,
)
from dissector.checksum import restore, worth
from dissector.compiled import Flags, Numbers, OctetBuffer, Slots, Table, Words, WordTable, compiled, kernel
from dissector.connection import Connection
from dissector.headers import CAPTURED, FLAGS, POSITION, SEQUENCE, SYN, _be, _inner, _network, _transport
from dissector.packets import Packets
from dissector.protocol import DIRECTIONS
from dissector.recall import signed
from dissector.record import Record
from dissector.segments import COLUMNS, SEGMENT_FRAME, SEGMENT_TIME, STREAM, Streams
from dissector.streams import FRAME, GIVEN, HOLE, OFFSET, Stream
from dissector.table import KEY, fill_slots, larger, no_slots, secret_numbers, slot_of, zeros

FILL = ord(".")
"""Stands for octets of a stream that nobody understands.  No zero: a record of type 0 and length 0
would be found there.  As a type and a length this is no record, and no text begins with it."""

NOTHING, EVERYTHING = -1 << 62, 1 << 62
"""Stream offsets in front of and behind all others."""

_ETHERNET, _SLL, _SLL2 = 1, 113, 276
_DEPTH = 5
"""IP headers of a packet that the scan opens."""
_MAC, _IPV4, _IPV6 = range(3)
_NEW_MAX = 4 * _DEPTH

# columns of octets that a stream took from a packet; _PART: which of `Taken.parts` has their stream
(_PACKET, _DATA, _SIZE, _OFFSET, _PART) = range(5)

# columns of an IP layer
(_IP, _ETHERTYPE, _HEADER, _PROTOCOL, _WIRE_END, _IP_WORTH, _WORTH) = range(7)


class Followed:
    """A connection whose packets are rewritten: what its streams take from them, and what may stay of that
    (`removed`: the contents that may not).  `streams` tell how it opened."""

    def __init__(self, connection: Connection, streams: Streams, removed: Collection[str]) -> None:
        self.connection, self.streams = connection, streams
        self.allowed = Allowed(removed), Allowed(removed)
        """Of both sides, at the stream offsets of the connection."""
        self.judged = [NOTHING, NOTHING]
        """Of both sides, the stream offset in front of which `allowed` knows of every octet what becomes of it."""
        self.assembly = Stream()
        for side in (0, 1):
            if opened := streams.opened(connection.number, side):
                self.assembly.open(side, *opened)

    def learn(self, record: Record) -> None:
        """What may stay of a record of its."""
        self.allowed[self.connection.side(record.direction)].add(record)

    def catch_up(self) -> None:
        """Every record that the connection has made was learnt; learn what it has in hand."""
        for side in (0, 1):
            judged = self.connection.judged(side)
            if judged > self.judged[side] and (record := self.connection.in_hand(side)):
                self.allowed[side].add(record)
            self.judged[side] = judged

    def end(self) -> None:
        """It has no more records."""
        for direction in DIRECTIONS:
            self.allowed[self.connection.side(direction)].add_undecided(*self.connection.undecided(direction))
        self.judged = [EVERYTHING, EVERYTHING]

    def passed(self, side: int) -> int:
        """Stream offset in front of which nothing more will be taken."""
        return self.assembly.passed(side) + self.moved(side, self.assembly.origin(side))

    def moved(self, side: int, origin: int) -> int:
        """What to add to an offset behind sequence number `origin` to have one of the connection's.  The SYN may
        come late, and moves the origin."""
        return signed(origin - self.connection.stream.origin(side))


@dataclass(frozen=True, slots=True)
class Part:
    """What one side of a connection took from a block: octets from stream offset `begin` to `end`, behind
    sequence number `origin`."""

    followed: Followed
    side: int
    origin: int
    begin: int
    end: int

    @property
    def is_judged(self) -> bool:
        """Whether it is known of all these octets what becomes of them."""
        return self.followed.judged[self.side] >= self.end + self.moved

    @property
    def moved(self) -> int:
        """What to add to its offsets to have the connection's (`Followed.moved`)."""
        return self.followed.moved(self.side, self.origin)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from the packets of a block: `parts`, and where the octets of each stand in the packets
    (`rows`, by packet and position); `payload`: octets that a packet has behind its headers."""

    rows: np.ndarray
    parts: list[Part]
    payload: np.ndarray


class Rewriter:
    """Rewrites the packets of a capture, block by block: `take` sees them in order, `rewrite` may come later,
    when all is learnt that is to be known of what was taken.

    `removed` are the contents (`protocol.CONTENTS`) that go; `keep_others` and `anonymise` as in
    `dissector.scrub`.  `counts` has octets, (removed, kept) for each kind (`dissector.allowed`).
    """

    def __init__(self, removed: Collection[str], *, keep_others: bool = False, anonymise: bool = False) -> None:
        self.counts = np.zeros((KINDS, 2), np.int64)
        self.followed: dict[int, Followed] = {}
        """Whose octets are taken, by number."""
        self._removed = frozenset(removed)
        self._keep_others, self._anonymise = keep_others, anonymise
        self._known = 0
        self._addresses = zeros((1 << 8, KEY), np.uint64)
        self._names = zeros((1 << 8,), np.int64)
        self._named = np.zeros(3, np.int64)
        self._slots = no_slots(len(self._addresses))
        self._secret = secret_numbers()

    def follow(self, connection: Connection, streams: Streams) -> Followed:
        """Take what belongs to this connection from now on, if that is not done yet."""
        followed = self.followed.get(connection.number)
        if followed is None:
            followed = self.followed[connection.number] = Followed(connection, streams, self._removed)
        return followed

    def take(self, packets: Packets) -> Taken:
        """What the streams take from the packets of the next block, which have been told apart: a row for each
        contiguous piece.  The first to show an octet wins, and segments of an earlier connection are left out,
        as everywhere."""
        streams, headers = packets.streams, packets.headers.rows
        found, parts = [np.zeros((0, 5), np.int64)], list[Part]()
        for number in np.intersect1d(streams, list(self.followed)).tolist():
            followed = self.followed[number]
            mine = np.flatnonzero(streams == number)
            rows = np.zeros((len(mine), COLUMNS), np.int64)
            rows[:, :STREAM], rows[:, STREAM] = headers[mine, :STREAM], number
            rows[:, SEGMENT_FRAME], rows[:, SEGMENT_TIME] = packets.first + mine, packets.time[mine]
            runs = followed.assembly.feed(rows, packets.octets)
            for side, run in enumerate(runs):
                new = np.concatenate((run.rows, followed.assembly.held(side).rows))
                new = new[(new[:, HOLE] == 0) & (new[:, FRAME] >= packets.first) & (new[:, GIVEN] > 0)]
                if not len(new):
                    continue
                origin, at = followed.assembly.origin(side), new[:, FRAME] - packets.first
                sequence = headers[at, SEQUENCE] + (headers[at, FLAGS] & SYN != 0)
                skip = (new[:, OFFSET] + origin - sequence) & 0xFFFFFFFF
                found.append(np.stack((at, headers[at, POSITION] + skip, new[:, GIVEN], new[:, OFFSET],
                                       np.full(len(new), len(parts))), axis=1))
                parts.append(Part(followed, side, origin, int(new[:, OFFSET].min()),
                                  int((new[:, OFFSET] + new[:, GIVEN]).max())))
        taken = np.concatenate(found)
        return Taken(taken[np.lexsort((taken[:, _DATA], taken[:, _PACKET]))], parts,
                     np.where(streams >= 0, headers[:, CAPTURED], 0))

    def rewrite(self, packets: Packets, taken: Taken, ours: Collection[int]) -> np.ndarray:
        """Rewrite the packets of one block, from which this was taken; `ours` are the connections whose packets
        stay.  The mask of those that do."""
        is_tcp, is_ours = packets.streams >= 0, np.isin(packets.streams, list(ours))
        stays = is_ours | self._keep_others
        rows, moved = taken.rows[stays[taken.rows[:, _PACKET]]], np.array([p.moved for p in taken.parts], np.int64)
        rows[:, _OFFSET] += moved[rows[:, _PART]]
        ranges = [part.followed.allowed[part.side].between(part.begin + part.moved, part.end + part.moved)
                  for part in taken.parts]
        bounds = np.cumsum([0, *map(len, ranges)])
        allowed = np.concatenate([np.zeros((0, RANGE_COLUMNS), np.int64), *ranges])
        table = np.stack((packets.position, packets.captured, packets.wire, packets.link, taken.payload))
        layers, links = np.empty((_DEPTH, 7), np.int64), np.empty((_DEPTH + 1, 2), np.int64)
        done, at = 0, 0
        while done < len(packets):
            done, at, self._known = _rewrite(
                packets.data, table, done, stays, is_tcp, is_ours, rows, at, bounds, allowed,
                self._anonymise, self._known, self._addresses, self._names, self._named, self._slots,
                self._secret, self.counts, layers, links)
            if done < len(packets):
                self._grow()
        return stays

    def _grow(self) -> None:
        self._addresses, self._names = (larger(table, self._known) for table in (self._addresses, self._names))
        self._slots = no_slots(len(self._addresses))
        fill_slots(self._slots, self._addresses, self._secret, self._known)


@compiled
def _headers(data, link, p, end, wire_end, layers, links):  # type: ignore[no-untyped-def]
    """Find every header of a frame: fills `links` (position, link type) and `layers` (an IP header
    each); returns (links, layers, end of what is understood)."""
    n, m = 0, 0
    while True:
        begin = p
        kind, p = _network(data, link, p, end)
        if kind < 0:
            return m, n, begin
        links[m, 0], links[m, 1] = begin, link
        m += 1
        while True:
            ip = p
            protocol, p, wire_end = _transport(data, kind, ip, end, wire_end)
            if protocol == -1 or protocol == -3:
                return m, n, ip
            layer = layers[n]
            layer[_IP], layer[_ETHERTYPE], layer[_HEADER] = ip, kind, p
            layer[_PROTOCOL], layer[_WIRE_END] = protocol, wire_end
            n += 1
            if protocol == -2:
                p = ip + 20 if kind == 0x0800 else p + 8
                return m, n, min(p, end)
            if protocol == 6:
                if p + 20 > end:
                    layer[_PROTOCOL] = -1
                    return m, n, min(p, end)
                return m, n, min(p + max((np.int64(data[p + 12]) >> 4) * 4, 20), end)
            tunnel, link, inner, inside = _inner(data, protocol, p, end)
            if tunnel <= 0 or n == _DEPTH:
                return m, n, min(p + 8 if protocol == 17 else p, end)
            p = inside
            if link >= 0:
                break
            kind = inner


@compiled
def _blank_options(data, layer, end):  # type: ignore[no-untyped-def]
    """Zero the options of an IP header: they may hold addresses and more."""
    ip = layer[_IP]
    if layer[_ETHERTYPE] == 0x0800:
        behind = ip + np.int64(data[ip] & 15) * 4
        data[ip + 20:max(min(behind, end), ip + 20)] = 0
        if data[ip + 9] == 51:
            data[min(behind + 2, end):max(min(layer[_HEADER], end), min(behind + 2, end))] = 0
        return
    following, at = np.int64(data[ip + 6]), ip + 40
    while at < layer[_HEADER] and at + 8 <= end:
        size = 8 if following == 44 else (np.int64(data[at + 1]) + 2) * 4 if following == 51 \
            else (np.int64(data[at + 1]) + 1) * 8
        if following != 44:
            data[at + 2:min(at + size, end)] = 0
        following, at = np.int64(data[at]), at + size


@compiled
def _fill(data, begin, end, value):  # type: ignore[no-untyped-def]
    data[begin:end] = value


@compiled
def _apply(data, p, offset, size, ranges, low, high, counts):  # type: ignore[no-untyped-def]
    """Rewrite `size` octets of a stream, from `offset` on, that stand at data[p]."""
    end = offset + size
    i, behind = low, high
    while i < behind:
        middle = (i + behind) // 2
        if ranges[middle, END] <= offset:
            i = middle + 1
        else:
            behind = middle
    here = offset
    while here < end:
        begin = min(ranges[i, BEGIN], end) if i < high else end
        if here < begin:
            _fill(data, p + here - offset, p + begin - offset, FILL)
            counts[NOT_UNDERSTOOD, 0] += begin - here
            here = begin
            continue
        upto = min(ranges[i, END], end)
        action, at, past = ranges[i, ACTION], p + here - offset, p + upto - offset
        gone = upto - here if action == ZERO else 0
        if action == ZERO:
            _fill(data, at, past, 0)
        elif action == STAND_IN:
            for j in range(at, past):
                if data[j]:
                    data[j] = FILL
                    gone += 1
        elif action == FIRST_OF_8 or action == LAST_OF_8:
            stays = 0 if action == FIRST_OF_8 else 7
            phase = here - ranges[i, BEGIN]
            for j in range(at, past):
                if (phase + j - at) & 7 != stays:
                    data[j] = 0
                    gone += 1
        counts[ranges[i, KIND], 0] += gone
        counts[ranges[i, KIND], 1] += upto - here - gone
        here = upto
        i += 1


@compiled
def _rename(data, p, kind, known, addresses, names, named, slots, secret):  # type: ignore[no-untyped-def]
    """Put a new address in place of the one at data[p]: the same for the same.  Returns how many
    addresses are known.  Those that name no host stay."""
    high, size = np.uint64(0), 4
    if kind == _MAC:
        low, size = _be(data, p, 6), 6
        if low == 0 or low == 0xFFFFFFFFFFFF:
            return known
    elif kind == _IPV4:
        low = _be(data, p, 4)
        if low == 0 or low == 0xFFFFFFFF or data[p] == 127:
            return known
    else:
        high, low, size = _be(data, p, 8), _be(data, p + 8, 8), 16
        if high == 0 and low <= 1:
            return known
    none = np.uint64(0)
    slot = slot_of(slots, addresses, secret, np.uint64(kind), high, low, none, none)
    if slots[slot] == 0:
        slots[slot] = known + 1
        key = addresses[known]
        key[0], key[1], key[2] = np.uint64(kind), high, low
        named[kind] += 1
        names[known] = named[kind]
        known += 1
    name = names[slots[slot] - 1]
    if kind == _MAC:
        data[p], data[p + 1] = 2 | data[p] & 1, 0
    elif kind == _IPV4:
        # 10.0.0.0/8 and on; groups keep to 239.0.0.0/8.
        name += (239 if 224 <= data[p] < 240 else 10) << 24
    else:
        first, second = (0xFF, 0x0E) if data[p] == 0xFF else (0xFD, 0)
        _fill(data, p, p + size, 0)
        data[p], data[p + 1] = first, second
    for i in range(4):
        data[p + size - 1 - i] = name >> 8 * i & 0xFF
    return known


@compiled
def _rename_link(data, p, link, anonymise, known, addresses, names, named, slots, secret):  # type: ignore[no-untyped-def]
    """The addresses of a link header; what pads them is zeroed."""
    if link == _ETHERNET:
        if anonymise:
            known = _rename(data, p, _MAC, known, addresses, names, named, slots, secret)
            known = _rename(data, p + 6, _MAC, known, addresses, names, named, slots, secret)
    elif link == _SLL or link == _SLL2:
        at = p + 6 if link == _SLL else p + 12
        size = min(np.int64(data[p + 5] if link == _SLL else data[p + 11]), 8)
        _fill(data, at + size, at + 8, 0)
        if anonymise and size == 6:
            known = _rename(data, at, _MAC, known, addresses, names, named, slots, secret)
        elif anonymise:
            _fill(data, at, at + size, 0)
    return known


@kernel
def _rewrite(data: OctetBuffer, table: Table, done: int, stays: Flags, is_tcp: Flags, is_ours: Flags, taken: Table,
             t: int, bounds: Numbers, ranges: Table, anonymise: bool, known: int, addresses: WordTable,
             names: Numbers, named: Numbers, slots: Slots, secret: Words, counts: Table, layers: Table,
             links: Table) -> tuple[int, int, int]:
    """From packet `done` and row `t` of `taken` on; stops early when the table of addresses may get
    full."""
    for i in range(done, table.shape[1]):
        if known + _NEW_MAX > len(addresses):
            return i, t, known
        if not stays[i]:
            continue
        begin, end = table[0, i], table[0, i] + table[1, i]
        m, n, behind = _headers(data, table[3, i], begin, end, begin + table[2, i], layers, links)
        behind = min(behind, end)
        for j in range(n):
            layer = layers[j]
            ip, kind, p, upto = layer[_IP], layer[_ETHERTYPE], layer[_HEADER], layer[_WIRE_END]
            layer[_IP_WORTH] = worth(data, kind, ip, 0, p, upto, end)
            if layer[_PROTOCOL] > 0:
                layer[_WORTH] = worth(data, kind, ip, layer[_PROTOCOL], p, upto, end)
        payload = behind + table[4, i]
        if is_tcp[i]:
            kind, here = REPEATED if is_ours[i] else OTHER_CONNECTIONS, behind
            while t < len(taken) and taken[t, _PACKET] == i:
                place, size, part = taken[t, _DATA], taken[t, _SIZE], taken[t, _PART]
                _fill(data, here, place, FILL)
                counts[kind, 0] += place - here
                _apply(data, place, taken[t, _OFFSET], size, ranges, bounds[part],
                       bounds[part + 1], counts)
                here = place + size
                t += 1
            _fill(data, here, payload, FILL)
            counts[kind, 0] += payload - here
        _fill(data, payload, end, 0)
        counts[NO_STREAM, 0] += end - payload
        for j in range(m):
            known = _rename_link(data, links[j, 0], links[j, 1], anonymise, known, addresses, names, named,
                                 slots, secret)
        for j in range(n - 1, -1, -1):
            layer = layers[j]
            ip, kind, p, upto = layer[_IP], layer[_ETHERTYPE], layer[_HEADER], layer[_WIRE_END]
            _blank_options(data, layer, end)
            if anonymise:
                at, size, family = (ip + 12, 4, _IPV4) if kind == 0x0800 else (ip + 8, 16, _IPV6)
                known = _rename(data, at, family, known, addresses, names, named, slots, secret)
                known = _rename(data, at + size, family, known, addresses, names, named, slots, secret)
            restore(data, kind, ip, 0, p, upto, end, layer[_IP_WORTH])
            if layer[_PROTOCOL] > 0:
                restore(data, kind, ip, layer[_PROTOCOL], p, upto, end, layer[_WORTH])
    return table.shape[1], t, known
