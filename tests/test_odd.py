# SPDX-License-Identifier: GPL-2.0-or-later
"""Odd, but real: what links and captures do to a stream that is in order; the result is that of the
stream without it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from dissector.source import Source
from tests.helpers import PCAPS, Read, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import ACK, FIN, PSH, RST, Wire

SMALL = Guest(memory=2, holes=1, dirty=1, emulator=60)
Frames = list[tuple[int, bytes]]
IP = 14


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(stream.colo(2, SMALL), mss=700)


def from_frames(tmp_path: Path, packets: Frames) -> Read:
    (tmp_path / "x.pcap").write_bytes(files.pcap(packets))
    return read(tmp_path / "x.pcap")


def assert_whole(result: Read, wire: Wire) -> None:
    """Every record is there, every sync-point in order, and nothing is missing."""
    assert result.framed() == wire.expected()
    assert {record.status for record in result.records} == {"complete"}
    assert {sync.status for sync in result.syncs} == {"ok"}
    assert not any(record.after_gap for record in result.records)
    assert not result.connection.holes


def inserted(wire: Wire, before: int, **values: int) -> Wire:
    """One more segment, like the one that it stands in front of, but for these values."""
    row = wire.rows[before:before + 1].copy()
    for name, value in values.items():
        row[name] = value
    return wire.keep(np.concatenate((wire.rows[:before], row, wire.rows[before:])))


# --- one end is odd ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("place", [5, 25, 45])
def test_reset_and_more_data(tmp_path: Path, wire: Wire, side: int, place: int) -> None:
    """A RST of somebody else (a firewall, an earlier connection), with and without a text."""
    for length in (0, 20):
        odd = inserted(wire, place, side=side, flags=RST, length=length)
        assert_whole(read(files.write(tmp_path / "x.pcap", odd)), wire)


@pytest.mark.parametrize("late", [1, 3, 6])
def test_fin_in_front_of_the_last_data(tmp_path: Path, wire: Wire, late: int) -> None:
    """The FIN overtakes the last segments, or is repeated behind the end."""
    rows = wire.rows
    fin = np.flatnonzero((rows["flags"] & FIN > 0) & (rows["side"] == 0))[0]
    data = wire.data_rows()[rows["side"][wire.data_rows()] == 0]
    order = np.arange(len(rows), dtype=float)
    order[fin] = data[-late] - 0.5
    for extra in ((), (fin, fin)):
        odd = wire.keep(rows[[*np.argsort(order), *extra]])
        assert_whole(read(files.write(tmp_path / "x.pcap", odd)), wire)


@pytest.mark.parametrize("length", [0, 1])
def test_keep_alives(tmp_path: Path, wire: Wire, length: int) -> None:
    """None or one octet, any octet, at the last number that was acknowledged; and its answer."""
    odd, packets = wire, list(files.frames(wire))
    expected = read(files.write(tmp_path / "x.pcap", wire))
    quiet = [int(i) for i in wire.data_rows() if wire.rows["offset"][i] > 0][::5]
    out: Frames = []
    for i, packet in enumerate(packets):
        if i in quiet:
            row = wire.rows[i:i + 1].copy()
            row["offset"] -= 1
            row["length"], row["flags"] = length, ACK
            probe = wire.keep(row)
            probe.streams = dict.fromkeys(wire.streams, b"\xff" * len(wire.streams["forward"]))
            out += files.frames(probe)
        out.append(packet)
    result = from_frames(tmp_path, out)
    assert len(out) == len(odd.rows) + len(quiet)
    assert_whole(result, wire)
    assert [s.point for s in result.syncs] == [s.point for s in expected.syncs]


def test_zero_window_probes(tmp_path: Path, wire: Wire) -> None:
    """The next octet alone, refused (the window is shut), and then sent again with the rest."""
    probed = wire
    for at in (40, 30, 20):
        i = next(int(i) for i in probed.data_rows() if i >= at and probed.rows["length"][i] > 1)
        refusal = {"side": 1 - int(probed.rows["side"][i]), "length": 0, "flags": ACK,
                   "ack": int(probed.rows["offset"][i]), "offset": int(probed.rows["ack"][i])}
        probed = inserted(inserted(probed, i, **refusal), i, length=1)
    assert len(probed.rows) == len(wire.rows) + 6
    assert_whole(read(files.write(tmp_path / "x.pcap", probed)), wire)


# --- other connections ------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1 << 27, 1 << 29, (1 << 30) - 5000, 1 << 30, -(1 << 30), 1 << 31])
def test_stale_segments_of_an_earlier_connection(tmp_path: Path, wire: Wire, distance: int) -> None:
    """Data, ACKs and FINs with numbers far from the stream's are left out and counted."""
    packets = list(files.frames(wire))
    old = wire.keep(wire.rows[wire.data_rows()[:3:2]])
    old.isn = tuple((isn + distance) & 0xFFFFFFFF for isn in wire.isn)  # type: ignore[assignment]
    for flags in (ACK | PSH, ACK | FIN):
        old.rows["flags"] = flags
        result = from_frames(tmp_path, [*packets[:12], *files.frames(old), *packets[12:]])
        assert_whole(result, wire)
        assert "stale_segments" in result.rules()


@pytest.mark.parametrize("distance", [100 << 20, 1 << 30, 5 << 29])
def test_a_capture_that_lost_very_much(tmp_path: Path, wire: Wire, distance: int) -> None:
    """The stream goes on far away: one hole, and after a few segments what follows is read."""
    lists = [m for m in wire.messages if m.direction == "forward"]
    at = next(i for i, m in enumerate(lists) if m.structure.name == "CHECKPOINT_END")
    later = wire.keep(wire.rows[wire.rows["side"] == 0])
    offset = sum(len(m.octets) for m in lists[:at])
    before = later.keep(later.rows[later.rows["offset"] < offset])
    behind = later.keep(later.rows[later.rows["offset"] >= offset])
    behind.isn = ((wire.isn[0] + distance) & 0xFFFFFFFF, wire.isn[1])
    result = from_frames(tmp_path, [*files.frames(before), *files.frames(behind)])
    (hole,) = result.connection.holes
    assert hole.offset <= offset
    assert distance <= hole.length < distance + 3 * 1448
    stream_of = result.connection.stream
    assert stream_of.passed(result.connection.primary_side or 0) == len(wire.streams["forward"]) + distance


def test_ports_used_again(tmp_path: Path, wire: Wire) -> None:
    """A migration, and COLO on the same ports behind it; late segments of the first in the second."""
    first = Wire(stream.plain(SMALL), isn=(5, 9), mss=700)
    again = Wire(stream.colo(1, SMALL), isn=(2_000_000_000, 3_000_000_000), mss=700,
                 start=int(first.rows["time"][-1]) + 10)
    packets, late = list(files.frames(again)), list(files.frames(first))[-3:]
    result = from_frames(tmp_path, [*files.frames(first), *packets[:9], *late, *packets[9:]])
    assert result.framed(0) == first.expected()
    assert result.framed(1) == again.expected()


def test_none_of_ours(tmp_path: Path) -> None:
    """Connections without a single octet, or with octets of something else, and nothing of ours."""
    silent = Wire([])
    web = Wire(stream.plain(SMALL), ports=(40_001, 80))
    web.streams = {"forward": b"GET / HTTP/1.1\r\n" * 3000, "back": b"HTTP/1.1 200\r\n\r\n" * 9}
    result = from_frames(tmp_path, files.merged([silent, web]))
    assert not result.records
    assert not result.engine.ours()
    assert [result.engine.seems(number) for number in (0, 1)] == ["no data", "HTTP"]
    assert result.engine.streams.count == 2


def test_much_other_traffic_around(tmp_path: Path, wire: Wire) -> None:
    """Between any two of our frames others, of many connections; frame numbers count them all."""
    noise: Frames = []
    for i in range(len(wire.rows)):
        other = Wire(stream.plain(Guest(memory=1)), ports=(1024 + i % 60, 443), isn=(i, i))
        other.streams = dict.fromkeys(other.streams, b"\x16\x03\x01noise" * 2000)
        noise += list(files.frames(other.keep(other.rows[[0, 3, 4]])))
    packets = list(files.frames(wire))
    mixed = [packet for i, mine in enumerate(packets) for packet in (*noise[3 * i:3 * i + 3], mine)]
    alone, result = from_frames(tmp_path, packets), from_frames(tmp_path, mixed)
    assert_whole(result, wire)
    key = ("direction", "stream_offset")
    frames = {tuple(getattr(r, k) for k in key): r.frame for r in alone.records}
    assert {tuple(getattr(r, k) for k in key): r.frame // 4 for r in result.records} == frames


# --- the capture is odd -----------------------------------------------------------------------


def test_a_clock_that_steps_back(tmp_path: Path, wire: Wire) -> None:
    """Order is that of the capture, time is that of the frame; latencies may be negative."""
    packets = list(files.frames(wire))
    new = next(s.record.frame for s in from_frames(tmp_path, packets).syncs if s.point.control_id == 0)
    back = [(t - 200_000_000 if i >= new else t, frame) for i, (t, frame) in enumerate(packets)]
    result = from_frames(tmp_path, back)
    assert_whole(result, wire)
    assert "clock_back" in result.rules()
    capture = analysis.read(tmp_path / "x.pcap")
    first = capture.pairs[capture.pairs["from"] == "NEW"].iloc[0]
    assert first["latency"] == pd.Timedelta(messages_apart(wire) - 200_000_000, "ns")


def messages_apart(wire: Wire) -> int:
    """ns from the first NEW to the SVM_SUSPENDED that answers it."""
    new, suspended = (next(m for m in wire.messages if m.control_id == i) for i in (0, 1))
    rows = [wire.rows[(wire.rows["side"] == side) & (wire.rows["offset"] == offset) & (wire.rows["length"] > 0)]
            for side, offset in ((0, offset_of(wire, new)), (1, offset_of(wire, suspended)))]
    return int(rows[1]["time"][0] - rows[0]["time"][0])


def offset_of(wire: Wire, message: Message) -> int:
    same = [m for m in wire.messages if m.direction == message.direction]
    return sum(len(m.octets) for m in same[:next(i for i, m in enumerate(same) if m is message)])


def tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\0\0\5" + frame[12:]


def routed(frame: bytes) -> bytes:
    """The other side of a router or a bridge: other MAC addresses, a hop less."""
    return b"\2\0\0\0\0\7\2\0\0\0\0\x08" + frame[12:IP + 8] + bytes((frame[IP + 8] - 1,)) + frame[IP + 9:]


SIDES: dict[str, Callable[[bytes], bytes]] = {
    "the same": lambda frame: frame, "tagged": tagged, "routed": routed,
    "tagged and routed": lambda frame: tagged(routed(frame))}


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("other", SIDES)
def test_both_sides_of_a_bridge(tmp_path: Path, wire: Wire, other: str, gap: int) -> None:
    """Every packet twice, at once or some packets later: the first one counts."""
    packets = list(files.frames(wire))
    doubled: Frames = []
    for i, (time, frame) in enumerate(packets):
        doubled.append((time, frame))
        if i >= gap:
            doubled.append((time + 500, SIDES[other](packets[i - gap][1])))
    alone, result = from_frames(tmp_path, packets), from_frames(tmp_path, doubled)
    assert_whole(result, wire)
    assert [(s.record.delivered_ns, s.record.first_seen_ns) for s in result.syncs] == [
        (s.record.delivered_ns, s.record.first_seen_ns) for s in alone.syncs]
    # ... and an ACK twice is the first of both.
    assert [s.record.acked_ns for s in result.syncs] == [s.record.acked_ns for s in alone.syncs]


def records_of(path: Path) -> Frames:
    """(time, frame) of each packet of a little-endian microsecond pcap."""
    with Source(path) as source:
        octets = bytearray()
        piece = memoryview(bytearray(1 << 20))
        while n := source.readinto(piece):
            octets += piece[:n]
    unit = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}[struct.unpack_from("<I", octets)[0]]
    at, found = 24, []
    while at < len(octets):
        seconds, rest, size, _ = struct.unpack_from("<IIII", octets, at)
        found.append((seconds * 1_000_000_000 + rest * unit, bytes(octets[at + 16:at + 16 + size])))
        at += 16 + size
    return found


@pytest.fixture(scope="module")
def run_of_both() -> tuple[Frames, Frames]:
    """The captures of both hosts of one run."""
    a, b = (records_of(PCAPS / f"colo-hvm-dirty.{end}.pcap.zst") for end in "AB")
    return a, b


def syncs_of(capture: analysis.Capture) -> pd.DataFrame:
    return capture.export("syncs")[["checkpoint", "control_id", "name", "sender", "direction",
                                    "stream_offset", "status"]]


def test_the_captures_of_both_hosts_merged(tmp_path: Path, run_of_both: tuple[Frames, Frames]) -> None:
    """The same sync-points as in one of them, each at its first time in the merged file."""
    a, b = run_of_both
    (tmp_path / "ab.pcap").write_bytes(files.pcap(sorted(a + b, key=lambda packet: packet[0])))
    both = analysis.read(tmp_path / "ab.pcap")
    alone = [analysis.read(PCAPS / f"colo-hvm-dirty.{end}.pcap.zst") for end in "AB"]
    assert len(both.engine.ours()) == 1
    for one in alone:
        pd.testing.assert_frame_equal(syncs_of(both), syncs_of(one))
    first = np.minimum(*(one.export("syncs")["first_seen_ns"] for one in alone))
    assert (both.export("syncs")["first_seen_ns"] == first).all()
    assert (both.export("syncs")["delivered_ns"] <= np.minimum(
        *(one.export("syncs")["delivered_ns"] for one in alone)) + 1_000_000).all()
    assert not both.connections["holes"].any()


def test_mergecap_gives_the_same(tmp_path: Path, run_of_both: tuple[Frames, Frames]) -> None:
    if not shutil.which("mergecap"):
        pytest.skip("needs mergecap")
    names = []
    for end, packets in zip("AB", run_of_both, strict=True):
        names.append(tmp_path / f"{end}.pcap")
        names[-1].write_bytes(files.pcap(packets))
    subprocess.run(["mergecap", "-w", tmp_path / "merged.pcapng", *names], check=True)
    merged = analysis.read(tmp_path / "merged.pcapng")
    alone = analysis.read(PCAPS / "colo-hvm-dirty.A.pcap.zst")
    pd.testing.assert_frame_equal(syncs_of(merged), syncs_of(alone))
