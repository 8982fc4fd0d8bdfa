# SPDX-License-Identifier: GPL-2.0-or-later
"""Real captures against time lines that a separate program wrote: every record, to the microsecond."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from dissector.protocol import BACK, FORWARD, LIBXC, LIBXL, XL
from dissector.record import Record
from tests.helpers import PCAPS, read

DIRECTIONS = {"fwd": FORWARD, "bwd": BACK}
LAYERS = {"xl": XL, "libxl": LIBXL, "xc": LIBXC}
NAMES = {"HEADER+CONFIG": ["HEADER"], "STREAM_HEADER": ["HEADER"], "REPORT+rc": ["REPORT"],
         "IMAGE+DOMAIN_HEADER": ["IMAGE_HEADER", "DOMAIN_HEADER"]}


def microseconds(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1_000_000 + int(fraction)


def rows(name: str) -> list[dict[str, str]]:
    with (PCAPS / f"{name}.timeline.csv").open() as file:
        return list(csv.DictReader(file))


def matched(capture: Path, timeline: str) -> list[tuple[dict[str, str], Record, Record]]:
    """Each row of the time line with the first and the last of its records."""
    mine = {(r.direction, r.stream_offset): r for r in read(capture).records}
    found = []
    for row in rows(timeline):
        direction, offset = DIRECTIONS[row["dir"]], int(row["offset"])
        names, here = NAMES.get(row["record"], [row["record"]]), []
        for name in names:
            record = mine.pop((direction, offset))
            assert (record.layer, record.name) == (LAYERS[row["layer"]], name)
            offset += record.length
            here.append(record)
        assert sum(r.length for r in here) == int(row["total_len"])
        found.append((row, here[0], here[-1]))
    assert not mine, "records that the time line does not have"
    return found


@pytest.mark.parametrize(("capture", "timeline", "count"), [
    ("colo-hvm-fast.A", "colo-hvm-fast", 1624), ("colo-hvm-dirty.A", "colo-hvm-dirty", 1351),
    ("remus-hvm.A", "remus-hvm", 1292), ("plain-hvm-mtu.A", "plain-hvm-mtu", 1041)])
def test_every_record_offset_and_time(capture: str, timeline: str, count: int) -> None:
    found = matched(PCAPS / f"{capture}.pcap.zst", timeline)
    assert len(found) == count
    for row, first, last in found:
        assert first.first_seen_ns // 1000 == microseconds(row["t_first"]), row
        assert last.delivered_ns // 1000 == microseconds(row["t_last"]), row
        detail = dict(part.split("=") for part in row["detail"].split() if "=" in part)
        if "n" in detail:
            assert (last.count, last.pages) == (int(detail["n"]), int(detail["data_pages"]))
        if "npfn" in detail:
            assert last.count == int(detail["npfn"])


def test_the_other_end_of_the_same_run() -> None:
    """.B has no time line: the same records, at times that only the link lies between."""
    a = {(r.direction, r.stream_offset): r for r in read(PCAPS / "colo-hvm-dirty.A.pcap.zst").records}
    for row, first, last in matched(PCAPS / "colo-hvm-dirty.B.pcap.zst", "colo-hvm-dirty"):
        here, there = last.delivered_ns, a[last.direction, last.stream_offset].delivered_ns
        later, earlier = (here, there) if row["dir"] == "fwd" else (there, here)
        # One clock, but each end stamps by itself: a few microseconds either way.
        assert -200_000 < later - earlier < 1_000_000_000, row
        assert first.length == a[first.direction, first.stream_offset].length


def test_sync_points_of_a_real_pair() -> None:
    result = read(PCAPS / "colo-hvm-fast.A.pcap.zst")
    assert Counter(s.point.short_name for s in result.syncs) == {
        "SVM_READY": 50, "SVM_RESUMED": 50, "NEW": 49, "SVM_SUSPENDED": 49}
    assert {s.status for s in result.syncs} == {"ok"}
    connection = result.connection
    assert (connection.kind, connection.xen_version, connection.guest_type) == (
        "colo", "4.17", "x86_hvm")
    assert result.engine.streams.endpoint(0, connection.primary_side or 0) == "10.99.0.1:60736"


def test_contents_are_read_again_from_the_file() -> None:
    result = read(PCAPS / "colo-hvm-fast.A.pcap.zst")
    blob = next(r for r in result.records if r.name == "EMULATOR_CONTEXT")
    octets = result.engine.read_octets(blob)
    assert octets is not None
    assert len(octets) == blob.length == 204_968
    assert octets.startswith(blob.octets)
    assert octets[16:20] == b"QEVM"
    pages = [r for r in result.records if r.name == "PAGE_DATA"][-1]
    assert len(pages.octets) == 16 + 8 * (pages.count or 0), "page contents are not kept"
    assert len(result.engine.read_octets(pages) or b"") == pages.length


def test_remus_and_plain_captures() -> None:
    remus = read(PCAPS / "remus-hvm.A.pcap.zst")
    assert sum(r.name == "CHECKPOINT" for r in remus.records) == 37
    assert remus.connection.kind == "remus"
    assert read(PCAPS / "plain-hvm-mtu.A.pcap.zst").connection.kind == "plain"
    nothing = read(PCAPS / "debian-nocolo.A.pcap.zst")
    assert [r.full_name for r in nothing.records] == ["xl.BANNER", "xl.HEADER"]
