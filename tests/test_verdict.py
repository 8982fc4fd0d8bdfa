# SPDX-License-Identifier: GPL-2.0-or-later
"""Causes in sum, and the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from analysis.verdict import verdict
from dissector import protocol as p
from tests.helpers import PCAPS
from tests.synthesiser import files, planted, stream
from tests.synthesiser.planted import Stall
from tests.synthesiser.stream import MS
from tests.synthesiser.wire import Wire
from tests.test_causes import GUEST, number_of, read, sync


def said(capture: analysis.Capture) -> list[str]:
    (connection,) = capture.engine.ours()
    return verdict(capture, connection.number)


def test_causes_in_sum(tmp_path: Path) -> None:
    capture = read(tmp_path, {**{sync("SVM_READY", k): Stall(planted.SMALL_WRITES, 41 * MS) for k in (1, 2, 4)},
                              sync("SVM_SUSPENDED", 3): Stall(planted.LATE, 60 * MS),
                              number_of(p.PAGE_DATA, 0): Stall(planted.PAUSE, 900 * MS)})
    rows = capture.explanation.to_dict("records")
    assert [(r["cause"], r["phase"], r["checkpoints"], r["of"]) for r in rows] == [
        ("nagle", "load", 3, 4), ("slow_suspend", "suspend", 1, 4)]  # the initial transfer is another matter
    assert rows[0]["total_ms"] == pytest.approx(123, abs=1)
    assert rows[0]["median_ms"] == pytest.approx(41, abs=1)
    assert rows[0]["phase_median_ms"] == pytest.approx(43, abs=1)
    parts = capture.parts
    whole = parts.loc[(parts["checkpoint"] > 0) & (parts["part"] != "running"), "duration"].sum().value / 1e6
    assert sum(r["share"] for r in rows) == pytest.approx(sum(r["total_ms"] for r in rows) / whole)
    assert "TCP_NODELAY" in rows[0]["advice"]


def test_the_verdict_names_what_costs_most_and_what_helps(tmp_path: Path) -> None:
    capture = read(tmp_path, {sync("SVM_READY", k): Stall(planted.SMALL_WRITES, 41 * MS) for k in (1, 2, 4)})
    how_long, what_for, helps = said(capture)
    assert "4 checkpoints" in how_long
    assert "41 of 43 ms of load: the rest of SVM_READY waited for the ACK" in what_for
    assert "(3 of 4 checkpoints)" in what_for
    assert "TCP_NODELAY" in helps


def test_a_clean_pair_gets_no_advice(tmp_path: Path) -> None:
    sentences = said(read(tmp_path))
    assert len(sentences) == 2
    assert "phases" in sentences[1]


def test_an_error_matters_more_than_advice(tmp_path: Path) -> None:
    messages = list(stream.colo(3, GUEST))
    ready = next(i for i, m in enumerate(messages) if m.control_id == p.XEN_COLO.named("SVM_READY").control_id)
    messages.insert(ready + 4, messages[ready])
    capture = analysis.read(files.write(tmp_path / "x.pcap", Wire(messages)), segments=True)
    assert "Something is wrong in frame" in said(capture)[-1]


@pytest.mark.parametrize(("name", "words"), [
    ("colo-hvm-fast.A", ("49 checkpoints of 474 ms", "41 %", "197 ms of suspend", "TCP_NODELAY")),
    ("colo-2ck-abort.A", ("the secondary ended it in frame 9140", "SVM_READY")),
    ("remus-hvm.A", ("36 epochs", "EMULATOR_CONTEXT", "the primary ended it in frame 50398")),
    ("plain-hvm-mtu.A", ("done in 10.1 s", "the receive window was full")),
    ("remus-pv-netem-s128.A", ("70 %", "waited for ACKs", "tcp_wmem")),
    ("debian-nocolo.A", ("not complete: 2 records", "the primary ended it in frame 8"))])
def test_verdicts_of_real_captures(name: str, words: tuple[str, ...]) -> None:
    """Their frames were looked at in tshark."""
    sentences = said(analysis.read(PCAPS / f"{name}.pcap.zst", segments=True))
    assert 1 <= len(sentences) <= 3
    for word in words:
        assert word in " ".join(sentences)
