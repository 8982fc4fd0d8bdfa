# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP: whatever happens to the segments, the same octets give the same records."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissector.octets import InFile, Passing
from dissector.streams import NO_ACKS, Run
from tests.helpers import Read, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import ACK, FIN, RST, SYN, Wire, lose, repeat, shuffle

SMALL = Guest(memory=3, holes=2, dirty=1, emulator=60, page=bytes(4096))
KINDS: dict[str, Callable[[Guest], list[Message]]] = {
    "colo": lambda guest: list(stream.colo(2, guest)),
    "remus": lambda guest: list(stream.remus(2, guest)),
    "plain": lambda guest: list(stream.plain(guest)),
}


def through_a_file(wire: Wire) -> Read:
    with tempfile.TemporaryDirectory() as folder:
        return read(files.write(Path(folder) / "x.pcap", wire))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), mss=st.integers(1, 3000),
       trouble=st.sampled_from(["none", "lose", "repeat", "shuffle", "all"]),
       seed=st.integers(0, 1 << 30), isn=st.sampled_from([(5, 9), (2**32 - 9000, 2**32 - 30)]),
       order=st.sampled_from(["little", "big"]), version=st.sampled_from([2, 3]),
       xl=st.booleans(), shifted=st.booleans())
def test_any_segmentation_and_any_trouble(kind: str, mss: int, trouble: str, seed: int,
                                          isn: tuple[int, int], order: str, version: int, xl: bool,
                                          shifted: bool) -> None:
    guest = Guest(memory=3, holes=2, dirty=1, emulator=60, page=bytes(4096), order=order,
                  version=version, xl=xl, shifted=shifted, seed=seed)
    # One octet a segment is tested on the framing itself; here it would be 20,000 frames.
    wire = Wire(KINDS[kind](guest), mss=max(mss, 40), isn=isn)
    rng = np.random.default_rng(seed)
    if trouble in ("lose", "all"):
        wire = lose(wire, rng, 0.1)
    if trouble in ("repeat", "all"):
        wire = repeat(wire, rng, 0.2)
    if trouble in ("shuffle", "all"):
        wire = shuffle(wire, rng)
    result = through_a_file(wire)
    assert result.framed() == wire.expected()
    assert {r.status for r in result.records} == {"complete"}
    assert not {r.after_gap for r in result.records} - {False}


def test_times_come_from_the_frames_that_first_show_octets() -> None:
    """Delivered when the last missing octet has passed; duplicates move nothing."""
    wire = Wire(stream.colo(1, SMALL), mss=500)
    rows = wire.rows
    expected = wire.expected()
    shuffled = repeat(lose(wire, np.random.default_rng(3), 0.2), np.random.default_rng(4), 0.3)
    for case in (wire, shuffled):
        rows = case.rows
        for record in through_a_file(case).records:
            side = 0 if record.direction == "forward" else 1
            mine = np.flatnonzero((rows["side"] == side) & (rows["length"] > 0))
            begin, end = record.stream_offset, record.end

            starts, sizes = rows["offset"][mine], rows["length"][mine]

            def first_with(octet: int, mine: np.ndarray = mine, starts: np.ndarray = starts,
                           sizes: np.ndarray = sizes) -> int:
                return int(mine[(starts <= octet) & (starts + sizes > octet)][0]) + 1

            assert record.first_frame == first_with(begin)
            assert record.last_frame == first_with(end - 1)
            assert record.frame == max(first_with(octet) for octet in range(0, end, 20))\
                or record.frame == max(first_with(octet) for octet in range(end))
            assert record.delivered_ns == rows["time"][record.frame - 1]
            acks = np.flatnonzero((rows["side"] != side) & (rows["flags"] & ACK > 0)
                                  & (rows["ack"] >= end))
            assert record.acked_frame == acks[0] + 1
        assert len(expected)


def test_a_hole_is_known_and_stepped_over(tmp_path: Path) -> None:
    """Octets that never come, inside page contents: every record is there, one has a gap."""
    guest = Guest(memory=8, batch=8)
    wire = Wire(stream.colo(2, guest), mss=1000)
    lost = next(i for i in wire.data_rows() if wire.rows["side"][i] == 0
                and wire.rows["offset"][i] > 3000)
    holed = wire.keep(np.delete(wire.rows, lost))
    result = read(files.write(tmp_path / "x.pcap", holed))
    assert result.framed() == wire.expected()
    (hole,) = result.connection.holes
    row = wire.rows[lost]
    assert (hole.side, hole.offset, hole.length) == (
        result.connection.side("forward"), row["offset"], row["length"])
    assert result.rules() == {"hole"}
    gaps = [r for r in result.records if r.status == "gap"]
    assert [(r.name, r.after_gap) for r in gaps] == [("PAGE_DATA", True)]
    assert gaps[0].stream_offset < row["offset"] < gaps[0].end
    assert result.engine.read_octets(gaps[0]) is None, "octets that are missing are not made up"
    assert all(r.delivered_ns > 0 for r in result.records)
    # It stopped blocking at the first ACK that covers it.
    end = int(row["offset"] + row["length"])
    ack = np.flatnonzero((holed.rows["side"] == 1) & (holed.rows["ack"] >= end))[0]
    assert hole.frame == ack + 1
    assert [s.status for s in result.syncs].count("unknown_order") == 1


def test_a_hole_without_any_ack(tmp_path: Path) -> None:
    """A capture of one direction: delivered with the record's own octets, and marked."""
    wire = Wire(stream.plain(Guest(memory=8, batch=8)), mss=1000, acks=False)
    rows = wire.rows[wire.rows["side"] == 0]
    lost = np.flatnonzero(rows["offset"] > 3000)[0]
    result = read(files.write(tmp_path / "x.pcap", wire.keep(np.delete(rows, lost))))
    assert result.framed() == [e for e in wire.expected() if e[0] == "forward"]
    (hole,) = result.connection.holes
    assert hole.frame == 0
    for record in result.records:
        assert record.after_gap == (record.end > hole.offset)
        assert record.frame == record.last_frame
        assert not record.acked_ns


def test_octets_that_come_after_their_ack_fill_the_hole(tmp_path: Path) -> None:
    """Captures on several queues show an ACK before its data: no hole."""
    wire = Wire(stream.colo(2, SMALL), mss=700)
    order = np.arange(len(wire.rows), dtype=float)
    for i in wire.data_rows()[10:60:7]:
        order[i] += 4.5
    result = read(files.write(tmp_path / "x.pcap", wire.keep(wire.rows[np.argsort(order)])))
    assert result.framed() == wire.expected()
    assert not result.connection.holes


@pytest.mark.parametrize("handshake", [True, False])
def test_without_syn_the_first_octet_is_offset_zero(tmp_path: Path, handshake: bool) -> None:
    wire = Wire(stream.colo(1, SMALL), handshake=handshake, fin=False)
    result = read(files.write(tmp_path / "x.pcap", wire))
    assert result.framed() == wire.expected()
    assert result.connection.start_seen


def test_octets_before_the_first_seen_have_negative_offsets(tmp_path: Path) -> None:
    wire = Wire(stream.plain(Guest(memory=2)), handshake=False, mss=30)
    rows = wire.rows
    forward = [i for i in wire.data_rows() if rows["side"][i] == 0]
    order = np.arange(len(rows), dtype=float)
    order[forward[0]] += 1.5
    result = read(files.write(tmp_path / "x.pcap", wire.keep(rows[np.argsort(order)])))
    moved = int(rows["length"][forward[0]])
    assert result.framed() == sorted((d, o - moved if d == "forward" else o, n, size)
                                     for d, o, n, size in wire.expected())


def test_a_late_syn_still_sets_offset_zero(tmp_path: Path) -> None:
    wire = Wire(stream.plain(SMALL))
    order = np.arange(len(wire.rows), dtype=float)
    order[:2] += 7.5
    result = read(files.write(tmp_path / "x.pcap", wire.keep(wire.rows[np.argsort(order)])))
    assert result.framed() == wire.expected()


def test_the_end_that_opened_the_connection_does_not_matter(tmp_path: Path) -> None:
    for ends in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")):
        wire = Wire(stream.colo(1, SMALL), ends=ends, ports=(7002, 40_000))
        result = read(files.write(tmp_path / "x.pcap", wire))
        primary = result.connection.primary_side or 0
        assert result.engine.streams.endpoint(0, primary) == f"{ends[0]}:7002"


def test_segments_of_an_earlier_connection_are_left_out(tmp_path: Path) -> None:
    wire = Wire(stream.colo(1, SMALL), isn=(1000, 2_000_000_000))
    stale = wire.rows[wire.data_rows()[:4]].copy()
    stale["offset"] += 1 << 30
    frames = list(files.frames(wire))
    wire.streams["forward"] += b"?"
    old = wire.keep(stale)
    old.streams = dict.fromkeys(old.streams, b"")
    (tmp_path / "x.pcap").write_bytes(files.pcap(
        [*frames[:30], *((t, f + b"\xaa" * 9) for t, f in files.frames(old)), *frames[30:]]))
    result = read(tmp_path / "x.pcap")
    assert result.framed() == wire.expected()


@pytest.mark.parametrize("there", [30, 20, 0])
def test_what_outlives_a_block_of_a_file_that_has_become_shorter(there: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(there)))
    number = os.open(tmp_path / "x", os.O_RDONLY)
    rows = np.array([[100, 12, 12, 5, 1, 1, 0], [112, 9, 9, 17, 2, 2, 0]], np.int64)
    file = InFile(number)
    run = Run(rows, NO_ACKS, Passing(file, 0, 0, 100), np.zeros(0, np.uint8), whole=True)
    tail = run.tail(0)
    octets = [tail.octets(i, 0, 50) for i in range(2)]
    file.close()
    assert octets == [bytes(range(there))[5:17], bytes(range(there))[17:26]]
    assert tail.whole == (not file.is_short) == (there == 30)


def tshark_streams(path: Path) -> list[int]:
    out = subprocess.run(["tshark", "-r", path, "-T", "fields", "-e", "tcp.stream"],
                         capture_output=True, text=True, check=True)
    return [int(line) for line in out.stdout.split()]


@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_connections_are_numbered_as_wireshark_does(tmp_path: Path) -> None:
    """Port reuse, late SYNs, other connections between: tcp.stream and our number agree."""
    first = Wire(stream.plain(SMALL), isn=(1000, 5000))
    again = Wire(stream.colo(1, SMALL), isn=(900_000, 7000), start=int(first.rows["time"][-1]) + 10)
    third = Wire(stream.colo(1, SMALL), isn=(1, 2), ports=(40_001, 7002))
    middle = Wire(stream.remus(1, SMALL), handshake=False, ports=(40_002, 7002), isn=(77, 78))
    reused = Wire(stream.plain(SMALL), isn=(4000, 1), ports=(40_002, 7002),
                  start=int(middle.rows["time"][-1]) + 10)
    again_syn = first.keep(np.concatenate((first.rows[:1], first.rows)))
    again_syn.ports = (40_009, 7002)
    wires = [first, again, third, middle, reused, again_syn]
    path = files.write(tmp_path / "x.pcap", wires)
    theirs = tshark_streams(path)
    packets = sorted(((t, i) for i, wire in enumerate(wires) for t, _ in files.frames(wire)),
                     key=lambda p: p[0])
    number_of = {}
    for (_, wire), number in zip(packets, theirs, strict=True):
        number_of.setdefault(wire, number)
    result = read(path)
    assert result.engine.streams.count == max(theirs) + 1 == len(wires)
    for i, wire in enumerate(wires):
        assert result.framed(number_of[i]) == wire.expected(), i


def test_a_reset_says_nothing_about_the_stream(tmp_path: Path) -> None:
    """RSTs in odd places, keep-alives and window probes change no octet."""
    wire = Wire(stream.colo(1, SMALL))
    extra = wire.rows[[20, 30, 40]].copy()
    extra["flags"] = [RST, ACK, ACK]
    extra["length"] = [0, 1, 0]
    extra["offset"][1] -= 1
    rows = np.insert(wire.rows, [25, 35, 45], extra)
    result = read(files.write(tmp_path / "x.pcap", wire.keep(rows)))
    assert result.framed() == wire.expected()


def test_flags_that_consume_a_number(tmp_path: Path) -> None:
    """Octets on a SYN (TCP fast open) and on a FIN belong to the stream."""
    wire = Wire(stream.plain(SMALL, ), handshake=True, fin=False)
    rows = wire.rows
    rows["flags"][wire.data_rows()[-1]] |= FIN
    assert rows["flags"][0] & SYN
    result = read(files.write(tmp_path / "x.pcap", wire))
    assert result.framed() == wire.expected()
    side = 0 if wire.rows["side"][wire.data_rows()[-1]] == 0 else 1
    primary = result.connection.primary_side or 0
    assert result.connection.stream.known_end(primary if side == 0 else 1 - primary)


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_start_without_syn_is_a_start(tmp_path: Path, kind: str, ends: tuple[str, str]) -> None:
    wire = Wire(KINDS[kind](SMALL), handshake=False, ends=ends)
    result = read(files.write(tmp_path / "x.pcap", wire))
    assert result.framed() == wire.expected()
    assert result.connection.start_seen
    assert result.connection.kind == kind
    assert {s.status for s in result.syncs} <= {"ok"}


def test_a_connection_that_starts_with_a_hole(tmp_path: Path) -> None:
    """Both first segments are missing: it is found by its records, and its octets do not pile up."""
    wire = Wire(stream.plain(Guest(memory=200, batch=50)))
    first = wire.data_rows()[wire.rows["side"][wire.data_rows()] == 0][0]
    banner = wire.data_rows()[wire.rows["side"][wire.data_rows()] == 1][0]
    result = read(files.write(tmp_path / "x.pcap", wire.keep(np.delete(wire.rows, [first, banner]))))
    assert "found_place" in result.rules()
    assert set(result.framed()) <= set(wire.expected())
    assert len(result.framed()) >= len(wire.expected()) - 6


def test_a_fin_that_the_capture_lacks_is_no_octet(tmp_path: Path) -> None:
    wire = Wire(stream.plain(SMALL))
    rows = wire.rows[~((wire.rows["flags"] & FIN > 0) & (wire.rows["side"] == 0))]
    result = read(files.write(tmp_path / "x.pcap", wire.keep(rows)))
    assert result.framed() == wire.expected()
    assert not result.rules()


def test_the_last_list_is_acknowledged_although_it_is_decided_late(tmp_path: Path) -> None:
    messages = list(stream.colo(1, Guest(memory=2, lists=(0,))))
    at = next(i for i, m in enumerate(messages) if m.structure.name.endswith("DIRTY_PFN_LIST"))
    result = read(files.write(tmp_path / "x.pcap", Wire(messages[:at + 1])))
    assert result.records[-1].name == "CHECKPOINT_DIRTY_PFN_LIST"
    assert result.records[-1].acked_ns > result.records[-1].delivered_ns


def test_contents_are_those_of_the_right_connection(tmp_path: Path) -> None:
    """Port reuse with sequence numbers close to each other."""
    first = Wire(stream.plain(Guest(memory=6, seed=1)), isn=(1000, 1000))
    again = Wire(stream.plain(Guest(memory=6, seed=2)), isn=(1500, 1500),
                 start=int(first.rows["time"][-1]) + 10)
    result = read(files.write(tmp_path / "x.pcap", [first, again]))
    for number, wire in enumerate((first, again)):
        for record in (r for r in result.records if r.connection == number):
            assert record.read() == wire.streams[record.direction][record.stream_offset:record.end]


def test_what_is_not_known_is_not_named(tmp_path: Path) -> None:
    """A stream that breaks off before it tells what it is has no kind."""
    for kind in KINDS:
        messages = KINDS[kind](SMALL)
        cut = next(i for i, m in enumerate(messages) if m.structure.name in ("CHECKPOINT_END", "END"))
        result = read(files.write(tmp_path / "x.pcap", Wire(messages[:cut])))
        assert result.connection.kind == ""


def test_connections_of_which_octets_wait_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None sees what waits of another: each has the records that it has alone."""
    wires = [lose(Wire(stream.colo(2), ports=(5, i), start=10 ** 18 + i, isn=(7 * i, 9)), np.random.default_rng(i),
                  0.1, again=i % 2 == 0, behind=40) for i in range(4)]

    def listed(result: Read) -> list[list[tuple[object, ...]]]:
        found: dict[int, list[tuple[object, ...]]] = {}
        for r in result.records:
            found.setdefault(r.connection, []).append((r.direction, r.stream_offset, r.full_name, r.length, r.octets,
                                                       r.status, r.delivered_ns, r.acked_ns))
        return [sorted(rows, key=lambda row: row[:2]) for rows in found.values()]  # type: ignore[arg-type, return-value]

    alone = [listed(read(files.write(tmp_path / f"{i}.pcap", wire)))[0] for i, wire in enumerate(wires)]
    (path := tmp_path / "all.pcap").write_bytes(files.pcap(files.merged(wires)))
    monkeypatch.setattr("dissector.packets.ROWS", 24)
    assert sorted(listed(read(path))) == sorted(alone)  # type: ignore[type-var]
