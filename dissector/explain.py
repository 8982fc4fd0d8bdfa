# SPDX-License-Identifier: GPL-2.0-or-later
"""A record explained field by field, for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dissector import fields
from dissector.protocol import (
    ARRAY,
    BLOB,
    DIRTY_LIST_EXCESS,
    PAGES,
    RECORD_HEADER,
    STRINGS,
    TEXT,
    U64,
    WIDTH,
    Bits,
    Field,
)
from dissector.record import Record

ITEMS = 8
"""Items of an array that are shown unless all are asked for."""
_HEX = 16
_RAW = 3 * WIDTH[U64] - 1
"""Width of the column with octets: those of the longest integer."""


def explain(record: Record, *, every: bool = False) -> Iterator[str]:
    """Lines that explain a record: what it is, where and when, and each field with its octets,
    value and meaning.  `every`: all items of arrays, whole blobs."""
    structure = record.structure
    aliases = f" (also {', '.join(structure.aliases)})" if structure and structure.aliases else ""
    meaning = structure.meaning if structure else "an optional record that nobody here knows"
    yield f"{record.layer} {record.name}{aliases}: {meaning}"
    yield f"  {_where(record)}"
    yield from (f"  {line}" for line in _when(record))
    if structure and structure.source:
        yield f"  specification: {structure.section}; source: {structure.source}"
    octets = record.read()
    if octets is None:
        octets = record.octets
        if record.octets_missing:
            yield (f"  {record.length - len(octets)} octets are not shown: the capture lacks them or "
                   "cannot be read again")
    elif record.shifted:
        head = fields.HEADER_SIZE
        octets = octets[:head] + octets[head + DIRTY_LIST_EXCESS:]
        yield (f"  {DIRTY_LIST_EXCESS} zero octets stand behind the record header that belong to no "
               "field (Xen 4.18 and later)")
    for at, raw, name, value, what in _rows(record, octets, every):
        yield f"  {at:>8}  {raw:<{_RAW}} {name:<19} {value:<28} {what}".rstrip()


def _where(record: Record) -> str:
    frames = sorted({f for f in (record.first_frame, record.last_frame, record.frame) if f})
    text = f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames[0]} to {frames[-1]}" \
        if frames else "no frame"
    return (f"connection {record.connection}, {record.direction}, stream offset "
            f"{record.stream_offset}, {record.length} octets, {text}, {record.status}")


def _when(record: Record) -> Iterator[str]:
    if not record.delivered_ns:
        return
    time = datetime.fromtimestamp(record.delivered_ns // 1_000_000_000, UTC)
    text = f"delivered {time:%Y-%m-%d %H:%M:%S}.{record.delivered_ns % 1_000_000_000:09} UTC"
    if record.first_seen_ns and record.first_seen_ns != record.delivered_ns:
        text += f", {(record.delivered_ns - record.first_seen_ns) / 1e6:.3f} ms after its first octet"
    if record.acked_ns:
        text += (f"; acknowledged {(record.acked_ns - record.delivered_ns) / 1e6:.3f} ms later "
                 f"(frame {record.acked_frame})")
    yield text


def _rows(record: Record, octets: bytes, every: bool) -> Iterator[tuple[str, str, str, str, str]]:
    order = record.order
    if record.type is not None:
        at = 0
        for field, value in zip(RECORD_HEADER, fields.record_header(octets, order), strict=True):
            yield (str(at), octets[at:at + field.width].hex(" "), field.name,
                   f"{value} {field.unit}".rstrip(), field.meaning)
            at += field.width
    at = fields.start(record.structure) if record.structure else fields.HEADER_SIZE
    if record.structure:
        for field, at, size, value in fields.parts(record.structure, octets, order,
                                                   items=None if every else 2 * ITEMS):
            yield from _field(field, at, octets[at:at + size], value, record, every)
            at += size
    end = fields.HEADER_SIZE + (record.body_length or 0)
    if record.type is not None and len(octets) > max(at, end):
        padding = octets[max(at, end):]
        yield (str(max(at, end)), padding.hex(" "), "padding", "zero" if not any(padding) else
               "NOT zero", "to a multiple of 8 octets")


def _field(field: Field, at: int, octets: bytes, value: Any, record: Record,
           every: bool) -> Iterator[tuple[str, str, str, str, str]]:
    if field.type in WIDTH:
        yield str(at), octets.hex(" "), field.name, _number(field, value), field.meaning
    elif field.type == ARRAY:
        count = len(octets) // field.width
        yield str(at), "", field.name, f"{count} items", field.meaning
        shown = value if every else value[:ITEMS]
        for i, item in enumerate(shown):
            raw = octets[i * field.width:(i + 1) * field.width]
            text = _number(field.items[0], item) if len(field.items) == 1 else ", ".join(
                f"{part.name} {_number(part, item[part.name])}" for part in field.items)
            yield (str(at + i * field.width), raw.hex(" ") if len(raw) <= WIDTH[U64] else "",
                   f"  [{i}]", text, "")
        if len(shown) < count:
            yield "", "", f"  … {count - len(shown)} more", "", ""
    elif field.type == STRINGS:
        count = octets.count(0) // 2
        yield str(at), "", field.name, f"{count} pairs", field.meaning
        for i in range(0, len(value), 2):
            yield "", "", "", " = ".join(_text(part) for part in value[i:i + 2]), ""
        if len(value) // 2 < count:
            yield "", "", f"  … {count - len(value) // 2} more", "", ""
    elif field.type == TEXT:
        shown = _text(value if every else value[:2 * _HEX]) + ("…" if len(value) > 2 * _HEX and not every
                                                              else "")
        yield str(at), "", field.name, f'"{shown}"', f"{field.meaning} ({len(value)} octets)"
    elif field.type in (BLOB, PAGES):
        what = f"{len(octets)} octets"
        if field.type == PAGES and record.page_size:
            what += f", {len(octets) // record.page_size} pages"
        yield str(at), "", field.name, what, field.meaning
        for i in range(0, len(octets) if every else min(len(octets), _HEX), _HEX):
            line = octets[i:i + _HEX]
            yield str(at + i), f"{line.hex(' '):<{3 * _HEX}} {_text(line)}", "", "", ""


def _number(field: Field, value: int) -> str:
    if field.bits:
        return " ".join(_bits(group, value) for group in field.bits
                        if group.enum or not group.reserved or group.of(value)) or "0"
    text = f"{value:#x}" if field.width == WIDTH[U64] and not field.unit else str(value)
    if field.enum:
        text += f" {field.enum.get(value, '(not defined)')}"
    if field.legal and value not in field.legal:
        text += " (NOT legal)"
    return f"{text} {field.unit}".rstrip()


def _bits(group: Bits, word: int) -> str:
    value = group.of(word)
    if group.enum:
        return group.enum.get(value, f"{group.name} {value:#x} (reserved)")
    if group.low == group.high:
        return f"{group.name}: {'yes' if value else 'no'}"
    return f"{group.name} {value:#x}" + (" (NOT zero)" if group.reserved and value else "")


def _text(octets: bytes) -> str:
    """Printable characters only: what comes from the wire must not reach the terminal raw."""
    return "".join(chr(o) if 32 <= o < 127 else "." for o in octets)
