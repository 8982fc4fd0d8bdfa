# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading fields of protocol structures out of octets, by the description alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np

from dissector.protocol import (
    ALIGNMENT,
    ARRAY,
    BIG,
    BLOB,
    ENDIAN_BIT,
    PAGES,
    PFN_TYPE,
    PFN_TYPES_WITHOUT_PAGE,
    RECORD_HEADER,
    REST,
    STRINGS,
    TEXT,
    U16,
    WIDTH,
    Bits,
    Field,
    Structure,
)

LITTLE_ENDIAN, BIG_ENDIAN = "little", "big"

HEADER_SIZE = sum(field.width for field in RECORD_HEADER)
_TYPE_SIZE = RECORD_HEADER[0].width

_CARRIES_PAGE = np.array([kind not in PFN_TYPES_WITHOUT_PAGE for kind in range(16)])


def record_header(octets: bytes, order: str) -> tuple[int, int]:
    """(type, body_length) of a record header."""
    return (int.from_bytes(octets[:_TYPE_SIZE], order),  # type: ignore[arg-type]
            int.from_bytes(octets[_TYPE_SIZE:HEADER_SIZE], order))  # type: ignore[arg-type]


def padded(body_length: int) -> int:
    """Octets of a whole record on the wire: header, body and padding."""
    return HEADER_SIZE + body_length + -body_length % ALIGNMENT


@cache
def start(structure: Structure) -> int:
    """Where the fields begin: behind the record header, if there is one."""
    return HEADER_SIZE if structure.type is not None else 0


@cache
def place(structure: Structure, name: str) -> tuple[int, int]:
    """(position in the whole structure, width) of a field in front of which all widths are fixed."""
    at = start(structure)
    for field in structure.fields:
        if field.name == name:
            return at, field.width
        if not field.width or field.type == ARRAY:
            break
        at += field.width
    raise KeyError(f"{structure.full_name}.{name} has no fixed place")


@cache
def _integer_place(structure: Structure, name: str) -> tuple[int, int, bool]:
    """(position, position behind it, always big-endian) of an integer field."""
    at, width = place(structure, name)
    return at, at + width, next(f for f in structure.fields if f.name == name).order == BIG


def integer(structure: Structure, name: str, octets: bytes, order: str) -> int | None:
    """An integer field of a structure's octets; None if they do not reach that far."""
    at, end, big = _integer_place(structure, name)
    if end > len(octets):
        return None
    return int.from_bytes(octets[at:end], BIG_ENDIAN if big else order)  # type: ignore[arg-type]


def announced_order(structure: Structure, octets: bytes) -> str:
    """The byte order that a header announces."""
    name = structure.order_field
    field = next(field for field in structure.fields if field.name == name)
    if ENDIAN_BIT in field.bits:
        value = integer(structure, name, octets, BIG_ENDIAN) or 0
        return BIG_ENDIAN if ENDIAN_BIT.of(value) else LITTLE_ENDIAN
    return BIG_ENDIAN if integer(structure, name, octets, BIG_ENDIAN) in field.legal \
        else LITTLE_ENDIAN


@cache
def fixed_size(structure: Structure) -> int | None:
    """Octets of the body if every field has a fixed width, else None."""
    if any(field.width == 0 or field.type == ARRAY for field in structure.fields):
        return None
    return sum(field.width for field in structure.fields)


@cache
def counts_items(structure: Structure) -> Field | None:
    """The array of a structure whose items a field counts."""
    return next((f for f in structure.fields if f.type == ARRAY and f.count != REST), None)


def count_of(structure: Structure, octets: bytes, order: str, body_length: int) -> int | None:
    """How many items the structure's array has; None without array or if that is not known."""
    for field in structure.fields:
        if field.type == ARRAY:
            if field.count != REST:
                return integer(structure, field.count, octets, order)
            return (body_length + start(structure) - place(structure, field.name)[0]) // field.width
    return None


def words(structure: Structure, octets: bytes, order: str, count: int) -> np.ndarray | None:
    """The words of a structure's array of u64, as far as `octets` reach; None without such."""
    found = _word_array(structure, order)
    if found is None:
        return None
    at, kind = found
    here = min(count, (len(octets) - at) // kind.itemsize)
    return np.frombuffer(octets, kind, here, at) if here > 0 else np.empty(0, kind)


@cache
def _word_array(structure: Structure, order: str) -> tuple[int, np.dtype] | None:
    """Where a structure's array of words begins, and what they are."""
    for field in structure.fields:
        if field.type == ARRAY and len(field.items) == 1:
            at, width = place(structure, field.name)
            return at, np.dtype(f"{'>' if order == BIG_ENDIAN else '<'}u{width}")
    return None


@lru_cache(maxsize=2)
def word_bits(structure: Structure, octets: bytes, order: str, count: int) -> int:
    """Every bit that is set in one of those words: mostly that tells at once that nothing is amiss."""
    read = words(structure, octets, order, count)
    return 0 if read is None else int(np.bitwise_or.reduce(read))


@cache
def _bits_to_judge(structure: Structure) -> int | None:
    """Bits of the words of a structure's array of which none is set in one that is as it should be, mostly; None:
    every word must be looked at, or fields behind them."""
    for at, array in enumerate(structure.fields):
        if array.type == ARRAY:
            item, behind = array.items[0], structure.fields[at + 1:]
            if len(array.items) == 1 and not item.legal and all(field.type == PAGES for field in behind) and not any(
                    group.enum and _unlisted(group)[0] for group in item.bits):
                return sum(group.mask for group in item.bits if group.reserved or group.enum)
    return None


def to_judge(structure: Structure, octets: bytes, order: str, count: int) -> bytes:
    """The octets of a structure that may breach something: mostly those in front of an array of words."""
    bits, found = _bits_to_judge(structure), _word_array(structure, order)
    if bits is None or found is None or word_bits(structure, octets, order, count) & bits:
        return octets
    return octets[:found[0]]


def carries_page(pfn_words: np.ndarray) -> np.ndarray:
    """Which of these PFNs carry a page."""
    return _CARRIES_PAGE[(pfn_words >> np.uint64(PFN_TYPE.low)).astype(np.intp)]


def pages_of(pfn_words: np.ndarray, bits: int) -> int:
    """How many of these PFNs carry a page; `bits`: every bit that is set in one of them."""
    if not bits & PFN_TYPE.mask:
        return len(pfn_words) if _CARRIES_PAGE[0] else 0
    return int(np.count_nonzero(carries_page(pfn_words)))


def pages_at(structure: Structure, count: int) -> int:
    """Where the pages of a record begin, behind an array of `count` words."""
    array = next(field for field in structure.fields if field.type == ARRAY)
    at, width = place(structure, array.name)
    return at + count * width


def expected_body(structure: Structure, octets: bytes, order: str, body_length: int,
                  pages: int | None, page_size: int) -> bool:
    """Whether `body_length` is possible for this structure with these octets."""
    size = 0
    for field in structure.fields:
        if field.type in WIDTH:
            size += field.width
        elif field.type == ARRAY and field.count != REST:
            count = integer(structure, field.count, octets, order)
            if count is None:
                return body_length >= size
            size += count * field.width
            legal = next(f for f in structure.fields if f.name == field.count).legal
            if legal and count not in legal:
                return False
        elif field.type == PAGES:
            if pages is None:
                return body_length >= size
            size += pages * page_size
        else:
            count, surplus = divmod(body_length - size, field.width or 1)
            return body_length >= size and not surplus and (
                not field.sizes or count in field.sizes or (count == 0 and structure.may_be_empty))
    return body_length == size


def without_content(structure: Structure, body_length: int) -> bool:
    """Whether a record of which some Xen write empty ones is one."""
    fixed = sum(field.width for field in structure.fields if field.type in WIDTH)
    return structure.may_be_empty and body_length == fixed


@cache
def _has_reserved(structure: Structure) -> bool:
    every = [f for field in structure.fields for f in (field, *field.items)]
    return any(f.reserved or any(group.reserved for group in f.bits) for f in every)


def reserved_set(structure: Structure, octets: bytes, order: str, count: int | None) -> list[str]:
    """Names of the reserved fields and groups of bits that are not zero."""
    found: list[str] = []
    if not _has_reserved(structure):
        return found
    for field, _, width, value in parts(structure, octets, order, items=0):
        if field.type in WIDTH:
            if field.reserved and value:
                found.append(field.name)
            found += [f"{field.name}.{group.name}" for group in field.bits
                      if group.reserved and group.of(value)]
        elif field.type == ARRAY and width and field.items[0].bits:
            bits = word_bits(structure, octets, order, count or 0)
            if any(group.mask & bits for group in field.items[0].bits if group.reserved):
                found.append(field.name)
        elif field.type == ARRAY:
            found += [f"{field.name}.{item.name}" for item in field.items
                      if item.reserved and _column(structure, field, item, octets, order, count or 0).any()]
    return found


@cache
def _has_limits(structure: Structure) -> bool:
    return any(f.legal or f.type == STRINGS or (f.type == ARRAY and len(f.items) == 1) for f in structure.fields)


def illegal(structure: Structure, octets: bytes, order: str, count: int | None,
            body_length: int | None) -> list[str]:
    """What the fields hold that the protocol does not allow, in words.  Fields that count items are
    judged with the length (`expected_body`)."""
    found: list[str] = []
    if not _has_limits(structure):
        return found
    counts = {field.count for field in structure.fields}
    for field, at, width, value in parts(structure, octets, order, items=0):
        if field.type in WIDTH and field.legal and not field.reserved and field.name not in counts:
            if value not in field.legal:
                found.append(f"{field.name} is {_shown(field, value)}")
        elif field.type == ARRAY and len(field.items) == 1:
            found += _illegal_words(structure, field, octets, order, count or 0)
        elif field.type == STRINGS and len(octets) >= HEADER_SIZE + (body_length or 0):
            if width and octets[at + width - 1]:
                found.append(f"{field.name} do not end in a NUL")
            elif (strings := octets.count(0, at, at + width)) % 2:
                found.append(f"{field.name} are {strings} strings, a key without a value")
    return found


def _shown(field: Field, value: int) -> str:
    return f"{value:#x}" if field.width > WIDTH[U16] and value > 9 else str(value)


def _illegal_words(structure: Structure, field: Field, octets: bytes, order: str,
                   count: int) -> Iterator[str]:
    """The first item of an array of words that holds what is not allowed, and how many do."""
    read, (item,) = words(structure, octets, order, count), field.items
    if read is None:
        return
    if isinstance(item.legal, range):
        yield from _first(field, read >= np.uint64(item.legal.stop), read)
    for group in item.bits:
        if group.enum and (word_bits(structure, octets, order, count) & group.mask or _unlisted(group)[0]):
            kinds = ((read & np.uint64(group.mask)) >> np.uint64(group.low)).astype(np.intp)
            yield from _first(field, _unlisted(group)[kinds], kinds, f"{group.name} ")


@cache
def _unlisted(group: Bits) -> np.ndarray:
    """Which values of a group of bits have no name."""
    return np.array([n not in group.enum for n in range(1 << (group.high - group.low + 1))])


def _first(field: Field, wrong: np.ndarray, values: np.ndarray, what: str = "") -> Iterator[str]:
    if wrong.any():
        places = np.flatnonzero(wrong)
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        yield f"{field.name}[{places[0]}] has {what}{int(values[places[0]]):#x}{more}"


def _column(structure: Structure, field: Field, item: Field, octets: bytes, order: str,
            count: int) -> np.ndarray:
    """One member of each item of an array, as far as `octets` reach."""
    at, _ = place(structure, field.name)
    skip = sum(other.width for other in field.items[:field.items.index(item)])
    kind = np.dtype({"names": [item.name], "formats": [f"{'>' if order == BIG_ENDIAN else '<'}u{item.width}"],
                     "offsets": [skip], "itemsize": field.width})
    return np.frombuffer(octets, kind, min(count, max(0, len(octets) - at) // field.width), at)[item.name]


@cache
def keeps(structure: Structure) -> str:
    """Name of the field from which on a record's octets are not kept (contents of pages, blobs)."""
    return next((f.name for f in structure.fields if f.type in (PAGES, BLOB)), "")


def parts(structure: Structure, octets: bytes, order: str, *,
          items: int | None = None) -> Iterator[tuple[Field, int, int, Any]]:
    """Every field that the octets hold: (field, position, octets, value).

    Integers as int, fixed and variable texts as bytes, arrays as a list (of int, or of a dict for
    an item with several fields), strings as a list of bytes, page contents and blobs as bytes.  Of
    arrays and strings at most `items`, None: all.
    """
    values: dict[str, Any] = {}
    at, end = start(structure), len(octets)
    if structure.type is not None and end >= HEADER_SIZE:
        end = min(end, HEADER_SIZE + record_header(octets, order)[1])
    for field in structure.fields:
        begin = at
        if field.type in WIDTH:
            if at + field.width > end:
                return
            value: Any = _integer(field, octets, at, order)
            at += field.width
        elif field.type == ARRAY:
            width = field.width
            count = (end - at) // width if field.count == REST else values.get(field.count, 0)
            count = min(count, (end - at) // width)
            shown = count if items is None else min(count, items)
            value = [_item(field, octets, at + i * width, order) for i in range(shown)]
            at += count * width
        elif field.type == STRINGS:
            value = octets[at:end].split(b"\0", -1 if items is None else items)[:-1]
            at = end
        elif field.type == TEXT:
            size = values.get(field.size, 0) if isinstance(field.size, str) else field.size
            value = octets[at:at + size]
            at += size
        else:
            value = octets[at:end]
            at = end
        values[field.name] = value
        yield field, begin, at - begin, value


def decode(structure: Structure, octets: bytes, order: str) -> dict[str, Any]:
    """The same by name, without page contents and blobs."""
    return {field.name: value for field, _, _, value in parts(structure, octets, order)
            if field.type not in (PAGES, BLOB)}


def _integer(field: Field, octets: bytes, at: int, order: str) -> int:
    order = BIG_ENDIAN if field.order == BIG else order
    return int.from_bytes(octets[at:at + field.width], order)  # type: ignore[arg-type]


def _item(field: Field, octets: bytes, at: int, order: str) -> Any:
    if len(field.items) == 1:
        return _integer(field.items[0], octets, at, order)
    values = {}
    for item in field.items:
        values[item.name] = _integer(item, octets, at, order)
        at += item.width
    return values
