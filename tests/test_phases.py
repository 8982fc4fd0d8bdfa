# SPDX-License-Identifier: GPL-2.0-or-later
"""Phases add up, in time and in octets; the pauses of both VMs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from dissector.protocol import FORWARD, PAGE_DATA, PHASES, REMUS_PHASES
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import MS, Guest, Message
from tests.synthesiser.wire import Wire
from tests.test_command import run
from tests.test_syncpoints import index_of

GUEST = Guest(memory=3, holes=1, dirty=2, emulator=60)
COLO = ("colo-hvm-fast.A", "colo-hvm-dirty.A", "colo-hvm-dirty.B", "colo-2ck-abort.A")


def real(name: str) -> analysis.Capture:
    return analysis.read(PCAPS / f"{name}.pcap.zst")


def of(tmp_path: Path, wire: Wire) -> analysis.Capture:
    return analysis.read(files.write(tmp_path / "x.pcap", wire))


def of_each(capture: analysis.Capture) -> dict[int, pd.DataFrame]:
    """The phases of each checkpoint, as integers."""
    return {number: rows.set_index("phase") for number, rows in capture.export("phases").groupby("checkpoint")}


def adds_up(capture: analysis.Capture) -> int:
    """Number of checkpoints whose phases were held against NEW, SVM_RESUMED and the next NEW."""
    rows = capture.export("checkpoints").set_index("number")
    seen = 0
    for number, phases in of_each(capture).items():
        assert tuple(phases.index) == PHASES
        assert (phases["begin_ns"].iloc[1:].dropna() == phases["end_ns"].iloc[:-1][
            phases["begin_ns"].iloc[1:].notna().to_numpy()].to_numpy()).all()
        if number == 0:
            continue
        own = rows.loc[number]
        if pd.notna(own["svm_resumed_ns"]):
            assert phases["duration_ns"].iloc[:-1].sum(skipna=False) == own["svm_resumed_ns"] - own["new_ns"]
            seen += 1
        if number + 1 in rows.index:
            assert phases["duration_ns"].sum(skipna=False) == rows.loc[number + 1, "new_ns"] - own["new_ns"]
    return seen


def octets_add_up(capture: analysis.Capture) -> None:
    records = capture.export("records")
    lengths = records.pivot_table(index="checkpoint", columns="direction", values="length", aggfunc="sum",
                                  observed=False, fill_value=0)
    for number, phases in of_each(capture).items():
        known = phases[phases["forward_octets"].notna()]
        assert known["forward_octets"].sum() == lengths.loc[number, FORWARD]
        if number > 0:
            assert known["back_octets"].sum() == lengths.loc[number, "back"]


@pytest.mark.parametrize(("name", "count"), list(zip(COLO, (49, 26, 26, 0), strict=True)))
def test_phases_of_real_pairs_add_up(name: str, count: int) -> None:
    capture = real(name)
    assert adds_up(capture) == count
    if count:
        octets_add_up(capture)


@pytest.mark.parametrize("guest", [
    GUEST, replace(GUEST, order_2015=True), replace(GUEST, dirty=0), replace(GUEST, lists=())], ids=[
    "usual", "2015", "no pages", "empty list"])
def test_phases_of_synthesised_pairs_add_up(tmp_path: Path, guest: Guest) -> None:
    capture = of(tmp_path, Wire(stream.colo(4, guest)))
    assert adds_up(capture) == 4
    octets_add_up(capture)


def test_a_phase_takes_what_was_made(tmp_path: Path) -> None:
    """Each record goes out alone, 1 ms or a given delay after the one before."""
    phases = of_each(of(tmp_path, Wire(stream.colo(1, GUEST), acks=False, mss=60_000)))[1]
    steps = {"suspend": 120, "list": 1, "merge": 5, "memory": 0, "cpu": 4, "device": 3, "load": 80, "resume": 40}
    made = {name: ms * MS + count * 1000 for (name, ms), count in zip(
        steps.items(), (1, 1, 1, 0, 4, 3, 1, 1), strict=True)}
    assert phases["duration_ns"].iloc[:-1].to_dict() == made
    assert phases["forward_octets"].tolist()[:6] == [16, 0, 0, 8 + 8 + 2 * (8 + 4096), 32 + 312 + 48 + 8,
                                                      phases["forward_octets"].iloc[5]]
    assert phases["back_octets"].iloc[:-1].tolist() == [16, 8 + 3 * 8, 0, 0, 0, 0, 16, 16]
    assert phases.loc["cpu", "octets_per_second"] == pytest.approx(400 / (4 * MS + 4000) * 1e9)
    assert np.isnan(phases.loc["memory", "octets_per_second"]), "no time passed"


def test_records_of_one_frame_are_told_apart(tmp_path: Path) -> None:
    """CPU state that rides in the frame that ends memory takes no time, but has octets of its own."""
    messages = list(stream.colo(1, GUEST))
    behind = index_of(messages, "SVM_SUSPENDED") + 2
    ready = index_of(messages, "SVM_READY", 1)
    one = Message(FORWARD, messages[behind].structure, b"".join(m.octets for m in messages[behind:ready]))
    phases = of_each(of(tmp_path, Wire([*messages[:behind], one, *messages[ready:]], mss=60_000)))[1]
    transfer = phases.loc[["memory", "cpu", "device"]]
    assert transfer["duration_ns"].tolist() == [0, 0, 0]
    assert transfer["forward_octets"].iloc[:2].tolist() == [8 + 8 + 2 * (8 + 4096), 400]
    assert not transfer["merged"].any(), "these boundaries exist"


def test_what_does_not_exist_is_merged_and_what_is_missing_is_not_known(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, replace(GUEST, order_2015=True)))
    merged = of_each(of(tmp_path, wire))[1]
    assert merged.index[merged["merged"]].tolist() == ["load"]
    assert merged.loc["load", "duration_ns"] == 0

    wire = Wire(stream.colo(2, GUEST), mss=1000, ack_delay=0)
    new = index_of(wire.messages, "NEW")
    offset = sum(len(m.octets) for m in wire.messages[:new] if m.direction == FORWARD)
    header = next(i for i in wire.data_rows() if wire.rows["side"][i] == 0 and wire.rows["offset"][i] == offset + 16)
    lost = of_each(of(tmp_path, wire.keep(np.delete(wire.rows, header))))[1]
    assert lost.loc["suspend", "duration_ns"] == 120 * MS + 1000
    unknown = lost["duration_ns"].isna()
    assert unknown.index[unknown].tolist() == ["merge", "memory", "cpu"], "the header of the one PAGE_DATA"
    assert lost.loc[unknown, "forward_octets"].isna().all()
    assert lost.loc["load", "duration_ns"] == 80 * MS + 1000
    assert not lost["merged"].any()


def test_epochs_of_remus_add_up_to_the_next_one() -> None:
    capture = real("remus-hvm.A")
    phases = capture.export("phases")
    assert tuple(phases["phase"].iloc[:4]) == REMUS_PHASES
    assert phases["checkpoint"].nunique() == 37
    begins = phases[phases["phase"] == REMUS_PHASES[0]].set_index("checkpoint")["begin_ns"]
    whole = phases.groupby("checkpoint")["duration_ns"].apply(lambda column: column.sum(skipna=False))
    assert (whole.iloc[:-1] == begins.diff().iloc[1:].to_numpy()).all()
    idle = phases[phases["phase"] == REMUS_PHASES[-1]]["duration_ns"]
    assert (idle.iloc[:-1] > 200 * MS).all(), "the interval"
    assert capture.checkpoints["idle_ms"].iloc[0] == idle.iloc[0] / 1e6
    octets = phases.groupby("checkpoint")["forward_octets"].sum()
    assert octets.tolist() == capture.checkpoints["forward_octets"].tolist()


def test_an_epoch_whose_start_was_not_seen_has_no_memory_phase(tmp_path: Path) -> None:
    """Its second PAGE_DATA is the first record that is read, at a late start and behind a hole."""
    wire = Wire(stream.remus(5, replace(GUEST, batch=1)))
    pages = [i for i, m in enumerate(wire.messages) if m.structure is PAGE_DATA and m.delay == 20 * MS]
    places = [sum(len(m.octets) for m in wire.messages[:i] if m.direction == FORWARD) for i in pages]
    primary = wire.rows["side"] == 0
    late = of(tmp_path, wire.keep(wire.rows[primary & (wire.rows["offset"] >= places[3])]))
    phases = late.export("phases")
    assert late.export("records")["name"].iloc[0] == PAGE_DATA.name
    assert phases["duration_ns"].isna().tolist() == [True, False, False, False] + [False] * 7 + [True]

    hole = primary & (wire.rows["offset"] >= places[4]) & (wire.rows["offset"] < places[5])
    holed = of_each(of(tmp_path, wire.keep(wire.rows[~hole])))
    assert {number: rows.index[rows["duration_ns"].isna()].tolist() for number, rows in holed.items()} == {
        0: [], 1: [], 2: ["idle"], 3: ["memory"], 4: ["idle"]}


def test_phases_of_a_migration_add_up_to_it(tmp_path: Path) -> None:
    """From the primary's first octet on: the receiver's banner stands in front of it."""
    capture = of(tmp_path, Wire(stream.plain(GUEST)))
    phases = capture.export("phases")
    assert phases["phase"].tolist() == ["memory", "cpu", "device", "load", "resume"]
    records = capture.export("records")
    begin = records.loc[records["direction"] == "forward", "first_seen_ns"].min()
    assert phases["duration_ns"].sum() == capture.export("checkpoints")["end_ns"].iloc[0] - begin


def test_without_xl_nobody_tells_when_a_guest_was_loaded(tmp_path: Path) -> None:
    phases = of(tmp_path, Wire(stream.plain(replace(GUEST, xl=False)))).phases
    assert phases["duration"].notna().tolist() == [True, True, True, False, False]


def test_a_capture_without_phases(tmp_path: Path) -> None:
    of(tmp_path, Wire(list(stream.plain(GUEST))[:5]))
    done = run("phases", str(tmp_path / "x.pcap"))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert b"no phases" in done.stderr


def test_types_at_the_edge(tmp_path: Path) -> None:
    phases = of(tmp_path, Wire(stream.colo(1, GUEST))).phases
    assert str(phases["begin"].dtype) == "datetime64[ns, UTC]"
    assert str(phases["duration"].dtype) == "timedelta64[ns]"
    assert phases["phase"].cat.ordered
    assert phases["merged"].dtype == "bool"


def test_pauses_are_those_that_were_made(tmp_path: Path) -> None:
    def split(message: Message) -> tuple[int, ...]:
        return (8,) if message.control_id is not None else ()

    wire = Wire(stream.colo(3, GUEST), split=split, gap=500_000, ack_delay=0)
    rows = of(tmp_path, wire).export("checkpoints").set_index("number")
    syncs = of(tmp_path, wire).export("syncs").set_index(["checkpoint", "name"])
    assert rows.loc[0].filter(like="pause").isna().all()
    for number in (1, 2, 3):
        row = rows.loc[number]
        new, suspended, ready, resumed = (syncs.loc[(number, name)] for name in (
            "NEW", "SVM_SUSPENDED", "SVM_READY", "SVM_RESUMED"))
        assert ready["spread_ms"] == 0.5
        made = {"primary_pause_ms": ready["delivered_ns"] - new["first_seen_ns"],
                "secondary_pause_min_ms": ready["first_seen_ns"] - suspended["delivered_ns"],
                "secondary_pause_max_ms": resumed["first_seen_ns"] - new["delivered_ns"]}
        assert {name: round(row[name] * 1e6) for name in made} == made
        assert 0 < row["primary_pause_min_ms"] < row["primary_pause_ms"] - 120
        assert row["secondary_pause_min_ms"] < row["secondary_pause_max_ms"]


def test_pauses_that_the_capture_does_not_show(tmp_path: Path) -> None:
    rows = of(tmp_path, Wire(stream.colo(2, replace(GUEST, order_2015=True)))).checkpoints
    assert rows.filter(like="pause").isna().all(axis=None), "no SVM_READY"
    messages = list(stream.colo(3, GUEST))
    del messages[index_of(messages, "SVM_SUSPENDED", 1)]
    rows = of(tmp_path, Wire(messages)).checkpoints
    assert rows["primary_pause_ms"].isna().tolist() == [True, False, True, False]
