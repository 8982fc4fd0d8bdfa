# SPDX-License-Identifier: GPL-2.0-or-later
"""Causes: stalls planted in synthesised captures are found with their size, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from dissector import protocol as p
from tests.helpers import PCAPS
from tests.synthesiser import files, planted, stream
from tests.synthesiser.planted import Stall
from tests.synthesiser.stream import MS, Guest, Message

GUEST = Guest(memory=40, batch=64, dirty=20, emulator=9000)
CHECKPOINTS = 4


def messages() -> list[Message]:
    return planted.brisk(stream.colo(CHECKPOINTS, GUEST))


def number_of(structure: p.Structure, checkpoint: int, control_id: int | None = None) -> int:
    """Number of the message that is the first of its kind in a checkpoint."""
    found, opened = messages(), 0
    for i, message in enumerate(found):
        opened += message.control_id == p.XEN_COLO.named("NEW").control_id
        if opened == checkpoint and message.structure is structure and control_id in (None, message.control_id):
            return i
    raise AssertionError(structure)


def sync(name: str, checkpoint: int) -> int:
    return number_of(p.CHECKPOINT_STATE, checkpoint, p.XEN_COLO.named(name).control_id)


def read(tmp_path: Path, stalls: dict[int, Stall] | None = None, **path: int) -> analysis.Capture:
    wire = planted.planted(messages(), stalls, **path)
    return analysis.read(files.write(tmp_path / "x.pcap", wire), segments=True)


PATHS = {"at the primary": {"to_primary": 5_000, "to_secondary": 200_000},
         "at the secondary": {"to_primary": 200_000, "to_secondary": 5_000},
         "far": {"to_primary": 100_000, "to_secondary": 5_000_000}}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_no_cause_where_there_is_none(tmp_path: Path, path: dict[str, int]) -> None:
    capture = read(tmp_path, **path)
    assert len(capture.checkpoints) == CHECKPOINTS + 1
    assert capture.checkpoints["complete"].all()
    assert capture.causes.empty, capture.causes["text"].tolist()


PLANTED = {
    "lost at the end of pages": (p.PAGE_DATA, None, planted.LOST, "cpu", "retransmission"),
    "lost in front of the capture": (p.PAGE_DATA, None, planted.LOST_BEFORE, "memory", "retransmission"),
    "lost at the end of the state": (p.CHECKPOINT_END, None, planted.LOST, "load", "retransmission"),
    "receiver does not read": (p.PAGE_DATA, None, planted.WINDOW_FULL, "memory", "receive_window"),
    "pages not there": (p.PAGE_DATA, None, planted.PAUSE, "memory", "sender_idle"),
    "device state not there": (p.EMULATOR_CONTEXT, None, planted.PAUSE, "device", "sender_idle"),
    "ready in small writes": (p.CHECKPOINT_STATE, "SVM_READY", planted.SMALL_WRITES, "load", "nagle"),
    "suspended in small writes": (p.CHECKPOINT_STATE, "SVM_SUSPENDED", planted.SMALL_WRITES, "suspend", "nagle"),
    "new in small writes": (p.CHECKPOINT_STATE, "NEW", planted.SMALL_WRITES, "lockstep", "nagle"),
    "slow suspend": (p.CHECKPOINT_STATE, "SVM_SUSPENDED", planted.LATE, "suspend", "slow_suspend"),
    "slow list": (p.CHECKPOINT_DIRTY_PFN_LIST, None, planted.LATE, "list", "slow_list"),
    "slow merge": (p.PAGE_DATA, None, planted.LATE, "merge", "slow_merge"),
    "slow load": (p.CHECKPOINT_STATE, "SVM_READY", planted.LATE, "load", "slow_load"),
    "slow resume": (p.CHECKPOINT_STATE, "SVM_RESUMED", planted.LATE, "resume", "slow_resume"),
}


@pytest.mark.parametrize("size", [45 * MS, 210 * MS], ids=["45 ms", "210 ms"])
@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_stall_is_found(tmp_path: Path, plant: tuple[p.Structure, str | None, int, str, str],
                                  size: int) -> None:
    structure, name, kind, phase, cause = plant
    number = sync(name, 3) if name else number_of(structure, 3)
    capture = read(tmp_path, {number: Stall(kind, size)})
    # What the capture saw is delivered, lost or not; NEW itself belongs to the lockstep of the checkpoint before it.
    checkpoint = 2 if phase == "lockstep" else 3
    (found,) = capture.causes.to_dict("records")
    assert (found["checkpoint"], found["phase"], found["cause"]) == (checkpoint, phase, cause)
    own = messages()[number].delay if cause.startswith("slow") else 0  # what it takes without the stall
    assert abs(found["duration"].value - size - own) <= MS
    assert found["frame"] < found["to_frame"]
    times = capture.segments.set_index("frame")["time"]
    seen = times[found["to_frame"]] - times[found["frame"]]
    assert abs(seen.value - found["duration"].value) <= MS + own


@pytest.mark.parametrize(("to_secondary", "cause"), [(5_900_000, "round_trip"), (100_000, "late_ack")])
def test_bursts_that_wait_for_acknowledgements(tmp_path: Path, to_secondary: int, cause: str) -> None:
    """The congestion window waits for round trips, or for a receiver that takes longer than they do."""
    number = number_of(p.PAGE_DATA, 3)
    bursts = -(-len(messages()[number].octets) // 1448) // planted.BURST
    capture = read(tmp_path, {number: Stall(planted.BURSTS, 12 * MS)}, to_secondary=to_secondary)
    (found,) = capture.causes.to_dict("records")
    assert (found["checkpoint"], found["phase"], found["cause"]) == (3, "memory", cause)
    assert abs(found["duration"].value - bursts * 12 * MS) <= MS


def test_several_causes_at_once_are_told_apart(tmp_path: Path) -> None:
    capture = read(tmp_path, {
        sync("SVM_SUSPENDED", 2): Stall(planted.LATE, 100 * MS),
        number_of(p.PAGE_DATA, 2): Stall(planted.LOST, 230 * MS),
        sync("SVM_READY", 2): Stall(planted.SMALL_WRITES, 41 * MS),
        number_of(p.PAGE_DATA, 4): Stall(planted.PAUSE, 60 * MS)})
    found = {(row["checkpoint"], row["cause"]): row["duration"].value // MS
             for row in capture.causes.to_dict("records")}
    assert found.keys() == {(2, "slow_suspend"), (2, "retransmission"), (2, "nagle"), (4, "sender_idle")}
    assert found[2, "retransmission"] in (229, 230)
    assert found[2, "nagle"] in (40, 41)


def test_what_the_receiver_had_already_was_not_lost(tmp_path: Path) -> None:
    number = number_of(p.PAGE_DATA, 3)
    wire = planted.planted(messages(), {number: Stall(planted.LOST, 50 * MS)})
    rows = wire.rows.copy()
    mine = np.flatnonzero((rows["side"] == 0) & (rows["length"] > 0))
    again = mine[np.flatnonzero(np.diff(rows["offset"][mine]) == 0)[0] + 1]
    ack = rows[again:again + 1].copy()
    ack["side"], ack["length"], ack["flags"] = 1, 0, 16
    ack["offset"], ack["ack"] = rows["ack"][again], rows["offset"][again] + rows["length"][again]
    ack["time"] = rows["time"][again] - 20 * MS
    path = files.write(tmp_path / "x.pcap", wire.keep(np.sort(np.concatenate((rows, ack)), order="time")))
    causes = analysis.read(path, segments=True).causes
    assert "retransmission" not in set(causes["cause"])


def test_what_is_not_in_the_capture_is_no_cause(tmp_path: Path) -> None:
    number = number_of(p.PAGE_DATA, 3)
    wire = planted.planted(messages(), {number: Stall(planted.PAUSE, 80 * MS)})

    def causes(rows: np.ndarray) -> set[str]:
        return set(analysis.read(files.write(tmp_path / "x.pcap", wire.keep(rows)), segments=True).causes["cause"])

    assert causes(wire.rows) == {"sender_idle"}
    assert causes(wire.rows[3:]) == {"sender_idle"}  # without the handshake
    forward = wire.rows[wire.rows["side"] == 0]
    assert not causes(forward)  # nobody answers: was there room?
    pause = np.flatnonzero(np.diff(wire.rows["time"]) > 70 * MS)
    behind = next(i + 1 for i in pause if wire.rows["length"][i + 1] == 1448)
    assert "sender_idle" not in causes(np.delete(wire.rows, behind))  # something passed there unseen


def test_a_window_that_is_closed_is_seen_without_its_scale(tmp_path: Path) -> None:
    wire = planted.planted(messages(), {number_of(p.PAGE_DATA, 3): Stall(planted.WINDOW_FULL, 80 * MS)})
    capture = analysis.read(files.write(tmp_path / "x.pcap", wire.keep(wire.rows[3:])), segments=True)
    assert capture.causes["cause"].tolist() == ["receive_window"]


@pytest.mark.parametrize("name", ["colo-hvm-fast.A", "colo-hvm-dirty.A", "colo-hvm-dirty.B", "colo-2ck-abort.A",
                                  "remus-hvm.A", "plain-hvm-mtu.A"])
def test_parts_add_up_to_their_phases(name: str) -> None:
    capture = analysis.read(PCAPS / f"{name}.pcap.zst", segments=True)
    parts, phases = capture.export("parts"), capture.export("phases")
    key = ["connection", "checkpoint", "phase"]
    known = phases[phases["duration_ns"].fillna(0) != 0].set_index(key)["duration_ns"]
    assert parts.groupby(key)["duration_ns"].sum().sort_index().to_dict() == known.sort_index().to_dict()
    assert (parts["duration_ns"] > 0).all() or name != "colo-hvm-fast.A"


def test_real_delayed_acknowledgements() -> None:
    causes = analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst", segments=True).causes
    ready = causes[(causes["cause"] == "nagle") & (causes["phase"] == "load")
                   & (causes["duration"] > pd.Timedelta(30, "ms"))]
    # Each as tshark shows it: 8 octets, silence, an ACK, the rest.
    assert ready["checkpoint"].tolist()[:4] == [1, 2, 3, 16]
    assert ready["duration"].dt.total_seconds().between(0.040, 0.048).all()


def test_nothing_is_called_lost_that_a_receiver_had() -> None:
    """The lab lost no packet; what was sent again there was answered with D-SACKs."""
    causes = analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst", segments=True).causes
    assert "retransmission" not in set(causes["cause"])


def test_causes_want_segments() -> None:
    with pytest.raises(ValueError, match="segments=True"):
        _ = analysis.read(PCAPS / "debian-nocolo.A.pcap.zst").causes
