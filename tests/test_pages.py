# SPDX-License-Identifier: GPL-2.0-or-later
"""PFNs of records as a table, and which pages are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import analysis
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import PAGE, Guest
from tests.synthesiser.wire import Wire

PAGES = [bytes(PAGE), b"\1" * PAGE, b"\2" * PAGE]
GUEST = Guest(memory=12, batch=4, holes=8, dirty=3, page=b"".join(PAGES))


def test_pages_of_a_pair(tmp_path: Path) -> None:
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(3, GUEST)))
    pages = analysis.read(path).pages
    sent, named = pages[pages["direction"] == "forward"], pages[pages["direction"] == "back"]
    assert sent[sent["checkpoint"] == 0]["pfn"].tolist() == list(range(20))
    assert sent[sent["checkpoint"] == 0]["type"].tolist() == ["NOTAB"] * 12 + ["XTAB"] * 8
    assert sent["carries"].sum() == 12 + 3 * 3
    assert named["pfn"].tolist() == [*GUEST.lists] * 3
    assert named["checkpoint"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert not named["carries"].any()
    assert named["type"].isna().all()
    assert pages["digest"].isna().all()


def test_contents_tell_which_are_alike(tmp_path: Path) -> None:
    path = files.write(tmp_path / "x.pcap.gz", Wire(stream.colo(3, GUEST)))
    pages = analysis.read(path, contents=True).pages
    first = pages[pages["carries"]].head(12)
    assert first["zero"].tolist() == [True, False, False, True] * 3
    assert first["digest"].nunique() == 3
    assert pages["digest"].isna().tolist() == (~pages["carries"]).tolist()
    again = analysis.read(path, contents=True).pages["digest"].dropna().tolist()
    assert again != pages["digest"].dropna().tolist()  # they tell nothing about what was in a page


def test_a_page_that_the_capture_lacks_has_no_digest(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, GUEST))
    lost = np.flatnonzero(wire.rows["length"] == 1448)[5]  # in the middle of a record's second page
    path = files.write(tmp_path / "x.pcap", wire.keep(np.delete(wire.rows, lost)))
    pages = analysis.read(path, contents=True).pages
    assert 0 < pages["digest"].notna().sum() < pages["carries"].sum()
    assert pages["digest"].nunique() == 3  # none is made of octets that were not there


def test_real_pages() -> None:
    capture = analysis.read(PCAPS / "colo-hvm-dirty.A.pcap.zst", contents=True)
    pages, records = capture.pages, capture.records
    assert pages["carries"].sum() == records["pages"].sum()
    assert len(pages) == records["count"][records["name"].isin(
        ["PAGE_DATA", "CHECKPOINT_DIRTY_PFN_LIST"])].sum()
    assert pages["zero"].dropna().all()  # page contents were set to zero in this capture


def test_lists_longer_than_what_is_kept(tmp_path: Path) -> None:
    guest = Guest(memory=3, holes=0, dirty=1, lists=tuple(range(9000)))
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(1, guest)))
    count = {contents: (analysis.read(path, contents=contents).pages["direction"] == "back").sum()
             for contents in (False, True)}
    assert count == {False: 8191, True: 9000}


def test_wireshark_keeps_none() -> None:
    with pytest.raises(ValueError, match="coloscope"):
        analysis.read(PCAPS / "debian-nocolo.A.pcap.zst", engine="wireshark", contents=True)
