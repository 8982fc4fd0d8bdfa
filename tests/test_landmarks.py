# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams whose start the capture lacks, and places that are lost and found again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import analysis
from dissector import protocol as p
from dissector.landmarks import WINDOW, Landmark, landmarks
from dissector.octets import NO_OCTETS, InFile, Passing
from dissector.source import Source
from dissector.streams import GIVEN, NO_ACKS, OFFSET, PLACE, RANGE_COLUMNS, SIZE, Run
from tests.helpers import PCAPS, Read, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import Wire, lose

GUEST = Guest(memory=40, batch=10, dirty=5, emulator=300)


def late(wire: Wire, first: int) -> Wire:
    """The same without what the capture point saw before a row."""
    return wire.keep(wire.rows[first:])


def whole_syncs(wire: Wire) -> list[tuple[str, str]]:
    """Direction and name of the sync-points of which every octet is in the rows, in their order."""
    have = {}
    for side, direction in enumerate(p.DIRECTIONS):
        octets = np.zeros(len(wire.streams[direction]), bool)
        for row in wire.rows[(wire.rows["side"] == side) & (wire.rows["length"] > 0)]:
            octets[row["offset"]:row["offset"] + row["length"]] = True
        have[direction] = octets
    at, found = dict.fromkeys(p.DIRECTIONS, 0), []
    for message in wire.messages:
        begin = at[message.direction]
        end = at[message.direction] = begin + len(message.octets)
        if message.control_id is not None and have[message.direction][begin:end].all():
            found.append((message.direction, p.SYNC_POINT_NAMES[message.control_id].removeprefix("CHECKPOINT_")))
    return found


def listed(result: Read) -> list[tuple[str, str]]:
    return [(s.record.direction, s.point.short_name) for s in result.syncs]


@pytest.mark.parametrize("cuts", [(), (8,), (8, 12)], ids=str)
@pytest.mark.parametrize("order", ["little", "big"])
def test_every_late_start(tmp_path: Path, order: str, cuts: tuple[int, ...]) -> None:
    """From each segment on: every sync-point that is whole is listed, the first one is not judged."""
    wire = Wire(stream.colo(2, replace(GUEST, order=order)), split=lambda m: [
        c for c in cuts if m.control_id is not None])
    news = [i for i in wire.data_rows() if wire.rows["length"][i] <= 16]
    around = sorted({i + d for i in news for d in (0, 1, 2)} | set(range(4, len(wire.rows), 40)))
    for first in (i for i in around if 3 < i < len(wire.rows)):
        cut = late(wire, first)
        expected = whole_syncs(cut)
        result = read(files.write(tmp_path / "x.pcap", cut))
        if len(expected) < 3:
            continue
        assert listed(result) == expected, first
        connection = result.connection
        judged = "ok" if connection.start_seen else "unknown_order"
        assert [s.status for s in result.syncs] == [judged] + ["ok"] * (len(expected) - 1)
        assert connection.direction(connection.side("forward")) == "forward"
        assert result.engine.streams.endpoint(0, connection.side("forward")) == "10.0.0.1:40000"
        assert result.rules() <= {"found_place", "hole", "truncated"}


@pytest.mark.parametrize("side", [0, 1])
def test_one_direction_alone(tmp_path: Path, side: int) -> None:
    """A capture of one direction that starts late: its own chain of records proves it."""
    wire = Wire(stream.colo(4, GUEST))
    cut = late(wire, len(wire.rows) // 3)
    cut = cut.keep(cut.rows[cut.rows["side"] == side])
    result = read(files.write(tmp_path / "x.pcap", cut))
    assert listed(result) == whole_syncs(cut)
    assert len(result.syncs) >= 3


@pytest.mark.parametrize("kind", ["remus", "plain"])
def test_streams_without_sync_points(tmp_path: Path, kind: str) -> None:
    messages = stream.remus(6, GUEST) if kind == "remus" else stream.plain(replace(GUEST, memory=400))
    wire = Wire(messages)
    cut = late(wire, len(wire.rows) // 3)
    result = read(files.write(tmp_path / "x.pcap", cut))
    assert result.connection.kind == kind
    assert set(result.framed()) - set(_shifted(wire, cut)) == set()
    assert len(result.records) > len(wire.messages) // 4
    assert "found_place" in result.rules()
    rows = analysis.read(tmp_path / "x.pcap").checkpoints
    assert set(rows["numbering"].dropna()) <= {"relative"}
    assert not rows["complete"].iloc[0]


def _shifted(wire: Wire, cut: Wire) -> list[tuple[str, int, str, int]]:
    """`Wire.expected`, with stream offsets from each direction's first octet in the capture."""
    first = {direction: int(cut.rows["offset"][(cut.rows["side"] == side) & (cut.rows["length"] > 0)].min(
        initial=1 << 60)) for side, direction in enumerate(p.DIRECTIONS)}
    return [(direction, at - first[direction], name, length) for direction, at, name, length in wire.expected()]


PLANTED = {
    "sync-points": lambda: b"".join(stream.encode(p.CHECKPOINT_STATE, control_id=i % 4) for i in range(256)),
    "one kind": lambda: stream.encode(p.CHECKPOINT_STATE, control_id=0) * 256,
    "a COLO stream": lambda: b"".join(m.octets for m in stream.colo(2, Guest(
        memory=1, holes=9, dirty=0, emulator=40)) if m.direction == p.FORWARD),
    "both directions": lambda: b"".join(m.octets for m in stream.colo(2, Guest(
        memory=0, holes=9, dirty=0, emulator=40))),
    "a Remus stream": lambda: b"".join(m.octets for m in stream.remus(3, Guest(
        memory=0, holes=9, dirty=0, emulator=40)) if m.direction == p.FORWARD),
    "records without pages": lambda: stream.encode(p.PAGE_DATA, pfn=[stream.pfn_word(1, "XTAB")]) * 170,
}


@pytest.mark.parametrize("first", [0.2, 0.5])
@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("mss", [1448, 400])
def test_streams_planted_in_guest_pages(tmp_path: Path, mss: int, planted: str, first: float) -> None:
    """What lies in a guest's memory is not taken for the stream on the wire."""
    page = PLANTED[planted]()[:4096].ljust(4096, b"\0")
    wire = Wire(stream.colo(4, replace(GUEST, page=page)), mss=mss)
    cut = late(wire, int(first * len(wire.rows)))
    result = read(files.write(tmp_path / "x.pcap", cut))
    assert listed(result) == whole_syncs(cut)
    assert set(result.framed()) <= set(_shifted(wire, cut))


@pytest.mark.parametrize("planted", PLANTED)
def test_streams_planted_in_what_is_none_of_ours(tmp_path: Path, planted: str) -> None:
    """A transfer of a file that holds such a stream, captured from its middle on."""
    octets = PLANTED[planted]()
    filler = bytes(np.random.default_rng(1).integers(0, 256, 40_000, np.uint8))
    wire = Wire([Message("forward", p.GO_MESSAGE, filler + octets + filler)])
    result = read(files.write(tmp_path / "x.pcap", late(wire, 8)))
    assert not result.engine.ours()
    assert not result.records


@pytest.mark.parametrize("seed", range(6))
def test_lost_segments(tmp_path: Path, seed: int) -> None:
    """Octets that never come, headers among them: the place is found again, and only the first
    sync-point behind a hole is not judged."""
    wire = lose(Wire(stream.colo(12, GUEST), mss=900), np.random.default_rng(seed), 0.05, again=False)
    result = read(files.write(tmp_path / "x.pcap", wire))
    expected = whole_syncs(wire)
    got = [sync for sync in listed(result) if sync is not None]
    assert got == expected
    assert {s.status for s in result.syncs} <= {"ok", "unknown_order"}
    framed = {record for record in result.framed() if record[2] != "libxl.CHECKPOINT_STATE"}
    assert framed <= set(wire.expected())
    for sync in result.syncs:
        assert (sync.status == "unknown_order") == sync.doubt


@pytest.mark.parametrize("rows", [5, 1 << 14])
def test_what_precedes_a_lost_place_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """However much is read at a time: the other side's sync-points in front of the octets that are not understood
    are sure, and only the first behind them is not."""
    monkeypatch.setattr("dissector.packets.ROWS", rows)
    messages = list(stream.colo(3, GUEST))
    at = [i for i, message in enumerate(messages) if message.structure is p.PAGE_DATA][-1]
    messages[at] = replace(messages[at], octets=b"\x7f" * len(messages[at].octets))
    suspended = max(i for i in range(at) if messages[i].control_id is not None)
    assert messages[suspended].direction == "back"
    ready = min(i for i in range(at, len(messages)) if messages[i].control_id is not None)
    result = read(files.write(tmp_path / "x.pcap", Wire(messages)))
    points = [i for i, message in enumerate(messages) if message.control_id is not None]
    assert len(result.syncs) == len(points)
    assert [i for i, sync in zip(points, result.syncs, strict=True) if sync.status != "ok"] == [ready]


def test_a_lone_shape_is_unconfirmed(tmp_path: Path) -> None:
    """Listed, but in no statistic; its twin with other octets in the segment is nothing."""
    sync = stream.encode(p.CHECKPOINT_STATE, control_id=1)
    for behind, count in ((b"", 1), (b"more text behind it", 0)):
        wire = Wire([Message("forward", p.GO_MESSAGE, b"hello there, this is something else"),
                     Message("back", p.CHECKPOINT_STATE, sync + behind),
                     Message("forward", p.GO_MESSAGE, b"and goes on")], handshake=False)
        path = files.write(tmp_path / "x.pcap", wire)
        result = read(path)
        assert [s.status for s in result.syncs] == ["unconfirmed"] * count
        capture = analysis.read(path)
        assert list(capture.syncs["status"]) == ["unconfirmed"] * count
        assert not len(capture.latency())


@pytest.mark.parametrize("kind", ["random", "zeros", "small numbers", "ones"])
def test_chance_makes_no_landmarks(kind: str) -> None:
    """Candidates are rare in memory of any kind, so that trying them costs little."""
    rng = np.random.default_rng(3)
    size = 8 << 20
    octets = {"random": lambda: rng.integers(0, 256, size, np.uint8), "zeros": lambda: np.zeros(size, np.uint8),
              "small numbers": lambda: rng.integers(0, 20, size // 4, np.uint32).view(np.uint8),
              "ones": lambda: np.full(size, 255, np.uint8)}[kind]()
    rows = np.zeros((1, RANGE_COLUMNS), np.int64)
    rows[0, 1] = rows[0, 2] = size
    run = Run(rows, np.zeros((0, 3), np.int64), octets, np.zeros(0, np.uint8))
    found, begin = landmarks(run, 0)
    assert len(found) <= 200
    assert begin == size - 15


def every(run: Run, begin: int = 0) -> list[Landmark]:
    """What is found from `begin` on, so many at a time."""
    found: list[Landmark] = []
    while True:
        marks, begin = landmarks(run, begin)
        if not marks:
            assert 0 <= run.rows[-1, OFFSET] + run.rows[-1, SIZE] - begin < WINDOW
            return found
        found += marks


def _as_in_memory(size: int, rng: np.random.Generator) -> np.ndarray:
    """Octets as those of a guest: pages of zeros, of ones, of small numbers, of pointers, of chance."""
    kinds = [np.zeros(512, np.uint64), np.full(512, (1 << 64) - 1, np.uint64), rng.integers(0, 40, 512, np.uint64),
             rng.integers(0, 40, 512, np.uint64) << np.uint64(32), rng.integers(0, 1 << 46, 512, np.uint64),
             rng.integers(0, 1 << 63, 512, np.uint64)]
    return np.concatenate([kinds[kind] for kind in rng.integers(0, len(kinds), size // 4096)]).view(np.uint8)


@pytest.mark.parametrize("kind", ["random", "zeros", "memory"])
@pytest.mark.parametrize("piece", [60, 128, 256, 271, 272, 301, 1448])
def test_where_pieces_end_does_not_matter(kind: str, piece: int) -> None:
    """Octets looked at many at a time give what they give one by one, in pieces too small for anything else."""
    rng = np.random.default_rng(piece)
    size = 1 << 21
    octets = {"random": lambda: rng.integers(0, 256, size, np.uint8), "zeros": lambda: np.zeros(size, np.uint8),
              "memory": lambda: _as_in_memory(size, rng)}[kind]()
    needles = []
    for order in ("little", "big"):
        needles += sorted({m.octets[:WINDOW] for m in stream.colo(1, replace(GUEST, order=order))
                           if len(m.octets) == WINDOW or m.structure.magic})
        body = (1000).to_bytes(4, order) + bytes(4 + 1000 * 8 + 1000 * p.PAGE_SIZE)
        needles.append(stream.record(p.PAGE_DATA.type, body, order)[:WINDOW])  # of 4 MB
    at = np.arange(3000, size - 3000, 300)
    at += rng.integers(0, 300 - WINDOW, len(at))
    at[::5] = at[::5] // piece * piece - rng.integers(0, 40, len(at[::5]))  # where pieces end
    for place, number in zip(at.tolist(), rng.integers(0, len(needles), len(at)), strict=True):
        octets[place:place + WINDOW] = np.frombuffer(needles[number], np.uint8)

    def found(piece: int) -> list[tuple[int, str]]:
        rows = np.zeros((-(-size // piece), RANGE_COLUMNS), np.int64)
        rows[:, OFFSET] = rows[:, PLACE] = np.arange(len(rows)) * piece
        rows[:, SIZE] = rows[:, GIVEN] = np.minimum(piece, size - rows[:, OFFSET])
        return [(mark.offset, mark.state) for mark in every(Run(rows, NO_ACKS, octets, NO_OCTETS), at.item(7) + 1)]

    told = found(piece)
    assert told == found(WINDOW - 1)
    assert min(told)[0] > at.item(7)
    assert len(set(at.tolist()) & {offset for offset, _ in told}) > len(at) / 2


@pytest.mark.parametrize("share", [1.0, 0.6], ids=["whole", "cut short"])
def test_octets_of_a_file_are_read_together_or_one_by_one(share: float, tmp_path: Path) -> None:
    """Ranges far apart are read one by one; of a block that is read too often so, all is read."""
    apart, pieces = 6000, 1200
    needle = next(m.octets for m in stream.colo(1, GUEST) if m.control_id is not None)
    octets = np.random.default_rng(5).integers(0, 256, apart * pieces, np.uint8)
    rows = np.zeros((pieces, RANGE_COLUMNS), np.int64)
    rows[:, OFFSET], rows[:, PLACE] = np.arange(pieces) * 500, np.arange(pieces) * apart
    rows[:, SIZE] = rows[:, GIVEN] = 500
    for place in range(100, len(octets), 7 * apart):
        octets[place:place + WINDOW] = np.frombuffer(needle, np.uint8)
    path = tmp_path / "octets"
    path.write_bytes(octets[:int(share * len(octets))].tobytes())
    with path.open("rb") as file:
        data = Passing(InFile(file.fileno()), 0, 0, len(octets))
        run = Run(rows, NO_ACKS, data, NO_OCTETS)
        here = [every(run), every(run)]
    assert data.loaded is not None
    assert data.file.is_short == (share < 1)
    assert here[0] == here[1]
    assert [mark.offset % 3500 for mark in here[0]] == [100] * math.ceil(share * pieces / 7)


def test_a_landmark_is_found_in_any_pieces(tmp_path: Path) -> None:
    """The same from segments of every size."""
    messages = list(stream.colo(2, replace(GUEST, memory=12, batch=6)))
    results = []
    for mss in (1448, 100, 37):
        wire = Wire(messages, mss=mss)
        head = sum(len(m.octets) for m in messages[:9] if m.direction == "forward")
        first = int(np.flatnonzero((wire.rows["side"] == 0) & (wire.rows["offset"] > head))[0])
        cut = late(wire, first)
        result = read(files.write(tmp_path / "x.pcap", cut))
        begin = int(cut.rows["offset"][(cut.rows["side"] == 0) & (cut.rows["length"] > 0)].min())
        results.append({(d, at + begin, n, size) for d, at, n, size in result.framed() if d == "forward"})
    assert results[0] == results[1] == results[2]
    assert results[0]


@pytest.mark.parametrize(("name", "share"), [("colo-hvm-fast.A", 0.3), ("colo-hvm-dirty.B", 0.7)])
def test_real_captures_that_start_late(tmp_path: Path, name: str, share: float) -> None:
    whole = read(PCAPS / f"{name}.pcap.zst")
    first = int(whole.engine.files[0].packets * share)
    path = tmp_path / "late.pcap"
    path.write_bytes(_without(PCAPS / f"{name}.pcap.zst", lambda frame: frame > first))
    result = read(path)
    expected = [s for s in whole.syncs if s.record.first_frame > first]
    assert [(s.record.frame + first, s.point) for s in result.syncs] == [(s.record.frame, s.point) for s in expected]
    assert [s.status for s in result.syncs] == ["unknown_order"] + ["ok"] * (len(expected) - 1)
    mine = {(r.frame + first, r.full_name, r.length) for r in result.records}
    assert mine <= {(r.frame, r.full_name, r.length) for r in whole.records}
    pairs, all_pairs = analysis.read(path).pairs, analysis.read(PCAPS / f"{name}.pcap.zst").pairs
    assert set(pairs["latency"].dropna()) <= set(all_pairs["latency"].dropna())
    rows = analysis.read(path).checkpoints
    assert rows["number"].tolist()[1:] == list(range(1, len(rows)))
    assert rows["complete"].tolist()[1:-1] == [True] * (len(rows) - 2)
    assert set(rows["numbering"]) == {"relative"}


@pytest.mark.parametrize("snaplen", [96, 160])
@pytest.mark.parametrize("name", ["colo-hvm-fast.A", "colo-hvm-dirty.A"])
def test_snapped_captures(tmp_path: Path, name: str, snaplen: int) -> None:
    """Sync-points are short: each is found, and nothing is measured across a header that was cut off."""
    whole = read(PCAPS / f"{name}.pcap.zst")
    path = tmp_path / "snapped.pcap"
    path.write_bytes(_without(PCAPS / f"{name}.pcap.zst", lambda frame: True, snaplen))
    result = read(path)
    assert [(s.record.frame, s.point, s.record.delivered_ns) for s in result.syncs] == [
        (s.record.frame, s.point, s.record.delivered_ns) for s in whole.syncs]
    assert {s.status for s in result.syncs} == {"ok", "unknown_order"}
    framed = {(r.frame, r.full_name, r.length) for r in result.records}
    assert framed <= {(r.frame, r.full_name, r.length) for r in whole.records}
    assert len(framed) > 2 * len(whole.syncs)


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is looked at often."""
    monkeypatch.setattr("dissector.packets.ROWS", 16)
    monkeypatch.setattr("dissector.reader.BLOCK", 1 << 14)


def watch(monkeypatch: pytest.MonkeyPatch, octets: int, longer: int) -> None:
    monkeypatch.setattr("dissector.connection.WATCHED_OCTETS", octets)
    monkeypatch.setattr("dissector.connection.WATCHED_LONGER", longer)


def chance(octets: int, direction: str = "forward") -> Message:
    return Message(direction, p.XL_HEADER, b"\x16" + np.random.default_rng(1).bytes(octets))


def _without_banner() -> list[Message]:
    """COLO of which the primary speaks first."""
    return [message for message in stream.colo(1, GUEST) if message.structure is not p.BANNER]


@pytest.mark.parametrize(("watched", "longer", "answered", "found"), [
    (1 << 17, 1 << 18, True, False), (1 << 18, 1 << 17, True, True),
    (1 << 17, 1 << 18, False, True), (1 << 18, 1 << 17, False, False)])
@pytest.mark.parametrize("portions", ["small", "one"])
def test_so_much_of_a_connection_is_looked_through(portions: str, watched: int, longer: int, answered: bool,
                                                   found: bool, tmp_path: Path, request: pytest.FixtureRequest,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream begins behind 200 KB of chance.  More are looked through while only one side speaks."""
    if portions == "small" or longer < watched:
        request.getfixturevalue("small_portions")
    watch(monkeypatch, watched, longer)
    talk = [chance(1000), chance(20, "back")] * answered
    wire = Wire([*talk, chance(200_000), *_without_banner()], handshake=False)
    assert bool(read(files.write(tmp_path / "x.pcap", wire)).records) == found


@pytest.mark.parametrize("portions", ["small", "one"])
def test_what_the_other_side_says_is_looked_at_first(portions: str, tmp_path: Path, request: pytest.FixtureRequest,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """One side is looked through for long enough; the other one gives hope meanwhile."""
    if portions == "small":
        request.getfixturevalue("small_portions")
    watch(monkeypatch, 1 << 17, 1 << 18)
    colo = list(stream.colo(6, GUEST))
    begins = [i for i, m in enumerate(colo) if m.control_id is not None and m.direction == "forward"]
    answers = [m for m in colo[begins[0]:begins[1]] if m.direction == "back"]
    talk = [chance(1000), *answers, replace(chance(2000), delay=4_000_000_000), chance((1 << 17) - 2900), *answers,
            chance(20_000)]
    result = read(files.write(tmp_path / "x.pcap", Wire([*talk, *colo[begins[1]:]], handshake=False)))
    assert len([r for r in result.records if r.direction == "forward"]) > 20


@pytest.mark.parametrize(("watched", "longer", "found"), [(1 << 11, 1 << 17, True), (1 << 17, 1 << 11, False)])
@pytest.mark.usefixtures("small_portions")
def test_what_a_capture_lacks_is_not_looked_through(watched: int, longer: int, found: bool, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count, and for what it may hide other octets are looked through for longer."""
    watch(monkeypatch, watched, longer)
    wire = Wire([chance(1000), chance(20, "back"), chance(200_000), *_without_banner()], handshake=False)
    path = tmp_path / "x.pcap"
    path.write_bytes(files.pcap(files.merged([wire]), snaplen=96))
    assert bool(read(path).records) == found


@pytest.mark.parametrize(("gap", "found"), [(True, True), (False, False)])
@pytest.mark.usefixtures("small_portions")
def test_a_gap_is_remembered(gap: bool, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it everything is there, for longer than a connection is looked through that lacks nothing."""
    watch(monkeypatch, 1 << 17, 1 << 18)
    monkeypatch.setattr("dissector.engine.HELD_OCTETS", 1 << 13)
    wire = Wire([chance(1000), chance(20, "back"), chance(200_000), *_without_banner()], handshake=False)
    row = wire.rows
    lost = np.flatnonzero((row["side"] == 0) & (row["offset"] > 80_000) & (row["length"] > 0))[:gap]
    result = read(files.write(tmp_path / "x.pcap", wire.keep(np.delete(row, lost))))
    assert bool(result.records) == found


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.usefixtures("small_portions")
def test_a_lone_sync_point_is_not_forgotten(sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it is none of ours, for longer than a connection is looked through."""
    watch(monkeypatch, 1 << 17, 1 << 17)
    new = next(m for m in stream.checkpoint(GUEST) if m.control_id is not None)
    talk = [chance(1000), chance(20, "back"), *[new] * sync, chance(20, "back")]
    wire = Wire([*talk, chance(300_000)], handshake=False)
    result = read(files.write(tmp_path / "x.pcap", wire))
    assert [s.status for s in result.syncs] == ["unconfirmed"] * sync


@pytest.mark.parametrize(("left", "found"), [(100_000, True), (150_000, False)])
@pytest.mark.usefixtures("small_portions")
def test_a_record_in_hand_is_read_to_its_end(left: int, found: bool, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """It is longer than a connection is looked through; so is what is left of the one before it, or not."""
    watch(monkeypatch, 1 << 17, 1 << 17)
    wire = Wire(stream.colo(2, replace(GUEST, memory=150, batch=50)))  # 200 KB in each record
    begins = np.cumsum([0, *(len(m.octets) for m in wire.messages if m.direction == "forward")])
    second = begins[np.flatnonzero(np.diff(begins) > 150_000)[1]]
    row = wire.rows
    inside = np.flatnonzero((row["side"] == 0) & (row["offset"] >= second - left) & (row["length"] > 0)).item(0)
    assert bool(read(files.write(tmp_path / "x.pcap", late(wire, inside))).records) == found


@pytest.mark.parametrize(("longer", "cut", "found"), [
    (1 << 18, (), True), (1 << 18, (8,), True), (1 << 17, (), False)])
@pytest.mark.usefixtures("small_portions")
def test_a_capture_that_begins_in_a_dirty_list(longer: int, cut: tuple[int, ...], found: bool, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be longer than any record of the primary; that is silent meanwhile.  The first octets that it sends
    then may be few."""
    watch(monkeypatch, 1 << 11, longer)
    monkeypatch.setattr("dissector.packets.ROWS", 1)
    wire = Wire(stream.colo(2, replace(GUEST, lists=tuple(range(30_000)))),  # 240 KB
                split=lambda message: cut if message.structure is p.PAGE_DATA else ())
    row, back = wire.rows, [m for m in wire.messages if m.direction == "back"]
    index = next(i for i, m in enumerate(back) if m.structure is p.CHECKPOINT_DIRTY_PFN_LIST)
    inside = sum(len(m.octets) for m in back[:index]) + 20_000
    begun = late(wire, np.flatnonzero((row["side"] == 1) & (row["offset"] >= inside) & (row["length"] > 0)).item(0))
    result = read(files.write(tmp_path / "x.pcap", begun))
    assert listed(result) == (whole_syncs(begun) if found else [])


@pytest.mark.parametrize("start_seen", [True, False])
def test_one_side_of_something_else(start_seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears nothing of the other side must not wait for it."""
    watch(monkeypatch, 1 << 17, 1 << 17)
    wire = Wire([chance(1 << 20)], handshake=start_seen)
    alone = wire.keep(wire.rows[wire.rows["side"] == 0])
    assert not read(files.write(tmp_path / "x.pcap", alone)).engine.connections


@pytest.mark.usefixtures("small_portions")
def test_what_gives_hope_is_looked_through_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second record's header is missing: none proves the other, until writers pause."""
    watch(monkeypatch, 200_000, 200_000)  # less than three records
    monkeypatch.setattr("dissector.engine.HELD_OCTETS", 1 << 13)
    wire = Wire(stream.colo(2, replace(GUEST, memory=400, batch=20)))
    sent = [m for m in wire.messages if m.direction == "forward"]
    begins = np.cumsum([0, *(len(m.octets) for m in sent)])
    gone = [begin for begin, m in zip(begins.tolist(), sent, strict=False) if m.structure is p.PAGE_DATA][1:20:2]
    assert len(gone) == 10
    row = wire.rows
    missing = np.zeros(len(row), bool)
    for at in gone:
        missing |= (row["side"] == 0) & (row["offset"] <= at) & (at < row["offset"] + row["length"])
    cut = wire.keep(row[~missing])
    result = read(files.write(tmp_path / "x.pcap", late(cut, np.flatnonzero(cut.rows["length"] > 1000).item(3))))
    assert listed(result) == whole_syncs(cut)


def test_epochs_of_a_snapped_remus_are_found() -> None:
    """Every PAGE_DATA that begins behind a pause, where its header is in the file."""
    result = read(PCAPS / "remus-pv-netem-s128.A.pcap.zst")
    pages = [r for r in result.records if r.structure is p.PAGE_DATA]
    assert len(pages) == 30
    assert {r.status for r in pages} == {"snapped"}


def test_a_snapped_remus_that_starts_late(tmp_path: Path) -> None:
    """Of the stream's 170 MB the capture has some 7: those that are missing do not make it be given up."""
    name = PCAPS / "remus-pv-netem-s128.A.pcap.zst"
    whole = read(name)
    first = whole.engine.files[0].packets // 5
    path = tmp_path / "late.pcap"
    path.write_bytes(_without(name, lambda frame: frame > first))
    found = [(r.frame + first, r.full_name, r.length) for r in read(path).records]
    assert found == [(r.frame, r.full_name, r.length) for r in whole.records][-len(found):]
    assert len(found) == 29


def _without(path: Path, keep: Callable[[int], bool], snaplen: int = 1 << 18) -> bytes:
    """A pcap without some of its frames, and without what is behind the snap length of the others."""
    octets, buffer = bytearray(), bytearray(1 << 20)
    with Source(path) as source:
        while size := source.readinto(memoryview(buffer)):
            octets += buffer[:size]
    out, at, frame = [octets[:24]], 24, 1
    while at < len(octets):
        size = 16 + int.from_bytes(octets[at + 8:at + 12], "little")
        if keep(frame):
            captured = min(size - 16, snaplen)
            out.append(octets[at:at + 8] + captured.to_bytes(4, "little") + octets[at + 12:at + 16 + captured])
        at, frame = at + size, frame + 1
    return b"".join(out)
