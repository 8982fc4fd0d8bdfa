# SPDX-License-Identifier: GPL-2.0-or-later
"""Landmarks: places in the middle of a stream where a record may begin.

Pages of a guest may hold anything, another stream too.  What this module finds are candidates:
records of which so much is fixed (a length that is known or fits a count, reserved fields) that chance
hardly makes one, with likely record headers behind them as far as the run reaches.  The
proof is `dissector.seeker`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dissector import fields
from dissector.compiled import Flags, Numbers, OctetBuffer, Octets, Table, WordTable, compiled, kernel
from dissector.fields import BIG_ENDIAN, HEADER_SIZE, LITTLE_ENDIAN
from dissector.headers import _be
from dissector.octets import IN_MEMORY, Passing, fetch, where
from dissector.prefetch import prefetch
from dissector.protocol import (
    ARRAY,
    BODY_LENGTH_MAX,
    CHECKPOINT_STATE,
    DIRECTIONS,
    HEADER_LANDMARKS,
    LANDMARKS,
    PAGE_SIZE,
    PAGES,
    RECORDS,
    SENDER,
    STATES,
    SYNC_LANDMARKS,
    U32,
    XEN_COLO,
    Field,
    Structure,
)
from dissector.streams import GIVEN, HOLE, OFFSET, PLACE, SIZE, Run, near_room, no_window, read_near

WINDOW = 2 * HEADER_SIZE
"""Octets that make a candidate: a record header and the first two words of its body."""

_CANDIDATES = 256
_ANY = (1 << 32) - 1

# columns of the table of kinds: of a header's two words and the body's first two
(_NUMBER, _LEAST, _MOST, _FIRST_LEAST, _FIRST_MOST, _SECOND_LEAST, _SECOND_MOST, _ITEM, _CARRIES,
 _CHAINED) = range(10)


@dataclass(frozen=True, slots=True)
class Landmark:
    """A place where a stream may be read from: the direction that it would be, the state, the byte
    order and the stream offset to begin with; whether a sync-point stands there."""

    direction: str
    state: str
    order: str
    offset: int
    sync: bool


def _legal(field: Field) -> tuple[int, int]:
    # Ranges and tuples of legal values ascend.
    return (field.legal[0], field.legal[-1]) if field.legal else (0, _ANY)


def _kind(structure: Structure) -> list[int] | None:
    """What is known of a record's first octets; None if that is too little to tell it by."""
    exact = fields.fixed_size(structure)
    first, second = (*structure.fields[:2], None, None)[:2]
    words = [_legal(f) if f is not None and f.type == U32 else (0, _ANY) for f in (first, second)]
    array = fields.counts_items(structure)
    counted = array is not None and first is not None and array.count == first.name
    fixed = sum(f.width for f in structure.fields if f.type != ARRAY)
    if not counted and (exact or 0) < WINDOW:
        return None
    return [structure.type or 0, exact or fixed, exact or BODY_LENGTH_MAX, *words[0], *words[1],
            array.width if counted and array else 0, any(f.type == PAGES for f in structure.fields), 1]


def _sync_kind(ids: list[int]) -> list[int]:
    size = fields.fixed_size(CHECKPOINT_STATE) or 0
    return [CHECKPOINT_STATE.type or 0, size, size, min(ids), max(ids), 0, 0, 0, 0, 0]


def _kinds() -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The table of kinds (int64), and (direction, state) for each of its rows."""
    table, states = [], []
    for direction in DIRECTIONS:
        ids = [p.control_id for p in XEN_COLO.sync_points if p.sender == SENDER[direction]]
        table.append(_sync_kind(ids))
        states.append((direction, SYNC_LANDMARKS[direction]))
    for (direction, layer), state in LANDMARKS.items():
        for structure in RECORDS[layer].values():
            if structure is not CHECKPOINT_STATE and SENDER[direction] in structure.senders \
                    and (row := _kind(structure)):
                table.append(row)
                states.append((direction, state))
    return np.array(table, np.int64), states


def _exact_sizes() -> np.ndarray:
    """Octets of the body by layer and record number: -1 variable, -2 no such record."""
    most = max(max(records, default=0) for records in RECORDS.values())
    sizes = np.full((2, most + 1), -2, np.int64)
    for i, layer in enumerate(layer for layer, records in RECORDS.items() if records):
        for number, structure in RECORDS[layer].items():
            exact = fields.fixed_size(structure)
            sizes[i, number] = -1 if exact is None or structure.may_be_empty else exact
    return sizes


_KINDS, _STATES = _kinds()
_SIZES = _exact_sizes()
_HEADERS = [(structure.magic[:WINDOW], state) for structure, state in HEADER_LANDMARKS.items()]
_MAGICS = np.array([[int.from_bytes(magic[:8].ljust(8, b"\0")), int.from_bytes(magic[8:].ljust(8, b"\0")),
                     (1 << 64) - (1 << 8 * (WINDOW - len(magic)))] for magic, _ in _HEADERS], np.uint64)


def _pair(magic: bytes) -> bytes:
    """Where the first two octets of a magic that differ stand, and both."""
    at = next(i for i in range(len(magic) - 1) if magic[i] != magic[i + 1])
    return bytes([at]) + magic[at:at + 2]


_FIRST = np.zeros(256, np.bool_)
_FIRST[[magic[0] for magic, _ in _HEADERS]] = True
"""With which octets a magic begins."""
_PAIRS = np.frombuffer(b"".join(_pair(magic) for magic, _ in _HEADERS), np.uint8)
"""What tells each magic from most octets (`_pair`)."""
_AT_ONCE, _FEW = 256, 32
"""Places that are looked at together, since in loops that have no way out a processor takes 32 octets in each step;
and how many are looked at one by one behind one that may be it, since others are near."""
_SOON = 2048
"""Octets of the next range that are fetched meanwhile: those of many connections stand far apart."""
_ENOUGH = 1 << 20
"""Octets that are looked through although something was found in them: mostly it tells the place, and spares the
rest."""
_READS_MAX = 1000
"""Reads of one block, of many connections, behind which all of it is read at once: that takes about as long."""


def landmarks(run: Run, begin: int) -> tuple[list[Landmark], int]:
    """The first candidates in a run, from stream offset `begin` on, and the offset from which to look for more: if
    there were none, in the next run, which must start with the octets of this one from there on."""
    if isinstance(run.data, Passing) and run.data.reads > _READS_MAX:
        run.data.load()
    out = np.empty((_CANDIDATES, 3), np.int64)
    starts, header = np.ascontiguousarray(run.rows[:, OFFSET]), np.empty(HEADER_SIZE, np.uint8)
    found, begin, reads, is_short = _scan(run.rows, starts, *where(run.data), run.kept, near_room(run.data), header,
                                          begin, _KINDS, _SIZES, _MAGICS, _FIRST, _PAIRS, out)
    if isinstance(run.data, Passing):
        run.data.reads += reads
        run.data.file.is_short |= bool(is_short)
    return list(_named(out[:found])), int(begin)


def _named(rows: np.ndarray) -> Iterator[Landmark]:
    for offset, kind, big in rows.tolist():
        order = BIG_ENDIAN if big else LITTLE_ENDIAN
        if kind < 0:
            state = _HEADERS[~kind][1]
            yield Landmark(STATES[state].direction, state, order, offset, False)
        else:
            direction, state = _STATES[kind]
            yield Landmark(direction, state, order, offset, not _KINDS[kind, _CHAINED])


@kernel
def _scan(rows: Table, starts: Numbers, data: Octets, file: int, origin: int, kept: Octets, room: OctetBuffer,
          header: OctetBuffer, begin: int, kinds: Table, sizes: Table, magics: WordTable, first: Flags, pairs: Octets,
          out: Table) -> tuple[int, int, int, int]:
    """Slide a window of 16 octets over the run, and note where a record may begin; how often octets were read from
    the file, whether some were not there any more."""
    found, have, upto, is_short = 0, 0, begin, 0
    block, window = (data, file, origin, header), no_window(data, file)
    older, newer = np.uint64(0), np.uint64(0)
    eight, one = np.uint64(8), np.uint64(56)
    most = len(sizes[0]) - 1
    for r in range(len(rows)):
        offset, given, place = rows[r, OFFSET], rows[r, GIVEN], rows[r, PLACE]
        if found and offset > begin + _ENOUGH:
            break
        if rows[r, HOLE]:
            given = 0
        source, at = (data, place) if place >= 0 else (kept, ~place)
        if r + 1 < len(rows) and file == IN_MEMORY and rows[r + 1, PLACE] >= 0:
            prefetch(data, rows[r + 1, PLACE], min(rows[r + 1, GIVEN], _SOON))
        i = max(begin - offset, 0)
        if i < given and place >= 0:
            window = read_near(file, origin, rows, r, room, window)
            _, high, shift, _ = window
            if file != IN_MEMORY:
                source, at = room, place + shift
            if place + given > high:
                given, is_short = max(high - place, 0), 1
        while i < given:
            if have >= WINDOW - 1 and i >= WINDOW - 1:  # the window lies in this range
                i = min(_next_end(source[at:at + given], i, most, first, pairs), given - 1)
                older, newer = _be(source, at + i + 1 - WINDOW, 8), _be(source, at + i - 7, 8)
            else:
                older = older << eight | newer >> one
                newer = newer << eight | np.uint64(source[np.uint64(at + i)])
            have += 1
            i += 1
            if have < WINDOW:
                continue
            here = offset + i - WINDOW
            upto = here + 1
            # The middle two octets of a record number are zero, in either byte order.
            if older & np.uint64(0x00FFFF0000000000) and not first[older >> one]:
                continue
            hit = 0
            # Memory is full of small numbers: refuse what is cheap to refuse.  Little-endian: the
            # three upper octets of a record number are zero, the upper one of a length nearly so.
            if older & np.uint64(0x00FFFFFF000000F0) == 0 and 0 < older >> one <= np.uint64(most):
                hit = _matches(rows, starts, block, kept, here, older, newer, False, kinds, sizes, out, found)
            if hit == 0 and 0 < older >> np.uint64(32) <= np.uint64(most) \
                    and older & np.uint64(0xF0000000) == 0:
                hit = _matches(rows, starts, block, kept, here, older, newer, True, kinds, sizes, out, found)
            if hit > 0:
                found = hit
            else:
                for m in range(len(magics)):
                    if older == magics[m, 0] and newer & magics[m, 2] == magics[m, 1]:
                        out[found, 0], out[found, 1], out[found, 2] = here, ~m, 0
                        found += 1
            if found + 8 > len(out):
                return found, upto, window[-1], is_short
        if given < rows[r, SIZE]:
            have = 0
            upto = max(upto, offset + rows[r, SIZE])
    return found, upto, window[-1], is_short


@compiled
def _next_end(octets, i, most, first, pairs):  # type: ignore[no-untyped-def]
    """Where, from `i` on, a window ends that may be one of a record, by what is cheap to refuse."""
    slow = i + _FEW if i >= WINDOW else i
    while i < len(octets):
        if i >= slow and len(octets) >= _AT_ONCE + WINDOW:
            start = min(i, len(octets) - _AT_ONCE)  # as many at the end, some of them again
            if _is_dull(octets[start + 1 - WINDOW:start + _AT_ONCE], most, pairs):
                i = start + _AT_ONCE
                continue
            slow = start + _AT_ONCE
        if _may_begin(octets[i + 1 - WINDOW:i + 1], most, first):
            break
        i += 1
    return i


@compiled
def _may_begin(window, most, first):  # type: ignore[no-untyped-def]
    """Whether a window begins with a likely record header, or with the first octet of a magic.  Likely: three octets
    of the number are zero, in either byte order, and so is the upper half of the length's highest one."""
    little = window[3] == 0 and 0 < window[0] <= most and window[7] < 16
    big = window[0] == 0 and 0 < window[3] <= most and window[4] < 16
    return (window[1] == 0 and window[2] == 0 and (little or big)) or first[window[0]]


@compiled
def _is_dull(octets, most, pairs):  # type: ignore[no-untyped-def]
    """Whether no window in these octets is such a one (`_may_begin`), or one of a magic that has its pair."""
    count = len(octets) - WINDOW + 1
    here, behind, third = octets[:count], octets[1:count + 1], octets[2:count + 2]
    zeros, header, magic = False, False, False
    for i in range(count):
        zeros |= (behind[i] == 0) & (third[i] == 0)
    if zeros:
        fourth, fifth, eighth = octets[3:count + 3], octets[4:count + 4], octets[7:count + 7]
        for i in range(count):
            little = (fourth[i] == 0) & (here[i] != 0) & (here[i] <= most) & (eighth[i] < 16)
            big = (here[i] == 0) & (fourth[i] != 0) & (fourth[i] <= most) & (fifth[i] < 16)
            header |= (behind[i] == 0) & (third[i] == 0) & (little | big)
        if header:
            return False
    for m in range(0, len(pairs), 3):
        at, first, second = np.int64(pairs[m]), pairs[m + 1], pairs[m + 2]
        one, other = octets[at:at + count], octets[at + 1:at + 1 + count]
        for i in range(count):
            magic |= (one[i] == first) & (other[i] == second)
    return not magic


@compiled
def _swapped(word):  # type: ignore[no-untyped-def]
    """The two u32 of eight octets, read from the least significant octet on."""
    first = np.int64(0)
    second = np.int64(0)
    for i in range(4):
        first |= np.int64(word >> np.uint64(56 - 8 * i) & np.uint64(255)) << (8 * i)
        second |= np.int64(word >> np.uint64(24 - 8 * i) & np.uint64(255)) << (8 * i)
    return first, second


@compiled
def _halves(word, big):  # type: ignore[no-untyped-def]
    if big:
        return np.int64(word >> np.uint64(32)), np.int64(word & np.uint64(0xFFFFFFFF))
    return _swapped(word)


@compiled
def _matches(rows, starts, block, kept, here, older, newer, big, kinds, sizes, out, found):  # type: ignore[no-untyped-def]
    """Note each kind of record that fits a window; the new number of candidates, 0 if none fits."""
    number, length = _halves(older, big)
    first, second = _halves(newer, big)
    before = found
    for k in range(len(kinds)):
        kind = kinds[k]
        if kind[_NUMBER] != number or not kind[_LEAST] <= length <= kind[_MOST]:
            continue
        if not kind[_FIRST_LEAST] <= first <= kind[_FIRST_MOST]:
            continue
        if not kind[_SECOND_LEAST] <= second <= kind[_SECOND_MOST]:
            continue
        rest = length - kind[_LEAST] - first * kind[_ITEM]
        if kind[_CARRIES] and not (0 <= rest <= first * PAGE_SIZE and rest % PAGE_SIZE == 0):
            continue
        if kind[_ITEM] and not kind[_CARRIES] and rest:
            continue
        if kind[_CHAINED] and not _likely(rows, starts, block, kept,
                                          here + 8 + (length + 7) // 8 * 8, big, sizes):
            continue
        out[found, 0], out[found, 1], out[found, 2] = here, k, big
        found += 1
    return found if found > before else 0


@compiled
def _likely(rows, starts, block, kept, at, big, sizes):  # type: ignore[no-untyped-def]
    """Whether two record headers may follow, the first at `at`, as far as the run has them."""
    r = np.searchsorted(starts, at, side="right") - 1
    for _ in range(2):
        word, i = np.uint64(0), 0
        while i < 8:
            while r < len(rows) and at + i >= rows[r, OFFSET] + rows[r, SIZE]:
                r += 1
            if r >= len(rows) or at + i >= rows[r, OFFSET] + rows[r, GIVEN]:
                return True
            skip, place = at + i - rows[r, OFFSET], rows[r, PLACE]
            count = min(8 - i, rows[r, GIVEN] - skip)
            if place >= 0 and not fetch(block, place + skip, count):
                return True
            for j in range(count):
                octet = block[-1][j] if place >= 0 else kept[~place + skip + j]
                word = word << np.uint64(8) | np.uint64(octet)
            i += count
        number, length = _halves(word, big)
        if word == 0 or number >= len(sizes[0]) or length > BODY_LENGTH_MAX:
            return False
        if not (sizes[0, number] == length or sizes[0, number] == -1
                or sizes[1, number] == length or sizes[1, number] == -1):
            return False
        at += 8 + (length + 7) // 8 * 8
        r = np.searchsorted(starts, at, side="right") - 1
    return True
