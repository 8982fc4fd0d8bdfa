# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets that nobody needs pass unseen: that must change nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from dissector import packets, reader
from dissector.ahead import blocks
from dissector.engine import Engine
from dissector.protocol import BACK, CHECKPOINT_DIRTY_PFN_LIST, FORWARD, PAGE_DATA
from dissector.record import Record
from dissector.segments import UNSEEN, UNSEEN_OTHER, Segments, Streams
from dissector.streams import GRACE
from tests.synthesiser import files, stream, wire
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import ACK, Wire

TABLES = ("connections", "records", "syncs", "pairs", "checkpoints", "findings")
GUEST = Guest(memory=256, batch=64, dirty=48, emulator=150_000)
KINDS = {"colo": lambda: stream.colo(6, GUEST), "remus": lambda: stream.remus(3, GUEST),
         "plain": lambda: stream.plain(GUEST),
         "big-endian": lambda: stream.colo(3, replace(GUEST, order="big"))}
BLOCKS = {"small blocks": 1 << 14, "large blocks": 1 << 19}


def again(conversation: Wire) -> Wire:
    """As if the capture had started in the middle of a record."""
    return conversation.keep(conversation.rows[len(conversation.rows) // 4:])


CHANGES: dict[str, Callable[[Wire, np.random.Generator], Wire]] = {
    "nothing": lambda w, rng: w,
    "lost and sent again": lambda w, rng: wire.lose(w, rng, 0.02),
    "lost for ever": lambda w, rng: wire.lose(w, rng, 0.01, again=False),
    "repeated": lambda w, rng: wire.repeat(w, rng, 0.05),
    "shuffled": lambda w, rng: wire.shuffle(w, rng),
    "late": lambda w, rng: again(w),
}


@pytest.fixture(params=BLOCKS)
def passed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Reading in blocks of a certain size; octets that have passed unseen."""
    found: list[int] = []

    def noting(streams: Streams, block: packets.Packets, scan: Callable[..., Segments] = Streams.scan) -> Segments:
        segments = scan(streams, block)
        found.append(int(segments.rows[:, [UNSEEN, UNSEEN_OTHER]].sum()))
        return segments

    def noting_the_rest(streams: Streams, number: int, take: Callable[..., tuple[int, int]] = Streams.take_passed,
                        ) -> tuple[int, int]:
        found.append(sum(octets := take(streams, number)))
        return octets

    monkeypatch.setattr(Streams, "scan", noting)
    monkeypatch.setattr(Streams, "take_passed", noting_the_rest)
    monkeypatch.setattr(reader, "BLOCK", BLOCKS[request.param])
    return found


def assert_nothing_changed(path: Path, passed: list[int]) -> None:
    """Where segments are kept all of them are seen."""
    every = analysis.read(path, segments=True)
    assert not any(passed)
    some = analysis.read(path)
    for table in TABLES:
        assert some.export(table).equals(every.export(table)), table


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_octets_that_pass_unseen_change_nothing(kind: str, change: str, tmp_path: Path, passed: list[int]) -> None:
    rng = np.random.default_rng(len(kind) + len(change))
    wires = [CHANGES[change](Wire(KINDS[kind](), ports=(40_000 + i, 7002)), rng) for i in range(2)]
    assert_nothing_changed(files.write(tmp_path / "capture.pcap", wires), passed)
    # Behind a late start much has to be found out first; holes are in each of large blocks.
    least = 50_000 if change == "nothing" else 0
    assert sum(passed) > least or (change == "late" and kind != "remus") or (
        change == "lost for ever" and max(BLOCKS.values()) == reader.BLOCK)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_records_are_not_followed_blindly(seed: int, tmp_path: Path, passed: list[int]) -> None:
    """What stands in a header decides what passes unseen; framing may still find that it is none."""
    rng, whole = np.random.default_rng(seed), Wire(stream.colo(6, GUEST))
    octets = bytearray(whole.streams[FORWARD])
    starts = [at for direction, at, _, _ in whole.expected() if direction == FORWARD]
    for at in rng.choice(starts[3:], 2):
        octets[int(at) + int(rng.integers(12))] ^= 1 << int(rng.integers(8))
    whole.streams[FORWARD] = bytes(octets)
    assert_nothing_changed(files.write(tmp_path / "capture.pcap", whole), passed)


def test_a_capture_cut_off_in_the_middle_of_a_record(tmp_path: Path, passed: list[int]) -> None:
    whole = Wire(stream.colo(2, GUEST), fin=False)
    assert_nothing_changed(files.write(tmp_path / "capture.pcap", whole.keep(whole.rows[:-40])), passed)
    assert sum(passed) > 0


def test_snapped_octets_are_never_taken_for_complete(tmp_path: Path, passed: list[int]) -> None:
    path = tmp_path / "capture.pcap"
    path.write_bytes(files.pcap(list(files.frames(Wire(stream.colo(2, GUEST)))), snaplen=200))
    assert_nothing_changed(path, passed)
    assert not any(passed)
    assert (analysis.read(path).export("records")["status"] == "snapped").any()


@pytest.mark.parametrize("ends", [True, False])
def test_an_ack_before_its_data_dates_the_hole_that_they_leave(ends: bool, tmp_path: Path, passed: list[int]) -> None:
    whole = Wire(stream.colo(2, GUEST), fin=False)
    begin, length = next((at, size) for direction, at, name, size in reversed(whole.expected())
                         if name == PAGE_DATA.full_name and direction == FORWARD)
    rows = whole.rows
    last = next(i for i in whole.data_rows() if rows["side"][i] == 0
                and rows["offset"][i] + rows["length"][i] >= begin + length)
    ack = rows[last + 1:last + 2]
    early = [rows[:last - 8], ack, rows[last - 8:last - 2], rows[last + 2:last + 2 if ends else None]]
    assert_nothing_changed(files.write(tmp_path / "capture.pcap", whole.keep(np.concatenate(early))), passed)
    assert any(passed)


def told(paths: list[Path], *, segments: bool, at: int = 0) -> list[tuple[Any, ...]]:
    """What an engine says of these files, a block each; behind each it is told that it is `at` (ns)."""
    engine, found = Engine(segments=segments), []
    for path in paths:
        for block in blocks([path]):
            found += list(engine.take(block))
        found += list(engine.tick(at)) if at else []
    found += list(engine.finish())
    return [(r.stream_offset, r.full_name, r.status, r.frame, r.acked_frame)
            for r in found if isinstance(r, Record)] + [(f.rule, f.text) for f in engine.findings]


def test_the_ack_of_a_list_that_is_not_told_yet(tmp_path: Path) -> None:
    """What follows it decides which shape it has; a block ends in front of that, and of its ACK."""
    whole = Wire(stream.colo(2, replace(GUEST, shifted=True)))
    end = next(at + size for direction, at, name, size in whole.expected()
               if name == CHECKPOINT_DIRTY_PFN_LIST.full_name and direction == BACK)
    last = next(i for i in whole.data_rows() if whole.rows["side"][i] == 1
                and whole.rows["offset"][i] + whole.rows["length"][i] >= end)
    paths = [files.write(tmp_path / f"{i}.pcap", whole.keep(part))
             for i, part in enumerate(np.split(whole.rows, [last + 1]))]
    assert told(paths, segments=False) == told(paths, segments=True)


def test_octets_that_come_after_their_hole_was_given_up(tmp_path: Path) -> None:
    """What was expected in front of the hole is none any more: they are repeated octets."""
    whole = Wire(stream.colo(3, GUEST))
    begin, length = next((at, size) for direction, at, name, size in reversed(whole.expected())
                         if name == PAGE_DATA.full_name and direction == FORWARD)
    rows = whole.rows
    late = [i for i in whole.data_rows() if rows["side"][i] == 0 and begin < rows["offset"][i] < begin + length // 2]
    ack, behind = rows[late[9]].copy(), rows[late[7]:].copy()
    ack["side"], ack["offset"], ack["ack"] = 1, ack["ack"], ack["offset"] + ack["length"]
    ack["length"], ack["flags"] = 0, ACK
    behind["time"] += 2 * GRACE
    paths = [files.write(tmp_path / f"{i}.pcap", whole.keep(part))
             for i, part in enumerate((np.append(rows[:late[7]], ack), behind))]
    at = int(ack["time"]) + GRACE + 1
    assert told(paths, segments=False, at=at) == told(paths, segments=True, at=at)
    assert "hole" in {row[0] for row in told(paths, segments=False, at=at)}
