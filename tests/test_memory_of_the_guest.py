# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of the guest were sent, how often, and what need not have been."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.memory import SENT, Memory
from dissector.protocol import DIRECTIONS
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import PAGE, Guest
from tests.synthesiser.wire import Wire
from tests.test_command import run

CONTENTS = ("skip zero pages", "skip unchanged pages")


def pages_of(sent: dict[int, list[int]], digests: dict[tuple[int, int], int | None] | None = None,
             lists: dict[int, list[int]] | None = None) -> pd.DataFrame:
    """Such a table as `Capture.pages`: PFNs by checkpoint, a record for each; `digests` by (checkpoint, PFN),
    0 for a page of zeros."""
    rows = [(0, number, "forward", 1000 * number + i // 2, pfn, True, digests and digests.get((number, pfn)))
            for number, pfns in sent.items() for i, pfn in enumerate(pfns)]
    rows += [(0, number, "back", 1000 * number, pfn, False, None)
             for number, pfns in (lists or {}).items() for pfn in pfns]
    table = pd.DataFrame(rows, columns=["connection", "checkpoint", "direction", "stream_offset", "pfn", "carries",
                                        "digest"])
    table["direction"] = pd.Categorical(table["direction"], list(DIRECTIONS))
    table["digest"] = table["digest"].astype("UInt64")
    return table.assign(zero=table["digest"] == 0).astype({"checkpoint": "Int64", "pfn": "uint64"})


def checkpoints_of(sent: dict[int, list[int]], lists: dict[int, list[int]] | None = None,
                   incomplete: tuple[int, ...] = (), connection: int = 0) -> pd.DataFrame:
    numbers = list(sent)
    return pd.DataFrame({
        "connection": connection, "number": pd.array(numbers, "Int64"),
        "complete": [number not in incomplete for number in numbers],
        "pages": pd.array([len(sent[n]) for n in numbers], "Int64"),
        "dirty_pfns": pd.array([len(lists[n]) if lists and n in lists else None for n in numbers], "Int64")})


FOUR = {0: [0, 1, 2, 3, 2], 1: [1, 2], 2: [2, 3], 3: [1, 2], 4: [1, 2]}


def test_pages_of_each_checkpoint() -> None:
    lists = {1: [2], 2: [2, 9], 3: [], 4: [1, 2]}
    found = Memory(pages_of(FOUR, lists=lists), checkpoints_of(FOUR, lists)).checkpoints
    assert found["pages"].tolist() == [5, 2, 2, 2, 2]
    assert found["octets"].tolist() == [pages * (PAGE + 8) for pages in (5, 2, 2, 2, 2)]
    assert found["distinct"].tolist() == [4, 2, 2, 2, 2]
    assert found["again"].tolist() == [pd.NA, 2, 1, 1, 2]
    assert found["dirty_pfns"].tolist() == [pd.NA, 1, 2, 0, 2]
    assert found["both"].tolist() == [pd.NA, 1, 1, 0, 2]
    assert found[["zero", "unchanged"]].isna().all(axis=None)
    assert set(found.dtypes.iloc[2:].astype(str)) == {"Int64"}


def test_hot_pages() -> None:
    found = Memory(pages_of(FOUR), checkpoints_of(FOUR)).hot
    assert found["pfn"].tolist() == [2, 1, 3], "PFN 0 was sent once"
    assert found["checkpoints"].tolist() == [4, 3, 1]
    assert found["share"].tolist() == [1, 0.75, 0.25]
    assert found["sent"].tolist() == [6, 4, 2]


def test_a_checkpoint_that_is_not_whole_is_in_no_share() -> None:
    memory = Memory(pages_of(FOUR), checkpoints_of(FOUR, incomplete=(4,)))
    assert memory.hot.set_index("pfn")["share"].to_dict() == {1: 2 / 3, 2: 1, 3: 1 / 3}
    sent = FOUR | {4: [1, 2, 3]}
    memory = Memory(pages_of(FOUR), checkpoints_of(sent))  # its third PFN is not in the capture
    assert memory.hot.set_index("pfn")["share"].to_dict() == {1: 2 / 3, 2: 1, 3: 1 / 3}
    assert memory.checkpoints["distinct"].tolist() == [4, 2, 2, 2, pd.NA]
    assert memory.checkpoints["pages"].iloc[-1] == 3


def test_what_a_longer_interval_and_cooler_pages_would_save() -> None:
    found = Memory(pages_of(FOUR), checkpoints_of(FOUR)).savings.set_index("what")
    twice = found.loc["twice the interval"]
    # 1 and 2: {1, 2, 3} instead of 4; 3 and 4: {1, 2} instead of 4.
    assert (twice["octets_now"], twice["octets_saved"], twice["share"]) == (8 * SENT, 3 * SENT, 3 / 8)
    hot = found.loc["hot pages half as often"]
    # PFN 2 four times in a row, so twice too often; PFN 1 never three times in a row.
    assert (hot["octets_now"], hot["octets_saved"]) == (8 * SENT, 2 * SENT)
    assert not set(CONTENTS) & set(found.index)
    odd = Memory(pages_of(FOUR), checkpoints_of(FOUR, incomplete=(3,))).savings.set_index("what")
    assert odd.loc["twice the interval", "octets_now"] == 4 * SENT, "4 has no neighbour"
    assert odd.loc["hot pages half as often", "octets_saved"] == 0, "no three in a row"


def test_zero_and_unchanged_pages() -> None:
    digests = {(0, 0): 0, (0, 1): 7, (0, 2): 8, (0, 3): 9, (1, 1): 7, (1, 2): 5, (2, 2): 5, (2, 3): 0,
               (3, 1): None, (3, 2): 0, (4, 1): 7, (4, 2): 0}
    sent = FOUR | {0: [0, 1, 2, 3]}
    memory = Memory(pages_of(sent, digests), checkpoints_of(sent))
    assert memory.checkpoints["zero"].tolist() == [1, 0, 1, 1, 1]
    # 4: PFN 1 is 7 as in checkpoint 1, but what it was in 3 is not in the capture.
    assert memory.checkpoints["unchanged"].tolist() == [0, 1, 1, 0, 1]
    assert memory.hot.set_index("pfn")["unchanged"].to_dict() == {1: 1, 2: 2, 3: 0}
    found = memory.savings.set_index("what")
    assert found.loc["skip zero pages", ["octets_now", "octets_saved"]].tolist() == [11 * PAGE, 4 * PAGE]
    assert found.loc["skip unchanged pages", ["octets_now", "octets_saved"]].tolist() == [11 * PAGE, 3 * PAGE]
    assert found["assumption"].str.len().min() > 20


def test_a_capture_without_contents_claims_nothing_of_them() -> None:
    digests = {(number, pfn): 0 for number, pfns in FOUR.items() for pfn in pfns}
    memory = Memory(pages_of(FOUR, digests), checkpoints_of(FOUR))
    assert memory.is_scrubbed
    assert not set(CONTENTS) & set(memory.savings["what"])
    assert memory.checkpoints["zero"].isna().all()
    assert not Memory(pages_of(FOUR), checkpoints_of(FOUR)).is_scrubbed


def test_connections_are_kept_apart() -> None:
    two = pages_of({1: [5], 2: [5]})
    pages = pd.concat([pages_of({1: [5], 2: [6]}, {(1, 5): 1, (2, 6): 2}), two.assign(connection=1)])
    tables = pd.concat([checkpoints_of({1: [5], 2: [6]}), checkpoints_of({1: [5], 2: [5]}, connection=1)])
    memory = Memory(pages, tables)
    assert memory.checkpoints["again"].tolist() == [pd.NA, 0, pd.NA, 1]
    assert memory.hot[["connection", "pfn", "checkpoints"]].to_numpy().tolist() == [[1, 5, 2], [0, 5, 1], [0, 6, 1]]
    assert memory.savings.query("what == 'twice the interval'")["octets_saved"].tolist() == [0, SENT]


def test_a_heat_map() -> None:
    sent = {0: [0, 1, 2, 3], 1: [0, 1, 5, 1000], 2: [], 3: [0, 1001]}
    memory = Memory(pages_of(sent), checkpoints_of(sent))
    heat = memory.heat(0, buckets=10)
    assert heat.attrs["pfns"] == 1
    assert heat.index.tolist() == [0, 1, 5, 1000, 1001]
    assert heat.columns.tolist() == [1, 2, 3]
    assert heat.to_numpy().tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    heat = memory.heat(0, buckets=2)
    assert heat.attrs["pfns"] == 8
    assert heat.to_dict("index") == {0: {1: 3, 2: 0, 3: 1}, 1000: {1: 1, 2: 0, 3: 1}}
    assert Memory(pages_of({0: [7]}), checkpoints_of({0: [7]})).heat(0).to_dict("index") == {7: {0: 1}}
    assert memory.heat(4).empty


def test_memory_of_a_real_pair() -> None:
    capture = analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst", contents=True)
    memory, rows = capture.memory, capture.checkpoints
    assert memory.checkpoints["pages"].tolist() == rows["pages"].tolist()
    later = memory.checkpoints.iloc[1:]
    assert (later["both"] == later["dirty_pfns"]).all(), "the primary sends all that the secondary lists"
    hottest = memory.hot[memory.hot["share"] == 1]
    lists = capture.pages.query("direction == 'forward' and checkpoint > 0").groupby("checkpoint")["pfn"].agg(set)
    assert set(hottest["pfn"]) == set.intersection(*lists)
    assert memory.heat(0).to_numpy().sum() == later["distinct"].sum()
    saved = memory.savings.set_index("what")["octets_saved"]
    assert saved["skip zero pages"] == (capture.pages["zero"].sum()) * PAGE


def test_contents_of_a_synthesised_pair(tmp_path: Path) -> None:
    """Every page is one of three, the same one again and again."""
    guest = Guest(memory=12, batch=3, holes=8, dirty=12, page=b"".join((bytes(PAGE), b"\1" * PAGE, b"\2" * PAGE)))
    wire = Wire(stream.colo(4, guest))
    found = analysis.read(files.write(tmp_path / "x.pcap", wire), contents=True).memory
    assert found.checkpoints["unchanged"].tolist() == [0, 12, 12, 12, 12]
    assert found.checkpoints["zero"].tolist() == [4] * 5
    assert found.hot["share"].tolist() == [1] * 12
    assert found.savings["share"].tolist() == pytest.approx([1 / 3, 4 / 5, 1 / 2, 1 / 2])

    lost = np.flatnonzero(wire.rows["length"] == 1448)[50]
    capture = analysis.read(files.write(tmp_path / "y.pcap", wire.keep(np.delete(wire.rows, lost))), contents=True)
    unknown = capture.pages[capture.pages["carries"] & capture.pages["digest"].isna()]
    assert set(unknown["checkpoint"]) == {1}
    left = 12 - len(unknown)
    assert capture.memory.checkpoints["unchanged"].tolist() == [0, left, left, 12, 12], "nor is 2 known to be like 1"
    assert capture.memory.savings["octets_now"].iloc[0] == (5 * 12 - len(unknown)) * PAGE


def test_pages_are_not_there_for_wireshark() -> None:
    reading = analysis.reading.observe(str(PCAPS / "colo-2ck-abort.A.pcap.zst"))
    with pytest.raises(ValueError, match="pages are kept by"):
        _ = analysis.Capture(reading).memory


def test_the_command(tmp_path: Path) -> None:
    path = str(files.write(tmp_path / "x.pcap", Wire(stream.colo(4, Guest(dirty=6)))))
    shown = run("memory", path, "--format", "table").stdout.decode()
    for heading in ("dirty pfns", "share", "assumption"):
        assert heading in shown
    assert CONTENTS[0] not in shown
    done = run("memory", path, "--contents", "--table", "savings", "--format", "json")
    assert [row["what"] for row in json.loads(done.stdout)["rows"]][:2] == list(CONTENTS)
    assert len(run("memory", path).stdout.splitlines()) == 6, "checkpoints 0 to 4"
    done = run("memory", path, "--connection", "3")
    assert (done.returncode, done.stdout) == (2, b"")
    done = run("memory", "--contents", str(PCAPS / "colo-hvm-dirty.A.pcap.zst"), "--table", "savings")
    assert b"contents were removed" in done.stderr
