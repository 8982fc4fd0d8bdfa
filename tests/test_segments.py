# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP segments as a table: places, windows, what was sent again; held against tshark."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import WINDOW, Wire

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)


def segments_of(path: Path) -> pd.DataFrame:
    return analysis.read(path, segments=True).segments


def test_each_segment_of_a_connection(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, GUEST), isn=(0xFFFFFFF0, 77))  # the sequence number wraps at once
    found = segments_of(files.write(tmp_path / "x.pcap", wire))
    rows, octets = wire.rows, wire.rows["length"] > 0
    assert found["frame"].tolist() == list(range(1, len(rows) + 1))
    assert (found["direction"] == "back").tolist() == (rows["side"] == 1).tolist()
    assert found["stream_offset"][octets].tolist() == rows["offset"][octets].tolist()
    assert found["length"].tolist() == rows["length"].tolist()
    assert found["time"].astype("int64").tolist() == rows["time"].tolist()
    assert found["acknowledges"][3:].tolist() == rows["ack"][3:].tolist()
    assert found["acknowledges"].isna().tolist() == [True] + [False] * (len(rows) - 1)
    assert found["window"][1:].tolist() == [WINDOW] * (len(rows) - 1)
    assert set(found["kind"][octets]) == {"new"}
    assert found["kind"][~octets].isna().all()
    assert found["flags"][:3].tolist() == ["SYN", "SYN ACK", "ACK"]


def test_without_the_handshake_windows_are_not_known(tmp_path: Path) -> None:
    found = segments_of(files.write(tmp_path / "x.pcap", Wire(stream.colo(2, GUEST), handshake=False)))
    assert found["window"].isna().all()
    assert found["stream_offset"].min() == 0


def test_what_was_seen_before_and_what_was_late(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, GUEST))
    full = wire.data_rows()[[len(r) for r in map(wire.payload, wire.rows[wire.data_rows()])].index(1448)]
    order = np.arange(len(wire.rows), dtype=float)
    order[full] += 1.5  # it comes behind the next one
    rows = wire.rows[np.argsort(order, kind="stable")]
    again = np.concatenate((rows[:full + 5], rows[full:full + 1], rows[full + 5:]))
    found = segments_of(files.write(tmp_path / "x.pcap", wire.keep(again)))
    assert found["kind"][full:full + 2].tolist() == ["new", "late"]
    assert found["kind"][full + 5] == "retransmission"
    assert found["kind"].value_counts()["retransmission"] == 1


def test_other_connections_leave_nothing(tmp_path: Path) -> None:
    other = Wire(stream.colo(1, GUEST), ports=(1, 2))
    other.streams = {d: b"x" * len(octets) for d, octets in other.streams.items()}
    mine = Wire(stream.colo(1, GUEST))
    found = segments_of(files.write(tmp_path / "x.pcap", [other, mine]))
    assert found["connection"].nunique() == 1
    assert len(found) == len(mine.rows)


def test_they_are_kept_only_where_asked_for(tmp_path: Path) -> None:
    capture = analysis.read(files.write(tmp_path / "x.pcap", Wire(stream.colo(1, GUEST))))
    with pytest.raises(ValueError, match="segments=True"):
        _ = capture.segments


def test_keeping_them_changes_nothing_else(tmp_path: Path) -> None:
    path = PCAPS / "colo-hvm-dirty.A.pcap.zst"
    pd.testing.assert_frame_equal(analysis.read(path, segments=True, contents=True).records,
                                  analysis.read(path).records)


@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
@pytest.mark.parametrize("name", ["colo-hvm-fast.A", "colo-2ck-abort.A", "remus-pv-netem-s128.A"])
def test_tshark_sees_the_same(name: str) -> None:
    path = PCAPS / f"{name}.pcap.zst"
    found = analysis.read(path, segments=True).export("segments")
    columns = ["frame.number", "tcp.len", "tcp.window_size", "tcp.ack", "tcp.analysis.retransmission",
               "tcp.analysis.spurious_retransmission", "tcp.analysis.fast_retransmission"]
    out = subprocess.run(
        ["tshark", "-r", str(path), "-n", "-Y", "tcp", "-T", "fields", "-o", "tcp.desegment_tcp_streams:FALSE",
         *(word for column in columns for word in ("-e", column))],
        capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in out.splitlines()]
    assert found["frame"].tolist() == [int(row[0]) for row in rows]
    assert found["length"].tolist() == [int(row[1]) for row in rows]
    assert found["window"][1:].tolist() == [int(row[2]) for row in rows[1:]]
    resets = found["flags"].str.contains("RST").to_numpy()
    answers = [int(row[3]) - 1 for row in rows]  # Wireshark counts the SYN
    mine = found["acknowledges"].fillna(-1).to_numpy()
    assert [a for a, r in zip(mine, resets, strict=True) if not r][1:] == \
        [a for a, r in zip(answers, resets, strict=True) if not r][1:]
    again = {int(row[0]) for row in rows if any(row[4:])}
    ours = set(found["frame"][found["kind"].isin(["retransmission", "late"])])
    # Wireshark calls some of them out of order, by their timing.
    assert again <= ours
