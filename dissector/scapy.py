# SPDX-License-Identifier: GPL-2.0-or-later
"""The Scapy layer: a packet class for every header, record and text of xl, libxl and libxc.

    from dissector.scapy import *
    stream = XlHeader(config=b"{}") / LibxlHeader() / LibxlLibxcContext() / LibxcImageHeader() \\
        / LibxcDomainHeader(type="x86_hvm", xen_major=4, xen_minor=17) \\
        / LibxcPageData(pfn=[pfn_word(7)], page_data=bytes(4096))
    stream.show()
    XlHeader(bytes(stream)) == stream

The classes are made from `dissector.protocol` when this module is imported: `XlHeader`,
`LibxlCheckpointState` (also `LibxlColoContext`), `LibxcPageData`..., and for big-endian streams the
same names with BE behind.  Lengths, counts and padding fill themselves on build; a dissected packet
keeps what it was read with (`del packet.body_length` after changing a body).

Done: dissecting, building, stacking under TCP, Scapy's `TCPSession` in both directions, whole
streams (`dissect`, `build`).  Not done here: sequence wrap, holes, gigabytes.  `TCPSession` copies
its buffer for every segment, fills gaps with zeros and stops at a sequence wrap; for such captures
use `dissector.Engine`, whose records give packets of this layer (`Record.packet`).

Needs Scapy, which is imported by this module alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from scapy.config import conf
from scapy.fields import (
    ConditionalField,
    EnumField,
    Field,
    FieldListField,
    PacketListField,
    StrField,
    StrFixedLenField,
    StrLenField,
)
from scapy.packet import Packet, bind_layers, split_layers

from dissector import protocol
from dissector.protocol import (
    ALIGNMENT,
    ARRAY,
    BACK,
    BIG,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_STATE,
    CONTROL_ID,
    DIRTY_LIST_EXCESS,
    ENDIAN_BIT,
    FORWARD,
    OPENINGS,
    OPTIONAL,
    PAGES,
    PFN,
    PFN_TYPE,
    PFN_TYPES,
    RECORD_HEADER,
    RECORDS,
    REST,
    START,
    STATES,
    STRINGS,
    STRUCTURES,
    TEXT,
    WIDTH,
    Bits,
    Structure,
)

LITTLE, BIG_ENDIAN = "little", "big"
_ORDERS = {LITTLE: "<", BIG_ENDIAN: ">"}
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEADER = sum(field.width for field in RECORD_HEADER)
_SHOWN_ITEMS = 4
_SHOWN_OCTETS = 32


def pfn_word(pfn: int, kind: str = "NOTAB") -> int:
    """A PFN with its type (a name of `protocol.PFN_TYPES`), as PAGE_DATA carries it."""
    number = next(number for number, name in PFN_TYPES.items() if name == kind)
    return number << PFN_TYPE.low | pfn << PFN.low


# --- fields ---------------------------------------------------------------------------------------


class _BitsField(Field):  # type: ignore[type-arg]
    """An integer made of groups of bits; shown by their names."""

    __slots__ = ("groups",)

    def __init__(self, name: str, default: int | None, fmt: str, groups: tuple[Bits, ...]) -> None:
        super().__init__(name, default, fmt)
        self.groups = groups

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        if x is None:
            return "None"
        parts = []
        for group in self.groups:
            value = group.of(x)
            if group.enum:
                parts.append(group.enum.get(value, f"{group.name}={value:#x}"))
            elif group is PFN:
                parts.append(f"{value:#x}")
            elif value:
                parts.append(group.name if group.low == group.high else f"{group.name}={value:#x}")
        return " ".join(parts) or "0"


class _ConstantField(Field):  # type: ignore[type-arg]
    """An integer that has one legal value."""

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        return hex(x)


class _ItemsField(FieldListField):
    """A counted array of words; long ones are shown by their beginning."""

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[int]]:
        count = min(self.count_from(pkt), len(s) // self.field.sz)  # type: ignore[misc]
        size = count * self.field.sz
        return s[size:], list(struct.unpack(f"{self.field.fmt[0]}{count}{self.field.fmt[1:]}", s[:size]))

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + struct.pack(f"{self.field.fmt[0]}{len(val)}{self.field.fmt[1:]}", *val)

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        shown = [self.field.i2repr(pkt, word) for word in x[:_SHOWN_ITEMS]]
        more = len(x) - len(shown)
        return "[" + ", ".join(shown) + (f", … {more} more]" if more else "]")


class _OctetsField(StrLenField):
    """Octets without known structure; long ones are shown by their beginning."""

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        if x is None or len(x) <= _SHOWN_OCTETS:
            return repr(x)
        return f"{x[:_SHOWN_OCTETS]!r}… ({len(x)} octets)"


class _StringsField(StrLenField):
    """NUL-terminated strings: a list of bytes.  A last one without its NUL is no string: it stays
    in `surplus`."""

    islist = 1

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[bytes]]:
        end = s.rfind(b"\0") + 1
        return s[end:], s[:end].split(b"\0")[:-1]

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + b"".join(bytes(text) + b"\0" for text in val or ())

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        texts = [text.decode("ascii", "backslashreplace") for text in x or ()]
        return ", ".join(f"{key}={value}" for key, value in zip(texts[::2], texts[1::2], strict=False)) + (
            f", {texts[-1]}" if len(texts) % 2 else "")

    def i2len(self, pkt: Packet, x: Any) -> int:
        return sum(len(text) + 1 for text in x or ())

    def any2i(self, pkt: Packet | None, x: Any) -> Any:
        return x

    def i2h(self, pkt: Packet | None, x: Any) -> Any:
        return x


def _integer(field: protocol.Field, order: str, default: int | None = 0) -> Field:  # type: ignore[type-arg]
    order = BIG_ENDIAN if field.order == BIG else order
    fmt = _ORDERS[order] + _FORMATS[field.width]
    if default == 0 and isinstance(field.legal, tuple) and field.legal:
        default = field.legal[-1]  # of several the newest: what a Xen of today writes
    if len(field.legal) == 1 and not field.reserved:
        return _ConstantField(field.name, default, fmt)
    if field.enum:
        return EnumField(field.name, default, dict(field.enum), fmt=fmt)
    if field.bits:
        return _BitsField(field.name, default, fmt, field.bits)
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
            found.append(_StringsField(name, [], length_from=lambda pkt: 0))
        elif field.type == TEXT and not isinstance(field.size, str):
            found.append(StrFixedLenField(name, structure.magic, field.size))
        elif field.type == TEXT:
            found.append(StrLenField(name, b"", length_from=_value_of(str(field.size))))
        else:
            found.append(_OctetsField(name, b"", length_from=_rest_of))
    return found


def _value_of(name: str) -> Any:
    return lambda pkt: pkt.getfieldval(name)


def _rest_of(pkt: Packet) -> int:
    """The last field takes what is left; `_Structure.do_dissect` hands it no more."""
    return 1 << 40


def _array(structure: Structure, field: protocol.Field, order: str) -> Any:
    count = None if field.count == REST else _value_of(field.count)
    if len(field.items) == 1:
        return _ItemsField(field.name, [], _integer(field.items[0], order),
                           count_from=count or (lambda pkt: 1 << 40))
    item = type(f"{class_name(structure, order)}{_camel(field.name)}", (_Item,), {
        "name": f"{structure.name} {field.name}", "__module__": __name__,
        "fields_desc": [_integer(part, order) for part in field.items]})
    return PacketListField(field.name, [], item, count_from=count)


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
        if _pkt and cls is XenMigration:
            walk = Walk(direction_of(_pkt) or BACK)
            try:
                found = walk.next_class(_pkt)
            except ValueError:
                found = None
            return found or conf.raw_layer
        return cls

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
        packets, rest = walks[ident].take(data, bool(metadata.get("tcp_end")))
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
        """Raw instead, if the octets do not reach to the end of the fixed fields."""
        return conf.raw_layer if _pkt is not None and not cls._reaches(_pkt) else cls

    @classmethod
    def _reaches(cls, octets: bytes) -> bool:
        return len(octets) >= cls.fixed

    def do_dissect(self, s: bytes) -> bytes:
        size = self.size_of(s, self.order)
        own, rest = s[:size], s[size:]
        left = super().do_dissect(own)
        self._keep_surplus(left)
        self.raw_packet_cache = own
        return rest

    def _keep_surplus(self, left: bytes) -> None:
        if left:
            self.fields["surplus"] = left

    @classmethod
    def size_of(cls, octets: bytes, order: str) -> int:
        """Octets of the structure that these octets begin with (needs the fixed part)."""
        structure = cls.structure
        assert structure is not None
        size = 0
        for field in structure.fields:
            size += field.width
            if field.name == structure.length_field:
                return size + int.from_bytes(octets[size - field.width:size], order)  # type: ignore[arg-type]
        return size

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
        walk = self.walk()
        try:
            return walk.next_class(payload) or conf.raw_layer
        except ValueError:
            return conf.raw_layer

    def walk(self) -> Walk:
        """Where the stream stands behind this packet, judged by what is below it."""
        below: list[_Structure] = [self]
        while isinstance(below[-1].underlayer, _Structure):
            below.append(below[-1].underlayer)
        first = below[-1].structure
        assert first is not None
        direction = BACK if first.senders == (protocol.SECONDARY,) else FORWARD
        walk = Walk(direction)
        walk.enter(first, below[-1].order)
        for packet in reversed(below):
            walk.pass_over(packet)
        return walk

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
        at, end = RECORD_HEADER[0].width, _HEADER
        if len(octets) < end:
            return False
        length = int.from_bytes(octets[at:end], cls.order)  # type: ignore[arg-type]
        if length == 0 and cls.structure and cls.structure.may_be_empty:
            return True
        return length >= cls.fixed and len(octets) >= end + cls.excess + cls.fixed

    @classmethod
    def size_of(cls, octets: bytes, order: str) -> int:
        length = int.from_bytes(octets[_HEADER - RECORD_HEADER[1].width:_HEADER], order)  # type: ignore[arg-type]
        return _HEADER + cls.excess + length + -length % ALIGNMENT

    def do_dissect(self, s: bytes) -> bytes:
        size = self.size_of(s, self.order)
        width = RECORD_HEADER[1].width
        length = int.from_bytes(s[_HEADER - width:_HEADER], self.order)  # type: ignore[arg-type]
        body = _HEADER + self.excess + length
        self._keep_surplus(Packet.do_dissect(self, s[:body]))
        padding = s[body:size]
        if padding != bytes(-length % ALIGNMENT):
            self.fields["padding"] = padding
        self.raw_packet_cache = s[:size]
        return s[size:]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        padding = self.fields.get("padding", b"")
        length = len(pkt) - len(padding) - _HEADER - self.excess
        number, body_length = RECORD_HEADER
        if self.getfieldval(body_length.name) is None:
            pkt = pkt[:number.width] + length.to_bytes(body_length.width, self.order) \
                + pkt[_HEADER:]  # type: ignore[arg-type]
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
        number, length = RECORD_HEADER
        head = [EnumField(number.name, structure.type,
                          {n: s.name for n, s in RECORDS[structure.layer].items()},
                          fmt=_ORDERS[order] + _FORMATS[number.width]),
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

_OPTIONAL = Structure("libxc", "OPTIONAL", "a record that a reader may skip",
                      (protocol.Field("data", protocol.BLOB, "unknown"),), type=OPTIONAL,
                      section="libxc: Records", source="tools/libs/guest/xg_sr_stream_format.h: "
                      "REC_TYPE_OPTIONAL")
for _order in _ORDERS:
    CLASSES[_OPTIONAL, _order] = _make(_OPTIONAL, _order)

_ALIASES = {alias: CLASSES[s, LITTLE] for s in STRUCTURES for alias in s.aliases} | {
    s.name: CLASSES[s, LITTLE] for s in STRUCTURES
    if sum(other.name == s.name for other in STRUCTURES) == 1}
"""Names of the protocol that `haslayer` and `getlayer` understand, where they are unambiguous."""

globals().update({made.__name__: made for made in (*CLASSES.values(), *SHIFTED.values())})
globals().update({s.layer.capitalize() + _camel(alias): CLASSES[s, LITTLE]
                  for s in STRUCTURES for alias in s.aliases})


# --- whole streams --------------------------------------------------------------------------------


def direction_of(octets: bytes) -> str:
    """The direction whose stream begins with these octets; "" if they do not tell."""
    return next((direction for direction, magics in OPENINGS.items()
                 if any(octets.startswith(magic) for magic in magics)), "")


class Walk:
    """Walks a direction of a stream by the table of states and says which class comes next.

    `needs` is how many octets must be there before the next record can be taken.
    """

    def __init__(self, direction: str) -> None:
        self.direction = direction
        self.needs = 1
        self._state = STATES[START[direction]]
        self._orders: dict[str, str] = {}

    def enter(self, structure: Structure, order: str) -> None:
        """Stand where this structure may come: a stream that is read from its middle."""
        self._orders = dict.fromkeys(("", *protocol.LAYERS), order)
        for state in STATES.values():
            if state.direction == self.direction and (
                    structure in state.fixed or structure in state.records
                    or (state.layer == structure.layer and structure.type is not None)):
                self._state = state
                return

    def pass_over(self, packet: _Structure) -> None:
        """This packet has been read or written."""
        structure = packet.structure
        if structure and structure.order_field and not structure.length_field:
            options = packet.getfieldval(structure.order_field)
            self._orders[structure.layer] = BIG_ENDIAN if ENDIAN_BIT.of(options) else LITTLE
        if then := self._state.after(structure):
            self._state = STATES[then]

    def next_class(self, octets: bytes, final: bool = True) -> type[_Structure] | None:
        """The class that these octets begin with; None: more octets are needed (`needs`).

        Raises ValueError if nothing that may come here begins like this."""
        state = self._state
        for structure in state.fixed:
            if octets.startswith(structure.magic) and (structure.magic or len(octets)):
                return self._of(structure, octets)
        if any(s.magic.startswith(octets) for s in state.fixed):
            self.needs = len(octets) + 1
            return None
        if not state.layer and not state.records:
            raise ValueError(f"nothing may stand here that begins with {octets[:16]!r}")
        if len(octets) < _HEADER:
            self.needs = _HEADER
            return None
        order = self._orders.setdefault(state.layer, min(
            _ORDERS, key=lambda o: int.from_bytes(octets[:4], o)))  # type: ignore[arg-type]
        at = RECORD_HEADER[0].width
        number, length = (int.from_bytes(part, order)  # type: ignore[arg-type]
                          for part in (octets[:at], octets[at:_HEADER]))
        for structure in (*state.shapes, *state.records):
            if structure.type == number and (
                    structure is CHECKPOINT_DIRTY_PFN_LIST or length == CONTROL_ID.width):
                if structure is CHECKPOINT_DIRTY_PFN_LIST:
                    return self._list(octets, order, length, final)
                return CLASSES[structure, order]
        found = RECORDS[state.layer].get(number) if state.layer else None
        if found is None and state.layer and number & OPTIONAL:
            found = _OPTIONAL
        if found is None or length > protocol.BODY_LENGTH_MAX:
            raise ValueError(f"no record of {state.layer or 'the back channel'}: type {number:#x}, "
                             f"length {length}")
        return CLASSES[found, order]

    def _of(self, structure: Structure, octets: bytes) -> type[_Structure] | None:
        order = self._orders.get(structure.layer, LITTLE)
        fixed = sum(f.width for f in structure.fields if f.type in WIDTH or f.width)
        if len(octets) < fixed:
            self.needs = fixed
            return None
        if structure.length_field:
            at = 0
            for field in structure.fields:
                if field.name == structure.order_field:
                    mark = int.from_bytes(octets[at:at + field.width], BIG_ENDIAN)  # type: ignore[arg-type]
                    order = BIG_ENDIAN if mark in field.legal else LITTLE
                at += field.width
        elif structure.order_field:
            at = next(i for i, f in enumerate(structure.fields) if f.name == structure.order_field)
            begin = sum(f.width for f in structure.fields[:at])
            options = int.from_bytes(octets[begin:begin + structure.fields[at].width], BIG_ENDIAN)  # type: ignore[arg-type]
            order = BIG_ENDIAN if ENDIAN_BIT.of(options) else LITTLE
        return CLASSES[structure, order]

    def _list(self, octets: bytes, order: str, length: int,
              final: bool) -> type[_Structure] | None:
        """Which shape of the dirty list: the one that a sync-point follows (Xen 4.18 writes 8 zero
        octets in front of the PFNs that its length does not count)."""
        plain, end = CLASSES[CHECKPOINT_DIRTY_PFN_LIST, order], _HEADER + length
        zeros = octets[_HEADER:_HEADER + DIRTY_LIST_EXCESS]
        if any(zeros):
            return plain
        sync = b"".join(value.to_bytes(field.width, order) for field, value in zip(  # type: ignore[arg-type]
            RECORD_HEADER, (CHECKPOINT_STATE.type or 0, CONTROL_ID.width), strict=True))
        behind = octets[end:end + 2 * _HEADER]
        if behind.startswith(sync):
            return plain
        if behind[DIRTY_LIST_EXCESS:].startswith(sync):
            return SHIFTED[order]
        if len(behind) < 2 * _HEADER and not final:
            self.needs = end + 2 * _HEADER
            return None
        return SHIFTED[order] if len(behind) == DIRTY_LIST_EXCESS else plain

    def take(self, octets: bytes, final: bool = False) -> tuple[list[Packet], bytes]:
        """(packets of every whole record in front, the octets behind them)."""
        packets: list[Packet] = []
        at = 0
        while at < len(octets):
            ahead = octets[at:at + (1 << 16)]
            try:
                made = self.next_class(ahead, final and len(ahead) == len(octets) - at)
            except ValueError:
                packets.append(conf.raw_layer(octets[at:]))
                return packets, b""
            if made is None:
                break
            size = made.size_of(ahead, made.order)
            if made is not None and len(octets) - at < size and not final:
                self.needs = size
                break
            packet = made(octets[at:at + size])
            self.pass_over(packet if isinstance(packet, _Structure) else made())
            packets.append(packet)
            at += size
        return packets, octets[at:]


def dissect(octets: bytes, direction: str = "") -> list[Packet]:
    """Every record of one direction's octets, as a list (a long stack would be too deep for
    Python).  `direction`: "forward" or "back"; by default the first octets tell."""
    return Walk(direction or direction_of(octets) or FORWARD).take(octets, final=True)[0]


def build(packets: Iterable[Packet]) -> bytes:
    """The octets of these packets, one behind the other."""
    return b"".join(bytes(packet) for packet in packets)


def packet_of(structure: Structure | None, order: str, octets: bytes, shifted: bool = False) -> Packet:
    """One record's octets as a packet."""
    if shifted:
        return SHIFTED[order](octets)
    return CLASSES[structure or _OPTIONAL, order](octets)


# --- ports ----------------------------------------------------------------------------------------


def bind_port(*ports: int) -> None:
    """Let Scapy take TCP payloads on these ports for this protocol."""
    from scapy.layers.inet import TCP

    for port in ports:
        bind_layers(TCP, XenMigration, sport=port)
        bind_layers(TCP, XenMigration, dport=port)


def unbind_port(*ports: int) -> None:
    """Undo `bind_port`."""
    from scapy.layers.inet import TCP

    for port in ports:
        split_layers(TCP, XenMigration, sport=port)
        split_layers(TCP, XenMigration, dport=port)


def layers(packet: Packet) -> Iterator[Packet]:
    """The packets of this protocol in a stack (TCP below or not), from the bottom up."""
    while packet:
        if isinstance(packet, XenMigration):
            yield packet
        packet = packet.payload


__all__ = sorted({made.__name__ for made in (*CLASSES.values(), *SHIFTED.values())} | {
    s.layer.capitalize() + _camel(alias) for s in STRUCTURES for alias in s.aliases} | {
    "XenMigration", "bind_port", "build", "direction_of", "dissect", "layers", "pfn_word",
    "unbind_port"})
