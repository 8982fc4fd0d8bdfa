# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures made to do harm: state is bounded, a cap that bites is a finding, nothing is a traceback."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import analysis
from dissector import connection, container, engine, findings, packets, segments, streams
from dissector import protocol as p
from dissector.compression import zstd
from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.explain import explain
from dissector.fields import LITTLE_ENDIAN, words
from dissector.headers import ACK, CAPTURED, FLAGS, LENGTH, SEQUENCE, SYN
from dissector.reader import Reader
from dissector.record import Record
from dissector.segments import COLUMNS, SEGMENT_FRAME, SEGMENT_TIME, Streams
from dissector.source import Source
from dissector.streams import OFFSET, SIZE, Stream
from tests.helpers import Read, collect, read
from tests.synthesiser import files, stream
from tests.synthesiser.files import block, enhanced, option, pcapng_start
from tests.synthesiser.stream import Guest, Message, encode
from tests.synthesiser.wire import EPOCH, Wire

SMALL = Guest(memory=1, holes=0, dirty=1)
COLO = list(stream.colo(1, SMALL))


@pytest.fixture
def frames() -> list[tuple[int, bytes]]:
    return list(files.frames(Wire(COLO)))


def opening(port: int, octets: bytes, side: int = 0) -> list[tuple[int, bytes]]:
    """A SYN and these octets, of a connection of its own."""
    message = Message(p.DIRECTIONS[side], p.LIBXL_HEADER, octets)
    wire = Wire([message], ports=(port, 7002), fin=False, acks=False)
    wire.rows = wire.rows[[0, 3]]
    return list(files.frames(wire))


# --- many connections -------------------------------------------------------------------------


def test_a_port_scan_opens_no_connection(tmp_path: Path, frames: list[tuple[int, bytes]]) -> None:
    """SYN, SYN and RST, a whole connection without an octet: numbered, and nothing kept."""
    quiet = []
    for i in range(300):
        wire = Wire([], ports=(1024 + i, 80))
        quiet += list(files.frames(wire.keep(wire.rows[:1 + i % len(wire.rows)])))
    (tmp_path / "x").write_bytes(files.pcap(quiet + frames))
    result = read(tmp_path / "x")
    assert result.engine.streams.count == 301
    assert list(result.engine.connections) == [300]
    assert result.framed() == Wire(COLO).expected()
    assert {result.engine.seems(number) for number in range(300)} == {"no data"}


@pytest.mark.parametrize("size", [1, 15, 16, 700])
def test_connections_that_are_told_by_their_first_octets_open_none(
        size: int, tmp_path: Path, frames: list[tuple[int, bytes]]) -> None:
    """Who speaks first says something else at once: numbered, named, nothing kept.  Of a side that says
    too little at once, or begins like one of ours, more is read."""
    other = []
    for i in range(40):
        wire = Wire(stream.plain(Guest(memory=1, xl=i != 7)), ports=(1024 + i, 80), mss=size)
        wire.streams = {"forward": b"GET /a/page HTTP/1.1\r\n" * 900, "back": b"HTTP/1.1 200 OK\r\n" * 9}
        if i == 7:
            wire.streams["forward"] = p.LIBXL_HEADER.magic + bytes(19_000)
        other += list(files.frames(wire))
    (tmp_path / "x").write_bytes(files.pcap(other + frames))
    result = read(tmp_path / "x")
    assert result.engine.streams.count == 41
    assert [c.number for c in result.engine.ours()] == [7, 40]
    assert result.framed(40) == Wire(COLO).expected()
    assert {result.engine.seems(number) for number in range(40) if number != 7} == {"HTTP"}
    assert (result.engine.streams.sniffed(0) is not None) == (size >= 16)
    assert result.engine.streams.sniffed(7) is None


def test_connections_that_turn_out_to_be_others_leave_nothing(tmp_path: Path) -> None:
    """Who has answered is seen before who spoke first: what was taken of both goes when both have told."""
    both = []
    for i in range(2):
        wire = Wire([Message(p.BACK, p.XL_HEADER, b"220 mail.example.org ESMTP\r\n"),
                     Message(p.FORWARD, p.XL_HEADER, b"EHLO primary.example.org\r\n")],
                    ports=(2000 + i, 25), fin=False)
        told = np.flatnonzero(wire.rows["length"])
        order = np.arange(len(wire.rows))
        order[told] = told[::-1]
        both.append([frame for _, frame in files.frames(wire.keep(wire.rows[order]))])
    path = tmp_path / "x"
    path.write_bytes(files.pcap([(EPOCH, frame) for pair in zip(*both, strict=True) for frame in pair]))
    result = read(path)
    assert result.engine.streams.count == 2
    assert not result.engine.connections
    assert [result.engine.streams.sniffed(number) is not None for number in range(2)] == [True, True]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_what_precedes_the_first_octet_counts_although_it_is_not_kept(tmp_path: Path, first: int) -> None:
    """A SYN far in front of the octets; the same records wherever a block of packets ends."""
    wire = Wire(COLO)
    lost = wire.keep(np.delete(wire.rows, [*range(first), wire.data_rows()[4]]))
    whole = read(files.write(tmp_path / "whole", lost))
    rows, packets.ROWS = packets.ROWS, 1
    try:
        single = read(files.write(tmp_path / "single", lost))
    finally:
        packets.ROWS = rows
    assert single.framed() == whole.framed()
    assert sorted(map(facts, single.records)) == sorted(map(facts, whole.records))
    assert single.connection.holes == whole.connection.holes != []
    assert whole.connection.stream.syn == [first == 0, first < 2]


def facts(record: Record) -> list[str]:
    return [record.direction, f"{record.stream_offset:09}", *(
        str(getattr(record, name)) for name in record.__slots__ if name != "reader")]


def test_connections_that_do_not_tell_are_left(tmp_path: Path, frames: list[tuple[int, bytes]],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "UNDECIDED_MAX", 5)
    silent = [frame for i in range(20) for frame in opening(1024 + i, b"LibxlF")]
    (tmp_path / "x").write_bytes(files.pcap(silent + frames))
    result = read(tmp_path / "x")
    assert len(result.engine.connections) == 6
    assert result.rules() == {"too_many_connections", "clock_back"}
    assert result.framed() == Wire(COLO).expected()


@pytest.mark.parametrize("most", [3, 10])
def test_no_more_than_so_many_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           most: int) -> None:
    monkeypatch.setattr(engine, "OURS_MAX", most)
    head = encode(p.LIBXL_HEADER) + encode(p.LIBXC_CONTEXT)
    (tmp_path / "x").write_bytes(files.pcap(
        [frame for i in range(8) for frame in opening(1024 + i, head)]))
    capture = analysis.read(tmp_path / "x")
    assert len(capture.engine.ours()) == min(most, 8)
    assert set(capture.records["connection"]) == set(range(min(most, 8)))
    assert len(capture.export("connections", every=True)) == 8
    assert ("too_many_connections" in set(capture.findings["rule"])) == (most < 8)


def test_numbers_do_not_depend_on_the_secret_of_the_table(tmp_path: Path) -> None:
    path = files.write(tmp_path / "x", [Wire(COLO, ports=(1000 + i, 7002)) for i in range(9)])
    assert read(path).framed() == read(path).framed()
    assert (Streams()._secret != Streams()._secret).any()


@pytest.mark.parametrize("block", [1 << 16, 50])
@pytest.mark.parametrize("most", [2048, None])
def test_streams_that_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[tuple[int, bytes]],
                                    most: int | None, block: int) -> None:
    """Those that were silent for longest, and never one of ours: it and what is counted stay what they were."""
    monkeypatch.setattr(packets, "ROWS", block)
    monkeypatch.setattr(segments, "_ROOM", 1024)
    begins = opening(1024, b"GET /an/index/of/all HTTP/1.1")
    half, port = len(frames) // 2, 14 + 20
    scan = []
    for i in [*range(9000), 0]:  # the first one speaks again
        frame = begins[i % 2][1]
        scan.append((frames[half][0], frame[:port] + (1024 + i).to_bytes(2, "big") + frame[port + 2:]))
    (tmp_path / "x").write_bytes(files.pcap(frames[:half] + scan + frames[half:]))
    result = Read(Engine(most=most))
    collect(result, result.engine.run([str(tmp_path / "x")]))
    streams = result.engine.streams
    assert result.framed(0) == Wire(COLO).expected()
    assert [c.number for c in result.engine.ours()] == [0]
    assert streams.endpoint(9000, 0) == "10.0.0.1:10023"
    if most is None:
        assert streams.count == 9001
        assert streams.endpoint(1, 0) == "10.0.0.1:1024"
        assert result.engine.seems(2) == "HTTP"
    else:
        assert streams.count == 9002
        assert streams.endpoint(9001, 0) == "10.0.0.1:1024"
        for question in (streams.last_ns, streams.octets, result.engine.seems):
            with pytest.raises(KeyError):
                question(1)


# --- holes, acknowledgements, records without end ---------------------------------------------


def spoilt(count: int, *, acks: bool = False) -> Wire:
    """A start, and then every other octet, `count` of them; `acks`: or only ACKs of what never comes."""
    message = Message(p.FORWARD, p.LIBXL_HEADER, encode(p.LIBXL_HEADER) + encode(p.LIBXC_CONTEXT)
                      + bytes(2 * count + 2))
    wire = Wire([message], mss=24, fin=False, acks=False)
    rows = np.repeat(wire.rows[3:4], count, axis=0)
    rows["time"] += np.arange(count)
    if acks:
        rows["side"], rows["length"], rows["ack"] = 1, 0, 25 + np.arange(count)
        rows["offset"] = 0
    else:
        rows["length"], rows["offset"] = 1, 25 + 2 * np.arange(count)
    return wire.keep(np.concatenate((wire.rows[:4], rows)))


@pytest.mark.parametrize("backwards", [False, True])
def test_tiny_segments_behind_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool) -> None:
    monkeypatch.setattr(findings, "PER_RULE", 10)
    wire = spoilt(3 * streams.HELD_ROWS)
    if backwards:
        wire.rows["offset"][4:] = wire.rows["offset"][4:][::-1].copy()
    result = read(files.write(tmp_path / "x", wire))
    assert len(result.connection.stream._held[0]) <= streams.HELD_ROWS
    rules = [finding.rule for finding in result.engine.findings]
    assert rules.count("hole") == 10
    assert {"hole_given_up", "more_findings"} < set(rules)
    (more,) = (f for f in result.engine.findings if f.rule == "more_findings")
    assert f"{len(result.connection.holes) - 10} more findings" in more.text


def test_octets_that_wait_are_bounded_over_all_connections(tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "HELD_MAX", 1 << 20)
    lists = []
    for i in range(12):
        message = Message(p.FORWARD, p.LIBXL_HEADER, encode(p.LIBXL_HEADER) + bytes(400_000))
        wire = Wire([message], mss=1400, ports=(1000 + i, 7002), fin=False, acks=False)
        lists += list(files.frames(wire.keep(np.delete(wire.rows, 4))))
    (tmp_path / "x").write_bytes(files.pcap(lists))
    monkeypatch.setattr(packets, "ROWS", 64)
    read(tmp_path / "x")  # what is made once stays
    running = engine.Engine()
    tracemalloc.start()
    try:
        for _ in running.run([tmp_path / "x"]):
            pass
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sum(found.stream.held_octets for found in running.connections.values()) <= 1 << 20
    assert left < 3 << 20, "nor does anybody hold on to a block, or to what waited"
    assert "hole_given_up" in {finding.rule for finding in running.findings}


def test_acks_of_octets_that_never_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ACKS_MAX", 100)
    result = read(files.write(tmp_path / "x", spoilt(3000, acks=True)))
    assert result.connection.stream._acks.shape[1] <= 3000
    (hole,) = result.connection.holes
    assert hole.length == 3000
    assert hole.frame == 3004


@pytest.mark.parametrize("most", [50, 100_000])
def test_records_that_nobody_acknowledges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(connection, "WAITING_MAX", most)
    messages = [*COLO[:8], *[replace(COLO[0], direction=p.FORWARD, structure=p.VERIFY,
                                     octets=encode(p.VERIFY))] * 500]
    wire = Wire(messages, acks=False, fin=False)
    rows = wire.rows[(wire.rows["side"] == 0) & (wire.rows["flags"] != SYN)]
    result = read(files.write(tmp_path / "x", wire.keep(rows)))
    assert ("unacknowledged" in result.rules()) == (most == 50)
    assert len(result.records) >= 500
    assert len(result.connection._unacked[result.connection.primary_side or 0]) <= most


def test_a_rule_that_every_record_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "PER_RULE", 3)
    bad = replace(COLO[0], direction=p.FORWARD, octets=stream.record(p.OPTIONAL | 0x77, b""))
    at = next(i for i, m in enumerate(COLO) if m.structure is p.X86_TSC_INFO)
    result = read(files.write(tmp_path / "x", Wire(COLO[:at] + [bad] * 50 + COLO[at:])))
    assert [f.rule for f in result.engine.findings] == ["optional_record"] * 3 + ["more_findings"]
    assert "47 more findings of the rule optional_record" in result.engine.findings[-1].text


# --- files that lie ---------------------------------------------------------------------------


def packets_of(path: Path) -> Iterator[tuple[int, int, int, int]]:
    with Source(path) as source:
        for found in Reader(source):
            yield from zip(found.time.tolist(), found.link.tolist(), found.captured.tolist(),
                           found.wire.tolist(), strict=True)


@pytest.mark.parametrize("length", [0, 4, 11, 13, 0xFFFFFFFC, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [1, 5, 6, 0x0BAD, 0x0A0D0D0A])
def test_lengths_of_pcapng_blocks(tmp_path: Path, frames: list[tuple[int, bytes]], kind: int,
                                  length: int) -> None:
    lie = struct.pack("<IIII", kind, length, 0x1A2B3C4D, 0) + bytes(40)
    (tmp_path / "x").write_bytes(files.pcapng(frames[:5]) + lie)
    assert "damaged_file" in read(tmp_path / "x").rules()


@pytest.mark.parametrize("captured", [1 << 20, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_lengths_of_pcap_packets(tmp_path: Path, frames: list[tuple[int, bytes]], captured: int) -> None:
    lie = struct.pack("<IIII", 1, 1, captured, captured) + bytes(99)
    (tmp_path / "x").write_bytes(files.pcap(frames) + lie)
    result = read(tmp_path / "x")
    assert result.rules() == {"damaged_file"}
    assert result.framed() == Wire(COLO).expected()


def test_a_length_on_the_wire_of_4_gib_moves_no_stream(tmp_path: Path) -> None:
    """With a total length of 0 the frame's length counts, unless it is a lie."""
    octets = bytearray(files.pcap(list(files.frames(Wire(COLO), ip_length=False))))
    at = 24
    while at < len(octets):
        size = struct.unpack_from("<I", octets, at + 8)[0]
        struct.pack_into("<I", octets, at + 12, 0xFFFFFFFF)
        at += 16 + size
    (tmp_path / "x").write_bytes(octets)
    assert read(tmp_path / "x").framed() == Wire(COLO).expected()


@pytest.mark.parametrize(("resolution", "offset", "stamp"), [
    (b"\x09", 1 << 62, 1), (b"\x09", -(1 << 62), 1), (b"\x00", 0, (1 << 64) - 1),
    (b"\x80", 0, (1 << 64) - 1), (b"\x09", -5_000_000_000, 7)],
    ids=["offset", "negative offset", "seconds", "halves", "before 1970"])
def test_stamps_that_no_clock_has_are_unknown(tmp_path: Path, frames: list[tuple[int, bytes]],
                                              resolution: bytes, offset: int, stamp: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(pcapng_start(resolution=resolution, offset=offset) + b"".join(
        enhanced(stamp, frame) for _, frame in frames))
    assert {time for time, *_ in packets_of(path)} == {0}
    capture = analysis.read(path)
    assert len(capture.syncs) == 6
    assert capture.checkpoints is not None


def test_options_that_overrun(tmp_path: Path, frames: list[tuple[int, bytes]]) -> None:
    """An option longer than its block, one without an end, one of a wrong width."""
    for options in (struct.pack("<HH", 9, 60_000) + b"\x06", option(9, b"\x06\x06"), option(14, b"\1"),
                    struct.pack("<HH", 9, 1)):
        start = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) \
            + block(1, struct.pack("<HHI", 1, 0, 0) + options)
        (tmp_path / "x").write_bytes(start + b"".join(enhanced(t, frame) for t, frame in frames))
        assert read(tmp_path / "x").framed() == Wire(COLO).expected()


def test_interfaces_and_sections_without_end(tmp_path: Path, frames: list[tuple[int, bytes]],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptions between packets cut no block short, and are shared by what remembers places."""
    one = block(1, struct.pack("<HHI", 1, 0, 0) + option(9, b"\x09"))
    dropped = block(5, struct.pack("<III", 7, 0, 0) + option(5, struct.pack("<Q", 1)))
    body = b"".join(one + enhanced(t, frame, interface=i) + dropped + block(0x0BAD, b"")
                    for i, (t, frame) in enumerate(frames))
    (tmp_path / "x").write_bytes(pcapng_start(()) + body + pcapng_start() * 50 + dropped)
    result = read(tmp_path / "x")
    assert result.framed() == Wire(COLO).expected()
    assert len(result.engine.files[0].places) <= 2
    assert result.engine.files[0].drops == 1, "counted once, and not for an interface that is none"
    monkeypatch.setattr(container, "INTERFACES_MAX", 10)
    (fault,) = (f.text for f in read(tmp_path / "x").engine.findings if f.rule == "damaged_file")
    assert "more than 10 interfaces" in fault


def test_a_wrong_checksum_takes_nothing_with_it(tmp_path: Path, frames: list[tuple[int, bytes]]) -> None:
    octets = bytearray(gzip.compress(files.pcap(frames), mtime=0))
    octets[-6] ^= 1
    (tmp_path / "x.gz").write_bytes(octets)
    result = read(tmp_path / "x.gz")
    assert result.framed() == Wire(COLO).expected()
    assert result.rules() == {"damaged_file"}


def test_tiny_members_come_in_one_piece(tmp_path: Path, frames: list[tuple[int, bytes]]) -> None:
    octets = files.pcap(frames)
    (tmp_path / "x.gz").write_bytes(b"".join(
        gzip.compress(octets[i:i + 9], mtime=0) for i in range(0, len(octets), 9)))
    reads, buffer = 0, memoryview(bytearray(1 << 20))
    with Source(tmp_path / "x.gz") as source:
        while source.readinto(buffer):
            reads += 1
    assert reads <= (tmp_path / "x.gz").stat().st_size // (1 << 15) + 2
    assert read(tmp_path / "x.gz").framed() == Wire(COLO).expected()


@pytest.mark.parametrize(("window", "fits"), [(27, True), (28, False)])
def test_memory_that_a_zstd_file_asks_for(tmp_path: Path, frames: list[tuple[int, bytes]], window: int,
                                          fits: bool) -> None:
    maker = zstd().ZstdCompressor(options={zstd().CompressionParameter.window_log: window})
    octets = files.pcap(frames)
    (tmp_path / "x.zst").write_bytes(maker.compress(octets[:99]) + maker.compress(octets[99:]) + maker.flush())
    if fits:
        assert read(tmp_path / "x.zst").framed() == Wire(COLO).expected()
    else:
        with pytest.raises(CannotDo, match="128 MiB of memory; decompress it with `zstd -d --long=31`"):
            read(tmp_path / "x.zst")


# --- records that lie -------------------------------------------------------------------------


@pytest.mark.parametrize("control_id", [4, 200, 0xFFFFFFFF])
def test_an_unknown_control_id_is_a_row(tmp_path: Path, control_id: int) -> None:
    at = next(i for i, m in enumerate(COLO) if m.control_id == 0)
    messages = [*COLO[:at], replace(COLO[at], octets=encode(p.CHECKPOINT_STATE, control_id=control_id)),
                *COLO[at + 1:]]
    capture = analysis.read(files.write(tmp_path / "x", Wire(messages)))
    assert len(capture.records) == len(COLO)
    assert len(capture.syncs) == 5


def test_a_record_of_4_gib_that_is_not_there(tmp_path: Path) -> None:
    """It is truncated; nobody makes room for it."""
    head = bytearray(encode(p.XL_HEADER, mandatory_flags=3, config=b"{}"))
    head[44:48] = b"\xff\xff\xff\xff"
    messages = [replace(m, octets=bytes(head)) if m.structure is p.XL_HEADER else m for m in COLO]
    records = read(files.write(tmp_path / "x", Wire(messages))).records
    (record,) = (r for r in records if r.structure is p.XL_HEADER)
    assert (record.status, record.length > 1 << 32) == ("truncated", True)
    assert record.read() is None
    assert any("are not shown" in line for line in explain(record))


def test_what_is_not_shown_is_not_made(tmp_path: Path) -> None:
    texts = [b"k%d" % i for i in range(4000)]
    messages = [replace(m, octets=encode(m.structure, emulator_id=2, index=0, pairs=texts))
                if m.structure is p.EMULATOR_XENSTORE_DATA else m for m in COLO]
    records = read(files.write(tmp_path / "x", Wire(messages))).records
    record = next(r for r in records if r.structure is p.EMULATOR_XENSTORE_DATA)
    assert "… 1992 more" in "\n".join(explain(record))
    assert sum(" = " in line for line in explain(record)) == 8
    assert sum(" = " in line for line in explain(record, every=True)) == 2000


@pytest.mark.parametrize("here", range(8, 34))
def test_words_of_a_record_that_is_cut_anywhere(here: int) -> None:
    whole = encode(p.PAGE_DATA, pfn=[5, 6])
    found = words(p.PAGE_DATA, whole[:here], LITTLE_ENDIAN, 2)
    assert found is not None
    assert found.tolist() == [5, 6][:max(0, here - 16) // 8]


@pytest.mark.parametrize("distance", [40, 0, -(1 << 27), 1 << 29, -(1 << 29)])
def test_octets_in_front_of_a_syn_that_comes_late(distance: int) -> None:
    """What lies in front of the SYN, or far beyond it, is not of the stream that it opens; ranges
    still follow each other."""
    rows = np.zeros((3, COLUMNS), np.int64)
    for i, (sequence, flags, length) in enumerate((
            ((5000 + distance) & 0xFFFFFFFF, ACK, 40), (4999, SYN | ACK, 0), (5000, ACK, 40))):
        # Long after the SYN: a hole of no octets is none.
        rows[i, [SEQUENCE, FLAGS, LENGTH, CAPTURED, SEGMENT_FRAME, SEGMENT_TIME]] = (
            sequence, flags, length, length, 1 + i, i * 10**12 + 1)
    following = Stream()
    ranges = [tuple(row[[OFFSET, SIZE]]) for run in (following.feed(rows, np.zeros(99, np.uint8)), following.finish())
              for row in run[0].rows]
    assert ranges == ([(0, 40), (40, 40)] if distance == 40 else [(0, 40)])
    assert following.counts(0)[0] == (distance not in (0, 40))
