# SPDX-License-Identifier: GPL-2.0-or-later
"""The packet classes: one for every structure of the description, in both byte orders."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scapy.config import conf
from scapy.fields import (
    ConditionalField,
    EnumField,
    Field,
    PacketListField,
    StrField,
    StrFixedLenField,
    StrLenField,
)
from scapy.packet import Packet

from dissector import protocol
from dissector.opening import direction_of
from dissector.protocol import (
    ALIGNMENT,
    ARRAY,
    BACK,
    BIG,
    CHECKPOINT_DIRTY_PFN_LIST,
    DIRTY_LIST_EXCESS,
    ENDIAN_BIT,
    FORWARD,
    OPENINGS,
    PAGES,
    RECORD_HEADER,
    RECORDS,
    REST,
    STRINGS,
    STRUCTURES,
    TEXT,
    WIDTH,
    Structure,
)
from dissector.scapy.fields import BitsField, ConstantField, ItemsField, OctetsField, StringsField
from dissector.scapy.walk import (
    BIG_ENDIAN,
    HEADER,
    LITTLE,
    OPTIONAL_RECORD,
    NotOurs,
    Shape,
    Walk,
    fixed_size,
    number,
    record_size,
)

_ORDERS = {LITTLE: "<", BIG_ENDIAN: ">"}
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_AHEAD = 1 << 16
"""Octets that are looked at to tell what comes next: a dirty list has its whole length in there."""


def _integer(field: protocol.Field, order: str, default: int | None = 0) -> Field:  # type: ignore[type-arg]
    order = BIG_ENDIAN if field.order == BIG else order
    fmt = _ORDERS[order] + _FORMATS[field.width]
    if default == 0 and isinstance(field.legal, tuple) and field.legal:
        default = field.legal[-1]  # of several the newest: what a Xen of today writes
    if len(field.legal) == 1 and not field.reserved:
        return ConstantField(field.name, default, fmt)
    if field.enum:
        return EnumField(field.name, default, dict(field.enum), fmt=fmt)
    if field.bits:
        return BitsField(field.name, default, fmt, field.bits)
    return Field(field.name, default, fmt)


def _fields(structure: Structure, order: str) -> list[Any]:
    """Scapy's fields of a structure, in one byte order."""
    found: list[Any] = []
    counted = {f.count for f in structure.fields if f.type == ARRAY} | {
        f.size for f in structure.fields if isinstance(f.size, str)} | {structure.length_field}
    for field in structure.fields:
        name = field.name
        if field.type in WIDTH:
            default = None if name in counted else 0
            if name == structure.order_field and any(b is ENDIAN_BIT for b in field.bits):
                default = ENDIAN_BIT.mask if order == BIG_ENDIAN else 0
            found.append(_integer(field, order, default))
        elif field.type == ARRAY:
            found.append(_array(structure, field, order))
        elif field.type == STRINGS:
            found.append(StringsField(name, [], length_from=lambda pkt: 0))
        elif field.type == TEXT and not isinstance(field.size, str):
            found.append(StrFixedLenField(name, structure.magic, field.size))
        elif field.type == TEXT:
            found.append(StrLenField(name, b"", length_from=_value_of(str(field.size))))
        else:
            found.append(OctetsField(name, b"", length_from=_rest_of))
    return found


def _value_of(name: str) -> Any:
    return lambda pkt: pkt.getfieldval(name)


def _rest_of(pkt: Packet) -> int:
    """The last field takes what is left; `_Structure.do_dissect` hands it no more."""
    return 1 << 40


def _array(structure: Structure, field: protocol.Field, order: str) -> Any:
    count = None if field.count == REST else _value_of(field.count)
    if len(field.items) == 1:
        return ItemsField(field.name, [], _integer(field.items[0], order),
                           count_from=count or (lambda pkt: 1 << 40))
    item = type(f"{class_name(structure, order)}{_camel(field.name)}", (_Item,), {
        "name": f"{structure.name} {field.name}", "__module__": __name__,
        "fields_desc": [_integer(part, order) for part in field.items]})
    # Scapy refuses lists of more than conf.max_list_count (100); the octets bound these.
    return PacketListField(field.name, [], item, count_from=count, max_count=protocol.BODY_LENGTH_MAX)


class _Item(Packet):
    """One entry of an array with several fields."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


# --- packets --------------------------------------------------------------------------------------


class XenMigration(Packet):
    """What a TCP payload of a migration, Remus or COLO begins with; bind this to a port."""

    name = "Xen migration"
    match_subclass = True
    structure: Structure | None = None
    order = LITTLE

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kargs: Any) -> type[Packet]:
        """The class that these octets begin with, if they tell: a header or a sync-point.  Other
        octets of a stream mean nothing without what precedes them."""
        if not _pkt:
            return cls
        try:
            shape = Walk(direction_of(_pkt) or BACK).next(_pkt)
        except NotOurs:
            shape = None
        return class_of(shape).dispatch_hook(_pkt) if shape else conf.raw_layer

    @classmethod
    def tcp_reassemble(cls, data: bytes, metadata: dict[str, Any],
                       session: dict[Any, Any]) -> Packet | None:
        """Scapy's `TCPSession`: every whole record in `data`, stacked; the rest waits as padding.

        `session` is shared by both directions; which one this is, the first octets tell."""
        # Scapy gives the identity for each frame, but not for what it calls again with the rest.
        ident = session["ident"] = metadata.get("ident", session.get("ident"))
        walks = session.setdefault("walks", {})
        if ident not in walks:
            direction = direction_of(data) or next(
                (BACK if walk.direction == FORWARD else FORWARD for walk in walks.values()), "")
            if not direction:
                longest = max(len(magic) for magics in OPENINGS.values() for magic in magics)
                return None if len(data) < longest else conf.raw_layer(data)
            walks[ident] = Walk(direction)
        packets, rest = take(walks[ident], data, bool(metadata.get("tcp_end")))
        if not packets:
            metadata["tcp_min_len"] = walks[ident].needs
            return None
        for below, above in pairwise(packets):
            below.add_payload(above)
        if rest:
            packets[-1].add_payload(conf.padding_layer(rest))
        return packets[0]


class _Structure(XenMigration):
    """A header or a text."""

    fixed = 0
    """Octets of the fields in front of the first one of variable width."""

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kargs: Any) -> type[Packet]:
        """Raw instead, if the octets, or what they say of their own length, do not reach to the end
        of the fixed fields."""
        return conf.raw_layer if _pkt is not None and not cls._reaches(_pkt) else cls

    @classmethod
    def _reaches(cls, octets: bytes) -> bool:
        return len(octets) >= cls.fixed <= cls.size_of(octets)

    def do_dissect(self, s: bytes) -> bytes:
        size = self.size_of(s)
        own, rest = s[:size], s[size:]
        left = super().do_dissect(own)
        self._keep_surplus(left)
        self.raw_packet_cache = own
        return rest

    def _keep_surplus(self, left: bytes) -> None:
        if left:
            self.fields["surplus"] = left

    @classmethod
    def size_of(cls, octets: bytes) -> int:
        """Octets of the structure that these octets begin with (needs the fixed part)."""
        assert cls.structure is not None
        return fixed_size(cls.structure, octets, cls.order)

    def self_build(self) -> bytes:
        self._count()
        try:
            return super().self_build()
        finally:
            for name in self._counted:
                self.fields.pop(name, None)

    def _count(self) -> None:
        """Give counts and sizes that nobody set the values that they have."""
        self._counted: list[str] = []
        structure = self.structure
        assert structure is not None
        for field in structure.fields:
            counter = field.count if field.type == ARRAY else field.size
            if isinstance(counter, str) and counter not in ("", REST):
                self._fill(counter, len(self.getfieldval(field.name)))
        if structure.length_field:
            names = [field.name for field in structure.fields]
            behind = structure.fields[names.index(structure.length_field) + 1:]
            self._fill(structure.length_field, sum(
                field.width or len(self.getfieldval(field.name)) for field in behind))

    def _fill(self, name: str, value: int) -> None:
        if self.getfieldval(name) is None:
            self.fields[name] = value
            self._counted.append(name)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The record that follows, as the table of states says."""
        try:
            shape = self.walk().next(payload)
        except NotOurs:
            shape = None
        return class_of(shape) if shape else conf.raw_layer

    def walk(self) -> Walk:
        """Where the stream stands behind this packet, judged by what is below it."""
        below: list[_Structure] = [self]
        while isinstance(below[-1].underlayer, _Structure):
            below.append(below[-1].underlayer)
        first = below[-1].structure
        assert first is not None
        walk = Walk(BACK if first.senders == (protocol.SECONDARY,) else FORWARD)
        walk.enter(first, below[-1].order)
        for packet in reversed(below):
            packet.pass_through(walk)
        return walk

    def pass_through(self, walk: Walk) -> None:
        """Move a walk behind this packet."""
        structure, order = self.structure, self.order
        assert structure is not None
        if structure.order_field and not structure.length_field:
            big = ENDIAN_BIT.of(self.getfieldval(structure.order_field))
            order = BIG_ENDIAN if big else LITTLE
        walk.pass_over(structure, order)

    def __eq__(self, other: object) -> bool:
        """Equal are packets of one class that build the same octets."""
        return type(other) is type(self) and bytes(other) == bytes(self)  # type: ignore[call-overload]

    __hash__ = None  # type: ignore[assignment]

    def haslayer(self, cls: Any, _subclass: bool | None = None) -> Any:
        return super().haslayer(_ALIASES.get(cls, cls) if isinstance(cls, str) else cls, _subclass)

    def getlayer(self, cls: Any, *args: Any, **kwargs: Any) -> Any:
        return super().getlayer(_ALIASES.get(cls, cls) if isinstance(cls, str) else cls, *args, **kwargs)

    def mysummary(self) -> str:
        structure = self.structure
        assert structure is not None
        facts = []
        for field in structure.fields:
            value = self.getfieldval(field.name)
            if field.enum and isinstance(value, int):
                facts.append(field.enum.get(value, str(value)))
            elif field.type == ARRAY:
                facts.append(f"{len(value)} × {field.name}")
            elif field.type in (PAGES, protocol.BLOB) and value:
                facts.append(f"{len(value)} octets of {field.name}")
        return f"{structure.layer} {structure.name}" + (f" {', '.join(facts)}" if facts else "")


class _Record(_Structure):
    """A record: record header, body, padding."""

    excess = 0

    @classmethod
    def _reaches(cls, octets: bytes) -> bool:
        at, end = RECORD_HEADER[0].width, HEADER
        if len(octets) < end:
            return False
        length = number(octets[at:end], cls.order)
        if length == 0 and cls.structure and cls.structure.may_be_empty:
            return True
        return length >= cls.fixed and len(octets) >= end + cls.excess + cls.fixed

    @classmethod
    def size_of(cls, octets: bytes) -> int:
        """Octets of the record that these octets begin with."""
        return record_size(octets, cls.order, cls.excess)

    def do_dissect(self, s: bytes) -> bytes:
        size = self.size_of(s)
        length = number(s[RECORD_HEADER[0].width:HEADER], self.order)
        body = HEADER + self.excess + length
        self._keep_surplus(Packet.do_dissect(self, s[:body]))
        padding, here = s[body:size], len(s[HEADER + self.excess:body])
        if padding != bytes(-here % ALIGNMENT):  # what a build would add to a body that is cut short
            self.fields["padding"] = padding
        self.raw_packet_cache = s[:size]
        return s[size:]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        padding = self.fields.get("padding", b"")
        length = len(pkt) - len(padding) - HEADER - self.excess
        kind, body_length = RECORD_HEADER
        if self.getfieldval(body_length.name) is None:
            octets = length.to_bytes(body_length.width, self.order)  # type: ignore[arg-type]
            pkt = pkt[:kind.width] + octets + pkt[HEADER:]
        if "padding" not in self.fields:
            pkt += bytes(-length % ALIGNMENT)
        return pkt + pay


def _kept(name: str) -> ConditionalField:
    """Octets that a good packet does not have: shown and built only where they are."""
    return ConditionalField(StrField(name, b""), lambda pkt: bool(pkt.fields.get(name)))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def class_name(structure: Structure, order: str = LITTLE) -> str:
    """Name of the class of a structure: layer and name."""
    return structure.layer.capitalize() + _camel(structure.name) + (
        "BE" if order == BIG_ENDIAN else "")


def _fixed(structure: Structure) -> int:
    size = 0
    for field in structure.fields:
        if field.type == ARRAY or not field.width:
            break
        size += field.width
    return size


def _make(structure: Structure, order: str, excess: int = 0) -> type[_Structure]:
    """The packet class of a structure in one byte order."""
    fields, base = _fields(structure, order), _Structure
    if structure.type is not None:
        base = _Record
        kind, length = RECORD_HEADER
        head = [EnumField(kind.name, structure.type,
                          {n: s.name for n, s in RECORDS[structure.layer].items()},
                          fmt=_ORDERS[order] + _FORMATS[kind.width]),
                Field(length.name, None, _ORDERS[order] + _FORMATS[length.width])]
        if excess:
            head.append(StrFixedLenField("excess_octets", bytes(excess), excess))
        if structure.may_be_empty:
            fields = [ConditionalField(f, lambda pkt: pkt.getfieldval(length.name) != 0) for f in fields]
        fields = head + fields
    fields += [_kept("surplus")] + ([_kept("padding")] if structure.type is not None else [])
    parent = base if order == LITTLE else CLASSES[structure, LITTLE]
    name = class_name(structure, order)
    if excess:
        parent = CLASSES[structure, order]
        name = class_name(structure) + "Xen418" + name.removeprefix(class_name(structure))
    senders = " and ".join(structure.senders)
    meaning = f"{structure.meaning}.\n\nSent by the {senders}.  Source: {structure.source}"
    # Scapy looks for dispatch_hook in each class itself.
    made = type(name, (parent,), {
        "dispatch_hook": classmethod(_Structure.dispatch_hook.__func__),  # type: ignore[attr-defined]
        "__module__": __name__, "__doc__": meaning, "structure": structure, "order": order,
        "excess": excess, "fixed": _fixed(structure), "name": f"{structure.layer} {structure.name}",
        "fields_desc": fields})
    return made


CLASSES: dict[tuple[Structure, str], type[_Structure]] = {}
"""(structure, byte order) -> packet class."""
for _structure in STRUCTURES:
    for _order in _ORDERS:
        CLASSES[_structure, _order] = _make(_structure, _order)
SHIFTED = {order: _make(CHECKPOINT_DIRTY_PFN_LIST, order, DIRTY_LIST_EXCESS) for order in _ORDERS}
"""The dirty list as Xen 4.18 writes it, by byte order."""

for _order in _ORDERS:
    CLASSES[OPTIONAL_RECORD, _order] = _make(OPTIONAL_RECORD, _order)

_ALIASES = {alias: CLASSES[s, LITTLE] for s in STRUCTURES for alias in s.aliases} | {
    s.name: CLASSES[s, LITTLE] for s in STRUCTURES
    if sum(other.name == s.name for other in STRUCTURES) == 1}
"""Names of the protocol that `haslayer` and `getlayer` understand, where they are unambiguous."""

NAMED = {made.__name__: made for made in (*CLASSES.values(), *SHIFTED.values())} | {
    s.layer.capitalize() + _camel(alias): CLASSES[s, LITTLE] for s in STRUCTURES for alias in s.aliases}
"""Every class by its name, and the aliases."""


def class_of(shape: Shape) -> type[_Structure]:
    """The class of what a walk has found."""
    return SHIFTED[shape.order] if shape.shifted else CLASSES[shape.structure, shape.order]


def packet_of(structure: Structure | None, order: str, octets: bytes, shifted: bool = False) -> Packet:
    """One record's octets as a packet."""
    return class_of(Shape(structure or OPTIONAL_RECORD, order, len(octets), shifted))(octets)


def take(walk: Walk, octets: bytes, final: bool = False) -> tuple[list[Packet], bytes]:
    """(packets of every whole record in front, the octets behind them); what is no record of the
    protocol is one Raw packet to the end."""
    packets: list[Packet] = []
    at = 0
    while at < len(octets):
        ahead = octets[at:at + _AHEAD]
        try:
            shape = walk.next(ahead, final and len(ahead) == len(octets) - at)
        except NotOurs:
            return [*packets, conf.raw_layer(octets[at:])], b""
        if shape is None:
            break
        if len(octets) - at < shape.size and not final:
            walk.needs = shape.size
            break
        packet = class_of(shape)(octets[at:at + shape.size])
        packets.append(packet)
        if isinstance(packet, _Structure):
            packet.pass_through(walk)
        else:
            walk.pass_over(shape.structure, shape.order)
        at += shape.size
    return packets, octets[at:]
