# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance: what no record breaches alone, but with the others of its connection.

Which record depends on which, and which guests and versions have it, is data in
`dissector.protocol`; this module only walks it.  What the capture lacks is never held against a
host: behind a hole or a late start a record that did not show is not called missing.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from dissector import fields
from dissector.findings import Finding
from dissector.protocol import (
    BACK,
    CHECKPOINT_DIRTY_PFN_LIST,
    DOMAIN_HEADER,
    FORWARD,
    GUEST_TYPE,
    GUEST_TYPES,
    GUEST_WIDTH,
    IMAGE_HEADER,
    LIBXC_VERSION,
    NOT_INSIDE,
    ONCE,
    ORDERS,
    P2M_END,
    P2M_START,
    PAGE_DATA,
    PFN,
    PT_LEVELS,
    PV_SHAPES,
    START,
    STATES,
    X86_PV_INFO,
    X86_PV_P2M_FRAMES,
    XEN_COLO,
    Order,
    Structure,
)
from dissector.record import COMPLETE, Record

LISTS = 3
"""Dirty lists that must be the one PFN 0 before that is no accident."""

_OPEN, _CLOSE = XEN_COLO.inside


@cache
def _orders(structure: Structure) -> tuple[Order, ...]:
    """Those that say something about this structure."""
    return tuple(order for order in ORDERS if structure in order.later or structure is order.earlier)


class Conformance:
    """Judges the records of one connection; fed with those of each direction in stream order.

    `findings` collects what it finds; `checkpointed` tells whether a checkpoint has passed: such a
    stream has no end of its own.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.checkpointed = False
        self._next: int | None = None
        self._sure = False
        self._seen: set[Structure] = set()
        self._inside: bool | None = False
        """Whether a checkpoint is open; None: not known."""
        self._guest = ""
        self._version = 0
        self._width = 0
        self._last_pfn = -1
        self._lists = self._one_pfn_lists = 0
        self._first_list: Record | None = None

    def feed(self, record: Record) -> None:
        """Judge one record."""
        structure = record.structure
        if record.direction == FORWARD:
            self._follow(record)
        if structure is None:
            return
        if self._guest and self._guest not in structure.guests:
            self._find("wrong_guest", f"{record.full_name} in the stream of an {self._guest} guest", record)
        if record.direction == BACK:
            self._note_list(record)
            return
        if structure.deprecated:
            self._find("deprecated_record", f"{record.full_name} is deprecated; no Xen reads it", record)
        if self._version and structure.versions and self._version not in structure.versions:
            self._find("wrong_version", f"{record.full_name} in version {self._version} of the libxc "
                       "stream", record)
        self._judge_order(structure, record)
        self._judge_inside(structure, record)
        self._learn(structure, record)
        self._seen.add(structure)

    def finish(self) -> None:
        """The connection has ended: judge what only the whole of it tells."""
        first = self._first_list
        if first and self._one_pfn_lists == self._lists >= LISTS:
            self._find("one_pfn_lists", f"all {self._lists} dirty PFN lists of this connection are the one "
                       "PFN 0: as Xen on AMD sends them, whatever the secondary has dirtied", first)

    def _find(self, rule: str, text: str, record: Record, section: str = "") -> None:
        self.findings.append(Finding(rule, text, record.connection, record.direction, record.frame,
                                     record.stream_offset, section))

    def _follow(self, record: Record) -> None:
        """Note whether every record before this one was seen."""
        if self._next is None and record.structure in STATES[START[FORWARD]].fixed:
            self._sure = True
        elif record.stream_offset != self._next:
            self._sure, self._inside = False, None
        self._next = record.end

    # --- records and records ------------------------------------------------------------------

    def _judge_order(self, structure: Structure, record: Record) -> None:
        if structure in ONCE and structure in self._seen:
            self._find("repeated_record", f"{record.full_name} comes again", record, structure.section)
        for order in _orders(structure):
            if (order.guests and self._guest not in order.guests) or (
                    order.versions and self._version not in order.versions):
                continue
            if not order.optional and structure in order.later and order.earlier not in self._seen \
                    and self._sure:
                self._find("record_order", f"{record.full_name} comes without {order.earlier.full_name} "
                           "in front of it", record, order.section)
                self._seen.add(order.earlier)  # once is enough
            elif order.optional and structure is order.earlier and not self._seen.isdisjoint(order.later):
                self._find("record_order", f"{record.full_name} comes behind "
                           + " or ".join(s.full_name for s in order.later), record, order.section)

    def _judge_inside(self, structure: Structure, record: Record) -> None:
        """Libxl's records of a checkpoint have their place."""
        if structure is _OPEN:
            self._inside = self.checkpointed = True
        elif structure is _CLOSE:
            if self._inside is False:
                self._find("record_order", f"{record.full_name} comes without {_OPEN.full_name} in front "
                           "of it", record, structure.section)
            self._inside, self.checkpointed = False, True
        elif structure in NOT_INSIDE and self._inside:
            self._find("record_order", f"{record.full_name} comes between {_OPEN.full_name} and "
                       f"{_CLOSE.full_name}", record, structure.section)

    def _learn(self, structure: Structure, record: Record) -> None:
        if structure is IMAGE_HEADER:
            version = self._value(record, LIBXC_VERSION.name) or 0
            self._version = version if version in LIBXC_VERSION.legal else 0
        elif structure is DOMAIN_HEADER:
            self._guest = GUEST_TYPES.get(self._value(record, GUEST_TYPE.name) or 0, "")
        elif structure is X86_PV_INFO:
            self._judge_shape(record)
        elif structure is X86_PV_P2M_FRAMES:
            self._judge_frames(record)
        elif structure is PAGE_DATA and self._last_pfn >= 0 and self._sure:
            self._judge_pfns(record)

    @staticmethod
    def _value(record: Record, name: str) -> int | None:
        if record.structure is None:
            return None
        return fields.integer(record.structure, name, record.octets, record.order)

    # --- PV guests ----------------------------------------------------------------------------

    def _judge_shape(self, record: Record) -> None:
        width, levels = (self._value(record, field.name) for field in (GUEST_WIDTH, PT_LEVELS))
        if width in GUEST_WIDTH.legal and levels in PT_LEVELS.legal and (width, levels) not in PV_SHAPES:
            self._find("illegal_value", f"{record.full_name}: {GUEST_WIDTH.name} {width} and "
                       f"{PT_LEVELS.name} {levels} do not go together", record, X86_PV_INFO.section)
        self._width = width if width in GUEST_WIDTH.legal else 0  # type: ignore[assignment]

    def _judge_frames(self, record: Record) -> None:
        first, last = (self._value(record, field.name) for field in (P2M_START, P2M_END))
        if first is None or last is None or record.count is None:
            return
        if first > last:
            self._find("illegal_value", f"{record.full_name}: {P2M_START.name} {first:#x} is behind "
                       f"{P2M_END.name} {last:#x}", record, X86_PV_P2M_FRAMES.section)
        elif self._width:
            entries = record.page_size // self._width
            frames = last // entries - first // entries + 1 if entries else record.count
            if record.count != frames:
                self._find("bad_length", f"{record.full_name} has {record.count} frames where PFNs "
                           f"{first:#x} to {last:#x} need {frames}", record, X86_PV_P2M_FRAMES.section)
        self._last_pfn = max(self._last_pfn, last)

    def _judge_pfns(self, record: Record) -> None:
        read = fields.words(PAGE_DATA, record.octets, record.order, record.count or 0)
        if read is not None and len(read):
            highest = int((read & np.uint64(PFN.mask)).max())
            if highest > self._last_pfn:
                self._find("illegal_value", f"{record.full_name}: PFN {highest:#x} is beyond the last of "
                           f"the P2M table, {self._last_pfn:#x}", record, PAGE_DATA.section)

    # --- the back channel ---------------------------------------------------------------------

    def _note_list(self, record: Record) -> None:
        if record.structure is CHECKPOINT_DIRTY_PFN_LIST and record.status == COMPLETE:
            self._first_list = self._first_list or record
            self._lists += 1
            read = fields.words(CHECKPOINT_DIRTY_PFN_LIST, record.octets, record.order, record.count or 0)
            self._one_pfn_lists += read is not None and read.tolist() == [0]
