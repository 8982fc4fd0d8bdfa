# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: what the framing finds in a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dissector.fields import (
    HEADER_SIZE,
    LITTLE_ENDIAN,
    count_of,
    counts_items,
    decode,
    integer,
    keeps,
    pages_of,
    place,
    word_bits,
    words,
)
from dissector.protocol import CHECKPOINT_STATE, CONTROL_ID, PAGE_DATA, PFN, Structure

if TYPE_CHECKING:
    from scapy.packet import Packet

COMPLETE, GAP, SNAPPED, TRUNCATED, PENDING = "complete", "gap", "snapped", "truncated", "pending"
"""Statuses: all octets there; some missing from the capture; some cut by the snap length; the
stream or the file ended inside; not ended yet (live)."""

KEPT_MAX = 64 << 10
"""Octets of a record that are kept; page contents and blobs never are."""

REMEMBERED_MAX = 1024
"""Octets of a record at most of which is remembered what they say: most short records are ones that came before,
octet for octet."""


@lru_cache(maxsize=1024)
def _items(structure: Structure, octets: bytes, order: str, body_length: int,
           page_size: int) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """(`count`, `pages`, `pfn_range`) of a record: from the PFN words; where the capture lacks some of them, from the
    lengths, if they fit."""
    count, array = count_of(structure, octets, order, body_length), counts_items(structure)
    if count is None or array is None or not keeps(structure):
        return count, None, None
    pfns = words(structure, octets, order, count)
    if pfns is not None and len(pfns) == count:
        pages = pages_of(pfns, word_bits(structure, octets, order, count))
        return count, pages, (PFN.of(int(pfns[0])), PFN.of(int(pfns[-1]))) if count else None
    at, width = place(structure, array.name)
    rest = HEADER_SIZE + body_length - at - count * width
    return count, rest // page_size if page_size and rest >= 0 and rest % page_size == 0 else None, None


@dataclass(slots=True, eq=False)
class Record:
    """One record, header or text of a stream.

    Frames count from 1 over all files of the capture, 0: none; times are ns since the epoch, 0:
    none.  `length` is octets on the wire with header and padding, `body_length` what the header
    says, `type` the record number (both None for headers and texts).

    `first_frame` shows its first octet first, `last_frame` its last; at `frame` (`delivered_ns`)
    every octet of the stream up to its end has passed; `acked_ns` is when the first ACK that
    covers its end passed, filled in when that ACK is seen.  `after_gap`: that octets are missing
    for ever is part of when it was delivered.

    `octets` is its beginning, up to contents of pages and blobs or `KEPT_MAX`; `count` the items
    of its array, `pages` the pages that it carries, `page_size` octets of each.
    """

    structure: Structure | None
    direction: str
    layer: str
    type: int | None
    stream_offset: int
    length: int
    body_length: int | None
    order: str = LITTLE_ENDIAN
    octets: bytes = b""
    first_frame: int = 0
    last_frame: int = 0
    frame: int = 0
    first_seen_ns: int = 0
    last_seen_ns: int = 0
    delivered_ns: int = 0
    acked_frame: int = 0
    acked_ns: int = 0
    after_gap: bool = False
    status: str = COMPLETE
    count: int | None = None
    pages: int | None = None
    pfn_range: tuple[int, int] | None = None
    """First and last PFN of a PAGE_DATA, in the order on the wire."""
    page_size: int = 0
    shifted: bool = False
    """A CHECKPOINT_DIRTY_PFN_LIST as Xen 4.18 writes it (`protocol.DIRTY_LIST_EXCESS`)."""
    connection: int = -1
    reader: Callable[[Record], bytes | None] | None = field(default=None, repr=False)
    """What reads its octets again."""

    @property
    def name(self) -> str:
        """Name of the structure; a number for optional records that nobody knows."""
        return self.structure.name if self.structure else f"{self.type:#010x}"

    @property
    def full_name(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def end(self) -> int:
        """Stream offset of the octet behind it."""
        return self.stream_offset + self.length

    @property
    def control_id(self) -> int | None:
        """Which sync-point it is; None for everything else."""
        if self.structure is not CHECKPOINT_STATE:
            return None
        return integer(CHECKPOINT_STATE, CONTROL_ID.name, self.octets, self.order)

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields by name, as far as the kept octets reach (see `dissector.fields.decode`)."""
        return decode(self.structure, self.octets, self.order) if self.structure else {}

    def count_items(self) -> None:
        """Fill in `count`, `pages` and `pfn_range`."""
        if self.structure is not None and self.body_length is not None:
            count = _items if len(self.octets) <= REMEMBERED_MAX else _items.__wrapped__
            self.count, self.pages, self.pfn_range = count(self.structure, self.octets, self.order, self.body_length,
                                                           self.page_size)

    def read(self) -> bytes | None:
        """Every octet as it stood on the wire, page contents and blobs too; None if they cannot be
        had: the source is a pipe, or the capture lacks some of them."""
        if not self.octets_missing and not self.shifted:
            return self.octets
        return self.reader(self) if self.reader else None

    @property
    def packet(self) -> Packet:
        """It as a packet of `dissector.scapy` (needs Scapy).  Contents that cannot be read again
        are left out; the lengths tell how much that is."""
        from dissector.scapy.packets import packet_of

        octets = self.read()
        return packet_of(self.structure, self.order, self.octets if octets is None else octets,
                         self.shifted and octets is not None)

    @property
    def octets_missing(self) -> bool:
        """Whether `octets` is less than the whole record; `read` gives it all."""
        return len(self.octets) < self.length

    def __repr__(self) -> str:
        what = f"{self.full_name} at {self.direction}:{self.stream_offset}, {self.length} octets"
        if self.control_id is not None and self.structure:
            what += f", {CONTROL_ID.enum.get(self.control_id, self.control_id)}"
        if self.structure is PAGE_DATA:
            what += f", {self.count} PFNs, {self.pages} pages"
        return f"<Record {what}, {self.status}>"
