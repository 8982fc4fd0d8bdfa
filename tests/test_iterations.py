# SPDX-License-Identifier: GPL-2.0-or-later
"""Iterations of live migrations: those of real ones by their time lines, and such as were made."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import analysis
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import MS, PAGE, Guest, Message, _Writer
from tests.synthesiser.wire import Wire

GUEST = Guest(memory=12, batch=4, holes=8)
AGAIN = ([1, 2, 3, 4, 5], [3, 5, 9], [5])
"""Pages that iterations 1 to 3 send again."""


def messages(guest: Guest = GUEST, again: tuple[list[int], ...] = AGAIN) -> list[Message]:
    writer = _Writer(guest)
    passes = [message for pfns in again for message in writer.pages(pfns)]
    return [*writer.opening(), *passes, *stream.stop_and_copy(guest, writer)]


def of(tmp_path: Path, wire: Wire) -> analysis.Capture:
    return analysis.read(files.write(tmp_path / "x.pcap", wire))


def test_iterations_of_a_real_migration_are_those_of_its_time_line() -> None:
    with (PCAPS / "plain-hvm-mtu.timeline.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["record"] == "PAGE_DATA"]
    # By hand: 1,020 records of 1,024 PFNs go over memory once; then 1,155, 142 and 27 PFNs come again.
    parts = [rows[:1020], rows[1020:1022], rows[1022:1023], rows[1023:]]
    capture = analysis.read(PCAPS / "plain-hvm-mtu.A.pcap.zst")
    found = capture.export("iterations")
    assert len(found) == len(parts)
    for (_, row), part in zip(found.iterrows(), parts, strict=True):
        pages = [dict(word.split("=") for word in line["detail"].split()) for line in part]
        assert row["records"] == len(part)
        assert row["pfns"] == sum(int(line["n"]) for line in pages)
        assert row["pages"] == sum(int(line["data_pages"]) for line in pages)
        assert row["octets"] == sum(int(line["total_len"]) for line in part)
        assert row["begin_ns"] // 1000 == int(part[0]["t_first"].replace(".", ""))
        assert row["end_ns"] // 1000 == int(part[-1]["t_last"].replace(".", ""))
    assert found["last"].tolist() == [False, False, False, True]
    assert found["resent"].tolist() == [0, 1155, 142, 27]
    assert capture.iterations["duration"].iloc[1].total_seconds() == pytest.approx(0.678150)


def test_iterations_that_were_made(tmp_path: Path) -> None:
    found = of(tmp_path, Wire(messages(), acks=False, mss=60_000)).export("iterations")
    assert found["iteration"].tolist() == [0, 1, 2, 3]
    assert found["records"].tolist() == [5, 2, 1, 1]
    assert found["pfns"].tolist() == [20, 5, 3, 1]
    assert found["pages"].tolist() == [12, 5, 3, 1]
    assert found["resent"].tolist() == [0, 5, 3, 1]
    assert found["octets"].tolist() == [records * 16 + pfns * 8 + pages * PAGE for records, pfns, pages in (
        (5, 20, 12), (2, 5, 5), (1, 3, 3), (1, 1, 1))]
    step = MS + 1000  # between records, each in one frame
    assert found["duration_ns"].tolist() == [4 * step, step, 0, 0]
    assert found["dirty_pages_per_second"].iloc[:3].tolist() == pytest.approx(
        [5 / (5 * step) * 1e9, 3 / (2 * step) * 1e9, 1 / step * 1e9])
    assert np.isnan(found["dirty_pages_per_second"].iloc[3])
    assert found["last"].tolist() == [False, False, False, True]


def test_a_pfn_that_carried_nothing_is_not_sent_again(tmp_path: Path) -> None:
    """PFNs 12 to 19 are XTAB in the first pass; 12 comes alive."""
    found = of(tmp_path, Wire(messages(again=([3, 12], [12])))).iterations
    assert found["pages"].tolist() == [12, 2, 1]
    assert found["resent"].tolist() == [0, 1, 1]


def test_one_page_that_is_sent_twice_is_two_iterations(tmp_path: Path) -> None:
    found = of(tmp_path, Wire(messages(again=([7], [7])))).iterations
    assert found["resent"].tolist() == [0, 1, 1]


def test_what_the_capture_lacks_is_not_counted(tmp_path: Path) -> None:
    wire = Wire(messages(), mss=1000)
    rows = np.delete(wire.rows, wire.data_rows()[12])
    found = of(tmp_path, wire.keep(rows)).iterations
    assert found["resent"].isna().all()
    assert found["dirty_pages_per_second"].isna().all()
    whole = messages()
    cut = of(tmp_path, Wire(whole[:-len(list(stream.stop_and_copy(GUEST)))])).iterations
    assert len(cut) == 4
    assert not cut["last"].any(), "the capture ends before it is told"


def test_the_initial_transfer_of_a_pair_has_them_too(tmp_path: Path) -> None:
    remus = analysis.read(PCAPS / "remus-hvm.A.pcap.zst").iterations
    assert remus["pages"].tolist() == [8188, 1342, 191, 51, 16, 16]
    assert remus["last"].tolist() == [False] * 5 + [True]
    wire = Wire(stream.colo(2, GUEST))
    assert len(of(tmp_path, wire).iterations) == 1
    late = wire.keep(wire.rows[len(wire.rows) // 2:])
    assert of(tmp_path, late).iterations.empty
