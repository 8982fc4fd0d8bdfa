# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates the Lua dissector.

`runtime.lua` is the code; every number and name of the protocol in the result comes from
`dissector.protocol`, through the placeholders that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from dissector.findings import ERROR, NOTE, RULES, WARNING
from dissector.protocol import (
    ALIGNMENT,
    ARRAY,
    BACK,
    BIG,
    BODY_LENGTH_MAX,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_END,
    CHECKPOINT_STATE,
    DIRTY_LIST_EXCESS,
    DOMAIN_HEADER,
    ENDIAN_BIT,
    FORWARD,
    LIBXL,
    OPTIONAL,
    PAGE_SHIFT,
    PAGE_SIZE,
    PFN_TYPES_WITHOUT_PAGE,
    RECORD_HEADER,
    RECORDS,
    REST,
    SENDER,
    START,
    STATES,
    STRUCTURES,
    WIDTH,
    XEN_COLO,
    Bits,
    Field,
    Structure,
)
from dissector.quantiles import PERCENTILES

PROTO = "xenmig"
_SEVERITY = {ERROR: "ERROR", WARNING: "WARN", NOTE: "NOTE"}
_INDEX = {id(structure): i for i, structure in enumerate(STRUCTURES, 1)}


def lua(value: Any) -> str:
    """A Python value as Lua text."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes):
        return '"' + "".join(chr(o) if 32 <= o < 127 and o not in b'"\\' else f"\\{o:03}" for o in value) + '"'
    if isinstance(value, str):
        return lua(value.encode())
    if isinstance(value, Mapping):
        parts = (f"[{lua(k)}] = {lua(v)}" if not (isinstance(k, str) and k.isidentifier() and k != "end")
                 else f"{k} = {lua(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(parts) + " }"
    return "{ " + ", ".join(lua(item) for item in value) + " }"


def path(structure: Structure, *names: str) -> str:
    """Filter name of a field."""
    return ".".join((PROTO, structure.layer, structure.name, *names)).lower()


def _bits(structure: Structure, names: tuple[str, ...], group: Bits) -> dict[str, Any]:
    return {"name": group.name, "key": path(structure, *names, group.name), "low": group.low,
            "high": group.high, "enum": dict(group.enum) or None, "reserved": group.reserved or None}


def _field(structure: Structure, field: Field, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """A field as the runtime wants it."""
    names = (*names, field.name)
    legal = field.legal
    return {
        "name": field.name, "key": path(structure, *names), "type": field.type,
        "width": field.width, "size": field.size or None, "big": field.order == BIG or None,
        "count": None if field.count in ("", REST) else field.count,
        "rest": field.count == REST or None, "meaning": field.meaning or None,
        "unit": field.unit or None, "enum": dict(field.enum) or None,
        "reserved": field.reserved or None,
        "least": legal.start if isinstance(legal, range) else None,
        "most": legal.stop - 1 if isinstance(legal, range) else None,
        "legal": list(legal) if isinstance(legal, tuple) and legal and field.width < 8 else None,
        "bits": [_bits(structure, names, group) for group in field.bits] or None,
        "items": [_field(structure, item, names if len(field.items) > 1 else names[:-1])
                  for item in field.items] or None,
    }


def _structure(structure: Structure) -> dict[str, Any]:
    order = next((f for f in structure.fields if f.name == structure.order_field), None)
    return {
        "layer": structure.layer, "name": structure.name, "meaning": structure.meaning,
        "type": structure.type, "magic": structure.magic or None, "senders": list(structure.senders),
        "length_field": structure.length_field or None, "order_field": structure.order_field or None,
        "order_mark": order.legal[0] if order and not order.bits else None,
        "source": structure.source, "fields": [_field(structure, f) for f in structure.fields]}


def _declarations() -> Iterable[str]:
    """ProtoField declarations, one for each filter name."""
    seen: set[str] = set()
    for structure in STRUCTURES:
        for field in structure.fields:
            for key, text in _declared(structure, _field(structure, field)):
                if key not in seen:
                    seen.add(key)
                    yield text


def _declared(structure: Structure, field: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    key, name, meaning = field["key"], field["name"], field["meaning"]
    if field["type"] == ARRAY:
        for item in field["items"]:
            yield from _declared(structure, item)
        return
    if field["type"] in WIDTH:
        kind = f"uint{8 * WIDTH[field['type']]}"
        base = "base.HEX" if field["bits"] or (field["type"] == "u64" and not field["unit"]) else "base.DEC"
        enum = lua(field["enum"]) if field["enum"] and field["type"] != "u64" else "nil"
        yield key, f"field({lua(key)}, ProtoField.{kind}({lua(key)}, {lua(name)}, {base}, {enum}, nil, " \
            f"{lua(meaning)}))"
        for group in field["bits"] or ():
            wide = group["high"] - group["low"] >= 32
            enum = lua(group["enum"]) if group["enum"] else "nil"
            yield group["key"], (
                f"field({lua(group['key'])}, ProtoField.uint{64 if wide else 32}({lua(group['key'])}, "
                f"{lua(group['name'])}, {'base.HEX' if wide else 'base.DEC'}, {enum}))")
    elif field["type"] in ("text", "strings"):
        yield key, f"field({lua(key)}, ProtoField.string({lua(key)}, {lua(name)}, base.ASCII, {lua(meaning)}))"
    else:
        yield key, f"field({lua(key)}, ProtoField.bytes({lua(key)}, {lua(name)}, base.NONE, {lua(meaning)}))"


def _states() -> dict[str, Any]:
    return {state.name: {
        "direction": state.direction, "layer": state.layer or None,
        "fixed": [_INDEX[id(s)] for s in state.fixed], "shapes": [_INDEX[id(s)] for s in state.shapes],
        "records": [_INDEX[id(s)] for s in state.records],
        "next": {_INDEX[id(s)]: name for s, name in state.then}, "otherwise": state.otherwise or None,
    } for state in STATES.values()}


def _tables() -> dict[str, str]:
    dialect = XEN_COLO
    points = {p.control_id: {"name": p.short_name, "sender": p.sender, "after": dict.fromkeys(p.successors, True),
                             "usual": p.successors[0]}
              for p in dialect.sync_points}
    head = dict(zip(("type", "length"), RECORD_HEADER, strict=True))
    return {
        "STRUCTURES": "{\n" + ",\n".join(f"  {lua(_structure(s))}" for s in STRUCTURES) + "\n}",
        "RECORDS": lua({layer: {number: _INDEX[id(s)] for number, s in records.items()}
                        for layer, records in RECORDS.items() if records}),
        "STATES": "{\n" + ",\n".join(f"  [{lua(n)}] = {lua(s)}" for n, s in _states().items()) + "\n}",
        "START": lua(dict(START)), "SENDER": lua(dict(SENDER)),
        "OPENINGS": lua({FORWARD: [s.magic for s in STATES[START[FORWARD]].fixed],
                         BACK: [STATES[START[BACK]].fixed[0].magic]}),
        "POINTS": lua(points), "TRANSITIONS": lua(list(dialect.transitions())),
        "PERCENTILES": lua([[name, p] for name, p in PERCENTILES.items()]),
        "FIRST": lua(dict.fromkeys(dialect.first, True)),
        "OPENS": lua(dialect.opens_checkpoint), "CLOSES": lua(dialect.closes_checkpoint),
        "INSIDE": lua([_INDEX[id(s)] for s in dialect.inside]),
        "SYNC": str(_INDEX[id(CHECKPOINT_STATE)]), "LIST": str(_INDEX[id(CHECKPOINT_DIRTY_PFN_LIST)]),
        "DOMAIN_HEADER": str(_INDEX[id(DOMAIN_HEADER)]), "PAGE_SHIFT": lua(PAGE_SHIFT.name),
        "CONTROL_ID": lua(CHECKPOINT_STATE.fields[0].name),
        "EXCESS": str(DIRTY_LIST_EXCESS), "ALIGNMENT": str(ALIGNMENT),
        "BODY_LENGTH_MAX": str(BODY_LENGTH_MAX), "OPTIONAL": str(OPTIONAL),
        "TYPE_WIDTH": str(head["type"].width), "HEADER": str(sum(f.width for f in RECORD_HEADER)),
        "ENDIAN_BIT": str(ENDIAN_BIT.low), "NO_PAGE": lua(dict.fromkeys(PFN_TYPES_WITHOUT_PAGE, True)),
        "FORWARD": lua(FORWARD), "BACK": lua(BACK),
        "LANDMARK": lua({FORWARD: STATES[LIBXL].behind(CHECKPOINT_END).name, BACK: STATES[START[BACK]].otherwise}),
        "PAGE_SIZE": str(PAGE_SIZE),
        "FIELDS": "\n".join(_declarations()),
        "ALIASES": lua({path(s, f.name): f"{PROTO}.{alias.lower()}.{f.name}"
                        for s in STRUCTURES for alias in s.aliases for f in s.fields}),
        "TYPES": lua({layer: {n: s.name for n, s in records.items()}
                      for layer, records in RECORDS.items() if records}),
        "EXPERTS": "\n".join(
            f"rule({lua(rule.name)}, ProtoExpert.new({lua(f'{PROTO}.expert.{rule.name}')}, "
            f"{lua(rule.text)}, expert.group.{'PROTOCOL' if rule.section.startswith('lib') else 'SEQUENCE'}, "
            f"expert.severity.{_SEVERITY[rule.severity]}))" for rule in RULES.values()),
    }


def generate() -> str:
    """The whole dissector, as the file `lua/xen_migration.lua` has it."""
    text = files("dissector.wireshark").joinpath("runtime.lua").read_text(encoding="utf-8")
    for name, table in _tables().items():
        mark = f"@{name}@"
        assert mark in text, mark
        text = text.replace(mark, table)
    return text
