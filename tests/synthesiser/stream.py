# SPDX-License-Identifier: GPL-2.0-or-later
"""What both ends of a migration, a Remus or a COLO pair write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dissector import protocol as p
from dissector.protocol import BACK, FORWARD, Field, Structure

PAGE = 4096
MS = 1_000_000


@dataclass(frozen=True)
class Message:
    """One record, header or text, written `delay` ns after the message before it."""

    direction: str
    structure: Structure
    octets: bytes
    delay: int = MS
    control_id: int | None = None
    expected: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Guest:
    """What to synthesise; the defaults are a small HVM guest on a Xen of today."""

    order: str = "little"
    version: int = 3
    xl: bool = True
    xen: tuple[int, int] = (4, 17)
    hvm: bool = True
    memory: int = 12
    """Pages of the guest, sent in the first pass."""
    batch: int = 4
    """PFNs in a PAGE_DATA."""
    holes: int = 8
    """PFNs of the first pass that carry no page (XTAB)."""
    dirty: int = 3
    """Pages sent again in each checkpoint."""
    lists: tuple[int, ...] = (1, 5, 9)
    """PFNs of each CHECKPOINT_DIRTY_PFN_LIST."""
    shifted: bool = False
    """Lists as Xen 4.18 writes them."""
    order_2015: bool = False
    """No SVM_READY inside checkpoints, as in the series of 2015."""
    emulator: int = 700
    """Octets of the emulator's state."""
    seed: int = 1
    page: bytes | None = None
    """Contents of every page, or of several, one after another, again and again; None: random."""


def encode(structure: Structure, order: str = "little", **values: Any) -> bytes:
    """The octets of a structure; counts, lengths, reserved and constant fields fill themselves."""
    body = b""
    for item in structure.fields:
        body += _encode_field(structure, item, values, order)
    if structure.type is None:
        return body
    return record(structure.type, body, order)


def record(number: int, body: bytes, order: str = "little") -> bytes:
    """A record with any number and body."""
    head = b"".join(value.to_bytes(f.width, order)  # type: ignore[arg-type]
                    for f, value in zip(p.RECORD_HEADER, (number, len(body)), strict=True))
    return head + body + bytes(-len(body) % p.ALIGNMENT)


def _encode_field(structure: Structure, item: Field, values: dict[str, Any], order: str) -> bytes:
    order = "big" if item.order == p.BIG else order
    if item.type in p.WIDTH:
        value = values.get(item.name)
        if value is None:
            value = _computed(structure, item, values)
        return value.to_bytes(item.width, order)  # type: ignore[no-any-return]
    if item.type == p.ARRAY:
        octets = b""
        for entry in values.get(item.name, ()):
            entry = entry if isinstance(entry, tuple) else (entry,)
            for part, value in zip(item.items, entry, strict=True):
                octets += value.to_bytes(part.width, order)
        return octets
    if item.type == p.STRINGS:
        return b"".join(text + b"\0" for text in values.get(item.name, ()))
    if item.type == p.TEXT and item.name not in values and structure.magic:
        return structure.magic
    return values.get(item.name, b"")  # type: ignore[no-any-return]


def _computed(structure: Structure, item: Field, values: dict[str, Any]) -> int:
    for other in structure.fields:
        if other.type == p.ARRAY and other.count == item.name:
            return len(values.get(other.name, ()))
        if other.size == item.name:
            return len(values.get(other.name, b""))
    if item.name == structure.length_field:
        behind = structure.fields[structure.fields.index(item) + 1:]
        return sum(f.width + len(values.get(f.name, b"")) for f in behind)
    return item.legal[0] if item.legal else 0


def pfn_word(pfn: int, kind: str = "NOTAB") -> int:
    """A PFN with its type."""
    number = next(n for n, name in p.PFN_TYPES.items() if name == kind)
    return number << p.PFN_TYPE.low | pfn


class _Writer:
    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.random = random.Random(guest.seed)

    def message(self, structure: Structure, direction: str = FORWARD, delay: int = MS,
                **values: Any) -> Message:
        return Message(direction, structure, encode(structure, self.guest.order, **values), delay)

    def sync(self, name: str, delay: int = MS) -> Message:
        point = p.XEN_COLO.named(name)
        direction = FORWARD if point.sender == p.PRIMARY else BACK
        message = self.message(p.CHECKPOINT_STATE, direction, delay, control_id=point.control_id)
        return replace(message, control_id=point.control_id)

    def pages(self, pfns: list[int], delay: int = MS, kind: str = "NOTAB") -> Iterator[Message]:
        guest = self.guest
        carries = kind not in {p.PFN_TYPES[n] for n in p.PFN_TYPES_WITHOUT_PAGE}
        for at in range(0, len(pfns), guest.batch):
            batch = pfns[at:at + guest.batch]
            data = self.contents(len(batch)) if carries else b""
            message = self.message(p.PAGE_DATA, FORWARD, delay, page_data=data,
                                   pfn=[pfn_word(pfn, kind) for pfn in batch])
            yield replace(message, expected={"count": len(batch),
                                             "pages": len(batch) if carries else 0})

    def contents(self, pages: int) -> bytes:
        page = self.guest.page or self.random.randbytes(PAGE * pages)
        return (page * -(-PAGE * pages // len(page)))[:PAGE * pages]

    def opening(self) -> Iterator[Message]:
        guest = self.guest
        big = int(guest.order == "big")
        if guest.xl:
            yield self.message(p.BANNER, BACK)
            yield self.message(p.XL_HEADER, mandatory_flags=3, config=b'{"c_info": {}, "x": 1}')
        yield self.message(p.LIBXL_HEADER, options=big)
        yield self.message(p.LIBXC_CONTEXT)
        yield self.message(p.IMAGE_HEADER, version=guest.version, options=big)
        yield self.message(p.DOMAIN_HEADER, type=2 if guest.hvm else 1, xen_major=guest.xen[0],
                           xen_minor=guest.xen[1])
        if not guest.hvm:
            yield self.message(p.X86_PV_INFO, guest_width=8, pt_levels=4)
        if guest.version >= 3:
            yield self.message(p.X86_CPUID_POLICY, leaves=[(i, 0, 1, 2, 3, 4) for i in range(3)])
            yield self.message(p.X86_MSR_POLICY, entries=[(0x8C, 0, 7)])
            yield self.message(p.STATIC_DATA_END)
        if not guest.hvm:
            yield self.message(p.X86_PV_P2M_FRAMES, start_pfn=0, end_pfn=511, p2m_pfn=[17])
        yield from self.pages(list(range(guest.memory)))
        yield from self.pages(list(range(guest.memory, guest.memory + guest.holes)), kind="XTAB")

    def state(self, last: Structure) -> Iterator[Message]:
        yield self.message(p.X86_TSC_INFO, khz=2_000_000, nsec=5, mode=0)
        if self.guest.hvm:
            yield self.message(p.HVM_CONTEXT, hvm_ctx=self.random.randbytes(301))
            yield self.message(p.HVM_PARAMS, param=[(1, 0xFEFFC), (5, 0xFEFFE)])
        else:
            for structure, size in ((p.X86_PV_VCPU_BASIC, 5168), (p.X86_PV_VCPU_EXTENDED, 99),
                                    (p.X86_PV_VCPU_XSAVE, 579), (p.X86_PV_VCPU_MSRS, 48)):
                yield self.message(structure, vcpu_id=0, context=self.random.randbytes(size))
            yield self.message(p.SHARED_INFO, shared_info=bytes(PAGE))
        yield self.message(last)

    def device(self, last: Structure) -> Iterator[Message]:
        if self.guest.hvm:
            yield self.message(p.EMULATOR_XENSTORE_DATA, emulator_id=2, index=0,
                               pairs=[b"physmap/f0000000/start_addr", b"f0000000"])
            yield self.message(p.EMULATOR_CONTEXT, emulator_id=2, index=0,
                               emulator_ctx=b"QEVM" + self.random.randbytes(self.guest.emulator))
        yield self.message(last)

    def dirty_list(self, pfns: tuple[int, ...]) -> Message:
        message = self.message(p.CHECKPOINT_DIRTY_PFN_LIST, BACK, pfn=pfns)
        if self.guest.shifted:
            head = sum(f.width for f in p.RECORD_HEADER)
            octets = message.octets
            message = replace(message, octets=octets[:head] + bytes(p.DIRTY_LIST_EXCESS)
                              + octets[head:])
        return replace(message, expected={"count": len(pfns)})

    def again(self) -> list[int]:
        return sorted(self.random.sample(range(self.guest.memory),
                                         min(self.guest.dirty, self.guest.memory)))


def plain(guest: Guest = Guest(), failed: bool = False) -> Iterator[Message]:
    """`xl migrate`: one pass over memory, some of it again, then everything else."""
    w = _Writer(guest)
    yield from w.opening()
    yield from iteration(guest, w)
    yield from stop_and_copy(guest, w, failed)


def first_pass(guest: Guest) -> Iterator[Message]:
    """A migration up to the end of the first pass over memory."""
    yield from _Writer(guest).opening()


def iteration(guest: Guest, writer: _Writer | None = None) -> Iterator[Message]:
    """One of the further passes of a migration: the dirty pages."""
    w = writer or _Writer(guest)
    yield from w.pages(w.again())


def stop_and_copy(guest: Guest, writer: _Writer | None = None, failed: bool = False) -> Iterator[Message]:
    """The end of a migration: the state of CPUs and devices, and what both ends agree on."""
    w = writer or _Writer(guest)
    yield from w.state(p.LIBXC_END)
    yield from w.device(p.LIBXL_END)
    if guest.xl:
        yield w.message(p.READY_TEXT, BACK)
        yield w.message(p.GO_MESSAGE)
        yield w.message(p.REPORT, BACK, status=int(failed))
        if failed:
            yield w.message(p.GO_MESSAGE, BACK)


def remus(epochs: int, guest: Guest = Guest()) -> Iterator[Message]:
    """Remus: `epochs` checkpoints, then nothing."""
    w = _Writer(guest)
    yield from w.opening()
    for number in range(epochs):
        yield from epoch(guest, w, pages=number > 0)


def epoch(guest: Guest, writer: _Writer | None = None, pages: bool = True) -> Iterator[Message]:
    """One epoch of Remus; the first has no pages of its own."""
    w = writer or _Writer(guest)
    if pages:
        yield from w.pages(w.again(), delay=20 * MS)
    yield from w.state(p.CHECKPOINT)
    yield from w.device(p.CHECKPOINT_END)


def colo(checkpoints: int, guest: Guest = Guest()) -> Iterator[Message]:
    """COLO: the initial transfer (checkpoint 0), then `checkpoints` of them."""
    w = _Writer(guest)
    yield from w.opening()
    yield from w.state(p.CHECKPOINT)
    yield from w.device(p.CHECKPOINT_END)
    yield w.sync("SVM_READY", 30 * MS)
    yield w.sync("SVM_RESUMED", 10 * MS)
    for _ in range(checkpoints):
        yield from checkpoint(guest, w)


def checkpoint(guest: Guest, writer: _Writer | None = None) -> Iterator[Message]:
    """One checkpoint of COLO, from NEW to RESUMED."""
    w = writer or _Writer(guest)
    yield w.sync("NEW", 150 * MS)
    yield w.sync("SVM_SUSPENDED", 120 * MS)
    yield w.dirty_list(guest.lists)
    yield from w.pages(w.again(), delay=5 * MS)
    yield from w.state(p.CHECKPOINT)
    yield from w.device(p.CHECKPOINT_END)
    if not guest.order_2015:
        yield w.sync("SVM_READY", 80 * MS)
    yield w.sync("SVM_RESUMED", 40 * MS)


def memory(pages: int, seed: int = 1) -> bytes:
    """Contents of pages that can be compressed about as well as those of real guests: a quarter is zeros, a
    quarter pointers, half cannot be compressed."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 64, (pages, PAGE // 8), np.uint64)
    words[0::4] = 0
    words[1::4] = 0xFFFF888000000000 | words[1::4] & np.uint64(0x0FFFFFF8)
    return words.astype("<u8").tobytes()
