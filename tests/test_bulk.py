# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets that nobody needs pass unseen: that must change nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import analysis
from dissector import packets
from dissector.engine import Engine
from dissector.segments import Streams
from tests.synthesiser import files, stream, wire
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

TABLES = ("connections", "records", "syncs", "pairs", "checkpoints", "findings")
GUEST = Guest(memory=64, batch=16, dirty=24, emulator=30_000)
KINDS = {"colo": lambda: stream.colo(10, GUEST), "remus": lambda: stream.remus(4, GUEST),
         "plain": lambda: stream.plain(GUEST)}


def again(conversation: Wire) -> Wire:
    """As if the capture had started in the middle of a record."""
    return conversation.keep(conversation.rows[len(conversation.rows) // 4:])


CHANGES: dict[str, Callable[[Wire, np.random.Generator], Wire]] = {
    "nothing": lambda w, rng: w,
    "lost and sent again": lambda w, rng: wire.lose(w, rng, 0.02),
    "lost for ever": lambda w, rng: wire.lose(w, rng, 0.01, again=False),
    "repeated": lambda w, rng: wire.repeat(w, rng, 0.05),
    "shuffled": lambda w, rng: wire.shuffle(w, rng),
    "late": lambda w, rng: again(w),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_so_small_that_most_of_a_record_passes_unseen(
        kind: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(len(kind) + len(change))
    wires = [CHANGES[change](Wire(KINDS[kind](), ports=(40_000 + i, 7002)), rng) for i in range(2)]
    path = files.write(tmp_path / "capture.pcap", wires)
    whole = analysis.read(path)
    passed = count_passed(monkeypatch)
    monkeypatch.setattr(packets, "BLOCK", 1 << 14)
    small = analysis.read(path)
    for table in TABLES:
        assert small.export(table).equals(whole.export(table)), table
    # Behind a late start that much has to be found out first.
    assert sum(passed) > 0 or (change == "late" and kind != "remus")


def test_a_capture_cut_off_in_the_middle_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Wire(stream.colo(2, GUEST), fin=False)
    path = files.write(tmp_path / "capture.pcap", whole.keep(whole.rows[:-40]))
    expected = analysis.read(path)
    passed = count_passed(monkeypatch)
    monkeypatch.setattr(packets, "BLOCK", 1 << 14)
    capture = analysis.read(path)
    assert capture.records["status"].iloc[-1] == expected.records["status"].iloc[-1]
    assert capture.findings["text"].tolist() == expected.findings["text"].tolist()
    assert sum(passed) > 0


def test_snapped_octets_are_never_taken_for_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "capture.pcap"
    path.write_bytes(files.pcap(list(files.frames(Wire(stream.colo(2, GUEST)))), snaplen=200))
    whole = analysis.read(path).export("records")
    monkeypatch.setattr(packets, "BLOCK", 1 << 14)
    assert analysis.read(path).export("records").equals(whole)
    assert (whole["status"] == "snapped").any()


def count_passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Octets that passed unseen, each time that a connection is told."""
    passed: list[int] = []

    def noting(streams: Streams, number: int, take: Callable[..., tuple[int, int]] = Streams.passed,
               ) -> tuple[int, int]:
        passed.append(sum(take(streams, number)))
        return take(streams, number)

    monkeypatch.setattr(Streams, "passed", noting)
    assert Engine().streams.passed(0) == (0, 0)
    return passed
