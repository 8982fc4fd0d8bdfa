# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs, checkpoints, phases and statistics, as the docstrings of `analysis` define them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.checkpoints import PHASE_COLUMNS
from analysis.statistics import percentiles, summary
from dissector.protocol import FORWARD
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import MS, Guest
from tests.synthesiser.wire import Wire
from tests.test_syncpoints import index_of

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)


def of(tmp_path: Path, wire: Wire) -> analysis.Capture:
    return analysis.read(files.write(tmp_path / "x.pcap", wire))


@pytest.fixture(scope="module")
def fast() -> analysis.Capture:
    return analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst")


def counts(latency: pd.DataFrame) -> dict[tuple[str, str, str], tuple[int, int]]:
    keys = zip(latency["phase"], latency["from"], latency["to"], strict=True)
    return dict(zip(keys, zip(latency["count"], latency["lost"], strict=True), strict=True))


def test_counts_of_a_real_pair(fast: analysis.Capture) -> None:
    assert counts(fast.latency()) == {
        ("checkpoint", "NEW", "SVM_SUSPENDED"): (49, 0),
        ("checkpoint", "SVM_SUSPENDED", "SVM_READY"): (49, 0),
        ("checkpoint", "SVM_READY", "SVM_RESUMED"): (49, 0),
        ("first_boot", "SVM_READY", "SVM_RESUMED"): (1, 0),
        ("checkpoint", "SVM_RESUMED", "NEW"): (49, 0),
        ("checkpoint", "NEW", "SVM_RESUMED"): (49, 0),
        ("checkpoint", "NEW", "NEW"): (48, 0)}
    assert len(fast.syncs) == 198
    assert fast.checkpoints["number"].tolist() == list(range(50))
    assert fast.checkpoints["complete"].all()


def test_phases_add_up_to_the_nanosecond(fast: analysis.Capture) -> None:
    rows = fast.checkpoints.iloc[1:]
    *eight, last = PHASE_COLUMNS
    in_ns = (rows[PHASE_COLUMNS] * 1e6).round()
    whole = (rows["new_to_svm_resumed_ms"] * 1e6).round()
    assert (in_ns[eight].sum(axis=1) == whole).all()
    both = rows[rows["new_to_new_ms"].notna()]
    assert ((both[[*eight, last]] * 1e6).round().sum(axis=1)
            == (both["new_to_new_ms"] * 1e6).round()).all()
    assert (rows["merged"] == "").all()
    pairs = rows["new_to_svm_suspended_ms"] + rows["svm_suspended_to_svm_ready_ms"] \
        + rows["svm_ready_to_svm_resumed_ms"]
    assert np.allclose(pairs, rows["new_to_svm_resumed_ms"])


def test_volumes_of_real_checkpoints(fast: analysis.Capture) -> None:
    rows = fast.checkpoints
    assert rows["forward_octets"].sum() == fast.connections["forward_octets"].sum()
    assert rows["records"].sum() == len(fast.records) == 1625
    lists = fast.records[fast.records["name"] == "CHECKPOINT_DIRTY_PFN_LIST"]
    assert rows["dirty_pfns"].iloc[1:].tolist() == lists["count"].tolist()


def test_types_at_the_edge(fast: analysis.Capture) -> None:
    assert str(fast.syncs["delivered"].dtype) == "datetime64[ns, UTC]"
    assert str(fast.pairs["latency"].dtype) == "timedelta64[ns]"
    assert fast.records["name"].dtype == "category"
    exported = fast.export("records")
    assert exported["delivered_ns"].dtype == "Int64"
    assert exported["type"].dtype == "Int64"
    # Not through float64, which cannot hold ns since the epoch.
    new = fast.export("checkpoints")["new_ns"].iloc[1]
    sync = fast.export("syncs").query("name == 'NEW'")["delivered_ns"].iloc[0]
    assert new == sync


def test_a_pair_that_was_cut_off() -> None:
    capture = analysis.read(PCAPS / "colo-2ck-abort.A.pcap.zst")
    assert capture.checkpoints["complete"].tolist() == [True, False]
    assert capture.checkpoints["svm_ready_to_svm_resumed_ms"].isna().tolist() == [False, True]
    assert ("checkpoint", "NEW", "SVM_RESUMED") not in counts(capture.latency())


def test_remus_and_plain_rows() -> None:
    remus = analysis.read(PCAPS / "remus-hvm.A.pcap.zst").checkpoints
    assert len(remus) == 37
    assert remus["new_to_new_ms"].isna().all()
    assert remus["complete"].all()
    assert (remus["device_ms"] > 0).all()
    plain = analysis.read(PCAPS / "plain-hvm-mtu.A.pcap.zst").checkpoints
    (row,) = plain.to_dict("records")
    assert row["complete"]
    assert math.isclose(row["total_ms"], 10_122.402)
    assert 0 < row["downtime_min_ms"] < row["downtime_max_ms"] < row["total_ms"]
    # READY, GO and REPORT: the guest cannot stand still for less than from END to GO.
    assert math.isclose(row["downtime_min_ms"], 1047.508)


def test_latencies_are_those_that_were_made(tmp_path: Path) -> None:
    """Delays of the synthesiser are what the tables say, to the nanosecond."""
    capture = of(tmp_path, Wire(stream.colo(5, GUEST), ack_delay=0))
    pairs = capture.export("pairs")
    sure = pairs[(pairs["from"] == "SVM_READY") & (pairs["phase"] == "checkpoint")]
    assert sure["latency_ns"].tolist() == [40 * MS + 1000] * 5
    assert (pairs[pairs["from"] == "NEW"].query("to == 'SVM_SUSPENDED'")["latency_ns"]
            == 120 * MS + 1000).all()
    assert (pairs["reason"] == "").all()


def test_the_order_of_2015_merges_a_phase(tmp_path: Path) -> None:
    capture = of(tmp_path, Wire(stream.colo(3, replace(GUEST, order_2015=True))))
    rows = capture.checkpoints.iloc[1:]
    assert (rows["merged"] == "load").all()
    assert (rows["load_ms"] == 0).all()
    assert (rows["resume_ms"] >= 40).all()
    assert np.allclose(rows[PHASE_COLUMNS[:-1]].sum(axis=1), rows["new_to_svm_resumed_ms"])
    assert counts(capture.latency())["checkpoint", "SVM_SUSPENDED", "SVM_RESUMED"] == (3, 0)
    assert rows["complete"].all()


def test_a_checkpoint_without_pages_merges_memory(tmp_path: Path) -> None:
    capture = of(tmp_path, Wire(stream.colo(2, replace(GUEST, dirty=0))))
    rows = capture.checkpoints.iloc[1:]
    assert (rows["merged"] == "memory").all()
    assert (rows["memory_ms"] == 0).all()
    assert (rows["cpu_ms"] > 0).all()


def test_a_hole_takes_pairs_away_and_says_how_many(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, GUEST), mss=1000)
    new = index_of(wire.messages, "NEW", 1)
    offset = sum(len(m.octets) for m in wire.messages[:new] if m.direction == FORWARD)
    inside = next(i for i in wire.data_rows() if wire.rows["side"][i] == 0
                  and wire.rows["offset"][i] > offset + 1200)
    capture = of(tmp_path, wire.keep(np.delete(wire.rows, inside)))
    found = counts(capture.latency())
    assert found["checkpoint", "NEW", "SVM_SUSPENDED"] == (3, 0)
    assert found["checkpoint", "SVM_SUSPENDED", "SVM_READY"] == (2, 1)
    assert found["checkpoint", "SVM_READY", "SVM_RESUMED"] == (2, 1)
    assert found["checkpoint", "NEW", "SVM_RESUMED"] == (2, 1)
    assert found["checkpoint", "NEW", "NEW"] == (1, 1)
    assert capture.checkpoints["complete"].tolist() == [True, True, False, True]
    reasons = capture.pairs.query("reason != ''")[["from", "to", "reason"]].to_dict("records")
    assert {"from": "SVM_SUSPENDED", "to": "SVM_READY", "reason": "hole"} in reasons


def test_a_violation_takes_only_its_own_pairs(tmp_path: Path) -> None:
    messages = list(stream.colo(3, GUEST))
    del messages[index_of(messages, "SVM_SUSPENDED", 1)]
    capture = of(tmp_path, Wire(messages))
    found = counts(capture.latency())
    assert found["checkpoint", "NEW", "SVM_SUSPENDED"] == (2, 1)
    assert found["checkpoint", "SVM_SUSPENDED", "SVM_READY"] == (2, 1)
    assert found["checkpoint", "NEW", "SVM_RESUMED"] == (2, 1)
    assert capture.export("findings")["rule"].tolist() == ["out_of_order"]


def test_a_new_with_nothing_behind_it_is_a_row(tmp_path: Path) -> None:
    messages = list(stream.colo(2, GUEST))
    capture = of(tmp_path, Wire(messages[:index_of(messages, "NEW", 1) + 1]))
    assert capture.checkpoints["complete"].tolist() == [True, True, False]
    assert counts(capture.latency())["checkpoint", "NEW", "NEW"] == (1, 0)


def test_acknowledgements_and_spread(fast: analysis.Capture) -> None:
    syncs = fast.export("syncs")
    assert (syncs["acked_ns"] >= syncs["delivered_ns"]).all()
    assert (syncs["spread_ms"] >= 0).all()
    assert (syncs["spread_ms"] > 30).any(), "some SVM_READY wait for a delayed ACK"


@pytest.mark.parametrize(("name", "p", "n"), [
    ("p50", 0.5, 2), ("p90", 0.9, 10), ("p95", 0.95, 20), ("p99", 0.99, 100),
    ("p99.9", 0.999, 1000)])
def test_percentiles_need_enough_values(name: str, p: float, n: int) -> None:
    assert math.isnan(*percentiles(np.arange(n - 1.0), p))
    assert percentiles(np.arange(float(n)), p)[0] == pytest.approx(p * (n - 1))


def test_statistics_of_few_values() -> None:
    assert all(math.isnan(value) for value in summary(()).values())
    one = summary([5_000_000])
    assert (one["min_ms"], one["mean_ms"], one["max_ms"]) == (5, 5, 5)
    assert math.isnan(one["std_ms"])
    assert summary([1_000_000, 3_000_000])["std_ms"] == pytest.approx(math.sqrt(2))


def test_a_failed_migration_is_not_complete(tmp_path: Path) -> None:
    for failed in (False, True):
        (row,) = of(tmp_path, Wire(stream.plain(GUEST, failed=failed))).checkpoints.to_dict("records")
        assert row["complete"] == (not failed)
        assert math.isnan(row["downtime_min_ms"]) == failed


def test_a_record_that_breaks_off_has_not_passed(tmp_path: Path) -> None:
    wire = Wire(stream.plain(Guest(memory=64, batch=32)))
    part = wire.keep(wire.rows[:60])
    (row,) = of(tmp_path, part).checkpoints.to_dict("records")
    assert row["pages"] == 0
    assert not row["complete"]


def test_a_clock_that_steps_back_makes_no_duration(tmp_path: Path) -> None:
    wire = Wire(stream.plain(GUEST))
    wire.rows["time"][len(wire.rows) // 2:] -= 5_000_000_000
    path = tmp_path / "x.pcap"
    path.write_bytes(files.pcap(list(files.frames(wire))))
    capture = analysis.read(path)
    (row,) = capture.checkpoints.to_dict("records")
    assert -5000 < row["total_ms"] < -4900, "as the stamps say, in capture order"
    assert "clock_back" in set(capture.findings["rule"])


def test_boundaries_out_of_order_are_not_clipped(tmp_path: Path) -> None:
    messages = list(stream.colo(3, GUEST))
    ready = index_of(messages, "SVM_READY", 1)
    messages[ready - 1], messages[ready] = messages[ready], messages[ready - 1]
    capture = of(tmp_path, Wire(messages))
    row = capture.checkpoints.iloc[1]
    assert row["load_ms"] < 0
    assert not row["complete"]
    assert {"inside_checkpoint", "phases_out_of_order"} <= set(capture.findings["rule"])
    assert row[PHASE_COLUMNS[:-1]].sum() == pytest.approx(
        (row["svm_resumed"] - row["new"]).total_seconds() * 1000)
