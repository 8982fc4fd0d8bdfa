# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture files of every kind give the same records; files that are none say so in one line."""

from __future__ import annotations

import gzip
import os
import random
import struct
import threading
from pathlib import Path

import pytest

from analysis.verify import verified
from dissector.blocks import read_blocks
from dissector.errors import CannotDo
from dissector.headers import CUT, FRAGMENT, NOT_TCP, POSITION, WHY
from dissector.packets import Packets
from dissector.protocol import HEADER_LANDMARKS, Structure
from dissector.record import Record
from dissector.segments import Streams
from dissector.source import SourceError
from tests.helpers import Read, collect, read
from tests.synthesiser import files, stream
from tests.synthesiser.files import compress_zstd
from tests.synthesiser.wire import Wire

SIX = ("fd00::1", "fd00::2")


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(stream.colo(2))


@pytest.fixture(scope="module")
def packets(wire: Wire) -> list[tuple[int, bytes]]:
    return list(files.frames(wire))


def stamps(result: Read) -> list[int]:
    return sorted(r.delivered_ns for r in result.records)


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("link", files.LINKTYPES)
@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng.gz"])
def test_link_types(tmp_path: Path, link: str, name: str, ends: tuple[str, str]) -> None:
    wire = Wire(stream.colo(1), ends=ends)
    result = read(files.write(tmp_path / name, wire, link))
    assert result.framed() == wire.expected()
    assert result.rules() <= {"tunnelled"}
    assert ("tunnelled" in result.rules()) == (link in ("vxlan", "gre", "gretap", "ipip"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nanoseconds", [True, False])
def test_pcap_byte_orders_and_resolutions(tmp_path: Path, wire: Wire, order: str,
                                          packets: list[tuple[int, bytes]],
                                          nanoseconds: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(files.pcap(packets, order=order, nanoseconds=nanoseconds))
    result = read(path)
    assert result.framed() == wire.expected()
    unit = 1 if nanoseconds else 1000
    assert all(t % unit == 0 for t in stamps(result))
    path.write_bytes(files.pcap(packets))
    assert [t // unit for t in stamps(read(path))] == [t // unit for t in stamps(result)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("resolution", "units", "exact"), [
    (b"\x09", lambda t: t, 1), (b"\x06", lambda t: t // 1000, 1000),
    (b"\x0c", lambda t: t * 1000, 1), (b"\x03", lambda t: t // 1_000_000, 1_000_000),
    (b"\xa0", lambda t: (t << 32) // 10**9, 2), (b"\x94", lambda t: (t << 20) // 10**9, 1000)])
def test_pcapng_resolutions(tmp_path: Path, packets: list[tuple[int, bytes]], order: str,
                            resolution: bytes, units, exact: int) -> None:  # type: ignore[no-untyped-def]
    # ps since 1970 do not fit into 64 bits: such a capture counts from an offset.
    offset = 1_795_000_000 if resolution == b"\x0c" else 0
    path = tmp_path / "x.pcapng"
    path.write_bytes(files.pcapng_start(order=order, resolution=resolution, offset=offset)
                     + b"".join(files.enhanced(units(t - offset * 10**9), frame, order=order)
                                for t, frame in packets))
    whole = tmp_path / "whole.pcap"
    whole.write_bytes(files.pcap(packets))
    for mine, true in zip(stamps(read(path)), stamps(read(whole)), strict=True):
        assert 0 <= true - mine < exact


def test_pcapng_of_many_parts(tmp_path: Path, wire: Wire, packets: list[tuple[int, bytes]]) -> None:
    """Sections of both orders, two interfaces of different kinds, old and simple packet blocks,
    blocks nobody asked for, statistics."""
    raw = list(files.frames(wire, "raw"))
    third = len(packets) // 3
    out = files.pcapng_start((101, 1))
    for i in range(third):
        (time, ethernet), (_, ip) = packets[i], raw[i]
        out += files.enhanced(time, ip) if i % 2 else files.enhanced(time, ethernet, interface=1)
        out += files.block(0x0BAD, b"unknown block" * i)
    out += files.block(5, struct.pack("<III", 0, 0, 0) + files.option(5, struct.pack("<Q", 3))
                       + files.option(0, b""))
    out += files.pcapng_start((1,), order=">")
    for time, frame in packets[third:2 * third]:
        out += files.block(2, struct.pack(">HHIIII", 0, 7, time >> 32, time & 0xFFFFFFFF,
                                          len(frame), len(frame)) + frame, ">")
    out += files.pcapng_start((1,))
    for _, frame in packets[2 * third:]:
        out += files.block(3, struct.pack("<I", len(frame)) + frame)
    path = tmp_path / "x.pcapng"
    path.write_bytes(out)
    result = read(path)
    assert result.framed() == wire.expected()
    assert result.rules() == {"capture_drops"}
    assert result.engine.files[0].drops == 3


@pytest.mark.parametrize("compress", [gzip.compress, compress_zstd, bytes])
def test_stdin_and_compression(wire: Wire, packets: list[tuple[int, bytes]], compress,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    octets = compress(files.pcapng(packets))
    out, into = os.pipe()

    def feed() -> None:
        for at in range(0, len(octets), 1013):
            os.write(into, octets[at:at + 1013])
        os.close(into)

    writer = threading.Thread(target=feed)
    writer.start()
    with os.fdopen(out, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        result = read("-")
    writer.join()
    assert result.framed() == wire.expected()
    blob = next(r for r in result.records if r.name == "EMULATOR_CONTEXT")
    assert blob.octets_missing
    assert result.engine.read_octets(blob) is None, "a pipe cannot be read again"


def test_compressed_members_behind_each_other(tmp_path: Path, wire: Wire,
                                              packets: list[tuple[int, bytes]]) -> None:
    octets = files.pcap(packets)
    for name, compress in (("x.gz", gzip.compress), ("x.zst", compress_zstd)):
        path = tmp_path / name
        path.write_bytes(compress(octets[:5000]) + compress(octets[5000:]))
        assert read(path).framed() == wire.expected()


def test_a_ring_of_files_is_one_capture(tmp_path: Path, wire: Wire,
                                        packets: list[tuple[int, bytes]]) -> None:
    paths = []
    for i, begin in enumerate(range(0, len(packets), 20)):
        paths.append(tmp_path / f"ring_{i:05}.pcapng")
        paths[-1].write_bytes(files.pcapng(packets[begin:begin + 20]))
    result = read(*paths)
    assert result.framed() == wire.expected()
    last = max(r.frame for r in result.records)
    assert result.engine.file_frame(last) == (str(paths[(last - 1) // 20]), (last - 1) % 20 + 1)
    blob = next(r for r in result.records if r.name == "EMULATOR_CONTEXT")
    assert len(result.engine.read_octets(blob) or b"") == blob.length


def test_total_length_zero_under_offloading(tmp_path: Path) -> None:
    for ends in (("10.0.0.1", "10.0.0.2"), SIX):
        wire = Wire(stream.colo(1), mss=60_000, ends=ends)
        path = tmp_path / "x.pcap"
        if ends == SIX:
            frames = [(t, f[:18] + b"\0\0" + f[20:]) for t, f in files.frames(wire)]
        else:
            frames = list(files.frames(wire, ip_length=False))
        path.write_bytes(files.pcap(frames))
        assert read(path).framed() == wire.expected()


def test_ip_options_and_extension_headers(tmp_path: Path) -> None:
    four = Wire(stream.colo(1))
    frames = [(t, f[:14] + b"\x46" + f[15:16] + struct.pack("!H", len(f) - 14 + 4) + f[18:34]
               + b"\1\1\1\0" + f[34:]) for t, f in files.frames(four)]
    (tmp_path / "4").write_bytes(files.pcap(frames))
    assert read(tmp_path / "4").framed() == four.expected()
    six = Wire(stream.colo(1), ends=SIX)
    options = b"\x3c\0" + bytes(6) + b"\x06\1" + bytes(14)
    frames = [(t, f[:18] + struct.pack("!H", len(f) - 54 + len(options)) + b"\0" + f[21:54]
               + options + f[54:]) for t, f in files.frames(six)]
    (tmp_path / "6").write_bytes(files.pcap(frames))
    assert read(tmp_path / "6").framed() == six.expected()


def test_what_could_hide_a_stream_is_a_finding(tmp_path: Path, wire: Wire,
                                               packets: list[tuple[int, bytes]]) -> None:
    mpls = [(t, f[:12] + b"\x88\x47\0\0\1\xff" + f[14:]) for t, f in packets]
    fragments = [(t, f[:20] + b"\x20\0" + f[22:]) for t, f in packets]
    esp = [(t, f[:23] + b"\x32" + f[24:]) for t, f in packets]
    for frames, rule in ((mpls, "opaque_tunnel"), (fragments, "ip_fragment"),
                         (esp, "opaque_tunnel"), ([(t, f[:40]) for t, f in packets], "cut_headers")):
        (tmp_path / "x").write_bytes(files.pcap(frames))
        assert rule in read(tmp_path / "x").rules()
    (tmp_path / "x").write_bytes(files.pcap(packets, 147))
    assert read(tmp_path / "x").rules() == {"unknown_link"}


def test_headers_are_read_alike_with_and_without_a_vlan_tag(tmp_path: Path, packets: list[tuple[int, bytes]]) -> None:
    """Frames without one are mostly read a shorter way: whole, damaged anywhere in their headers, and cut."""
    rng = random.Random(6)

    def damaged(frame: bytes) -> bytes:
        octets = bytearray(frame)
        for _ in range(rng.randrange(3)):
            octets[rng.randrange(14, 54)] ^= 1 << rng.randrange(8)
        return bytes(octets[:rng.choice((len(octets), len(octets), rng.randrange(14, 70)))])

    plain = [(t, damaged(frame)) for t, frame in packets[:200] * 20]
    tagged = [(t, frame[:12] + b"\x81\0\0\7" + frame[12:]) for t, frame in plain]
    found = []
    for frames, tag in ((plain, 0), (tagged, 4)):
        (tmp_path / "x").write_bytes(files.pcap(frames))
        blocks = read_blocks([tmp_path / "x"])
        rows = [[*ends, *(part[:POSITION]), part[POSITION] - packet - tag, *part[POSITION + 1:WHY]]
                if not part[WHY] else part[WHY]
                for block in blocks if isinstance(block, Packets)
                for ends, part, packet in zip(block.headers.ends.tolist(), block.headers.rows.tolist(),
                                              block.position.tolist(), strict=True)]
        found.append(rows)
    assert found[0] == found[1]
    assert {0, FRAGMENT, CUT, NOT_TCP} <= {row if isinstance(row, int) else 0 for row in found[0]}


def test_a_capture_that_ends_early_gives_what_is_there(tmp_path: Path, wire: Wire,
                                                       packets: list[tuple[int, bytes]]) -> None:
    octets = files.pcap(packets)
    for cut in (octets[:-7], octets + b"\xff" * 40, gzip.compress(octets)[:-9],
                compress_zstd(octets[:20_000]) + compress_zstd(octets[20_000:])[:-9]):
        (tmp_path / "x").write_bytes(cut)
        result = read(tmp_path / "x")
        assert "damaged_file" in result.rules()
        whole = {(r.direction, r.stream_offset, r.full_name, r.length)
                 for r in result.records if r.status == "complete"}
        assert whole <= set(wire.expected())
        assert len(whole) >= 10


@pytest.mark.parametrize(("octets", "says"), [
    (b"", "empty"), (b"\xd4\xc3\xb2\xa1\0", "not a capture"), (b"root:x:0:0:root\n" * 9, "not a capture"),
    (b"BZh91AY" + bytes(40), "bzip2"), (bytes(99), "zeros"),
    (gzip.compress(b"hello"), "not a capture"), (b"\x1f\x8b" + b"rubbish" * 9, "damaged"),
    (compress_zstd(b"x" * 99), "not a capture")],
    # gzip's header holds the time: names of tests must not.
    ids=["nothing", "cut short", "text", "bzip2", "zeros", "gzip", "broken gzip", "zstd"])
def test_no_capture_is_one_clear_line(tmp_path: Path, octets: bytes, says: str) -> None:
    path = tmp_path / "it"
    path.write_bytes(octets)
    with pytest.raises(SourceError, match=says) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("structure", HEADER_LANDMARKS, ids=lambda structure: structure.full_name)
def test_a_stream_is_no_capture(structure: Structure, tmp_path: Path) -> None:
    path = tmp_path / "it"
    for octets in (structure.magic + bytes(40), structure.magic[:8]):
        path.write_bytes(octets)
        with pytest.raises(SourceError, match=rf"\({structure.full_name}\); `coloscope verify`"):
            read(path)
    with pytest.raises(CannotDo, match="no migration stream begins here"):  # who followed it wants other advice
        verified([str(path)])
    for octets in (structure.magic[:7] + b"?" + structure.magic[8:] + bytes(40), structure.magic[:7]):
        path.write_bytes(octets)
        with pytest.raises(SourceError, match="neither pcap"):
            read(path)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(SourceError, match="is a directory"):
        read(tmp_path)


def test_many_connections_at_once(tmp_path: Path) -> None:
    """More than the tables hold at first: they grow, and every connection keeps its number."""
    wires = [Wire(stream.plain(stream.Guest(memory=2, seed=i)), ports=(20_000 + i, 7002),
                  start=1_795_000_000_000_000_000 + i * 7919) for i in range(40)]
    result = read(files.write(tmp_path / "x.pcap", wires))
    assert len(result.engine.ours()) == 40
    for i, wire in enumerate(wires):
        assert result.framed(i) == wire.expected()


def test_thousands_of_other_connections(tmp_path: Path) -> None:
    scan = Wire([], fin=False)
    scan.rows = scan.rows[:1]
    frames = []
    for i in range(5000):
        scan.ports = (1024 + i, 80)
        frames += list(files.frames(scan))
    ours = Wire(stream.colo(1))
    (tmp_path / "x").write_bytes(files.pcap(frames + list(files.frames(ours))))
    result = read(tmp_path / "x")
    assert result.engine.streams.count == 5001
    assert isinstance(result.engine.streams, Streams)
    assert result.connection.number == 5000
    assert result.framed() == ours.expected()


def test_events_come_while_the_file_is_read(tmp_path: Path, wire: Wire) -> None:
    from dissector.engine import Engine

    result = Read(Engine())
    events = result.engine.run([files.write(tmp_path / "x.pcap", wire)])
    assert isinstance(next(events), Record)
    collect(result, events)
    assert len(result.syncs) == 2 + 2 * 4


def test_linux_vxlan_port(tmp_path: Path) -> None:
    wire = Wire(stream.colo(1))
    frames = [(t, f[:36] + (8472).to_bytes(2, "big") + f[38:]) for t, f in files.frames(wire, "vxlan")]
    (tmp_path / "x").write_bytes(files.pcap(frames))
    assert read(tmp_path / "x").framed() == wire.expected()


def test_stamps_that_need_all_64_bits(tmp_path: Path, packets: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(files.pcapng_start(resolution=b"\x0a") + b"".join(
        files.enhanced(t * 10, frame) for t, frame in packets))
    plain = tmp_path / "x.pcap"
    plain.write_bytes(files.pcap(packets))
    assert stamps(read(path)) == stamps(read(plain))


def test_packets_without_a_time(tmp_path: Path, wire: Wire, packets: list[tuple[int, bytes]]) -> None:
    """Simple packet blocks have none: records are there, latencies are not."""
    import analysis

    path = tmp_path / "x.pcapng"
    path.write_bytes(files.pcapng_start() + b"".join(
        files.block(3, struct.pack("<I", len(frame)) + frame) for _, frame in packets))
    assert read(path).framed() == wire.expected()
    capture = analysis.read(path)
    assert (capture.latency()["count"] == 0).all()
    assert set(capture.pairs["reason"]) == {"no_time"}
    assert capture.records["delivered"].isna().all()
    assert len(capture.checkpoints) == 3


def test_snap_and_llc(tmp_path: Path) -> None:
    wire = Wire(stream.colo(1), mss=1400)
    frames = [(t, f[:12] + (len(f) - 6).to_bytes(2, "big") + b"\xaa\xaa\x03\0\0\0" + f[12:])
              for t, f in files.frames(wire)]
    (tmp_path / "x").write_bytes(files.pcap(frames))
    assert read(tmp_path / "x").framed() == wire.expected()
