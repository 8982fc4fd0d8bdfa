# SPDX-License-Identifier: GPL-2.0-or-later
"""What is expected of a side of a stream: which of its segments nobody needs to see.

Framing keeps the beginning of a record and looks at its end; what lies between, most of all octets, is contents of
pages.  A kernel follows record headers, by the protocol's state table, only to know where that is.  Whatever it does
not expect it hands on, and all that comes behind it: framing alone says what stands there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dissector.compiled import compiled
from dissector.fields import BIG_ENDIAN, HEADER_SIZE, fixed_size
from dissector.headers import ACK, FIN, RST, SYN, _u32
from dissector.octets import fetch
from dissector.protocol import ALIGNMENT, BODY_LENGTH_MAX, FORWARD, RECORD_HEADER, RECORDS, STATES, State
from dissector.record import KEPT_MAX

NOT_KNOWN, SILENT = -1, -2
"""In place of the sequence number of the next octet: there is none, or the side has not said anything."""
NOWHERE = -1
"""In place of a row of `HOPS`: what comes behind the record in hand is not known."""

# what is kept of a side: the fields of `Expected`, and its octets that passed unseen
(FOLLOWING, DUE, WANTED, WHERE, BIG, AWAITED, ENDED, PASSED) = range(8)
NOTHING = np.array([NOT_KNOWN, 0, 0, NOWHERE, 0, -1, -1, 0])

_NUMBERS = 1 + max(number for records in RECORDS.values() for number in records)
"""Record numbers that are followed: those that are in use."""
_SIZE, _THIS, _OTHER = range(3)
_TYPE_SIZE = RECORD_HEADER[0].width
FETCHED_MAX = HEADER_SIZE
"""Octets of a block that are looked at together (`dissector.octets.fetch`)."""
_HALF = 1 << 31


class Expected(NamedTuple):
    """What is known of the octets that a side sends next.

    `following`: sequence number of the first of them (`NOT_KNOWN`: every segment is needed; `SILENT`: there was
    none).  `due`: so many are of the record in hand, and of these the first `wanted` and the last `ALIGNMENT` are
    needed.  `where`: row of `HOPS` that tells of the record behind it, whose header is `big`-endian or not.  Nobody
    needs to see that the other side acknowledges octets in front of sequence number `awaited`; from `ended` on
    once is enough (-1: no record waits for an ACK)."""

    following: int = NOT_KNOWN
    due: int = 0
    wanted: int = 0
    where: int = NOWHERE
    big: bool = False
    awaited: int = -1
    ended: int = -1


_FOLLOWED = [state for state in STATES.values() if state.direction == FORWARD and state.layer and not state.fixed]
_ROWS = {state.name: row for row, state in enumerate(_FOLLOWED)}


def where(state: State, orders: set[str]) -> tuple[int, bool]:
    """(row of `HOPS`, big-endian) in a state, where record headers have these byte orders."""
    return (_ROWS.get(state.name, NOWHERE) if len(orders) == 1 else NOWHERE), orders == {BIG_ENDIAN}


def _hop(state: State, number: int) -> tuple[int, int, int]:
    """(body length, row behind a record of that length, row behind one of any other) for a record number."""
    size, rows = -1, [NOWHERE, NOWHERE]
    for structure in state.numbered(number):
        behind = _ROWS.get(state.behind(structure).name, NOWHERE)
        if structure.layer == state.layer:
            return size, rows[0] if size >= 0 else behind, behind
        if size >= 0 or fixed_size(structure) is None:
            break
        size, rows[0] = fixed_size(structure) or 0, behind
    return size, rows[0], rows[1]


HOPS = np.array([[_hop(state, number) for number in range(_NUMBERS)] for state in _FOLLOWED], np.int64)
"""By state and record number: what stands behind a record (`_hop`)."""


@compiled
def _await(mine, first, last):  # type: ignore[no-untyped-def]
    """Records end at these sequence numbers, or between them."""
    if mine[AWAITED] < 0:
        mine[AWAITED] = first & 0xFFFFFFFF
    mine[ENDED] = last & 0xFFFFFFFF


@compiled
def _hop_on(block, hops, mine, position, length):  # type: ignore[no-untyped-def]
    """From the end of a record to that of the next one, by its header; whether that is known."""
    at = mine[DUE]
    if mine[WHERE] < 0 or at + HEADER_SIZE > length:
        return False
    if not fetch(block, position + at, HEADER_SIZE):
        return False
    header = block[-1]
    number = _u32(header, 0, mine[BIG])
    size = _u32(header, _TYPE_SIZE, mine[BIG])
    if number >= _NUMBERS or size > BODY_LENGTH_MAX:
        return False
    hop = hops[mine[WHERE], number]
    mine[WHERE] = hop[_THIS] if size == hop[_SIZE] else hop[_OTHER]
    mine[DUE], mine[WANTED] = at + HEADER_SIZE + size + -size % ALIGNMENT, at + KEPT_MAX
    return mine[WHERE] >= 0


@compiled
def _go_on(block, hops, mine, sequence, length, position):  # type: ignore[no-untyped-def]
    """The next octets have come: follow the record headers in them."""
    while mine[DUE] <= length:
        if mine[DUE]:
            _await(mine, sequence + mine[DUE], sequence + mine[DUE])
        if mine[DUE] == length:
            break
        if not _hop_on(block, hops, mine, position, length):
            # Whatever comes is wanted.
            mine[DUE], mine[WANTED], mine[WHERE] = length, length, NOWHERE
            _await(mine, sequence + 1, sequence + length)
            break
    mine[FOLLOWING] = (sequence + length) & 0xFFFFFFFF
    mine[DUE] -= length
    mine[WANTED] = max(0, mine[WANTED] - length)


@compiled
def passes(block, hops, mine, theirs, sequence, acknowledgement, flags, length, captured,  # type: ignore[no-untyped-def]
           position):
    """Whether nobody needs a segment of a block (`fetch`), by what is expected of its direction and of the other."""
    ordinary = flags & (SYN | FIN | RST) == 0
    follows = ordinary and length > 0 and sequence == mine[FOLLOWING] and captured == length
    unneeded = ordinary and (length == 0 or (follows and mine[WANTED] == 0 and length <= mine[DUE] - ALIGNMENT))
    covers_unseen = flags & ACK and 0 < (acknowledgement - theirs[FOLLOWING]) & 0xFFFFFFFF < _HALF
    if unneeded and flags & ACK:
        is_awaited = theirs[AWAITED] >= 0 and (acknowledgement - theirs[AWAITED]) & 0xFFFFFFFF < _HALF
        unneeded = theirs[FOLLOWING] == SILENT or (
            theirs[FOLLOWING] != NOT_KNOWN and not covers_unseen and not is_awaited)
    if covers_unseen and theirs[FOLLOWING] >= 0:
        theirs[FOLLOWING] = NOT_KNOWN  # those octets may never come: then this ACK dates the hole
    if follows:
        _go_on(block, hops, mine, sequence, length, position)
    elif length or not ordinary:
        mine[FOLLOWING] = NOT_KNOWN
    if unneeded:
        mine[PASSED] += length
    elif flags & ACK and not covers_unseen and (acknowledgement - theirs[ENDED]) & 0xFFFFFFFF < _HALF:
        theirs[AWAITED] = -1
    return unneeded
