# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a capture was made, and what that leaves to be known of latencies at both ends."""

from __future__ import annotations

from pathlib import Path as File

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
from analysis.capture_point import AT_PRIMARY, AT_SECONDARY, BETWEEN
from analysis.cli import main
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.path import HOST, Path, with_rows
from tests.synthesiser.stream import MS, Guest
from tests.synthesiser.wire import SYN, Wire

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)
WAY = Path()
NEAR = Path(forward=100_000, back=150_000)


def captured(folder: File, wire: Wire) -> analysis.Capture:
    return analysis.read(files.write(folder / "x.pcap", wire), segments=True)


def point(folder: File, wire: Wire) -> dict[str, object]:
    return captured(folder, wire).capture_points.iloc[0].to_dict()


# --- the place --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "place"), [(0, AT_PRIMARY), (0.4, BETWEEN), (1, AT_SECONDARY)])
def test_the_place(tmp_path: File, share: float, place: str) -> None:
    found = point(tmp_path, WAY.seen(WAY.run(stream.colo(2, GUEST)), share))
    assert found["place"] == place
    for end, part in (("primary", share), ("secondary", 1 - share)):
        assert found[f"to_{end}_ms"] == pytest.approx((part * (WAY.forward + WAY.back) + HOST) / MS, abs=0.005)
    assert found["to_secondary_samples"] > 10


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_short_way_does_not_tell(tmp_path: File, share: float) -> None:
    found = point(tmp_path, NEAR.seen(NEAR.run(stream.colo(1, GUEST)), share))
    assert found["place"] is None
    assert found["to_secondary_ms"] < 1


def test_the_handshake_alone_tells(tmp_path: File) -> None:
    wire = WAY.seen(WAY.run(stream.colo(1, GUEST), acks=False), 0)
    keep = (wire.rows["side"] == 0) | (wire.rows["flags"] & SYN > 0)
    found = point(tmp_path, with_rows(wire, wire.rows[keep]))
    assert (found["to_secondary_by"], found["to_secondary_samples"]) == ("handshake", 1)
    assert found["to_primary_by"] == "handshake"


def test_a_repeated_syn_tells_nothing(tmp_path: File) -> None:
    wire = WAY.seen(WAY.run(stream.colo(1, GUEST), acks=False), 0)
    rows = wire.rows[(wire.rows["side"] == 0) | (wire.rows["flags"] & SYN > 0)]
    twice = np.concatenate((rows[:1], rows))
    twice["time"][0] -= 1000 * MS
    found = point(tmp_path, with_rows(wire, twice))
    assert np.isnan(found["to_secondary_ms"])
    assert pd.isna(found["to_secondary_samples"])
    assert found["place"] is None


def test_one_direction_tells_nothing(tmp_path: File) -> None:
    wire = WAY.seen(WAY.run(stream.colo(1, GUEST)), 0)
    found = point(tmp_path, with_rows(wire, wire.rows[wire.rows["side"] == 0]))
    assert found["place"] is None
    assert np.isnan(found["to_primary_ms"])


def test_a_real_link_of_5_ms() -> None:
    found = analysis.read(PCAPS / "remus-pv-netem-s128.A.pcap.zst", segments=True).capture_points.iloc[0]
    assert found["place"] == AT_PRIMARY
    assert 10 < found["to_secondary_ms"] < 11, "tshark: tcp.analysis.ack_rtt is 10.3 ms at least"


def test_without_segments_it_is_an_error() -> None:
    capture = analysis.read(PCAPS / "debian-nocolo.A.pcap.zst")
    with pytest.raises(ValueError, match="segments=True"):
        _ = capture.capture_points
    with pytest.raises(ValueError, match="segments=True"):
        _ = capture.bounds


# --- bounds -----------------------------------------------------------------------------------------


def ms(latencies: pd.Series) -> np.ndarray:
    return latencies.to_numpy("timedelta64[ns]").astype("int64") / 1e6


def inside(bounds: pd.DataFrame, end: str, truth: np.ndarray) -> np.ndarray:
    slack = 1e-6
    return ((bounds[f"{end}_min_ms"] <= truth + slack) & (truth <= bounds[f"{end}_max_ms"] + slack)).to_numpy()


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize(("forward", "back", "jitter"), [(2, 3, 0), (5, 1, 0), (2, 3, 1)])
def test_bounds_hold_the_truth(tmp_path: File, share: float, forward: int, back: int, jitter: int) -> None:
    way = Path(forward * MS, back * MS, jitter * MS)
    wire = way.run(stream.colo(6, GUEST), split=lambda message: (8,) if message.control_id is not None else ())
    truth = {end: ms(captured(tmp_path, way.seen(wire, at)).pairs["latency"])
             for end, at in (("primary", 0), ("secondary", 1))}
    capture = captured(tmp_path, way.seen(wire, share))
    found = capture.bounds
    assert len(found) == len(capture.pairs) == 6 * 6
    for end, latencies in truth.items():
        assert inside(found, end, latencies).all(), end
        assert (found[f"{end}_max_ms"] - found[f"{end}_min_ms"] < 2 * (way.longest + HOST) / MS + 6).all()
    if share not in (0, 1):
        assert not np.allclose(truth["primary"], ms(found["latency"])), "what is seen is not what is there"


def test_a_detour_that_nothing_shows_breaks_the_assumption(tmp_path: File) -> None:
    """The twin: one NEW takes 40 ms more than ever before, and no ACK or answer tells when it left."""
    wire = WAY.run(stream.colo(3, GUEST))
    early = captured(tmp_path, WAY.seen(wire, 0)).pairs["latency"]
    middle = WAY.seen(wire, 0.5)
    new = captured(tmp_path, middle).syncs.query("name == 'NEW'")["frame"].iloc[1] - 1
    rows = middle.rows.copy()
    rows["time"][new:] += 40 * MS
    found = captured(tmp_path, with_rows(middle, rows)).bounds
    wrong = ~inside(found, "primary", ms(early))
    assert set(zip(found["from"][wrong], found["to"][wrong], strict=True)) \
        == {("SVM_RESUMED", "NEW"), ("NEW", "NEW")}


def test_what_was_retransmitted_is_not_narrowed(tmp_path: File) -> None:
    """SVM_SUSPENDED is lost behind the capture point and comes again 200 ms later: its ACK alone tells when
    it arrived."""
    wire = WAY.seen(WAY.run(stream.colo(2, GUEST)), 0.5)
    clean = captured(tmp_path, wire)
    at = int(clean.syncs.query("name == 'SVM_SUSPENDED'")["frame"].iloc[0]) - 1
    again = wire.rows[at:at + 1].copy()
    behind = wire.rows[at + 1:].copy()
    again["time"] += 200 * MS
    behind["time"] += 200 * MS
    found = captured(tmp_path, with_rows(wire, np.concatenate((wire.rows[:at + 1], again, behind)))).bounds
    pair = (found["from"] == "NEW") & (found["checkpoint"] == 1) & (found["to"] == "SVM_SUSPENDED")
    width = (found["primary_max_ms"] - found["primary_min_ms"])[pair].iloc[0]
    usual = (clean.bounds["primary_max_ms"] - clean.bounds["primary_min_ms"])[pair].iloc[0]
    assert usual < 10 < 200 < width < 210


def test_a_late_octet_has_no_known_departure(tmp_path: File) -> None:
    """NEW was lost in front of the capture point: when its first copy left is not known."""
    wire = WAY.seen(WAY.run(stream.colo(2, GUEST)), 0.5)
    clean = captured(tmp_path, wire)
    at = int(clean.syncs.query("name == 'SVM_READY'")["frame"].iloc[1]) - 1
    rows = wire.rows.copy()
    rows[[at, at + 1]] = rows[[at + 1, at]]
    rows["time"] = np.sort(rows["time"])
    resumed = int(clean.syncs.query("name == 'SVM_RESUMED'")["frame"].iloc[1]) - 1
    order = [*range(at), *range(at + 1, resumed + 1), at, *range(resumed + 1, len(rows))]
    rows = wire.rows[order].copy()
    rows["time"] = np.sort(rows["time"])
    found = captured(tmp_path, with_rows(wire, rows)).bounds
    pair = found[(found["from"] == "SVM_SUSPENDED") & (found["checkpoint"] == 1)].iloc[0]
    assert np.isnan(pair["secondary_min_ms"])
    assert not np.isnan(pair["secondary_max_ms"])


def test_both_real_ends_of_one_run_agree() -> None:
    """What is seen at one end lies within the bounds of what is seen at the other; in two checkpoints of 26
    a message of the emulated hosts took longer than the usual round trip."""
    ends = {"primary": "A", "secondary": "B"}
    found = {end: analysis.read(PCAPS / f"colo-hvm-dirty.{letter}.pcap.zst", segments=True).bounds
             for end, letter in ends.items()}
    for end, other in (("primary", "secondary"), ("secondary", "primary")):
        right = inside(found[other], end, ms(found[end]["latency"]))
        assert set(found[end]["checkpoint"][~right]) <= {8, 16}
        assert right.sum() >= 155


# --- the command ------------------------------------------------------------------------------------


def test_latency_at_an_end(tmp_path: File) -> None:
    path = str(files.write(tmp_path / "x.pcap", WAY.seen(WAY.run(stream.colo(12, GUEST)), 0.5)))
    done = CliRunner().invoke(main, ["latency", "--at", "secondary", path])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(pd.io.common.StringIO(done.stdout))
    seen = analysis.read(path).latency()
    for name in ("min", "mean", "p50", "p90", "max"):
        least, most = (table[table["bound"] == bound][f"{name}_ms"].to_numpy() for bound in ("at least", "at most"))
        assert len(least) == len(most) == len(seen)
        known = seen[f"{name}_ms"].notna().to_numpy()
        assert (least[known] <= most[known]).all()
        assert (np.abs(seen[f"{name}_ms"].to_numpy()[known] - least[known]) < 6).all()
    assert CliRunner().invoke(main, ["latency", "--at", "moon", path]).exit_code == 2
