# SPDX-License-Identifier: GPL-2.0-or-later
"""Walking one direction of a stream by the table of states: what comes next.

The engine's framing has a walk of its own (`dissector.framing`), over ranges and holes; this one is
over plain octets.  Tests hold both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from dissector import protocol
from dissector.protocol import (
    ALIGNMENT,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_STATE,
    CONTROL_ID,
    DIRTY_LIST_EXCESS,
    ENDIAN_BIT,
    OPTIONAL,
    RECORD_HEADER,
    RECORDS,
    START,
    STATES,
    Structure,
)

LITTLE, BIG_ENDIAN = "little", "big"
ORDERS = (LITTLE, BIG_ENDIAN)
HEADER = sum(field.width for field in RECORD_HEADER)

OPTIONAL_RECORD = Structure(
    protocol.LIBXC, "OPTIONAL", "a record that a reader may skip",
    (protocol.Field("data", protocol.BLOB, "unknown"),), type=OPTIONAL, section="libxc: Records",
    source="tools/libs/guest/xg_sr_stream_format.h: REC_TYPE_OPTIONAL")
"""What a record with bit 31 set is, where nobody knows it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands next: a structure in a byte order, `size` octets of it; `shifted`: a dirty list
    as Xen 4.18 writes it."""

    structure: Structure
    order: str
    size: int
    shifted: bool = False


class NotOurs(ValueError):
    """Nothing that may come here begins like this."""


def number(octets: bytes, order: str) -> int:
    """An unsigned integer."""
    return int.from_bytes(octets, order)  # type: ignore[arg-type]


def record_size(octets: bytes, order: str, excess: int = 0) -> int:
    """Octets of the record that these octets begin with: header, body, padding."""
    length = number(octets[RECORD_HEADER[0].width:HEADER], order)
    return HEADER + excess + length + -length % ALIGNMENT


def fixed_size(structure: Structure, octets: bytes, order: str) -> int:
    """Octets of the header or text that these octets begin with."""
    size = 0
    for field in structure.fields:
        size += field.width
        if field.name == structure.length_field:
            return size + number(octets[size - field.width:size], order)
    return size


class Walk:
    """Where a direction of a stream stands.  `needs`: octets that must be there to go on."""

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

    def pass_over(self, structure: Structure, order: str) -> None:
        """This structure has been read or written; a header announces `order`."""
        if structure.order_field and not structure.length_field:
            self._orders[structure.layer] = order
        self._state = self._state.behind(structure)

    def next(self, octets: bytes, final: bool = True) -> Shape | None:
        """What these octets begin with; None: more are needed (`needs`).  Raises NotOurs."""
        state = self._state
        for structure in state.fixed:
            if octets.startswith(structure.magic):
                return self._fixed(structure, octets)
        if any(s.magic.startswith(octets) for s in state.fixed):
            self.needs = len(octets) + 1
            return None
        if not state.layer and not state.records:
            raise NotOurs(f"nothing may stand here that begins with {octets[:16]!r}")
        if len(octets) < HEADER:
            self.needs = HEADER
            return None
        return self._record(octets, final)

    def _fixed(self, structure: Structure, octets: bytes) -> Shape | None:
        need = sum(field.width for field in structure.fields)
        if len(octets) < need:
            self.needs = need
            return None
        order, at = self._orders.get(structure.layer, LITTLE), 0
        for field in structure.fields:
            value = octets[at:at + field.width]
            if field.name == structure.order_field:
                big = number(value, BIG_ENDIAN)
                says_big = ENDIAN_BIT.of(big) if field.bits else big in field.legal
                order = BIG_ENDIAN if says_big else LITTLE
            at += field.width
        return Shape(structure, order, fixed_size(structure, octets, order))

    def _record(self, octets: bytes, final: bool) -> Shape | None:
        state, at = self._state, RECORD_HEADER[0].width
        order = self._orders.setdefault(state.layer, min(
            ORDERS, key=lambda order: number(octets[:at], order)))
        kind, length = number(octets[:at], order), number(octets[at:HEADER], order)
        size = record_size(octets, order)
        if CHECKPOINT_DIRTY_PFN_LIST in state.records and kind == CHECKPOINT_DIRTY_PFN_LIST.type:
            shifted = self._shifted(octets, order, length, final)
            if shifted is None:
                return None
            return Shape(CHECKPOINT_DIRTY_PFN_LIST, order, size + shifted * DIRTY_LIST_EXCESS, shifted)
        if CHECKPOINT_STATE in (*state.shapes, *state.records) and (
                (kind, length) == (CHECKPOINT_STATE.type, CONTROL_ID.width)):
            return Shape(CHECKPOINT_STATE, order, size)
        found = RECORDS[state.layer].get(kind) if state.layer else None
        if found is None and state.layer and kind & OPTIONAL:
            found = OPTIONAL_RECORD
        if found is None or length > protocol.BODY_LENGTH_MAX:
            raise NotOurs(f"no record of {state.layer or 'the back channel'}: type {kind:#x}, "
                          f"length {length}")
        return Shape(found, order, size)

    def _shifted(self, octets: bytes, order: str, length: int, final: bool) -> bool | None:
        """Which shape of the dirty list this is: the one that a sync-point follows."""
        end = HEADER + length
        if any(octets[HEADER:HEADER + DIRTY_LIST_EXCESS]) and length:
            return False
        sync = b"".join(value.to_bytes(field.width, order) for field, value in zip(  # type: ignore[arg-type]
            RECORD_HEADER, (CHECKPOINT_STATE.type or 0, CONTROL_ID.width), strict=True))
        behind = octets[end:end + 2 * HEADER]
        if behind.startswith(sync):
            return False
        if behind[DIRTY_LIST_EXCESS:].startswith(sync) and (length or not any(behind[:DIRTY_LIST_EXCESS])):
            return True
        if len(behind) < 2 * HEADER and not final:
            self.needs = end + 2 * HEADER
            return None
        return len(behind) == DIRTY_LIST_EXCESS
