# SPDX-License-Identifier: GPL-2.0-or-later
"""The Scapy layer, used as Scapy's users do; the examples here are those of docs/scapy.md."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scapy")

from scapy.config import conf
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession
from scapy.utils import rdpcap, wrpcap

from dissector import fields, protocol
from dissector import scapy as layer
from dissector.protocol import ARRAY, BACK, BLOB, FORWARD, PAGES, STRUCTURES
from dissector.scapy import (
    LibxcDomainHeader,
    LibxcHvmParams,
    LibxcImageHeader,
    LibxcPageData,
    LibxcPageDataBE,
    LibxcX86TscInfo,
    LibxlCheckpointState,
    LibxlColoContext,
    LibxlEmulatorXenstoreData,
    LibxlHeader,
    LibxlLibxcContext,
    XenMigration,
    XlHeader,
    bind_port,
    build,
    dissect,
    layers,
    pfn_word,
    unbind_port,
)
from tests.helpers import PCAPS, octets_of, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire
from tests.test_framing import CASES, SIDES
from tests.test_framing import expected as framed
from tests.test_framing import octets_of as case_octets

REAL = ["colo-hvm-fast.A", "colo-hvm-dirty.A", "colo-hvm-dirty.B", "colo-2ck-abort.A", "remus-hvm.A",
        "plain-hvm-mtu.A", "debian-nocolo.A"]
SMALL = Guest(memory=2, holes=1, dirty=1, emulator=60)


def same(structure: protocol.Structure, octets: bytes, order: str, packet: Packet) -> None:
    """Every field of the description, read by the engine's code and by Scapy's."""
    parts = {f.name: value for f, _, _, value in fields.parts(structure, octets, order)}
    assert set(parts) == {f.name for f in structure.fields}
    for field in structure.fields:
        theirs: Any = packet.getfieldval(field.name)
        if field.type == ARRAY and len(field.items) > 1:
            theirs = [{item.name: entry.getfieldval(item.name) for item in field.items}
                      for entry in theirs]
        assert parts[field.name] == theirs, (structure, field.name)
    if structure.type is not None:
        assert fields.record_header(octets, order) == tuple(
            packet.getfieldval(f.name) for f in protocol.RECORD_HEADER)


@pytest.mark.parametrize("capture", REAL)
def test_engine_and_scapy_agree_on_every_real_record(capture: str) -> None:
    """The same records, the same fields, and build(dissect(b)) == b, whole captures long."""
    path = PCAPS / f"{capture}.pcap.zst"
    records = read(path).records
    for (connection, direction), octets in octets_of(path).items():
        mine = sorted((r for r in records if (r.connection, r.direction) == (connection, direction)),
                      key=lambda r: r.stream_offset)
        packets, at = dissect(octets, direction), 0
        assert len(packets) == len(mine)
        for record, packet in zip(mine, packets, strict=True):
            own = octets[at:at + record.length]
            assert record.stream_offset == at
            assert bytes(packet) == own
            fresh = packet.copy()
            fresh.raw_packet_cache = None
            assert bytes(fresh) == own, "built from its fields, not from a cache"
            assert packet.structure is record.structure
            assert record.structure is not None
            same(record.structure, own, record.order, packet)
            at += record.length
        assert at == len(octets)


@pytest.mark.parametrize(("case", "direction"), SIDES)
def test_whole_streams_of_every_kind(case: str, direction: str) -> None:
    octets = case_octets(CASES[case], direction)
    packets = dissect(octets, direction)
    assert build(packets) == octets
    at, found = 0, []
    for packet in packets:
        found.append((at, packet.structure.full_name, len(bytes(packet))))
        at = at + len(bytes(packet))
    assert found == framed(CASES[case], direction)


def test_there_is_a_class_for_every_structure_in_both_orders() -> None:
    for structure in STRUCTURES:
        for order, end in (("little", ""), ("big", "BE")):
            made = getattr(layer, layer.class_name(structure) + end)
            assert (made.structure, made.order) == (structure, order)
            assert structure.meaning in made.__doc__
            named = {f.name for f in made.fields_desc}
            assert {f.name for f in structure.fields} <= named
    assert issubclass(LibxcPageDataBE, LibxcPageData)


def test_build_a_stream_by_hand_and_read_it_back() -> None:
    pages = bytes(range(256)) * 16
    made = (XlHeader(config=b"{}") / LibxlHeader() / LibxlLibxcContext() / LibxcImageHeader()
            / LibxcDomainHeader(type="x86_hvm", xen_major=4, xen_minor=17)
            / LibxcPageData(pfn=[pfn_word(7), pfn_word(8, "XTAB")], page_data=pages)
            / LibxcX86TscInfo(khz=2_000_000) / LibxlCheckpointState(control_id="CHECKPOINT_NEW"))
    octets = bytes(made)
    again = XlHeader(octets)
    assert again == made
    assert [p.structure.name for p in layers(again)] == [
        "HEADER", "HEADER", "LIBXC_CONTEXT", "IMAGE_HEADER", "DOMAIN_HEADER", "PAGE_DATA",
        "X86_TSC_INFO", "CHECKPOINT_STATE"]
    assert again[LibxcPageData].count == 2
    assert again[LibxcPageData].body_length == 8 + 16 + 4096
    assert again[LibxcPageData].page_data == pages
    assert again[LibxcImageHeader].version == 3
    assert build(dissect(octets)) == octets


def test_a_sync_point_answers_to_both_names() -> None:
    packet = LibxlCheckpointState(control_id=2)
    assert LibxlColoContext is LibxlCheckpointState
    assert packet.haslayer("COLO_CONTEXT")
    assert packet.haslayer("CHECKPOINT_STATE")
    assert packet["COLO_CONTEXT"].control_id == 2
    assert bytes(packet) == bytes.fromhex("05000000 04000000 02000000 00000000")
    assert packet.mysummary() == "libxl CHECKPOINT_STATE CHECKPOINT_SVM_READY"


def test_show_reads_like_the_specification() -> None:
    text = LibxcPageData(pfn=[pfn_word(7, "XTAB")] * 9).show(dump=True)
    assert "libxc PAGE_DATA" in text
    assert "[XTAB 0x7, XTAB 0x7, XTAB 0x7, XTAB 0x7, … 5 more]" in text
    assert "surplus" not in text
    assert "padding" not in text
    pairs = LibxlEmulatorXenstoreData(emulator_id=2, pairs=[b"a/b", b"1", b"c", b"2"])
    assert "emulator_id= QEMU upstream" in pairs.show(dump=True)
    assert "a/b=1, c=2" in pairs.show(dump=True)
    assert LibxlEmulatorXenstoreData(bytes(pairs)).pairs == [b"a/b", b"1", b"c", b"2"]
    assert "control_id=CHECKPOINT_NEW" in repr(LibxlCheckpointState(control_id=0))


def test_counts_lengths_and_padding_fill_themselves() -> None:
    packet = LibxcHvmParams(param=[LibxcHvmParams().get_field("param").cls(index=1, value=2)])
    octets = bytes(packet)
    assert len(octets) == 8 + 8 + 16
    assert LibxcHvmParams(octets).count == 1
    xenstore = LibxlEmulatorXenstoreData(pairs=[b"k", b"v"])
    assert len(bytes(xenstore)) == 24, "padded to 8"
    changed = LibxcPageData(bytes(LibxcPageData(pfn=[1], page_data=bytes(4096))))
    changed.pfn = [1, pfn_word(2, "XTAB")]
    del changed.count, changed.body_length
    again = LibxcPageData(bytes(changed))
    assert (again.count, again.body_length) == (2, 8 + 16 + 4096)
    assert changed.count is None, "building fills nothing in for good"


@pytest.mark.parametrize("octets", [
    bytes.fromhex("05000000 04000000 02000000 00000001"),  # padding that is not zero
    bytes.fromhex("05000000 06000000 02000000 99990000"),  # a body with too much
    bytes.fromhex("05000000 02000000 02000000 00000000"),  # and with too little
    bytes.fromhex("01000000 0c000000 05000000 00000000 11111111 00000000"),  # a count that lies
])
def test_what_is_wrong_survives_dissecting_and_building(octets: bytes) -> None:
    made = LibxlCheckpointState if octets[0] == 5 else LibxcPageData
    assert bytes(made(octets)) == octets


_NUMBERS = st.integers(0, (1 << 64) - 1)


def _values(structure: protocol.Structure) -> Any:
    """Any values for the fields of a structure."""
    made = {}
    counted = {f.count for f in structure.fields} | {f.size for f in structure.fields} | {
        structure.length_field, structure.order_field}
    for field in structure.fields:
        if field.type in protocol.WIDTH:
            if field.name not in counted:
                made[field.name] = st.integers(0, (1 << 8 * field.width) - 1)
        elif field.type == ARRAY and len(field.items) == 1:
            made[field.name] = st.lists(_NUMBERS, max_size=9)
        elif field.type in (BLOB, PAGES):
            made[field.name] = st.binary(max_size=50)
        elif field.type == protocol.STRINGS:
            made[field.name] = st.lists(st.binary(max_size=9).filter(lambda b: 0 not in b), max_size=6)
        elif isinstance(field.size, str):
            made[field.name] = st.binary(max_size=30)
    return st.fixed_dictionaries(made)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), structure=st.sampled_from(STRUCTURES), order=st.sampled_from(["little", "big"]))
def test_dissecting_what_was_built(data: st.DataObject, structure: protocol.Structure,
                                   order: str) -> None:
    made = layer.CLASSES[structure, order]
    packet = made(**data.draw(_values(structure)))
    octets = bytes(packet)
    again = made(octets)
    assert again == packet
    assert bytes(again) == octets
    own = next((f.name for f in structure.fields if f.type in (BLOB, PAGES)), "")
    if not structure.length_field:
        parts = {f.name: v for f, _, _, v in fields.parts(structure, octets, order)}
        for name, value in packet.fields.items():
            if name in parts and name != own and not isinstance(value, list):
                assert parts[name] == value, name


@settings(max_examples=200, deadline=None)
@given(octets=st.binary(max_size=120), structure=st.sampled_from(STRUCTURES))
def test_rubbish_is_dissected_without_an_error_and_kept(octets: bytes,
                                                        structure: protocol.Structure) -> None:
    packet = layer.CLASSES[structure, "little"](octets)
    assert bytes(packet) == octets


def test_records_hand_out_their_packets() -> None:
    result = read(PCAPS / "colo-hvm-fast.A.pcap.zst")
    seen = set()
    for record in result.records:
        if record.full_name not in seen:
            seen.add(record.full_name)
            packet = record.packet
            assert packet.structure is record.structure
            assert len(bytes(packet)) == record.length
            assert packet.name == f"{record.layer} {record.name}"
    assert len(seen) == 18


def test_a_scapy_built_stream_feeds_the_engine(tmp_path: Path) -> None:
    """From packets to a pcap, and the engine reads what was meant."""
    messages = list(stream.colo(2, SMALL))
    wire = Wire(messages)
    seq = {FORWARD: 1001, BACK: 77_001}
    frames = []
    for direction, octets in ((m.direction, m.octets) for m in messages):
        record = dissect(octets, direction) if octets.startswith((b"x", b"X", b"L", b"\xff")) else None
        payload = build(record) if record else octets
        ports = (40_000, 7002) if direction == FORWARD else (7002, 40_000)
        for at in range(0, len(payload), 1400):
            part = payload[at:at + 1400]
            frames.append(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(
                sport=ports[0], dport=ports[1], seq=seq[direction], flags="PA") / Raw(part)
                if direction == FORWARD else
                Ether() / IP(src="10.0.0.2", dst="10.0.0.1") / TCP(
                    sport=ports[0], dport=ports[1], seq=seq[direction], flags="PA") / Raw(part))
            seq[direction] += len(part)
    wrpcap(str(tmp_path / "x.pcap"), frames)
    assert read(tmp_path / "x.pcap").framed() == wire.expected()


@pytest.fixture
def port() -> Any:
    bind_port(7002)
    yield 7002
    unbind_port(7002)


def records_of(packets: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {FORWARD: [], BACK: []}
    for packet in packets:
        if TCP in packet:
            direction = FORWARD if packet[TCP].dport == 7002 else BACK
            found[direction] += [p.structure.full_name for p in layers(packet)]
    return found


@pytest.mark.parametrize("mss", [60, 700, 1448])
@pytest.mark.parametrize("case", ["colo", "plain", "big-endian", "Xen 4.18", "only PFN 0 (AMD)", "libvirt"])
def test_sniffing_with_tcp_session_gives_both_directions(tmp_path: Path, port: int, mss: int,
                                                         case: str) -> None:
    guest = {"big-endian": replace(SMALL, order="big"), "Xen 4.18": replace(SMALL, shifted=True),
             "only PFN 0 (AMD)": replace(SMALL, lists=(0,)),
             "libvirt": replace(SMALL, xl=False)}.get(case, SMALL)
    messages = list(stream.plain(guest) if case in ("plain", "libvirt") else stream.colo(2, guest))
    wire = Wire(messages, mss=mss)
    path = files.write(tmp_path / "x.pcap", wire)
    packets = sniff(offline=str(path), session=TCPSession, quiet=True)
    assert records_of(packets) == {
        d: [m.structure.full_name for m in messages if m.direction == d] for d in (FORWARD, BACK)}


def test_single_frames_without_a_session(tmp_path: Path, port: int) -> None:
    """rdpcap alone: headers and sync-points are seen where a segment begins with one."""
    wire = Wire(stream.colo(1, SMALL))
    packets = rdpcap(str(files.write(tmp_path / "x.pcap", wire)))
    found = [p for p in packets if LibxlCheckpointState in p]
    assert len(found) == 6
    assert [p[LibxlCheckpointState].control_id for p in found] == [2, 3, 0, 1, 2, 3]
    assert sum(XlHeader in p for p in packets) == 1
    assert all(Raw in p or XenMigration in p for p in packets if p[TCP].payload)


def test_from_a_pcap_to_a_modified_stream(tmp_path: Path) -> None:
    """The ten lines of the guide."""
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(2, SMALL)))
    records = [r for r in read(path).records if r.direction == BACK]
    packets = [r.packet for r in records]
    packets[-1].control_id = "CHECKPOINT_NEW"
    octets = build(packets)
    assert octets[-8:-4] == bytes(4)
    wire = Wire(stream.colo(2, SMALL))
    assert len(octets) == len(wire.streams[BACK])
    wire.streams[BACK] = octets
    changed = read(files.write(tmp_path / "y.pcap", wire))
    assert changed.rules() == {"wrong_sender"}


def test_importing_the_layer_is_cheap() -> None:
    """Neither all of Scapy nor Numba nor pandas is imported."""
    code = ("import sys; from dissector.scapy import *; "
            "print([m for m in ('scapy.all', 'numba', 'pandas', 'scapy.layers.inet') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_scapy_loads_it_as_an_extension() -> None:
    code = ("from scapy.config import conf; conf.exts.load('coloscope'); "
            "from scapy.main import load_contrib; "
            "import scapy.contrib.xen_migration as a, dissector.scapy as b; "
            "print(conf.exts.exts[0].name, a.LibxcPageData is b.LibxcPageData)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "coloscope True\n", done.stderr
    assert "not" not in done.stderr


def test_padding_layer_and_raw_are_scapys_own() -> None:
    assert conf.raw_layer is Raw
    packets = dissect(b"xl migration receiver ready, send binary domain data.\n" + b"\x99" * 9)
    assert isinstance(packets[-1], Raw)
    assert np.prod([len(bytes(p)) for p in packets]) == 54 * 9
