# SPDX-License-Identifier: GPL-2.0-or-later
"""Two captures of one run: the clocks' difference, and whose time each latency was."""

from __future__ import annotations

from io import StringIO
from pathlib import Path as File

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
from analysis.cli import main
from analysis.clock import ClockError, compare
from analysis.two_ends import PairError, TwoEnds
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.path import Path, clocked, with_rows
from tests.synthesiser.stream import MS, Guest
from tests.synthesiser.wire import Wire, repeat

pytest.importorskip("scipy")

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)
OFFSET, DRIFT = 1500 * MS, 50e-6
DIRTY = [str(PCAPS / f"colo-hvm-dirty.{end}.pcap.zst") for end in "AB"]
PARTS = ["primary_ns", "network_ns", "secondary_ns"]


def both(wire: Wire, way: Path, *, offset: int = OFFSET, drift: float = DRIFT) -> tuple[Wire, Wire]:
    """What is captured at the primary's and at the secondary's end, each by its own clock."""
    return way.seen(wire, 0), clocked(way.seen(wire, 1), offset, drift)


def ends(folder: File, one: Wire, other: Wire) -> TwoEnds:
    return analysis.pair(files.write(folder / "a.pcap", one), files.write(folder / "b.pcap", other))


def clock(found: TwoEnds) -> pd.Series:
    return found.clocks.iloc[0]


def assert_holds(found: TwoEnds, wire: Wire, *, offset: int = OFFSET, drift: float = DRIFT) -> None:
    """The planted offset, as it is at the time of the estimate, and drift lie within the stated bounds."""
    estimate = clock(found)
    first = int(wire.rows["time"][0])
    truth = (offset + drift * (estimate["at"].value - first)) / MS
    assert estimate["offset_min_ms"] <= truth <= estimate["offset_max_ms"]
    assert estimate["drift_min_ppm"] <= drift * 1e6 <= estimate["drift_max_ppm"]
    assert estimate["offset_min_ms"] <= estimate["offset_ms"] <= estimate["offset_max_ms"]
    assert estimate["drift_min_ppm"] <= estimate["drift_ppm"] <= estimate["drift_max_ppm"]
    assert estimate["uneven_ms"] == 0


def assert_adds_up(found: TwoEnds, count: int) -> pd.DataFrame:
    pairs = found.pairs
    assert (pairs["reason"] == "").sum() == pairs[PARTS[0]].notna().sum() == count
    assert (pairs[PARTS].sum(axis=1) == pairs["latency_ns"]).all()
    return pairs


# --- the clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forward", "back", "jitter"), [(2, 3, 0), (1, 9, 0), (9, 1, 3), (0.1, 0.2, 2)])
@pytest.mark.parametrize(("offset", "drift"), [(OFFSET, DRIFT), (-OFFSET, -DRIFT), (0, 0)])
def test_the_planted_clock_lies_within_the_bounds(tmp_path: File, forward: float, back: float, jitter: int,
                                                  offset: int, drift: float) -> None:
    way = Path(int(forward * MS), int(back * MS), jitter * MS)
    wire = way.run(stream.colo(8, GUEST))
    one, other = both(wire, way, offset=offset, drift=drift)
    found = ends(tmp_path, one, other)
    assert_holds(found, one, offset=offset, drift=drift)
    # No more is left open than the way there and back.
    estimate = clock(found)
    assert estimate["offset_max_ms"] - estimate["offset_min_ms"] < forward + back + 2 * jitter + 0.1
    assert_adds_up(found, 8 * 6)


def test_either_order_of_the_captures(tmp_path: File) -> None:
    way = Path()
    wire = way.run(stream.colo(3, GUEST))
    one, other = both(wire, way)
    found = ends(tmp_path, one, other)
    swapped = analysis.pair(tmp_path / "b.pcap", tmp_path / "a.pcap")
    assert [File(ends.primary.engine.files[0].name).name for ends in (found, swapped)] == ["a.pcap", "a.pcap"]
    pd.testing.assert_frame_equal(found.clocks, swapped.clocks)
    pd.testing.assert_frame_equal(found.pairs, swapped.pairs)


def test_real_captures_of_one_clock() -> None:
    found = analysis.pair(*DIRTY)
    estimate = clock(found)
    assert estimate["offset_min_ms"] <= 0 <= estimate["offset_max_ms"]
    assert estimate["drift_min_ppm"] <= 0 <= estimate["drift_max_ppm"]
    assert estimate["offset_max_ms"] - estimate["offset_min_ms"] < 0.1
    assert estimate["drift_max_ppm"] - estimate["drift_min_ppm"] < 1
    assert estimate["uneven_ms"] == 0
    pairs = assert_adds_up(found, 159)
    # With one clock the parts can be had by hand: SVM_SUSPENDED leaves the secondary so long after NEW arrived.
    truth = analysis.read(DIRTY[1]).pairs["latency"]
    suspend = pairs["to"] == "SVM_SUSPENDED"
    assert (pairs["secondary_ns"][suspend] - truth[suspend].astype("int64")).abs().max() <= 2000


def test_a_clock_that_is_set_meanwhile_is_called_uneven(tmp_path: File) -> None:
    way = Path()
    one, other = both(way.run(stream.colo(6, GUEST)), way, drift=0)
    rows = other.rows.copy()
    rows["time"][len(rows) // 2:] += 30 * MS
    found = clock(ends(tmp_path, one, with_rows(other, rows)))
    assert 5 < found["uneven_ms"] < 30


def test_what_cannot_be_compared() -> None:
    some = np.array([[1000, 2000], [5000, 6000]])
    with pytest.raises(ClockError, match="both directions"):
        compare(some, some[:0])
    with pytest.raises(ClockError, match="one moment"):
        compare(some[:1], some[:1])
    assert compare(some, some).offset_ns == pytest.approx(1000, abs=1000)


# --- which packets are the same ---------------------------------------------------------------------


@pytest.mark.parametrize("gone", [0, 1])
def test_packets_that_one_capture_lacks(tmp_path: File, gone: int) -> None:
    way = Path(jitter=MS)
    wire = way.run(stream.colo(5, GUEST))
    captures = list(both(wire, way))
    rng = np.random.default_rng(3)
    acks = np.flatnonzero((captures[gone].rows["length"] == 0) & (captures[gone].rows["time"] > 0))[3:]
    lost = rng.choice(acks, len(acks) // 4, replace=False)
    first = captures[0]
    captures[gone] = with_rows(captures[gone], np.delete(captures[gone].rows, lost))
    found = ends(tmp_path, *captures)
    assert_holds(found, first)
    assert_adds_up(found, 5 * 6)


def test_a_record_that_one_capture_lacks_splits_nothing(tmp_path: File) -> None:
    way = Path()
    one, other = both(way.run(stream.colo(3, GUEST)), way)
    ready = analysis.read(files.write(tmp_path / "x.pcap", other)).syncs.query("name == 'SVM_READY'")["frame"].iloc[2]
    found = ends(tmp_path, one, with_rows(other, np.delete(other.rows, int(ready) - 1)))
    pairs = found.pairs
    known = pairs["primary_ns"].notna()
    assert set(pairs["checkpoint"][~known]) == {2}
    assert ("SVM_READY", "SVM_RESUMED") in set(zip(pairs["from"][~known], pairs["to"][~known], strict=True))
    assert (pairs[PARTS].sum(axis=1) == pairs["latency_ns"])[known].all()


def test_retransmissions_and_offloads(tmp_path: File) -> None:
    """The primary's end sees what its network card cuts and what is sent again; the secondary's all in pieces."""
    way = Path(jitter=MS)
    large, small = (way.run(stream.colo(5, GUEST), mss=mss) for mss in (4000, 1000))
    one = way.seen(large, 0)
    same = clocked(way.seen(small, 1), 0, 0)
    again = repeat(one, np.random.default_rng(2), 0.2)
    found = ends(tmp_path, again, same)
    assert clock(found)["packets"] > 50
    assert_adds_up(found, 5 * 6)


def test_a_capture_that_starts_late(tmp_path: File) -> None:
    way = Path()
    wire = way.run(stream.colo(5, GUEST))
    one, other = both(wire, way)
    new = analysis.read(files.write(tmp_path / "x.pcap", other)).syncs.query("name == 'NEW'")["frame"].iloc[1]
    late = with_rows(other, other.rows[int(new) - 1:])
    found = ends(tmp_path, one, late)
    assert_holds(found, one)
    known = found.pairs[found.pairs["primary_ns"].notna()]
    assert set(known["checkpoint"]) == {2, 3, 4, 5}
    assert (known[PARTS].sum(axis=1) == known["latency_ns"]).all()


def test_addresses_that_are_translated_on_the_way(tmp_path: File) -> None:
    way = Path()
    wire = way.run(stream.colo(2, GUEST))
    one, other = both(wire, way)
    other.ends = ("192.0.2.7", "192.0.2.8")
    assert_holds(ends(tmp_path, one, other), one)


def test_captures_of_different_runs(tmp_path: File) -> None:
    way = Path()
    one = way.seen(way.run(stream.colo(1, GUEST)), 0)
    path = files.write(tmp_path / "a.pcap", one)
    with pytest.raises(PairError, match="in common"):
        analysis.pair(path, PCAPS / "plain-hvm-mtu.A.pcap.zst")
    two = [Wire(stream.colo(1, GUEST), ends=(f"10.0.{i}.1", f"10.0.{i}.2")) for i in (1, 2)]
    several = files.write(tmp_path / "two.pcap", two)
    with pytest.raises(PairError, match="their ends differ"):
        analysis.pair(several, path)


# --- the parts --------------------------------------------------------------------------------------


def test_parts_are_those_that_were_made(tmp_path: File) -> None:
    way = Path(forward=4 * MS, back=7 * MS)
    wire = way.run(stream.colo(4, GUEST))
    # One clock: the parts do not hang on an estimate.
    found = ends(tmp_path, *both(wire, way, offset=0, drift=0))
    network = {("NEW", "SVM_SUSPENDED"): 11, ("SVM_SUSPENDED", "SVM_READY"): 11, ("SVM_READY", "SVM_RESUMED"): 0,
               ("SVM_RESUMED", "NEW"): 0, ("NEW", "SVM_RESUMED"): 22, ("NEW", "NEW"): 22}
    for row in assert_adds_up(found, 4 * 6).itertuples():
        assert row.network_ns / MS == pytest.approx(network[row[4], row[5]], abs=0.01)
        if (row[4], row[5]) == ("NEW", "SVM_SUSPENDED"):
            assert row.primary_ns == 0
        if (row[4], row[5]) == ("SVM_RESUMED", "NEW"):
            assert (row.primary_ns, row.network_ns, row.secondary_ns) == (row.latency_ns, 0, 0)


def test_an_error_of_the_clocks_cancels_out(tmp_path: File) -> None:
    way = Path(forward=1 * MS, back=9 * MS)
    wire = way.run(stream.colo(4, GUEST))
    true, estimated = (ends(tmp_path, *both(wire, way, offset=offset, drift=0)) for offset in (0, OFFSET))
    assert abs(clock(estimated)["offset_ms"] - OFFSET / MS) > 3, "half of the asymmetry"
    pairs = [found.pairs[PARTS].astype("int64") for found in (true, estimated)]
    assert (pairs[0] - pairs[1]).abs().to_numpy().max() < 2000


# --- the command ------------------------------------------------------------------------------------


def test_the_command() -> None:
    done = CliRunner().invoke(main, ["latency", "--pair", *DIRTY])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(StringIO(done.stdout))
    assert list(table["count"]) == [27, 26, 26, 27, 26, 26, 1]
    assert np.allclose(table[["primary_ms", "network_ms", "secondary_ms"]].sum(axis=1), table["mean_ms"], atol=1e-5)
    assert "the secondary's clock is ahead by" in done.stderr


@pytest.mark.parametrize(("arguments", "why"), [
    (DIRTY[:1], "1 given"), ([*DIRTY, DIRTY[0]], "3 given"), ([*DIRTY, "--at", "primary"], "does not go with"),
    ([*DIRTY, "--from", "3"], "does not go with"),
    ([DIRTY[0], str(PCAPS / "plain-hvm-mtu.A.pcap.zst")], "in common")])
def test_what_cannot_be_a_pair(arguments: list[str], why: str) -> None:
    done = CliRunner().invoke(main, ["latency", "--pair", *arguments])
    assert done.exit_code == 2
    assert why in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
