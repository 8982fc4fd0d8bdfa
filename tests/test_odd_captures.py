# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that explains, on captures that lack something: no traceback, and parts that add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.report.page import page
from analysis.trace_events import trace
from analysis.verdict import verdict
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire, lose, repeat, shuffle

GUEST = Guest(memory=12, dirty=3, emulator=3000)
KINDS = {"colo": lambda: stream.colo(4, GUEST), "remus": lambda: stream.remus(4, GUEST),
         "plain": lambda: stream.plain(GUEST)}
RNG = np.random.default_rng(7)


def _rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Wire], Wire]:
    def changed(wire: Wire) -> Wire:
        twin = wire.keep(wire.rows)
        twin.rows = change(twin.rows)
        return twin
    return changed


def _times(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Wire], Wire]:
    def changed(rows: np.ndarray) -> np.ndarray:
        rows["time"] = change(rows["time"])
        return rows
    return _rows(changed)


def _windows(rows: np.ndarray) -> np.ndarray:
    rows["window"] = RNG.integers(0, 3, len(rows)) * 1000
    return rows


ODD: dict[str, Callable[[Wire], Wire]] = {
    "lost for ever": lambda wire: lose(wire, RNG, 0.1, again=False),
    "lost and late": lambda wire: lose(wire, RNG, 0.1),
    "repeated": lambda wire: repeat(wire, RNG, 0.2),
    "shuffled": lambda wire: shuffle(wire, RNG),
    "late start": _rows(lambda rows: rows[len(rows) // 3:]),
    "early end": _rows(lambda rows: rows[:len(rows) // 2]),
    "forward alone": _rows(lambda rows: rows[rows["side"] == 0]),
    "back alone": _rows(lambda rows: rows[rows["side"] == 1]),
    "without times": _times(lambda times: times * 0),
    "times by chance": _times(RNG.permutation),
    "a clock set back": _times(lambda times: times - 3_000_000_000 * (np.arange(len(times)) > len(times) // 2)),
    "windows by chance": _rows(_windows),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_explains(tmp_path: Path, kind: str, odd: str) -> None:
    path = files.write(tmp_path / "x.pcap", ODD[odd](Wire(KINDS[kind]())))
    capture = analysis.read(path, segments=True, contents=True)
    parts, phases = capture.export("parts"), capture.export("phases")
    key = ["connection", "checkpoint", "phase"]
    took = phases[phases["duration_ns"].fillna(0) != 0].set_index(key)["duration_ns"]
    sums = parts[parts["phase"] != "stream"].groupby(key, dropna=False)["duration_ns"].sum()
    assert sums.sort_index().to_dict() == took.sort_index().to_dict()
    for table in ("causes", "explanation", "bounds", "capture_points", "iterations", "latency", "findings"):
        capture.export(table)
    for connection in capture.engine.ours():
        assert 1 <= len(verdict(capture, connection.number)) <= 3
    if kind == "colo":
        assert page(capture).startswith("<!")
    assert trace(capture).startswith("{")
    assert "<" in capture._repr_html_()
