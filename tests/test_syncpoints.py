# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync-points: in order, or named for what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import analysis
from dissector import protocol as p
from dissector.protocol import BACK, FORWARD
from tests.helpers import Read, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import Wire

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)


def statuses(messages: list[Message], tmp_path: Path, **options: object) -> Read:
    return read(files.write(tmp_path / "x.pcap", Wire(messages, **options)))  # type: ignore[arg-type]


def told(result: Read) -> list[tuple[str, str, int | None]]:
    return [(s.point.short_name, s.status, s.checkpoint) for s in result.syncs]


def index_of(messages: list[Message], name: str, nth: int = 0) -> int:
    """Where the nth sync-point of this name stands."""
    number = p.XEN_COLO.named(name).control_id
    return [i for i, m in enumerate(messages) if m.control_id == number][nth]


def test_the_legal_order_of_today_and_of_2015(tmp_path: Path) -> None:
    result = statuses(list(stream.colo(2, GUEST)), tmp_path)
    assert told(result) == [("SVM_READY", "ok", 0), ("SVM_RESUMED", "ok", 0)] + [
        (name, "ok", n) for n in (1, 2)
        for name in ("NEW", "SVM_SUSPENDED", "SVM_READY", "SVM_RESUMED")]
    result = statuses(list(stream.colo(2, replace(GUEST, order_2015=True))), tmp_path)
    assert told(result)[2:] == [(name, "ok", n) for n in (1, 2)
                                for name in ("NEW", "SVM_SUSPENDED", "SVM_RESUMED")]
    assert not result.rules()


@pytest.mark.parametrize(("name", "direction"), [
    ("NEW", BACK), ("SVM_SUSPENDED", FORWARD), ("SVM_READY", FORWARD), ("SVM_RESUMED", FORWARD)])
def test_wrong_sender(tmp_path: Path, name: str, direction: str) -> None:
    messages = list(stream.colo(2, GUEST))
    at = index_of(messages, "NEW", 1)
    wrong = replace(messages[index_of(messages, name)], direction=direction)
    result = statuses([*messages[:at], wrong, *messages[at:]], tmp_path)
    bad = [s for s in result.syncs if s.status != "ok"]
    assert [(s.point.short_name, s.status) for s in bad] == [(name, "wrong_sender")]
    assert result.rules() == {"wrong_sender"}
    (finding,) = result.engine.findings
    assert (finding.frame, finding.stream_offset) == (bad[0].record.frame,
                                                      bad[0].record.stream_offset)


def test_out_of_order(tmp_path: Path) -> None:
    messages = list(stream.colo(2, GUEST))
    ready, resumed = index_of(messages, "SVM_READY", 2), index_of(messages, "SVM_RESUMED", 2)
    messages[ready], messages[resumed] = messages[resumed], messages[ready]
    result = statuses(messages, tmp_path)
    assert [t for t in told(result) if t[1] != "ok"] == [("SVM_READY", "out_of_order", 2)]
    messages = list(stream.colo(2, GUEST))
    again = index_of(messages, "NEW", 1)
    result = statuses([*messages[:again], messages[again], *messages[again:]], tmp_path)
    assert told(result)[6:8] == [("NEW", "ok", 2), ("NEW", "out_of_order", 3)]
    assert result.rules() == {"out_of_order"}


def test_inside_a_checkpoint(tmp_path: Path) -> None:
    messages = list(stream.colo(2, GUEST))
    ready = index_of(messages, "SVM_READY", 1)
    assert messages[ready - 1].structure is p.CHECKPOINT_END
    messages[ready - 1], messages[ready] = messages[ready], messages[ready - 1]
    result = statuses(messages, tmp_path)
    assert [t for t in told(result) if t[1] != "ok"] == [("SVM_READY", "inside_checkpoint", 1)]
    assert result.rules() == {"inside_checkpoint"}


def test_the_first_behind_a_hole_is_not_judged(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, GUEST), mss=1000)
    rows = wire.rows
    new = index_of(wire.messages, "NEW", 1)
    offset = sum(len(m.octets) for m in wire.messages[:new] if m.direction == FORWARD)
    inside = next(i for i in wire.data_rows() if rows["side"][i] == 0
                  and rows["offset"][i] > offset + 1200)
    result = read(files.write(tmp_path / "x.pcap", wire.keep(np.delete(rows, inside))))
    assert [t for t in told(result) if t[1] != "ok"] == [("SVM_READY", "unknown_order", 2)]
    assert result.rules() == {"hole"}


def test_split_messages_and_riding_along(tmp_path: Path) -> None:
    """libxl writes header, body and padding separately: 16, 8+8 or 8+4+4 octets a segment."""
    for cuts in ((), (8,), (8, 12)):
        result = statuses(list(stream.colo(2, GUEST)), tmp_path,
                          split=lambda m, cuts=cuts: cuts if m.control_id is not None else ())
        assert {s.status for s in result.syncs} == {"ok"}
        for sync in result.syncs:
            assert sync.record.last_frame - sync.record.first_frame == len(cuts)
            assert sync.record.frame == sync.record.last_frame


def test_pairs_of_several_connections_do_not_mix(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(3, replace(GUEST, seed=i)), ports=(30_000 + i, 7002)) for i in range(3)]
    result = read(files.write(tmp_path / "x.pcap", wires))
    assert len(result.syncs) == 3 * (2 + 3 * 4)
    assert {s.status for s in result.syncs} == {"ok"}


@pytest.mark.parametrize("lost", ["SVM_SUSPENDED", "CHECKPOINT_END"])
def test_behind_a_lost_place_nothing_is_judged(tmp_path: Path, lost: str) -> None:
    """A header that the capture lacks: what the other direction says is no violation."""
    wire = Wire(stream.colo(4, GUEST))
    at = next(i for i, m in enumerate(wire.messages) if i > index_of(wire.messages, "NEW", 1) and (
        m.structure.name == lost or (m.control_id == 1 and lost == "SVM_SUSPENDED")))
    message = wire.messages[at]
    before = sum(len(m.octets) for m in wire.messages[:at] if m.direction == message.direction)
    side = 0 if message.direction == FORWARD else 1
    row = np.flatnonzero((wire.rows["side"] == side) & (wire.rows["offset"] == before)
                         & (wire.rows["length"] > 0))
    result = read(files.write(tmp_path / "x.pcap", wire.keep(np.delete(wire.rows, row))))
    assert result.rules() == {"hole", "lost_in_hole"}
    frame = result.connection.lost(message.direction)
    assert frame is not None
    late = [s for s in result.syncs if s.record.frame > frame]
    assert len(late) >= 2
    assert {s.status for s in result.syncs if s not in late} == {"ok"}
    assert {s.status for s in late} == {"unknown_order"}
    assert all(s.doubt for s in late)


def test_a_new_whose_kind_is_missing_still_opens_a_checkpoint(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, GUEST), split=lambda m: (8, 12) if m.control_id is not None else ())
    new = index_of(wire.messages, "NEW", 1)
    offset = sum(len(m.octets) for m in wire.messages[:new] if m.direction == FORWARD) + 8
    row = np.flatnonzero((wire.rows["side"] == 0) & (wire.rows["offset"] == offset)
                         & (wire.rows["length"] > 0))
    path = files.write(tmp_path / "x.pcap", wire.keep(np.delete(wire.rows, row)))
    result = read(path)
    assert [s.checkpoint for s in result.syncs] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [s.status for s in result.syncs if s.checkpoint == 2] == ["unknown_order", "ok", "ok"]
    rows = analysis.read(path).checkpoints
    assert rows["number"].tolist() == [0, 1, 2, 3]
    assert rows["complete"].tolist() == [True, True, False, True]
    assert rows["lockstep_ms"].isna().tolist() == [False, True, False, True]
    assert rows["suspend_ms"].isna().tolist() == [True, False, True, False]
