# SPDX-License-Identifier: GPL-2.0-or-later
"""Framing: whole, in any pieces, byte by byte, with rubbish behind; every good case has a bad twin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissector import protocol as p
from dissector.framing import Framer
from dissector.record import Record
from dissector.streams import RANGE_COLUMNS, Run
from tests.synthesiser import stream
from tests.synthesiser.stream import Guest, Message, encode, record

TINY = Guest(memory=2, holes=1, dirty=1, emulator=40, page=b"\xab" * 4096)
CASES: dict[str, list[Message]] = {
    "colo": list(stream.colo(2, TINY)),
    "colo of 2015": list(stream.colo(2, replace(TINY, order_2015=True))),
    "remus": list(stream.remus(2, TINY)),
    "remus of a PV guest": list(stream.remus(2, replace(TINY, hvm=False))),
    "plain": list(stream.plain(TINY)),
    "plain, failed": list(stream.plain(TINY, failed=True)),
    "libvirt": list(stream.plain(replace(TINY, xl=False))),
    "version 2": list(stream.plain(replace(TINY, version=2))),
    "big-endian": list(stream.colo(2, replace(TINY, order="big"))),
    "Xen 4.18": list(stream.colo(3, replace(TINY, shifted=True))),
    "Xen 4.18, empty lists": list(stream.colo(3, replace(TINY, shifted=True, lists=()))),
    "empty lists": list(stream.colo(3, replace(TINY, lists=()))),
    "PFN 0 first": list(stream.colo(3, replace(TINY, lists=(0, 3)))),
    "only PFN 0 (AMD)": list(stream.colo(3, replace(TINY, lists=(0,)))),
    "only PFN 0, Xen 4.18": list(stream.colo(3, replace(TINY, lists=(0,), shifted=True))),
}
SIDES = [(case, direction) for case in CASES for direction in p.DIRECTIONS]


def octets_of(messages: Iterable[Message], direction: str) -> bytes:
    return b"".join(m.octets for m in messages if m.direction == direction)


def expected(messages: Iterable[Message], direction: str) -> list[tuple[int, str, int]]:
    at, found = 0, []
    for message in messages:
        if message.direction == direction:
            found.append((at, message.structure.full_name, len(message.octets)))
            at += len(message.octets)
    return found


def run_of(octets: bytes, cuts: Iterable[int], begin: int = 0, frame: int = 1) -> Run:
    """Octets as a run of ranges with ends at `cuts`."""
    ends = [*sorted({c for c in cuts if 0 < c < len(octets)}), len(octets)]
    starts = [0, *ends[:-1]]
    rows = np.zeros((len(ends), RANGE_COLUMNS), np.int64)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        rows[i] = begin + start, end - start, end - start, start, frame + i, frame + i, 0
    return Run(rows, np.zeros((0, 3), np.int64), np.frombuffer(octets, np.uint8),
               np.zeros(0, np.uint8))


def fed(octets: bytes, direction: str, feeds: Iterable[int] = (), cuts: Iterable[int] = (),
        ) -> tuple[list[Record], Framer]:
    """Records of octets that are fed in pieces with ends at `feeds`."""
    framer, records, cuts = Framer(direction), [], set(cuts)
    ends = [*sorted({c for c in feeds if 0 < c < len(octets)}), len(octets)]
    begin, frame = 0, 1
    for end in ends if octets else ():
        run = run_of(octets[begin:end], [c - begin for c in cuts], begin, frame)
        # What the caller's block held is gone once it has been fed.
        data = run.data.copy()
        run.data = data
        records += framer.feed(run)
        data[:] = 0xEE
        frame += len(run.rows)
        begin = end
    return records + framer.finish(), framer


def shape(records: list[Record]) -> list[tuple[int, str, int]]:
    return [(r.stream_offset, r.full_name, r.length) for r in records]


@pytest.mark.parametrize(("case", "direction"), SIDES)
def test_whole_and_byte_by_byte(case: str, direction: str) -> None:
    octets = octets_of(CASES[case], direction)
    whole, framer = fed(octets, direction)
    assert shape(whole) == expected(CASES[case], direction)
    assert not [f for f in framer.findings if f.rule != "shifted_dirty_list"]
    single, _ = fed(octets, direction, feeds=range(len(octets)))
    assert shape(single) == shape(whole)
    for a, b, message in zip(whole, single, [m for m in CASES[case] if m.direction == direction],
                             strict=True):
        assert (a.octets, a.count, a.pages, a.control_id) == (b.octets, b.count, b.pages,
                                                              b.control_id)
        assert a.control_id == message.control_id
        for name, value in message.expected.items():
            assert getattr(a, name) == value
        # Frames are octets here: exact to the octet.
        assert (b.first_frame, b.last_frame, b.frame) == (b.stream_offset + 1, b.end, b.end)


@pytest.mark.parametrize("upto", range(9, 35))
def test_what_begins_like_a_text_and_goes_on_otherwise(upto: int) -> None:
    """Also where the stream ends before the text would: the octet that differs tells, in any cut."""
    octets = p.BANNER.magic[:8] + b"?" * (upto - 8)
    for feeds in ((), range(upto), (8,)):
        records, framer = fed(octets, p.BACK, feeds=feeds)
        assert not records
        assert [f.rule for f in framer.findings] == ["lost_place"], feeds


@settings(max_examples=80, deadline=None)
@given(side=st.sampled_from(SIDES), data=st.data())
def test_any_pieces(side: tuple[str, str], data: st.DataObject) -> None:
    case, direction = side
    octets = octets_of(CASES[case], direction)
    places = st.lists(st.integers(1, max(len(octets), 2) - 1), max_size=40)
    whole, _ = fed(octets, direction)
    pieces, _ = fed(octets, direction, feeds=data.draw(places), cuts=data.draw(places))
    assert shape(pieces) == shape(whole)
    assert [r.octets for r in pieces] == [r.octets for r in whole]


@pytest.mark.parametrize("rubbish", [b"\xff" * 40, b"\x99" * 7, bytes(3), b"HTTP/1.1 200 OK\r\n" * 3,
                                     b"\x13" + bytes(23)], ids=repr)
@pytest.mark.parametrize(("case", "direction"), SIDES)
def test_with_rubbish_behind(case: str, direction: str, rubbish: bytes) -> None:
    """What precedes is as without it, and what follows is named: nothing is invented."""
    good = expected(CASES[case], direction)
    octets = octets_of(CASES[case], direction)
    # Octet by octet from where the last records begin; the rest is so fed elsewhere.
    for feeds in ((), range(max(1, len(octets) - 200), len(octets) + len(rubbish))):
        records, framer = fed(octets + rubbish, direction, feeds=feeds)
        assert shape([r for r in records if r.status == "complete"]) == good
        rules = {f.rule for f in framer.findings} - {"shifted_dirty_list"}
        assert rules in ({"lost_place"}, {"truncated"}, {"after_end"}), rules
        assert ("after_end" in rules) == (
            bool(good) and good[-1][1] in ("libxl.END", "xl.REPORT", "xl.GO_MESSAGE"))


@pytest.mark.parametrize(("case", "direction"), SIDES)
def test_cut_short_anywhere(case: str, direction: str) -> None:
    """A stream that ends inside a record gives that record as truncated, and never less before."""
    octets, good = octets_of(CASES[case], direction), expected(CASES[case], direction)
    lists = [(at, at + size) for at, name, size in good if name.endswith("DIRTY_PFN_LIST")]
    for end in range(1, len(octets), max(1, len(octets) // 300)):
        records, _ = fed(octets[:end], direction)
        complete = [r for r in records if r.status == "complete"]
        # Cut inside a list or close behind it, both of its shapes may fit.
        until = next((at for at, stop in lists if at < end < stop + 16), end)
        assert [s for s in shape(complete) if s[0] < until] == [
            g for g in good if g[0] + g[2] <= end and g[0] < until]
        assert [r.status for r in records[len(complete):]] in ([], ["truncated"])


HEAD = b"".join(m.octets for m in CASES["libvirt"][:4])
BODY = b"".join(m.octets for m in CASES["libvirt"][4:7])


@pytest.mark.parametrize(("accepted", "rejected"), [
    # an optional record is skipped, an unknown mandatory one ends the reading
    (record(0x80000042, b"whatever"), record(0x42, b"whatever")),
    (record(0x80000000, b""), record(0x13, b"")),
    # the longest body, and one octet more
    ((0x80000001).to_bytes(4, "little") + (128 << 20).to_bytes(4, "little"),
     (0x80000001).to_bytes(4, "little") + ((128 << 20) + 1).to_bytes(4, "little")),
], ids=["unknown", "new number", "length"])
def test_record_headers(accepted: bytes, rejected: bytes) -> None:
    good, framer = fed(HEAD + BODY + accepted, p.FORWARD)
    assert framer.lost is None
    assert good[-1].type == int.from_bytes(accepted[:4], "little")
    bad, framer = fed(HEAD + BODY + rejected, p.FORWARD)
    assert framer.lost is not None
    assert framer.lost.stream_offset == len(HEAD + BODY)
    assert shape(bad) == shape(good[:-1])


@pytest.mark.parametrize(("structure", "good", "bad"), [
    (p.X86_TSC_INFO, {"mode": 0, "khz": 1, "nsec": 2}, bytes(23)),
    (p.LIBXC_END, {}, bytes(8)),
    (p.PAGE_DATA, {"pfn": [stream.pfn_word(5, "XTAB")]}, (1).to_bytes(8, "little") + bytes(8)),
    (p.PAGE_DATA, {"pfn": [1], "page_data": bytes(4096)},
     (1).to_bytes(8, "little") + bytes(8) + bytes(4095)),
    (p.PAGE_DATA, {"pfn": [1], "page_data": bytes(4096)}, bytes(8)),
    (p.HVM_PARAMS, {"param": [(1, 2)]}, (2).to_bytes(8, "little") + bytes(16)),
    (p.HVM_PARAMS, {"param": [(1, 2)] * 2}, (1 << 31).to_bytes(8, "little")),
    (p.X86_CPUID_POLICY, {"leaves": [(0,) * 6]}, bytes(25)),
    (p.X86_CPUID_POLICY, {"leaves": [(0,) * 6]}, b""),
    (p.X86_MSR_POLICY, {"entries": [(0,) * 3]}, b""),
    (p.X86_PV_P2M_FRAMES, {"p2m_pfn": [1]}, bytes(8)),
    (p.X86_PV_P2M_FRAMES, {"p2m_pfn": [1]}, bytes(20)),
    (p.X86_PV_INFO, {"guest_width": 8, "pt_levels": 4}, bytes((8, 4)) + bytes(7)),
    (p.SHARED_INFO, {"shared_info": bytes(4096)}, bytes(4095)),
    (p.HVM_CONTEXT, {"hvm_ctx": b"x"}, b""),
    (p.X86_PV_VCPU_BASIC, {"context": bytes(2800)}, bytes(8 + 2799)),
    (p.X86_PV_VCPU_BASIC, {"context": bytes(5168)}, bytes(8)),
    (p.X86_PV_VCPU_EXTENDED, {"context": bytes(128)}, bytes(8 + 129)),
    (p.X86_PV_VCPU_XSAVE, {"context": bytes(16)}, bytes(8 + 15)),
    (p.X86_PV_VCPU_MSRS, {"context": bytes(32)}, bytes(8 + 24)),
    (p.CHECKPOINT, {}, bytes(8)),
    (p.VERIFY, {}, bytes(1)),
], ids=lambda value: getattr(value, "name", ""))
def test_lengths(structure: p.Structure, good: dict[str, object], bad: bytes) -> None:
    """A record whose length does not fit is a finding; the reading goes on behind it."""
    behind = encode(p.STATIC_DATA_END)
    for octets, rules in ((encode(structure, **good), set()),
                          (record(structure.type or 0, bad), {"bad_length"})):
        tail = b"" if structure in (p.LIBXC_END, p.CHECKPOINT) else behind
        records, framer = fed(HEAD + octets + tail, p.FORWARD)
        assert {f.rule for f in framer.findings} == rules
        assert records[4].structure is structure
        assert len(records) == 5 + bool(tail)


def test_errata_of_old_xen_are_tolerated() -> None:
    """With nothing behind the fixed fields; without those no Xen reads it either."""
    may = [s for s in p.STRUCTURES if s.may_be_empty]
    assert len(may) == 4
    for structure in (*may, p.X86_PV_VCPU_BASIC):
        good, bad = ({"empty_record"}, {"bad_length"}) if structure in may else ({"bad_length"},) * 2
        for body, rules in ((bytes(8), good), (b"", bad)):
            records, framer = fed(HEAD + record(structure.type or 0, body), p.FORWARD)
            assert records[-1].structure is structure
            assert {f.rule for f in framer.findings} == rules


def test_reserved_bits_and_padding() -> None:
    """What must be zero and is not is a finding; the reading goes on."""
    bit = 1 << p.PFN_RESERVED.low
    for octets, rules in (
            (encode(p.X86_TSC_INFO, reserved=1), {"reserved_not_zero"}),
            (encode(p.X86_TSC_INFO), set()),
            (encode(p.PAGE_DATA, pfn=[stream.pfn_word(1, "XTAB") | bit]), {"reserved_not_zero"}),
            (encode(p.PAGE_DATA, pfn=[stream.pfn_word(1, "XTAB")]), set()),
            (encode(p.X86_MSR_POLICY, entries=[(1, 0, 2), (1, 3, 2)]), {"reserved_not_zero"}),
            (encode(p.X86_MSR_POLICY, entries=[(1, 0, 2), (1, 0, 2)]), set()),
            (record(p.HVM_CONTEXT.type or 0, b"12345"), set()),
            (record(p.HVM_CONTEXT.type or 0, b"12345")[:-1] + b"\1", {"padding_not_zero"}),
            (record(p.HVM_CONTEXT.type or 0, b"12345")[:-3] + b"\1\0\0", {"padding_not_zero"}),
            (record(0x80000001, b"12345"), {"optional_record"}),
            (record(0x80000001, b"12345")[:-1] + b"\1", {"optional_record", "padding_not_zero"})):
        for feeds in ((), range(len(HEAD), len(HEAD) + len(octets))):
            records, framer = fed(HEAD + octets + encode(p.STATIC_DATA_END), p.FORWARD, feeds)
            assert {f.rule for f in framer.findings} == rules
            assert records[-1].structure is p.STATIC_DATA_END
    pairs = encode(p.EMULATOR_XENSTORE_DATA, emulator_id=2, pairs=[b"a", b"b"])
    head = b"".join(m.octets for m in CASES["libvirt"][:1])
    for octets, rules in ((pairs, set()), (pairs[:-1] + b"\1", {"padding_not_zero"})):
        _, framer = fed(head + octets, p.FORWARD)
        assert {f.rule for f in framer.findings} == rules


def test_a_record_from_the_wrong_side() -> None:
    _, framer = fed(HEAD + encode(p.CHECKPOINT_DIRTY_PFN_LIST, pfn=[1]), p.FORWARD)
    assert {f.rule for f in framer.findings} == {"wrong_direction"}


@pytest.mark.parametrize("octets", [
    encode(p.CHECKPOINT_STATE, control_id=4), record(5, b"\0\0\0\0\0\0\0\0"),
    encode(p.CHECKPOINT_STATE, control_id=1)[:-1] + b"\1",
    record(0xF, bytes(9)), record(1, bytes(8)), encode(p.LIBXL_END)], ids=repr)
def test_the_back_channel_knows_two_records(octets: bytes) -> None:
    records, framer = fed(p.BANNER.magic + octets, p.BACK)
    assert [r.name for r in records] == ["BANNER"]
    assert framer.lost is not None
    good, framer = fed(p.BANNER.magic + encode(p.CHECKPOINT_STATE, control_id=3), p.BACK)
    assert framer.lost is None
    assert good[-1].control_id == 3


def test_the_shape_of_a_list_is_decided_late_and_dated_early() -> None:
    """PFN 0 first: only what follows tells both shapes apart; the times are those of its end."""
    for case in ("only PFN 0 (AMD)", "only PFN 0, Xen 4.18"):
        octets = octets_of(CASES[case], p.BACK)
        framer, seen = Framer(p.BACK), []
        for i, octet in enumerate(octets):
            seen += [(i, r) for r in framer.feed(run_of(bytes([octet]), (), i, i + 1))]
        when, first = next((i, r) for i, r in seen if r.name == "CHECKPOINT_DIRTY_PFN_LIST")
        assert first.frame == first.end
        assert when >= first.end, "decided by what follows"
        assert first.shifted == (case == "only PFN 0, Xen 4.18")
        assert first.fields == {"pfn": [0]}


def test_a_list_at_the_end_is_decided_by_its_size() -> None:
    for shifted in (False, True):
        message = stream._Writer(replace(TINY, shifted=shifted)).dirty_list((0, 7))
        records, _ = fed(p.BANNER.magic + message.octets, p.BACK)
        assert [r.status for r in records] == ["complete"] * 2
        assert records[-1].fields == {"pfn": [0, 7]}
        assert records[-1].shifted == shifted


def test_long_bodies_are_not_kept() -> None:
    """128 MiB of body take no memory: only what stands in front of the contents is kept."""
    count = (128 << 20) // 4104
    head = record(1, b"")[:4] + (8 + count * 4104).to_bytes(4, "little") \
        + count.to_bytes(8, "little")
    framer = Framer(p.FORWARD)
    framer.feed(run_of(HEAD + head, ()))
    at, left = len(HEAD + head), count * 4104
    zeros = bytes(1 << 20)
    records: list[Record] = []
    while left:
        size = min(left, len(zeros))
        records += framer.feed(run_of(zeros[:size], (), at))
        at, left = at + size, left - size
    assert len(records) == 1
    assert records[0].status == "complete"
    assert len(records[0].octets) == 64 << 10


def test_every_record_decodes_to_what_was_encoded() -> None:
    values = {"mode": 2, "khz": 1_999_999, "nsec": 1 << 60, "incarnation": 7}
    for order in ("little", "big"):
        head = b"".join(m.octets for m in stream.plain(replace(TINY, xl=False, order=order)))[:64]
        found, _ = fed(head + encode(p.X86_TSC_INFO, order, **values), p.FORWARD)
        assert found[-1].fields == {**values, "reserved": 0}


def test_the_shape_of_lists_holds_unless_contradicted() -> None:
    """A shifted list, then a plain one that begins with PFN 0: the sync-point behind tells."""
    shifted = stream._Writer(replace(TINY, shifted=True)).dirty_list((3,)).octets
    plain = stream._Writer(TINY).dirty_list((0, 5)).octets
    sync = encode(p.CHECKPOINT_STATE, control_id=2)
    octets = p.BANNER.magic + shifted + sync + plain + sync + shifted + sync
    for feeds in ((), range(len(octets))):
        records, framer = fed(octets, p.BACK, feeds=feeds)
        assert framer.lost is None
        assert [r.fields["pfn"] for r in records if r.count is not None] == [[3], [0, 5], [3]]
